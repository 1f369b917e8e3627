//! The live state of one service: who is available, who is picked, who waits, what calls have shown.
//!
//! Everything that changes with calls sits in one plain struct behind one lock, entered twice per call: once to get in and pick, once to
//! report. What is done inside is arithmetic over the instances of this one service; events and wake-ups go out after the lock is left.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use super::member::Member;
use super::membership::next_index;
use super::pick::{Ask, Pick};
use super::queue::{Queue, Ticket, Wake};
use super::seat::{Seat, Unavailable};
use crate::model::sync::Locked;
use crate::model::{Cause, InstanceId, Limit, ServiceName};
use crate::policy::Policy;
use crate::policy::balance::{Candidate, Ewma};
use crate::policy::breaker::{Breaker, Permit, Refused, Transition};
use crate::policy::classify::Outcome;
use crate::policy::outlier::may_be_ejected;
use crate::policy::rate::{Limited, Limiter};
use crate::policy::retry::Budget;
use crate::telemetry::counters::ServiceCounters;
use crate::telemetry::events::{Events, Kind};
use crate::telemetry::history::History;

/// One service.
pub struct Cluster {
    /// Its name.
    pub name: ServiceName,
    /// What was counted.
    pub counters: ServiceCounters,
    pub(super) events: Arc<Events>,
    /// The last index any service has had, so that one that goes and comes back does not show an old index again.
    pub(super) indices: Arc<AtomicU64>,
    /// Guarded: all that changes with calls, checks and registrations.
    pub(super) state: Locked<State>,
    /// Guarded: what was counted lately; no call ever enters here.
    pub(super) history: Locked<History>,
}

pub(super) struct State {
    pub(super) policy: Arc<Policy>,
    pub(super) policy_version: u64,
    /// In order of registration.
    pub(super) seats: Vec<Seat>,
    pub(super) breaker: Breaker,
    pub(super) budget: Budget,
    limiter: Limiter,
    /// Calls under way of each caller (a hash), where they are limited.
    pub(super) callers: HashMap<u64, u32>,
    /// Calls that hold a slot.
    pub(super) in_flight: u32,
    pub(super) queue: Queue,
    /// Grows with every change of the instances; never 0.
    pub(super) index: u64,
    /// Who wants to know of the next change.
    pub(super) watchers: Vec<Wake>,
    /// The last instance has gone; whoever still holds this cluster must look again.
    pub(super) closed: bool,
    /// Somebody is ejected whose return has not been noticed.
    pub(super) some_ejected: bool,
    /// So few instances are healthy that health is ignored.
    pub(super) panicking: bool,
    /// What has changed and is to be said once the lock is left.
    pub(super) told: Vec<Told>,
    /// Reused by every pick.
    pub(super) candidates: Vec<Candidate>,
}

/// For how long an answer of any instance shows that the service works.
const RECENTLY: Duration = Duration::from_secs(1);

/// What a call came to as a whole.
pub(super) struct CallEnded<'a> {
    /// What it gives back.
    pub(super) admission: &'a mut Admission,
    /// What it says of the service.
    pub(super) outcome: Outcome,
    /// From start to end.
    pub(super) took: Duration,
    /// It would have been tried again, had there been budget.
    pub(super) lacked_budget: bool,
}

/// A call's slot and its leave from the circuit breaker; given back when dropped, as an outcome that says nothing.
#[must_use = "dropping it gives the slot back"]
pub(super) struct Admission {
    cluster: Arc<Cluster>,
    /// Until the circuit breaker has heard what came of it.
    permit: Option<Permit>,
    returned: bool,
}

impl Admission {
    pub(super) fn is_trial(&self) -> bool {
        self.permit.is_some_and(Permit::is_trial)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if !self.returned {
            let cluster = self.cluster.clone();
            cluster.settle(
                None,
                Some(CallEnded { admission: self, outcome: Outcome::Excluded, took: Duration::ZERO, lacked_budget: false }),
                None,
            );
        }
    }
}

/// An attempt's slot at its instance; given back when dropped, as an outcome that says nothing.
#[must_use = "dropping it gives the slot back"]
pub(super) struct InFlight {
    cluster: Arc<Cluster>,
    pub(super) member: Arc<Member>,
    /// Where the member sat when it was picked; it may have moved.
    seat: usize,
    returned: bool,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.returned {
            self.cluster.clone().settle(Some((self, Showed::NOTHING)), None, None);
        }
    }
}

/// A change: its kind, the instance it is about, and what happened.
pub(super) type Told = (Kind, Option<InstanceId>, String);

