//! The one lock of the house: a plain struct behind a mutex, entered only through a closure.
//!
//! The closure makes the rule visible that a lock is held for a few plain operations and nothing else: no I/O, no callback, no log line, no
//! other lock inside. A poisoned lock is entered all the same: what is inside is plain data that every method leaves consistent, and
//! refusing it would turn one panic into an outage.

use std::sync::{Mutex, PoisonError, RwLock};

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
        work(&mut guard)
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
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the value by what `change` makes of it.
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}
