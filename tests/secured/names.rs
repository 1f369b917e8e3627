//! The name in a client's certificate is who calls, wherever it matters who does: what instances are told, what rules let through, what the
//! API lets be seen and done, and in a token file that names it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use weft::contract::tokens::digest;
use weft::server::{Config, InvokeOn};

use crate::support::client::{Answer, Client};
use crate::support::papers::{Pair, Papers};
use crate::support::upstream::{Upstream, ok};
use crate::talk::{Secured, talk};

const WEB: &str = "spiffe://mesh/web";
const FORGED: [(&str, &str); 3] = [("x-mesh-caller", "root"), ("x-weft-caller", "root"), ("x-forwarded-client-cert", "root")];

/// A mesh whose clients must show a certificate, with such a token file if there are `lines`.
fn house(invoke_on: InvokeOn, lines: &[Value]) -> Secured {
    let papers = Papers::new();
    let mut config = Config { tls_client_ca: papers.ca.clone(), invoke_on, ..papers.secured("door", &Config::default()) };
    if !lines.is_empty() {
        config.token_file = papers.path("tokens");
        fs::write(&config.token_file, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).expect("a file");
        fs::set_permissions(&config.token_file, fs::Permissions::from_mode(0o600)).expect("a file of ours");
    }
    Secured::with(papers, config)
}

/// Asks as whoever shows this, on a connection of its own, since a refused one may end.
fn ask(house: &Secured, shows: &Pair, method: &str, target: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    ask_on(&mut connected(house, shows), method, target, headers, body)
}

fn connected(house: &Secured, shows: &Pair) -> Client {
    Client::of(talk(house.at, &house.papers.client(Some(shows))).expect("a handshake"))
}

fn ask_on(client: &mut Client, method: &str, target: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    client.ask(method, target, headers, body.as_bytes()).expect("answered")
}

fn at(service: &str, upstream: &Upstream) -> Value {
    json!({"name": service, "id": "i", "host": "127.0.0.1", "port": upstream.port()})
}

/// A call of `path` in JSON, and one through the proxy.
fn both(house: &Secured, shows: &Pair, service: &str, path: &str, headers: &[(&str, &str)]) -> [Answer; 2] {
    let forged: BTreeMap<_, _> = FORGED.into_iter().collect();
    let call = json!({"serviceName": service, "endpoint": path, "headers": forged});
    let proxied: Vec<_> = headers.iter().copied().chain(FORGED).collect();
    [
        ask(house, shows, "POST", "/invoke", headers, &call),
        ask(house, shows, "GET", &format!("/proxy/{service}{path}"), &proxied, &Value::Null),
    ]
}

fn who(asked: &crate::support::upstream::Asked) -> String {
    let said: Vec<_> =
        asked.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-mesh-caller")).map(|(_, who)| who.as_str()).collect();
    said.join(" and ")
}

#[test]
fn instances_are_told_the_name_in_the_certificate_and_rules_go_by_it() {
    for invoke_on in [InvokeOn::Edge, InvokeOn::Workers] {
        let house = house(invoke_on, &[]);
        let upstream = Upstream::start(|asked| ok(who(asked)));
        let web = house.papers.issue("web", &format!("URI:{WEB},DNS:web.mesh"));
        let job = house.papers.issue("job", "DNS:job.mesh");
        ask(&house, &job, "POST", "/register", &[], &at("s", &upstream)).with_status(200);
        for (shows, name) in [(&web, WEB), (&job, "job.mesh")] {
            for answer in both(&house, shows, "s", "/", &[]) {
                assert_eq!(answer.with_status(200).text(), name);
            }
        }
        let rules = json!({"allow": [{"callers": [WEB], "pathPrefixes": ["/api"]}, {"callers": ["job.mesh"], "pathPrefixes": ["/jobs"]}]});
        ask(&house, &job, "PUT", "/services/s/policy", &[], &rules).with_status(200);
        for (shows, path, may) in [(&web, "/api/x", true), (&web, "/jobs", false), (&job, "/jobs", true), (&job, "/api/x", false)] {
            for answer in both(&house, shows, "s", path, &[]) {
                assert_eq!(answer.status, if may { 200 } else { 403 }, "{path}: {}", answer.text());
            }
        }
        assert_eq!(upstream.requests(), 8, "what is refused is not sent");
    }
}

#[test]
fn a_token_file_that_names_a_certificate_says_what_it_may_do() {
    let hex: String = digest(b"of-root").iter().map(|byte| format!("{byte:02x}")).collect();
    let lines = [
        json!({"name": "root", "scopes": ["read", "register", "invoke", "admin"], "sha256": hex}),
        json!({"name": WEB, "scopes": ["read", "invoke"], "servicePrefix": "web-"}),
    ];
    for invoke_on in [InvokeOn::Edge, InvokeOn::Workers] {
        let house = house(invoke_on, &lines);
        let upstream = Upstream::start(|asked| ok(who(asked)));
        let web = house.papers.issue("web", &format!("URI:{WEB}"));
        let stranger = house.papers.issue("stranger", "DNS:stranger.mesh");
        let root = [("authorization", "Bearer of-root")];

        // What neither its certificate nor a token allows, from the edge and from the API behind it.
        ask(&house, &web, "POST", "/register", &[], &at("web-a", &upstream)).with_status(403);
        ask(&house, &stranger, "GET", "/services", &[], &Value::Null).with_status(401);
        for answer in both(&house, &stranger, "web-a", "/", &[]) {
            answer.with_status(401);
        }
        // A token counts more than a certificate.
        for service in ["web-a", "jobs"] {
            ask(&house, &web, "POST", "/register", &root, &at(service, &upstream)).with_status(200);
        }
        for answer in both(&house, &web, "web-a", "/", &root) {
            assert_eq!(answer.with_status(200).text(), "root");
        }
        for answer in both(&house, &web, "web-a", "/", &[]) {
            assert_eq!(answer.with_status(200).text(), WEB);
        }
        for answer in both(&house, &web, "jobs", "/", &[]) {
            answer.with_status(403);
        }
        // On one connection, too, each request is its own.
        let mut client = connected(&house, &web);
        for (headers, sees_all) in [(&[][..], false), (&root[..], true), (&[][..], false)] {
            let seen = ask_on(&mut client, "GET", "/services", headers, &Value::Null).with_status(200).text();
            assert_eq!((seen.contains("web-a"), seen.contains("jobs")), (true, sees_all), "{seen}");
        }
        // A token that is none is not made good by a certificate.
        for answer in both(&house, &web, "web-a", "/", &[("authorization", "Bearer of-nobody")]) {
            answer.with_status(401);
        }
        assert_eq!(upstream.requests(), 4);
    }
}