/// What an attempt showed of its instance.
#[derive(Clone, Copy)]
pub(super) struct Showed {
    /// For its ejection.
    pub(super) outcome: Outcome,
    /// It could not be reached, or not in time.
    pub(super) unreachable: bool,
    /// What the attempt counts as for strategies that go by latency.
    pub(super) latency: Option<Duration>,
}

impl Showed {
    /// Nothing.
    const NOTHING: Self = Self { outcome: Outcome::Excluded, unreachable: false, latency: None };
}

/// What asking for a slot, or for the next instance, comes to.
pub(super) enum Entry {
    /// Go ahead with this instance.
    Go(Option<Admission>, InFlight),
    /// Wait with this ticket.
    Wait(Ticket),
    /// Not now.
    Refused(Cause),
}

/// What there is to know before a retry.
pub(super) struct RetryOutlook {
    /// An available instance with room that the call has not tried.
    pub(super) untried: bool,
    /// The circuit opened meanwhile.
    pub(super) circuit_open: bool,
}

impl Cluster {
    pub(super) fn new(
        name: ServiceName,
        (policy, policy_version): (Arc<Policy>, u64),
        events: Arc<Events>,
        indices: Arc<AtomicU64>,
        now: Instant,
    ) -> Self {
        let budget = Budget::new(&policy.retry, now);
        let state = State {
            policy,
            policy_version,
            seats: Vec::new(),
            breaker: Breaker::default(),
            budget,
            limiter: Limiter::default(),
            callers: HashMap::new(),
            in_flight: 0,
            queue: Queue::default(),
            index: next_index(&indices),
            watchers: Vec::new(),
            closed: false,
            some_ejected: false,
            panicking: false,
            told: Vec::new(),
            candidates: Vec::new(),
        };
        Self { name, counters: ServiceCounters::default(), events, indices, state: Locked::new(state), history: Locked::default() }
    }

    /// The settings in force.
    pub fn policy(&self) -> Arc<Policy> {
        self.state.with(|state| Arc::clone(&state.policy))
    }

