//! A state directory under the real program: restarts, sudden ends, a full disk, a second process, and the commands that look into it.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, thread};

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::upstream::Upstream;
use crate::support::{client, eventually};
use crate::weft::{Folder, Weft, command, run, run_in};

fn directory(folder: &Folder) -> String {
    let path = folder.path("state");
    fs::create_dir_all(&path).expect("a directory");
    path
}

fn start(state: &str) -> Weft {
    Weft::start(&["--state-dir", state])
}

/// Ids and ports of the instances of a service.
fn instances(weft: &Weft, service: &str) -> BTreeMap<String, u64> {
    let services = weft.get(&format!("/services?name={service}")).json();
    let all = services[0]["instances"].as_array().cloned().unwrap_or_default();
    all.iter().map(|one| (one["id"].as_str().expect("an id").to_owned(), one["port"].as_u64().expect("a port"))).collect()
}

#[test]
fn everything_acknowledged_is_there_after_a_restart_and_calls_go_on_at_once() {
    let folder = Folder::new();
    let state = directory(&folder);
    let upstream = Upstream::named("hello");
    {
        let mut weft = start(&state);
        weft.said(&format!("registry in {state}"));
        let port = upstream.port();
        let health = format!("http://localhost:{port}/health");
        weft.post("/register", &json!({"name":"s","id":"a","host":"localhost","port":port,"healthCheckUrl":health,"metadata":{"v":"1"}}));
        weft.post("/register", &json!({"name":"s","id":"b","host":"127.0.0.1","port":9,"ttlSeconds":30,"healthy":false}));
        weft.post("/register", &json!({"name":"s","id":"c","host":"127.0.0.1","port":9}));
        let put = |target: &str, body: &Value| {
            client::ask(weft.at(), "PUT", target, &[], body.to_string().as_bytes()).expect("answered").with_status(200);
        };
        put("/services/s/b/state", &json!({"state":"drain","reason":"deploy"}));
        put("/services/s/policy", &json!({"retry":{"maxRetries":0}}));
        weft.post("/deregister", &json!({"name":"s","id":"c"})).with_status(200);
        weft.signal("TERM");
        assert_eq!(weft.end(), Some(0));
    }
    let checks = upstream.asked().len();
    let weft = start(&state);
    assert_eq!(weft.call("s", "/").with_status(200).text(), "hello", "no check has to come first");
    let services = weft.get("/services").json();
    let all = services[0]["instances"].as_array().expect("instances");
    assert_eq!(all.len(), 2);
    assert_eq!((&all[0]["id"], &all[0]["metadata"]["v"], &all[1]["stateReason"]), (&json!("a"), &json!("1"), &json!("deploy")));
    assert_eq!((&all[1]["healthy"], &all[1]["state"], &all[1]["expiresInSeconds"]), (&json!(true), &json!("drain"), &json!(29)));
    assert_eq!(weft.get("/services/s/policy").json()["retry"]["maxRetries"], 0);
    eventually("a check, at once", || (upstream.asked().len() > checks + 1).then_some(()));
}

#[test]
fn killed_at_any_moment_it_comes_back_with_all_that_was_acknowledged_and_nothing_by_halves() {
    let folder = Folder::new();
    let state = directory(&folder);
    // What is known to be there, and what may be there beside or instead: by id, the ports it may have; 0 is "not there".
    let known: Mutex<BTreeMap<String, Vec<u64>>> = Mutex::default();
    for round in 0..50_u64 {
        let mut weft = start(&state);
        let there = instances(&weft, "s");
        for (id, ports) in known.lock().expect("no panic inside").iter_mut() {
            let port = there.get(id).copied().unwrap_or(0);
            assert!(ports.contains(&port), "round {round}: {id} is at {port}, and may be at {ports:?}");
            *ports = vec![port];
        }
        assert!(there.keys().all(|id| known.lock().expect("no panic inside").contains_key(id)), "nobody else is there");
        let (at, ended) = (weft.at(), AtomicBool::new(false));
        thread::scope(|scope| {
            for writer in 0..4 {
                let (known, ended) = (&known, &ended);
                scope.spawn(move || write_until_it_ends(at, writer, round, known, ended));
            }
            // Long enough for a few dozen changes, and each time a little different.
            let moment = Duration::from_millis(10 + round * 7 % 40);
            thread::park_timeout(moment);
            weft.signal("KILL");
            ended.store(true, Ordering::SeqCst);
            assert_eq!(weft.end(), None);
        });
    }
    assert!(known.lock().expect("no panic inside").len() > 100, "there was something to lose");
}

