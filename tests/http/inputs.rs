//! What strangers send: names, ports, methods, JSON of every shape and size. Each gets its clear refusal.

use serde_json::{Value, json};
use weft::Call;

use crate::house::House;
use crate::support::client::Answer;
use crate::support::upstream::{Act, Upstream, answer, ok};

/// A registration with one field changed.
pub(crate) fn register_with(house: &House, field: &str, value: &str) -> Answer {
    let mut fields = vec![("id", r#""i""#), ("name", r#""s""#), ("host", r#""127.0.0.1""#), ("port", "9")];
    fields.retain(|(name, _)| *name != field);
    fields.push((field, value));
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    house.ask("POST", "/register", &[], format!("{{{}}}", fields.join(",")).as_bytes())
}

#[track_caller]
pub(crate) fn assert_bad(answer: Answer, field: &str, what: &str) {
    assert_eq!(answer.status, 400, "{what}: {}", answer.text());
    assert_eq!((answer.reason().as_str(), answer.json()["field"].as_str()), ("bad_request", Some(field)), "{what}");
    assert!(!answer.text().chars().any(|c| c.is_control()), "shown safely: {}", answer.text());
}

#[test]
fn a_port_is_a_whole_number_from_1_to_65535() {
    let house = House::new();
    for port in ["0", "-1", "65536", "99999", "\"80\"", "80.5", "1e3", "null", "1e999", "true", "[80]", &"9".repeat(1000)] {
        assert_bad(register_with(&house, "port", port), "port", port);
    }
    register_with(&house, "port", "65535").with_status(200);
}

#[test]
fn names_and_ids_are_short_and_plain() {
    let house = House::new();
    let long = "x".repeat(64);
    for name in [
        "",
        "a b",
        "a/b",
        "-a",
        ".a",
        "é",
        "a\0",
        "a\n",
        &long,
        "x\"} 1\nup 0",
        "\u{1b}[31mred",
        "\n{\"level\":\"info\"",
        "..",
        "a\u{202e}b",
    ] {
        let written = json!(name).to_string();
        assert_bad(register_with(&house, "name", &written), "name", name);
        assert_bad(register_with(&house, "id", &written), "id", name);
        let call = format!(r#"{{"serviceName":{written},"endpoint":"/"}}"#);
        assert_bad(house.ask("POST", "/invoke", &[], call.as_bytes()), "serviceName", name);
    }
    assert_eq!(house.get("/services").json(), json!([]));
    let metrics = house.metrics();
    assert_eq!((&metrics["totalRequests"], &metrics["unknownServiceRequests"]), (&json!(0), &json!(0)));
}

#[test]
fn only_the_seven_methods_are_methods() {
    let house = House::new();
    let upstream = Upstream::named("x");
    house.register("s", "i", &upstream);
    for method in ["GET\r\nX: y", "TRACE", "CONNECT", "PRI", "", "GET ", "*", &"G".repeat(1024)] {
        assert_bad(house.invoke(&json!({"serviceName": "s", "endpoint": "/", "method": method})), "method", method);
    }
    assert_eq!(upstream.connections(), 0);
    house.invoke(&json!({"serviceName": "s", "endpoint": "/", "method": "get"})).with_status(200);
}

#[test]
fn a_header_cannot_smuggle_another() {
    let house = House::new();
    let upstream = Upstream::named("x");
    house.register("s", "i", &upstream);
    for (name, value) in
        [("X", "a\r\nY: b"), ("X", "a\nY: b"), ("X\r\nY", "a"), ("X: Y", "a"), ("", "a"), ("X Y", "a"), ("X", "a\0"), ("é", "a")]
    {
        let call = json!({"serviceName": "s", "endpoint": "/", "headers": {name: value}});
        assert_bad(house.invoke(&call), "headers", &format!("{name:?}: {value:?}"));
    }
    for headers in [json!([1]), json!("a"), json!({"a": 1}), json!({"a": ["b"]})] {
        assert_bad(house.invoke(&json!({"serviceName": "s", "endpoint": "/", "headers": headers})), "headers", &headers.to_string());
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn whatever_is_not_one_json_object_is_a_bad_request() {
    let house = House::new();
    let upstream = Upstream::named("x");
    house.register("s", "i", &upstream);
    let good = r#"{"serviceName":"s","endpoint":"/"}"#;
    for body in [
        "",
        " ",
        "null",
        "5",
        "\"{}\"",
        r#"["s","/"]"#,
        "{",
        "{}}",
        &format!("{good}{good}"),
        &format!("{good} x"),
        &format!("\u{feff}{good}"),
        r#"{"serviceName":"s","endpoint":"/",}"#,
        r#"{'serviceName':'s'}"#,
        r#"{"serviceName":"s","endpoint":"/","serviceName":"s"}"#,
        r#"{"serviceName":"s","endpoint":"/","x":NaN}"#,
        r#"{"serviceName":"s","endpoint":"/","x":01}"#,
        r#"{"serviceName":"s","endpoint":"/","method":"POST","body":"\ud800"}"#,
        r#"{"serviceName":"\ud800","endpoint":"/"}"#,
        r#"{"serviceName":"s","endpoint":"/","timeoutMs":1e999}"#,
        r#"{"serviceName":"s","endpoint":"/","timeoutMs":-1}"#,
        r#"{"serviceName":"s","endpoint":"/","timeoutMs":1.5}"#,
        r#"{"serviceName":"s","endpoint":"/","timeoutMs":"5"}"#,
        r#"{"serviceName":"s","endpoint":"/","maxRetries":-1}"#,
        r#"{"serviceName":"s","endpoint":"/","idempotent":"yes"}"#,
        r#"{"serviceName":"s","endpoint":"/","hashKey":5}"#,
        "serviceName=s&endpoint=/",
        "<xml/>",
    ] {
        for target in ["/invoke", "/register"] {
            let answer = house.ask("POST", target, &[], body.as_bytes());
            assert_eq!(answer.status, 400, "{target} {body}: {}", answer.text());
            assert_eq!(answer.reason(), "bad_request", "{target} {body}");
        }
    }
    for bytes in [&b"{\"serviceName\":\"\xff\"}"[..], b"\xff\xfe{\0}\0", b"\0"] {
        house.ask("POST", "/invoke", &[], bytes).with_status(400);
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn deep_nesting_is_refused_at_any_depth_and_in_any_place() {
    let house = House::new();
    let upstream = Upstream::named("x");
    house.register("s", "i", &upstream);
    for depth in [129, 1_000, 100_000] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let deep = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            for body in [
                format!(r#"{{"serviceName":"s","endpoint":"/","method":"POST","body":{deep}}}"#),
                format!(r#"{{"serviceName":"s","endpoint":"/","ignored":{deep}}}"#),
                format!(r#"{{"id":"i","name":"s","host":"h","port":1,"metadata":{deep}}}"#),
                deep.clone(),
            ] {
                for target in ["/invoke", "/register"] {
                    let answer = house.ask("POST", target, &[], body.as_bytes());
                    assert_eq!(answer.status, 400, "{target} {depth}: {}", answer.text());
                }
                house.ask("PUT", "/services/s/policy", &[], body.as_bytes()).with_status(400);
            }
        }
    }
    assert_eq!(upstream.connections(), 0);
    let fine = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    let call = format!(r#"{{"serviceName":"s","endpoint":"/","method":"POST","body":{fine}}}"#);
    house.ask("POST", "/invoke", &[], call.as_bytes()).with_status(200);
    assert_eq!(upstream.asked_once().body, fine.as_bytes());
}

#[test]
fn a_body_of_1_mib_is_read_and_one_byte_more_is_too_large_however_it_is_framed() {
    const MOST: usize = 1 << 20;
    let house = House::new();
    let body = |length: usize| {
        let frame = r#"{"serviceName":"s","endpoint":"/","method":"POST","body":""}"#;
        let mut text = frame.trim_end_matches("\"}").to_owned();
        text.push_str(&"x".repeat(length - frame.len()));
        text.push_str("\"}");
        assert_eq!(text.len(), length);
        text.into_bytes()
    };
    let chunked = |body: &[u8]| {
        let mut out = Vec::new();
        for piece in body.chunks(64 * 1024) {
            out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            out.extend_from_slice(piece);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"0\r\n\r\n");
        out
    };
    let upstream = Upstream::named("x");
    house.register("s", "i", &upstream);
    house.ask("POST", "/invoke", &[], &body(MOST)).with_status(200);
    house.ask("POST", "/invoke", &[("transfer-encoding", "chunked")], &chunked(&body(MOST))).with_status(200);
    assert_eq!(upstream.requests(), 2);
    let large = house.ask("POST", "/invoke", &[], &body(MOST + 1)).with_status(413);
    assert_eq!(large.reason(), "payload_too_large");
    let large = house.ask("POST", "/invoke", &[("transfer-encoding", "chunked")], &chunked(&body(MOST + 1))).with_status(413);
    assert_eq!(large.reason(), "payload_too_large");
    assert_eq!(upstream.requests(), 2);
}

#[test]
fn a_packed_body_is_not_unpacked() {
    let house = House::new();
    let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    let answer = house.ask("POST", "/invoke", &[("content-encoding", "gzip")], &gzip).with_status(400);
    assert_eq!(answer.reason(), "bad_request");
}

#[test]
fn the_content_type_of_a_request_does_not_matter() {
    let house = House::new();
    let upstream = Upstream::named("x");
    house.register("s", "i", &upstream);
    for headers in [&[][..], &[("content-type", "text/plain")], &[("content-type", "application/json; charset=utf-8")]] {
        house.ask("POST", "/invoke", headers, br#"{"serviceName":"s","endpoint":"/"}"#).with_status(200);
    }
}

#[test]
fn unknown_services_leave_no_trace_but_a_number() {
    let house = House::new();
    let before = serde_json::to_string(&house.mesh.metrics()).expect("JSON").len();
    let events = house.get("/events").json()["next"].clone();
    for n in 0..100_000 {
        let call = Call::get(&format!("nobody-{n}"), "/").expect("valid");
        assert_eq!(house.mesh.invoke(&call).expect_err("unknown").reason().word(), "unknown_service");
    }
    let mut client = house.client();
    for n in 0..300 {
        let call = json!({"serviceName": format!("none-{n}"), "endpoint": "/"}).to_string();
        let answer = client.ask("POST", "/invoke", &[], call.as_bytes()).expect("answered").with_status(503);
        assert_eq!(answer.reason(), "unknown_service");
    }
    let metrics = house.metrics();
    assert_eq!(metrics["unknownServiceRequests"], 100_300);
    assert_eq!((&metrics["totalRequests"], &metrics["services"]), (&json!(0), &json!({})));
    let after = serde_json::to_string(&house.mesh.metrics()).expect("JSON").len();
    assert!(after <= before + 16, "only numbers have grown: {before} -> {after}");
    assert_eq!(house.get("/events").json()["next"], events);
}

#[test]
fn every_wrong_field_of_a_registration_is_named() {
    let house = House::new();
    for (field, value) in [
        ("weight", "1001"),
        ("weight", "-1"),
        ("weight", "1.5"),
        ("ttlSeconds", "0"),
        ("ttlSeconds", "-5"),
        ("ttlSeconds", "99999999999999999999"),
        ("maxInFlight", "0"),
        ("metadata", "[]"),
        ("metadata", r#"{"a":{}}"#),
        ("metadata", r#"{"a":null}"#),
        ("zone", "\"a b\""),
        ("healthy", "\"yes\""),
        ("scheme", "\"ftp\""),
    ] {
        assert_bad(register_with(&house, field, value), field, &format!("{field}: {value}"));
    }
    for missing in ["id", "name", "host", "port"] {
        let mut body = json!({"id": "i", "name": "s", "host": "127.0.0.1", "port": 9});
        body.as_object_mut().expect("an object").remove(missing);
        assert_bad(house.post("/register", &body), missing, missing);
    }
    let many: Value = (0..65).map(|n| (format!("k{n}"), json!("v"))).collect::<serde_json::Map<_, _>>().into();
    assert_bad(
        house.post("/register", &json!({"id": "i", "name": "s", "host": "h", "port": 1, "metadata": many})),
        "metadata",
        "65 labels",
    );
    assert_eq!(house.get("/services").json(), json!([]));
}

#[test]
fn what_instances_answer_does_not_come_back_as_fields_of_the_mesh() {
    let house = House::new();
    let upstream =
        Upstream::start(|asked| if asked.target == "/x" { Act::Say(answer(404, &[("x-mesh-reason", "bad_request")], "")) } else { ok("") });
    house.register("s", "i", &upstream);
    let answer = house.call("s", "/x").with_status(404);
    assert_eq!(answer.header("x-mesh-reason"), None, "a 404 of the instance is not one of the mesh");
}