    pub(super) fn look<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        self.state.with(look)
    }

    // --- calls ---

    /// A new call of `caller` asks for a slot, for leave from the breaker, and for an instance, all at once. `ticket`: it has been waiting.
    pub(super) fn enter(self: &Arc<Self>, ticket: Option<Ticket>, ask: &Ask<'_>, caller: u64, wake: &Wake, now: Instant) -> Entry {
        let mut transition = None;
        let mut next = None;
        let mut enter = |state: &mut State| {
            if ticket.is_none() {
                if let Err(Limited { limit, retry_after }) = state.limiter.admit(&state.policy.rate_limit, caller, now) {
                    return Entry::Refused(Cause::RateLimited { limit, retry_after });
                }
                state.budget.deposit(&state.policy.retry, now);
            }
            if !state.queue.is_turn_of(ticket) || state.in_flight >= state.policy.limits.max_in_flight {
                return state.queue_up(ticket, wake, false);
            }
            let (leave, changed) = state.breaker.admit(&state.policy.circuit_breaker, now);
            transition = changed;
            let permit = match leave {
                Ok(permit) => permit,
                Err(Refused { retry_after }) => return state.refuse(ticket, Cause::CircuitOpen { retry_after }, &mut next),
            };
            match state.pick(ask, now) {
                Pick::Seat(seat, member) => {
                    state.in_flight += 1;
                    state.leave_queue(ticket, &mut next);
                    let admission = Admission { cluster: Arc::clone(self), permit: Some(permit), returned: false };
                    Entry::Go(Some(admission), InFlight { cluster: Arc::clone(self), member, seat, returned: false })
                }
                Pick::AllBusy => {
                    state.breaker.record(&state.policy.circuit_breaker, permit, Outcome::Excluded, Duration::ZERO, now);
                    state.wait_for_room(ticket, ask, wake, false, &mut next)
                }
                Pick::None => {
                    state.breaker.record(&state.policy.circuit_breaker, permit, Outcome::Excluded, Duration::ZERO, now);
                    state.refuse(ticket, Cause::NoHealthyInstance, &mut next)
                }
            }
        };
        let (entry, told) = self.state.with(|state| (enter(state), std::mem::take(&mut state.told)));
        self.after(next, transition, told);
        entry
    }

    /// A call that holds its slot asks for the instance of its next attempt.
    pub(super) fn again(self: &Arc<Self>, ticket: Option<Ticket>, ask: &Ask<'_>, wake: &Wake, now: Instant) -> Entry {
        let mut next = None;
        let mut enter = |state: &mut State| {
            if ticket.is_some() && !state.queue.is_turn_of(ticket) {
                return state.queue_up(ticket, wake, true);
            }
            if state.breaker.is_open() {
                return state.refuse(ticket, Cause::CircuitOpen { retry_after: Duration::from_secs(1) }, &mut next);
            }
            match state.pick(ask, now) {
                Pick::Seat(seat, member) => {
                    state.leave_queue(ticket, &mut next);
                    Entry::Go(None, InFlight { cluster: Arc::clone(self), member, seat, returned: false })
                }
                Pick::AllBusy => state.wait_for_room(ticket, ask, wake, true, &mut next),
                Pick::None => state.refuse(ticket, Cause::NoHealthyInstance, &mut next),
            }
        };
        let (entry, told) = self.state.with(|state| (enter(state), std::mem::take(&mut state.told)));
        self.after(next, None, told);
        entry
    }

    /// A call stops waiting.
    pub(super) fn leave(&self, ticket: Ticket) {
        let mut next = None;
        self.state.with(|state| state.leave_queue(Some(ticket), &mut next));
        self.after(next, None, Vec::new());
    }

    /// What a retry would find.
    pub(super) fn outlook(&self, ask: &Ask<'_>, now: Instant) -> RetryOutlook {
        self.state.with(|state| RetryOutlook { untried: state.has_untried(ask, now), circuit_open: state.breaker.is_open() })
    }

    /// Takes one retry out of the budget, if there is one.
    pub(super) fn withdraw_retry(&self, now: Instant) -> bool {
        let granted = self.state.with(|state| state.budget.withdraw(&state.policy.retry, now));
        if granted { &self.counters.retries } else { &self.counters.budget_exhausted }.add(1);
        granted
    }

    /// Takes back an attempt's slot with what it showed, and a call's slot and permit with its outcome and time. Without `now` (something was
    /// dropped) only slots are given back.
    pub(super) fn settle(&self, attempt: Option<(&mut InFlight, Showed)>, call: Option<CallEnded<'_>>, now: Option<Instant>) {
        let (next, aside, transition, told) = self.state.with(|state| {
            if let Some((in_flight, showed)) = attempt {
                in_flight.returned = true;
                state.attempt_ended(in_flight, showed, now);
            }
            let mut transition = None;
            if let Some(CallEnded { admission, outcome, took, lacked_budget }) = call {
                admission.returned = true;
                state.in_flight = state.in_flight.saturating_sub(1);
                // Without a time the outcome is "excluded", which looks at no clock.
                let now = now.unwrap_or_else(|| state.budget.last_seen());
                // A retry that the budget refused says nothing about the service as long as another instance might have answered.
                let outcome = if lacked_budget && state.has_answered_within(took.max(RECENTLY), now) { Outcome::Excluded } else { outcome };
                let permit = admission.permit.take();
                transition = permit.and_then(|permit| state.breaker.record(&state.policy.circuit_breaker, permit, outcome, took, now));
            }
            (state.queue.head(), state.queue.aside(), transition, std::mem::take(&mut state.told))
        });
        aside.iter().for_each(Wake::wake);
        self.after(next, transition, told);
    }

    /// What came of a call is known before it ends: the circuit breaker hears of it now, and the slot is kept.
    pub(super) fn hear(&self, admission: &mut Admission, outcome: Outcome, took: Duration, now: Instant) {
        let Some(permit) = admission.permit.take() else { return };
        let transition = self.state.with(|state| state.breaker.record(&state.policy.circuit_breaker, permit, outcome, took, now));
        self.after(None, transition, Vec::new());
    }

    /// Effects, outside the lock.
    pub(super) fn after(&self, wake: Option<Wake>, transition: Option<Transition>, told: Vec<Told>) {
        if let Some(wake) = wake {
            wake.wake();
        }
        for (kind, instance, detail) in told {
            if kind == Kind::Ejected {
                self.counters.ejections.add(1);
            }
            self.events.publish(kind, Some(&self.name), instance.as_ref(), detail);
        }
        if let Some(Transition { from, to }) = transition {
            self.counters.breaker_became(to);
            let detail = format!("circuit breaker {} -> {}", from.as_str(), to.as_str());
            self.events.publish(Kind::Breaker, Some(&self.name), None, detail);
        }
    }
}

