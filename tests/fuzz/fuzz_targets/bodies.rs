//! Whatever comes as bodies of the API.

#![cfg_attr(fuzzing, no_main)]

#[cfg(not(fuzzing))]
#[path = "../harness.rs"]
mod harness;
#[allow(dead_code)] // Each target checks its own share of it.
#[path = "../words.rs"]
mod words;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| words::bodies(bytes));

#[cfg(not(fuzzing))]
fn main() {
    harness::run("bodies", words::bodies);
}
