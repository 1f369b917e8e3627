//! What calls allocate: nothing for anybody who might look at them, unless somebody does.

// Counting allocations needs an allocator, which cannot be had without.
#![allow(unsafe_code, clippy::expect_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;

use weft::mesh::call::{Attempt, Connection};
use weft::mesh::ports::{Incoming, Outgoing, Probe, Transport};
use weft::model::time::SeededDice;
use weft::model::{Failure, Headers};
use weft::policy::health::CheckResult;
use weft::telemetry::onlookers::Config;
use weft::{Call, Mesh, Registration};

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Fine;

impl Transport for Fine {
    fn send(&self, _: &Attempt, _: &Outgoing<'_>) -> Result<Incoming, Failure> {
        Ok(Incoming { status: 200, headers: Headers::new(), connection: Connection::Unknown, body: Box::new(io::empty()) })
    }

    fn probe(&self, _: &Probe) -> CheckResult {
        CheckResult::Unreachable
    }
}

/// How often a call allocates, once everything is there that stays.
fn allocations(telemetry: Config) -> u64 {
    let builder = Mesh::builder().transport(Fine).dice(SeededDice::new(7)).background(false).telemetry(telemetry);
    let mesh = builder.build().expect("a mesh");
    mesh.register(Registration::new("s", "a", "127.0.0.1", 1).expect("valid")).expect("registered");
    let call = Call::get("s", "/").expect("valid");
    // The rings grow until they are full.
    (0..1000).for_each(|_| drop(mesh.invoke(&call)));
    let before = COUNT.get();
    (0..100).for_each(|_| drop(mesh.invoke(&call)));
    (COUNT.get() - before) / 100
}

#[test]
fn a_call_that_nobody_looks_at_allocates_nothing_for_it() {
    let off = allocations(Config::default());
    // Three for the header fields of the attempt, one for its body's reader or buffer: what the transport and the answer need.
    assert!(off <= 5, "{off}");
    let unsampled = allocations(Config { tracing: true, sample_ratio: 0.0, ..Config::default() });
    assert!(unsampled <= off + 1, "telling the instance of a trace may make its header fields grow: {unsampled}, not {off}");
    let sampled = allocations(Config { tracing: true, ..Config::default() });
    println!("allocations per call: {off} off, {unsampled} traced and not sampled, {sampled} sampled");
    assert!((unsampled + 1..=unsampled + 5).contains(&sampled), "the record, its method, its path, its attempts: {sampled}");
}
