//! A gate that requests wait at until the test lets them through.

use std::sync::{Arc, Condvar, Mutex};

use super::PATIENCE;

/// Shared by the instances whose requests wait here and the test that holds it.
#[derive(Clone, Default)]
pub struct Gate(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Guarded: how many have come, how many may go, how many have gone.
    count: Mutex<Count>,
    changed: Condvar,
}

#[derive(Default)]
struct Count {
    come: usize,
    may_go: usize,
    gone: usize,
}

impl Gate {
    /// Waits for its turn: the instance's side.
    pub(super) fn pass(&self) {
        self.change(|count| count.come += 1);
        self.wait(|count| count.gone < count.may_go);
        self.change(|count| count.gone += 1);
    }

    /// Waits until `n` requests have come in all.
    pub fn has_seen(&self, n: usize) {
        self.wait(|count| count.come >= n);
    }

    /// How many requests have come in all.
    pub fn seen(&self) -> usize {
        self.0.count.lock().expect("no panic inside").come
    }

    /// Lets one more through.
    pub fn let_one_through(&self) {
        self.change(|count| count.may_go += 1);
    }

    /// Lets everyone through from now on.
    pub fn open(&self) {
        self.change(|count| count.may_go = usize::MAX);
    }

    fn change(&self, change: impl FnOnce(&mut Count)) {
        change(&mut self.0.count.lock().expect("no panic inside"));
        self.0.changed.notify_all();
    }

    fn wait(&self, enough: impl Fn(&Count) -> bool) {
        let count = self.0.count.lock().expect("no panic inside");
        let (count, late) = self.0.changed.wait_timeout_while(count, PATIENCE, |count| !enough(count)).expect("no panic inside");
        // The lock must not be poisoned for the others.
        drop(count);
        assert!(!late.timed_out(), "waited at a gate in vain");
    }
}
