//! The program with TLS: its flags, its files, what it says, and SIGHUP.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::support::client::{Client, request};
use crate::support::eventually;
use crate::support::papers::{Pair, Papers};
use crate::support::sleeve::Sleeve;
use crate::support::upstream::Upstream;
use crate::talk::{ask, talk};
use crate::weft_program::{Weft, run};

fn start(pair: &Pair) -> Weft {
    Weft::start(&["--tls-cert", &pair.cert, "--tls-key", &pair.key])
}

fn copy(from: &Pair, to: &Pair) {
    fs::copy(&from.cert, &to.cert).expect("copied");
    fs::copy(&from.key, &to.key).expect("copied");
}

#[test]
fn it_says_that_it_listens_by_tls_and_does() {
    let papers = Papers::new();
    let weft = start(&papers.issue("door", "DNS:localhost"));
    weft.said("listens on https://127.0.0.1:");
    ask(weft.at(), &papers.client(None), "/health").expect("answered").with_status(200);
}

#[test]
fn a_file_that_does_not_do_is_named_with_its_flag_and_why() {
    let papers = Papers::new();
    let (one, other) = (papers.issue("one", "DNS:localhost"), papers.issue("other", "DNS:localhost"));
    let open = papers.issue("open", "DNS:localhost");
    fs::set_permissions(&open.key, fs::Permissions::from_mode(0o640)).expect("opened");
    let (none, noise) = (papers.path("none"), papers.path("noise"));
    fs::write(&noise, "noise").expect("written");
    for (arguments, says) in [
        (vec!["--tls-cert", &one.cert], "tlsCert: does nothing without tlsKey"),
        (vec!["--tls-key", &one.key], "tlsKey: does nothing without tlsCert"),
        (vec!["--tls-client-ca", &papers.ca], "tlsClientCa: does nothing without tlsCert"),
        (vec!["--tls-cert", &none, "--tls-key", &one.key], "tlsCert: \"PATH\" cannot be read: No such file or directory"),
        (vec!["--tls-cert", &noise, "--tls-key", &one.key], "tlsCert: \"PATH\" has no certificate in it; PEM is expected"),
        (vec!["--tls-cert", &one.cert, "--tls-key", &noise], "can be read by others than its owner"),
        (vec!["--tls-cert", &one.cert, "--tls-key", &open.key], "(mode 0640); chmod 600 it"),
        (vec!["--tls-cert", &one.cert, "--tls-key", &other.key], "tlsKey: is not the key to tlsCert"),
        (vec!["--tls-cert", &one.key, "--tls-key", &one.key], "tlsCert: \"PATH\" has no certificate in it"),
    ] {
        let ended = run(&[&arguments[..], &["--listen", "127.0.0.1:0"]].concat());
        assert_eq!(ended.code, Some(2), "{arguments:?}: {}", ended.err);
        let said = arguments.iter().filter(|word| word.starts_with('/')).fold(ended.err.clone(), |said, path| said.replace(path, "PATH"));
        assert!(said.contains(says), "{arguments:?}: {said}");
        assert!(!said.contains("BEGIN"), "nothing of a key: {said}");
    }
}

#[test]
fn fresh_certificates_are_used_after_a_hup_and_bad_ones_are_not() {
    let (before, after) = (Papers::new(), Papers::new());
    let pair = before.issue("door", "DNS:localhost");
    let weft = start(&pair);
    let mut stays = Client::of(talk(weft.at(), &before.client(None)).expect("a handshake"));
    stays.ask("GET", "/health", &[], b"").expect("answered").with_status(200);

    let next = after.issue("door", "DNS:localhost");
    copy(&next, &pair);
    weft.signal("HUP");
    eventually("the new certificate is shown", || ask(weft.at(), &after.client(None), "/health").ok());
    ask(weft.at(), &before.client(None), "/health").expect_err("the old one is shown no more");
    stays.ask("GET", "/health", &[], b"").expect("who is here stays").with_status(200);

    fs::write(&pair.key, "no key any more").expect("written");
    weft.signal("HUP");
    let line = weft.logged("configuration not reloaded, nothing has changed: tlsKey:");
    assert!(line.contains("has no private key in it"), "{line}");
    ask(weft.at(), &after.client(None), "/health").expect("goes on as before").with_status(200);
}

