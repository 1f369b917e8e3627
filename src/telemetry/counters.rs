//! What is counted about the mesh, a service and an instance. Plain atomics: counting serialises nobody.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::histogram::Histogram;
use crate::model::{Cause, Limit, Reason};
use crate::policy::breaker::Status;
use crate::policy::health::CheckResult;

/// A number that only grows.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The whole mesh.
#[derive(Default, Debug)]
pub struct MeshCounters {
    /// Calls to registered services that were answered with an instance's answer.
    pub successes: Counter,
    /// Calls to registered services that failed, refusals included.
    pub failures: Counter,
    /// Time of all of them, in microseconds.
    pub latency_us: Counter,
    /// Calls to services that are not registered: in neither total.
    pub unknown: Counter,
    /// Requests other than calls that were refused because a limit was full.
    pub refused: ByLimit,
    /// Look-ups of names whose addresses are instances.
    pub resolutions: Counter,
    /// Those of them that found nothing, or something that cannot be registered.
    pub failed_resolutions: Counter,
}

/// One service.
#[derive(Default, Debug)]
pub struct ServiceCounters {
    /// Calls that were answered with an instance's answer.
    pub successes: Counter,
    /// Calls that failed, refusals included.
    pub failures: Counter,
    /// Calls by the status they were answered with, before any fallback.
    pub by_code: ByCode,
    /// Calls that failed, by reason.
    pub by_reason: ByReason,
    /// Attempts after the first.
    pub retries: Counter,
    /// Attempts after the first by what the one before came to, those included that cost no budget.
    pub retries_by_reason: ByReason,
    /// Retries left out because the budget was empty.
    pub budget_exhausted: Counter,
    /// Calls refused by the circuit breaker.
    pub circuit_open: Counter,
    /// Calls that found no available instance.
    pub no_instance: Counter,
    /// Calls refused because a limit was full, by limit.
    pub by_limit: ByLimit,
    /// Calls that the rules about callers refused.
    pub not_allowed: Counter,
    /// Calls that the rules about callers let in, and would refuse if they were not only tried out.
    pub audited: Counter,
    /// Calls that a route was told to fail.
    pub fault_injected: Counter,
    /// Calls that a route was told to hold up.
    pub held_up: Counter,
    /// Calls that failed and got the answer of their route instead.
    pub fallbacks: Counter,
    /// Calls that were copied to another service.
    pub mirrored: Counter,
    /// Copies that were dropped, since too many waited.
    pub mirrors_dropped: Counter,
    /// How often the circuit breaker opened.
    pub breaker_opened: Counter,
    /// How often it became half open.
    pub breaker_half_opened: Counter,
    /// How often it closed again.
    pub breaker_closed: Counter,
    /// Ejections of instances.
    pub ejections: Counter,
    /// Checks of instances by what came of them, in the order of [`CheckResult::WORDS`].
    checks: [Counter; CheckResult::WORDS.len()],
    /// Duration of calls.
    pub latency: Histogram,
}

impl ServiceCounters {
    /// Counts a call that failed.
    pub fn failed(&self, cause: &Cause, took: Duration) {
        self.failures.add(1);
        self.latency.record(took);
        self.by_code.add(cause.status());
        self.by_reason.add(cause.reason());
        match cause {
            Cause::CircuitOpen { .. } => self.circuit_open.add(1),
            Cause::NotAllowed => self.not_allowed.add(1),
            Cause::FaultInjected(_) => self.fault_injected.add(1),
            Cause::NoHealthyInstance => self.no_instance.add(1),
            Cause::Overloaded(limit) | Cause::RateLimited { limit, .. } => self.by_limit.add(*limit),
            _ => {}
        }
    }

    /// Counts what a route did about a call.
    pub fn decided(&self, held_up: bool, fallback: bool) {
        if held_up {
            self.held_up.add(1);
        }
        if fallback {
            self.fallbacks.add(1);
        }
    }

    /// Counts a change of the circuit breaker.
    pub fn breaker_became(&self, status: Status) {
        self.became(status).add(1);
    }

    /// How often the circuit breaker came into that state.
    pub const fn became(&self, status: Status) -> &Counter {
        match status {
            Status::Open => &self.breaker_opened,
            Status::HalfOpen => &self.breaker_half_opened,
            Status::Closed => &self.breaker_closed,
        }
    }

