//! Counters, histograms, events, and what they have been lately: what there is to see of the mesh. Counting takes no lock.

pub mod counters;
pub mod doors;
pub mod events;
pub mod histogram;
pub mod history;
pub mod report;
pub mod verdict;
