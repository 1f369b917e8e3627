//! Which workers wait for requests: a few receive, the others stand by (the leader/followers pattern of Schmidt et al., 2000).
//!
//! If all idle workers waited for requests, each request would wake another one, even when all it can do is to put a call in line. So only a
//! few do; one that begins something longer lets another take its place.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, Thread};

use crate::model::sync::Locked;

/// The workers of one listener.
pub(super) struct Crew {
    most: usize,
    /// How many receive. Changed without the lock, so that workers that come and go do not wait for each other; looked at again under it
    /// before one stands by, so that nobody stands by while nobody receives.
    receiving: AtomicUsize,
    /// Guarded: who stands by.
    state: Locked<State>,
}

#[derive(Default)]
struct State {
    standing_by: Vec<Thread>,
    over: bool,
}

impl Crew {
    /// A crew of which one more receives than the machine has cores, at least three: while one writes an answer, the client's next request
    /// is taken by another, and that must not be the last.
    pub(super) fn new() -> Self {
        let cores = thread::available_parallelism().map_or(2, usize::from);
        Self { most: cores.max(2) + 1, receiving: AtomicUsize::new(0), state: Locked::default() }
    }

    /// Blocks until the calling worker is to receive.
    pub(super) fn receive(&self) {
        if self.take_a_place() {
            return;
        }
        let me = thread::current();
        let id = me.id();
        let now = self.state.with(|state| {
            let now = state.over || self.take_a_place();
            if !now {
                state.standing_by.push(me);
            }
            now
        });
        // Whoever is taken off the list has been counted as receiving.
        while !now && self.state.with(|state| state.standing_by.iter().any(|thread| thread.id() == id)) {
            thread::park();
        }
    }

    fn take_a_place(&self) -> bool {
        let more = |receiving: usize| (receiving < self.most).then_some(receiving + 1);
        self.receiving.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    /// The calling worker receives no longer: it may be busy for a while. If nobody else receives, another takes over.
    pub(super) fn leave(&self) {
        let fewer = |receiving: usize| Some(receiving.saturating_sub(1));
        if self.receiving.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer) != Ok(1) {
            return;
        }
        let next = self.state.with(|state| {
            state.standing_by.pop().inspect(|_| {
                self.receiving.fetch_add(1, Ordering::SeqCst);
            })
        });
        if let Some(next) = next {
            next.unpark();
        }
    }

    /// Nobody stands by any longer.
    pub(super) fn dismiss(&self) {
        let all = self.state.with(|state| {
            state.over = true;
            std::mem::take(&mut state.standing_by)
        });
        all.iter().for_each(Thread::unpark);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_few_receive_and_one_that_leaves_last_is_replaced() {
        let crew = Arc::new(Crew { most: 2, receiving: AtomicUsize::new(0), state: Locked::default() });
        let (told, receiving) = mpsc::channel();
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let (crew, told) = (Arc::clone(&crew), told.clone());
                thread::spawn(move || {
                    crew.receive();
                    told.send(n).expect("the test waits");
                })
            })
            .collect();
        let count = |n: usize| receiving.iter().take(n).count();
        assert_eq!(count(2), 2);
        while crew.state.with(|state| state.standing_by.len()) < 2 {
            thread::yield_now();
        }
        crew.leave();
        assert!(receiving.try_recv().is_err(), "one still receives");
        crew.leave();
        assert_eq!(count(1), 1, "nobody did, so one took over");
        crew.dismiss();
        assert_eq!(count(1), 1);
        for thread in threads {
            thread.join().expect("ended");
        }
    }
}
