//! Tokens: who gets in, how far, and what they see.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::{Value, json};
use weft::Mesh;
use weft::contract::router::{ROUTES, Scope};
use weft::server::{Config, InvokeOn};

use crate::callers::{Guarded, at, line};
use crate::house::call as call_of;
use crate::inputs::{NO_TOKENS, WRONG_TOKENS};
use crate::support::client::{Answer, request};
use crate::support::upstream::{Act, Upstream, answer, ok};
use crate::support::{PATIENCE, eventually};

const ALL: &str = "read,register,invoke,admin";

#[track_caller]
fn is_challenged(answer: &Answer, status: u16, reason: &str, error: &str) {
    let answer = answer.clone().with_status(status);
    assert_eq!(answer.reason(), reason);
    let challenge = answer.header("www-authenticate").expect("a challenge");
    assert!(challenge.starts_with("Bearer realm=\"weft\""), "{challenge}");
    assert_eq!(challenge.contains("error="), !error.is_empty(), "{challenge}");
    assert!(challenge.contains(error), "{challenge}");
}

#[test]
fn every_row_of_the_table_asks_for_its_scope_and_nothing_is_open_but_health() {
    let scopes = Scope::GRANTED.map(Scope::word);
    let lines: Vec<String> = scopes.iter().map(|scope| line(scope, scope, json!({}))).collect();
    let mesh = Guarded::new(&lines);
    for route in ROUTES {
        let path = route.pattern.replace("{name}", "s").replace("{id}", "i");
        let ask = |name: &str| {
            // A tap that is opened does not end by itself.
            let method = if path == "/tap" && name == route.scope.word() { "HEAD" } else { route.method };
            mesh.ask(name, method, &path, &Value::Null)
        };
        if route.scope == Scope::Open {
            assert!(ask("").status < 300, "{path}");
            continue;
        }
        is_challenged(&ask(""), 401, "unauthorized", "");
        for scope in scopes {
            let answer = ask(scope);
            if scope == route.scope.word() {
                assert!(!matches!(answer.status, 401 | 403), "{} {path}: {}", route.method, answer.text());
                let kept = answer.header("cache-control").unwrap_or("as anybody likes");
                assert!(scope == "invoke" || ["no-store", "private, no-cache"].contains(&kept), "{} {path}: {kept}", route.method);
            } else {
                is_challenged(&answer, 403, "forbidden", &format!("scope=\"{}\"", route.scope.word()));
            }
        }
    }
    for (method, target) in [("GET", "/nowhere"), ("GET", "/register"), ("POST", "/health"), ("OPTIONS", "/services")] {
        is_challenged(&mesh.ask("", method, target, &Value::Null), 401, "unauthorized", "");
        assert!(matches!(mesh.ask("read", method, target, &Value::Null).status, 404 | 405), "{method} {target}");
    }
    for target in ["/proxy/s/x", "/v1.0/invoke/s/method/x"] {
        is_challenged(&mesh.get("", target), 401, "unauthorized", "");
        is_challenged(&mesh.get("read", target), 403, "forbidden", "scope=\"invoke\"");
        assert_eq!(mesh.get("invoke", target).with_status(503).reason(), "unknown_service");
    }
    for field in [("host", "s.mesh"), ("dapr-app-id", "s")] {
        is_challenged(&mesh.house.ask("GET", "/health", &[field], b""), 401, "unauthorized", "");
    }
    let doors = mesh.get("read", "/metrics").json()["doors"].clone();
    assert!(doors["unauthorized"].as_u64() > Some(10) && doors["forbidden"].as_u64() > Some(10), "{doors}");
}

#[test]
fn only_the_whole_token_where_it_belongs_lets_in() {
    let mesh = Guarded::new(&[line("ci", ALL, json!({}))]);
    let ask = |headers: &[(&str, &str)], target: &str| mesh.house.ask("GET", target, headers, b"");
    for value in ["Bearer ci-token", "bearer ci-token", "BEARER  ci-token"] {
        ask(&[("authorization", value)], "/services").with_status(200);
    }
    ask(&[("dapr-api-token", "ci-token")], "/services").with_status(200);
    for value in WRONG_TOKENS {
        is_challenged(&ask(&[("authorization", value)], "/services"), 401, "unauthorized", "invalid_token");
    }
    for value in NO_TOKENS {
        is_challenged(&ask(&[("authorization", value)], "/services"), 401, "unauthorized", "");
    }
    let twice = [("authorization", "Bearer ci-token"), ("authorization", "Bearer ci-token")];
    is_challenged(&ask(&twice, "/services"), 400, "bad_request", "invalid_request");
    for target in ["/services?token=ci-token", "/services?access_token=ci-token", "/services?dapr-api-token=ci-token"] {
        is_challenged(&ask(&[], target), 401, "unauthorized", "");
    }
    is_challenged(&ask(&[("cookie", "token=ci-token")], "/services"), 401, "unauthorized", "");
    is_challenged(&ask(&[("x-weft-caller", "ci"), ("x-mesh-caller", "ci")], "/services"), 401, "unauthorized", "");
    let long = format!("Bearer {}", "x".repeat(1_000_000));
    ask(&[("authorization", &long)], "/services").with_status(431);
}

