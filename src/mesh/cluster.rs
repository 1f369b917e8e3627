//! The live state of one service: who is available, who is picked, who waits, what calls have shown.
//!
//! Everything that changes with calls sits in one plain struct behind one lock, entered twice per call: once to get in and pick, once to
//! report. What is done inside is arithmetic over the instances of this one service; events and wake-ups go out after the lock is left.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use super::member::Member;
use super::membership::next_index;
use super::queue::{Queue, Ticket, Wake};
use super::seat::{Seat, Unavailable};
use crate::model::sync::Locked;
use crate::model::{Cause, InstanceId, Limit, ServiceName};
use crate::policy::Policy;
use crate::policy::balance::Candidate;
use crate::policy::breaker::{Breaker, Permit, Refused, Transition};
use crate::policy::classify::Outcome;
use crate::policy::outlier::may_be_ejected;
use crate::policy::retry::Budget;
use crate::telemetry::counters::ServiceCounters;
use crate::telemetry::events::{Events, Kind};

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
}

pub(super) struct State {
    pub(super) policy: Arc<Policy>,
    pub(super) policy_version: u64,
    /// In order of registration.
    pub(super) seats: Vec<Seat>,
    pub(super) breaker: Breaker,
    pub(super) budget: Budget,
    /// Calls that hold a slot.
    pub(super) in_flight: u32,
    pub(super) queue: Queue,
    /// Grows with every change of the instances; never 0.
    pub(super) index: u64,
    /// Who wants to know of the next change.
    pub(super) watchers: Vec<Wake>,
    /// The last instance has gone; whoever still holds this cluster must look again.
    pub(super) closed: bool,
    /// Reused by every pick.
    candidates: Vec<Candidate>,
}

/// A call's slot and its leave from the circuit breaker; given back when dropped, as an outcome that says nothing.
#[must_use = "dropping it gives the slot back"]
pub(super) struct Admission {
    cluster: Arc<Cluster>,
    permit: Permit,
    returned: bool,
}

impl Admission {
    pub(super) const fn is_trial(&self) -> bool {
        self.permit.is_trial()
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if !self.returned {
            self.cluster.clone().settle(None, Some((self, Outcome::Excluded)), None);
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
            self.cluster.clone().settle(Some((self, Outcome::Excluded, false)), None, None);
        }
    }
}