/// Registers, moves and removes instances, and notes what each may have come to.
fn write_until_it_ends(at: SocketAddr, writer: u64, round: u64, known: &Mutex<BTreeMap<String, Vec<u64>>>, ended: &AtomicBool) {
    let Ok(mut client) = Client::connect(at) else { return };
    for n in 0_u64.. {
        let id = format!("i{writer}-{}", (round * 31 + n) % 40);
        let port = 1 + (round * 1000 + n) % 60_000;
        let (target, body, becomes) = if n % 4 == 3 {
            ("/deregister", json!({"name":"s","id":id}), 0)
        } else {
            ("/register", json!({"name":"s","id":id,"host":"127.0.0.1","port":port}), port)
        };
        known.lock().expect("no panic inside").entry(id.clone()).or_insert_with(|| vec![0]).push(becomes);
        let Ok(answer) = client.ask("POST", target, &[], body.to_string().as_bytes()) else { return };
        assert!(matches!((target, answer.status), (_, 200) | ("/deregister", 404)), "{}", answer.text());
        known.lock().expect("no panic inside").insert(id, vec![becomes]);
        if ended.load(Ordering::SeqCst) {
            return;
        }
    }
}

#[test]
fn a_directory_that_cannot_be_used_is_named_and_nothing_starts() {
    let folder = Folder::new();
    let missing = folder.path("missing");
    let ended = run(&["--listen", "127.0.0.1:0", "--state-dir", &missing]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(4), ""));
    assert_eq!(ended.err, format!("weft: state directory {missing} does not exist: create it, writable for this user\n"));

    let state = directory(&folder);
    let mut weft = start(&state);
    let second = run(&["--listen", "127.0.0.1:0", "--state-dir", &state]);
    assert_eq!(second.code, Some(4));
    assert!(second.err.starts_with(&format!("weft: state directory {state} is in use by another weft (process ")), "{}", second.err);
    assert!(weft.is_running());
    weft.signal("KILL");
    weft.end();
    start(&state);
}

#[test]
fn the_directory_of_systemd_is_used_unless_another_is_named() {
    let folder = Folder::new();
    let (ours, theirs) = (folder.path("ours"), folder.path("theirs"));
    fs::create_dir_all(&ours).and_then(|()| fs::create_dir_all(&theirs)).expect("directories");
    let both = format!("{theirs}:/elsewhere");
    let state_dir = |environment: &[(&str, &str)]| {
        let config: Value = serde_json::from_str(&run_in(&["config"], environment).out).expect("JSON");
        config["stateDir"].as_str().expect("text").to_owned()
    };
    assert_eq!(state_dir(&[("STATE_DIRECTORY", &both)]), theirs);
    assert_eq!(state_dir(&[("STATE_DIRECTORY", &both), ("WEFT_STATE_DIR", &ours)]), ours);
    let weft = Weft::start_in(&[], &[("STATE_DIRECTORY", &theirs)]);
    weft.post("/register", &json!({"name":"s","id":"a","host":"127.0.0.1","port":9})).with_status(200);
    assert!(fs::read_to_string(format!("{theirs}/log-00000001")).expect("a log").contains("\"id\":\"a\""));
}

/// Starts the program by a shell, which arranges something before.
fn start_by_shell(script: &str, state: &str) -> Weft {
    let mut shell = Command::new("bash");
    shell.args(["-c", script, "bash", env!("CARGO_BIN_EXE_weft"), "--listen", "127.0.0.1:0", "--state-dir", state]);
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Weft::of(shell)
}

