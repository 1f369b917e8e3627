//! The blocking driver: runs one call in the calling thread, which sends, sleeps and waits as the call machine says.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use super::Mesh;
use super::call::{Attempt, CallMeta, End, Report, Step, Verdict};
use super::observe::Asked;
use super::ports::{Incoming, Outgoing, collect};
use super::queue::Wake;
use crate::model::time::whole_ms;
use crate::model::{Call, CallError, Cause, Failure, Headers, Reply, RequestId, ServiceName};

/// The largest answer that is collected, in bytes.
pub(crate) const MAX_ANSWER: usize = 10 * 1024 * 1024;
/// How much of an unwanted answer is read so that its connection can be used again.
const DRAIN: usize = 64 * 1024;

impl Mesh {
    /// Makes a call and waits for its result: balanced, retried, broken off and counted as the policy of the service says.
    ///
    /// The calling thread blocks, at most until the deadline of the call (30 s by default).
    ///
    /// # Errors
    /// [`CallError`], saying why, on which instance and after how many attempts.
    ///
    /// ```no_run
    /// use weft::{Call, Mesh};
    ///
    /// let mesh = Mesh::builder().build()?;
    /// match mesh.invoke(&Call::get("user-service", "/api/users/123")?) {
    ///     Ok(reply) => println!("{} from {}", reply.status, reply.instance),
    ///     Err(error) => println!("{}: {error}", error.reason().word()),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn invoke(&self, call: &Call) -> Result<Reply, CallError> {
        self.invoke_since(call, self.inner.clock.now())
    }

    /// As [`Mesh::invoke`], for a call that began at `start`, such as one that had to wait for a worker.
    ///
    /// # Errors
    /// As [`Mesh::invoke`].
    pub fn invoke_since(&self, call: &Call, start: Instant) -> Result<Reply, CallError> {
        self.drive(call, CallMeta::of(call, self.id_of(call)), start)
    }

    /// Does what the machine says until the call is over.
    pub(super) fn drive(&self, call: &Call, meta: CallMeta<'_>, start: Instant) -> Result<Reply, CallError> {
        let inner = &self.inner;
        let request_id = meta.request_id.clone();
        let mut machine = self.start(meta, Wake::Thread(thread::current()), start).map_err(|error| *error)?;
        let mut collected: Option<(u16, Headers, Vec<u8>)> = None;
        let mut begun = false;
        loop {
            let now = inner.clock.now();
            if !std::mem::replace(&mut begun, true) {
                machine.waited(now.saturating_duration_since(start));
            }
            if inner.hurried.load(Ordering::Relaxed) {
                machine.hurry();
            }
            match machine.step(now) {
                Step::Send(attempt) => {
                    if attempt.mirror.is_some() {
                        self.mirror(machine.service(), attempt.mirrored(call));
                    }
                    let request = Outgoing { call, headers: upstream_headers(call, &request_id, &attempt) };
                    let sent = inner.transport.send(&attempt, &request);
                    let (now, roll) = (inner.clock.now(), inner.dice.roll());
                    match sent {
                        Err(failure) => machine.failed(failure, now, roll),
                        Ok(answer) => {
                            machine.connected(answer.connection);
                            match machine.head(answer.status, &answer.headers, now, roll) {
                                Verdict::Discard => discard(answer),
                                Verdict::Collect | Verdict::Deliver => {
                                    let Incoming { status, headers, body, .. } = answer;
                                    let body = collect(body, announced(&headers), MAX_ANSWER);
                                    let now = inner.clock.now();
                                    machine.body_end(body.as_ref().map(|_| ()).map_err(Failure::clone), now, inner.dice.roll());
                                    collected = body.ok().map(|body| (status, headers.for_downstream(), body));
                                }
                            }
                        }
                    }
                }
                // Shutdown does not end this wait: the slot is given back in any case.
                Step::Queued { until } => inner.clock.park_until(until),
                Step::Wait { until } => self.pause(until),
                Step::Done(end) => {
                    self.observe(&machine, &end.report, || Asked::of(call));
                    return self.finish(call, end, collected, request_id);
                }
            }
        }
    }

    /// Puts the result of a call together.
    fn finish(&self, call: &Call, end: End, collected: Option<(u16, Headers, Vec<u8>)>, request_id: RequestId) -> Result<Reply, CallError> {
        end.result?;
        let attempts = end.report.attempts;
        let count = attempts.count();
        let Some((last, (status, headers, body))) = attempts.last().zip(collected) else {
            // Cannot be: the machine says "deliver" only after a whole answer. If it could, it would be a broken answer.
            let broken = self.refuse(&call.service, Cause::Reset, request_id, self.inner.clock.now(), || Asked::of(call));
            return Err(CallError { attempts: count, ..broken });
        };
        let (instance, upstream) = (last.member.id.clone(), last.took);
        Ok(Reply { status, headers, body, instance, attempts: count, upstream, request_id })
    }

    /// Refuses a call that came in at `start` before it is begun, and counts it.
    pub(crate) fn refuse<'a>(
        &self,
        service: &ServiceName,
        cause: Cause,
        request_id: RequestId,
        start: Instant,
        asked: impl FnOnce() -> Asked<'a>,
    ) -> CallError {
        let inner = &self.inner;
        let took = inner.clock.now().saturating_duration_since(start);
        match inner.registry.find(service.as_str()) {
            Some(cluster) => {
                inner.counters.call(false, took);
                cluster.counters.failed(&cause, took);
            }
            None => inner.counters.unknown.add(1),
        }
        let error = CallError {
            service: service.clone(),
            cause,
            attempts: 0,
            instance: None,
            request_id,
            retry_skipped: None,
            budget_exhausted: false,
            not_sent: true,
            fallback: None,
        };
        self.show(service, &error.request_id, &Report::refused(&error, took), asked);
        error
    }

    pub(super) fn id_of(&self, call: &Call) -> RequestId {
        let dice = &self.inner.dice;
        call.request_id.clone().unwrap_or_else(|| RequestId::from_roll(dice.roll(), dice.roll()))
    }

    /// Blocks until `until`, until woken, or until the mesh shuts down.
    pub(super) fn pause(&self, until: Instant) {
        let inner = &self.inner;
        let me = thread::current();
        let id = me.id();
        inner.parked.with(|parked| parked.push(me));
        if !inner.hurried.load(Ordering::SeqCst) {
            inner.clock.park_until(until);
        }
        inner.parked.with(|parked| parked.retain(|thread| thread.id() != id));
    }
}

