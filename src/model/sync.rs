//! The one lock of the house: a plain struct behind a mutex, entered only through a closure. And the two ways to wait for one another that
//! are built on it: [`Turns`] and [`Convoy`].
//!
//! The closure makes the rule visible that a lock is held for a few plain operations and nothing else: no I/O, no callback, no log line, no
//! other lock inside. A poisoned lock is entered all the same: what is inside is plain data that every method leaves consistent, and
//! refusing it would turn one panic into an outage.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

#[cfg(weft_measure_locks)]
use measure::timed;

/// Without measuring, nothing is added.
#[cfg(not(weft_measure_locks))]
fn timed<R>(_: &'static str, held: impl FnOnce() -> R) -> R {
    held()
}

/// A value guarded by a mutex.
#[derive(Default, Debug)]
pub(crate) struct Locked<T>(Mutex<T>);

impl<T> Locked<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Runs `work` on the value. `work` must be short and must not block.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        timed(std::any::type_name::<T>(), || work(&mut guard))
    }
}

/// A value that is replaced whole and read by cloning, such as an `Arc` snapshot.
#[derive(Default, Debug)]
pub(crate) struct Published<T>(RwLock<T>);

impl<T> Published<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(RwLock::new(value))
    }

    /// Runs `look` on the current value: a look-up and a clone, no more.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        let guard = self.0.read().unwrap_or_else(PoisonError::into_inner);
        timed(std::any::type_name::<T>(), || look(&guard))
    }

    /// Replaces the value by what `change` makes of it.
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whose turn it is, key by key. Whoever has the turn of a key has it alone; others who want it wait.
///
/// A turn is no lock: it may be held while something is kept on a disk or in another process, so that what is kept and what is then changed
/// in memory happen in the same order. Nobody who only reads, and no call, ever needs one. A thread holds one turn at a time.
#[derive(Debug)]
pub(crate) struct Turns<K> {
    taken: Mutex<HashSet<K>>,
    given_back: Condvar,
}

/// The turn of one key; given back when dropped.
#[must_use = "dropping it gives the turn back"]
#[derive(Debug)]
pub(crate) struct Turn<'a, K: Eq + Hash> {
    turns: &'a Turns<K>,
    key: K,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self { taken: Mutex::default(), given_back: Condvar::new() }
    }
}

impl<K: Eq + Hash + Clone> Turns<K> {
    /// Waits for the turn of `key`.
    pub(crate) fn take(&self, key: K) -> Turn<'_, K> {
        let mut taken = entered(&self.taken);
        while !taken.insert(key.clone()) {
            taken = self.given_back.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        Turn { turns: self, key }
    }

    /// The turn of `key`, unless somebody else has it.
    pub(crate) fn try_take(&self, key: K) -> Option<Turn<'_, K>> {
        let is_free = entered(&self.taken).insert(key.clone());
        // Not made unless it is free: a turn that is dropped is given back.
        is_free.then(|| Turn { turns: self, key })
    }
}

impl<K: Eq + Hash> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        entered(&self.turns.taken).remove(&self.key);
        self.turns.given_back.notify_all();
    }
}

/// Work that is done for many at once: whoever comes while nobody works does it, for all who have come until then; whoever comes meanwhile
/// waits, and the first of those does it next. So a slow piece of work, such as a sync of a file, is shared by all who wait for it.
///
/// `W` is what the work is done with; only the one at work has it, and no lock is held meanwhile. `B` gathers what is to be done.
#[derive(Debug)]
pub(crate) struct Convoy<W, B, R> {
    state: Mutex<Gathering<W, B, R>>,
    done: Condvar,
}

#[derive(Debug)]
struct Gathering<W, B, R> {
    /// Absent while somebody works.
    worker: Option<W>,
    open: B,
    /// What will have come of the open batch.
    result: Arc<OnceLock<R>>,
}

impl<W, B: Default, R: Clone> Convoy<W, B, R> {
    pub(crate) fn new(worker: W) -> Self {
        let state = Gathering { worker: Some(worker), open: B::default(), result: Arc::default() };
        Self { state: Mutex::new(state), done: Condvar::new() }
    }

    /// Adds to the batch and waits until it is worked off, by this thread or another; answers what came of the batch. `None` when the thread
    /// that worked on it panicked.
    pub(crate) fn join(&self, add: impl FnOnce(&mut B), work: impl FnOnce(&mut W, B) -> R) -> Option<R> {
        let mut state = entered(&self.state);
        add(&mut state.open);
        let mine = Arc::clone(&state.result);
        loop {
            if let Some(result) = mine.get() {
                return Some(result.clone());
            }
            match state.worker.take() {
                None => state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(worker) if Arc::ptr_eq(&mine, &state.result) => {
                    let batch = std::mem::take(&mut state.open);
                    state.result = Arc::default();
                    drop(state);
                    let mut shift = Shift { convoy: self, worker: Some(worker) };
                    let result = shift.worker.as_mut().map(|worker| work(worker, batch))?;
                    // Nobody else can have set it: a batch is taken once.
                    let _ = mine.set(result.clone());
                    return Some(result);
                }
                Some(worker) => {
                    state.worker = Some(worker);
                    return None;
                }
            }
        }
    }

