//! Rules about who may call what: the same whichever way a call comes in, on the path that is sent, and tried out before they bite.

use std::sync::Arc;

use serde_json::{Value, json};
use weft::model::Caller;
use weft::server::InvokeOn;
use weft::{Call, Mesh, Method, Registration};

use crate::callers::{Guarded, at, line, write};
use crate::support::client;
use crate::support::upstream::{Upstream, ok};
use crate::weft::{Folder, Weft};

fn lines() -> Vec<String> {
    let mut lines: Vec<String> = ["web", "job"].iter().map(|name| line(name, "invoke", json!({}))).collect();
    lines.push(line("root", "read,register,invoke,admin", json!({})));
    lines
}

fn rules() -> Value {
    json!({"allow": [
        {"callers": ["web"], "methods": ["GET"], "pathPrefixes": ["/api"]},
        {"callers": ["root"], "pathPrefixes": ["/admin", "/api"]},
    ]})
}

/// Caller, method, path, and whether that may be.
const CASES: [(&str, &str, &str, bool); 11] = [
    ("web", "GET", "/api/x", true),
    ("web", "GET", "/api?x=/../y", true),
    ("web", "POST", "/api/x", false),
    ("web", "GET", "/admin", false),
    ("web", "GET", "/apis", false),
    ("web", "GET", "/api/./x", false),
    ("web", "GET", "/api;x/y", false),
    ("web", "GET", "/%61pi/x", false),
    ("web", "GET", "/api/x%2f%2fadmin", false),
    ("job", "GET", "/api/x", false),
    ("root", "DELETE", "/admin/x", true),
];

#[test]
fn calls_are_judged_the_same_in_the_event_loops_on_the_workers_and_through_the_proxy() {
    for invoke_on in [InvokeOn::Edge, InvokeOn::Workers] {
        let upstream = Upstream::start(|asked| ok(asked.target.clone()));
        let mesh = Guarded::on(&lines(), invoke_on);
        mesh.ask("root", "POST", "/register", &at("s", "i", upstream.port())).with_status(200);
        mesh.ask("root", "PUT", "/services/s/policy", &rules()).with_status(200);
        for (caller, method, path, may) in CASES {
            let call = json!({"serviceName": "s", "method": method, "endpoint": path});
            let answers = [mesh.ask(caller, "POST", "/invoke", &call), mesh.ask(caller, method, &format!("/proxy/s{path}"), &Value::Null)];
            for answer in answers {
                if may {
                    assert_eq!(answer.with_status(200).text(), path, "what was decided on is what was sent");
                } else {
                    assert_eq!(answer.header("x-mesh-not-sent"), Some("true"));
                    assert_eq!(answer.with_status(403).reason(), "forbidden", "{caller} {method} {path}");
                }
            }
        }
        let may = CASES.iter().filter(|(.., may)| *may).count();
        assert_eq!(upstream.requests(), 2 * may, "nothing else was sent");
        let refused = mesh.get("root", "/metrics").json()["services"]["s"]["refused"].clone();
        assert_eq!(refused["notAllowed"], 2 * (CASES.len() - may));
    }
}

#[test]
fn a_method_in_small_letters_is_judged_as_the_one_that_some_instances_take_it_for() {
    let upstream = Upstream::start(|asked| ok(asked.method.clone()));
    let mesh = Guarded::new(&lines());
    mesh.ask("root", "POST", "/register", &at("s", "i", upstream.port())).with_status(200);
    mesh.ask("root", "PUT", "/services/s/policy", &json!({"allow": [{"methods": ["DELETE"], "action": "deny"}, {}]})).with_status(200);
    for method in ["DELETE", "delete", "Delete"] {
        assert_eq!(mesh.ask("web", method, "/proxy/s/x", &Value::Null).with_status(403).reason(), "forbidden", "{method}");
    }
    assert_eq!(mesh.ask("web", "get", "/proxy/s/x", &Value::Null).with_status(200).text(), "get", "and is passed on as it came");
    assert_eq!(upstream.requests(), 1);
}

#[test]
fn calls_from_within_the_process_are_judged_as_well() {
    let upstream = Upstream::named("hello");
    let mesh = Mesh::builder().background(false).defaults(rules()).build().expect("a mesh");
    mesh.register(Registration::new("s", "i", "127.0.0.1", upstream.port()).expect("valid")).expect("registered");
    for (caller, method, path, may) in CASES {
        let mut call = Call::new("s", Method::new(method).expect("a method"), path).expect("valid");
        call.caller = Caller { name: Some(Arc::from(caller)), address: None };
        assert_eq!(
            mesh.invoke(&call).map_err(|error| error.status()).map(|reply| reply.status),
            if may { Ok(200) } else { Err(403) },
            "{path}"
        );
    }
    assert_eq!(mesh.invoke(&Call::get("s", "/api").expect("valid")).expect_err("nobody").status(), 403);
}

#[test]
fn a_rewritten_path_is_judged_as_it_is_sent_and_no_fallback_hides_a_refusal() {
    let upstream = Upstream::start(|asked| ok(asked.target.clone()));
    let mesh = Guarded::new(&lines());
    mesh.ask("root", "POST", "/register", &at("s", "i", upstream.port())).with_status(200);
    let policy = json!({
        "allow": [{"pathPrefixes": ["/admin"], "action": "deny"}, {}],
        "routes": [{"name": "short", "match": {"pathPrefix": "/a"}, "rewritePrefix": "/", "fallback": {"status": 200, "body": "hidden"}}],
    });
    mesh.ask("root", "PUT", "/services/s/policy", &policy).with_status(200);
    assert_eq!(mesh.get("web", "/proxy/s/a/x").with_status(200).text(), "/x");
    assert_eq!(mesh.get("web", "/proxy/s/a/admin").with_status(403).reason(), "forbidden");
    assert_eq!(upstream.requests(), 1);
}

#[test]
fn rules_that_are_tried_out_let_in_and_log_what_they_would_refuse() {
    let folder = Folder::new();
    let file = folder.path("tokens");
    write(&file, &lines().join("\n"));
    let rules = json!({"defaults": {"allow": [{"callers": ["web"]}, {"action": "audit"}]}}).to_string();
    let config = folder.write("weft.json", rules);
    let weft = Weft::start(&["--token-file", &file, "--config", &config]);
    let upstream = Upstream::named("hello");
    let ask = |name: &str, method: &str, target: &str, body: &[u8]| {
        let bearer = format!("Bearer {name}-token");
        client::ask(weft.at(), method, target, &[("authorization", &bearer)], body).expect("answered").with_status(200)
    };
    ask("root", "POST", "/register", at("s", "i", upstream.port()).to_string().as_bytes());
    ask("web", "GET", "/proxy/s/", b"");
    ask("job", "GET", "/proxy/s/", b"");
    let said = weft.logged("would be refused");
    assert!(said.contains("s: would be refused: GET \"/\" by job") && !said.contains("token"), "{said}");
    assert_eq!(ask("root", "GET", "/metrics", b"").json()["services"]["s"]["refused"]["audited"], 1);
}
