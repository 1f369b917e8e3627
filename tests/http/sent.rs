//! What an instance gets of a call, byte for byte.

use serde_json::{Value, json};

use crate::house::House;
use crate::support::upstream::{Asked, Upstream, ok, status};

/// Calls an upstream once and gives what it got.
fn sent(call: &Value) -> Asked {
    sent_with(call, &[])
}

/// The same, with header fields on the request to `/invoke` itself.
fn sent_with(call: &Value, headers: &[(&str, &str)]) -> Asked {
    let house = House::new();
    let upstream = Upstream::named("x");
    house.register("s", "i", &upstream);
    let mut call = call.clone();
    call["serviceName"] = json!("s");
    call["endpoint"] = call.get("endpoint").cloned().unwrap_or_else(|| json!("/"));
    house.ask("POST", "/invoke", headers, call.to_string().as_bytes()).with_status(200);
    upstream.asked_once()
}

#[test]
fn a_plain_call_carries_the_mesh_fields_and_nothing_invented() {
    let house = House::new();
    let upstream = Upstream::named("x");
    house.register("s", "i", &upstream);
    house.ask("POST", "/invoke", &[("x-request-id", "id-1")], br#"{"serviceName":"s","endpoint":"/a?b=c"}"#).with_status(200);
    let asked = upstream.asked_once();
    assert_eq!((&*asked.method, &*asked.target), ("GET", "/a?b=c"));
    let mut names: Vec<String> = asked.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort();
    assert_eq!(names, ["host", "x-mesh-attempt", "x-mesh-hops", "x-request-id", "x-request-timeout-ms", "x-service-mesh"]);
    assert_eq!(asked.header("host"), Some(&*format!("127.0.0.1:{}", upstream.port())), "the instance's authority");
    assert_eq!(asked.header("x-request-id"), Some("id-1"));
    assert_eq!((asked.header("x-service-mesh"), asked.header("x-mesh-attempt")), (Some("true"), Some("1")));
    assert_eq!(asked.header("x-mesh-hops"), Some("1"));
    let left: u64 = asked.header("x-request-timeout-ms").and_then(|ms| ms.parse().ok()).expect("milliseconds");
    assert!((1..=30_000).contains(&left), "{left}");
}

#[test]
fn the_host_field_is_the_registered_name_even_where_it_is_resolved() {
    let house = House::new();
    let upstream = Upstream::named("x");
    house.post("/register", &json!({"name": "s", "id": "i", "host": "localhost", "port": upstream.port()})).with_status(200);
    house.call("s", "/").with_status(200);
    assert_eq!(upstream.asked_once().header("host"), Some(&*format!("localhost:{}", upstream.port())));
}

#[test]
fn every_method_is_sent_and_accepted_in_any_case() {
    let house = House::new();
    let upstream = Upstream::start(|_| status(200));
    house.register("s", "i", &upstream);
    for method in ["GET", "head", "Post", "put", "PATCH", "delete", "Options"] {
        house.invoke(&json!({"serviceName": "s", "endpoint": "/", "method": method})).with_status(200);
    }
    let methods: Vec<String> = upstream.asked().into_iter().map(|asked| asked.method).collect();
    assert_eq!(methods, ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]);
}

