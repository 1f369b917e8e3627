//! Active health checks with real probes at short intervals.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::house::House;
use crate::support::upstream::{Act, End, Upstream, answer, ok, status};
use crate::support::{PATIENCE, eventually, throughout};

fn quick() -> House {
    with(json!({"intervalMs": 30, "fastIntervalMs": 5, "timeoutMs": 200}))
}

fn with(health_check: Value) -> House {
    House::with(json!({"healthCheck": health_check, "retry": {"maxRetries": 0}}))
}

/// Registers an instance with a health check at `path` of the upstream.
fn register(house: &House, id: &str, upstream: &Upstream, path: &str) {
    register_at(house, id, upstream.port(), path);
}

fn register_at(house: &House, id: &str, port: u16, path: &str) {
    let url = format!("http://127.0.0.1:{port}{path}");
    let registration = json!({"name": "s", "id": id, "host": "127.0.0.1", "port": port, "healthCheckUrl": url});
    house.post("/register", &registration).with_status(200);
}

#[track_caller]
fn becomes(house: &House, id: &str, healthy: bool) {
    eventually(&format!("{id} becomes healthy: {healthy}"), || (house.instance("s", id)["healthy"] == healthy).then_some(()));
}

/// How often each path was asked for.
fn probes(upstream: &Upstream) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for asked in upstream.asked() {
        *all.entry(asked.target).or_default() += 1;
    }
    all
}

#[test]
fn a_dead_instance_gets_no_calls_until_it_is_back() {
    let house = quick();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let again = listener.try_clone().expect("the same port");
    let (dying, other) = (Upstream::on(listener, |_| Act::SayAnd(answer(200, &[], "dying"), End::Close)), Upstream::named("other"));
    register(&house, "dying", &dying, "/health");
    register(&house, "other", &other, "/health");
    eventually("it has been checked", || (house.instance("s", "dying")["lastHealthCheck"].as_u64()? > 0).then_some(()));
    becomes(&house, "dying", true);
    // The port stays taken, so that nobody else gets it, but nobody answers.
    drop(dying);
    becomes(&house, "dying", false);
    assert_eq!(house.metrics()["serviceHealth"]["s:dying"], false);
    for _ in 0..4 {
        assert_eq!(house.call("s", "/").with_status(200).text(), "other");
    }
    let why = house.get("/services/s/explain").json()["instances"][0]["why"].clone();
    assert!(why.as_str().is_some_and(|why| why.starts_with("unhealthy: check ")), "{why}");

    let _back = Upstream::on(again, |_| ok("back"));
    becomes(&house, "dying", true);
    let answers: Vec<String> = (0..2).map(|_| house.call("s", "/").with_status(200).text()).collect();
    assert!(answers.contains(&"back".to_owned()), "{answers:?}");
    let events = house.get("/events").json();
    let kinds: Vec<&str> = events["events"].as_array().expect("events").iter().filter_map(|event| event["kind"].as_str()).collect();
    assert!(kinds.contains(&"unhealthy") && kinds.contains(&"healthy"), "{kinds:?}");
}

#[test]
fn what_a_check_answers_decides_and_a_redirect_is_a_no_and_not_followed() {
    let house = quick();
    let target = Upstream::named("the target of the redirect");
    let location = format!("http://{}/", target.at);
    let upstream = Upstream::start(move |asked| match &*asked.target {
        "/200" => ok("fine"),
        "/204" => Act::Say(b"HTTP/1.1 204 -\r\n\r\n".to_vec()),
        "/302" => Act::Say(answer(302, &[("location", &location)], "")),
        "/hang" => Act::SayAnd(Vec::new(), End::Hang),
        "/reset" => Act::SayAnd(Vec::new(), End::Reset),
        "/banner" => Act::SayAnd(b"SSH-2.0-x\r\n".to_vec(), End::Close),
        other => status(other.trim_start_matches('/').parse().expect("a status")),
    });
    let verdicts = [
        ("200", true),
        ("204", true),
        ("429", true),
        ("302", false),
        ("404", false),
        ("500", false),
        ("503", false),
        ("hang", false),
        ("reset", false),
        ("banner", false),
    ];
    for (id, _) in verdicts {
        register(&house, id, &upstream, &format!("/{id}"));
    }
    for (id, healthy) in verdicts {
        eventually("it has been checked", || (house.instance("s", id)["lastHealthCheck"].as_u64()? > 0).then_some(()));
        becomes(&house, id, healthy);
    }
    assert_eq!(target.connections(), 0);
}

#[test]
fn a_probe_says_who_asks_and_closes_its_connection() {
    let house = quick();
    let upstream = Upstream::named("x");
    register(&house, "i", &upstream, "/health?deep=1");
    eventually("two checks", || (upstream.requests() >= 2).then_some(()));
    let asked = upstream.asked()[0].clone();
    assert_eq!((&*asked.method, &*asked.target), ("GET", "/health?deep=1"));
    assert_eq!(asked.header("host"), Some(&*format!("127.0.0.1:{}", upstream.port())));
    assert!(asked.header("user-agent").is_some_and(|agent| agent.starts_with("weft/") && agent.ends_with("(health check)")));
    assert_eq!(asked.header("connection"), Some("close"));
    assert_eq!(asked.header("x-service-mesh"), None, "a check is not a call");
    let all = upstream.asked();
    assert!(all.iter().all(|asked| asked.connection == asked.nth), "each on a connection of its own");
    let metrics = house.metrics();
    assert_eq!((&metrics["totalRequests"], &metrics["services"]["s"]["instances"]["i"]["requests"]), (&json!(0), &json!(0)));
}

