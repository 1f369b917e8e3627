//! Whatever comes as the head of a request.

#![cfg_attr(fuzzing, no_main)]

#[cfg(not(fuzzing))]
#[path = "../harness.rs"]
mod harness;
#[allow(dead_code)] // Each target checks its own share of it.
#[path = "../properties.rs"]
mod properties;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::request_head(bytes));

#[cfg(not(fuzzing))]
fn main() {
    harness::run("request_head", properties::request_head);
}
