//! The tests of calls in `tests/http` once more, with every call made by `Mesh::invoke`, as a program does that embeds the mesh.

#![cfg(feature = "server")]
// Tests may fail loudly, and their helpers are called with temporaries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::needless_pass_by_value)]

#[allow(dead_code)] // Each test program uses its own share of it.
#[path = "../support/mod.rs"]
mod support;

/// Where calls would run that go through the API; only what is about a connection of its own does.
pub(crate) const INVOKE_ON: weft::server::InvokeOn = weft::server::InvokeOn::Workers;
/// Calls do not go through the API.
pub(crate) const EMBEDDED: bool = true;
/// Clients speak as they are.
pub(crate) const SECURED: bool = false;

#[path = "../http/answered.rs"]
mod answered;
#[path = "../http/control.rs"]
mod control;
#[path = "../http/faults.rs"]
mod faults;
#[allow(dead_code)] // As above.
#[path = "../http/house.rs"]
mod house;
#[path = "../http/inputs.rs"]
mod inputs;
#[path = "../http/repeated.rs"]
mod repeated;
#[path = "../http/sent.rs"]
mod sent;
#[path = "../http/shaped.rs"]
mod shaped;
#[path = "../http/stale.rs"]
mod stale;
