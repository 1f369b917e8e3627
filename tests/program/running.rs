//! Starting, listening, serving.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use crate::support::client::{self, Client};
use crate::support::upstream::{Upstream, ok};
use crate::support::{eventually, throughout};
use crate::weft::{Folder, Weft, command, run};

#[test]
fn it_says_where_it_listens_and_what_is_on_and_serves() {
    let weft = Weft::start(&[]);
    let out = weft.out();
    assert!(out.starts_with(&format!("weft {} listens on http://127.0.0.1:", env!("CARGO_PKG_VERSION"))), "{out}");
    weft.said("calls run in the event loops; registry in memory");
    assert_eq!(weft.get("/health").with_status(200).json()["status"], "healthy");
    let upstream = Upstream::named("hello");
    weft.register("s", &upstream);
    assert_eq!(weft.call("s", "/").with_status(200).text(), "hello");
    assert_eq!(weft.get("/config").json()["listen"], "127.0.0.1:0");
}

#[test]
fn localhost_is_served_on_both_loopback_addresses() {
    let weft = Weft::spawn(&["--listen", "localhost:0"], &[]);
    let line = weft.said("listens on ");
    let addresses: Vec<&str> = line.split_whitespace().filter_map(|word| word.strip_prefix("http://")).collect();
    assert!(!addresses.is_empty(), "{line}");
    for address in addresses {
        let at = address.parse().unwrap_or_else(|_| panic!("{address}"));
        client::ask(at, "GET", "/health", &[], b"").expect(address).with_status(200);
    }
}

#[test]
fn a_port_in_use_is_said_in_plain_words() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let ended = run(&["--listen", &address]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(3), ""));
    assert_eq!(ended.err, format!("weft: cannot listen on http://{address}: another program listens there already\n"));
}

#[test]
fn an_address_of_another_machine_is_said_to_be_one() {
    // 192.0.2.0/24 is for documentation; no machine has it.
    let ended = run(&["--listen", "192.0.2.1:3000", "--insecure"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(3), ""));
    assert_eq!(ended.err, "weft: cannot listen on http://192.0.2.1:3000: not an address of this machine\n");
}

#[test]
fn listening_beyond_loopback_has_to_be_meant() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let ended = run(&["--listen", address]);
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{address}");
        assert!(ended.err.contains("is not loopback") && ended.err.contains("--insecure"), "{}", ended.err);
    }
    let weft = Weft::spawn(&["--listen", "0.0.0.0:0", "--insecure"], &[]);
    let at = format!("127.0.0.1:{}", weft.at().port()).parse().expect("an address");
    client::ask(at, "GET", "/health", &[], b"").expect("answered").with_status(200);
    let by_name = [("host", "mesh.internal:3000")];
    let registration = br#"{"name":"s","id":"i","host":"127.0.0.1","port":9}"#;
    client::ask(at, "POST", "/register", &by_name, registration).expect("answered").with_status(200);
}

#[test]
fn a_proxy_in_the_environment_is_ignored_by_calls_and_checks() {
    let proxy = Upstream::named("the proxy");
    let url = format!("http://{}", proxy.at);
    let names = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    let environment: Vec<(&str, &str)> = names.into_iter().map(|name| (name, &*url)).chain([("NO_PROXY", ""), ("no_proxy", "")]).collect();
    let weft = Weft::start_in(&[], &environment);
    let upstream = Upstream::start(|asked| ok(asked.target.clone()));
    for host in ["127.0.0.1", "localhost"] {
        let health = format!("http://{host}:{}/health-{host}", upstream.port());
        let registration = json!({"name": host, "id": "i", "host": host, "port": upstream.port(), "healthCheckUrl": health});
        weft.post("/register", &registration).with_status(200);
        assert_eq!(weft.call(host, "/direct").with_status(200).text(), "/direct");
        eventually("the check", || upstream.asked().iter().any(|asked| asked.target == format!("/health-{host}")).then_some(()));
    }
    assert_eq!(proxy.connections(), 0);
}

