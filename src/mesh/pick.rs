//! Choosing an instance for an attempt: who may be chosen, who is preferred, and whether health can be believed at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::cluster::State;
use super::member::Member;
use super::report::Attempts;
use super::seat::{Seat, Unavailable};
use crate::model::InstanceId;
use crate::policy::balance::{self, Draw};
use crate::telemetry::events::Kind;

/// What a call wants of a pick.
pub(super) struct Ask<'a> {
    /// Whom it has tried.
    pub(super) tried: &'a Attempts,
    /// Labels its instance must have.
    pub(super) subset: Option<&'a BTreeMap<String, String>>,
    /// Chance, and the key the call goes by.
    pub(super) draw: Draw,
}

/// What a pick comes to.
pub(super) enum Pick {
    /// This one; a slot has been taken there.
    Seat(usize, Arc<Member>),
    /// Some are available, but all are at their limit.
    AllBusy,
    /// Nobody is available.
    None,
}

impl State {
    /// Chooses an available instance and takes a slot there. Preferred are those that have not been tried, then those of the own zone.
    pub(super) fn pick(&mut self, ask: &Ask<'_>, now: Instant) -> Pick {
        self.notice_returns(now);
        self.notice_panic(now);
        let strategy = self.policy.load_balancing.strategy;
        let mut candidates = std::mem::take(&mut self.candidates);
        let available = self.gather(&mut candidates, ask, now);
        let picked = strategy.pick(&mut candidates, ask.draw);
        for candidate in &candidates {
            if let Some(seat) = self.seats.get_mut(candidate.seat) {
                seat.credit = candidate.credit;
            }
        }
        self.candidates = candidates;
        match picked.and_then(|at| Some((at, self.seats.get_mut(at)?))) {
            Some((at, seat)) => {
                seat.in_flight += 1;
                Pick::Seat(at, Arc::clone(&seat.member))
            }
            None if available => Pick::AllBusy,
            None => Pick::None,
        }
    }

    /// What the next pick would be, without making it; `None` when there is none, or only chance will tell.
    pub(super) fn peek(&mut self, now: Instant) -> Option<InstanceId> {
        let strategy = self.policy.load_balancing.strategy;
        if strategy.is_chance() {
            return None;
        }
        let mut candidates = Vec::new();
        self.gather(&mut candidates, &Ask { tried: &Attempts::default(), subset: None, draw: Draw::default() }, now);
        let at = strategy.pick(&mut candidates, Draw::default())?;
        self.seats.get(at).map(|seat| seat.member.id.clone())
    }

    /// Whether an instance is available, has room, and has not been tried.
    pub(super) fn has_untried(&self, ask: &Ask<'_>, now: Instant) -> bool {
        let limit = self.policy.limits.instance_max_in_flight;
        let free = |seat: &&Seat| may_be_picked(seat, self.panicking, now) && !seat.is_full(limit) && is_in(seat, ask.subset);
        self.seats.iter().filter(free).any(|seat| !ask.tried.were_at(&seat.member))
    }

    /// Fills `candidates` with the most preferred of those that may be picked; answers whether any may, be it full or not.
    fn gather(&mut self, candidates: &mut Vec<balance::Candidate>, ask: &Ask<'_>, now: Instant) -> bool {
        let (limit, config) = (self.policy.limits.instance_max_in_flight, &self.policy.load_balancing);
        let (mut available, mut least) = (false, u8::MAX);
        candidates.clear();
        for (at, seat) in self.seats.iter_mut().enumerate() {
            if !may_be_picked(seat, self.panicking, now) || !is_in(seat, ask.subset) {
                continue;
            }
            available = true;
            if seat.is_full(limit) {
                continue;
            }
            let elsewhere = config.zone.is_some() && seat.registration.zone != config.zone;
            let rank = 2 * u8::from(ask.tried.were_at(&seat.member)) + u8::from(elsewhere);
            if rank < least {
                candidates.clear();
                least = rank;
            }
            if rank == least {
                candidates.push(seat.candidate(at, config, now));
            }
        }
        available
    }

    /// Says of instances whose time of ejection is over that they are back.
    pub(super) fn notice_returns(&mut self, now: Instant) {
        if !self.some_ejected {
            return;
        }
        self.some_ejected = false;
        for seat in &mut self.seats {
            if seat.outlier.returned(now) {
                seat.warm_since = None;
                self.told.push((Kind::Returned, Some(seat.member.id.clone()), "ejection is over".to_owned()));
            }
            self.some_ejected |= seat.outlier.is_out();
        }
    }

    /// Whether so few instances are healthy that health cannot be believed, by the settings in force.
    pub(super) fn is_panic(&self, now: Instant) -> bool {
        let threshold = usize::try_from(self.policy.load_balancing.panic_threshold_percent).unwrap_or(100);
        if threshold == 0 {
            return false;
        }
        let (mut all, mut good) = (0, 0);
        for seat in &self.seats {
            match seat.unavailable(now) {
                None => (all, good) = (all + 1, good + 1),
                Some(Unavailable::Unhealthy(_) | Unavailable::Ejected { .. }) => all += 1,
                Some(_) => {}
            }
        }
        good * 100 < threshold * all
    }

    fn notice_panic(&mut self, now: Instant) {
        let panic = self.is_panic(now);
        if panic != self.panicking {
            self.panicking = panic;
            let threshold = self.policy.load_balancing.panic_threshold_percent;
            let detail = if panic {
                format!("fewer than {threshold} % of the instances are healthy: health and ejection are ignored")
            } else {
                "enough instances are healthy: health and ejection count again".to_owned()
            };
            self.told.push((Kind::Panic, None, detail));
        }
    }
}

/// Whether an instance may be picked. In a panic, what checks and failures say of it does not count.
pub(super) fn may_be_picked(seat: &Seat, panic: bool, now: Instant) -> bool {
    match seat.unavailable(now) {
        None => true,
        Some(Unavailable::Unhealthy(_) | Unavailable::Ejected { .. }) => panic,
        Some(_) => false,
    }
}

/// Whether an instance has the labels that are asked for.
pub(super) fn is_in(seat: &Seat, subset: Option<&BTreeMap<String, String>>) -> bool {
    let Some(subset) = subset else { return true };
    let labels = seat.registration.metadata.as_ref();
    subset.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}
