//! What there is to see of the mesh: counters, histograms and events, what they have been lately, and single calls in retrospect. Counting
//! takes no lock.

pub mod access_log;
pub mod context;
pub mod counters;
pub mod doors;
pub mod events;
pub mod histogram;
pub mod history;
pub mod onlookers;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod report;
pub mod taps;
pub mod trace;
pub mod traces;
pub mod verdict;
