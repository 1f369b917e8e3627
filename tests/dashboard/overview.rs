//! What the dashboard asks for, without a browser: how much it is, who is told that he knows it already, and what fifty of them do to calls.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::json;

use crate::support::client::{self, Client};
use crate::support::eventually;
use crate::support::upstream::{Upstream, ok};
use crate::weft::Weft;

#[test]
fn browsers_are_sent_to_the_dashboard_and_nobody_else_is() {
    let weft = Weft::start(&[]);
    let ask = |method, path, accept| client::ask(weft.at(), method, path, &[("accept", accept)], b"").expect("an answer");
    let sent = ask("GET", "/", "text/html,application/xhtml+xml,*/*;q=0.8").with_status(302);
    assert_eq!(sent.header("location"), Some("/dashboard"));
    assert_eq!(ask("HEAD", "/", "text/html").status, 302);
    assert_eq!(ask("GET", "/", "*/*").with_status(404).text(), "Service Mesh - Not Found");
    ask("POST", "/", "text/html").with_status(404);
    let refused = ask("POST", "/dashboard", "text/html").with_status(405);
    assert_eq!(refused.header("allow"), Some("GET, HEAD"));
}

#[test]
fn the_page_may_load_nothing_and_run_only_what_is_in_it() {
    let weft = Weft::start(&[]);
    let page = weft.get("/dashboard").with_status(200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    for (name, value) in [("x-content-type-options", "nosniff"), ("x-frame-options", "DENY"), ("referrer-policy", "no-referrer")] {
        assert_eq!(page.header(name), Some(value));
    }
    let tag = page.header("etag").expect("a tag");
    let again = client::ask(weft.at(), "GET", "/dashboard", &[("if-none-match", tag)], b"").expect("an answer").with_status(304);
    assert_eq!((again.body.len(), again.header("etag")), (0, Some(tag)));
    assert!(again.header("content-security-policy").is_some());
}

#[test]
fn a_look_is_small_and_says_only_what_is_new() {
    let weft = Weft::start(&[]);
    let upstream = Upstream::named("hello");
    let first = weft.get("/overview").with_status(200);
    assert_eq!((&first.json()["level"], &first.json()["servicesTotal"]), (&json!("fine"), &json!(0)));
    for n in 0..250 {
        let registration = json!({"name": format!("service-{n:03}"), "id": "i", "host": "127.0.0.1", "port": upstream.port()});
        weft.post("/register", &registration).with_status(200);
    }
    weft.call("service-007", "/").with_status(200);
    let looked = |target: &str| weft.get(target).with_status(200).json();
    eventually("a step is over", || looked("/overview")["step"].as_u64().filter(|step| *step > 0));
    let all = looked("/overview?limit=1000");
    assert_eq!((&all["servicesTotal"], all["services"].as_array().map(Vec::len)), (&json!(250), Some(250)));
    assert_eq!(all["points"]["calls"], json!([1]));
    assert_eq!(all["services"][7]["points"]["calls"], json!([1]));
    assert_eq!(all["services"][8].get("points"), None, "what nobody called has nothing to draw");
    let step = all["step"].as_u64().expect("a number");
    let news = looked(&format!("/overview?since={step}&q=SERVICE-00"));
    assert_eq!((&news["matching"], news["services"].as_array().map(Vec::len)), (&json!(10), Some(10)));
    if news["step"] == json!(step) {
        assert_eq!((&news["at"], &news["points"]["calls"]), (&json!([]), &json!([])));
    }
    let some = weft.get("/overview?limit=3").with_status(200);
    assert_eq!(some.json()["services"].as_array().map(Vec::len), Some(3));
    assert_eq!((some.text().matches("\"services\":").count(), some.text().matches("\"name\":\"service-").count()), (1, 3));
    for (target, field) in [("/overview?limit=0", "limit"), ("/overview?limit=1001", "limit"), ("/overview?since=x", "since")] {
        assert_eq!(weft.get(target).with_status(400).json()["field"], field);
    }
    assert_eq!(weft.get("/overview/service-007?sort=size").with_status(400).json()["field"], "sort");
    assert_eq!(weft.get("/overview/nobody").with_status(404).reason(), "not_found");
}

#[test]
fn who_has_seen_it_is_told_so() {
    let weft = Weft::start(&[]);
    let upstream = Upstream::named("hello");
    weft.register("s", &upstream);
    let mut client = Client::connect(weft.at()).expect("a connection");
    // A detail does not change while nothing happens, until the next step is over.
    eventually("nothing new", || {
        let seen = client.ask("GET", "/overview/s?since=9", &[], b"").expect("an answer").with_status(200);
        let tag = seen.header("etag").expect("a tag");
        let again = client.ask("GET", "/overview/s?since=9", &[("if-none-match", tag)], b"").expect("an answer");
        assert!(again.header("x-mesh-time").is_some_and(|time| time.parse::<u64>().is_ok()));
        (again.status == 304 && again.body.is_empty()).then_some(())
    });
}

#[test]
fn fifty_dashboards_are_answered_and_calls_go_on() {
    const LOOKS: usize = 8;
    let weft = Weft::start(&[]);
    let upstream = Upstream::start(|_| ok("hello"));
    for n in 0..100 {
        let registration =
            json!({"name": format!("service-{}", n / 10), "id": format!("i-{n}"), "host": "127.0.0.1", "port": upstream.port()});
        weft.post("/register", &registration).with_status(200);
    }
    let (at, looking, called) = (weft.at(), AtomicBool::new(true), AtomicUsize::new(0));
    thread::scope(|scope| {
        let dashboards: Vec<_> = (0..50)
            .map(|_| {
                scope.spawn(move || {
                    let mut client = Client::connect(at).expect("a connection");
                    for _ in 0..LOOKS {
                        client.ask("GET", "/overview?since=1&limit=100", &[], b"").expect("an answer").with_status(200);
                        client.ask("GET", "/overview/service-3?since=1&limit=50", &[], b"").expect("an answer").with_status(200);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut client = Client::connect(at).expect("a connection");
            while looking.load(Ordering::SeqCst) {
                let body = br#"{"serviceName":"service-3","endpoint":"/"}"#;
                client.ask("POST", "/invoke", &[], body).expect("an answer").with_status(200);
                called.fetch_add(1, Ordering::SeqCst);
            }
        });
        let ended: Vec<bool> = dashboards.into_iter().map(|dashboard| dashboard.join().is_ok()).collect();
        looking.store(false, Ordering::SeqCst);
        assert_eq!(ended, [true; 50]);
    });
    let made = called.load(Ordering::SeqCst);
    assert!(made > 0);
    let metrics = weft.get("/metrics").json();
    assert_eq!((&metrics["totalRequests"], &metrics["failedRequests"]), (&json!(made), &json!(0)));
    assert_eq!(metrics["doors"]["refusedQueue"], 0, "nobody was turned away");
}
