//! The siege itself: windows of time in which a well-behaved client is served beside a thousand ordinary connections, and beside a thousand
//! attackers that send as many requests. Always: the client is never failed, nothing behind a bad request is executed, memory stays below
//! what the settings say, and afterwards nothing is missing and nothing left. For long, its throughput and its latency are judged as well.

use std::fmt;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;

use crate::arms;
use crate::callers::{at, write};
use crate::crowd::{Crowd, Plan, Tally};
use crate::guest::Guest;
use crate::held;
use crate::origin::Origin;
use crate::support::{client, eventually};
use crate::weft::{Folder, Weft};

/// Beside whom the client is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Beside {
    /// Ordinary clients that keep their connections.
    Ordinary,
    /// Ordinary clients that end and make connections as often as the attackers do.
    Coming,
    Attackers,
}

/// What was seen in a window of time.
struct Window {
    beside: Beside,
    /// Requests a second of the client; half of them, and 99 of 100, took at most so many milliseconds.
    rate: f64,
    median: f64,
    p99: f64,
    /// Processors that were busy: for the mesh, for all of this, and for others on this machine.
    mesh: f64,
    all: f64,
    others: f64,
    tally: Tally,
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { beside, rate, median, p99, mesh, others, .. } = self;
        write!(f, "{beside:?}: {rate:.0} requests/s, {median:.2} ms, p99 {p99:.2} ms; ")?;
        write!(f, "{mesh:.2} processors for the mesh, {others:.2} for others")
    }
}

struct Siege {
    weft: Weft,
    origin: Origin,
    connections: usize,
    rate: u64,
    seed: u64,
    /// From which number on attackers count.
    next_number: u64,
    /// The share of requests after which the attackers' connections were over.
    closing: f64,
    _folder: Folder,
}

/// Connections beside those of the crowd: of the client, of those who ask how it goes, and of those whose end is not yet known to both sides.
const SPARE: usize = 200;

/// What the mesh may hold in memory at most, in KiB: what it takes at rest and to answer at all; what `maxBufferedBytes` lets it hold, twice,
/// since an allocator keeps for each thread what the others do not get; and for each connection a head, and four times what is never refused:
/// a small body, the answer to it, and both on their way. `weft::contract::threats` says the same.
fn most_memory(connections: usize) -> u64 {
    let (buffered, head, always) = (64 * 1024, 16, 64);
    24 * 1024 + 2 * buffered + (connections * (head + 4 * always)) as u64
}

