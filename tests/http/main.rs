//! The API over real sockets, calls in the event loops: a mesh and its server in this process, a client that sends raw bytes, and upstreams that do as they are told.

#![cfg(feature = "server")]
// Tests may fail loudly, and their helpers are called with temporaries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::needless_pass_by_value)]

#[allow(dead_code)] // Each test program uses its own share of it.
#[path = "../support/mod.rs"]
mod support;

/// Where calls run in this program; the same tests run against both.
pub(crate) const INVOKE_ON: weft::server::InvokeOn = weft::server::InvokeOn::Edge;
/// They go through the API.
pub(crate) const EMBEDDED: bool = false;
/// Clients speak as they are.
pub(crate) const SECURED: bool = false;

mod answered;
mod apart;
mod control;
mod documented;
mod drain;
mod faults;
mod health;
mod house;
mod inputs;
mod instances;
mod places;
mod repeated;
mod routes;
mod sent;
mod services;
mod shaped;
mod stale;
mod tls;
mod traces;
mod workers;
