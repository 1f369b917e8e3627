//! The data plane over real sockets: what passes through `/proxy`, what is made of it, and what becomes of calls when instances misbehave.

#![cfg(feature = "server")]
// Tests may fail loudly, and their helpers are called with temporaries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::needless_pass_by_value)]

#[allow(dead_code)] // Each test program uses its own share of it.
#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code)] // The same.
#[path = "../http/house.rs"]
mod house;

#[allow(dead_code)] // The same.
#[path = "../program/weft.rs"]
mod program;

/// Where calls run in this program, unless a test says otherwise.
pub(crate) const INVOKE_ON: weft::server::InvokeOn = weft::server::InvokeOn::Edge;
/// They go through the API.
pub(crate) const EMBEDDED: bool = false;
/// Clients speak as they are.
pub(crate) const SECURED: bool = false;

mod answers;
mod attempts;
mod dapr;
mod faults;
mod memory;
mod mutated;
mod requests;
mod silence;
mod streams;
mod upgrades;
mod ways;
mod wire;
