//! The API over real sockets, calls on the workers: the tests of `tests/http`, every one of them, against tiny_http, the fixed pool, blocking
//! ureq and sleeping backoff.

#![cfg(feature = "server")]
// Tests may fail loudly, and their helpers are called with temporaries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::needless_pass_by_value)]

#[allow(dead_code)] // Each test program uses its own share of it.
#[path = "../support/mod.rs"]
mod support;

/// Where calls run in this program.
pub(crate) const INVOKE_ON: weft::server::InvokeOn = weft::server::InvokeOn::Workers;
/// They go through the API.
pub(crate) const EMBEDDED: bool = false;
/// Clients speak as they are.
pub(crate) const SECURED: bool = false;

#[path = "../http/answered.rs"]
mod answered;
#[path = "../http/apart.rs"]
mod apart;
#[path = "../http/control.rs"]
mod control;
#[path = "../http/documented.rs"]
mod documented;
#[path = "../http/drain.rs"]
mod drain;
#[path = "../http/faults.rs"]
mod faults;
#[path = "../http/health.rs"]
mod health;
#[path = "../http/house.rs"]
mod house;
#[path = "../http/inputs.rs"]
mod inputs;
#[path = "../http/instances.rs"]
mod instances;
#[path = "../http/places.rs"]
mod places;
#[path = "../http/repeated.rs"]
mod repeated;
#[path = "../http/sent.rs"]
mod sent;
#[path = "../http/services.rs"]
mod services;
#[path = "../http/shaped.rs"]
mod shaped;
#[path = "../http/stale.rs"]
mod stale;
#[path = "../http/tls.rs"]
mod tls;
#[path = "../http/traces.rs"]
mod traces;
#[path = "../http/workers.rs"]
mod workers;
