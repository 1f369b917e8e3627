//! The front door under attack: bad requests, slow and greedy clients, floods, and a system that has nothing left to give. Every row has its
//! expected answer and its time, and behind each of them the next honest client is served.

#![cfg(feature = "server")]
// Tests may fail loudly, and their helpers are called with temporaries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::needless_pass_by_value)]

#[allow(dead_code)] // Each test program uses its own share of it.
#[path = "../http/house.rs"]
mod house;
#[allow(unreachable_pub)] // The fuzz targets use it as well.
#[path = "../fuzz/lines.rs"]
mod lines;
#[allow(unreachable_pub)] // As above.
#[path = "../fuzz/mutate.rs"]
mod mutate;
#[allow(dead_code)] // As above.
#[path = "../program/weft.rs"]
mod program;
#[allow(unreachable_pub)] // As above.
#[path = "../fuzz/properties.rs"]
mod properties;
#[allow(dead_code)] // As above.
#[path = "../support/mod.rs"]
mod support;
#[allow(unreachable_pub)] // As above.
#[path = "../fuzz/words.rs"]
mod words;

/// Where calls run in this program, unless a test says otherwise.
pub(crate) const INVOKE_ON: weft::server::InvokeOn = weft::server::InvokeOn::Edge;
/// They go through the API.
pub(crate) const EMBEDDED: bool = false;
/// Clients speak as they are.
pub(crate) const SECURED: bool = false;

mod attacks;
mod bad;
mod clients;
mod fuzzed;
mod limits;
mod mutations;
mod strict;
mod vectors;
mod wire;
