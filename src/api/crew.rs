//! Which workers wait for requests: a few receive, the others stand by (the leader/followers pattern of Schmidt et al., 2000).
//!
//! If all idle workers waited for requests, each request would wake another one, even when all it can do is to put a call in line. So only a
//! few do; one that begins something longer lets another take its place.

use std::thread::{self, Thread};

use crate::model::sync::Locked;

/// The workers of one listener.
pub(super) struct Crew {
    most: usize,
    /// Guarded: who receives and who stands by.
    state: Locked<State>,
}

#[derive(Default)]
struct State {
    receiving: usize,
    standing_by: Vec<Thread>,
    over: bool,
}

impl Crew {
    /// A crew of which as many receive as the machine has cores, at least two.
    pub(super) fn new() -> Self {
        let cores = thread::available_parallelism().map_or(2, usize::from);
        Self { most: cores.max(2), state: Locked::default() }
    }

    /// Blocks until the calling worker is to receive.
    pub(super) fn receive(&self) {
        let me = thread::current();
        let id = me.id();
        let now = self.state.with(|state| {
            let now = state.over || state.receiving < self.most;
            if now {
                state.receiving += 1;
            } else {
                state.standing_by.push(me);
            }
            now
        });
        // Whoever is taken off the list has been counted as receiving.
        while !now && self.state.with(|state| state.standing_by.iter().any(|thread| thread.id() == id)) {
            thread::park();
        }
    }

    /// The calling worker receives no longer: it may be busy for a while. If nobody else receives, another takes over.
    pub(super) fn leave(&self) {
        let next = self.state.with(|state| {
            state.receiving = state.receiving.saturating_sub(1);
            let next = if state.receiving == 0 { state.standing_by.pop() } else { None };
            state.receiving += usize::from(next.is_some());
            next
        });
        if let Some(next) = next {
            next.unpark();
        }
    }

    /// Nobody stands by any longer.
    pub(super) fn dismiss(&self) {
        let all = self.state.with(|state| {
            state.over = true;
            state.receiving += state.standing_by.len();
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
        let crew = Arc::new(Crew { most: 2, state: Locked::default() });
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