#[test]
fn a_changed_authority_ends_sessions_that_could_be_resumed() {
    let (papers, others) = (Papers::new(), Papers::new());
    let pair = papers.issue("door", "DNS:localhost");
    let authorities = papers.path("clients.pem");
    fs::copy(&papers.ca, &authorities).expect("copied");
    let weft = Weft::start(&["--tls-cert", &pair.cert, "--tls-key", &pair.key, "--tls-client-ca", &authorities]);
    weft.said("no tokens: whoever has a certificate may use it");
    let client = papers.client(Some(&papers.issue("client", "DNS:client")));
    ask(weft.at(), &client, "/health").expect("answered").with_status(200);
    let come = || Client::of(talk(weft.at(), &client).expect("a handshake"));
    let [mut idle, mut taps, mut waits] = [come(), come(), come()];
    idle.ask("GET", "/health", &[], b"").expect("answered").with_status(200);
    taps.send(b"GET /tap HTTP/1.0\r\nhost: localhost\r\n\r\n").expect("sent");
    taps.receive(true).expect("open").with_status(200);
    let registration = json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": 9}).to_string();
    idle.ask("POST", "/register", &[], registration.as_bytes()).expect("answered").with_status(200);
    let seen = idle.ask("GET", "/services/s", &[], b"").expect("answered");
    let poll = format!("/services/s?index={}&wait=60s", seen.header("x-mesh-index").expect("an index"));
    waits.send(&request("GET", &poll, &[], b"")).expect("sent");

    // Certificates that are read anew, and judge as those before, disturb nobody.
    weft.signal("HUP");
    weft.logged("configuration reloaded");
    idle.ask("GET", "/health", &[], b"").expect("who is here stays").with_status(200);

    fs::copy(&others.ca, &authorities).expect("copied");
    weft.signal("HUP");
    eventually("who was known is known no more", || ask(weft.at(), &client, "/health").is_err().then_some(()));
    assert!(idle.is_at_end(), "as after any last answer");
    for (what, mut gone) in [("a tap", taps), ("a long poll", waits)] {
        assert!(gone.receive(true).is_err(), "{what} says nothing more");
    }
}

#[test]
fn whoever_must_show_a_certificate_may_come_from_anywhere() {
    let papers = Papers::new();
    let pair = papers.issue("door", "DNS:localhost");
    let files = ["--tls-cert", &pair.cert, "--tls-key", &pair.key, "--listen", "0.0.0.0:0"];
    let refused = run(&files);
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    let weft = Weft::spawn(&[&files[..], &["--tls-client-ca", &papers.ca]].concat(), &[]);
    weft.said("listens on https://0.0.0.0:");
}

#[test]
fn another_authority_for_instances_is_trusted_after_a_hup() {
    let (papers, others) = (Papers::new(), Papers::new());
    let upstream = Upstream::named("it");
    let sleeve = Sleeve::around(upstream.at, others.instance(&others.issue("instance", "DNS:localhost"), false));
    let file = papers.path("weft.json");
    let configure = |ca: &str| fs::write(&file, json!({"upstreams": {"caFile": ca}}).to_string()).expect("written");
    configure(&papers.ca);
    let weft = Weft::start(&["--config", &file]);
    let registration = json!({"name": "s", "id": "i", "host": "localhost", "port": sleeve.at.port(), "scheme": "https", "healthy": true});
    weft.post("/register", &registration).with_status(200);
    assert_eq!(weft.call("s", "/").with_status(503).reason(), "upstream_connect");

    configure(&papers.path("none"));
    weft.signal("HUP");
    weft.logged("configuration not reloaded, nothing has changed: upstreams.caFile:");
    configure(&others.ca);
    weft.signal("HUP");
    eventually("the other authority is trusted", || (weft.call("s", "/").status == 200).then_some(()));
}

#[test]
fn a_kept_connection_to_an_instance_ends_with_the_authority_that_vouched_for_it() {
    let (papers, others) = (Papers::new(), Papers::new());
    let upstream = Upstream::named("it");
    for invoke_on in ["edge", "workers"] {
        let sleeve = Sleeve::around(upstream.at, papers.instance(&papers.issue("instance", "DNS:localhost"), false));
        let file = papers.path("weft.json");
        let configure = |ca: &str| fs::write(&file, json!({"upstreams": {"caFile": ca}}).to_string()).expect("written");
        configure(&papers.ca);
        let weft = Weft::start(&["--config", &file, "--invoke-on", invoke_on]);
        let registration =
            json!({"name": "s", "id": "i", "host": "localhost", "port": sleeve.at.port(), "scheme": "https", "healthy": true});
        weft.post("/register", &registration).with_status(200);
        weft.call("s", "/").with_status(200);

        configure(&others.ca);
        weft.signal("HUP");
        let refused = || Some(weft.call("s", "/")).filter(|answer| answer.status != 200);
        assert_eq!(eventually("it is not trusted any more", refused).reason(), "upstream_connect", "{invoke_on}");
    }
}

#[test]
fn an_idle_secured_connection_costs_little() {
    const MANY: u64 = 500;
    let papers = Papers::new();
    let weft = start(&papers.issue("door", "DNS:localhost"));
    let client = papers.client(None);
    let idle = |n: u64| -> Vec<_> {
        let asked = |_| {
            let mut client = Client::of(talk(weft.at(), &client).expect("a handshake"));
            client.ask("GET", "/health", &[], b"").expect("answered").with_status(200);
            client
        };
        (0..n).map(asked).collect()
    };
    let before = (idle(MANY / 5), weft.status("VmRSS"));
    let after = (idle(MANY), weft.status("VmRSS"));
    let each = (after.1.saturating_sub(before.1)) * 1024 / MANY;
    println!("{each} bytes for each idle connection");
    assert!(each < 24 * 1024, "{each} bytes for each idle connection");
}
