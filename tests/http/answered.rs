//! What comes back of an instance's answer, and what a failure says.

use std::net::TcpListener;

use serde_json::json;

use crate::house::{House, keys};
use crate::support::client::Answer;
use crate::support::upstream::{Act, End, Upstream, answer, ok, status};

/// Calls an upstream that answers with these bytes and gives what came back.
fn passed(bytes: Vec<u8>) -> Answer {
    let house = House::with(json!({"retry": {"maxRetries": 0}}));
    let upstream = Upstream::start(move |_| Act::SayAnd(bytes.clone(), End::Close));
    house.register("s", "i", &upstream);
    house.call("s", "/")
}

#[test]
fn an_answer_comes_back_with_its_status_its_fields_and_its_body() {
    let fields = [
        ("Content-Type", "image/png"),
        ("Set-Cookie", "a=1; Path=/"),
        ("X-One", "1"),
        ("Set-Cookie", "b=2, with a comma"),
        ("ETag", "\"x\""),
        ("Content-Encoding", "gzip"),
    ];
    let body: Vec<u8> = (0..=255).collect();
    let answer = passed(answer(201, &fields, &body)).with_status(201);
    assert_eq!(answer.all("set-cookie"), ["a=1; Path=/", "b=2, with a comma"]);
    assert_eq!((answer.header("content-type"), answer.header("x-one")), (Some("image/png"), Some("1")));
    assert_eq!((answer.header("etag"), answer.header("content-encoding")), (Some("\"x\""), Some("gzip")), "nothing is unpacked");
    assert_eq!(answer.body, body);
}

