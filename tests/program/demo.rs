//! The demonstration: what it prints, what it serves, how it ends.

use std::net::TcpListener;

use serde_json::json;

use crate::support::eventually;
use crate::weft::Weft;

#[test]
fn the_demonstration_shows_the_documented_commands_with_their_answers_even_when_its_ports_are_taken() {
    // Whoever holds them, they are taken; the demonstration must find others.
    let _taken: Vec<_> = (4001..=4003).filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).collect();
    let mut weft = Weft::start(&["demo"]);
    weft.said("Press Ctrl-C to stop.");
    let (out, port) = (weft.out(), weft.at().port());
    for id in ["user-service-1", "user-service-2", "payment-service-1"] {
        assert!(out.contains(&format!("and is registered: {{\"success\":true,\"serviceId\":\"{id}\"}}")), "{id}: {out}");
    }
    let commands = out.lines().filter(|line| line.starts_with("curl ")).collect::<Vec<_>>();
    assert!(commands.len() >= 8, "{out}");
    for command in &commands {
        assert!(command.contains(&format!("http://localhost:{port}/")), "{command}");
    }
    for words in [
        r#"{"serviceName":"user-service","endpoint":"/api/users/123","method":"GET"}"#,
        r#""name":"Ada""#,
        r#""order":{"amount":12.5}"#,
        r#""lucky":true"#,
        r#""reason":"deadline_exceeded""#,
        r#""totalRequests": 4"#,
        r#""nextPick""#,
        r#""status":"healthy""#,
    ] {
        assert!(out.contains(words), "{words}: {out}");
    }
    let services = weft.get("/services").with_status(200).json();
    let instances: Vec<usize> =
        services.as_array().expect("a list").iter().map(|s| s["instances"].as_array().map_or(0, Vec::len)).collect();
    assert_eq!(instances, [1, 2]);
    let answer = weft.post("/invoke", &json!({"serviceName": "user-service", "endpoint": "/api/users/7"})).with_status(200);
    assert_eq!(answer.json()["id"], "7");
    eventually("the samples pass their checks", || {
        let health = weft.get("/metrics").json()["serviceHealth"].clone();
        health.as_object()?.values().all(|healthy| healthy == true).then_some(())
    });
    weft.signal("INT");
    assert_eq!(weft.end(), Some(0), "{}", weft.err());
}

#[test]
fn calls_keep_flowing_when_that_is_asked_for() {
    let mut weft = Weft::start(&["demo", "--traffic"]);
    weft.said("Calls are flowing");
    weft.said("Press Ctrl-C to stop.");
    let total = || weft.get("/metrics").json()["totalRequests"].as_u64().expect("a number");
    let before = total();
    eventually("calls are counted", || (total() >= before + 10).then_some(()));
    weft.signal("INT");
    assert_eq!(weft.end(), Some(0), "{}", weft.err());
}