/// Lets this process have as many open files as it can.
fn many_files() {
    let limit = getrlimit(Resource::Nofile);
    // If that fails, the test says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Hundredths of a second that the processors of this machine were busy, and that this process was.
fn busy() -> (u64, u64) {
    let numbers = |text: &str| -> Vec<u64> { text.split_whitespace().filter_map(|word| word.parse().ok()).collect() };
    let all = fs::read_to_string("/proc/stat").expect("what the system says");
    // User, nice, system, idle, waiting, interrupts.
    let all = numbers(all.lines().next().unwrap_or_default());
    let own = fs::read_to_string("/proc/self/stat").expect("what the system says");
    let own = numbers(own.rsplit(')').next().unwrap_or_default());
    (all.iter().sum::<u64>() - all[3] - all[4], own[10] + own[11])
}

impl Siege {
    fn new(connections: usize, rate: u64, seed: u64, more: &[&str]) -> Self {
        many_files();
        let folder = Folder::new();
        let (file, most) = (folder.path("tokens"), (connections + SPARE).to_string());
        write(&file, &arms::token_lines().join("\n"));
        let mut arguments = vec!["--token-file", &file, "--max-connections", &most];
        arguments.extend(more);
        let (weft, origin) = (Weft::start(&arguments), Origin::start());
        let siege = Self { weft, origin, connections, rate, seed, next_number: 0, closing: 0.5, _folder: folder };
        for service in ["users", "hit"] {
            siege.ask("POST", "/register", &at(service, "i", siege.origin.at.port()).to_string()).with_status(200);
        }
        siege
    }

    /// As somebody who may do everything.
    fn ask(&self, method: &str, target: &str, body: &str) -> client::Answer {
        let fields = [("authorization", &*arms::bearer("root"))];
        client::ask(self.weft.at(), method, target, &fields, body.as_bytes()).unwrap_or_else(|error| panic!("{target}: {error}"))
    }

    fn metrics(&self) -> Value {
        self.ask("GET", "/metrics", "").with_status(200).json()
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.weft.pid())).expect("a process").count()
    }

    fn crowd(&self, beside: Beside) -> Crowd {
        let (mut shots, mut roles) = (arms::ordinary_shots(false), Vec::new());
        match beside {
            Beside::Ordinary => {}
            Beside::Coming => {
                let closing = (self.closing * 20.0).round() as usize;
                shots = (0..20).flat_map(|n| arms::ordinary_shots(n < closing)).collect();
            }
            Beside::Attackers => (shots, roles) = (arms::all(self.seed), held::roles(self.connections)),
        }
        let (at, connections, rate, numbered_from) = (self.weft.at(), self.connections, self.rate, self.next_number);
        Crowd::start(Plan { at, connections, rate, shots, roles, numbered_from })
    }

    /// Has the client served for a while beside such a crowd.
    fn window(&mut self, guest: &Guest, beside: Beside, time: Duration) -> Window {
        let crowd = self.crowd(beside);
        // Until they have all come.
        self.watch(time / 10);
        let faults = guest.seen().faults;
        let (began, mesh, (all, own)) = (Instant::now(), self.weft.processor_time(), busy());
        self.watch(time);
        let (mut seen, took) = (guest.seen(), began.elapsed().as_secs_f64());
        let per_second = |before: u64, now: u64| (now - before) as f64 / 100.0 / took;
        let (mesh, now) = (per_second(mesh, self.weft.processor_time()), busy());
        let ours = mesh + per_second(own, now.1);
        let others = (per_second(all, now.0) - ours).max(0.0);
        let tally = crowd.stop();
        assert_eq!([faults, seen.faults.clone()].concat(), [""; 0], "the client is served whatever happens; {beside:?}");
        assert_eq!(tally.faults, [""; 0], "{beside:?}, seed {}", self.seed);
        self.next_number = tally.next_number;
        if beside == Beside::Attackers {
            self.closing = tally.closed as f64 / tally.sent as f64;
        }
        let rate = seen.took.len() as f64 / took;
        Window { beside, rate, median: seen.quantile(500), p99: seen.quantile(990), mesh, all: ours, others, tally }
    }

    /// Lets time go by, in which questions are answered.
    fn watch(&self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            client::ask(self.weft.at(), "GET", "/health", &[], b"").expect("answered").with_status(200);
            self.ask("GET", "/services/users", "").with_status(200);
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::park_timeout(left.min(Duration::from_millis(500)));
        }
    }

    /// It is as it was before: nothing is under way, nothing held, no place taken, and everything that was counted adds up.
    fn is_as_before(&mut self, descriptors: usize, threads: u64, asked: usize) -> Value {
        assert_eq!(self.origin.stop(), [""; 0], "the instance was sent what is no request");
        let metrics = eventually("everybody has left, and so have connections to instances", || {
            let metrics = self.metrics();
            let doors = &metrics["doors"];
            let is_quiet = doors["openConnections"] == 1 && doors["requestsInProgress"].as_u64() <= Some(1);
            (is_quiet && self.descriptors() <= descriptors).then_some(metrics)
        });
        let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value}"));
        assert_eq!(number(&metrics["totalRequests"]), number(&metrics["successfulRequests"]) + number(&metrics["failedRequests"]));
        for (name, service) in metrics["services"].as_object().expect("services") {
            assert_eq!(number(&service["requests"]), number(&service["successes"]) + number(&service["failures"]), "{name}: {service}");
            assert_eq!((number(&service["inFlight"]), number(&service["queued"])), (0, 0), "a place is lost: {name}: {service}");
            for instance in service["instances"].as_object().expect("instances").values() {
                assert_eq!(number(&instance["inFlight"]), 0, "a place is lost: {name}: {service}");
            }
        }
        let users = &metrics["services"]["users"];
        assert_eq!((number(&users["requests"]), number(&users["failures"])), (asked as u64, 0), "whoever calls users is served: {users}");
        let doors = &metrics["doors"];
        assert_eq!(["workerRestarts", "acceptErrors", "refusedConnections"].map(|name| number(&doors[name])), [0; 3], "{doors}");
        assert!(number(&doors["bufferedBytes"]) < 64 * 1024, "{doors}");
        assert_eq!(self.weft.status("Threads"), threads);
        assert!(self.weft.is_running() && !self.weft.err().contains("panicked"), "{}", self.weft.err());
        let services = self.ask("GET", "/services", "").with_status(200).text();
        assert!(!services.contains("smuggled"), "{services}");
        assert!(self.weft.err().len() < 64 * 1024, "the log grows with what strangers send: {:.2000}", self.weft.err());
        doors.clone()
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    let half = all.len() / 2;
    if all.len() % 2 == 1 { all[half] } else { (all[half - 1] + all[half]) / 2.0 }
}

