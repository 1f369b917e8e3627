//! What a caller gets of an answer that is passed on: however it is framed, by whichever version of HTTP it was asked for.

use serde_json::json;

use crate::house::House;
use crate::support::upstream::{Act, End, Upstream, answer};
use crate::ways::Way;
use crate::wire::{Head, Whole, Wire, head};

/// Asks for the answer that these bytes are, which are followed by the end of the connection, by that version of HTTP.
#[track_caller]
fn passed_on(method: &str, version: &str, bytes: impl AsRef<[u8]>) -> (Whole, Wire, House) {
    let bytes = bytes.as_ref().to_vec();
    let house = House::new();
    let upstream = Upstream::start(move |_| Act::SayAnd(bytes.clone(), End::Close));
    house.register("s", "i", &upstream);
    let mut client = Wire::to(&house);
    client.send(format!("{method} /proxy/s/ {version}\r\nHost: localhost\r\n\r\n"));
    let whole = client.try_answer(method == "HEAD").expect("an answer");
    if whole.head.one("connection") == Some("close") {
        assert_eq!(client.end().1, 0, "nothing after the answer");
    }
    (whole, client, house)
}

const CHUNKS: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                      5;q=1\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 7\r\nx-sum: 8\r\n\r\n";
const UNTIL_CLOSE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhello world";
const LENGTH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world";
const OF_1_0: &str = "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nhello world";

#[test]
fn every_framing_arrives_whole() {
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        for bytes in [CHUNKS, UNTIL_CLOSE, LENGTH, OF_1_0] {
            let (whole, ..) = passed_on("GET", version, bytes);
            assert_eq!((whole.status(), whole.text().as_str()), (200, "hello world"), "{version}: {bytes}");
            assert!(whole.head.first.starts_with("HTTP/1.1 200 "), "{}", whole.head.first);
        }
    }
}

#[test]
fn chunks_and_trailers_pass_to_whoever_knows_them_and_the_others_get_the_bare_bytes() {
    let (whole, ..) = passed_on("GET", "HTTP/1.1", CHUNKS);
    assert_eq!(whole.header("transfer-encoding"), Some("chunked"));
    assert_eq!(whole.trailers, [("X-Sum".to_owned(), "7".to_owned()), ("x-sum".to_owned(), "8".to_owned())]);
    assert_eq!(whole.header("connection"), None, "the connection can be used again");
    let (whole, ..) = passed_on("GET", "HTTP/1.0", CHUNKS);
    assert_eq!((whole.header("transfer-encoding"), whole.header("content-length")), (None, None));
    assert_eq!(whole.header("connection"), Some("close"));
}

#[test]
fn a_length_stays_one_and_what_ends_with_the_connection_ends_with_the_connection() {
    let (whole, mut client, _house) = passed_on("GET", "HTTP/1.1", LENGTH);
    assert_eq!((whole.header("content-length"), whole.header("connection")), (Some("11"), None));
    client.send(head("GET /health", &[]));
    client.answer().with_status(200);
    let (whole, ..) = passed_on("GET", "HTTP/1.1", UNTIL_CLOSE);
    assert_eq!((whole.header("content-length"), whole.header("transfer-encoding")), (None, None));
    assert_eq!(whole.header("connection"), Some("close"));
}

