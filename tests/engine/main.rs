//! The whole mesh in a scripted world: instances do what the test says, time is virtual, chance is loaded. No socket, no sleep.
//!
//! [`world`] is the third driver of the engine beside the binary and an embedding program: [`weft::Mesh`] as it is, over a transport that
//! plays scripts. Where threads are the subject they are real, and held and released by hand.

// Nothing is reachable from outside a test binary; `pub` says what a module offers the others.
#![allow(unreachable_pub)]
// And in a test, to panic is to say what is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod world;

mod balancing;
mod breaker;
mod breaker_modes;
mod budget;
mod checking;
mod deadlines;
mod discovery;
mod ejection;
mod glance;
mod health;
mod hops;
mod limits;
mod machine;
mod metrics;
mod policy;
mod rate;
mod registry;
mod reproducibility;
mod retries;
mod routes;
mod shutdown;
mod stale;
mod store;
mod strategies;
mod watching;
