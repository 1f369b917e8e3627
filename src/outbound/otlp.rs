//! Sends spans to a collector, from a queue and a thread of its own: OTLP over HTTP, in JSON. A slow or dead collector costs spans, which are
//! counted, and no call anything.
//!
//! What is tried again, and when, is as the specification says (<https://opentelemetry.io/docs/specs/otlp/#failures>): 429, 502, 503 and 504,
//! and what got no answer, after `Retry-After` or else after times that double; nothing that was taken in part.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, never};
use serde_json::Value;
use ureq::Agent;
use ureq::config::Config as Settings;

use crate::mesh::{Inner, Mesh};
use crate::model::shown;
use crate::model::time::{Clock, SystemClock};
use crate::telemetry::onlookers::{Onlooker, Otlp};
use crate::telemetry::otlp::request;
use crate::telemetry::trace::Trace;

/// Spans that go in one request, as long as one call is not more by itself.
const BATCH: u64 = 512;
/// How often a batch is sent again before it is given up.
const RETRIES: u32 = 5;
/// The longest wait before that, whatever the collector asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The most of an answer that is read.
const MOST_ANSWER: u64 = 64 * 1024;
/// How often it looks for more calls while a batch grows.
const MOMENT: Duration = Duration::from_millis(5);
/// How often a person is told of the same trouble.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// What waits to be exported.
enum Message {
    Call(Arc<Trace>),
    /// Send what there is, and say when that is done.
    Flush(Sender<()>),
}

/// The exporter's end in the mesh.
struct Exporter {
    queue: Sender<Message>,
    /// Wakes the thread out of a wait before another try.
    wake: Sender<()>,
    hurried: Arc<AtomicBool>,
}

/// Exports the spans of `mesh` from now on. The thread ends with the last handle of the mesh.
pub(super) fn start(mesh: &Mesh, config: &Otlp) -> io::Result<()> {
    let (queue, calls) = bounded(config.queue);
    let (wake, woken) = bounded(1);
    let hurried = Arc::new(AtomicBool::new(false));
    let agent = Agent::new_with_config(
        Settings::builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("weft/", env!("CARGO_PKG_VERSION")))
            .timeout_global(Some(config.timeout_ms.duration()))
            .build(),
    );
    let worker = Worker {
        mesh: Arc::downgrade(&mesh.inner),
        config: config.clone(),
        url: config.url(),
        agent,
        calls,
        woken,
        hurried: Arc::clone(&hurried),
        told: None,
    };
    thread::Builder::new().name("weft-otlp".to_owned()).spawn(move || worker.run())?;
    mesh.inner.onlookers.on_export(Exporter { queue, wake, hurried });
    Ok(())
}

impl Onlooker for Exporter {
    fn take(&self, trace: &Arc<Trace>) -> bool {
        self.queue.try_send(Message::Call(Arc::clone(trace))).is_ok()
    }

    fn flush(&self, within: Duration) {
        self.hurried.store(true, Ordering::SeqCst);
        // One word is enough.
        let _ = self.wake.try_send(());
        let (done, wait) = bounded(1);
        if self.queue.send_timeout(Message::Flush(done), within).is_ok() {
            // It may take too long; then it is over all the same.
            let _ = wait.recv_timeout(within);
        }
        self.hurried.store(false, Ordering::SeqCst);
    }
}

struct Worker {
    mesh: Weak<Inner>,
    config: Otlp,
    url: String,
    agent: Agent,
    calls: Receiver<Message>,
    woken: Receiver<()>,
    hurried: Arc<AtomicBool>,
    /// When a person was last told of trouble.
    told: Option<Instant>,
}

/// What a collector made of a batch.
enum Taken {
    /// All but so many spans, which are not wanted.
    All(u64),
    /// Nothing now; perhaps later, after the time it asks for.
    Later(Option<Duration>, String),
    /// Nothing, ever.
    Never(String),
}

impl Worker {
    fn run(mut self) {
        loop {
            let (batch, flushed) = self.gather();
            let is_last = batch.is_empty() && flushed.is_none();
            if !batch.is_empty() {
                self.export(&batch);
            }
            if let Some(flushed) = flushed {
                // Who asked may not wait any more.
                let _ = flushed.try_send(());
            }
            if is_last {
                return;
            }
        }
    }

