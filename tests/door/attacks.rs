//! Attacks on the program itself: what each of them costs it is bounded, it lives on, and honest clients are served during and after.

use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::program::Weft;
use crate::support::client::{Client, request};
use crate::support::eventually;
use crate::support::upstream::{Act, Upstream, answer, ok};
use crate::wire::{Ending, Wire};

/// Two loops and four workers wherever this runs, so that what it costs is the same everywhere.
const SMALL: [&str; 4] = ["--loops", "2", "--workers", "4"];

fn small(more: &[&str]) -> Vec<&'static str> {
    // Arguments live as long as the test program; there are few.
    SMALL.iter().copied().chain(more.iter().map(|argument| &*Box::leak((*argument).to_owned().into_boxed_str()))).collect()
}

fn weft(more: &[&str]) -> Weft {
    Weft::start(&small(more))
}

fn doors(weft: &Weft) -> Value {
    weft.get("/metrics").with_status(200).json()["doors"].clone()
}

/// Memory that it had at most so far, in KiB.
fn most_memory(weft: &Weft) -> u64 {
    weft.status("VmHWM")
}

#[track_caller]
fn is_well(weft: &mut Weft) {
    assert!(weft.is_running());
    weft.get("/health").with_status(200);
    weft.get("/services").with_status(200);
    assert!(!weft.err().contains("panicked"), "{}", weft.err());
}

