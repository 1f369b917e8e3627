//! Whatever comes as the head of an answer.

#![cfg_attr(fuzzing, no_main)]

#[cfg(not(fuzzing))]
#[path = "../harness.rs"]
mod harness;
#[allow(dead_code)] // Each target checks its own share of it.
#[path = "../properties.rs"]
mod properties;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::response_head(bytes));

#[cfg(not(fuzzing))]
fn main() {
    harness::run("response_head", properties::response_head);
}
