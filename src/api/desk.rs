//! Who may make a call now, and who waits: a fixed number of workers may be in calls, and one service may hold at most half of them, so
//! that a slow service leaves room for the others and calls leave room for everything else.
//!
//! A worker that finishes a call takes the next waiting one with it. The line is a plain queue behind the lock that also counts the seats:
//! finding the next call means looking past those of a service that has its share, and calls whose patience is over must be taken out
//! of the middle; a channel can do neither.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use crate::model::ServiceName;
use crate::model::sync::Locked;

/// Seats for calls, and the line before them. `J` is a waiting call.
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
    line: VecDeque<Waiting<J>>,
    /// When somebody will look after the line next.
    watched: Option<Instant>,
}

struct Waiting<J> {
    service: ServiceName,
    until: Instant,
    job: J,
}

/// What asking for a seat comes to.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Arrival<J> {
    /// Make the call; leave the seat afterwards.
    Seated(J),
    /// Somebody will take it. `unwatched`: nobody looks after the line in time for it.
    Waits { unwatched: bool },
    /// The line is full.
    Full(J),
}

impl<J> Desk<J> {
    /// `seats` workers may be in calls, `places` calls may wait.
    pub(super) fn new(seats: usize, places: usize) -> Self {
        let state = State { taken: 0, by_service: HashMap::new(), line: VecDeque::new(), watched: None };
        Self { seats, share: (seats / 2).max(1), places, state: Locked::new(state) }
    }

    /// A call comes in; it may wait until `until`.
    pub(super) fn arrive(&self, service: &ServiceName, until: Instant, job: J) -> Arrival<J> {
        self.state.with(|state| {
            if state.sit(service, self.seats, self.share) {
                return Arrival::Seated(job);
            }
            if state.line.len() >= self.places {
                return Arrival::Full(job);
            }
            state.line.push_back(Waiting { service: service.clone(), until, job });
            let unwatched = state.watched.is_none_or(|at| until < at);
            if unwatched {
                state.watched = Some(until);
            }
            Arrival::Waits { unwatched }
        })
    }

    /// A call of `service` has ended; gives its seat to the first waiting call that may have it.
    pub(super) fn leave(&self, service: &ServiceName) -> Option<(ServiceName, J)> {
        self.state.with(|state| {
            state.stand(service);
            let at = state.line.iter().position(|waiting| state.by_service.get(&waiting.service).is_none_or(|n| *n < self.share))?;
            let Waiting { service, job, .. } = state.line.remove(at)?;
            state.sit(&service, self.seats, self.share);
            Some((service, job))
        })
    }

    /// Takes out the calls whose patience is over, and says when to look again; an empty line need not be looked after.
    pub(super) fn expire(&self, now: Instant) -> (Vec<J>, Option<Instant>) {
        self.state.with(|state| {
            let mut expired = Vec::new();
            let mut at = 0;
            while let Some(waiting) = state.line.get(at) {
                if waiting.until <= now {
                    expired.extend(state.line.remove(at).map(|waiting| waiting.job));
                } else {
                    at += 1;
                }
            }
            state.watched = state.line.iter().map(|waiting| waiting.until).min();
            (expired, state.watched)
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
    use std::time::Duration;

    use super::*;

    fn service(name: &str) -> ServiceName {
        ServiceName::new(name).expect(name)
    }

    #[test]
    fn one_service_gets_half_of_the_seats_and_the_others_the_rest() {
        let (desk, until) = (Desk::new(4, 10), Instant::now());
        let (slow, fast) = (service("slow"), service("fast"));
        assert_eq!(desk.arrive(&slow, until, 1), Arrival::Seated(1));
        assert_eq!(desk.arrive(&slow, until, 2), Arrival::Seated(2));
        assert_eq!(desk.arrive(&slow, until, 3), Arrival::Waits { unwatched: true });
        assert_eq!(desk.arrive(&fast, until, 4), Arrival::Seated(4));
        assert_eq!(desk.arrive(&fast, until, 5), Arrival::Seated(5));
        assert_eq!(desk.arrive(&fast, until, 6), Arrival::Waits { unwatched: false });
        assert_eq!(desk.leave(&fast), Some((fast.clone(), 6)), "the first that may, not the first in line");
        assert_eq!(desk.leave(&slow), Some((slow.clone(), 3)));
        assert_eq!(desk.leave(&slow), None);
    }

    #[test]
    fn a_full_line_refuses_at_once_and_patience_ends() {
        let (desk, now) = (Desk::new(1, 2), Instant::now());
        let one = service("one");
        assert_eq!(desk.arrive(&one, now, 0), Arrival::Seated(0));
        assert_eq!(desk.arrive(&one, now + Duration::from_millis(5), 1), Arrival::Waits { unwatched: true });
        assert_eq!(desk.arrive(&one, now + Duration::from_millis(9), 2), Arrival::Waits { unwatched: false });
        assert_eq!(desk.arrive(&one, now, 3), Arrival::Full(3));
        assert_eq!(desk.expire(now + Duration::from_millis(5)), (vec![1], Some(now + Duration::from_millis(9))));
        assert_eq!(desk.leave(&one), Some((one.clone(), 2)));
        assert_eq!(desk.leave(&one), None);
        assert_eq!(desk.arrive(&one, now, 4), Arrival::Seated(4));
    }

    #[test]
    fn a_call_with_less_patience_than_those_before_it_is_looked_after_in_time() {
        let (desk, now) = (Desk::new(1, 10), Instant::now());
        let one = service("one");
        let ms = Duration::from_millis;
        assert_eq!(desk.arrive(&one, now, 0), Arrival::Seated(0));
        assert_eq!(desk.arrive(&one, now + ms(1000), 1), Arrival::Waits { unwatched: true });
        assert_eq!(desk.arrive(&one, now + ms(1001), 2), Arrival::Waits { unwatched: false });
        assert_eq!(desk.arrive(&one, now + ms(100), 3), Arrival::Waits { unwatched: true });
        assert_eq!(desk.expire(now), (vec![], Some(now + ms(100))));
        assert_eq!(desk.expire(now + ms(100)), (vec![3], Some(now + ms(1000))));
    }
}
