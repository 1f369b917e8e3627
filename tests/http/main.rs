//! The API over real sockets: a mesh and its server in this process, a client that sends raw bytes, and upstreams that do as they are told.

#![cfg(feature = "server")]
// Tests may fail loudly, and their helpers are called with temporaries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::needless_pass_by_value)]

#[allow(dead_code)] // Each test program uses its own share of it.
#[path = "../support/mod.rs"]
mod support;

mod answered;
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
mod stale;
mod tls;
mod workers;
