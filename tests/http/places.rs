//! Where the mesh could be made to go: forbidden addresses, spellings that hide them, names that move, pages of other origins. Each is
//! refused, and no packet leaves for it.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::json;
use weft::Mesh;
use weft::mesh::ports::Resolver;
use weft::model::Host;
use weft::server::Config;

use crate::house::House;
use crate::inputs::{assert_bad, register_with};
use crate::support::eventually;
use crate::support::upstream::Upstream;

#[test]
fn addresses_that_no_instance_may_have_are_refused_as_not_allowed() {
    let house = House::new();
    for host in [
        "169.254.169.254",
        "169.254.0.1",
        "[fe80::1]",
        "fe80::1",
        "0.0.0.0",
        "0.1.2.3",
        "[::]",
        "::",
        "[::ffff:169.254.169.254]",
        "::ffff:0.0.0.0",
        "64:ff9b::a9fe:a9fe",
        "224.0.0.1",
        "255.255.255.255",
        "100.100.100.200",
        "ff02::1",
        "fd00:ec2::254",
    ] {
        let refused = register_with(&house, "host", &json!(host).to_string());
        assert_eq!(refused.status, 403, "{host}: {}", refused.text());
        assert_eq!(refused.reason(), "upstream_not_allowed", "{host}");
        let url =
            format!("http://{}/health", if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() });
        let refused = register_with(&house, "healthCheckUrl", &json!(url).to_string());
        assert_eq!((refused.status, refused.reason().as_str()), (403, "upstream_not_allowed"), "{url}");
    }
    assert_eq!(house.get("/services").json(), json!([]));
    for host in ["127.0.0.1", "localhost", "[::1]", "::1", "LocalHost"] {
        register_with(&house, "host", &json!(host).to_string()).with_status(200);
    }
}

#[test]
fn other_spellings_of_addresses_and_what_is_no_host_are_bad_requests() {
    let house = House::new();
    let long = "a".repeat(300);
    for host in [
        "2130706433",
        "0x7f.1",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "a@b",
        "a/b",
        "a?b",
        "a#b",
        "a b",
        "a\r\nX: y",
        "a:80",
        "",
        &long,
        "bücher.de",
        "a.",
        "%31",
        "[localhost]",
        "[::1",
        "127.0.0.1:80",
        "http://a",
        "a\0",
    ] {
        assert_bad(register_with(&house, "host", &json!(host).to_string()), "host", host);
    }
    for (value, what) in [("null", "null"), ("5", "a number"), ("[]", "a list"), ("{}", "an object")] {
        assert_bad(register_with(&house, "host", value), "host", what);
    }
    assert_eq!(house.get("/services").json(), json!([]));
}

#[test]
fn an_endpoint_that_could_mean_another_place_is_refused_and_no_packet_leaves() {
    let house = House::new();
    let (here, evil) = (Upstream::named("here"), Upstream::named("evil"));
    house.register("s", "i", &here);
    let place = evil.at;
    let long = format!("/{}", "a".repeat(10 * 1024));
    let aimed =
        [format!("@{place}/x"), format!("//{place}/x"), format!("http://{place}/"), format!(":80@{place}/"), format!("\\\\{place}/")];
    let plain = [
        "/../x",
        "/%2e%2e/x",
        "/.%2E/x",
        "/a\\b",
        "/a%5cb",
        "/a%0d%0aX:y",
        "/a\r\nX: y",
        "/a\0",
        "/a%00",
        "/é",
        "",
        "*",
        "a",
        "/a b",
        "/a#b",
        "/%",
        "/%zz",
        "?a=b",
        &long,
    ];
    for endpoint in aimed.iter().map(String::as_str).chain(plain) {
        assert_bad(house.invoke(&json!({"serviceName": "s", "endpoint": endpoint})), "endpoint", endpoint);
    }
    assert_eq!((here.connections(), evil.connections()), (0, 0));
    for endpoint in ["/", "/%252e", "/a?b=/../c", "/a..b", "/a%20b?x=1&y=%2F"] {
        house.call("s", endpoint).with_status(200);
        assert_eq!(here.asked().last().map(|asked| asked.target.clone()).as_deref(), Some(endpoint), "as it came");
    }
}

