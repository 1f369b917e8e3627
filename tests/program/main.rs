//! The program itself, as people and supervisors use it: its command line, its configuration, its signals, its exit codes.

#![cfg(feature = "server")]
// Tests may fail loudly, and their helpers are called with temporaries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::needless_pass_by_value)]

#[allow(dead_code)] // Each test program uses its own share of it.
#[path = "../support/mod.rs"]
mod support;

mod access_log;
mod command_line;
mod configuration;
mod demo;
mod discovery;
mod look;
mod observed;
mod running;
mod scraped;
mod signals;
mod state;
mod supervised;
#[allow(dead_code)] // The tests of the door use it as well.
mod weft;
