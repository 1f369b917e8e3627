//! Signals: stop in order, stop now, reload.

use std::net::TcpStream;
use std::thread;
use std::time::Instant;

use serde_json::json;

use crate::support::client::{Client, request};
use crate::support::upstream::{Act, End, Upstream, answer, ok};
use crate::support::{PATIENCE, eventually};
use crate::weft::{Folder, Weft};

/// A client whose call is under way.
fn calling(weft: &Weft, upstream: &Upstream) -> Client {
    weft.register("s", upstream);
    let mut client = Client::connect(weft.at()).expect("a connection");
    let call = json!({"serviceName": "s", "endpoint": "/slow"}).to_string();
    client.send(&request("POST", "/invoke", &[], call.as_bytes())).expect("sent");
    eventually("the call is under way", || (upstream.requests() == 1).then_some(()));
    client
}

#[test]
fn either_signal_stops_an_idle_mesh_at_once_and_in_order() {
    for signal in ["TERM", "INT"] {
        let mut weft = Weft::start(&["--drain-timeout-ms", "60000"]);
        let mut idle = Client::connect(weft.at()).expect("a connection");
        idle.ask("GET", "/health", &[], b"").expect("answered").with_status(200);
        let start = Instant::now();
        weft.signal(signal);
        assert_eq!(weft.end(), Some(0), "{}", weft.err());
        assert!(start.elapsed() < PATIENCE, "an idle client does not delay the end");
    }
}

#[test]
fn a_running_call_is_finished_before_the_end() {
    let mut weft = Weft::start(&["--drain-timeout-ms", "60000"]);
    let upstream = Upstream::start(|_| Act::Held(answer(200, &[], "finished")));
    let mut client = calling(&weft, &upstream);
    let at = weft.at();
    weft.signal("TERM");
    weft.logged("stopping: running calls may finish for 60000 ms; a second signal stops at once");
    eventually("nobody listens any more", || TcpStream::connect(at).is_err().then_some(()));
    assert!(weft.is_running());
    upstream.release();
    let answer = client.receive(false).expect("answered").with_status(200);
    assert_eq!((answer.text().as_str(), answer.header("connection")), ("finished", Some("close")));
    assert_eq!(weft.end(), Some(0), "{}", weft.err());
}

#[test]
fn a_call_that_takes_too_long_is_given_up_and_the_exit_code_says_so() {
    let mut weft = Weft::start(&["--drain-timeout-ms", "100"]);
    let upstream = Upstream::start(|_| Act::SayAnd(Vec::new(), End::Hang));
    let _client = calling(&weft, &upstream);
    weft.signal("TERM");
    assert_eq!(weft.end(), Some(1));
    assert!(weft.err().contains("stopped with calls unfinished"), "{}", weft.err());
}

#[test]
fn a_second_signal_stops_at_once() {
    for second in ["TERM", "INT"] {
        let mut weft = Weft::start(&["--drain-timeout-ms", "3600000"]);
        let upstream = Upstream::start(|_| Act::SayAnd(Vec::new(), End::Hang));
        let _client = calling(&weft, &upstream);
        weft.signal("TERM");
        weft.logged("a second signal stops at once");
        weft.signal("HUP");
        weft.signal(second);
        assert_eq!(weft.end(), Some(1));
    }
}

#[test]
fn readiness_ends_before_serving_does() {
    let mut weft = Weft::start(&["--drain-delay-ms", "1500"]);
    let upstream = Upstream::named("still here");
    weft.register("s", &upstream);
    weft.get("/ready").with_status(200);
    weft.signal("TERM");
    let refused = eventually("it says so", || Some(weft.get("/ready")).filter(|answer| answer.status != 200));
    assert_eq!(refused.with_status(503).reason(), "draining");
    assert_eq!(weft.call("s", "/").with_status(200).text(), "still here");
    assert_eq!(weft.end(), Some(0));
}

#[test]
fn keep_alive_clients_lose_no_call_when_the_mesh_stops() {
    let mut weft = Weft::start(&["--drain-delay-ms", "200", "--drain-timeout-ms", "60000"]);
    let upstream = Upstream::start(|asked| if asked.target == "/slow" { Act::Held(answer(200, &[], "slow")) } else { ok("quick") });
    let mut slow = calling(&weft, &upstream);
    let call = json!({"serviceName": "s", "endpoint": "/"}).to_string();
    let clients: Vec<Client> = (0..4)
        .map(|_| {
            let mut client = Client::connect(weft.at()).expect("a connection");
            client.ask("POST", "/invoke", &[], call.as_bytes()).expect("answered").with_status(200);
            client
        })
        .collect();
    thread::scope(|scope| {
        let hammers: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                let call = &call;
                scope.spawn(move || {
                    loop {
                        let answer = client.ask("POST", "/invoke", &[], call.as_bytes()).expect("every call is answered").with_status(200);
                        if answer.header("connection") == Some("close") {
                            return;
                        }
                    }
                })
            })
            .collect();
        weft.signal("TERM");
        for hammer in hammers {
            hammer.join().expect("no call was lost");
        }
    });
    upstream.release();
    slow.receive(false).expect("answered").with_status(200);
    assert_eq!(weft.end(), Some(0));
}