/// For long, each kind of window comes so often.
const ROUNDS: u32 = 4;

#[test]
fn a_client_that_behaves_is_served_while_everything_hostile_happens_at_once() {
    let long = crate::asked_for("WEFT_SIEGE_SECONDS").map(|seconds| Duration::from_secs(seconds) / ROUNDS);
    let (seed, rate) = (crate::asked_for("WEFT_SEED").unwrap_or(1), crate::asked_for("WEFT_RATE").unwrap_or(500));
    let mut siege = match long {
        Some(_) => Siege::new(1000, rate, seed, &[]),
        // All that takes its time comes to its end all the same.
        None => Siege::new(150, 300, seed, &["--head-timeout-ms", "500", "--body-timeout-ms", "700", "--write-timeout-ms", "900"]),
    };
    let (descriptors, threads, at_rest) = (siege.descriptors(), siege.weft.status("Threads"), siege.weft.status("VmRSS"));
    let guest = Guest::start(siege.weft.at(), arms::ordinary("users", "guest").into());
    let there_and_back = [Beside::Ordinary, Beside::Attackers, Beside::Coming, Beside::Coming, Beside::Attackers, Beside::Ordinary];
    let order = match long {
        Some(_) => there_and_back.repeat(ROUNDS as usize / 2),
        None => vec![Beside::Attackers],
    };
    let windows: Vec<Window> = order
        .into_iter()
        .map(|beside| {
            let window = siege.window(&guest, beside, long.unwrap_or(Duration::from_millis(1500)));
            println!("{window}\n  {}; {} KiB at most so far", window.tally, siege.weft.status("VmHWM"));
            window
        })
        .collect();
    let of_crowds: u64 = windows.iter().filter(|window| window.beside != Beside::Attackers).map(|window| window.tally.sent).sum();
    let asked = guest.stop() + of_crowds as usize;
    let doors = siege.is_as_before(descriptors, threads, asked);
    let (memory, most) = (siege.weft.status("VmHWM"), most_memory(siege.connections + SPARE));
    println!("{doors}\nmemory: {at_rest} KiB at rest, {memory} at most, {} now; allowed are {most}", siege.weft.status("VmRSS"));
    if long.is_some() {
        judge(&windows);
    }
    assert!(memory < most, "{memory} KiB, of {most}");
}

/// The client keeps its throughput and its latency, compared with what they are beside as many requests of ordinary clients. How it is beside
/// ordinary clients who come and go as often as attackers have to is only told.
fn judge(windows: &[Window]) {
    let of = |beside: Beside, what: fn(&Window) -> f64| median(windows.iter().filter(|w| w.beside == beside).map(what).collect());
    let others = windows.iter().map(|window| window.others).fold(0.0, f64::max);
    if others > 0.1 {
        println!("others used up to {others:.2} processors of this machine: they are part of these figures");
    }
    let compare = |beside: Beside| {
        let ratio = |what: fn(&Window) -> f64| of(Beside::Attackers, what) / of(beside, what);
        let (throughput, p99, per_processor) = (ratio(|w| w.rate), ratio(|w| w.p99), ratio(|w| w.rate / w.all));
        println!("attackers / {beside:?}: throughput {throughput:.3} (by processor time {per_processor:.3}), p99 {p99:.2}");
        (throughput, p99)
    };
    compare(Beside::Coming);
    let (throughput, p99) = compare(Beside::Ordinary);
    assert!(throughput >= 0.9, "the client keeps {throughput:.3} of its throughput");
    assert!(p99 <= 3.0, "its p99 is {p99:.2} times what it was");
}