#[test]
fn a_unix_socket_is_served_and_taken_over_from_a_process_that_is_gone() {
    let folder = Folder::new();
    let path = folder.path("weft.sock");
    let listen = format!("unix:{path}");
    for end in ["TERM", "KILL", "TERM"] {
        let mut weft = Weft::spawn(&["--listen", &listen], &[]);
        assert!(weft.said("listens on").ends_with(&listen));
        let mut client = Client::connect_unix(Path::new(&path)).expect("a connection");
        client.ask("GET", "/health", &[], b"").expect("answered").with_status(200);
        let second = run(&["--listen", &listen]);
        assert_eq!(second.code, Some(3), "{}", second.err);
        assert!(second.err.contains("another program listens there already"), "{}", second.err);
        weft.signal(end);
        assert_eq!(weft.end(), (end == "TERM").then_some(0));
    }
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let folder = Folder::new();
    let file = folder.write("precious.conf", "precious");
    let link = folder.path("link");
    std::os::unix::fs::symlink(&file, &link).expect("a link");
    for path in [&file, &link] {
        let ended = run(&["--listen", &format!("unix:{path}")]);
        assert_eq!((ended.code, ended.out.as_str()), (Some(3), ""), "{}", ended.err);
        assert!(ended.err.contains(path.as_str()) && ended.err.contains("no socket"), "{}", ended.err);
        assert_eq!(std::fs::read_to_string(path).expect("it is still there"), "precious");
    }
    assert!(std::fs::symlink_metadata(&link).expect("it is still there").is_symlink());
}

#[test]
fn it_starts_even_when_nobody_reads_what_it_says() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let folder = Folder::new();
    let path = folder.path("weft.sock");
    let mut child = command(&["--listen", &format!("unix:{path}")], &[])
        .stdout(Stdio::from(writer))
        .stderr(Stdio::null())
        .spawn()
        .expect("the program");
    let answer = eventually("it serves, or has ended", || match child.try_wait().expect("a child") {
        Some(status) => panic!("it has ended: {status}"),
        None => Client::connect_unix(Path::new(&path)).and_then(|mut client| client.ask("GET", "/health", &[], b"")).ok(),
    });
    answer.with_status(200);
    throughout(Duration::from_millis(200), "it goes on", || child.try_wait().expect("a child").is_none());
    child.kill().expect("a child");
    child.wait().expect("a child");
}

#[test]
fn the_configuration_file_applies_to_services_by_name() {
    let folder = Folder::new();
    let file = folder.write(
        "weft.json",
        r#"{"defaults": {"retry": {"maxRetries": 1}}, "services": {"a": {"retry": {"maxRetries": 0}}},
            "upstreams": {"deny": ["127.0.0.2/32"]}, "maxServices": 2, "workers": 4, "maxBodyBytes": 2000}"#,
    );
    let weft = Weft::start(&["--config", &file, "--invoke-on", "workers"]);
    weft.said("/invoke runs on workers: 2 of 4 make calls");
    for (service, retries) in [("a", 0), ("b", 1)] {
        assert_eq!(weft.get(&format!("/services/{service}/policy")).json()["retry"]["maxRetries"], retries);
    }
    let register = |name: &str, host: &str| weft.post("/register", &json!({"name": name, "id": "i", "host": host, "port": 9}));
    assert_eq!(register("a", "127.0.0.2").with_status(403).reason(), "upstream_not_allowed");
    register("a", "127.0.0.1").with_status(200);
    register("b", "127.0.0.1").with_status(200);
    assert_eq!(register("c", "127.0.0.1").with_status(503).json()["limit"], "maxServices");
    weft.post("/register", &json!({"name": "x".repeat(2_000)})).with_status(413);
    assert_eq!(weft.get("/config").json()["services"]["a"]["retry"]["maxRetries"], 0);
}

#[test]
fn it_says_where_calls_are_and_where_the_rest_is_when_they_are_apart() {
    let weft = Weft::start(&["--admin-listen", "127.0.0.1:0"]);
    let line = weft.said(" for calls, and on http://127.0.0.1:");
    let admin = line.split_once("and on http://").and_then(|(_, after)| after.strip_suffix(" for the rest")).expect("an address");
    assert_eq!(weft.get("/metrics").status, 404);
    let metrics = client::ask(admin.parse().expect("an address"), "GET", "/metrics", &[], b"").expect("answered");
    assert_eq!(metrics.status, 200);
}