#[test]
fn an_old_client_that_wants_to_stay_may_where_the_end_can_be_told() {
    let house = House::new();
    let upstream = Upstream::named("x");
    house.register("s", "i", &upstream);
    let mut client = Wire::to(&house);
    for _ in 0..3 {
        client.send("GET /proxy/s/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let whole = client.answer().with_status(200);
        assert_eq!((whole.text().as_str(), whole.header("connection")), ("x", Some("keep-alive")));
    }
    client.send("GET /proxy/s/ HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().with_status(200).header("connection"), Some("close"));
    client.end();
}

#[test]
fn answers_without_a_body_have_none_and_say_what_they_said() {
    let cases = [
        ("GET", "HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n", 204, None),
        ("DELETE", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", 204, None),
        ("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 1234\r\n\r\n", 304, Some("1234")),
        ("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n", 304, None),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", 200, Some("1234")),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, None),
        ("HEAD", "HTTP/1.1 404 Not Found\r\n\r\n", 404, None),
    ];
    for (method, bytes, status, length) in cases {
        for version in ["HTTP/1.1", "HTTP/1.0"] {
            let (whole, mut client, _house) = passed_on(method, version, bytes);
            assert_eq!((whole.status(), whole.header("content-length")), (status, length), "{bytes}");
            if version == "HTTP/1.1" {
                client.send(head("GET /health", &[]));
                assert_eq!(client.answer().status(), 200, "the connection goes on after {bytes}");
            }
        }
    }
}

#[test]
fn status_phrase_and_fields_keep_their_order_their_case_and_their_duplicates() {
    let bytes = "HTTP/1.1 418 I'm a teapot, really\r\nX-One: 1\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\nX-ONE: 2\r\nServer: pot\r\n\
                 WWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n";
    let (whole, ..) = passed_on("GET", "HTTP/1.1", bytes);
    assert_eq!(whole.head.first, "HTTP/1.1 418 I'm a teapot, really");
    let sent: Vec<(&str, &str)> = vec![
        ("X-One", "1"),
        ("Set-Cookie", "a=b"),
        ("set-cookie", "c=d"),
        ("X-ONE", "2"),
        ("Server", "pot"),
        ("WWW-Authenticate", "Basic"),
    ];
    let came: Vec<(&str, &str)> = whole.head.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(came[..sent.len()], sent);
}

#[test]
fn fields_of_one_connection_end_here_and_only_the_mesh_speaks_for_the_mesh() {
    let bytes = "HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n\
                 Upgrade: h2c\r\nX-Mesh-Instance: forged\r\nx-mesh-reason: forged\r\nX-Weft-Caller: forged\r\nX-Request-Id: forged\r\n\
                 Via: 1.0 before\r\nX-Stays: yes\r\nContent-Length: 0\r\n\r\n";
    let (whole, ..) = passed_on("GET", "HTTP/1.1", bytes);
    assert!(!format!("{:?}", whole.head).contains("forged"), "{:?}", whole.head);
    for gone in ["connection", "x-hop", "keep-alive", "proxy-authenticate", "upgrade", "x-mesh-reason"] {
        assert_eq!(whole.head.all(gone), [""; 0], "{gone}");
    }
    assert_eq!((whole.header("x-stays"), whole.header("via")), (Some("yes"), Some("1.0 before, 1.1 weft")));
    assert_eq!((whole.header("x-mesh-instance"), whole.header("x-mesh-attempts")), (Some("i"), Some("1")));
    let took: u64 = whole.header("x-mesh-upstream-ms").and_then(|ms| ms.parse().ok()).expect("a time");
    assert!(took < 20_000);
}

/// The statuses of all answers up to the last one, and that one.
#[track_caller]
fn with_interim(client: &mut Wire) -> (Vec<Head>, Whole) {
    let mut interim = Vec::new();
    loop {
        let whole = client.answer();
        if whole.status() >= 200 {
            return (interim, whole);
        }
        interim.push(whole.head);
    }
}

/// Asks for an answer with answers before it.
fn asked_for(version: &str, bytes: Vec<u8>) -> (Vec<Head>, Whole) {
    let house = House::new();
    let upstream = Upstream::start(move |_| Act::Say(bytes.clone()));
    house.register("s", "i", &upstream);
    let mut client = Wire::to(&house);
    client.send(format!("GET /proxy/s/ {version}\r\nHost: localhost\r\n\r\n"));
    with_interim(&mut client)
}

#[test]
fn early_hints_pass_to_whoever_knows_them_and_a_100_nobody_asked_for_does_not() {
    let hints = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX-Mesh-Instance: forged\r\n\r\n";
    let bytes = [&hints[..], &answer(200, &[], "after all")].concat();
    let (interim, whole) = asked_for("HTTP/1.1", bytes.clone());
    assert_eq!(interim.len(), 1);
    assert_eq!((interim[0].status(), interim[0].one("link"), interim[0].one("x-mesh-instance")), (103, Some("</a>"), None));
    assert_eq!(whole.with_status(200).text(), "after all");
    let (interim, whole) = asked_for("HTTP/1.0", bytes);
    assert_eq!((interim, whole.with_status(200).text().as_str()), (Vec::new(), "after all"));
}

#[test]
fn a_thousand_early_hints_do_no_harm() {
    let bytes = [b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(1000), answer(200, &[], "after all")].concat();
    let (interim, whole) = asked_for("HTTP/1.1", bytes);
    assert_eq!(whole.with_status(200).text(), "after all");
    assert!((1..=1000).contains(&interim.len()), "{}", interim.len());
}

#[test]
fn whatever_a_browser_may_make_a_page_of_is_kept_out_of_the_origin_of_the_api() {
    let upstream = Upstream::start(|asked| {
        let kinds = asked.target.trim_start_matches('/').split('&').filter(|kind| !kind.is_empty());
        let fields: Vec<_> = kinds.map(|kind| ("Content-Type", kind.replace('_', " "))).collect();
        let fields: Vec<_> = fields.iter().map(|(name, kind)| (*name, kind.as_str())).collect();
        Act::Say(answer(200, &fields, "<p>"))
    });
    let house = House::new();
    house.register("s", "i", &upstream);
    let policy = |kinds: &str| house.get(&format!("/proxy/s/{kinds}")).with_status(200).all("content-security-policy").join(" ");
    for pages in [
        "Text/HTML;_charset=utf-8",
        "image/svg+xml",
        "application/xhtml+xml",
        "text/xml",
        "",
        "unknown/unknown",
        "application/json&text/html",
        "application/json,text/html",
        "application/json;a=b,text/html",
        "application/jsonp",
    ] {
        assert_eq!(policy(pages), "sandbox", "{pages}");
    }
    for data in ["application/json", "Application/JSON;_charset=utf-8"] {
        assert_eq!(policy(data), "", "{data}");
    }
}

#[test]
fn a_fallback_that_is_a_page_is_kept_out_of_the_origin_of_the_api_as_well() {
    let house = House::new();
    let upstream = Upstream::start(|_| Act::Say(answer(500, &[], "")));
    house.register("s", "i", &upstream);
    for (kind, policy) in [("text/html", Some("sandbox")), ("application/json", None)] {
        let fallback = json!({"headers": {"Content-Type": kind}, "body": "<script>"});
        house.policy("s", &json!({"routes": [{"retry": {"maxRetries": 0}, "fallback": fallback}]}));
        assert_eq!(house.get("/proxy/s/").with_status(200).header("content-security-policy"), policy, "{kind}");
    }
}

#[test]
fn answers_on_one_connection_come_in_the_order_of_the_requests() {
    let house = House::new();
    let upstream = Upstream::start(|asked| match &*asked.target {
        "/chunks" => Act::Say(CHUNKS.into()),
        target => Act::Say(answer(200, &[], target)),
    });
    house.register("s", "i", &upstream);
    let mut client = Wire::to(&house);
    let requests: Vec<String> =
        ["/a", "/chunks", "/b", "/chunks", "/c"].iter().map(|path| head(&format!("GET /proxy/s{path}"), &[])).collect();
    client.send(requests.concat());
    for text in ["/a", "hello world", "/b", "hello world", "/c"] {
        assert_eq!(client.answer().with_status(200).text(), text);
    }
    assert_eq!(upstream.connections(), 1, "the connection to the instance is used again");
}

#[test]
fn a_head_may_be_16_kib_long_and_have_100_fields_and_no_more() {
    for way in Way::ALL {
        let house = way.house(json!({"retry": {"maxRetries": 0}}));
        let with_fields = |more: usize, length: usize| {
            let fields: String = (0..more).map(|n| format!("x-{n}: y\r\n")).collect();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{fields}x-long: \r\n\r\n");
            let long = "z".repeat(length.saturating_sub(head.len()));
            format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{fields}x-long: {long}\r\n\r\nok")
        };
        for (n, (more, length, passes)) in
            [(0, 16_384 - 100, true), (98, 0, true), (98, 16_384 - 100, true), (0, 16_384 + 100, false), (99, 0, false), (120, 0, false)]
                .into_iter()
                .enumerate()
        {
            let bytes = with_fields(more, length);
            let upstream = Upstream::start(move |_| Act::SayAnd(bytes.clone().into(), End::Close));
            let service = format!("s{n}");
            house.register(&service, "i", &upstream);
            if passes {
                let whole = way.call(&house, "GET", &service, "/").with_status(200);
                assert_eq!((whole.text().as_str(), whole.header("x-mesh-instance")), ("ok", Some("i")), "{way:?}");
                assert!(whole.header("x-long").is_some());
            } else {
                way.fails(&house, "GET", &service, "upstream_protocol");
            }
        }
    }
}
