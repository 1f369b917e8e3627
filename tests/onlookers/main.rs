//! Those who look at single calls, over real sockets: what instances are told of a trace, what a collector gets, what is logged, what taps show.

#![cfg(feature = "server")]
// Tests may fail loudly, and their helpers are called with temporaries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::needless_pass_by_value)]

#[allow(dead_code)] // Each test program uses its own share of it.
#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code)] // The same.
#[path = "../http/house.rs"]
mod house;

/// Where calls run in this program, unless a test says otherwise.
pub(crate) const INVOKE_ON: weft::server::InvokeOn = weft::server::InvokeOn::Edge;
/// They go through the API.
pub(crate) const EMBEDDED: bool = false;
/// In plain HTTP.
pub(crate) const SECURED: bool = false;

#[cfg(feature = "otlp")]
mod collector;
#[cfg(feature = "otlp")]
mod spans;
mod taps;
mod traces;
