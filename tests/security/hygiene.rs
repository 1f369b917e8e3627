//! What is injected, forged or led astray, and what must not leak.

use serde_json::{Value, json};
use weft::Mesh;
use weft::server::{Config, InvokeOn};

use crate::callers::{Guarded, at, line};
use crate::house::House;
use crate::inputs::{BAD_ENDPOINTS, BAD_FIELDS, BAD_METHODS, BAD_NAMES, FOREIGN_HOSTS, FOREIGN_ORIGINS, bad_calls};
use crate::support::client::{self, Client};
use crate::support::upstream::Act;
use crate::support::upstream::{Upstream, answer, ok};
use crate::weft::Weft;

const ALL: &str = "read,register,invoke,admin";

#[test]
fn an_endpoint_that_leads_elsewhere_is_refused_and_nobody_is_asked() {
    let (upstream, elsewhere) = (Upstream::named("here"), Upstream::named("elsewhere"));
    let house = House::new();
    house.register("s", "i", &upstream);
    let other = elsewhere.port();
    let long = format!("/{}", "x".repeat(10_000));
    let urls = [format!("@127.0.0.1:{other}/x"), format!("//127.0.0.1:{other}/"), format!("http://127.0.0.1:{other}/")];
    let more = [long.as_str()];
    for endpoint in urls.iter().map(String::as_str).chain(BAD_ENDPOINTS.iter().copied()).chain(more) {
        let refused = house.invoke(&json!({"serviceName": "s", "endpoint": endpoint})).with_status(400);
        assert_eq!(refused.json()["field"], "endpoint", "{endpoint:?}");
    }
    for method in BAD_METHODS.iter().copied().chain([&*"G".repeat(1000)]) {
        let refused = house.invoke(&json!({"serviceName": "s", "endpoint": "/", "method": method})).with_status(400);
        assert_eq!(refused.json()["field"], "method", "{method:?}");
    }
    for path in ["/../x", "/%2e%2e/x", "/a%0d%0ab", "/a%00b", "/a%5cb", "/%zz"] {
        house.get(&format!("/proxy/s{path}")).with_status(400);
    }
    assert_eq!((upstream.requests(), elsewhere.connections()), (0, 0));
}

#[test]
fn no_header_field_is_smuggled_in_or_out() {
    let upstream = Upstream::start(|asked| match asked.target.as_str() {
        "/split" => Act::Say(b"HTTP/1.1 200 OK\r\nx-a: b\rset-cookie: forged=1\r\ncontent-length: 0\r\n\r\n".to_vec()),
        _ => Act::Say(answer(200, &[("x-mesh-reason", "forged"), ("x-request-id", "forged"), ("x-weft-caller", "forged")], "")),
    });
    let house = House::new();
    house.register("s", "i", &upstream);
    for (name, value) in BAD_FIELDS {
        let refused = house.invoke(&json!({"serviceName": "s", "endpoint": "/", "headers": {*name: value}})).with_status(400);
        assert_eq!(refused.json()["field"], "headers", "{name:?}: {value:?}");
    }
    assert_eq!(upstream.requests(), 0);
    for answer in [house.call("s", "/"), house.get("/proxy/s/")] {
        let text = format!("{:?}", answer.headers);
        assert!(!text.contains("forged"), "{text}");
    }
    for answer in [house.call("s", "/split"), house.get("/proxy/s/split")] {
        assert!(answer.status >= 500 && answer.header("set-cookie").is_none(), "{answer:?}");
        assert_eq!(answer.reason(), "upstream_protocol");
    }
    let id = house.ask("GET", "/services", &[("x-request-id", "a\u{1b}[31mb")], b"");
    assert!(id.status == 400 || id.header("x-request-id").is_some_and(|id| !id.contains('\u{1b}')));
}