    /// Adds to the batch and does not wait: it is worked off with what comes next.
    pub(crate) fn leave(&self, add: impl FnOnce(&mut B)) {
        add(&mut entered(&self.state).open);
    }

    /// Runs `look` on the worker and what is still to be done; `None` while somebody works.
    pub(crate) fn at_rest<T>(&self, look: impl FnOnce(&mut W, &mut B) -> T) -> Option<T> {
        let Gathering { worker, open, .. } = &mut *entered(&self.state);
        worker.as_mut().map(|worker| look(worker, open))
    }
}

/// The worker, on its way back to the convoy, whatever happens.
struct Shift<'a, W, B, R> {
    convoy: &'a Convoy<W, B, R>,
    worker: Option<W>,
}

impl<W, B, R> Drop for Shift<'_, W, B, R> {
    fn drop(&mut self) {
        entered(&self.convoy.state).worker = self.worker.take();
        self.convoy.done.notify_all();
    }
}

fn entered<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long locks are held, by what they guard: for `tests/bench/engine.rs`, in builds with `--cfg weft_measure_locks` only.
#[cfg(weft_measure_locks)]
#[allow(unreachable_pub)] // Reachable only for the measurement.
pub mod measure {
    use std::sync::OnceLock;
    use std::time::Duration;

    use crate::model::time::{Clock, SystemClock};

    static LISTENER: OnceLock<fn(&'static str, Duration)> = OnceLock::new();

    /// From now on `listener` is told what was guarded and how long it was held.
    pub fn listen(listener: fn(&'static str, Duration)) {
        // The first one stays.
        let _ = LISTENER.set(listener);
    }

    pub(super) fn timed<R>(guarded: &'static str, held: impl FnOnce() -> R) -> R {
        let start = SystemClock.now();
        let result = held();
        if let Some(tell) = LISTENER.get() {
            tell(guarded, SystemClock.now().saturating_duration_since(start));
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn a_turn_is_had_by_one_at_a_time_and_other_keys_do_not_wait() {
        let turns = Turns::default();
        let inside = AtomicUsize::new(0);
        let other = turns.take("other");
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _turn = turns.take("one");
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(turns.try_take("other").is_none());
        drop(other);
        assert!(turns.try_take("other").is_some());
    }

    #[test]
    fn those_who_come_while_somebody_works_share_the_next_batch() {
        let convoy: Convoy<Vec<Vec<u32>>, Vec<u32>, usize> = Convoy::new(Vec::new());
        let (works, begun) = mpsc::channel();
        let (go_on, gate) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let convoy = &convoy;
            let first = scope.spawn(move || {
                convoy.join(
                    |batch| batch.push(0),
                    |all, batch| {
                        works.send(()).expect("the test waits");
                        gate.recv().expect("the test says when");
                        all.push(batch);
                        all.len()
                    },
                )
            });
            begun.recv().expect("the first is at work");
            assert_eq!(convoy.at_rest(|_, _| ()), None);
            convoy.leave(|batch| batch.push(1));
            let join = |n| {
                convoy.join(
                    |batch| batch.push(n),
                    |all, batch| {
                        all.push(batch);
                        all.len()
                    },
                )
            };
            let rest: Vec<_> = (2..6).map(|n| scope.spawn(move || join(n))).collect();
            while entered(&convoy.state).open.len() < 5 {
                thread::yield_now();
            }
            go_on.send(()).expect("it waits");
            assert_eq!(first.join().expect("no panic"), Some(1));
            assert!(rest.into_iter().all(|thread| thread.join().expect("no panic") == Some(2)));
        });
        let batches = convoy.at_rest(|all, open| (std::mem::take(all), open.is_empty()));
        let (mut batches, nothing_left) = batches.expect("nobody works");
        batches[1].sort_unstable();
        assert_eq!((batches, nothing_left), (vec![vec![0], vec![1, 2, 3, 4, 5]], true));
    }

    #[test]
    fn a_panic_at_work_is_told_to_those_it_worked_for_and_the_next_batch_goes_on() {
        let convoy: Convoy<(), Vec<u32>, usize> = Convoy::new(());
        thread::scope(|scope| {
            let panics = scope.spawn(|| convoy.join(|batch| batch.push(1), |(), _| panic!("on purpose")));
            assert!(panics.join().is_err());
        });
        assert_eq!(convoy.join(|batch| batch.push(2), |(), batch| batch.len()), Some(1));
    }
}