/// Says whether a call has tried a member.
pub(super) type Tried<'a> = &'a dyn Fn(&Arc<Member>) -> bool;

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
            in_flight: 0,
            queue: Queue::default(),
            index: next_index(&indices),
            watchers: Vec::new(),
            closed: false,
            candidates: Vec::new(),
        };
        Self { name, counters: ServiceCounters::default(), events, indices, state: Locked::new(state) }
    }

    /// The settings in force.
    pub fn policy(&self) -> Arc<Policy> {
        self.state.with(|state| Arc::clone(&state.policy))
    }

    pub(super) fn look<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        self.state.with(look)
    }

    // --- calls ---

    /// A new call asks for a slot, for leave from the breaker, and for an instance, all at once. `ticket`: it has been waiting.
    pub(super) fn enter(self: &Arc<Self>, ticket: Option<Ticket>, wake: &Wake, now: Instant) -> Entry {
        let mut transition = None;
        let mut next = None;
        let entry = self.state.with(|state| {
            if ticket.is_none() {
                let policy = Arc::clone(&state.policy);
                state.budget.deposit(&policy.retry, now);
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
            match state.pick(&|_| false, now) {
                Pick::Seat(seat, member) => {
                    state.in_flight += 1;
                    state.leave_queue(ticket, &mut next);
                    let admission = Admission { cluster: Arc::clone(self), permit, returned: false };
                    Entry::Go(Some(admission), InFlight { cluster: Arc::clone(self), member, seat, returned: false })
                }
                Pick::AllBusy => {
                    state.breaker.record(&state.policy.circuit_breaker, permit, Outcome::Excluded, now);
                    state.queue_up(ticket, wake, false)
                }
                Pick::None => {
                    state.breaker.record(&state.policy.circuit_breaker, permit, Outcome::Excluded, now);
                    state.refuse(ticket, Cause::NoHealthyInstance, &mut next)
                }
            }
        });
        self.after(next, transition);
        entry
    }

    /// A call that holds its slot asks for the instance of its next attempt.
    pub(super) fn again(self: &Arc<Self>, ticket: Option<Ticket>, tried: Tried<'_>, wake: &Wake, now: Instant) -> Entry {
        let mut next = None;
        let entry = self.state.with(|state| {
            if ticket.is_some() && !state.queue.is_turn_of(ticket) {
                return state.queue_up(ticket, wake, true);
            }
            if state.breaker.is_open() {
                return state.refuse(ticket, Cause::CircuitOpen { retry_after: Duration::from_secs(1) }, &mut next);
            }
            match state.pick(tried, now) {
                Pick::Seat(seat, member) => {
                    state.leave_queue(ticket, &mut next);
                    Entry::Go(None, InFlight { cluster: Arc::clone(self), member, seat, returned: false })
                }
                Pick::AllBusy => state.queue_up(ticket, wake, true),
                Pick::None => state.refuse(ticket, Cause::NoHealthyInstance, &mut next),
            }
        });
        self.after(next, None);
        entry
    }

    /// A call stops waiting.
    pub(super) fn leave(&self, ticket: Ticket) {
        let mut next = None;
        self.state.with(|state| state.leave_queue(Some(ticket), &mut next));
        self.after(next, None);
    }

    /// What a retry would find.
    pub(super) fn outlook(&self, tried: Tried<'_>, now: Instant) -> RetryOutlook {
        self.state.with(|state| RetryOutlook {
            untried: {
                let limit = state.policy.limits.instance_max_in_flight;
                let free = |seat: &&Seat| seat.unavailable(now).is_none() && !seat.is_full(limit);
                state.seats.iter().filter(free).any(|seat| !tried(&seat.member))
            },
            circuit_open: state.breaker.is_open(),
        })
    }

    /// Takes one retry out of the budget, if there is one.
    pub(super) fn withdraw_retry(&self, now: Instant) -> bool {
        let granted = self.state.with(|state| {
            let policy = Arc::clone(&state.policy);
            state.budget.withdraw(&policy.retry, now)
        });
        if granted { &self.counters.retries } else { &self.counters.budget_exhausted }.add(1);
        granted
    }

    /// Takes back an attempt's slot with what it showed (its outcome, and whether the instance could not be reached), and a call's slot and
    /// permit with its outcome. Without `now` (something was dropped) only slots are given back.
    pub(super) fn settle(
        &self,
        attempt: Option<(&mut InFlight, Outcome, bool)>,
        call: Option<(&mut Admission, Outcome)>,
        now: Option<Instant>,
    ) {
        let mut ejected = None;
        let (next, transition) = self.state.with(|state| {
            if let Some((in_flight, outcome, unreachable)) = attempt {
                in_flight.returned = true;
                ejected = state.attempt_ended(in_flight, outcome, unreachable, now);
            }
            let mut transition = None;
            if let Some((admission, outcome)) = call {
                admission.returned = true;
                state.in_flight = state.in_flight.saturating_sub(1);
                // Without a time the outcome is "excluded", which looks at no clock.
                let now = now.unwrap_or_else(|| state.budget.last_seen());
                transition = state.breaker.record(&state.policy.circuit_breaker, admission.permit, outcome, now);
            }
            (state.queue.head(), transition)
        });
        if let Some((id, time, count)) = ejected {
            self.counters.ejections.add(1);
            let detail = format!("ejected for {} s after {count} failed attempts in a row", time.as_secs_f64());
            self.events.publish(Kind::Ejected, Some(&self.name), Some(&id), detail);
        }
        self.after(next, transition);
    }

    /// Effects, outside the lock.
    pub(super) fn after(&self, wake: Option<Wake>, transition: Option<Transition>) {
        if let Some(wake) = wake {
            wake.wake();
        }
        if let Some(Transition { from, to }) = transition {
            let detail = format!("circuit breaker {} -> {}", from.as_str(), to.as_str());
            self.events.publish(Kind::Breaker, Some(&self.name), None, detail);
        }
    }
}

