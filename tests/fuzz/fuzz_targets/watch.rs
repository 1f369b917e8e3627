//! Whatever comes as a line of a watch of etcd.

#![cfg_attr(fuzzing, no_main)]

#[cfg(not(fuzzing))]
#[path = "../harness.rs"]
mod harness;
#[allow(dead_code)] // Each target checks its own share of it.
#[path = "../lines.rs"]
mod lines;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lines::watch(bytes));

#[cfg(not(fuzzing))]
fn main() {
    harness::run("watch", lines::watch);
}