/// Reads what is left of an unwanted answer, if it is short, so that its connection can be used again.
fn discard(answer: Incoming) {
    // Whether that works out does not matter: the answer is unwanted.
    let _ = collect(answer.body, 0, DRAIN);
}

/// The length an answer announces; a hint, which is not trusted beyond what costs nothing.
fn announced(headers: &Headers) -> usize {
    headers.first("content-length").and_then(|length| length.parse().ok()).map_or(0, |length: usize| length.min(DRAIN))
}

/// The header fields of an attempt. All but its number and the time that is left are the same on every attempt.
pub(crate) fn upstream_headers(call: &Call, request_id: &RequestId, attempt: &Attempt) -> Headers {
    let mut headers = call.headers.for_upstream();
    if let Some(trace) = &attempt.trace {
        headers.remove_where(|name| trace.replaces(name.as_bytes()));
        trace.each(|name, value| headers.push(name, value));
    }
    if let Some(changes) = &attempt.changes {
        changes.apply(&mut headers);
    }
    if call.body.is_some() && !headers.contains("content-type") {
        headers.push("content-type", "application/json");
    }
    headers.push("x-request-id", request_id.as_str());
    headers.push("x-service-mesh", "true");
    headers.push_number("x-mesh-hops", u64::from(call.hops) + 1);
    headers.push_number("x-mesh-attempt", u64::from(attempt.number));
    headers.push_number("x-request-timeout-ms", whole_ms(attempt.left).max(1));
    if attempt.is_mirror {
        headers.push("x-mesh-mirror", "true");
    }
    headers
}