enum Pick {
    Seat(usize, Arc<Member>),
    AllBusy,
    None,
}

impl State {
    /// Chooses an available instance, one that has not been tried if there is one, and takes a slot there.
    fn pick(&mut self, tried: Tried<'_>, now: Instant) -> Pick {
        let limit = self.policy.limits.instance_max_in_flight;
        let mut available = false;
        let mut gather = |candidates: &mut Vec<Candidate>, seats: &[Seat], skip_tried: bool| {
            candidates.clear();
            for (at, seat) in seats.iter().enumerate() {
                if seat.unavailable(now).is_some() {
                    continue;
                }
                available = true;
                let was_tried = skip_tried && tried(&seat.member);
                if !was_tried && !seat.is_full(limit) {
                    candidates.push(seat.candidate(at));
                }
            }
        };
        gather(&mut self.candidates, &self.seats, true);
        if self.candidates.is_empty() {
            gather(&mut self.candidates, &self.seats, false);
        }
        let Some(at) = self.policy.load_balancing.strategy.pick(&mut self.candidates) else {
            return if available { Pick::AllBusy } else { Pick::None };
        };
        for candidate in &self.candidates {
            if let Some(seat) = self.seats.get_mut(candidate.seat) {
                seat.credit = candidate.credit;
            }
        }
        match self.seats.get_mut(at) {
            Some(seat) => {
                seat.in_flight += 1;
                Pick::Seat(at, Arc::clone(&seat.member))
            }
            None => Pick::None,
        }
    }

    /// The member with that id.
    pub(super) fn member(&self, id: &InstanceId) -> Option<Arc<Member>> {
        self.seats.iter().find(|seat| seat.member.id == *id).map(|seat| Arc::clone(&seat.member))
    }

    /// What the next pick would be, without making it.
    pub(super) fn peek(&self, now: Instant) -> Option<InstanceId> {
        let limit = self.policy.limits.instance_max_in_flight;
        let free = self.seats.iter().enumerate().filter(|(_, seat)| seat.unavailable(now).is_none() && !seat.is_full(limit));
        let mut candidates: Vec<Candidate> = free.map(|(at, seat)| seat.candidate(at)).collect();
        let at = self.policy.load_balancing.strategy.pick(&mut candidates)?;
        self.seats.get(at).map(|seat| seat.member.id.clone())
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

    /// Takes in the end of an attempt. Answers who was ejected for how long after how many failures.
    fn attempt_ended(
        &mut self,
        ended: &InFlight,
        outcome: Outcome,
        unreachable: bool,
        now: Option<Instant>,
    ) -> Option<(InstanceId, Duration, u32)> {
        let is_it = |seat: &Seat| Arc::ptr_eq(&seat.member, &ended.member);
        let at = match self.seats.get(ended.seat) {
            Some(seat) if is_it(seat) => ended.seat,
            _ => self.seats.iter().position(is_it)?,
        };
        let config = &self.policy.outlier;
        let seat = self.seats.get_mut(at)?;
        seat.in_flight = seat.in_flight.saturating_sub(1);
        let now = now?;
        if outcome == Outcome::Success {
            seat.last_success = Some(now);
        }
        if !seat.outlier.record(config, outcome, unreachable, now) {
            return None;
        }
        let others_available = self.seats.iter().enumerate().any(|(other, seat)| other != at && seat.unavailable(now).is_none());
        let ejected = self.seats.iter().filter(|seat| seat.outlier.ejected_until(now).is_some()).count();
        if !others_available || ejected >= may_be_ejected(self.seats.len()) {
            return None;
        }
        let seat = self.seats.get_mut(at)?;
        let failures = seat.outlier.failures();
        let time = seat.outlier.eject(config, now);
        Some((seat.member.id.clone(), time, failures))
    }

    /// Why each instance is or is not available.
    pub(super) fn availability(&self, now: Instant) -> impl Iterator<Item = (&Seat, Option<Unavailable>)> {
        self.seats.iter().map(move |seat| (seat, seat.unavailable(now)))
    }
}
