//! What is counted about the mesh, a service and an instance. Plain atomics: counting serialises nobody.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::histogram::Histogram;
use crate::model::{Cause, Limit};
use crate::policy::breaker::Status;

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
}

/// One service.
#[derive(Default, Debug)]
pub struct ServiceCounters {
    /// Calls that were answered with an instance's answer.
    pub successes: Counter,
    /// Calls that failed, refusals included.
    pub failures: Counter,
    /// Attempts after the first.
    pub retries: Counter,
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
    /// Duration of calls.
    pub latency: Histogram,
}

impl ServiceCounters {
    /// Counts a call that failed.
    pub fn failed(&self, cause: &Cause, took: Duration) {
        self.failures.add(1);
        self.latency.record(took);
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
        match status {
            Status::Open => &self.breaker_opened,
            Status::HalfOpen => &self.breaker_half_opened,
            Status::Closed => &self.breaker_closed,
        }
        .add(1);
    }

    /// Counts a call whose answer was delivered.
    pub fn delivered(&self, took: Duration) {
        self.successes.add(1);
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
