//! The one lock of the house: a plain struct behind a mutex, entered only through a closure.
//!
//! The closure makes the rule visible that a lock is held for a few plain operations and nothing else: no I/O, no callback, no log line, no
//! other lock inside. A poisoned lock is entered all the same: what is inside is plain data that every method leaves consistent, and
//! refusing it would turn one panic into an outage.

use std::sync::{Mutex, PoisonError, RwLock};

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
