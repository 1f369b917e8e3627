//! Whatever comes as a body in chunks.

#![cfg_attr(fuzzing, no_main)]

#[cfg(not(fuzzing))]
#[path = "../harness.rs"]
mod harness;
#[allow(dead_code)] // Each target checks its own share of it.
#[path = "../properties.rs"]
mod properties;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::chunks(bytes));

#[cfg(not(fuzzing))]
fn main() {
    harness::run("chunks", properties::chunks);
}