    /// Counts a check of an instance.
    pub fn checked(&self, result: CheckResult) {
        if let Some(counter) = CheckResult::WORDS.iter().position(|word| *word == result.word()).and_then(|at| self.checks.get(at)) {
            counter.add(1);
        }
    }

    /// Checks of instances, by the word for what came of them.
    pub fn checks(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CheckResult::WORDS.into_iter().zip(self.checks.iter().map(Counter::get))
    }

    /// Counts a call whose answer was delivered, with its status.
    pub fn delivered(&self, status: u16, took: Duration) {
        self.successes.add(1);
        self.by_code.add(status);
        self.latency.record(took);
    }
}

/// Refusals by limit.
#[derive(Default, Debug)]
pub struct ByLimit {
    counters: [Counter; Limit::OF_CALLS.len() + Limit::OF_THE_MESH.len()],
}

impl ByLimit {
    /// One more.
    pub fn add(&self, limit: Limit) {
        if let Some(counter) = Self::place(limit).and_then(|at| self.counters.get(at)) {
            counter.add(1);
        }
    }

    /// How often a limit was full.
    pub fn get(&self, limit: Limit) -> u64 {
        Self::place(limit).and_then(|at| self.counters.get(at)).map_or(0, Counter::get)
    }

    fn place(limit: Limit) -> Option<usize> {
        Limit::OF_CALLS.iter().chain(&Limit::OF_THE_MESH).position(|other| *other == limit)
    }
}

/// Counts by reason.
#[derive(Default, Debug)]
pub struct ByReason {
    counters: [Counter; Reason::ALL.len()],
}

impl ByReason {
    /// One more.
    pub fn add(&self, reason: Reason) {
        if let Some(counter) = Reason::ALL.iter().position(|other| *other == reason).and_then(|at| self.counters.get(at)) {
            counter.add(1);
        }
    }

    /// The reasons that have occurred, with how often.
    pub fn seen(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.iter().copied().zip(self.counters.iter().map(Counter::get)).filter(|(_, count)| *count > 0)
    }
}

/// The statuses that are told apart; HTTP has no others.
const CODES: std::ops::Range<u16> = 100..600;

/// Counts by status. 4 KiB are taken by the first one.
#[derive(Default, Debug)]
pub struct ByCode {
    counters: OnceLock<Box<[Counter]>>,
    others: Counter,
}

impl ByCode {
    /// One more.
    pub fn add(&self, status: u16) {
        let counters = self.counters.get_or_init(|| CODES.map(|_| Counter::default()).collect());
        let place = status.checked_sub(CODES.start).map(usize::from);
        place.and_then(|at| counters.get(at)).unwrap_or(&self.others).add(1);
    }

    /// The statuses that have occurred, with how often; 0 stands for those that HTTP does not have.
    pub fn seen(&self) -> impl Iterator<Item = (u16, u64)> {
        let known = CODES.zip(self.counters.get().map_or(&[][..], |all| all));
        let known = known.map(|(code, counter)| (code, counter.get()));
        known.chain([(0, self.others.get())]).filter(|(_, count)| *count > 0)
    }
}

/// One instance.
#[derive(Default, Debug)]
pub struct InstanceCounters {
    /// Attempts that ended.
    pub requests: Counter,
    /// Attempts that failed.
    pub failures: Counter,
    /// Duration of attempts.
    pub latency: Histogram,
}

impl MeshCounters {
    /// Counts a call to a registered service.
    pub fn call(&self, delivered: bool, took: Duration) {
        if delivered { &self.successes } else { &self.failures }.add(1);
        self.latency_us.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_reasons_are_counted_apart_and_what_has_not_occurred_is_not_there() {
        let counters = ServiceCounters::default();
        for status in [100, 200, 200, 599, 600, 999, 0] {
            counters.delivered(status, Duration::ZERO);
        }
        counters.failed(&Cause::FaultInjected(418), Duration::ZERO);
        counters.failed(&Cause::DeadlineExceeded, Duration::ZERO);
        let codes: Vec<_> = counters.by_code.seen().collect();
        assert_eq!(codes, [(100, 1), (200, 2), (418, 1), (504, 1), (599, 1), (0, 3)]);
        let reasons: Vec<_> = counters.by_reason.seen().collect();
        assert_eq!(reasons, [(Reason::DeadlineExceeded, 1), (Reason::FaultInjected, 1)]);
    }
}
