//! The life of a call, whole, on one page.
//!
//! ```text
//! start ─▶ route: held up, failed? ─▶ Wait
//!   │                                  │
//!   ▼                                  ▼
//! enter: rate, slot, breaker permit, instance ─────┬─▶ Send ─▶ head ─▶ body_end ─┬─▶ Done
//!            │ full                                │    │ failed                 │ retry?
//!            ▼                                     │    ▼                        ▼
//!          Queued ─ woken ─────────────────────────┘   retry? ──────────▶ Wait ─▶ again: next instance ─▶ Send
//! ```
//!
//! The machine is told what happened and answers what to do next; it never blocks, and reads no clock: `now` and `roll` come in. A driver
//! does what [`Step`] says (send, wait, wait to be woken) and reports back. The blocking driver is `mesh/invoke.rs`. Dropping a machine at
//! any point gives everything back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Running;
use super::cluster::{Admission, CallEnded, Cluster, Entry, InFlight};
use super::flight::Flight;
pub use super::meta::{CallMeta, Mode};
use super::pick::Ask;
use super::queue::{Ticket, Wake};
use super::quota::Share;
use super::report::told;
pub use super::report::{AttemptReport, Attempts, Connection, End, Report};
pub use super::step::{Attempt, Step, Verdict};
use crate::model::time::Chances;
use crate::model::{CallError, Cause, ConnectFailure, Failure, Fields, Limit, Method, Reason, RequestId, ServiceName};
use crate::policy::Policy;
use crate::policy::allow::Action;
use crate::policy::balance::Draw;
use crate::policy::classify::{Again, Event, Meaning, Outcome, classify};
use crate::policy::retry::{self, Budget};
use crate::policy::route::Decision;
use crate::policy::timeout::{self, Deadline, FLOOR};
use crate::telemetry::context::Context;

/// The machine.
pub struct CallMachine {
    cluster: Arc<Cluster>,
    policy: Arc<Policy>,
    /// What the routes have decided.
    decision: Decision,
    is_mirror: bool,
    mode: Mode,
    /// The trace it belongs to, where traces are made.
    trace: Option<Context>,
    wake: Wake,
    /// Counts the call as running.
    running: Running,
    method: Method,
    request_id: RequestId,
    idempotent: bool,
    max_retries: u32,
    /// What the rules about callers say.
    allowed: Action,
    /// The hash of what consistent hashing and sticky splits go by.
    key: Option<u64>,
    /// The hash by which its caller is told apart.
    caller: u64,
    chances: Chances,
    start: Instant,
    deadline: Deadline,
    state: State,
    /// Counts it for its caller, where that matters.
    share: Option<Share>,
    admission: Option<Admission>,
    /// The attempts so far, the one under way included.
    attempts: Attempts,
    retries: u32,
    /// The request can be sent again: no part of its body is gone.
    replayable: bool,
    stale_retry_used: bool,
    retry_skipped: bool,
    budget_exhausted: bool,
    /// Every attempt so far was certainly not processed.
    not_sent: bool,
    hurried: bool,
    counted: bool,
    /// Waiting for a slot or a worker, so far and since when.
    queued: Duration,
    queued_since: Option<Instant>,
    /// When the last attempt ended; before the first, when the call began.
    free_since: Instant,
    /// What the last attempt came to: the cause of the call's failure if there is no further one, and what that says of the service.
    last: Option<(Cause, Outcome)>,
}

enum State {
    New,
    HeldUp(Instant),
    Entering(Option<(Ticket, Instant)>),
    Sent(Flight),
    Answered(Flight, Meaning, u16),
    Waiting(Instant),
    Again(Option<(Ticket, Instant)>),
    Ended(Result<(), Cause>),
    Over,
}

