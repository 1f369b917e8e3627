//! What the engine itself costs: calls through a transport that answers at once, so that everything measured is ours.
//!
//! `cargo bench --bench engine` prints nanoseconds and allocations per call with one thread, and calls per second with 64 threads over 200
//! services of 5 instances. With `RUSTFLAGS='--cfg weft_measure_locks'` it also prints how long each kind of lock was held.

#![allow(unsafe_code)] // To count allocations.
#![allow(clippy::expect_used, clippy::indexing_slicing)] // A measurement may fail loudly.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use weft::mesh::call::Attempt;
use weft::mesh::ports::{Incoming, Outgoing, Probe, Transport};
use weft::model::{Failure, Headers};
use weft::policy::health::CheckResult;
use weft::{Call, Mesh, Registration};

const SERVICES: usize = 200;
const INSTANCES: usize = 5;
const THREADS: usize = 64;

/// Answers at once.
struct Nowhere;

impl Transport for Nowhere {
    fn send(&self, _: &Attempt, _: &Outgoing<'_>) -> Result<Incoming, Failure> {
        Ok(Incoming { status: 200, headers: Headers::new(), body: Box::new(io::empty()) })
    }

    fn probe(&self, _: &Probe) -> CheckResult {
        CheckResult::Passed
    }
}

/// Counts allocations.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is handed to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract, which is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from it.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    #[cfg(weft_measure_locks)]
    weft::model::listen_to_locks(locks::record);
    let mesh = Mesh::builder().transport(Nowhere).background(false).limits(SERVICES, INSTANCES).build().expect("a mesh");
    for service in 0..SERVICES {
        for instance in 0..INSTANCES {
            let registration = Registration::new(&name(service), &format!("i{instance}"), "127.0.0.1", 1).expect("valid");
            mesh.register(registration).expect("registered");
        }
    }
    let calls: Vec<Call> = (0..SERVICES).map(|service| Call::get(&name(service), "/").expect("valid")).collect();

    one_thread(&mesh, &calls[0]);
    many_threads(&mesh, &calls);
    #[cfg(weft_measure_locks)]
    locks::report();
}

fn name(service: usize) -> String {
    format!("service-{service}")
}

fn one_thread(mesh: &Mesh, call: &Call) {
    const CALLS: u32 = 200_000;
    let mut rounds: Vec<(Duration, u64)> = (0..7)
        .map(|_| {
            let (start, before) = (Instant::now(), ALLOCATIONS.load(Ordering::Relaxed));
            for _ in 0..CALLS {
                black_box(mesh.invoke(call).is_ok());
            }
            (start.elapsed() / CALLS, (ALLOCATIONS.load(Ordering::Relaxed) - before) / u64::from(CALLS))
        })
        .collect();
    rounds.sort_unstable();
    let (time, allocations) = rounds[rounds.len() / 2];
    println!("one thread: {} ns and {allocations} allocations per call (median of {} rounds)", time.as_nanos(), rounds.len());
}

fn many_threads(mesh: &Mesh, calls: &[Call]) {
    let (start, run) = (Instant::now(), Duration::from_secs(2));
    let made: u64 = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|first| {
                scope.spawn(move || {
                    let mut made = 0;
                    for call in calls.iter().cycle().skip(first) {
                        black_box(mesh.invoke(call).is_ok());
                        made += 1;
                        if made % 256 == 0 && start.elapsed() >= run {
                            break;
                        }
                    }
                    made
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a result")).sum()
    });
    let seconds = start.elapsed().as_secs_f64();
    println!("{THREADS} threads over {SERVICES} services of {INSTANCES} instances: {:.0} calls/s", made as f64 / seconds);
}

#[cfg(weft_measure_locks)]
mod locks {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use std::time::Duration;

    use weft::telemetry::histogram::Histogram;

    type ByGuarded = BTreeMap<&'static str, &'static Histogram>;

    static ALL: Mutex<ByGuarded> = Mutex::new(BTreeMap::new());

    pub(crate) fn record(guarded: &'static str, held: Duration) {
        thread_local! { static KNOWN: RefCell<ByGuarded> = const { RefCell::new(BTreeMap::new()) }; }
        KNOWN.with_borrow_mut(|known| {
            let shared = || *ALL.lock().expect("whole").entry(guarded).or_insert_with(|| Box::leak(Box::default()));
            // A microsecond of the histogram stands for a nanosecond.
            known.entry(guarded).or_insert_with(shared).record(held * 1000);
        });
    }

    /// A line per kind of lock.
    pub(crate) fn report() {
        println!("held, in nanoseconds (the clock itself takes some 25 to 50 of them):");
        for (guarded, times) in ALL.lock().expect("whole").iter() {
            let times = times.snapshot();
            let ns = |q| times.quantile(q).as_micros();
            println!("  {:>9} x  p50 {:>5}  p99 {:>6}  p99.9 {:>7}  {guarded}", times.count, ns(0.5), ns(0.99), ns(0.999));
        }
    }
}
