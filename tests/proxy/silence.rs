//! Instances that fall silent without a word: a process that is stopped, and a network that swallows everything.

use std::process::{Command, Output};
use std::time::{Duration, Instant};
use std::{env, fs};

use serde_json::{Value, json};

use crate::house::House;
use crate::program::Weft;
use crate::support::eventually;
use crate::support::upstream::Upstream;
use crate::ways::Way;
use crate::wire::Wire;

/// The time of an attempt.
const SHORT: Duration = Duration::from_millis(300);
/// How much longer anything may take on a busy machine.
const SLACK: Duration = Duration::from_secs(5);

/// One attempt, and not much time for it.
fn impatient(breaker: Value) -> Value {
    json!({
        "timeouts": {"connectMs": 300, "attemptMs": 300, "totalMs": 3000, "idleBodyMs": 300}, "retry": {"maxRetries": 0},
        "circuitBreaker": breaker
    })
}

#[test]
fn a_stopped_process_costs_the_time_of_an_attempt_and_then_nothing_until_it_goes_on() {
    for way in Way::ALL {
        let house = way.house(impatient(json!({"failureThreshold": 2, "successThreshold": 2, "timeoutMs": 400})));
        // Any server will do, and one is at hand.
        let instance = Weft::start(&[]);
        house.register_at("s", "i", instance.at().port());
        way.call(&house, "GET", "s", "/health").with_status(200);
        instance.signal("STOP");
        eventually("all of it has stopped", || has_stopped(instance.pid()).then_some(()));
        for _ in 0..2 {
            let start = Instant::now();
            assert_eq!(way.call(&house, "GET", "s", "/health").with_status(504).reason(), "upstream_timeout", "{way:?}");
            assert!((SHORT.mul_f64(0.9)..SHORT + SLACK).contains(&start.elapsed()), "{way:?}: {:?}", start.elapsed());
        }
        assert_eq!(way.call(&house, "GET", "s", "/health").with_status(503).reason(), "circuit_open", "{way:?}");
        instance.signal("CONT");
        eventually("it is tried again", || (way.call(&house, "GET", "s", "/health").status() == 200).then_some(()));
        way.call(&house, "GET", "s", "/health").with_status(200);
        assert_eq!(house.metrics()["circuitBreakers"]["s"]["status"], "CLOSED", "{way:?}");
    }
}

/// Whether every thread of a process stands still.
fn has_stopped(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    threads.flatten().all(|thread| {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:\tT"))
    })
}

/// Set where this program runs in a network of its own.
const INSIDE: &str = "WEFT_TEST_IN_A_NETWORK_OF_ITS_OWN";
const THIS: &str = "silence::a_connection_that_leads_nowhere_is_given_up_and_not_used_again";

#[test]
fn a_connection_that_leads_nowhere_is_given_up_and_not_used_again() {
    if env::var_os(INSIDE).is_some() {
        run("ip", &["link", "set", "lo", "up"]);
        return Way::ALL.into_iter().for_each(a_severed_network);
    }
    for command in ["unshare", "ip", "nft"] {
        let there = of_the_system(command).arg("-V").output();
        assert!(there.is_ok(), "there is no command `{command}`: install util-linux, iproute2 and nftables");
    }
    if !of_the_system("unshare").args(["-Urn", "true"]).output().expect("unshare").status.success() {
        println!("skipped: this machine does not let a test have a network of its own (unshare -Urn)");
        return;
    }
    let this = env::current_exe().expect("this program");
    let mut again = of_the_system("unshare");
    let Output { status, stdout, stderr } =
        again.arg("-Urn").arg(this).args(["--exact", THIS, "--nocapture"]).env(INSIDE, "1").output().expect("unshare");
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success() && stdout.contains("1 passed"), "{stdout}\n{stderr}");
}

/// A command that ordinary users may not have in their path.
fn of_the_system(command: &str) -> Command {
    let mut made = Command::new(command);
    made.env("PATH", env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin");
    made
}

#[track_caller]
fn run(command: &str, arguments: &[&str]) {
    let output = of_the_system(command).args(arguments).output().unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(output.status.success(), "{command} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Swallows everything from and to a port, from now on.
fn sever(port: u16) {
    run(
        "nft",
        &[&format!(
            "add table inet silence; add chain inet silence input {{ type filter hook input priority 0; }}; \
         add rule inet silence input tcp sport {port} drop; add rule inet silence input tcp dport {port} drop"
        )],
    );
}

fn heal() {
    run("nft", &["delete table inet silence"]);
}

fn a_severed_network(way: Way) {
    let house: House = way.house(impatient(json!({"failureThreshold": 100})));
    let upstream = Upstream::named("x");
    house.register("s", "i", &upstream);
    // One connection, so that it is one event loop that keeps connections to the instance.
    let mut client = Wire::to(&house);
    for method in ["GET", "POST"] {
        let mut call = || {
            let start = Instant::now();
            client.send(way.request(method, "s", "/"));
            let answer = client.answer();
            assert!(start.elapsed() < SHORT + SLACK, "{way:?}: {:?}", start.elapsed());
            (answer.status(), answer.header("x-mesh-reason").unwrap_or_default().to_owned())
        };
        let fine = (200, String::new());
        assert_eq!(call(), fine, "{way:?}");
        let before = upstream.connections();
        sever(upstream.port());
        assert_eq!(call(), (504, "upstream_timeout".to_owned()), "{way:?}: {method} on a connection that was there");
        assert_eq!(call(), (503, "upstream_connect".to_owned()), "{way:?}: {method} on a new one, since that one was given up");
        heal();
        assert_eq!(call(), fine, "{way:?}");
        assert_eq!(upstream.connections(), before + 1, "{way:?}: a new one");
    }
    // On the workers the system may deliver a request after all that had been given up while nothing got through.
    let late = if way == Way::Workers { 2 } else { 0 };
    assert!((4..=4 + late).contains(&upstream.requests()), "{way:?}: {} requests", upstream.requests());
    assert_eq!(house.metrics()["services"]["s"]["inFlight"], 0);
}