impl CallMachine {
    /// A new call. It does nothing before the first [`step`](Self::step). `roll` is all the chance it will need.
    pub(super) fn start(cluster: Arc<Cluster>, meta: CallMeta<'_>, roll: u64, running: Running, wake: Wake, now: Instant) -> Self {
        let (policy, mut chances) = (cluster.policy(), Chances::of(roll));
        let (key, caller) = (meta.key(&policy), meta.caller_key(&policy));
        let decision = meta.decide(&policy, key, &mut chances);
        let allowed = meta.allowed(&policy, &decision);
        let route = decision.route.as_deref();
        let retry = route.and_then(|route| route.retry.as_ref()).unwrap_or(&policy.retry);
        let timeouts = route.and_then(|route| route.timeouts.as_ref()).unwrap_or(&policy.timeouts);
        let max_retries = if meta.is_retry || !Budget::is_possible(&policy.retry) { 0 } else { retry.max_retries };
        Self {
            mode: meta.mode,
            wake,
            running,
            method: meta.method,
            idempotent: meta.idempotent || retry.non_idempotent,
            max_retries: meta.max_retries.map_or(max_retries, |most| most.min(max_retries)),
            request_id: meta.request_id,
            allowed,
            key,
            caller,
            chances,
            is_mirror: meta.is_mirror,
            trace: meta.trace,
            start: now,
            deadline: Deadline::new(timeouts, meta.timeout, now),
            state: State::New,
            share: None,
            admission: None,
            attempts: Attempts::default(),
            retries: 0,
            replayable: true,
            stale_retry_used: false,
            retry_skipped: false,
            budget_exhausted: false,
            not_sent: true,
            hurried: false,
            counted: false,
            queued: Duration::ZERO,
            queued_since: None,
            free_since: now,
            last: None,
            decision,
            cluster,
            policy,
        }
    }

    /// What to do next.
    pub fn step(&mut self, now: Instant) -> Step {
        loop {
            match std::mem::replace(&mut self.state, State::Over) {
                State::New if self.allowed == Action::Deny => {
                    // Nothing that a route does is for somebody who may not come in.
                    self.decision = Decision::default();
                    self.state = State::Ended(Err(Cause::NotAllowed));
                }
                // A fault that a route injects comes first.
                State::New => self.state = State::HeldUp(self.decision.delay.map_or(now, |delay| self.start + delay)),
                State::HeldUp(until) if now < until && !self.hurried && now < self.deadline.end() => {
                    let until = until.min(self.deadline.end());
                    self.state = State::HeldUp(until);
                    return Step::Wait { until };
                }
                State::HeldUp(_) => {
                    let abort = self.decision.abort;
                    self.state = match abort {
                        Some(status) => State::Ended(Err(Cause::FaultInjected(status))),
                        None if self.has_share() => State::Entering(None),
                        None => State::Ended(Err(Cause::Overloaded(Limit::CallerInFlight))),
                    };
                }
                State::Entering(waiting) => {
                    if let Some(step) = self.ask(waiting, now, State::Entering) {
                        return step;
                    }
                }
                State::Again(waiting) => {
                    if let Some(step) = self.ask(waiting, now, State::Again) {
                        return step;
                    }
                }
                State::Waiting(until) if now < until && !self.hurried => {
                    self.state = State::Waiting(until);
                    return Step::Wait { until };
                }
                State::Waiting(_) => self.state = State::Again(None),
                State::Ended(result) => return Step::Done(self.end(result, now)),
                // Stepping while an attempt is under way means that the driver has given it up; so it has after the end.
                State::Sent(_) | State::Answered(..) | State::Over => self.state = State::Ended(Err(Cause::Reset)),
            }
        }
    }