#[test]
fn everything_but_the_attempt_and_what_is_left_is_the_same_on_every_attempt() {
    let house = House::with(json!({"retry": {"baseDelayMs": 1}}));
    let upstream = Upstream::start(|asked| if asked.nth < 4 { status(503) } else { ok("at last") });
    house.register("s", "i", &upstream);
    let call = json!({"serviceName": "s", "endpoint": "/x", "method": "PUT", "body": {"a": 1.50}, "headers": {"X-Colour": "red"}});
    let headers = [("x-request-id", "same"), ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")];
    let answer = house.ask("POST", "/invoke", &headers, call.to_string().as_bytes()).with_status(200);
    assert_eq!((answer.text().as_str(), answer.header("x-mesh-attempts")), ("at last", Some("4")));
    assert_eq!(answer.header("x-request-id"), Some("same"));
    let asked = upstream.asked();
    let attempts: Vec<Option<&str>> = asked.iter().map(|asked| asked.header("x-mesh-attempt")).collect();
    assert_eq!(attempts, [Some("1"), Some("2"), Some("3"), Some("4")]);
    let rest = |asked: &Asked| -> Vec<(String, String)> {
        let varies = ["x-mesh-attempt", "x-request-timeout-ms"];
        asked.headers.iter().filter(|(name, _)| !varies.iter().any(|other| name.eq_ignore_ascii_case(other))).cloned().collect()
    };
    let left = |asked: &Asked| asked.header("x-request-timeout-ms").and_then(|ms| ms.parse::<u64>().ok()).expect("milliseconds");
    for next in &asked[1..] {
        assert_eq!((rest(next), &next.body, &next.target), (rest(&asked[0]), &asked[0].body, &asked[0].target));
        assert!(left(next) <= left(&asked[0]), "what is left only shrinks");
    }
    assert_eq!(asked[0].header("x-request-id"), Some("same"));
}

#[test]
fn trace_context_passes_through_untouched() {
    let fields = [
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        ("baggage", "user=1;p=2, x=%20"),
        ("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1"),
    ];
    let asked = sent_with(&json!({}), &fields);
    for (name, value) in fields {
        assert_eq!(asked.header(name), Some(value), "{name}");
    }
    let own = "00-11111111111111111111111111111111-2222222222222222-00";
    let asked = sent_with(&json!({"headers": {"traceparent": own}}), &fields[..1]);
    assert_eq!(asked.header("traceparent"), Some(own), "what the call itself says wins");
}

#[test]
fn what_the_caller_sends_arrives_but_not_what_belongs_to_one_connection_or_to_the_mesh() {
    let asked = sent(&json!({"method": "POST", "body": "x", "headers": {
        "Accept": "text/html", "Authorization": "Bearer t", "Cookie": "a=b", "X-Empty": "", "X-Tab": "a\tb",
        "Connection": "close, X-Secret-Hop, keep-alive", "X-Secret-Hop": "1", "Keep-Alive": "timeout=5", "Proxy-Authorization": "Basic x",
        "Proxy-Connection": "keep-alive", "TE": "trailers", "Trailer": "X", "Transfer-Encoding": "chunked", "Upgrade": "websocket",
        "Host": "evil.example", "Content-Length": "99", "Expect": "100-continue",
        "X-Request-ID": "forged", "X-Service-Mesh": "false", "x-request-timeout-ms": "1", "X-Mesh-Attempt": "7", "x-mesh-hops": "0",
        "x-weft-identity": "root", "X-Weft-Caller": "admin"
    }}));
    for (name, value) in [("accept", "text/html"), ("authorization", "Bearer t"), ("cookie", "a=b"), ("x-empty", ""), ("x-tab", "a\tb")] {
        assert_eq!(asked.header(name), Some(value), "{name}");
    }
    for name in [
        "connection",
        "x-secret-hop",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
        "x-weft-identity",
        "x-weft-caller",
    ] {
        assert_eq!(asked.header(name), None, "{name}");
    }
    assert!(asked.header("host").is_some_and(|host| host.starts_with("127.0.0.1:")));
    assert_eq!((asked.header("content-length"), &*asked.body), (Some("1"), &b"x"[..]));
    assert_ne!(asked.header("x-request-id"), Some("forged"));
    assert_eq!((asked.header("x-service-mesh"), asked.header("x-mesh-attempt")), (Some("true"), Some("1")));
    assert_eq!(asked.header("x-mesh-hops"), Some("1"));
}

#[test]
fn header_fields_of_the_request_to_invoke_are_not_those_of_the_call() {
    let asked =
        sent_with(&json!({}), &[("authorization", "Bearer for-the-mesh"), ("cookie", "a=b"), ("user-agent", "curl/8"), ("accept", "*/*")]);
    for name in ["authorization", "cookie", "user-agent", "accept", "accept-encoding", "content-type"] {
        assert_eq!(asked.header(name), None, "{name}");
    }
}

#[test]
fn a_body_is_sent_byte_for_byte_and_a_string_as_it_is() {
    for (written, expected) in [
        (
            r#"{"a": 1.50,  "n":123456789012345678901234567890.10, "e":1e999}"#,
            r#"{"a": 1.50,  "n":123456789012345678901234567890.10, "e":1e999}"#,
        ),
        (r#""plain \"text\" \u00e9\n""#, "plain \"text\" \u{e9}\n"),
        ("[1,\t2]", "[1,\t2]"),
        ("0.10", "0.10"),
        ("true", "true"),
        (r#""""#, ""),
    ] {
        let house = House::new();
        let upstream = Upstream::named("x");
        house.register("s", "i", &upstream);
        let call = format!(r#"{{"serviceName":"s","endpoint":"/","method":"POST","body":{written}}}"#);
        house.ask("POST", "/invoke", &[], call.as_bytes()).with_status(200);
        let asked = upstream.asked_once();
        assert_eq!(String::from_utf8_lossy(&asked.body), expected);
        assert_eq!(asked.header("content-length"), Some(&*expected.len().to_string()));
        assert_eq!((asked.header("content-type"), asked.header("transfer-encoding")), (Some("application/json"), None));
    }
}

#[test]
fn a_million_digits_are_not_rewritten() {
    let digits = "7".repeat(1_000_000);
    let house = House::new();
    let upstream = Upstream::named("x");
    house.register("s", "i", &upstream);
    let call = format!(r#"{{"serviceName":"s","endpoint":"/","method":"POST","body":{digits}}}"#);
    house.ask("POST", "/invoke", &[], call.as_bytes()).with_status(200);
    assert!(upstream.asked_once().body == digits.as_bytes());
}

#[test]
fn the_callers_content_type_stands() {
    let asked = sent(&json!({"method": "POST", "body": "<a/>", "headers": {"Content-Type": "text/xml"}}));
    assert_eq!((asked.header("content-type"), &*asked.body), (Some("text/xml"), &b"<a/>"[..]));
}

#[test]
fn without_a_body_a_post_says_length_0_and_a_get_says_nothing() {
    for (method, length) in
        [("POST", Some("0")), ("PUT", Some("0")), ("PATCH", Some("0")), ("GET", None), ("DELETE", None), ("OPTIONS", None)]
    {
        for body in [json!({"method": method}), json!({"method": method, "body": null})] {
            let asked = sent(&body);
            assert_eq!(asked.header("content-length"), length, "{method}");
            assert_eq!((asked.header("transfer-encoding"), asked.header("content-type")), (None, None), "{method}");
        }
    }
}

#[test]
fn every_method_may_have_a_body() {
    for method in ["GET", "DELETE", "OPTIONS", "PUT", "PATCH"] {
        let asked = sent(&json!({"method": method, "body": {"q": 1}}));
        assert_eq!((&*asked.method, &*asked.body), (method, &br#"{"q":1}"#[..]));
        assert_eq!((asked.header("content-length"), asked.header("transfer-encoding")), (Some("7"), None), "{method}");
    }
}

#[test]
fn callers_can_ask_for_less_time_but_never_for_more() {
    let left = |asked: Asked| asked.header("x-request-timeout-ms").and_then(|ms| ms.parse::<u64>().ok()).expect("milliseconds");
    assert!(left(sent(&json!({"timeoutMs": 5_000}))) <= 5_000);
    assert!(left(sent(&json!({"timeoutMs": 99_000_000}))) <= 30_000);
    assert!(left(sent_with(&json!({"timeoutMs": 5_000}), &[("x-request-timeout-ms", "3000")])) <= 3_000);
}