#[test]
fn the_method_the_fields_and_the_expected_status_of_a_check_can_be_set() {
    let house = with(json!({"intervalMs": 30, "fastIntervalMs": 5, "method": "HEAD", "expectStatus": [404], "headers": {"X-Probe": "1"}}));
    let upstream = Upstream::start(|asked| if asked.target == "/gone" { status(404) } else { status(200) });
    register(&house, "a", &upstream, "/gone");
    register(&house, "b", &upstream, "/there");
    becomes(&house, "b", false);
    becomes(&house, "a", true);
    let asked = upstream.asked()[0].clone();
    assert_eq!((&*asked.method, asked.header("x-probe")), ("HEAD", Some("1")));
}

#[test]
fn a_registration_that_says_how_it_is_is_believed_until_the_first_regular_check() {
    let house = with(json!({"intervalMs": 300}));
    let upstream = Upstream::start(|asked| if asked.target == "/health" { status(500) } else { ok("x") });
    let url = format!("http://127.0.0.1:{}/health", upstream.port());
    let said = json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": upstream.port(), "healthCheckUrl": url, "healthy": true});
    house.post("/register", &said).with_status(200);
    house.call("s", "/").with_status(200);
    becomes(&house, "i", false);
    house.post("/register", &said).with_status(200);
    assert_eq!(house.instance("s", "i")["healthy"], false, "saying so again does not outweigh a check");
    assert_eq!(house.call("s", "/").with_status(503).reason(), "no_healthy_instance");
}

#[test]
fn an_instance_under_maintenance_is_not_asked() {
    let house = quick();
    let upstream = Upstream::named("x");
    register(&house, "i", &upstream, "/health");
    eventually("checks", || (upstream.requests() >= 2).then_some(()));
    house.put("/services/s/i/state", &json!({"state": "maint"})).with_status(200);
    let before = upstream.requests();
    throughout(Duration::from_millis(300), "at most the check that was under way", || upstream.requests() <= before + 1);
    house.put("/services/s/i/state", &json!({"state": "drain"})).with_status(200);
    eventually("a drained one is asked", || (upstream.requests() >= before + 3).then_some(()));
}

#[test]
fn an_instance_that_is_gone_is_not_asked_any_more() {
    let house = quick();
    let upstream = Upstream::named("x");
    register(&house, "i", &upstream, "/health");
    eventually("checks", || (upstream.requests() >= 2).then_some(()));
    house.ask("DELETE", "/services/s/i", &[], b"").with_status(200);
    let before = upstream.requests();
    throughout(Duration::from_millis(200), "at most the check that was under way", || upstream.requests() <= before + 1);
}

#[test]
fn registering_again_and_again_does_not_multiply_the_checks() {
    let house = with(json!({"intervalMs": 200, "fastIntervalMs": 200}));
    let upstream = Upstream::named("x");
    let start = Instant::now();
    for _ in 0..50 {
        register(&house, "i", &upstream, "/health");
    }
    eventually("six checks", || (upstream.requests() >= 6).then_some(()));
    // Six checks span five intervals, each at most a tenth early; fifty schedules would need one.
    assert!(start.elapsed() >= Duration::from_millis(400), "{:?}", start.elapsed());
}

#[test]
fn hanging_instances_do_not_delay_the_checks_of_the_others() {
    let house = with(json!({"intervalMs": 100, "fastIntervalMs": 100, "timeoutMs": 2_000}));
    let (hanging, healthy) = (Upstream::start(|_| Act::SayAnd(Vec::new(), End::Hang)), Upstream::named("x"));
    for n in 0..40 {
        register(&house, &format!("hanging-{n}"), &hanging, "/health");
    }
    for n in 0..10 {
        register(&house, &format!("healthy-{n}"), &healthy, &format!("/health/{n}"));
    }
    eventually("hanging checks time out", || (house.instance("s", "hanging-0")["healthy"] == false).then_some(()));
    let before = probes(&healthy);
    let start = Instant::now();
    eventually("each healthy one is asked ten times more", || {
        let now = probes(&healthy);
        (0..10).map(|n| format!("/health/{n}")).all(|path| now.get(&path).copied() >= before.get(&path).map(|n| n + 10)).then_some(())
    });
    // Ten waits of one tenth of a second; behind hanging checks it would be ten of two seconds.
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
    for n in 0..10 {
        assert_eq!(house.instance("s", &format!("healthy-{n}"))["healthy"], true);
    }
}

#[test]
fn calls_that_succeed_keep_an_instance_whose_checks_get_lost_for_one_more_check() {
    let house = with(json!({"intervalMs": 500, "fastIntervalMs": 500}));
    // The first check is answered, all later ones are lost; calls are answered.
    let upstream = Upstream::start(|asked| match (&*asked.target, asked.nth) {
        ("/health", 1) | ("/", _) => ok(""),
        _ => Act::SayAnd(Vec::new(), End::Reset),
    });
    register(&house, "i", &upstream, "/health");
    let lost = || upstream.asked().iter().filter(|asked| asked.target == "/health").count() - 1;
    eventually("the first check", || (upstream.requests() >= 1).then_some(()));
    // With calls succeeding all the time, the verdict takes two counted failures, and one more is forgiven.
    eventually("the verdict", || {
        house.call("s", "/");
        (house.instance("s", "i")["healthy"] == false).then_some(())
    });
    assert_eq!(lost(), 3);
}