    /// Waits for a call and those that come soon after; nothing when there will be none.
    fn gather(&self) -> (Vec<Arc<Trace>>, Option<Sender<()>>) {
        let (mut batch, mut spans) = (Vec::new(), 0);
        match self.calls.recv() {
            Ok(Message::Call(trace)) => {
                spans += trace.spans();
                batch.push(trace);
            }
            Ok(Message::Flush(done)) => return (batch, Some(done)),
            Err(_) => return (batch, None),
        }
        let until = SystemClock.now() + self.config.delay_ms.duration();
        while spans < BATCH {
            match self.calls.try_recv() {
                Ok(Message::Call(trace)) => {
                    spans += trace.spans();
                    batch.push(trace);
                }
                Ok(Message::Flush(done)) => return (batch, Some(done)),
                Err(TryRecvError::Empty) => {
                    let left = until.saturating_duration_since(SystemClock.now());
                    if left.is_zero() {
                        break;
                    }
                    // Not on the queue: a call that ends meanwhile would have to wake this thread, which costs a system call.
                    let _ = never::<()>().recv_timeout(left.min(MOMENT));
                }
                Err(TryRecvError::Disconnected) => break,
            }
        }
        (batch, None)
    }

    /// Sends a batch until it is taken or given up.
    fn export(&mut self, batch: &[Arc<Trace>]) {
        let (body, spans) = request(&self.config.service_name, batch);
        for retry in 0.. {
            let (wait, why) = match self.post(&body) {
                Taken::All(rejected) => {
                    // It can say any number.
                    let rejected = rejected.min(spans);
                    self.rejected_are(rejected);
                    self.count(spans - rejected, rejected, 0);
                    return;
                }
                Taken::Never(why) => {
                    self.tell(&why, spans);
                    self.rejected_are(spans);
                    self.count(0, spans, 1);
                    return;
                }
                Taken::Later(wait, why) => (wait, why),
            };
            self.count(0, 0, 1);
            if retry >= RETRIES || self.hurried.load(Ordering::SeqCst) {
                self.tell(&why, spans);
                self.count(0, spans, 0);
                return;
            }
            let wait = wait.unwrap_or_else(|| self.config.delay_ms.duration() * 2_u32.pow(retry)).min(LONGEST_WAIT);
            // Woken or not, it is sent again.
            let _ = self.woken.recv_timeout(wait);
        }
    }

    fn post(&self, body: &[u8]) -> Taken {
        let sent = self.agent.post(&self.url).content_type("application/json").send(body);
        let mut answer = match sent {
            Ok(answer) => answer,
            Err(error) => return Taken::Later(None, error.to_string()),
        };
        let status = answer.status().as_u16();
        let after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let text = answer.body_mut().with_config().limit(MOST_ANSWER).read_to_string().unwrap_or_default();
        match status {
            200..=299 => Taken::All(self.rejected(&text)),
            429 | 502..=504 => Taken::Later(after.map(Duration::from_secs), format!("status {status}")),
            _ => Taken::Never(format!("status {status}: {}", shown(&text))),
        }
    }

    /// How many spans were not wanted, by an answer that says otherwise all was well.
    fn rejected(&self, answer: &str) -> u64 {
        let answer: Value = serde_json::from_str(answer).unwrap_or_default();
        let partial = answer.get("partialSuccess");
        let rejected = partial.and_then(|partial| partial.get("rejectedSpans"));
        rejected.and_then(|number| number.as_u64().or_else(|| number.as_str()?.parse().ok())).unwrap_or(0)
    }

    fn count(&self, exported: u64, dropped: u64, failures: u64) {
        if let Some(inner) = self.mesh.upgrade() {
            let counters = &inner.onlookers.counters;
            counters.spans_exported.add(exported);
            counters.spans_dropped.add(dropped);
            counters.export_failures.add(failures);
        }
    }

    fn rejected_are(&self, spans: u64) {
        if let Some(inner) = self.mesh.upgrade() {
            inner.onlookers.counters.spans_rejected.add(spans);
        }
    }

    /// Tells a person, but not again and again.
    fn tell(&mut self, why: &str, spans: u64) {
        let now = SystemClock.now();
        if self.told.is_none_or(|told| now.saturating_duration_since(told) >= TOLD_EVERY) {
            self.told = Some(now);
            log::warn!("{spans} spans could not be exported to {}: {why}; told once a minute", shown(&self.url));
        }
    }
}