/// Registers ever more until it is refused; answers the ids that were accepted.
fn fill(weft: &Weft, round: usize) -> Vec<String> {
    let mut accepted = Vec::new();
    for n in 0..2000 {
        let id = format!("i{round}-{n}");
        let answer = weft.post("/register", &json!({"name":"s","id":id,"host":"127.0.0.1","port":9,"metadata":{"x":"x".repeat(500)}}));
        if answer.status != 200 {
            let refusal = answer.with_status(503);
            assert_eq!(refusal.reason(), "registry_unavailable");
            assert!(refusal.header("retry-after").is_some());
            assert!(refusal.text().contains("the state directory cannot be written: "), "{}", refusal.text());
            return accepted;
        }
        accepted.push(id);
    }
    panic!("the disk never filled up");
}

/// A full disk: changes are refused, calls go on, and once there is room so do changes, without a restart.
fn fills_up(mut weft: Weft, state: &str, make_room: impl FnOnce(&Weft)) {
    let upstream = Upstream::named("hello");
    weft.register("called", &upstream);
    let mut accepted = fill(&weft, 0);
    weft.logged("the state directory cannot be written, changes are refused until it can");
    for _ in 0..3 {
        assert_eq!(weft.call("called", "/").with_status(200).text(), "hello");
    }
    let refused = weft.post("/register", &json!({"name":"s","id":"full","host":"127.0.0.1","port":9,"metadata":{"x":"x".repeat(1_000)}}));
    assert_eq!(refused.clone().with_status(503).reason(), "registry_unavailable");
    assert!(!refused.text().contains(state), "where it is kept is nobody's business: {}", refused.text());
    assert_eq!(fill(&weft, 1), Vec::<String>::new(), "it stays full");
    make_room(&weft);
    weft.post("/register", &json!({"name":"s","id":"after","host":"127.0.0.1","port":9})).with_status(200);
    weft.logged("the state directory can be written again");
    accepted.push("after".to_owned());
    let expected = |weft: &Weft| {
        let there = instances(weft, "s");
        assert_eq!(there.len(), accepted.len());
        assert!(accepted.iter().all(|id| there.contains_key(id)));
    };
    expected(&weft);
    // As it sees the directory itself.
    let shown = run(&["state", "show", &format!("/proc/{}/root{state}", weft.pid())]);
    assert_eq!((shown.code, shown.out.lines().count(), shown.err.as_str()), (Some(0), accepted.len() + 1, ""), "no half line is left");
    if fs::exists(format!("{state}/lock")).expect("readable") {
        weft.signal("KILL");
        weft.end();
        expected(&start(state));
    }
}

#[test]
fn when_the_log_may_not_grow_changes_are_refused_until_it_may() {
    let folder = Folder::new();
    let state = directory(&folder);
    // A limit on the size of files, in KiB: a write beyond it stops in the middle, as on a full disk.
    let weft = start_by_shell("trap '' XFSZ; ulimit -S -f 20; exec \"$@\"", &state);
    fills_up(weft, &state, |weft| {
        let raised = Command::new("prlimit").args(["--pid", &weft.pid().to_string(), "--fsize=unlimited:unlimited"]).status();
        assert!(raised.expect("prlimit").success());
    });
}