#[test]
fn a_health_url_that_could_ask_another_place_is_refused() {
    let house = House::new();
    let evil = Upstream::named("evil");
    let place = evil.at;
    for url in [
        format!("http://u@{place}/"),
        format!("http://u:p@{place}/"),
        format!("http://127.0.0.1:80@{place}/"),
        format!("ftp://{place}/"),
        format!("//{place}/"),
        format!("{place}/health"),
        format!("http://{place}/../x"),
        format!("http://{place}/a b"),
        format!("http://{place}/\r\nX: y"),
        "http://127.0.0.1:99999/".to_owned(),
        "http://127.1/".to_owned(),
        "http:///health".to_owned(),
        "gopher://x".to_owned(),
        String::new(),
    ] {
        assert_bad(register_with(&house, "healthCheckUrl", &json!(url).to_string()), "healthCheckUrl", &url);
    }
    assert_eq!(evil.connections(), 0);
}

/// Resolves names as a test says.
struct Names {
    moved: Arc<AtomicBool>,
}

impl Resolver for Names {
    fn resolve(&self, host: &Host, _: Duration) -> Vec<IpAddr> {
        let text = match host {
            Host::Ip(ip) => return vec![*ip],
            Host::Name(name) => &**name,
        };
        let loopback = "127.0.0.1".parse().expect("an address");
        let metadata = "169.254.169.254".parse().expect("an address");
        match text {
            "metadata.google.internal" => vec![metadata],
            "both.example" => vec![loopback, metadata],
            "moving.example" if self.moved.load(Ordering::SeqCst) => vec![metadata],
            "moving.example" | "good.example" => vec![loopback],
            _ => Vec::new(),
        }
    }
}

#[test]
fn names_are_judged_by_what_they_resolve_to_at_registration_and_ever_after() {
    let moved = Arc::new(AtomicBool::new(false));
    let builder = Mesh::builder()
        .resolver(Names { moved: Arc::clone(&moved) })
        .defaults(json!({"healthCheck": {"intervalMs": 20, "fastIntervalMs": 5}}));
    let house = House::of(builder, Config::default());
    for host in ["metadata.google.internal", "both.example"] {
        let refused = register_with(&house, "host", &json!(host).to_string()).with_status(403);
        assert_eq!(refused.reason(), "upstream_not_allowed", "{host}");
        let refused = register_with(&house, "healthCheckUrl", &json!(format!("http://{host}/")).to_string()).with_status(403);
        assert_eq!(refused.reason(), "upstream_not_allowed", "{host}");
    }
    let upstream = Upstream::named("x");
    let registration = json!({"name": "s", "id": "i", "host": "moving.example", "port": upstream.port()});
    house.post("/register", &registration).with_status(200);
    house.call("s", "/").with_status(200);
    moved.store(true, Ordering::SeqCst);
    // One that has just been picked may find that it leads nowhere any more.
    eventually("the name is resolved again", || {
        let answer = house.call("s", "/");
        (answer.status != 200 && answer.reason() == "no_healthy_instance").then_some(())
    });
    let requests = upstream.requests();
    let why = house.get("/services/s/explain").json()["instances"][0]["why"].clone();
    assert_eq!(why, "its host name has no usable address");
    house.post("/register", &registration).with_status(403);
    moved.store(false, Ordering::SeqCst);
    eventually("the name is allowed again", || (house.call("s", "/").status == 200).then_some(()));
    assert_eq!(upstream.requests(), requests + 1);
}

#[test]
fn a_name_that_does_not_resolve_is_accepted_and_waits_until_it_does() {
    let house = House::of(Mesh::builder().resolver(Names { moved: Arc::default() }), Config::default());
    register_with(&house, "host", r#""nowhere.example""#).with_status(200);
    assert_eq!(house.call("s", "/").with_status(503).reason(), "no_healthy_instance");
    assert_eq!(house.get("/services/s/explain").json()["instances"][0]["why"], "its host name has no usable address");
}

/// Says nothing about any name for as long as whoever asks is patient, up to the end of the test.
#[derive(Clone, Default)]
struct Silence {
    asked: Arc<AtomicUsize>,
    over: Arc<(Mutex<bool>, Condvar)>,
}

impl Resolver for Silence {
    fn resolve(&self, host: &Host, patience: Duration) -> Vec<IpAddr> {
        match host {
            Host::Ip(ip) => vec![*ip],
            Host::Name(_) => {
                self.asked.fetch_add(1, Ordering::SeqCst);
                let (over, changed) = &*self.over;
                // Who is in a hurry is let go at once.
                let is_patient = patience >= Duration::from_secs(1);
                drop(changed.wait_while(over.lock().expect("no panic inside"), |over| is_patient && !*over));
                Vec::new()
            }
        }
    }
}

#[test]
fn registrations_that_wait_for_their_names_leave_workers_for_others() {
    let silence = Silence::default();
    let config = Config { workers: 2, reserved_workers: 1, ..Config::default() };
    let house = House::of(Mesh::builder().resolver(silence.clone()).background(false), config);
    let register = |n: usize| {
        let url = format!("http://other{n}.test/health");
        house.post(
            "/register",
            &json!({"name": "s", "id": n.to_string(), "host": format!("name{n}.test"), "port": 9, "healthCheckUrl": url}),
        )
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| register(0));
        eventually("one of them waits", || (silence.asked.load(Ordering::SeqCst) > 0).then_some(()));
        for n in 1..4 {
            register(n).with_status(200);
        }
        assert_eq!(house.get("/services/s").with_status(200).json()["instances"].as_array().map(Vec::len), Some(3));
        *silence.over.0.lock().expect("no panic inside") = true;
        silence.over.1.notify_all();
        first.join().expect("no panic").with_status(200);
    });
    let asked = silence.asked.load(Ordering::SeqCst);
    register(5).with_status(200);
    assert_eq!(silence.asked.load(Ordering::SeqCst), asked + 2, "host and check");
}

