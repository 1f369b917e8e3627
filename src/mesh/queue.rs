//! Calls that wait for a free slot, in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::Thread;

/// How a waiting call is told that it may be its turn. Waking too often is harmless.
#[derive(Clone)]
pub enum Wake {
    /// Unparks a thread: the blocking driver.
    Thread(Thread),
    /// Calls a function with this number, which must be quick and must not call the mesh: an event loop, and which of its calls.
    Call(Arc<dyn Fn(u64) + Send + Sync>, u64),
}

impl Wake {
    pub(crate) fn wake(&self) {
        match self {
            Self::Thread(thread) => thread.unpark(),
            Self::Call(function, number) => function(*number),
        }
    }

    /// Whether both wake the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Thread(one), Self::Thread(other)) => one.id() == other.id(),
            (Self::Call(one, number), Self::Call(other, same)) => number == same && Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

/// A place in the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ticket(u64);

/// First come, first served: only the head may take a slot, so that nobody overtakes. Who waits for certain instances only stands aside and
/// holds nobody up. Guarded by its owner.
#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<Place>,
    issued: u64,
}

struct Place {
    ticket: Ticket,
    wake: Wake,
    aside: bool,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    fn first(&self) -> Option<&Place> {
        self.waiting.iter().find(|place| !place.aside)
    }

    /// Whether `ticket` (or a newcomer without one) may try for a slot.
    pub(super) fn is_turn_of(&self, ticket: Option<Ticket>) -> bool {
        let is_aside = || self.waiting.iter().any(|place| place.aside && Some(place.ticket) == ticket);
        self.first().map(|place| place.ticket) == ticket || is_aside()
    }

    /// Waits at the end; a call that already holds something others wait for goes to the front, so that it can give it back.
    pub(super) fn join(&mut self, wake: Wake, holds_slot: bool) -> Ticket {
        self.issued += 1;
        let ticket = Ticket(self.issued);
        let place = Place { ticket, wake, aside: false };
        if holds_slot {
            self.waiting.push_front(place);
        } else {
            self.waiting.push_back(place);
        }
        ticket
    }

    /// Lets the others pass: there is room, but not where `ticket` wants to go. Answers whether that is new.
    pub(super) fn stand_aside(&mut self, ticket: Ticket) -> bool {
        let place = self.waiting.iter_mut().find(|place| place.ticket == ticket);
        place.is_some_and(|place| !std::mem::replace(&mut place.aside, true))
    }

    /// Leaves, with a slot or without.
    pub(super) fn leave(&mut self, ticket: Ticket) {
        self.waiting.retain(|place| place.ticket != ticket);
    }

    /// Whom to wake now that something may be free.
    pub(super) fn head(&self) -> Option<Wake> {
        self.first().map(|place| place.wake.clone())
    }

    /// Who stands aside and may find room now.
    pub(super) fn aside(&self) -> Vec<Wake> {
        self.waiting.iter().filter(|place| place.aside).map(|place| place.wake.clone()).collect()
    }
}
