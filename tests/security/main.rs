//! Who gets in and what gets out: tokens, rules about callers, addresses that must not be reached, browsers, and secrets.

#![cfg(feature = "server")]
// Tests may fail loudly, and their helpers are called with temporaries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::needless_pass_by_value)]

#[allow(dead_code)] // Each test program uses its own share of it.
#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code)]
#[path = "../http/house.rs"]
mod house;

#[allow(dead_code)]
#[path = "../program/weft.rs"]
mod weft;

#[allow(dead_code)]
#[allow(unreachable_pub)] // The fuzz targets use it as well.
#[path = "../fuzz/mutate.rs"]
mod mutate;

/// Where calls run unless a test says otherwise.
pub(crate) const INVOKE_ON: ::weft::server::InvokeOn = ::weft::server::InvokeOn::Edge;
/// In the clear.
pub(crate) const SECURED: bool = false;
/// They go through the API.
pub(crate) const EMBEDDED: bool = false;

mod allow;
mod callers;
mod fuzzed;
mod hygiene;
mod inputs;
mod limits;
mod rows;
mod token_file;
mod tokens;
mod upstreams;