#[test]
fn strange_names_do_not_get_into_logs_metrics_or_series() {
    let weft = Weft::start(&["--log", "debug"]);
    let ask = |method: &str, target: &str, body: &Value| {
        client::ask(weft.at(), method, target, &[], body.to_string().as_bytes()).expect("answered")
    };
    for name in BAD_NAMES {
        ask("POST", "/invoke", &json!({"serviceName": name, "endpoint": "/"})).with_status(400);
        ask("POST", "/register", &json!({"name": name, "id": "i", "host": "127.0.0.1", "port": 9})).with_status(400);
        ask("POST", "/register", &json!({"name": "s", "id": name, "host": "127.0.0.1", "port": 9})).with_status(400);
    }
    let logged = weft.err();
    assert!(!["up 0", "[31m", "{\"level"].iter().any(|part| logged.contains(part)), "refusals are counted, not logged: {logged}");
    let scraped = weft.get("/metrics/prometheus").text();
    assert!(scraped.lines().all(|line| ["# ", "weft_", "process_"].iter().any(|begin| line.starts_with(begin))), "{scraped}");
    let before = weft.get("/metrics").text().lines().count();
    for n in 0..300 {
        let unknown = ask("POST", "/invoke", &json!({"serviceName": format!("nobody-{n}"), "endpoint": "/"}));
        assert_eq!(unknown.with_status(503).reason(), "unknown_service");
    }
    let metrics = weft.get("/metrics");
    assert_eq!(metrics.text().lines().count(), before);
    assert_eq!(metrics.json()["unknownServiceRequests"], 300);
    ask("POST", "/register", &json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": 9})).with_status(200);
    let state = json!({"state": "drain", "reason": "\u{1b}[31mred\n{\"level\":\"info\"}"});
    ask("PUT", "/services/s/i/state", &state).with_status(200);
    let routes = json!({"routes": [{"name": "all"}, {"name": "\u{9b}31mred\n{\"level\":\"info\"}"}]});
    ask("PUT", "/services/s/policy", &routes).with_status(200);
    for words in ["state is now drain", "stands after a route that covers every call"] {
        let said = weft.logged(words);
        assert!(!said.contains(['\u{1b}', '\u{9b}']) && !weft.err().contains("\n{\"level\""), "{said}");
    }
}

#[test]
fn pages_of_other_origins_and_rebound_names_get_nothing() {
    let upstream = Upstream::named("hello");
    let house = House::new();
    house.register("s", "i", &upstream);
    let registration = at("s", "j", 9).to_string();
    let call = json!({"serviceName": "s", "endpoint": "/"}).to_string();
    let local = ("host", "localhost");
    for origin in FOREIGN_ORIGINS {
        let headers = [local, ("origin", *origin), ("content-type", "text/plain")];
        for (target, body) in [("/register", &registration), ("/invoke", &call), ("/proxy/s/", &call)] {
            let refused = house.ask("POST", target, &headers, body.as_bytes()).with_status(403);
            assert_eq!(
                (refused.reason().as_str(), refused.header("access-control-allow-origin")),
                ("forbidden", None),
                "{origin} {target}"
            );
        }
        let preflight = [local, ("origin", *origin), ("access-control-request-method", "POST")];
        assert_eq!(house.ask("OPTIONS", "/register", &preflight, b"").with_status(405).header("access-control-allow-origin"), None);
    }
    for host in FOREIGN_HOSTS {
        for target in
            ["/services", "/metrics", "/events", "/config", "/services/s", "/services/s/explain", "/services/s/policy", "/tap", "/proxy/s/"]
        {
            house.ask("GET", target, &[("host", *host)], b"").with_status(403);
        }
        house.ask("GET", "/health", &[("host", host)], b"").with_status(200);
        house.ask("POST", "/invoke", &[("host", host)], call.as_bytes()).with_status(403);
    }
    assert_eq!(upstream.requests(), 0);
}

#[test]
fn pages_that_are_named_may_use_the_api_and_no_others() {
    let config: Config = serde_json::from_value(json!({"cors": {"allowOrigins": ["https://ops.test"]}})).expect("valid");
    let upstream = Upstream::start(|_| Act::Say(answer(200, &[("access-control-allow-origin", "*")], "hello")));
    let house = House::of(Mesh::builder(), config);
    house.register("s", "i", &upstream);
    let origin = ("origin", "https://ops.test");
    let preflight = house.ask("OPTIONS", "/register", &[origin, ("access-control-request-method", "POST")], b"").with_status(204);
    assert_eq!(preflight.header("access-control-allow-origin"), Some("https://ops.test"));
    assert!(preflight.header("access-control-allow-headers").is_some_and(|all| all.contains("authorization")));
    let call = json!({"serviceName": "s", "endpoint": "/"}).to_string();
    for (method, target, body, status) in [
        ("POST", "/register", at("s", "j", 9).to_string(), 200),
        ("GET", "/services", String::new(), 200),
        ("GET", "/nowhere", String::new(), 404),
        ("POST", "/invoke", "{}".to_owned(), 400),
        ("DELETE", "/services/s/j", String::new(), 200),
        ("POST", "/invoke", call, 200),
    ] {
        let answer = house.ask(method, target, &[origin], body.as_bytes()).with_status(status);
        assert_eq!(answer.all("access-control-allow-origin"), ["https://ops.test"], "{method} {target}");
        assert!(answer.all("vary").contains(&"origin"), "{method} {target}");
    }
    // An instance speaks for itself.
    assert_eq!(house.ask("GET", "/proxy/s/", &[origin], b"").with_status(200).all("access-control-allow-origin"), ["*"]);
    assert_eq!(house.get("/services").header("access-control-allow-origin"), None);
    for origin in ["https://ops.test.evil.test", "http://ops.test", "https://OPS.test"] {
        let refused = house.ask("POST", "/register", &[("origin", origin)], at("s", "k", 9).to_string().as_bytes());
        assert_eq!(refused.with_status(403).header("access-control-allow-origin"), None);
    }
    for origins in [json!(["*"]), json!(["ops.test"]), json!(["https://ops.test/x"]), json!(["https://"])] {
        let config: Config = serde_json::from_value(json!({"cors": {"allowOrigins": origins}})).expect("a list");
        assert_eq!(config.check_together().expect_err("refused").field, "cors.allowOrigins");
    }
}

#[test]
fn an_instance_tells_no_page_what_it_may_see_of_the_api_wherever_calls_run() {
    for invoke_on in [InvokeOn::Edge, InvokeOn::Workers] {
        let config = json!({"cors": {"allowOrigins": ["https://ops.test"]}, "invokeOn": invoke_on});
        let said = [("Access-Control-Allow-Origin", "*"), ("access-control-allow-credentials", "true"), ("x-a", "b")];
        let upstream = Upstream::start(move |_| Act::Say(answer(200, &said, "hello")));
        let house = House::of(Mesh::builder(), serde_json::from_value(config).expect("valid"));
        house.register("s", "i", &upstream);
        let call = json!({"serviceName": "s", "endpoint": "/"}).to_string();
        let said = house.ask("POST", "/invoke", &[("origin", "https://ops.test")], call.as_bytes()).with_status(200);
        assert_eq!(said.all("access-control-allow-origin"), ["https://ops.test"], "{invoke_on:?}");
        assert_eq!((said.header("access-control-allow-credentials"), said.header("x-a")), (None, Some("b")), "{invoke_on:?}");
    }
}

#[test]
fn no_token_comes_out_again() {
    let upstream = Upstream::start(|_| ok("from within"));
    let mesh = Guarded::new(&[line("root", ALL, json!({})), line("reader", "read", json!({}))]);
    mesh.ask("root", "POST", "/register", &at("s", "i", upstream.port())).with_status(200);
    let secrets = json!({
        "healthCheck": {"headers": {"authorization": "Bearer hunter2"}},
        "routes": [{"name": "r", "setHeaders": {"x-api-key": "hunter2"}}],
    });
    mesh.ask("root", "PUT", "/services/s/policy", &secrets).with_status(200);
    mesh.get("root", "/proxy/s/").with_status(200);
    let mut shown = String::new();
    for target in ["/config", "/metrics", "/services", "/services/s", "/services/s/explain", "/events", "/nowhere"] {
        shown.push_str(&mesh.get("root", target).text());
    }
    shown.push_str(&mesh.get("reader", "/services/s/policy").text());
    for body in [json!({"name": "root-token"}), json!("root-token"), json!({"root-token": 1})] {
        shown.push_str(&mesh.ask("reader", "POST", "/register", &body).text());
    }
    for secret in ["root-token", "reader-token", "hunter2", "from within"] {
        assert!(!shown.contains(secret), "{secret}: {shown}");
    }
    // Whoever may change it may see it, and put it back as it was.
    assert!(mesh.get("root", "/services/s/policy").text().contains("hunter2"));
}

#[test]
fn json_that_is_too_deep_too_large_or_not_quite_json_is_refused() {
    let house = House::new();
    for body in &bad_calls() {
        let refused = house.ask("POST", "/invoke", &[], body).with_status(400);
        assert_eq!(refused.reason(), "bad_request", "{}", String::from_utf8_lossy(&body[..body.len().min(80)]));
    }
    house.ask("POST", "/invoke", &[], &vec![b' '; 1_048_577]).with_status(413);
    house.get("/health").with_status(200);
}

#[test]
fn a_request_without_leave_hides_no_other() {
    let mesh = Guarded::new(&[line("root", ALL, json!({}))]);
    let mut client = Client::connect(mesh.house.at).expect("a connection");
    let hidden = "DELETE /services/s/i HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer root-token\r\n\r\n";
    client
        .send(format!("POST /register HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{hidden}", hidden.len() + 5).as_bytes())
        .expect("sent");
    client.receive(false).expect("answered").with_status(401);
    assert!(client.is_at_end(), "what is left of a body that was not read is no request");
    for line in ["CONNECT localhost:80", "CONNECT s.mesh:80"] {
        let mut client = Client::connect(mesh.house.at).expect("a connection");
        let host = line.split(' ').next_back().expect("a host");
        client.send(format!("{line} HTTP/1.1\r\nhost: {host}\r\n\r\n{hidden}").as_bytes()).expect("sent");
        client.receive(false).expect("answered").with_status(401);
        assert!(client.is_at_end(), "what goes through a tunnel that is not there is no request");
    }
}
