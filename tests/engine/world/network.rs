//! The transport that plays the scripts and writes down what was sent.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Cursor, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use weft::mesh::call::{Attempt, Connection};
use weft::mesh::ports::{Incoming, Outgoing, Probe, Transport};
use weft::model::{ConnectFailure, Failure, Headers};
use weft::policy::health::CheckResult;

use super::act::{Act, Ending, What};
use super::time::Hand;

/// Shared by the mesh, which sends through it, and the test, which reads it.
#[derive(Clone)]
pub struct Network {
    clock: Arc<dyn Hand>,
    /// Guarded: the scripts and what has happened.
    stage: Arc<Mutex<Stage>>,
}

#[derive(Default)]
struct Stage {
    scripts: HashMap<String, VecDeque<Act>>,
    checks: HashMap<String, VecDeque<CheckResult>>,
    deliveries: Vec<Delivery>,
    probes: Vec<String>,
}

/// One request as it was sent.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub at: Instant,
    pub instance: String,
    pub port: u16,
    /// Which attempt of its call it was.
    pub number: u32,
    /// The time it was given.
    pub timeout: Duration,
    pub connect: Duration,
    /// No kept-alive connection was to be used.
    pub fresh: bool,
    /// Path and query.
    pub endpoint: String,
    pub headers: Headers,
    pub body: Option<Arc<[u8]>>,
    /// The instance can have processed it.
    pub may_be_processed: bool,
}

impl Delivery {
    /// The value of a header field.
    pub fn header(&self, name: &str) -> &str {
        self.headers.first(name).unwrap_or_else(|| panic!("{name} was not sent"))
    }
}

impl Network {
    pub(super) fn new(clock: Arc<dyn Hand>) -> Self {
        Self { clock, stage: Arc::default() }
    }

    pub(super) fn script(&self, instance: &str, script: impl IntoIterator<Item = Act>) {
        self.stage().scripts.insert(instance.to_owned(), script.into_iter().collect());
    }

    pub(super) fn checks(&self, instance: &str, results: impl IntoIterator<Item = CheckResult>) {
        self.stage().checks.insert(instance.to_owned(), results.into_iter().collect());
    }

    pub(super) fn sent(&self) -> usize {
        self.stage().deliveries.len()
    }

    pub(super) fn deliveries_after(&self, n: usize) -> Vec<Delivery> {
        self.stage().deliveries[n..].to_vec()
    }

    /// Whose health was asked, in order.
    pub fn probes(&self) -> Vec<String> {
        self.stage().probes.clone()
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `time` pass, but not beyond `end`; answers whether it has all passed by then.
    fn spend(&self, time: Duration, end: Instant) -> bool {
        let left = end.saturating_duration_since(self.clock.now());
        self.clock.advance(time.min(left));
        time <= left
    }
}

impl Transport for Network {
    fn send(&self, attempt: &Attempt, request: &Outgoing<'_>) -> Result<Incoming, Failure> {
        let now = self.clock.now();
        let act = {
            let mut stage = self.stage();
            let act = next(stage.scripts.get_mut(attempt.member.id.as_str())).expect("an instance with a script");
            stage.deliveries.push(Delivery {
                at: now,
                instance: attempt.member.id.to_string(),
                port: attempt.member.port.get(),
                number: attempt.number,
                timeout: attempt.timeout,
                connect: attempt.connect,
                fresh: attempt.fresh,
                endpoint: attempt.endpoint(request.call.endpoint.as_str()).to_owned(),
                headers: request.headers.clone(),
                body: request.call.body.clone(),
                may_be_processed: act.may_be_processed(),
            });
            act
        };
        if let Some(gate) = &act.gate {
            gate.pass();
        }
        if let Some(meanwhile) = &act.meanwhile {
            meanwhile();
        }
        let end = now + attempt.timeout;
        if !self.spend(act.after, end) {
            return Err(Failure::Timeout);
        }
        match act.what {
            What::Fail(failure) => Err(failure),
            What::Unreachable => {
                self.spend(attempt.connect, end);
                Err(Failure::Connect(ConnectFailure::TimedOut))
            }
            What::Hang => {
                self.spend(attempt.timeout, end);
                Err(Failure::Timeout)
            }
            // Without the message of a panic, which would only be noise.
            What::Panic => std::panic::resume_unwind(Box::new("a fault in the transport, as scripted")),
            What::Answer { status, headers, body, ending } => {
                let body = Body { network: self.clone(), content: Cursor::new(body), ending, end };
                Ok(Incoming { status, headers, connection: Connection::Unknown, body: Box::new(body) })
            }
        }
    }

    fn probe(&self, probe: &Probe) -> CheckResult {
        let id = probe.member.id.as_str();
        let mut stage = self.stage();
        stage.probes.push(id.to_owned());
        next(stage.checks.get_mut(id)).expect("an instance with scripted checks")
    }
}

/// The next item of a script; the last one stays.
fn next<T: Clone>(script: Option<&mut VecDeque<T>>) -> Option<T> {
    let script = script?;
    if script.len() > 1 { script.pop_front() } else { script.front().cloned() }
}

/// A body on its way.
struct Body {
    network: Network,
    content: Cursor<Vec<u8>>,
    ending: Ending,
    end: Instant,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read(buffer)?;
        if read > 0 || buffer.is_empty() {
            return Ok(read);
        }
        match self.ending {
            Ending::Whole => Ok(0),
            Ending::CutOff => Err(io::Error::other(Failure::Reset)),
            Ending::Stalls => {
                self.network.spend(Duration::MAX, self.end);
                Err(io::Error::other(Failure::Timeout))
            }
        }
    }
}
