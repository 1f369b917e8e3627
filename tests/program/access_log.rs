//! The access log of the program, and what becomes of it when nobody reads.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::upstream::Upstream;
use crate::weft::{Folder, Weft, command};

#[test]
fn each_call_is_one_line_of_json_and_nothing_else_is_on_it() {
    let folder = Folder::new();
    let file = folder.write("weft.json", json!({"log": "error", "telemetry": {"accessLog": "json"}}).to_string());
    let weft = Weft::start(&["--config", &file]);
    let upstream = Upstream::named("hello");
    weft.register("s", &upstream);
    weft.call("s", "/fine?token=secret").with_status(200);
    weft.call("nobody", "/x").with_status(503);
    let lines: Vec<Value> = eventually("two lines", || {
        let text = weft.err();
        let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (lines.len() == 2).then_some(lines)
    });
    let (fine, refused) = (&lines[0], &lines[1]);
    assert_eq!(
        (&fine["service"], &fine["path"], &fine["status"], &fine["flags"]),
        (&json!("s"), &json!("/fine"), &json!(200), &json!("-"))
    );
    assert_eq!((&fine["attempts"], fine["firstByteMs"].is_number(), fine["connectMs"].is_number()), (&json!(1), true, true), "{fine}");
    assert_eq!((&refused["reason"], &refused["flags"]), (&json!("unknown_service"), &json!("NR")));
    assert!(!weft.err().contains("secret"));
    eventually("they are counted", || (weft.get("/metrics").json()["onlookers"]["logLines"] == 2).then_some(()));
}

#[test]
fn a_log_that_nobody_reads_loses_lines_and_no_call() {
    let folder = Folder::new();
    let telemetry = json!({"telemetry": {"accessLog": "text", "accessLogQueue": 16}});
    let file = folder.write("weft.json", telemetry.to_string());
    let mut child = command(&["--config", &file, "--listen", "127.0.0.1:0"], &[]).spawn().expect("the program");
    let mut first = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut first).expect("a line");
    let at: SocketAddr = first.split("http://").nth(1).and_then(|at| at.trim().parse().ok()).expect("an address");
    let mut client = Client::connect(at).expect("a connection");
    let call = json!({"serviceName": "nobody", "endpoint": format!("/{}", "x".repeat(250))}).to_string();
    eventually("lines are lost", || {
        for _ in 0..500 {
            client.ask("POST", "/invoke", &[], call.as_bytes()).expect("answered").with_status(503);
        }
        let metrics = client.ask("GET", "/metrics", &[], b"").expect("answered").json();
        metrics["onlookers"]["logLinesDropped"].as_u64().filter(|lost| *lost > 0)
    });
    child.kill().expect("killed");
    child.wait().expect("gone");
}

#[test]
fn weft_tap_shows_calls_as_they_happen() {
    let weft = Weft::start(&[]);
    let url = format!("http://{}", weft.at());
    let tap = command(&["tap", "--status", "5xx", "--limit", "1"], &[("WEFT_URL", &url)]).spawn().expect("the program");
    eventually("the tap is open", || (weft.get("/metrics").json()["onlookers"]["openTaps"] == 1).then_some(()));
    weft.call("nobody", "/x").with_status(503);
    let output = tap.wait_with_output().expect("ended");
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && out.starts_with("503 GET nobody /x ") && out.trim_end().ends_with("unknown_service"), "{out}");

    let bad = crate::weft::run(&["tap", "--url", &url, "--status", "9xx"]);
    assert!(bad.code == Some(1) && bad.err.contains("9xx"), "{}", bad.err);
    let nobody = crate::weft::run(&["tap", "--url", "http://127.0.0.1:9"]);
    assert!(nobody.code == Some(5) && nobody.err.contains("no mesh answers at http://127.0.0.1:9"), "{}", nobody.err);
    assert_eq!(crate::weft::run(&["tap", "--what"]).code, Some(2));
}
