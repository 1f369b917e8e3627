//! One instance's place in its service: what it registered, what operators, checks and attempts say about it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::member::Member;
use super::record::{Record, Version};
use crate::model::{AdminState, Registration, Weight};
use crate::policy::balance::{self, Candidate, Ewma, FULL, warmth};
use crate::policy::hash::hash;
use crate::policy::health::{self, CheckResult, Health};
use crate::policy::outlier::Outlier;

/// Guarded by the cluster.
pub(super) struct Seat {
    pub(super) member: Arc<Member>,
    pub(super) registration: Registration,
    pub(super) admin: AdminState,
    pub(super) admin_reason: Option<String>,
    pub(super) operator_weight: Option<Weight>,
    /// Of what the store keeps about it.
    pub(super) version: Version,
    pub(super) health: Health,
    pub(super) outlier: Outlier,
    /// Attempts in flight.
    pub(super) in_flight: u32,
    /// What the balancing strategy remembers.
    pub(super) credit: i64,
    /// What the balancing strategy expects, where it goes by latency.
    pub(super) ewma: Option<Ewma>,
    /// The hash of its id.
    id_hash: u64,
    /// Since when it warms up, or has; `None` means from the next pick on.
    pub(super) warm_since: Option<Instant>,
    /// Whether the mesh ends its lease; otherwise the store does.
    ends_here: bool,
    pub(super) lease_until: Option<Instant>,
    /// When an attempt last succeeded.
    pub(super) last_success: Option<Instant>,
}

/// Why an instance gets no calls.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Unavailable {
    State(AdminState),
    WeightZero,
    Unhealthy(Option<CheckResult>),
    Ejected { until: Instant },
    LeaseOver,
    NoAddress,
}

/// A record on its way into a seat.
pub(super) struct Arrival<'a> {
    pub(super) record: Record,
    pub(super) version: Version,
    /// Where it can be reached; needed only when it is new or has moved.
    pub(super) addresses: &'a [IpAddr],
    /// How it says that it is.
    pub(super) healthy: Option<bool>,
    /// Whether the instance itself has just been heard of.
    pub(super) renews: bool,
    /// Whether the mesh ends its lease; otherwise the store does.
    pub(super) ends_here: bool,
}

/// What of an arrival is news.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct News {
    /// The instance is new, or at a new place.
    pub(super) place: bool,
    /// What it registers is not what it was.
    pub(super) registered: bool,
    /// It is healthy now and was not, or the other way round.
    pub(super) health: Option<bool>,
    pub(super) state: bool,
    pub(super) weight: bool,
    /// Anything that can be seen, the above included.
    pub(super) any: bool,
}

impl Seat {
    pub(super) fn new(arrival: Arrival<'_>, now: Instant) -> Self {
        let Arrival { record: Record { registration, state, reason, weight }, version, addresses, healthy, ends_here, .. } = arrival;
        Self {
            id_hash: hash(registration.id.as_str().as_bytes()),
            warm_since: Some(now),
            ewma: None,
            member: Arc::new(Member::new(&registration, addresses)),
            health: Health::registered(healthy),
            lease_until: end_of_lease(&registration, now).filter(|_| ends_here),
            ends_here,
            registration,
            admin: state,
            admin_reason: reason,
            operator_weight: weight,
            version,
            outlier: Outlier::default(),
            in_flight: 0,
            credit: 0,
            last_success: None,
        }
    }

    /// What is kept of it.
    pub(super) fn record(&self) -> Record {
        Record {
            registration: self.registration.clone(),
            state: self.admin,
            reason: self.admin_reason.clone(),
            weight: self.operator_weight,
        }
    }