#[test]
fn what_belongs_to_the_connection_or_only_the_mesh_may_say_does_not_come_back() {
    let fields = [
        ("Connection", "close, X-Hop"),
        ("X-Hop", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authenticate", "Basic"),
        ("Trailer", "X-T"),
        ("Upgrade", "h2c"),
        ("X-Mesh-Reason", "forged"),
        ("X-Mesh-Not-Sent", "true"),
        ("X-Mesh-Instance", "forged"),
        ("X-Weft-Identity", "root"),
        ("X-Request-ID", "the instance's own"),
        ("X-Kept", "1"),
    ];
    let answer = passed(answer(200, &fields, "x")).with_status(200);
    assert_eq!(answer.header("x-kept"), Some("1"));
    for name in ["x-hop", "keep-alive", "proxy-authenticate", "trailer", "upgrade", "x-mesh-reason", "x-mesh-not-sent", "x-weft-identity"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!(answer.all("x-mesh-instance"), ["i"]);
    let ids = answer.all("x-request-id");
    assert!(ids.len() == 1 && ids[0].len() == 36, "the mesh's own id, once: {ids:?}");
}

#[test]
fn redirects_client_errors_and_what_the_method_is_to_blame_for_are_passed_on() {
    for code in [200, 202, 204, 206, 301, 302, 304, 307, 308, 400, 401, 404, 409, 410, 418, 422, 451, 501, 505] {
        let house = House::new();
        let upstream = Upstream::start(move |_| Act::Say(answer(code, &[("location", "http://169.254.169.254/latest")], "")));
        house.register("s", "i", &upstream);
        let answer = house.call("s", "/").with_status(code);
        assert_eq!(answer.header("location"), Some("http://169.254.169.254/latest"));
        assert_eq!((answer.header("x-mesh-attempts"), answer.header("x-mesh-reason")), (Some("1"), None), "{code}");
        assert_eq!(upstream.requests(), 1, "{code}: neither repeated nor followed");
        let metrics = house.metrics();
        assert_eq!((&metrics["successfulRequests"], &metrics["failedRequests"]), (&json!(1), &json!(0)), "{code}");
    }
}

#[test]
fn a_redirect_is_not_followed_even_to_an_instance_that_is_there() {
    let house = House::new();
    let target = Upstream::named("the target");
    let location = format!("http://{}/", target.at);
    let upstream = Upstream::start(move |_| Act::Say(answer(302, &[("location", &location)], "")));
    house.register("s", "i", &upstream);
    house.call("s", "/").with_status(302);
    assert_eq!(target.connections(), 0);
}

#[test]
fn chunked_answers_and_those_that_end_with_the_connection_come_back_whole() {
    let chunked =
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n5\r\nhello\r\n7;ext=1\r\n, world\r\n0\r\nx-t: 1\r\n\r\n";
    let answer = passed(chunked.to_vec()).with_status(200);
    assert_eq!((answer.text().as_str(), answer.header("content-length"), answer.header("x-t")), ("hello, world", Some("12"), None));
    for version in ["1.0", "1.1"] {
        let to_the_end = format!("HTTP/{version} 200 OK\r\ncontent-type: text/plain\r\n\r\nuntil the end");
        assert_eq!(passed(to_the_end.into_bytes()).with_status(200).text(), "until the end", "HTTP/{version}");
    }
}

#[test]
fn an_answer_to_head_has_no_body_to_wait_for() {
    let house = House::on_one_loop(json!({}));
    let upstream = Upstream::start(|_| Act::Say(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\nx-a: b\r\n\r\n".to_vec()));
    house.register("s", "i", &upstream);
    for _ in 0..2 {
        let answer = house.invoke(&json!({"serviceName": "s", "endpoint": "/", "method": "HEAD"})).with_status(200);
        assert_eq!((answer.header("x-a"), answer.body.len()), (Some("b"), 0));
    }
    assert_eq!(upstream.connections(), 1, "and the connection is used again");
}

#[test]
fn connections_are_used_again() {
    let house = House::on_one_loop(json!({"retry": {"baseDelayMs": 1}}));
    let upstream = Upstream::start(|asked| if asked.nth == 3 { status(500) } else { ok("x") });
    house.register("s", "i", &upstream);
    for _ in 0..6 {
        house.call("s", "/").with_status(200);
    }
    assert_eq!((upstream.requests(), upstream.connections()), (7, 1), "also after an answer that was thrown away");
}

/// The failure answers in full: keys, words, and whether anything can have been processed.
#[test]
fn a_failure_answer_has_exactly_its_keys() {
    let gone = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("an address").port();
    let house = House::with(json!({"retry": {"maxRetries": 1, "baseDelayMs": 1}}));
    house.register_at("s", "i", gone);
    let answer = house.call("s", "/").with_status(503);
    assert_eq!(answer.reason(), "upstream_connect");
    let body = answer.json();
    assert_eq!(keys(&body), ["attempts", "error", "instance", "reason", "requestId", "service"]);
    assert_eq!(body["error"], "Failed to call s after 2 attempts: connection refused");
    assert_eq!((&body["service"], &body["attempts"], &body["instance"]), (&json!("s"), &json!(2), &json!("i")));
    assert_eq!(answer.header("x-mesh-not-sent"), Some("true"), "nothing has been sent");
    assert_eq!((answer.header("x-mesh-attempts"), answer.header("x-mesh-instance")), (Some("2"), Some("i")));

    let unknown = house.call("nobody", "/").with_status(503);
    assert_eq!(keys(&unknown.json()), ["attempts", "error", "reason", "requestId", "service"]);
    assert_eq!((&unknown.json()["attempts"], unknown.reason().as_str()), (&json!(0), "unknown_service"));
}

#[test]
fn an_answer_of_10_mib_is_collected_and_one_byte_more_is_refused() {
    const MOST: usize = 10 * 1024 * 1024;
    for (length, status) in [(MOST, 200), (MOST + 1, 503)] {
        for chunked in [false, true] {
            let house = House::new();
            let upstream = Upstream::start(move |_| {
                if !chunked {
                    return ok(vec![b'x'; length]);
                }
                let mut out = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n").into_bytes();
                out.resize(out.len() + length, b'x');
                out.extend_from_slice(b"\r\n0\r\n\r\n");
                Act::Say(out)
            });
            house.register("s", "i", &upstream);
            let answer = house.call("s", "/").with_status(status);
            if status == 200 {
                assert_eq!(answer.body.len(), length);
            } else {
                assert_eq!(answer.reason(), "upstream_protocol");
                assert_eq!(upstream.requests(), 1, "a larger answer will not get smaller");
            }
        }
    }
}