    /// The head of the answer has come.
    pub fn head(&mut self, status: u16, headers: &dyn Fields, now: Instant, roll: u64) -> Verdict {
        let Some(mut flight) = self.sent() else { return Verdict::Discard };
        flight.answered_after = Some(now.saturating_duration_since(flight.began));
        self.about_attempt(|report| report.first_byte = flight.answered_after);
        self.not_sent = false;
        let meaning = classify(&Event::Answer(status, headers), self.retry(), flight.cut_short_by_caller);
        if let Some(until) = self.retry_at(&meaning, false, now, roll) {
            self.last = Some((Cause::Status(status), meaning.call));
            self.attempt_over(flight, &meaning, false, Some(status), now);
            self.state = State::Waiting(until);
            return Verdict::Discard;
        }
        let has_better = self.decision.route.as_ref().is_some_and(|route| route.fallback.is_some());
        if !meaning.deliverable && (self.mode == Mode::Collect || has_better) {
            self.finish(flight, &meaning, false, Some(status), Err(Cause::Status(status)), now);
            return Verdict::Discard;
        }
        let took = self.took(now);
        // What streams may go on for hours, and its caller decides for how long: others must not wait for a trial until then.
        if let Some(trial) = self.admission.as_mut().filter(|admission| self.mode == Mode::Stream && admission.is_trial()) {
            self.cluster.hear(trial, meaning.call, took, now);
        }
        self.state = State::Answered(flight, meaning, status);
        match self.mode {
            Mode::Collect => Verdict::Collect,
            Mode::Stream => Verdict::Deliver,
        }
    }

    /// The body of the answer has ended, whole or not.
    pub fn body_end(&mut self, result: Result<(), Failure>, now: Instant, roll: u64) {
        match (std::mem::replace(&mut self.state, State::Over), result) {
            (State::Answered(flight, meaning, status), Ok(())) => self.finish(flight, &meaning, false, Some(status), Ok(()), now),
            (State::Answered(flight, _, status), Err(failure)) => {
                // What has been passed on cannot be taken back; what was collected can be asked for again.
                let again = self.mode == Mode::Collect;
                self.attempt_failed(flight, failure, Some(status), again, now, roll);
            }
            (state, _) => self.state = state,
        }
    }

    /// The attempt failed before the head of an answer came.
    pub fn failed(&mut self, failure: Failure, now: Instant, roll: u64) {
        if let Some(flight) = self.sent() {
            self.attempt_failed(flight, failure, None, true, now, roll);
        }
    }

    /// The attempt under way has this connection.
    pub fn connected(&mut self, connection: Connection) {
        self.about_attempt(|report| report.connection = connection);
    }

    /// The call has waited for its turn before it was stepped.
    pub fn waited(&mut self, time: Duration) {
        self.queued += time;
    }

    /// Its caller has gone: what there is to say about it, unless it had ended. The machine is to be dropped.
    pub fn abandon(&mut self, now: Instant) -> Option<Report> {
        if let State::Sent(flight) | State::Answered(flight, ..) = &self.state {
            let took = now.saturating_duration_since(flight.began);
            self.about_attempt(|report| report.took = took);
        }
        let streams = self.mode == Mode::Stream && matches!(self.state, State::Answered(..));
        let status = self.attempts.last().and_then(|last| last.first_byte.and(last.status)).filter(|_| streams).unwrap_or(0);
        (!std::mem::replace(&mut self.counted, true)).then(|| self.report(status, None, now))
    }

    /// Part of the request's body is gone, so that it cannot be sent again from now on.
    pub const fn body_is_gone(&mut self) {
        self.replayable = false;
    }

    /// The service that is called.
    pub fn service(&self) -> &ServiceName {
        &self.cluster.name
    }

    /// What the service's rules about callers say of it.
    pub(super) const fn allowed(&self) -> Action {
        self.allowed
    }

    /// The id of the call.
    pub const fn request_id(&self) -> &RequestId {
        &self.request_id
    }

    /// The settings it goes by.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The times it goes by: those of its route, else those of the service.
    pub fn timeouts(&self) -> &timeout::Config {
        self.decision.route.as_ref().and_then(|route| route.timeouts.as_ref()).unwrap_or(&self.policy.timeouts)
    }

    /// The retries it goes by: those of its route, else those of the service.
    pub fn retry(&self) -> &retry::Config {
        self.decision.route.as_ref().and_then(|route| route.retry.as_ref()).unwrap_or(&self.policy.retry)
    }

    /// The mesh is shutting down: waits between attempts are skipped from now on.
    pub const fn hurry(&mut self) {
        self.hurried = true;
    }