#[test]
fn what_the_operator_denies_is_refused_and_no_packet_leaves() {
    let (allowed, denied) = (Upstream::named("allowed"), Upstream::named("denied"));
    let upstreams: weft::policy::upstreams::Config =
        serde_json::from_value(json!({"allow": [], "deny": [format!("127.0.0.0/8:{}", denied.port())]})).expect("valid");
    let house = House::of(Mesh::builder().upstreams(upstreams), Config::default());
    for host in ["127.0.0.1", "localhost", "127.9.9.9", "::ffff:127.0.0.1"] {
        let registration = json!({"name": "s", "id": "i", "host": host, "port": denied.port()});
        assert_eq!(house.post("/register", &registration).with_status(403).reason(), "upstream_not_allowed", "{host}");
        let checked = json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": allowed.port(),
            "healthCheckUrl": format!("http://{}:{}/", if host.contains("::") { "[::ffff:127.0.0.1]" } else { host }, denied.port())});
        assert_eq!(house.post("/register", &checked).with_status(403).reason(), "upstream_not_allowed", "{host}");
    }
    house.register("s", "i", &allowed);
    house.call("s", "/").with_status(200);
    assert_eq!(denied.connections(), 0);
}

#[test]
fn browsers_cannot_be_made_to_change_anything() {
    let house = House::new();
    let upstream = Upstream::named("x");
    house.register("s", "i", &upstream);
    let call = br#"{"serviceName":"s","endpoint":"/"}"#;
    let changes: [(&str, &str, &[u8]); 9] = [
        ("POST", "/invoke", call),
        ("POST", "/register", br#"{"name":"e","id":"e","host":"127.0.0.1","port":9}"#),
        ("POST", "/deregister", br#"{"name":"s","id":"i"}"#),
        ("DELETE", "/services/s/i", b""),
        ("PUT", "/services/s/i/heartbeat", b""),
        ("PUT", "/services/s/i/state", br#"{"state":"maint"}"#),
        ("PUT", "/services/s/i/weight", br#"{"weight":0}"#),
        ("PUT", "/services/s/policy", br#"{"retry":{"maxRetries":0}}"#),
        ("DELETE", "/services/s/policy", b""),
    ];
    let policy = house.get("/services/s/policy").json();
    for (method, target, body) in changes {
        for headers in [
            &[("origin", "http://evil.example")][..],
            &[("origin", "null")],
            &[("origin", "http://localhost:9999")],
            &[("host", "evil.example")],
            &[("host", "evil.example"), ("origin", "http://evil.example")],
            &[("host", "localhost.evil.example:3000")],
            &[("host", "127.0.0.1.evil.example")],
            &[("host", "")],
        ] {
            let refused = house.ask(method, target, headers, body);
            assert_eq!(refused.status, 403, "{method} {target} {headers:?}: {}", refused.text());
            assert_eq!(refused.reason(), "forbidden");
        }
    }
    assert_eq!(upstream.connections(), 0);
    let seen = house.instance("s", "i");
    assert_eq!((&seen["state"], &seen["weight"]), (&json!("ready"), &json!(1)));
    assert_eq!(house.get("/services/s/policy").json(), policy);
    let own = house.at.to_string();
    for headers in [
        &[("host", own.as_str())][..],
        &[("host", "127.0.0.1:3000")],
        &[("host", "[::1]:3000")],
        &[("host", "LOCALHOST")],
        &[("host", "localhost:3000"), ("origin", "http://localhost:3000")],
    ] {
        house.ask("POST", "/invoke", headers, call).with_status(200);
    }
    house.ask("GET", "/health", &[("host", "evil.example"), ("origin", "http://evil.example")], b"").with_status(200);
}
