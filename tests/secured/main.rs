//! The tests of what passes through `tests/proxy`, and of what is documented in `tests/http`, every one of them, over TLS: streams, ends,
//! resets, WebSockets, patience and the end of the server are the same.

#![cfg(all(feature = "server", feature = "tls"))]
// Tests may fail loudly, and their helpers are called with temporaries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::needless_pass_by_value)]

#[allow(dead_code)] // Each test program uses its own share of it.
#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code)] // The same.
#[path = "../http/house.rs"]
mod house;

#[allow(dead_code)] // The same.
#[path = "../proxy/wire.rs"]
mod wire;

/// Where calls run in this program, unless a test says otherwise.
pub(crate) const INVOKE_ON: weft::server::InvokeOn = weft::server::InvokeOn::Edge;
/// They go through the API.
pub(crate) const EMBEDDED: bool = false;
/// Clients speak TLS.
pub(crate) const SECURED: bool = true;

mod callers;
mod handshakes;
mod hostile;
mod names;
mod program;
mod talk;

#[allow(dead_code)] // As above.
#[path = "../program/weft.rs"]
mod weft_program;

#[path = "../proxy/answers.rs"]
mod answers;
#[path = "../proxy/attempts.rs"]
mod attempts;
#[path = "../http/documented.rs"]
mod documented;
#[path = "../http/drain.rs"]
mod drain;
#[path = "../proxy/faults.rs"]
mod faults;
#[path = "../proxy/requests.rs"]
mod requests;
#[path = "../proxy/streams.rs"]
mod streams;
#[path = "../proxy/upgrades.rs"]
mod upgrades;
#[path = "../proxy/ways.rs"]
mod ways;