#[test]
fn a_connection_is_as_trusted_as_each_request_on_it() {
    let mesh = Guarded::new(&[line("reader", "read", json!({})), line("caller", "invoke", json!({}))]);
    let mut client = mesh.house.client();
    for _ in 0..3 {
        for (token, status) in [("reader", 200), ("caller", 403), ("nobody", 401), ("reader", 200), ("", 401)] {
            let bearer = format!("Bearer {token}-token");
            let headers: &[(&str, &str)] = if token.is_empty() { &[] } else { &[("authorization", &bearer)] };
            client.ask("GET", "/services", headers, b"").expect("answered").with_status(status);
        }
    }
}

#[test]
fn a_token_is_for_services_that_begin_as_it_says_and_shows_no_others() {
    for invoke_on in [InvokeOn::Edge, InvokeOn::Workers] {
        let upstream = Upstream::start(|asked| if asked.target == "/fail" { Act::Say(answer(501, &[], "")) } else { ok("hello") });
        let mesh = Guarded::on(&[line("pay", ALL, json!({"servicePrefix": "pay-"})), line("root", ALL, json!({}))], invoke_on);
        for service in ["pay-cards", "users"] {
            mesh.ask("root", "POST", "/register", &at(service, "i", upstream.port())).with_status(200);
            mesh.get("root", &format!("/proxy/{service}/fail")).with_status(501);
        }
        let invoke = |service: &str| json!({"serviceName": service, "endpoint": "/"});
        let forbidden = |method: &str, target: &str, body: Value| {
            is_challenged(&mesh.ask("pay", method, target, &body), 403, "forbidden", "insufficient_scope");
        };
        assert_eq!(mesh.ask("pay", "POST", "/invoke", &invoke("pay-cards")).with_status(200).text(), "hello");
        assert_eq!(mesh.get("pay", "/proxy/pay-cards/").with_status(200).text(), "hello");
        forbidden("POST", "/register", at("users", "j", 9));
        forbidden("POST", "/deregister", json!({"name": "users", "id": "i"}));
        forbidden("POST", "/invoke", invoke("users"));
        for target in [
            "/proxy/users/",
            "/services/users",
            "/services/users?index=1&wait=30s",
            "/services/users/policy",
            "/overview/users",
            "/services/nobody",
        ] {
            forbidden("GET", target, Value::Null);
        }
        forbidden("DELETE", "/services/users/i", Value::Null);
        forbidden("PUT", "/services/users/policy", json!({}));
        let copies_to = |service: &str| json!({"routes": [{"name": "r"}, {"name": "s", "mirror": {"service": service}}]});
        forbidden("PUT", "/services/pay-cards/policy", copies_to("users"));
        mesh.ask("pay", "PUT", "/services/pay-cards/policy", &copies_to("pay-books")).with_status(200);
        // What concerns all services is not for a token of some.
        forbidden("GET", "/config", Value::Null);
        mesh.get("root", "/config").with_status(200);
        let all_there_is = ["/services", "/metrics", "/metrics/prometheus", "/events", "/overview", "/overview?q=user", "/traces"];
        for target in all_there_is {
            let (some, all) = (mesh.get("pay", target).with_status(200).text(), mesh.get("root", target).with_status(200).text());
            assert!(!some.contains("users") && (some.contains("pay-cards") || target.contains('?')), "{target}: {some}");
            assert!(all.contains("users") && (all.contains("pay-cards") || target.contains('?')), "{target}: {all}");
        }
    }
}

