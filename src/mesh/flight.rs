//! An attempt between its sending and its end: what it holds, and what its end will mean.

use std::time::{Duration, Instant};

use super::cluster::{InFlight, Showed};
use crate::policy::classify::Meaning;

/// An attempt under way.
pub(super) struct Flight {
    pub(super) slot: InFlight,
    pub(super) began: Instant,
    /// Its time is what the caller's own limit leaves.
    pub(super) cut_short_by_caller: bool,
    /// So is its time for connecting.
    pub(super) connect_cut_short_by_caller: bool,
    /// Its time is what the deadline of the call leaves.
    pub(super) cut_short: bool,
    /// How long the head of its answer took, once it has come.
    pub(super) answered_after: Option<Duration>,
}

impl Flight {
    /// What it shows of its instance, being over.
    pub(super) fn showed(&self, meaning: &Meaning, unreachable: bool, now: Instant) -> Showed {
        let took = self.answered_after.unwrap_or_else(|| now.saturating_duration_since(self.began));
        Showed { outcome: meaning.instance, unreachable, latency: meaning.latency(took) }
    }
}
