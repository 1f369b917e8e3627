//! The engine under traffic, in virtual time: the real call machine, driven by an event loop, against instances that are slow, fail, flap
//! or have room for few. Seeded: the same figures each time. Each scenario asserts what a user was promised.
//!
//! `cargo test --test simulator -- --nocapture` prints the figures.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // In a test, to panic is to say what is wrong.
#![allow(unreachable_pub)] // `pub` says what a module offers the others.

mod figures;
mod instance;
mod sim;

mod balancers;
mod outages;
mod restarts;
