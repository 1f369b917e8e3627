//! A siege: every attack there is, all at once, from a thousand connections, and a well-behaved client beside it that must not notice; and how
//! long it takes to refuse a token, which must tell nothing about the token. `scripts/soak attacks` and `scripts/soak timing` do both for
//! long and judge figures; without them it is short and judges only what must always be true.

#![cfg(feature = "server")]
// Tests may fail loudly, and their helpers are called with temporaries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::needless_pass_by_value)]

#[path = "../door/bad.rs"]
mod bad;
#[allow(dead_code)] // Each test program uses its own share of it.
#[path = "../security/callers.rs"]
mod callers;
#[allow(dead_code)] // As above.
#[path = "../http/house.rs"]
mod house;
#[path = "../security/inputs.rs"]
mod inputs;
#[allow(dead_code)] // As above.
#[allow(unreachable_pub)] // The fuzz targets use it as well.
#[path = "../fuzz/mutate.rs"]
mod mutate;
#[path = "../door/strict.rs"]
mod strict;
#[allow(dead_code)] // As above.
#[path = "../support/mod.rs"]
mod support;
#[allow(dead_code)] // As above.
#[path = "../program/weft.rs"]
mod weft;
#[allow(dead_code)] // As above.
#[path = "../door/wire.rs"]
mod wire;

/// Where calls run in this program.
pub(crate) const INVOKE_ON: ::weft::server::InvokeOn = ::weft::server::InvokeOn::Edge;
/// They go through the API.
pub(crate) const EMBEDDED: bool = false;
/// Clients speak as they are.
pub(crate) const SECURED: bool = false;

mod arms;
mod crowd;
mod guest;
mod held;
mod origin;
mod siege;
mod timing;

/// A number that whoever runs this has chosen.
pub(crate) fn asked_for(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}
