//! Virtual time, in two kinds.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use weft::model::time::{Clock, ManualClock};

use super::PATIENCE;

/// A clock that can be moved by hand.
pub trait Hand: Clock {
    /// Moves time forward by `by`.
    fn advance(&self, by: Duration);

    /// How often a thread has gone to sleep by it.
    fn sleeps(&self) -> usize;

    /// How often anyone has looked at it.
    fn looks(&self) -> usize;
}

/// For a world of one thread: waiting moves the time to the end of the wait.
#[derive(Default)]
pub struct Flowing {
    clock: ManualClock,
    sleeps: AtomicUsize,
    looks: AtomicUsize,
}

impl Clock for Flowing {
    fn now(&self) -> Instant {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.clock.now()
    }

    fn wall_ms(&self) -> u64 {
        self.clock.wall_ms()
    }

    fn park_until(&self, until: Instant) {
        self.sleeps.fetch_add(1, Ordering::SeqCst);
        self.clock.park_until(until);
    }
}

impl Hand for Flowing {
    fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn sleeps(&self) -> usize {
        self.sleeps.load(Ordering::SeqCst)
    }

    fn looks(&self) -> usize {
        self.looks.load(Ordering::SeqCst)
    }
}

/// For a world of real threads: time stands still until it is moved by hand, and who waits is woken or waits for that.
#[derive(Default)]
pub struct Standing {
    clock: ManualClock,
    sleeps: AtomicUsize,
    looks: AtomicUsize,
    /// Guarded: who sleeps by this clock.
    asleep: Mutex<Vec<Thread>>,
}

impl Standing {
    fn asleep<R>(&self, work: impl FnOnce(&mut Vec<Thread>) -> R) -> R {
        work(&mut self.asleep.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Clock for Standing {
    fn now(&self) -> Instant {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.clock.now()
    }

    fn wall_ms(&self) -> u64 {
        self.clock.wall_ms()
    }

    fn park_until(&self, until: Instant) {
        self.sleeps.fetch_add(1, Ordering::SeqCst);
        let me = thread::current();
        self.asleep(|asleep| asleep.push(me.clone()));
        // Whoever moves the time after this look wakes this thread.
        if self.now() < until {
            let began = Instant::now();
            thread::park_timeout(PATIENCE);
            assert!(began.elapsed() < PATIENCE, "nobody woke this thread");
        }
        self.asleep(|asleep| asleep.retain(|other| other.id() != me.id()));
    }
}

impl Hand for Standing {
    fn advance(&self, by: Duration) {
        self.clock.advance(by);
        for thread in self.asleep(|asleep| asleep.clone()) {
            thread.unpark();
        }
    }

    fn sleeps(&self) -> usize {
        self.sleeps.load(Ordering::SeqCst)
    }

    fn looks(&self) -> usize {
        self.looks.load(Ordering::SeqCst)
    }
}
