//! What an instance gets of a request that is passed on: all of it, but for what belongs to one connection or to the mesh.

use serde_json::json;

use crate::house::House;
use crate::support::upstream::{Upstream, ok};
use crate::wire::{Head, Stage, Wire, head};

/// Sends a request to a house and gives what its only instance gets, which is answered.
#[track_caller]
fn arriving(request: impl AsRef<[u8]>) -> (Head, Vec<u8>) {
    let house = House::new();
    let stage = Stage::of(&house);
    let mut client = Wire::to(&house);
    client.send(request);
    let mut instance = stage.accept();
    let arrived = instance.request();
    instance.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    assert_eq!(client.answer().with_status(200).text(), "ok");
    arrived
}

/// The fields of a head that a caller may have sent, in order.
fn passed<'a>(head: &'a Head, names: &[&str]) -> Vec<(&'a str, &'a str)> {
    let asked_for = |name: &str| names.iter().any(|asked| name.eq_ignore_ascii_case(asked));
    head.fields.iter().filter(|(name, _)| asked_for(name)).map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[test]
fn method_target_and_body_pass_as_they_are() {
    for (method, path) in [
        ("GET", "/a/b?c=d&c=e"),
        ("POST", "/"),
        ("PUT", "/%20a/%C3%A9"),
        ("PATCH", "/a//b/./c"),
        ("DELETE", "/a?x=%2e%2e/&y=/../"),
        ("OPTIONS", "/a;b=c,d"),
        ("PROPFIND", "/calendars/"),
        ("TRACE", "/"),
        ("M-SEARCH", "/a:b@c"),
        ("get", "/lower"),
    ] {
        let (arrived, body) = arriving(head(&format!("{method} /proxy/s{path}"), &["Content-Length: 5"]) + "h\0llo");
        assert_eq!(arrived.first, format!("{method} {path} HTTP/1.1"));
        assert_eq!((arrived.one("content-length"), &*body), (Some("5"), &b"h\0llo"[..]), "{method}");
    }
}

#[test]
fn a_request_without_a_body_gets_none() {
    let (arrived, _) = arriving(head("GET /proxy/s/", &[]));
    assert_eq!((arrived.one("content-length"), arrived.one("transfer-encoding")), (None, None));
    let (arrived, body) = arriving(head("POST /proxy/s/", &["Content-Length: 0"]));
    assert_eq!((arrived.one("content-length"), body.len()), (Some("0"), 0));
}

#[test]
fn a_body_in_chunks_stays_in_chunks_with_its_extensions_and_trailers() {
    let house = House::new();
    let stage = Stage::of(&house);
    let mut client = Wire::to(&house);
    client.send(head("POST /proxy/s/up", &["Transfer-Encoding: chunked"]) + "5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nX-Sum: 1\r\n\r\n");
    let mut instance = stage.accept();
    let arrived = instance.head();
    assert_eq!((arrived.one("transfer-encoding"), arrived.one("content-length")), (Some("chunked"), None));
    let (body, trailers) = instance.try_body(&arrived, false).expect("chunks");
    assert_eq!((&*body, trailers), (&b"hello!"[..], vec![("X-Sum".to_owned(), "1".to_owned())]));
    instance.send("HTTP/1.1 204 No Content\r\n\r\n");
    client.answer().with_status(204);
}

#[test]
fn a_trailer_that_says_what_only_a_head_may_never_comes_to_be_part_of_a_whole_request() {
    let house = House::new();
    let stage = Stage::of(&house);
    let mut client = Wire::to(&house);
    client.send(head("POST /proxy/s/up", &["Transfer-Encoding: chunked"]) + "5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-Mesh-Call");
    let mut instance = stage.accept();
    let arrived = instance.head();
    client.send("er: root\r\n\r\n");
    instance.try_body(&arrived, false).expect_err("it does not end");
    client.answer().with_status(400);
}

#[test]
fn fields_keep_their_order_their_case_and_their_duplicates() {
    let fields =
        ["X-One: 1", "accept: a/b", "x-one: 2", "COOKIE: a=b", "X-ONE: 1", "Accept: c/d;q=0.1,  e/f", "X-Empty:", "X-Bytes: caf\u{e9}"];
    let (arrived, _) = arriving(head("GET /proxy/s/", &fields));
    let kept = passed(&arrived, &["x-one", "accept", "cookie", "x-empty", "x-bytes"]);
    let sent: Vec<(&str, &str)> =
        fields.iter().filter_map(|field| field.split_once(':')).map(|(name, value)| (name, value.trim())).collect();
    assert_eq!(kept, sent);
}

#[test]
fn fields_of_one_connection_end_here_also_those_that_connection_names() {
    let fields = [
        "Connection: keep-alive, X-Hop",
        "Connection: x-other",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic secret",
        "TE: trailers",
        "Trailer: X-Sum",
        "X-Hop: 1",
        "X-OTHER: 2",
        "X-Stays: 3",
    ];
    let (arrived, _) = arriving(head("GET /proxy/s/", &fields));
    for gone in ["connection", "keep-alive", "proxy-connection", "proxy-authorization", "te", "trailer", "x-hop", "x-other", "upgrade"] {
        assert_eq!(arrived.all(gone), [""; 0], "{gone}");
    }
    assert_eq!(arrived.one("x-stays"), Some("3"));
}

#[test]
fn naming_the_fields_that_the_mesh_writes_in_connection_takes_none_of_them_away() {
    let connection = "Connection: host, content-length, x-request-id, via, x-forwarded-for, x-forwarded-host, x-service-mesh";
    let (arrived, body) = arriving(head("POST /proxy/s/", &[connection, "Content-Length: 2", "Via: 1.0 before"]) + "ab");
    assert_eq!(body, b"ab");
    for kept in ["host", "content-length", "x-request-id", "via", "x-forwarded-for", "x-forwarded-host", "x-service-mesh"] {
        assert!(arrived.one(kept).is_some(), "{kept}: {:?}", arrived.fields);
    }
}

#[test]
fn who_asked_and_by_which_way_is_added_to_what_was_said_before() {
    let (arrived, _) = arriving(head("GET /proxy/s/", &[]));
    let said = |name: &str| arrived.one(name).map(str::to_owned);
    assert_eq!(said("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(said("x-forwarded-proto").as_deref(), Some(if crate::SECURED { "https" } else { "http" }));
    assert_eq!(said("x-forwarded-host").as_deref(), Some("localhost"));
    assert_eq!(said("via").as_deref(), Some("1.1 weft"));

    let before = ["X-Forwarded-For: 192.0.2.1", "x-forwarded-for: 192.0.2.2, 192.0.2.3", "X-Forwarded-Proto: https", "Via: 1.0 before"];
    let (arrived, _) = arriving(head("GET /proxy/s/", &[&before[..], &["X-Forwarded-Host: shop.example"]].concat()));
    assert_eq!(arrived.one("x-forwarded-for"), Some("192.0.2.1, 192.0.2.2, 192.0.2.3, 127.0.0.1"));
    assert_eq!(arrived.one("x-forwarded-proto"), Some("https"));
    assert_eq!(arrived.one("x-forwarded-host"), Some("shop.example"));
    assert_eq!(arrived.one("via"), Some("1.0 before, 1.1 weft"));
}

#[test]
fn what_only_the_mesh_may_say_is_never_taken_from_outside() {
    let forged = [
        "X-Mesh-Instance: forged",
        "x-mesh-reason: forged",
        "X-Mesh-Attempts: 7",
        "X-Weft-Caller: forged",
        "X-Service-Mesh: forged",
        "Expect: 100-continue",
        "x-mesh-mirror: true",
    ];
    let (arrived, _) = arriving(head("GET /proxy/s/", &forged));
    let text = format!("{arrived:?}");
    assert!(!text.contains("forged") && !text.contains("Attempts") && !text.contains("mirror"), "{text}");
    assert_eq!((arrived.one("x-service-mesh"), arrived.one("x-mesh-attempt"), arrived.one("expect")), (Some("true"), Some("1"), None));
}

#[test]
fn the_request_id_is_the_callers_or_a_new_one_and_the_answer_says_it() {
    let house = House::new();
    let upstream = Upstream::named("x");
    house.register("s", "i", &upstream);
    for (sent, kept) in [(Some("order-7"), true), (None, false), (Some("not an id"), false)] {
        let headers: Vec<(&str, &str)> = sent.map(|id| ("X-Request-ID", id)).into_iter().collect();
        let answer = house.ask("GET", "/proxy/s/", &headers, b"").with_status(200);
        let arrived = upstream.asked().last().expect("a request").header("x-request-id").expect("an id").to_owned();
        assert_eq!(answer.all("x-request-id"), [arrived.as_str()]);
        assert_eq!(sent == Some(&arrived), kept, "{arrived}");
        assert!(kept || arrived.len() == 36, "{arrived}");
    }
}

#[test]
fn what_time_is_left_is_passed_on_and_a_caller_can_only_shorten_it() {
    let house = House::with(json!({"timeouts": {"totalMs": 5000, "attemptMs": 5000}}));
    let upstream = Upstream::named("x");
    house.register("s", "i", &upstream);
    for (asked, most) in [(None, 5000), (Some("700"), 700), (Some("60000"), 5000), (Some("soon"), 5000)] {
        let headers: Vec<(&str, &str)> = asked.map(|ms| ("x-request-timeout-ms", ms)).into_iter().collect();
        house.ask("GET", "/proxy/s/", &headers, b"").with_status(200);
        let left: u64 = upstream.asked().last().and_then(|asked| asked.header("x-request-timeout-ms")?.parse().ok()).expect("a time");
        assert!(left <= most && left > most / 2, "{asked:?}: {left}");
    }
}

#[test]
fn meshes_on_the_way_are_counted_and_there_is_an_end_to_them() {
    let house = House::new();
    let upstream = Upstream::named("x");
    house.register("s", "i", &upstream);
    house.ask("GET", "/proxy/s/", &[("x-mesh-hops", "3")], b"").with_status(200);
    assert_eq!(upstream.asked_once().header("x-mesh-hops"), Some("4"));
    // A number too large for the counter is no way around it: it would grow from mesh to mesh and never be one.
    for hops in ["8", "4294967295", "4294967296", "18446744073709551615"] {
        let answer = house.ask("GET", "/proxy/s/", &[("x-mesh-hops", hops)], b"").with_status(508);
        assert_eq!((answer.reason().as_str(), upstream.requests()), ("loop_detected", 1), "{hops}");
    }
}

#[test]
fn a_service_is_named_in_the_path_in_the_host_or_as_dapr_clients_do() {
    let house = House::new();
    let upstream = Upstream::start(|asked| ok(asked.target.clone()));
    house.register("users", "i", &upstream);
    for (target, headers, arrives) in [
        ("/proxy/users", &[][..], "/"),
        ("/proxy/users?a=b", &[], "/?a=b"),
        ("/proxy/users/", &[], "/"),
        ("/proxy/users/proxy/users", &[], "/proxy/users"),
        ("/health", &[("host", "users.mesh")], "/health"),
        ("/metrics?x", &[("host", "users.mesh:3000")], "/metrics?x"),
        ("http://users.mesh/a", &[("host", "elsewhere")], "/a"),
        ("/v1.0/invoke/users/method/a/b?c=d", &[], "/a/b?c=d"),
        ("/v1.0/invoke/users/method", &[], "/"),
        ("/a/b", &[("dapr-app-id", "users")], "/a/b"),
        ("/services", &[("Dapr-App-Id", "users")], "/services"),
    ] {
        let answer = house.ask("GET", target, headers, b"");
        assert_eq!((answer.status, answer.text().as_str()), (200, arrives), "{target} {headers:?}");
        let asked = upstream.asked().pop().expect("a request");
        assert_eq!((asked.header("dapr-app-id"), asked.header("host")), (None, Some(&*format!("127.0.0.1:{}", upstream.port()))));
    }
    let answer = house.ask("OPTIONS", "*", &[("host", "users.mesh")], b"");
    assert_eq!((answer.status, answer.text().as_str()), (200, "*"));
}

#[test]
fn what_cannot_be_passed_on_safely_is_refused_with_a_reason() {
    let house = House::new();
    let upstream = Upstream::named("x");
    house.register("s", "i", &upstream);
    for (target, headers, status, reason) in [
        ("/proxy/s/../admin", &[][..], 400, "bad_request"),
        ("/proxy/s/a/%2e%2E/b", &[], 400, "bad_request"),
        ("/proxy/s/..", &[], 400, "bad_request"),
        ("/proxy/s/a%2f..%2fb", &[], 400, "bad_request"),
        ("/proxy/s/a%0d%0aX:y", &[], 400, "bad_request"),
        ("/proxy/s/a%00", &[], 400, "bad_request"),
        ("/proxy/s/a%5cb", &[], 400, "bad_request"),
        ("/proxy/s/a%7", &[], 400, "bad_request"),
        ("/proxy/s/a%zz", &[], 400, "bad_request"),
        ("/proxy/s/a#b", &[], 400, "bad_request"),
        ("/proxy/-bad-/a", &[], 400, "bad_request"),
        ("/proxy/a%2fb/c", &[], 400, "bad_request"),
        ("/proxy/a@evil/c", &[], 400, "bad_request"),
        ("/proxy/../metrics", &[], 400, "bad_request"),
        ("/v1.0/invoke/s/method/../x", &[], 400, "bad_request"),
        ("/a/../b", &[("host", "s.mesh")], 400, "bad_request"),
        ("/a", &[("dapr-app-id", "not a name")], 400, "bad_request"),
        ("/a", &[("dapr-app-id", "")], 400, "bad_request"),
        ("/proxy/nobody/a", &[], 503, "unknown_service"),
        ("/a", &[("host", "nobody.mesh")], 503, "unknown_service"),
    ] {
        let answer = house.ask("GET", target, headers, b"");
        assert_eq!((answer.status, answer.reason().as_str()), (status, reason), "{target} {headers:?}: {}", answer.text());
        assert!(answer.header("x-request-id").is_some(), "{target}");
    }
    for target in ["/proxy", "/proxy/", "/proxy//a", "/v1.0/invoke/s", "/v1.0/invoke/s/methods/a"] {
        house.get(target).with_status(404);
    }
    assert_eq!(upstream.requests(), 0, "nothing of it arrived");
    let metrics = house.metrics();
    assert_eq!(metrics["totalRequests"], 0, "{metrics}");
}

#[test]
fn a_body_that_is_none_is_refused_and_what_arrived_of_it_is_no_request() {
    let house = House::new();
    let stage = Stage::of(&house);
    let mut client = Wire::to(&house);
    client.send(head("POST /proxy/s/", &["Transfer-Encoding: chunked"]) + "5\r\nhello\r\n");
    let mut instance = stage.accept();
    let arrived = instance.head();
    assert_eq!((arrived.one("transfer-encoding"), instance.chunk().as_str()), (Some("chunked"), "hello"));
    client.send("zz\r\nsmuggled");
    let answer = client.answer().with_status(400);
    assert_eq!(answer.reason(), "bad_request");
    assert_eq!(client.end().1, 0, "the connection is of no further use");
    assert_eq!(instance.end(), (crate::wire::Ended::Reset, 0));
    assert_eq!(house.metrics()["services"]["s"]["inFlight"], 0);
}