#[test]
fn when_the_disk_is_full_changes_are_refused_until_there_is_room() {
    // In a namespace of its own, where that is allowed; the test above is the same without.
    if !Command::new("unshare").args(["-m", "true"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return;
    }
    let folder = Folder::new();
    let state = directory(&folder);
    let script = r#"exec unshare -m bash -c 'mount -t tmpfs -o size=64k tmpfs "${@: -1}" && head -c 32768 /dev/zero > "${@: -1}/ballast" && exec "$@"' bash "$@""#;
    let weft = start_by_shell(script, &state);
    fills_up(weft, &state, |weft| {
        fs::remove_file(format!("/proc/{}/root{state}/ballast", weft.pid())).expect("the ballast");
    });
}

#[test]
fn a_damaged_file_is_set_aside_and_said_loudly() {
    let folder = Folder::new();
    let state = directory(&folder);
    {
        let weft = start(&state);
        for id in ["a", "b", "c"] {
            weft.post("/register", &json!({"name":"s","id":id,"host":"127.0.0.1","port":9})).with_status(200);
        }
    }
    let log = format!("{state}/log-00000001");
    let text = fs::read_to_string(&log).expect("a log");
    fs::write(&log, text.replace("\"id\":\"b\"", "\"id\":\"x\"")).expect("written");
    let weft = start(&state);
    weft.logged("log-00000001 is DAMAGED: 1 of 4 lines are not as they were written, the first is line 3; set aside as ");
    assert_eq!(instances(&weft, "s").into_keys().collect::<Vec<_>>(), ["a", "c"]);
}

#[test]
fn what_the_configuration_lists_is_registered_and_only_what_operators_say_of_it_is_kept() {
    let folder = Folder::new();
    let state = directory(&folder);
    let upstream = Upstream::named("listed");
    let listed = |more: &str| format!(r#"{{"instances": [{{"name":"s","id":"a","host":"127.0.0.1","port":{}}}{more}]}}"#, upstream.port());
    let file = folder.write("weft.json", listed(""));
    let arguments = ["--config", &file, "--state-dir", &state];
    {
        let weft = Weft::start(&arguments);
        assert_eq!(weft.call("s", "/").with_status(200).text(), "listed");
        assert_eq!(run(&["state", "show", &state]).out, "");
        folder.write("weft.json", listed(r#", {"name":"s","id":"b","host":"127.0.0.1","port":9}"#));
        weft.signal("HUP");
        eventually("the other one is registered", || instances(&weft, "s").contains_key("b").then_some(()));
        let drain = client::ask(weft.at(), "PUT", "/services/s/b/state", &[], br#"{"state":"drain"}"#);
        drain.expect("answered").with_status(200);
    }
    let weft = Weft::start(&arguments);
    let services = weft.get("/services").json();
    let states: Vec<&Value> = services[0]["instances"].as_array().expect("instances").iter().map(|one| &one["state"]).collect();
    assert_eq!(states, ["ready", "drain"]);
    for (json, words) in [
        (r#"{"instances": {}}"#, "instances: is not a JSON array"),
        (r#"{"instances": [{"name":"s","id":"a","host":"h","port":0}]}"#, "instances[0].port: "),
    ] {
        let bad = folder.write("bad.json", json);
        let ended = run(&["check", &bad]);
        assert_eq!(ended.code, Some(2));
        assert!(ended.err.contains(words), "{}", ended.err);
    }
}

#[test]
fn what_is_kept_can_be_shown_and_moved() {
    let folder = Folder::new();
    let state = directory(&folder);
    {
        let weft = start(&state);
        weft.post("/register", &json!({"name":"s","id":"a","host":"::1","port":9,"weight":5})).with_status(200);
        let put = |target: &str, body: &Value| client::ask(weft.at(), "PUT", target, &[], body.to_string().as_bytes()).expect("answered");
        put("/services/s/a/state", &json!({"state":"maint","reason":"disk"})).with_status(200);
        put("/services/s/policy", &json!({"routes":[{"name":"\u{9b}31m\u{202e}","setHeaders":{"x-api-key":"hunter2"}}]})).with_status(200);
        let shown = run(&["state", "show", &state]);
        let expected = "s  a  [::1]:9  maint (\"disk\")  weight 5\n\
                        s  policy {\"routes\":[{\"name\":\"\\u009b31m\\u202e\",\"setHeaders\":{\"x-api-key\":\"(secret)\"}}]}\n";
        assert_eq!((shown.code, shown.out.as_str(), shown.err.as_str()), (Some(0), expected, ""), "while it runs");
        assert_eq!(run(&["state", "import", &state]).code, Some(2), "nothing on stdin");
    }
    let exported = run(&["state", "export", &state]);
    assert!(exported.out.contains("hunter2") && !exported.out.contains(['\u{9b}', '\u{202e}']), "{}", exported.out);
    let other = folder.path("other");
    fs::create_dir_all(&other).expect("a directory");
    let mut import = command(&["state", "import", &other], &[]);
    let mut child = import.stdin(Stdio::piped()).spawn().expect("the program");
    child.stdin.take().expect("piped").write_all(exported.out.as_bytes()).expect("taken");
    let output = child.wait_with_output().expect("the program");
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("2 documents are now kept in {other}\n"));
    assert_eq!(run(&["state", "export", &other]).out, exported.out);
    let nowhere = run(&["state", "show", &folder.path("missing")]);
    assert_eq!(nowhere.code, Some(4));
    assert!(nowhere.err.contains("missing: cannot be read: "), "{}", nowhere.err);
}