/// Lets this process have as many open files as it can.
fn many_files() {
    let limit = getrlimit(Resource::Nofile);
    // If that fails, the test says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

#[test]
fn lengths_that_nobody_sends_cost_nothing() {
    let mut weft = weft(&[]);
    let before = most_memory(&weft);
    for length in ["9223372036854775807", "1000000000", "1048577"] {
        for target in ["/invoke", "/register", "/services", "/health", "/proxy/nobody/"] {
            for _ in 0..6 {
                let mut wire = Wire::to(weft.at());
                wire.send(request("POST", target, &[("content-length", length)], b""));
                let status = wire.answer().status;
                assert!(if target.starts_with("/proxy") { status == 503 } else { status == 413 }, "{target} {status}");
            }
        }
    }
    is_well(&mut weft);
    assert!(most_memory(&weft) < before + 8 * 1024, "{before} KiB, then {} KiB", most_memory(&weft));
}

#[test]
fn thousands_who_say_nothing_are_held_at_the_limit_and_cost_little() {
    many_files();
    let mut weft = weft(&["--max-connections", "2000"]);
    let mut inside = Client::connect(weft.at()).expect("a connection");
    inside.ask("GET", "/health", &[], b"").expect("answered").with_status(200);
    let before = weft.status("VmRSS");
    let threads = weft.status("Threads");
    let idle: Vec<Wire> = (0..3000).map(|_| Wire::to(weft.at())).collect();
    let open = eventually("all have been let in or turned away", || {
        let doors = inside.ask("GET", "/metrics", &[], b"").expect("answered").json()["doors"].clone();
        let count = |name: &str| doors[name].as_u64().expect("a number");
        (count("accepted") + count("refusedConnections") == 3001).then(|| count("openConnections"))
    });
    assert_eq!(open, 2000);
    inside.ask("GET", "/health", &[], b"").expect("answered").with_status(200);
    let each = weft.status("VmRSS").saturating_sub(before) / 2;
    assert!(each < 3 * 1024, "{each} KiB for a thousand connections");
    assert_eq!(weft.status("Threads"), threads);
    drop(idle);
    let left = Instant::now();
    eventually("there is room again", || Client::connect(weft.at()).ok()?.ask("GET", "/health", &[], b"").ok().filter(|a| a.status == 200));
    assert!(left.elapsed() < Duration::from_secs(1), "{:?}", left.elapsed());
    is_well(&mut weft);
}

#[test]
fn another_version_of_http_again_and_again_leaves_nothing_behind() {
    let mut weft = weft(&[]);
    let threads = weft.status("Threads");
    for _ in 0..200 {
        let mut wire = Wire::to(weft.at());
        assert!(wire.send("GET / HTTP/2.0\r\nHost: a\r\n\r\n"));
        let (answers, ending) = wire.answers();
        assert_eq!((answers.len(), answers[0].status, ending), (1, 505, Ending::Closed));
    }
    eventually("nobody is left", || (doors(&weft)["openConnections"] == 1).then_some(()));
    eventually("no thread is left of it", || (weft.status("Threads") <= threads).then_some(()));
    is_well(&mut weft);
}

#[test]
fn connections_that_are_reset_at_once_are_forgotten() {
    let mut weft = weft(&[]);
    for n in 0..200 {
        let mut wire = Wire::to(weft.at());
        wire.reset_on_drop();
        if n % 2 == 0 {
            wire.send(request("GET", "/services", &[], b""));
        }
    }
    eventually("nobody is left", || (doors(&weft)["openConnections"] == 1).then_some(()));
    is_well(&mut weft);
}

#[test]
fn heads_without_an_end_are_cut_off_early() {
    let mut weft = weft(&[]);
    let before = most_memory(&weft);
    let piece = vec![b'x'; 64 * 1024];
    let fields = b"X-A: b\r\n".repeat(1000);
    for (beginning, piece) in [
        ("", &piece),
        ("GET /", &piece),
        ("GET / HTTP/1.1\r\nHost: a\r\nX-A: ", &piece),
        ("GET / HTTP/1.1\r\nHost: a\r\n", &piece),
        ("GET / HTTP/1.1\r\nHost: a\r\n", &fields),
    ] {
        for _ in 0..10 {
            let mut wire = Wire::to(weft.at());
            assert!(wire.send(beginning));
            let sent = wire.flood(piece, 64 << 20, Duration::from_secs(5));
            assert!(sent < 32 << 20, "{sent} bytes were taken");
            // The answer may be lost to the reset that stops the flood.
            wire.end();
        }
    }
    let doors = doors(&weft);
    assert_eq!(doors["headsTooLarge"].as_u64().expect("a number") + doors["malformed"].as_u64().expect("a number"), 50, "{doors}");
    is_well(&mut weft);
    assert!(most_memory(&weft) < before + 8 * 1024, "{before} KiB, then {} KiB", most_memory(&weft));
}

#[test]
fn a_flood_of_requests_whose_answers_nobody_reads_stops_by_itself() {
    let mut weft = weft(&[]);
    let upstream = Upstream::start(|_| ok(vec![b'x'; 20_000]));
    weft.register("s", &upstream);
    let before = most_memory(&weft);
    let floods: Vec<(Vec<u8>, Wire)> = ["/metrics", "/health", "/nowhere", "/proxy/s/", "/services"]
        .into_iter()
        .map(|target| (request("GET", target, &[], b"").repeat(100), Wire::narrow(weft.at())))
        .collect();
    let other = thread::scope(|scope| {
        let floods: Vec<_> = floods
            .into_iter()
            .map(|(piece, mut wire)| {
                scope.spawn(move || {
                    // It is over when nothing more is taken for a while.
                    let sent = wire.flood(&piece, 256 << 20, Duration::from_millis(700));
                    (sent, wire)
                })
            })
            .collect();
        let mut client = Client::connect(weft.at()).expect("a connection");
        for target in ["/health", "/services"].into_iter().cycle().take(100) {
            client.ask("GET", target, &[], b"").expect("answered").with_status(200);
        }
        let ended: Vec<(usize, Wire)> = floods.into_iter().map(|flood| flood.join().expect("no panic")).collect();
        for (sent, _) in &ended {
            assert!(*sent < 64 << 20, "{sent} bytes of requests were taken");
        }
        let held = doors(&weft)["bufferedBytes"].as_u64().expect("a number");
        assert!(held < 5 * 512 * 1024, "{held} bytes are held for five clients");
        client
    });
    drop(other);
    is_well(&mut weft);
    assert!(most_memory(&weft) < before + 16 * 1024, "{before} KiB, then {} KiB", most_memory(&weft));
}

#[test]
fn clients_that_come_all_at_once_and_stay_are_all_answered() {
    let weft = weft(&[]);
    let upstream = Upstream::named("users");
    weft.register("s", &upstream);
    for clients in [64, 200] {
        let mut all: Vec<Wire> = (0..clients).map(|_| Wire::to(weft.at())).collect();
        for target in ["/services", "/health", "/proxy/s/"] {
            for wire in &mut all {
                assert!(wire.send(request("GET", target, &[], b"")));
            }
            for wire in &mut all {
                assert_eq!(wire.answer().status, 200, "{target}");
            }
        }
    }
}

/// How many of these have been sent away so far.
fn turned_away(at: SocketAddr, clients: usize) -> (Vec<Wire>, usize) {
    let mut all: Vec<Wire> = (0..clients).map(|_| Wire::to(at)).collect();
    let gone = all.iter_mut().map(|wire| usize::from(wire.has_ended_within(Duration::from_millis(20)))).sum();
    (all, gone)
}

#[test]
fn without_descriptors_who_comes_is_turned_away_who_is_inside_is_served_and_nothing_spins() {
    let mut weft = Weft::start_under("ulimit -n 48", &small(&[]));
    let mut inside = Client::connect(weft.at()).expect("a connection");
    inside.ask("GET", "/health", &[], b"").expect("answered").with_status(200);
    let (clients, gone) = turned_away(weft.at(), 100);
    assert!((50..100).contains(&gone), "{gone} of 100 were turned away");
    let (used, began) = (weft.processor_time(), Instant::now());
    while began.elapsed() < Duration::from_secs(1) {
        inside.ask("GET", "/health", &[], b"").expect("answered").with_status(200);
        thread::park_timeout(Duration::from_millis(50));
    }
    let used = weft.processor_time() - used;
    assert!(used <= 20, "{used} % of a processor");
    drop(clients);
    let left = Instant::now();
    eventually("there is room again", || Client::connect(weft.at()).ok()?.ask("GET", "/health", &[], b"").ok().filter(|a| a.status == 200));
    assert!(left.elapsed() < Duration::from_secs(2), "{:?}", left.elapsed());
    assert!(doors(&weft)["acceptErrors"].as_u64().expect("a number") >= 1);
    assert!(weft.err().matches("cannot accept").count() <= 5, "{}", weft.err());
    is_well(&mut weft);
}

#[test]
fn without_a_descriptor_to_connect_with_a_call_is_refused_and_no_instance_is_blamed() {
    let mut weft = Weft::start_under("ulimit -n 48", &small(&[]));
    let (kept, closed) = (Upstream::named("kept"), Upstream::start(|_| Act::Say(answer(200, &[("connection", "close")], b"closed"))));
    let mut inside = Client::connect(weft.at()).expect("a connection");
    let mut ask =
        |method: &str, target: &str, body: &Value| inside.ask(method, target, &[], body.to_string().as_bytes()).expect("answered");
    let call = |service: &str| json!({"serviceName": service, "endpoint": "/"});
    let policy = json!({"retry": {"maxRetries": 0}, "healthCheck": {"intervalMs": 20}});
    for service in ["closed", "checked"] {
        ask("PUT", &format!("/services/{service}/policy"), &policy).with_status(200);
    }
    weft.register("kept", &kept);
    weft.register("closed", &closed);
    ask("POST", "/invoke", &call("kept")).with_status(200);
    let mut clients = Vec::new();
    eventually("no descriptor is left", || {
        clients.extend((0..10).map(|_| Wire::to(weft.at())));
        (ask("GET", "/metrics", &Value::Null).json()["doors"]["acceptErrors"] != json!(0)).then_some(())
    });
    // What is kept for later makes way; and then who waits takes what becomes free.
    ask("POST", "/invoke", &call("closed")).with_status(200);
    let mut refused = 0;
    eventually("there is nothing left to connect with", || {
        clients.extend((0..10).map(|_| Wire::to(weft.at())));
        let answer = ask("POST", "/invoke", &call("closed"));
        if answer.status == 503 {
            let found = (answer.reason(), answer.json()["limit"].clone(), answer.header("x-mesh-not-sent").map(str::to_owned));
            assert_eq!(found, ("overloaded".to_owned(), json!("open files"), Some("true".to_owned())));
            refused += 1;
        }
        (refused == 10).then_some(())
    });
    let url = format!("http://{}/health", closed.at);
    let checked = json!({"name": "checked", "id": "i", "host": "127.0.0.1", "port": closed.port(), "healthCheckUrl": url});
    ask("POST", "/register", &checked).with_status(200);
    eventually("a check cannot be made either", || {
        clients.extend((0..10).map(|_| Wire::to(weft.at())));
        let text = ask("GET", "/metrics/prometheus", &Value::Null).text();
        (!text.contains("weft_health_checks_total{service=\"checked\",result=\"not_made\"} 0")).then_some(())
    });
    for service in ["closed", "checked"] {
        let instance = ask("GET", &format!("/services/{service}"), &Value::Null).json()["instances"][0].clone();
        assert_eq!((&instance["healthy"], &instance["failureCount"]), (&json!(true), &json!(0)), "{instance}");
    }
    let refusals = ask("GET", "/metrics", &Value::Null).json()["services"]["closed"]["refused"].clone();
    for (count, times) in [(&refusals["byLimit"]["open files"], 10), (&refusals["overloaded"], 10), (&refusals["circuitOpen"], 0)] {
        assert_eq!(*count, json!(times), "{refusals}");
    }
    drop(clients);
    eventually("there is room again", || {
        Client::connect(weft.at()).ok()?.ask("GET", "/health", &[], b"").ok().filter(|answer| answer.status == 200)
    });
    ask("POST", "/invoke", &call("closed")).with_status(200);
    is_well(&mut weft);
}

#[test]
fn with_no_address_space_to_spare_it_lives_on() {
    many_files();
    let taken = weft(&[]).status("VmPeak");
    let limit = format!("ulimit -v {}", taken + 128 * 1024);
    let mut weft = Weft::start_under(&limit, &small(&["--max-connections", "600", "--max-buffered-bytes", "16777216"]));
    let mut wires: Vec<Wire> = (0..1000).map(|_| Wire::to(weft.at())).collect();
    let half = request("POST", "/register", &[("content-length", "1000000")], &[b' '; 100_000]);
    for wire in &mut wires {
        wire.send(&half);
    }
    drop(wires);
    eventually("nobody is left", || (doors(&weft)["openConnections"] == 1).then_some(()));
    is_well(&mut weft);
}

#[test]
fn a_start_without_threads_to_be_had_fails_and_says_so() {
    for limit in [60_000, 120_000, 250_000] {
        let mut weft = Weft::try_under(&format!("ulimit -v {limit}"), &small(&[]));
        match eventually("it listens or ends", || weft.listens_or_has_ended()) {
            Some(code) => assert!(code != 0 && !weft.err().is_empty(), "{code} {}", weft.err()),
            None => is_well(&mut weft),
        }
    }
}

/// slowhttptest, where it is installed.
fn slowhttptest(weft: &Weft, kind: &[&str]) -> Option<String> {
    let url = format!("http://{}/services", weft.at());
    let common = ["-c", "60", "-r", "60", "-l", "4", "-i", "1", "-p", "2", "-u", &url];
    let output = Command::new("slowhttptest").args(kind).args(common).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn slowhttptest_finds_the_service_available() {
    let mut weft = weft(&["--head-timeout-ms", "1000", "--body-timeout-ms", "1000", "--write-timeout-ms", "1000"]);
    let said: Vec<_> = thread::scope(|scope| {
        let weft = &weft;
        let all = [&["-H"][..], &["-B", "-s", "8192"], &["-X", "-k", "3"]].map(|kind| scope.spawn(move || slowhttptest(weft, kind)));
        all.into_iter().map(|one| one.join().expect("no panic")).collect()
    });
    for said in said.into_iter().flatten() {
        let last = said.rsplit("service available").next().unwrap_or_default();
        assert!(last.contains("YES") && !said.contains("NO"), "{said}");
    }
    is_well(&mut weft);
}