#[test]
fn the_instance_learns_who_calls_from_the_mesh_alone_and_never_sees_the_token() {
    for invoke_on in [InvokeOn::Edge, InvokeOn::Workers] {
        let upstream = Upstream::start(|asked| ok(format!("{:?}", asked.headers)));
        let mesh = Guarded::on(&[line("ci", ALL, json!({}))], invoke_on);
        mesh.ask("ci", "POST", "/register", &at("s", "i", upstream.port())).with_status(200);
        let forged = [
            ("x-mesh-caller", "root"),
            ("x-weft-caller", "root"),
            ("X_Mesh_Caller", "root"),
            ("dapr-caller-app-id", "root"),
            ("dapr_caller_app-id", "root"),
            ("x-forwarded-client-cert", "root"),
        ];
        let headers: serde_json::Map<String, Value> = forged.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let call = json!({"serviceName": "s", "endpoint": "/", "headers": headers});
        let invoked = mesh.ask("ci", "POST", "/invoke", &call).with_status(200).text();
        let mut sent = vec![("authorization", "Bearer ci-token")];
        sent.extend(forged);
        let proxied = mesh.house.ask("GET", "/proxy/s/", &sent, b"").with_status(200).text();
        for seen in [invoked, proxied] {
            assert!(seen.contains(r#"("x-mesh-caller", "ci")"#) && !seen.contains("root") && !seen.contains("ci-token"), "{seen}");
        }
        // With the mesh's token in the field of Dapr, the other one is the instance's business.
        let both = [("dapr-api-token", "ci-token"), ("authorization", "Bearer of-the-user")];
        let seen = mesh.house.ask("GET", "/proxy/s/", &both, b"").with_status(200).text();
        assert!(seen.contains("of-the-user") && !seen.contains("ci-token"), "{seen}");
    }
}

#[test]
fn a_mirrored_call_says_who_called_and_carries_no_token() {
    let (upstream, copies) = (Upstream::named("hello"), Upstream::named("copy"));
    let mesh = Guarded::new(&[line("ci", ALL, json!({}))]);
    for (service, upstream) in [("s", &upstream), ("copies", &copies)] {
        mesh.ask("ci", "POST", "/register", &at(service, "i", upstream.port())).with_status(200);
    }
    let routes = json!({"routes": [{"name": "copy", "mirror": {"service": "copies", "percent": 100}}]});
    mesh.ask("ci", "PUT", "/services/s/policy", &routes).with_status(200);
    mesh.get("ci", "/proxy/s/x").with_status(200);
    let copy = crate::support::eventually("a copy", || copies.asked().first().cloned());
    assert_eq!(copy.header("x-mesh-caller"), Some("ci"));
    assert_eq!(copy.header("authorization"), None);
}

#[test]
fn a_check_names_no_caller_wherever_it_goes() {
    let upstream = Upstream::named("somebody else's");
    let mesh = Guarded::new(&[line("a", "register,admin", json!({"servicePrefix": "a-"}))]);
    let policy = json!({"healthCheck": {"headers": {"x-mesh-caller": "root", "host": "b-service"}}});
    assert_eq!(mesh.ask("a", "PUT", "/services/a-x/policy", &policy).with_status(400).json()["field"], "healthCheck.headers");
    mesh.ask("a", "PUT", "/services/a-x/policy", &json!({"healthCheck": {"headers": {"host": "b-service"}}})).with_status(200);
    let mut registration = at("a-x", "i", 9);
    registration["healthCheckUrl"] = json!(format!("http://127.0.0.1:{}/admin", upstream.port()));
    mesh.ask("a", "POST", "/register", &registration).with_status(200);
    mesh.house.mesh.check_now();
    let asked = upstream.asked().pop().expect("checked");
    assert_eq!((asked.header("host"), asked.header("x-mesh-caller")), (Some("b-service"), None));
}

#[test]
fn an_open_mesh_stamps_nobody_and_passes_authorization_on() {
    let upstream = Upstream::start(|asked| ok(format!("{:?}", asked.headers)));
    let house = crate::house::House::new();
    house.register("s", "i", &upstream);
    let headers = [("authorization", "Bearer of-the-user"), ("x-mesh-caller", "root"), ("dapr-api-token", "for-a-mesh")];
    let seen = house.ask("GET", "/proxy/s/", &headers, b"").with_status(200).text();
    assert!(seen.contains("of-the-user") && !seen.contains("x-mesh-caller") && !seen.contains("for-a-mesh"), "{seen}");
}

/// Opens a tap as `name`, in HTTP/1.0 so that lines are lines; it is open when this returns.
fn tap(mesh: &Guarded, name: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(mesh.house.at).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let asked = format!("GET /tap HTTP/1.0\r\nhost: localhost\r\nauthorization: Bearer {name}-token\r\n\r\n");
    stream.write_all(asked.as_bytes()).expect("sent");
    let mut reader = BufReader::new(stream);
    let head = read_head(&mut reader);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    reader
}

fn read_head(from: &mut BufReader<TcpStream>) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(from.read_line(&mut head).expect("readable") > 0, "{head}");
    }
    head
}