#[test]
fn a_changed_file_is_taken_over_and_what_was_put_stays_on_top() {
    let folder = Folder::new();
    let file = folder.write("weft.json", r#"{"defaults": {"retry": {"maxRetries": 1}}}"#);
    let weft = Weft::start(&["--config", &file]);
    let retries = |service: &str| weft.get(&format!("/services/{service}/policy")).json()["retry"]["maxRetries"].clone();
    let patch = br#"{"retry":{"maxRetries":9}}"#;
    crate::support::client::ask(weft.at(), "PUT", "/services/put/policy", &[], patch).expect("answered").with_status(200);
    assert_eq!((retries("a"), retries("b"), retries("put")), (json!(1), json!(1), json!(9)));

    folder.write(
        "weft.json",
        r#"{"defaults": {"retry": {"maxRetries": 2}}, "services": {"b": {"retry": {"maxRetries": 3}}}, "upstreams": {"deny": ["127.0.0.9/32"]}, "workers": 8}"#,
    );
    weft.signal("HUP");
    eventually("it is taken over", || (retries("a") == json!(2)).then_some(()));
    assert_eq!((retries("b"), retries("put")), (json!(3), json!(9)));
    weft.logged("settings of the server itself (such as listen and workers) change only with a restart");
    let config =
        eventually("it is shown", || Some(weft.get("/config").json()).filter(|config| config["defaults"]["retry"]["maxRetries"] == 2));
    assert_eq!(config["services"]["b"]["retry"]["maxRetries"], 3);
    assert_eq!(config["workers"], 16, "what is in force, not what is in the file");
    let denied = json!({"name": "s", "id": "i", "host": "127.0.0.9", "port": 9});
    assert_eq!(weft.post("/register", &denied).with_status(403).reason(), "upstream_not_allowed");
    let events = weft.get("/events").json();
    assert!(events["events"].as_array().expect("events").iter().any(|event| event["kind"] == "config"), "{events}");
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let folder = Folder::new();
    let file = folder.write("weft.json", r#"{"defaults": {"retry": {"maxRetries": 1}}}"#);
    let mut weft = Weft::start(&["--config", &file]);
    let before = (weft.get("/config").json(), weft.get("/services/a/policy").json());
    let bad = [
        (r#"{"defaults": {"retry": {"maxRetires": 2}}}"#, "did you mean maxRetries?"),
        (r#"{"defaults": {"retry": {"maxRetries": 2}}, "#, "is not valid JSON"),
        (r#"{"defaults": {"timeouts": {"totalMs": 50}}}"#, "timeouts.attemptMs"),
        (r#"{"defaults": {}, "services": {"a": {"timeouts": {"totalMs": 50}}}}"#, "services.a.timeouts.attemptMs"),
    ];
    for (text, words) in bad {
        folder.write("weft.json", text);
        weft.signal("HUP");
        let line = weft.logged(words);
        assert!(line.contains("configuration not reloaded, nothing has changed"), "{line}");
        assert_eq!((weft.get("/config").json(), weft.get("/services/a/policy").json()), before, "{text}");
    }
    std::fs::remove_file(&file).expect("gone");
    weft.signal("HUP");
    weft.logged("cannot be read");
    assert_eq!(weft.get("/config").json(), before.0);
    assert!(weft.is_running());
}

#[test]
fn a_reload_is_seen_by_instances_that_are_there() {
    let folder = Folder::new();
    let file = folder.write("weft.json", r#"{"defaults": {"retry": {"maxRetries": 0}}}"#);
    let weft = Weft::start(&["--config", &file]);
    let upstream = Upstream::start(|_| Act::Say(answer(500, &[], "")));
    weft.register("s", &upstream);
    weft.call("s", "/").with_status(503);
    assert_eq!(upstream.requests(), 1);
    folder.write("weft.json", r#"{"defaults": {"retry": {"maxRetries": 1, "baseDelayMs": 1}}}"#);
    weft.signal("HUP");
    // What is in force is shown when everything is done, instances included.
    eventually("it is taken over", || (weft.get("/config").json()["defaults"]["retry"]["maxRetries"] == 1).then_some(()));
    assert_eq!(weft.call("s", "/").with_status(503).json()["attempts"], 2);
    assert_eq!(weft.get("/services").json()[0]["instances"][0]["requestCount"], 3, "what was counted lives on");
}
