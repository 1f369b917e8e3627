//! Counters, histograms and events: what there is to see of the mesh. Counting takes no lock.

pub mod counters;
pub mod doors;
pub mod events;
pub mod exposition;
pub mod histogram;
pub mod picture;
pub mod report;
pub mod table;
