//! Looking at a mesh that runs: lists, explanations, events, and the picture in a terminal.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::upstream::{Act, Upstream, answer, status};
use crate::weft::{Folder, Weft, command, run, run_in};

fn house() -> (Weft, Upstream, String) {
    let weft = Weft::start(&[]);
    let upstream = Upstream::named("hello");
    weft.register("users", &upstream);
    for _ in 0..3 {
        weft.call("users", "/").with_status(200);
    }
    let url = format!("http://{}", weft.at());
    (weft, upstream, url)
}

/// What a command says that succeeds.
#[track_caller]
fn said(arguments: &[&str]) -> String {
    let ended = run(arguments);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{arguments:?}: {}", ended.out);
    assert!(!ended.out.contains('\u{1b}'), "no colours but on a terminal: {}", ended.out);
    ended.out
}

#[test]
fn services_and_instances_are_listed_in_columns_and_as_json() {
    let (weft, _upstream, url) = house();
    weft.post("/register", &json!({"name": "idle", "id": "i", "host": "127.0.0.1", "port": 9, "healthy": false})).with_status(200);
    let text = said(&["services", "--url", &url]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    let column = lines[0].find("CIRCUIT").expect("a title");
    assert!(lines[1].starts_with("idle") && lines[1][column..].starts_with("CLOSED") && lines[1].contains("0/1"), "{text}");
    assert!(lines[2].starts_with("users") && lines[2][column..].starts_with("CLOSED") && lines[2].contains("1/1"), "{text}");
    assert!(said(&["services", "users", "--url", &url]).lines().count() == 2);
    let text = said(&["instances", "--url", &url]);
    assert!(text.contains("available") && text.contains("unhealthy"), "{text}");
    for command in ["services", "instances"] {
        let json: Value = serde_json::from_str(&said(&[command, "users", "--json", "--url", &url])).expect("JSON");
        assert_eq!(json[0]["instances"][0]["requestCount"], 3);
        let missing = run(&[command, "nobody", "--url", &url]);
        assert_eq!(missing.code, Some(1));
        assert!(missing.err.contains("no such service is registered: \"nobody\""), "{}", missing.err);
    }
}

#[test]
fn an_instance_with_all_the_labels_it_may_have_does_not_get_in_the_way_of_a_list() {
    let (weft, _upstream, url) = house();
    let labels: serde_json::Map<String, Value> = (0..64).map(|n| (format!("k{n}"), "\u{1b}".repeat(1024).into())).collect();
    weft.post("/register", &json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": 9, "metadata": labels})).with_status(200);
    let text = said(&["instances", "--url", &url]);
    assert!(text.lines().count() == 3 && text.contains("users") && text.contains("k0=\\u{1b}"), "{text}");
    assert!(text.len() < 2_000, "{} bytes", text.len());
    said(&["services", "--url", &url]);
}

#[test]
fn explain_says_why_and_what_is_next() {
    let (weft, _upstream, url) = house();
    weft.post("/register", &json!({"name": "users", "id": "j", "host": "127.0.0.1", "port": 9, "healthy": false})).with_status(200);
    let text = said(&["explain", "users", "--url", &url]);
    for words in ["users: round_robin, next pick i", "circuit CLOSED", "available", "unhealthy: registered so"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let json: Value = serde_json::from_str(&said(&["explain", "users", "--json", "--url", &url])).expect("JSON");
    assert_eq!(json["nextPick"], "i");
    let missing = run(&["explain", "nobody", "--url", &url]);
    assert_eq!(missing.code, Some(1));
    assert!(missing.err.contains("no such service is registered"), "{}", missing.err);
}

#[test]
fn events_are_listed_and_followed() {
    let (weft, upstream, url) = house();
    assert!(said(&["events", "--url", &url]).contains("registered"));
    let json: Value = serde_json::from_str(&said(&["events", "users", "--json", "--url", &url])).expect("JSON");
    assert_eq!((&json[0]["kind"], &json[0]["service"]), (&json!("registered"), &json!("users")));
    let mut child = command(&["events", "--follow", "--json", "--url", &url], &[]).spawn().expect("the program");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.next().is_some_and(|line| line.contains("\"users\"")));
    weft.register("orders", &upstream);
    assert!(lines.next().is_some_and(|line| line.contains("\"orders\"")));
    child.kill().expect("a child");
    child.wait().expect("a child");
}

#[test]
fn the_url_comes_from_the_environment_too_and_does_not_trouble_a_mesh() {
    let (_weft, _upstream, url) = house();
    let ended = run_in(&["services"], &[("WEFT_URL", &url)]);
    assert!(ended.code == Some(0) && ended.out.contains("users"), "{ended:?}");
    assert_eq!(run_in(&["config"], &[("WEFT_URL", &url)]).code, Some(0));
}

#[test]
fn what_goes_wrong_is_said_in_one_line_with_what_to_do() {
    let refusing = std::net::TcpListener::bind("127.0.0.1:0").and_then(|taken| taken.local_addr()).expect("a port");
    let nowhere = format!("http://{refusing}");
    let folder = Folder::new();
    let token = folder.write("token", "secret-token\n");
    let empty = folder.write("empty", "\n");
    let with = |status| {
        let body = br#"{"error":"the token \u001b[31mlacks scope read","reason":"forbidden"}"#;
        Upstream::start(move |_| Act::Say(answer(status, &[("content-type", "application/json")], body)))
    };
    let (unknown, forbidden, broken) = (with(401), with(403), Upstream::start(|_| status(500)));
    let at = |upstream: &Upstream| format!("http://127.0.0.1:{}", upstream.port());
    let [unknown_at, forbidden_at, broken_at] = [&unknown, &forbidden, &broken].map(at);
    for (arguments, code, words) in [
        (&["services", "--url", &nowhere][..], 5, "connection refused; is weft running there? --url names another place"),
        (&["top", "--url", &nowhere], 5, "no mesh answers at"),
        (&["services", "--url", "localhost"], 2, "is no URL such as http://localhost:3000"),
        (&["services", "--nonsense"], 2, "--nonsense is no flag of weft services; see weft services --help"),
        (&["top", "--json"], 2, "--json is no flag of weft top"),
        (&["explain"], 2, "which service?"),
        (&["explain", "../x"], 2, "1 to 63 characters"),
        (&["services", "a", "b"], 2, "is not understood here"),
        (&["--workers", "4", "services"], 2, "services comes first"),
        (&["services", "--token-file", &empty, "--url", &nowhere], 2, "does not hold one token"),
        (&["services", "--token-file", "/nowhere/token", "--url", &nowhere], 2, "/nowhere/token"),
        (&["services", "--url", &unknown_at], 6, "wants a token"),
        (&["services", "--url", &unknown_at, "--token-file", &token], 6, "does not know the token in"),
        (&["services", "--url", &forbidden_at, "--token-file", &token], 6, "does not allow this to the token in"),
        (&["services", "--url", &forbidden_at], 6, "\\u{1b}[31mlacks scope"),
        (&["services", "--url", &broken_at], 1, "is that a weft?"),
        (&["tap", "--url", &nowhere], 5, "connection refused"),
        (&["tap", "--url", &unknown_at], 6, "wants a token"),
        (&["tap", "--url", &forbidden_at, "--token-file", &token], 6, "does not allow this to the token in"),
        (&["tap", "--url", &broken_at], 1, "is that a weft?"),
        (&["tap", "--limit"], 2, "--limit needs a value"),
        (&["tap", "users"], 2, "is not understood here"),
        (&["services", "--limit", "3"], 2, "--limit is no flag of weft services"),
    ] {
        let ended = run(arguments);
        assert_eq!((ended.code, ended.out.as_str()), (Some(code), ""), "{arguments:?}: {}", ended.err);
        assert!(ended.err.starts_with("weft: ") && ended.err.contains(words), "{arguments:?}: {}", ended.err);
        assert!(ended.err.lines().count() == 1 && !ended.err.contains(['\u{1b}']) && !ended.err.contains("secret"), "{}", ended.err);
    }
    let shown = unknown.asked().iter().any(|asked| asked.header("authorization") == Some("Bearer secret-token"));
    assert!(shown, "the token is shown to the mesh");
}

#[test]
fn every_command_has_help() {
    for name in ["services", "instances", "events", "explain", "top", "tap"] {
        let text = said(&[name, "--help"]);
        for words in [&format!("weft {name}"), "--url", "--token-file", "WEFT_URL", "NO_COLOR", "Exit codes"] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}

#[test]
fn what_a_mesh_says_cannot_speak_to_the_terminal() {
    let body =
        r#"[{"name":"a\u001b[31m\u009b2J","instances":[{"id":"\u202e","host":"h\u0007","port":1,"metadata":{"\r":"\u001b]0;t\u0007"}}]}]"#;
    let evil = Upstream::start(move |_| Act::Say(answer(200, &[("content-type", "application/json")], body)));
    let url = format!("http://127.0.0.1:{}", evil.port());
    for arguments in [&["instances", "--url", &url][..], &["instances", "--json", "--url", &url]] {
        let text = said(arguments);
        assert!(!text.contains(['\u{1b}', '\u{9b}', '\u{7}', '\r', '\u{202e}']), "{text:?}");
    }
}

#[test]
fn top_prints_one_picture_where_there_is_no_terminal() {
    let (_weft, _upstream, url) = house();
    let text = said(&["top", "--url", &url]);
    assert!(text.contains("calls/s") && text.contains("users") && text.contains("  i ") && text.contains("available"), "{text}");
}

/// Runs a program in a terminal of so many columns and rows; makes it wider, does what it is told, and says what was written, how the
/// program ended, and whether the terminal is as before.
const IN_A_TERMINAL: &str = r#"
import fcntl, json, os, pty, select, signal, struct, subprocess, sys, termios, time
how, program = sys.argv[1], sys.argv[2:]
leader, follower = pty.openpty()
size = lambda columns: fcntl.ioctl(leader, termios.TIOCSWINSZ, struct.pack("HHHH", 20, columns, 0, 0))
size(30)
before = termios.tcgetattr(follower)
child = subprocess.Popen(program, stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
                         preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
text, end, stage = b"", time.monotonic() + 20, 0
while child.poll() is None and time.monotonic() < end:
    if select.select([leader], [], [], 0.05)[0]:
        text += os.read(leader, 65536)
    if stage == 0 and b"users" in text and b"QUEUED" not in text:
        stage = 1
        size(200)
    if stage == 1 and b"QUEUED" in text:
        stage = 2
        if how == "q": os.write(leader, b"q")
        elif how == "ctrl-c": os.write(leader, b"\x03")
        else: child.send_signal(getattr(signal, how))
if child.poll() is None:
    child.kill()
while select.select([leader], [], [], 0)[0]:
    text += os.read(leader, 65536)
same = termios.tcgetattr(follower) == before
print(json.dumps({"text": text.decode("utf-8", "replace"), "code": child.wait(), "same": same}))
"#;

#[test]
fn top_fills_the_terminal_follows_its_size_and_leaves_it_as_it_was() {
    let (_weft, _upstream, url) = house();
    for (how, code) in [("q", 0), ("ctrl-c", 0), ("SIGINT", 130), ("SIGTERM", 130)] {
        let ended = Command::new("python3")
            .args(["-c", IN_A_TERMINAL, how, env!("CARGO_BIN_EXE_weft"), "top", "--url", &url])
            .env("TERM", "xterm")
            .stdin(Stdio::null())
            .output()
            .expect("python3");
        let seen: Value = serde_json::from_slice(&ended.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&ended.stderr)));
        let text = seen["text"].as_str().expect("text");
        assert_eq!((&seen["code"], &seen["same"]), (&json!(code), &json!(true)), "{how}: {text:?}");
        assert!(text.starts_with("\u{1b}[?1049h") && text.ends_with("\u{1b}[?1049l"), "{how}: {text:?}");
        assert!(text.contains("\u{1b}[32m  CLOSED"), "{how}: in colour: {text:?}");
    }
}

#[test]
fn following_ends_with_the_mesh_and_says_so() {
    let (mut weft, _upstream, url) = house();
    let mut child = command(&["events", "--follow", "--url", &url], &[]).spawn().expect("the program");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.next().is_some());
    weft.signal("KILL");
    weft.end();
    let status = eventually("it ends", || child.try_wait().expect("a child"));
    assert_eq!(status.code(), Some(5));
}