    /// Whether its caller may have one more call under way; counts it.
    fn has_share(&mut self) -> bool {
        let Some(most) = self.policy.limits.max_in_flight_per_caller else { return true };
        self.share = Share::take(&self.cluster, self.caller, most);
        self.share.is_some()
    }

    fn sent(&mut self) -> Option<Flight> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Sent(flight) => Some(flight),
            state => {
                self.state = state;
                None
            }
        }
    }

    /// Asks for a slot and an instance; `None` when the state has moved on by itself.
    fn ask(&mut self, waiting: Option<(Ticket, Instant)>, now: Instant, back: fn(Option<(Ticket, Instant)>) -> State) -> Option<Step> {
        let ticket = waiting.map(|(ticket, _)| ticket);
        let give_up = if self.deadline.left(now).is_zero() {
            Some(Cause::DeadlineExceeded)
        } else if waiting.is_some_and(|(_, until)| until <= now) {
            Some(Cause::Overloaded(Limit::QueueTimeout))
        } else {
            None
        };
        if let Some(cause) = give_up {
            if let Some(ticket) = ticket {
                self.cluster.leave(ticket);
            }
            self.give_up(cause, now);
            return None;
        }
        let chance = self.chances.next();
        let ask = self.asks(chance);
        let entry = if self.admission.is_some() {
            self.cluster.again(ticket, &ask, &self.wake, now)
        } else {
            self.cluster.enter(ticket, &ask, self.caller, &self.wake, now)
        };
        if let Entry::Wait(_) = entry {
            self.queued_since.get_or_insert(now);
        } else {
            self.queued += self.queued_since.take().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        }
        match entry {
            Entry::Go(admission, slot) => {
                if admission.is_some() {
                    self.admission = admission;
                }
                Some(Step::Send(self.send(slot, now)))
            }
            Entry::Wait(ticket) => {
                let patience = self.policy.limits.queue_timeout_ms.duration();
                let until = waiting.map_or(now + patience, |(_, until)| until).min(self.deadline.end());
                self.state = back(Some((ticket, until)));
                Some(Step::Queued { until })
            }
            Entry::Refused(cause) => {
                self.give_up(cause, now);
                None
            }
        }
    }

    /// There will be no (further) attempt. What the last one came to stands, unless the deadline cut the call short.
    fn give_up(&mut self, cause: Cause, now: Instant) {
        let (cause, outcome) = match self.last.take() {
            Some((last, outcome)) if cause != Cause::DeadlineExceeded => (last, outcome),
            Some((_, outcome)) => (cause, outcome),
            None => (cause, Outcome::Excluded),
        };
        if let Some(mut admission) = self.admission.take() {
            let ended = CallEnded { admission: &mut admission, outcome, took: self.took(now), lacked_budget: false };
            self.cluster.settle(None, Some(ended), Some(now));
        }
        self.state = State::Ended(Err(cause));
    }

    fn send(&mut self, slot: InFlight, now: Instant) -> Attempt {
        let trace = match self.trace {
            Some(context) => Some(context.attempt(self.chances.next())),
            None => None,
        };
        let timeouts = self.timeouts();
        let (timeout, cut_short_by_caller) = self.deadline.attempt(timeouts, now);
        let connect_cut_short_by_caller = cut_short_by_caller && timeout < timeouts.connect_ms.duration();
        let attempt = Attempt {
            trace,
            member: Arc::clone(&slot.member),
            number: self.attempts.count().saturating_add(1),
            connect: timeouts.connect_ms.duration().min(timeout),
            timeout,
            left: self.deadline.left(now),
            fresh: self.stale_retry_used,
            endpoint: self.decision.endpoint.clone(),
            changes: self.decision.route.as_ref().and_then(|route| route.changes.clone()),
            mirror: self.decision.mirror.clone().filter(|_| self.attempts.count() == 0),
            is_mirror: self.is_mirror,
        };
        let cut_short = timeout < timeouts.attempt_ms.duration();
        let waited = now.saturating_duration_since(self.free_since);
        self.attempts.push(AttemptReport::sent(Arc::clone(&slot.member), self.took(now), waited, trace.map_or(0, |trace| trace.span)));
        self.state =
            State::Sent(Flight { slot, began: now, cut_short_by_caller, connect_cut_short_by_caller, cut_short, answered_after: None });
        attempt
    }

    fn attempt_failed(&mut self, flight: Flight, failure: Failure, status: Option<u16>, again: bool, now: Instant, roll: u64) {
        self.not_sent &= matches!(failure, Failure::Connect(_) | Failure::Stale { written: false });
        self.about_attempt(|report| report.failure = Some(Cause::from(failure.clone()).reason()));
        let stale = matches!(failure, Failure::Stale { .. });
        let unreachable = matches!(failure, Failure::Connect(_) | Failure::Timeout);
        let connect = matches!(failure, Failure::Connect(_));
        let cut_short = if connect { flight.connect_cut_short_by_caller } else { flight.cut_short_by_caller };
        let meaning = classify(&Event::Failed(&failure), self.retry(), cut_short);
        if again {
            let at_once = stale && !self.stale_retry_used;
            self.stale_retry_used |= stale;
            let until = if at_once { self.free_retry(&meaning, now) } else { self.retry_at(&meaning, connect, now, roll) };
            if let Some(until) = until {
                self.last = Some((failure.into(), meaning.call));
                self.attempt_over(flight, &meaning, unreachable, status, now);
                self.state = State::Waiting(until);
                return;
            }
        }
        let cause = match failure {
            Failure::Timeout if flight.cut_short => Cause::DeadlineExceeded,
            Failure::Connect(ConnectFailure::TimedOut) if flight.cut_short && self.deadline.left(now) < FLOOR => Cause::DeadlineExceeded,
            failure => failure.into(),
        };
        self.finish(flight, &meaning, unreachable, status, Err(cause), now);
    }

    /// When to try again because a kept-alive connection had been closed: at once, without asking the budget, once per call.
    fn free_retry(&mut self, meaning: &Meaning, now: Instant) -> Option<Instant> {
        let allowed = self.replayable && self.is_allowed(meaning) && self.deadline.left(now) >= FLOOR;
        allowed.then_some(now)
    }

    /// When to try again, if at all. `connect`: no connection could be made.
    fn retry_at(&mut self, meaning: &Meaning, connect: bool, now: Instant, roll: u64) -> Option<Instant> {
        let trial = self.admission.as_ref().is_some_and(Admission::is_trial);
        if meaning.again == Again::Never || !self.replayable || trial || self.retries >= self.max_retries || !self.is_allowed(meaning) {
            return None;
        }
        let outlook = self.cluster.outlook(&self.asks(0), now);
        if outlook.circuit_open {
            return None;
        }
        let wait = match meaning.retry_after {
            Some(asked) => asked,
            None if connect && outlook.untried => Duration::ZERO,
            None => self.retry().delay(self.retries + 1, roll),
        };
        if self.deadline.left(now) < wait.saturating_add(FLOOR) {
            return None;
        }
        if !self.cluster.withdraw_retry(now) {
            self.budget_exhausted = true;
            return None;
        }
        self.retries += 1;
        Some(now + wait)
    }

    /// What it wants of a pick.
    fn asks(&self, chance: u64) -> Ask<'_> {
        Ask { tried: &self.attempts, subset: self.decision.subset(), draw: Draw { chance, key: self.key } }
    }

    /// Whether the request may be sent again as far as its safety goes; remembers when that is what forbids it.
    fn is_allowed(&mut self, meaning: &Meaning) -> bool {
        let allowed = match meaning.again {
            Again::Always => true,
            Again::IfIdempotent => self.idempotent,
            Again::Never => false,
        };
        self.retry_skipped |= !allowed && meaning.again == Again::IfIdempotent;
        allowed
    }

    /// The last attempt is over, and with it the call.
    fn finish(
        &mut self,
        mut flight: Flight,
        meaning: &Meaning,
        unreachable: bool,
        status: Option<u16>,
        result: Result<(), Cause>,
        now: Instant,
    ) {
        self.count(&flight, meaning.instance, status, now);
        let outcome = match (&result, meaning.call) {
            // An attempt that the caller cut short says nothing either; what the one before it came to stands.
            (Err(Cause::DeadlineExceeded), Outcome::Excluded) => self.last.take().map_or(Outcome::Excluded, |(_, outcome)| outcome),
            (_, outcome) => outcome,
        };
        let (mut admission, took, lacked_budget) = (self.admission.take(), self.took(now), self.budget_exhausted);
        let showed = flight.showed(meaning, unreachable, now);
        let call = admission.as_mut().map(|admission| CallEnded { admission, outcome, took, lacked_budget });
        self.cluster.settle(Some((&mut flight.slot, showed)), call, Some(now));
        self.state = State::Ended(result);
    }

    /// An attempt is over, but not the call.
    fn attempt_over(&mut self, mut flight: Flight, meaning: &Meaning, unreachable: bool, status: Option<u16>, now: Instant) {
        self.count(&flight, meaning.instance, status, now);
        if let Some((cause, _)) = &self.last {
            self.cluster.counters.retries_by_reason.add(cause.reason());
        }
        let showed = flight.showed(meaning, unreachable, now);
        self.cluster.settle(Some((&mut flight.slot, showed)), None, Some(now));
    }

    fn count(&mut self, flight: &Flight, outcome: Outcome, status: Option<u16>, now: Instant) {
        let member = &flight.slot.member;
        let took = now.saturating_duration_since(flight.began);
        member.counters.requests.add(1);
        if outcome == Outcome::Failure {
            member.counters.failures.add(1);
        }
        member.counters.latency.record(took);
        self.free_since = now;
        self.about_attempt(|report| {
            (report.took, report.status) = (took, status);
            if outcome == Outcome::Failure {
                report.failure = report.failure.or(Some(Reason::UpstreamStatus));
            }
        });
    }

    /// Notes something about the attempt under way.
    fn about_attempt(&mut self, note: impl FnOnce(&mut AttemptReport)) {
        if let Some(report) = self.attempts.last_mut() {
            note(report);
        }
    }

    fn took(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.start)
    }

    fn end(&mut self, result: Result<(), Cause>, now: Instant) -> End {
        (self.admission, self.share) = (None, None);
        let took = self.took(now);
        let fallback = self.decision.route.as_ref().and_then(|route| route.fallback.clone());
        // A driver that steps on after the end learns nothing new, and nothing is counted again.
        if !std::mem::replace(&mut self.counted, true) {
            self.running.count(result.is_ok(), took);
            match &result {
                Ok(()) => self.cluster.counters.delivered(self.attempts.last().and_then(|last| last.status).unwrap_or(0), took),
                Err(cause) => self.cluster.counters.failed(cause, took),
            }
            self.cluster.counters.decided(self.decision.delay.is_some(), result.is_err() && fallback.is_some());
        }
        let result = result.map_err(|cause| CallError {
            service: self.cluster.name.clone(),
            attempts: self.attempts.count(),
            instance: self.attempts.last().map(|attempt| attempt.member.id.clone()),
            request_id: self.request_id.clone(),
            retry_skipped: self.retry_skipped.then_some(self.method),
            budget_exhausted: self.budget_exhausted,
            not_sent: self.not_sent,
            fallback,
            cause,
        });
        let status = told(&result, self.mode, self.attempts.last());
        let reason = result.as_ref().err().map(CallError::reason);
        End { report: self.report(status, reason, now), result }
    }

    fn report(&mut self, status: u16, reason: Option<Reason>, now: Instant) -> Report {
        let waiting = self.queued_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let (took, queued, streamed) = (self.took(now), self.queued + waiting, self.mode == Mode::Stream);
        Report { context: self.trace, attempts: std::mem::take(&mut self.attempts), took, queued, status, reason, streamed }
    }
}

impl Drop for CallMachine {
    fn drop(&mut self) {
        if let State::Entering(Some((ticket, _))) | State::Again(Some((ticket, _))) = self.state {
            self.cluster.leave(ticket);
        }
    }
}