#[test]
fn who_looks_on_when_a_token_is_taken_away_sees_nothing_more() {
    let upstream = Upstream::named("hello");
    let some = |prefix: &str| line("some", "read", json!({"servicePrefix": prefix}));
    let before = [line("root", ALL, json!({})), line("reader", "read", json!({})), some("s")];
    let mesh = Guarded::of(&before, Mesh::builder(), Config { max_watchers: 1, ..Config::default() });
    mesh.ask("root", "POST", "/register", &at("s", "i", upstream.port())).with_status(200);
    let [mut kept, taps @ ..] = ["root", "reader", "some"].map(|name| tap(&mesh, name));
    let index = mesh.get("reader", "/services/s").header("x-mesh-index").expect("an index").to_owned();
    let poll = format!("/services/s?index={index}&wait=30s");
    let mut waiting = mesh.house.client();
    waiting.send(&request("GET", &poll, &[("authorization", "Bearer reader-token")], b"")).expect("sent");
    eventually("the only place is taken", || (mesh.get("root", &poll.replace("30s", "0s")).status == 503).then_some(()));
    // One of two tokens of a name, and one that is for less than it was.
    let other = line("other", "read", json!({})).replace("\"other\"", "\"reader\"");
    mesh.is_for(&[line("root", ALL, json!({})), other, some("t")]);
    mesh.get("root", "/proxy/s/").with_status(200);
    for mut tap in taps {
        let mut seen = String::new();
        tap.read_to_string(&mut seen).expect("it ends");
        assert_eq!(seen, "");
    }
    let mut seen = String::new();
    kept.read_line(&mut seen).expect("readable");
    assert!(seen.contains("\"service\":\"s\""), "{seen}");
    mesh.ask("root", "POST", "/register", &at("s", "j", upstream.port())).with_status(200);
    is_challenged(&waiting.receive(false).expect("answered"), 401, "unauthorized", "invalid_token");
}

#[test]
fn a_websocket_ends_with_what_comes_after_its_token_was_taken_away() {
    let mesh = Guarded::new(&[line("root", ALL, json!({})), line("chat", "invoke", json!({}))]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    mesh.ask("root", "POST", "/register", &at("s", "i", listener.local_addr().expect("its address").port())).with_status(200);
    let mut client = TcpStream::connect(mesh.house.at).expect("a connection");
    let switch = "connection: upgrade\r\nupgrade: websocket\r\n";
    write!(client, "GET /proxy/s/ HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer chat-token\r\n{switch}\r\n").expect("sent");
    let (instance, _) = listener.accept().expect("a call");
    let (mut client, mut instance) = (BufReader::new(client), BufReader::new(instance));
    for end in [&client, &instance] {
        end.get_ref().set_read_timeout(Some(PATIENCE)).expect("set");
    }
    read_head(&mut instance);
    write!(instance.get_mut(), "HTTP/1.1 101 Switching Protocols\r\n{switch}\r\nhello\n").expect("sent");
    assert!(read_head(&mut client).starts_with("HTTP/1.1 101"));
    let line_of = |end: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        end.read_line(&mut line).map(|_| line)
    };
    assert_eq!(line_of(&mut client).expect("readable"), "hello\n");
    // Read anew, and as good as before.
    mesh.is_for(&[line("root", ALL, json!({})), line("chat", "invoke", json!({}))]);
    client.get_mut().write_all(b"still there\n").expect("sent");
    assert_eq!(line_of(&mut instance).expect("readable"), "still there\n");
    mesh.is_for(&[line("root", ALL, json!({}))]);
    client.get_mut().write_all(b"not for anybody\n").expect("sent");
    assert_eq!(line_of(&mut instance).unwrap_or_default(), "");
    assert_eq!(line_of(&mut client).unwrap_or_default(), "");
    eventually("nothing is left of it", || (mesh.get("root", "/metrics").json()["services"]["s"]["inFlight"] == 0).then_some(()));
}

#[test]
fn a_call_that_waits_for_a_worker_while_its_token_is_narrowed_is_not_made() {
    let upstream = Upstream::start(|_| Act::Held(answer(200, &[], "hello")));
    let some = |prefix: &str| line("some", "invoke", json!({"servicePrefix": prefix}));
    let config = Config { invoke_on: InvokeOn::Workers, workers: 2, reserved_workers: 1, loops: 1, ..Config::default() };
    let builder = Mesh::builder().defaults(json!({"limits": {"queueTimeoutMs": 60_000}}));
    let mesh = Guarded::of(&[line("root", ALL, json!({})), some("s")], builder, config);
    mesh.ask("root", "POST", "/register", &at("s", "i", upstream.port())).with_status(200);
    let [mut running, mut waiting] = [(); 2].map(|()| mesh.house.client());
    let call = |name| request("POST", "/invoke", &[("authorization", name)], &call_of("s", "/"));
    running.send(&call("Bearer root-token")).expect("sent");
    eventually("the seat is taken", || (upstream.requests() == 1).then_some(()));
    waiting.send(&call("Bearer some-token")).expect("sent");
    // There is one loop, which by then has come to the call.
    mesh.get("root", "/services").with_status(200);
    mesh.is_for(&[line("root", ALL, json!({})), some("t")]);
    upstream.release();
    running.receive(false).expect("answered").with_status(200);
    is_challenged(&waiting.receive(false).expect("answered"), 403, "forbidden", "insufficient_scope");
    assert_eq!(upstream.requests(), 1);
}
