//! What the engine itself costs: calls through a transport that answers at once, so that everything measured is ours.
//!
//! `cargo bench --bench engine` prints nanoseconds and allocations per call with one thread, the same for the call machine alone (balancing,
//! breaker, limits and metrics, under each strategy and with a rate limit and routes), and calls per second with 64 threads over 200 services
//! of 5 instances. With `RUSTFLAGS='--cfg weft_measure_locks'` it also prints how long each kind of lock was held.

#![allow(unsafe_code)] // To count allocations.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // A measurement may fail loudly.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft::mesh::Wake;
use weft::mesh::call::{Attempt, CallMeta, Connection, Step};
use weft::mesh::ports::{Incoming, Outgoing, Probe, Transport};
use weft::model::{Failure, Headers, RequestId};
use weft::policy::health::CheckResult;
use weft::{Call, Mesh, Registration};

const SERVICES: usize = 200;
const INSTANCES: usize = 5;
const THREADS: usize = 64;

/// Answers at once.
struct Nowhere;

impl Transport for Nowhere {
    fn send(&self, _: &Attempt, _: &Outgoing<'_>) -> Result<Incoming, Failure> {
        Ok(Incoming { status: 200, headers: Headers::new(), connection: Connection::Unknown, body: Box::new(io::empty()) })
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
    println!("the call machine alone, 5 instances:");
    for (what, policy) in policies() {
        machine_alone(&mesh, &calls[1], what, &policy);
    }
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

/// What is measured by itself: a strategy, and everything at once.
fn policies() -> Vec<(&'static str, Value)> {
    let strategy = |name: &str| json!({"loadBalancing": {"strategy": name}});
    let mut all: Vec<(&str, Value)> = ["round_robin", "least_connections", "peak_ewma", "random", "weighted_random", "consistent_hash"]
        .map(|name| (name, strategy(name)))
        .into();
    let limits = json!({"ratePerSecond": 1e9, "perCaller": {"ratePerSecond": 1e9}});
    let window = json!({"failureRatePercent": 50, "slowCallRatePercent": 50});
    let routes: Vec<Value> = (0..10).map(|n| json!({"match": {"pathPrefix": format!("/{n}"), "headers": {"x": "y"}}})).collect();
    all.push(("with rate limits", json!({"rateLimit": limits})));
    all.push(("with a breaker window", json!({"circuitBreaker": window})));
    all.push(("with ten routes, none taken", json!({"routes": routes})));
    all.push(("with a split and header fields", json!({"routes": [{"split": [{"weight": 9}, {"weight": 1}], "setHeaders": {"x": "y"}}]})));
    let everything = json!({"loadBalancing": {"strategy": "peak_ewma", "zone": "east", "slowStartMs": 1000, "panicThresholdPercent": 10},
        "rateLimit": limits, "circuitBreaker": window, "routes": routes});
    all.push(("peak_ewma and everything", everything));
    all
}

/// A call through the machine, without the driver: no request is put together and no answer is read.
fn machine_alone(mesh: &Mesh, call: &Call, what: &str, policy: &Value) {
    const CALLS: u32 = 100_000;
    mesh.reset_policy(&call.service).expect("kept");
    mesh.patch_policy(&call.service, policy).expect("valid");
    let call = Call { hash_key: (what == "consistent_hash").then(|| "user-1".to_owned()), ..call.clone() };
    let (wake, answer) = (Wake::Thread(thread::current()), Headers::new());
    let one = |n: u32| {
        let meta = CallMeta::of(&call, RequestId::from_roll(1, u64::from(n)));
        let mut now = Instant::now();
        let mut machine = mesh.start(meta, wake.clone(), now).unwrap_or_else(|error| panic!("{error}"));
        let Step::Send(attempt) = machine.step(now) else { panic!("it sends") };
        black_box(&attempt);
        now += Duration::from_micros(100);
        machine.head(200, &answer, now, 7);
        machine.body_end(Ok(()), now, 7);
        black_box(matches!(machine.step(now), Step::Done(_)));
    };
    let mut rounds: Vec<(Duration, u64)> = (0..9)
        .map(|_| {
            let (start, before) = (Instant::now(), ALLOCATIONS.load(Ordering::Relaxed));
            (0..CALLS).for_each(one);
            (start.elapsed() / CALLS, (ALLOCATIONS.load(Ordering::Relaxed) - before) / u64::from(CALLS))
        })
        .collect();
    rounds.sort_unstable();
    let (time, allocations) = rounds[rounds.len() / 2];
    let fastest = rounds[0].0.as_nanos();
    println!("  {:>5} ns (fastest round {fastest:>5}) and {allocations} allocations per call  {what}", time.as_nanos());
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
