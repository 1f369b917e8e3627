//! Which calls may run on the workers now, and which wait: a fixed number of workers may be in calls, and one service may hold at most half
//! of them, so that a slow service leaves room for the others and calls leave room for everything else.
//!
//! Calls wait here, held by the edge, so that none holds a worker before it may run. The line is a plain queue behind the lock that also
//! counts the seats: finding the next call means looking past those of a service that has its share, and calls whose patience is over are
//! taken out of the middle; a channel can do neither.

use std::collections::{HashMap, VecDeque};

use crate::model::ServiceName;
use crate::model::sync::Locked;

/// Seats for calls, and the line before them. `J` names a waiting call.
pub(super) struct Desk<J> {
    seats: usize,
    share: usize,
    places: usize,
    /// Guarded: who sits and who waits.
    state: Locked<State<J>>,
}

struct State<J> {
    taken: usize,
    by_service: HashMap<ServiceName, usize>,
    line: VecDeque<(ServiceName, J)>,
}

/// What asking for a seat comes to.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Arrival {
    /// Make the call; leave the seat afterwards.
    Seated,
    /// It will be called.
    Waits,
    /// The line is full.
    Full,
}

impl<J: Copy + PartialEq> Desk<J> {
    /// `seats` workers may be in calls, `places` calls may wait.
    pub(super) fn new(seats: usize, places: usize) -> Self {
        let state = State { taken: 0, by_service: HashMap::new(), line: VecDeque::new() };
        Self { seats, share: (seats / 2).max(1), places, state: Locked::new(state) }
    }

    /// A call comes in.
    pub(super) fn arrive(&self, service: &ServiceName, call: J) -> Arrival {
        self.state.with(|state| {
            if state.sit(service, self.seats, self.share) {
                return Arrival::Seated;
            }
            if state.line.len() >= self.places {
                return Arrival::Full;
            }
            state.line.push_back((service.clone(), call));
            Arrival::Waits
        })
    }

    /// A call of `service` has left its seat; gives it to the first waiting call that may have it.
    pub(super) fn leave(&self, service: &ServiceName) -> Option<(ServiceName, J)> {
        self.state.with(|state| {
            state.stand(service);
            let at = state.line.iter().position(|(service, _)| state.by_service.get(service).is_none_or(|n| *n < self.share))?;
            let (service, call) = state.line.remove(at)?;
            state.sit(&service, self.seats, self.share);
            Some((service, call))
        })
    }

    /// A call no longer waits. Answers whether it still did: one that did not has a seat.
    pub(super) fn give_up(&self, call: J) -> bool {
        self.state.with(|state| {
            let before = state.line.len();
            state.line.retain(|(_, other)| *other != call);
            state.line.len() < before
        })
    }
}

impl<J> State<J> {
    fn sit(&mut self, service: &ServiceName, seats: usize, share: usize) -> bool {
        if self.taken >= seats {
            return false;
        }
        match self.by_service.get_mut(service) {
            Some(held) if *held >= share => return false,
            Some(held) => *held += 1,
            None => {
                self.by_service.insert(service.clone(), 1);
            }
        }
        self.taken += 1;
        true
    }

    fn stand(&mut self, service: &ServiceName) {
        self.taken = self.taken.saturating_sub(1);
        if let Some(held) = self.by_service.get_mut(service) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                self.by_service.remove(service);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> ServiceName {
        ServiceName::new(name).expect(name)
    }

    #[test]
    fn one_service_gets_half_of_the_seats_and_the_others_the_rest() {
        let desk = Desk::new(4, 10);
        let (slow, fast) = (service("slow"), service("fast"));
        assert_eq!(desk.arrive(&slow, 1), Arrival::Seated);
        assert_eq!(desk.arrive(&slow, 2), Arrival::Seated);
        assert_eq!(desk.arrive(&slow, 3), Arrival::Waits);
        assert_eq!(desk.arrive(&fast, 4), Arrival::Seated);
        assert_eq!(desk.arrive(&fast, 5), Arrival::Seated);
        assert_eq!(desk.arrive(&fast, 6), Arrival::Waits);
        assert_eq!(desk.leave(&fast), Some((fast.clone(), 6)), "the first that may, not the first in line");
        assert_eq!(desk.leave(&slow), Some((slow.clone(), 3)));
        assert_eq!(desk.leave(&slow), None);
    }

    #[test]
    fn a_full_line_refuses_at_once_and_who_gives_up_leaves_it() {
        let desk = Desk::new(1, 2);
        let one = service("one");
        assert_eq!(desk.arrive(&one, 0), Arrival::Seated);
        assert_eq!(desk.arrive(&one, 1), Arrival::Waits);
        assert_eq!(desk.arrive(&one, 2), Arrival::Waits);
        assert_eq!(desk.arrive(&one, 3), Arrival::Full);
        assert!(desk.give_up(1) && !desk.give_up(1) && !desk.give_up(0));
        assert_eq!(desk.leave(&one), Some((one.clone(), 2)));
        assert_eq!(desk.leave(&one), None);
        assert_eq!(desk.arrive(&one, 4), Arrival::Seated);
    }
}