impl State {
    /// The member with that id.
    pub(super) fn member(&self, id: &InstanceId) -> Option<Arc<Member>> {
        self.seats.iter().find(|seat| seat.member.id == *id).map(|seat| Arc::clone(&seat.member))
    }

    /// Waits in the queue, or is refused when it is full.
    fn queue_up(&mut self, ticket: Option<Ticket>, wake: &Wake, holds_slot: bool) -> Entry {
        match ticket {
            Some(ticket) => Entry::Wait(ticket),
            None if self.queue.len() >= usize::try_from(self.policy.limits.max_queue).unwrap_or(usize::MAX) => {
                Entry::Refused(Cause::Overloaded(Limit::Queue))
            }
            None => Entry::Wait(self.queue.join(wake.clone(), holds_slot)),
        }
    }

    /// Waits until an instance has room. A call that can only go to some of them stands aside for the others.
    fn wait_for_room(&mut self, ticket: Option<Ticket>, ask: &Ask<'_>, wake: &Wake, holds_slot: bool, next: &mut Option<Wake>) -> Entry {
        let entry = self.queue_up(ticket, wake, holds_slot);
        if let (Entry::Wait(ticket), Some(_)) = (&entry, ask.subset) {
            let news = self.queue.stand_aside(*ticket);
            *next = self.queue.head().filter(|_| news);
        }
        entry
    }

    /// Refuses a call; the next one in the queue may fare better.
    fn refuse(&mut self, ticket: Option<Ticket>, cause: Cause, next: &mut Option<Wake>) -> Entry {
        self.leave_queue(ticket, next);
        Entry::Refused(cause)
    }

    /// Gives up a place in the queue; there may be room for the next one too.
    fn leave_queue(&mut self, ticket: Option<Ticket>, next: &mut Option<Wake>) {
        if let Some(ticket) = ticket {
            self.queue.leave(ticket);
            *next = self.queue.head();
        }
    }

    /// Takes in the end of an attempt.
    fn attempt_ended(&mut self, ended: &InFlight, showed: Showed, now: Option<Instant>) {
        let is_it = |seat: &Seat| Arc::ptr_eq(&seat.member, &ended.member);
        let at = match self.seats.get(ended.seat) {
            Some(seat) if is_it(seat) => Some(ended.seat),
            _ => self.seats.iter().position(is_it),
        };
        let Some((at, seat)) = at.and_then(|at| Some((at, self.seats.get_mut(at)?))) else { return };
        seat.in_flight = seat.in_flight.saturating_sub(1);
        let Some(now) = now else { return };
        if showed.outcome == Outcome::Success {
            seat.last_success = Some(now);
        }
        if let Some(latency) = showed.latency.filter(|_| self.policy.load_balancing.strategy.goes_by_latency()) {
            seat.ewma = Some(Ewma::observe(seat.ewma, latency, now));
        }
        self.notice_returns(now);
        let config = &self.policy.outlier;
        let earned = |seat: &mut Seat| seat.outlier.record(config, showed.outcome, showed.unreachable, now);
        if self.seats.get_mut(at).is_some_and(earned) && self.may_eject(at, now) {
            self.eject(at, now);
        }
    }

    /// Whether any instance has answered well in the last while.
    fn has_answered_within(&self, age: Duration, now: Instant) -> bool {
        self.seats.iter().filter_map(|seat| seat.last_success).any(|at| now.saturating_duration_since(at) <= age)
    }

    /// Whether one more instance may be ejected, and another one is available besides.
    fn may_eject(&self, at: usize, now: Instant) -> bool {
        let others_available = self.seats.iter().enumerate().any(|(other, seat)| other != at && seat.unavailable(now).is_none());
        let ejected = self.seats.iter().filter(|seat| seat.outlier.ejected_until(now).is_some()).count();
        others_available && ejected < may_be_ejected(self.seats.len())
    }

    fn eject(&mut self, at: usize, now: Instant) {
        let Some(seat) = self.seats.get_mut(at) else { return };
        let failures = seat.outlier.failures();
        let time = seat.outlier.eject(&self.policy.outlier, now);
        self.some_ejected = true;
        let detail = format!("ejected for {} s after {failures} failed attempts in a row", time.as_secs_f64());
        self.told.push((Kind::Ejected, Some(seat.member.id.clone()), detail));
    }

    /// Why each instance is or is not available.
    pub(super) fn availability(&mut self, now: Instant) -> impl Iterator<Item = (&mut Seat, Option<Unavailable>)> {
        self.seats.iter_mut().map(move |seat| {
            let why = seat.unavailable(now);
            (seat, why)
        })
    }
}