    /// Takes over a newer record; at the same place, everything else that is known lives on.
    pub(super) fn take_over(&mut self, arrival: Arrival<'_>, now: Instant) -> News {
        let Arrival { record: Record { registration, state, reason, weight }, version, addresses, healthy, renews, .. } = arrival;
        let (was_healthy, weighed) = (self.health.is_healthy(), self.weight());
        let place = !self.member.is_at(&registration);
        if place {
            self.member = Arc::new(Member::new(&registration, addresses));
            self.health = Health::registered(healthy);
            self.outlier = Outlier::default();
            self.in_flight = 0;
            self.last_success = None;
            self.ewma = None;
            self.warm_since = Some(now);
        } else if let Some(healthy) = healthy {
            self.health.say(healthy);
        }
        let is_healthy = self.health.is_healthy();
        if !was_healthy && is_healthy {
            self.warm_since = Some(now);
        }
        let registered = self.registration != registration;
        let reweighted = self.operator_weight != weight;
        let renews = renews || self.registration.ttl != registration.ttl;
        let said = self.admin != state || self.admin_reason != reason;
        if said && self.admin != AdminState::Ready {
            self.warm_since = None;
        }
        (self.registration, self.operator_weight, self.version) = (registration, weight, version);
        (self.admin, self.admin_reason) = (state, reason);
        if renews {
            self.renew_lease(now);
        }
        let health = (was_healthy != is_healthy).then_some(is_healthy);
        let any = place || registered || said || reweighted || health.is_some();
        News { place, registered, health, state: said, weight: reweighted && weighed != self.weight(), any }
    }

    pub(super) fn renew_lease(&mut self, now: Instant) {
        self.lease_until = end_of_lease(&self.registration, now).filter(|_| self.ends_here);
    }

    pub(super) fn lease_is_over(&self, now: Instant) -> bool {
        self.lease_until.is_some_and(|until| until <= now)
    }

    /// The weight in force: the operator's, else the registered one.
    pub(super) fn weight(&self) -> Weight {
        self.operator_weight.or(self.registration.weight).unwrap_or(Weight::ONE)
    }

    /// Why it gets no calls at all, if so.
    pub(super) fn unavailable(&self, now: Instant) -> Option<Unavailable> {
        if self.admin != AdminState::Ready {
            return Some(Unavailable::State(self.admin));
        }
        if self.weight().get() == 0 {
            return Some(Unavailable::WeightZero);
        }
        if self.lease_is_over(now) {
            return Some(Unavailable::LeaseOver);
        }
        if !self.member.has_address() {
            return Some(Unavailable::NoAddress);
        }
        // Last, since in a panic these two do not count.
        if !self.health.is_healthy() {
            return Some(Unavailable::Unhealthy(self.health.last()));
        }
        if let Some(until) = self.outlier.ejected_until(now) {
            return Some(Unavailable::Ejected { until });
        }
        None
    }

    /// Whether it has as many attempts in flight as it may.
    pub(super) fn is_full(&self, default_limit: Option<u32>) -> bool {
        self.registration.max_in_flight.or(default_limit).is_some_and(|limit| self.in_flight >= limit)
    }

    /// As a strategy sees it, at its place among the seats.
    pub(super) fn candidate(&mut self, at: usize, config: &balance::Config, now: Instant) -> Candidate {
        let weight = u32::from(self.weight().get());
        let latency = self.ewma.filter(|_| config.strategy.goes_by_latency()).map(|ewma| ewma.micros(now));
        let weight = if config.slow_start_ms.0 == 0 { weight } else { weight * self.warmth(config, now) };
        Candidate { seat: at, weight, in_flight: self.in_flight, credit: self.credit, id: self.id_hash, latency }
    }

    /// The percentage of its weight that counts while it warms up.
    pub(super) fn warmth(&mut self, config: &balance::Config, now: Instant) -> u32 {
        let since = *self.warm_since.get_or_insert(now);
        if config.slow_start_ms.0 == 0 { FULL } else { warmth(config.slow_start_ms.duration(), now.saturating_duration_since(since)) }
    }

    /// Takes in an active check; answers whether the verdict changed.
    pub(super) fn checked(&mut self, config: &health::Config, result: CheckResult, now: Instant) -> bool {
        let recent = health::is_recent(config, self.last_success, now);
        let changed = self.health.record(config, result, recent);
        if changed && self.health.is_healthy() {
            self.warm_since = Some(now);
        }
        changed
    }
}

/// When a lease that begins now is over; never when that is further away than time can tell.
fn end_of_lease(registration: &Registration, now: Instant) -> Option<Instant> {
    registration.ttl.and_then(|ttl| now.checked_add(ttl))
}
