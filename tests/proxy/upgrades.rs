//! WebSockets: a handshake that passes through, and then bytes in both directions, unread; and every other wish to switch.

use weft::Mesh;
use weft::model::settings::Millis;
use weft::server::Config;

use crate::house::House;
use crate::support::eventually;
use crate::support::upstream::answer;
use crate::wire::{Ended, Stage, Wire, head};

const ASKED: [&str; 5] = [
    "Connection: keep-alive, Upgrade",
    "Upgrade: WebSocket",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Protocol: chat, superchat",
];
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n";

/// A client that asks for a WebSocket, and the instance that has read its request.
fn asking(house: &House) -> (Wire, Wire) {
    let stage = Stage::of(house);
    let mut client = Wire::to(house);
    client.send(head("GET /proxy/s/chat?room=1", &ASKED));
    let mut instance = stage.accept();
    let asked = instance.head();
    assert_eq!(asked.first, "GET /chat?room=1 HTTP/1.1");
    assert_eq!((asked.one("connection"), asked.one("upgrade")), (Some("upgrade"), Some("websocket")));
    assert_eq!(asked.one("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    assert_eq!(asked.one("sec-websocket-protocol"), Some("chat, superchat"));
    (client, instance)
}

/// Both ends of a tunnel.
fn tunnel(house: &House) -> (Wire, Wire) {
    let (mut client, mut instance) = asking(house);
    instance.send(SWITCHED);
    let switched = client.head();
    assert_eq!(switched.first, "HTTP/1.1 101 Switching Protocols");
    assert_eq!((switched.one("connection"), switched.one("upgrade")), (Some("upgrade"), Some("websocket")));
    assert_eq!(switched.one("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(switched.one("sec-websocket-protocol"), Some("chat"));
    assert!(switched.one("x-request-id").is_some());
    assert_eq!((switched.one("x-mesh-instance"), switched.one("via")), (Some("i"), Some("1.1 weft")));
    (client, instance)
}

#[test]
fn frames_pass_in_both_directions_as_they_are() {
    let house = House::new();
    let (mut client, mut instance) = tunnel(&house);
    for n in 0..10_u8 {
        let frame = [0x81, 0x83, n, 0, 255, 1, b'\r', b'\n', 0];
        client.send(frame);
        assert_eq!(instance.take(frame.len()), frame);
        instance.send([0x82, 2, n, 0]);
        assert_eq!(client.take(4), [0x82, 2, n, 0]);
    }
}

#[test]
fn frames_that_come_with_the_switch_or_with_the_request_are_not_lost() {
    let house = House::new();
    let stage = Stage::of(&house);
    let mut client = Wire::to(&house);
    client.send(head("GET /proxy/s/chat", &ASKED) + "eager");
    let mut instance = stage.accept();
    instance.head();
    assert!(instance.is_silent(), "nothing before the switch");
    instance.send([SWITCHED, "hello"].concat());
    client.head();
    client.expect("hello");
    instance.expect("eager");
}

#[test]
fn a_great_deal_passes_in_both_directions_at_once() {
    let house = House::new();
    let (mut client, mut instance) = tunnel(&house);
    let bytes: Vec<u8> = (0..8_u32 << 20).map(|n| n.to_le_bytes()[1] ^ n.to_le_bytes()[0]).collect();
    let echoed = std::thread::scope(|scope| {
        let echo = scope.spawn(|| {
            for _ in 0..8 {
                let piece = instance.take(1 << 20);
                instance.send(piece);
            }
        });
        let mut echoed = Vec::new();
        for piece in bytes.chunks(1 << 20) {
            client.send(piece);
            echoed.extend(client.take(1 << 20));
        }
        echo.join().expect("echoed");
        echoed
    });
    assert!(echoed == bytes);
}

#[test]
fn the_end_of_either_side_is_passed_on_after_all_that_was_said() {
    let house = House::new();
    let (mut client, mut instance) = tunnel(&house);
    client.send("last words");
    client.finish();
    instance.expect("last words");
    assert_eq!(instance.end(), (Ended::Closed, 0));
    // The other direction goes on.
    instance.send("and a reply");
    client.expect("and a reply");
    drop(instance);
    assert_eq!(client.end(), (Ended::Closed, 0));

    let house = House::new();
    let (mut client, mut instance) = tunnel(&house);
    instance.send(vec![b'x'; 1 << 20]);
    drop(instance);
    assert_eq!(client.end(), (Ended::Closed, 1 << 20));
}

#[test]
fn a_side_that_goes_away_takes_the_other_with_it() {
    for client_goes in [true, false] {
        let house = House::new();
        let (client, instance) = tunnel(&house);
        let (gone, mut left) = if client_goes { (client, instance) } else { (instance, client) };
        gone.reset();
        left.end();
        eventually("nothing is left of it", || (house.metrics()["services"]["s"]["inFlight"] == 0).then_some(()));
    }
}

#[test]
fn a_silent_tunnel_ends_and_gives_its_place_back_and_one_that_speaks_goes_on() {
    let house = House::of(Mesh::builder(), Config { tunnel_idle_timeout_ms: Millis(1_000), ..Config::default() });
    let (mut speaks, mut instance) = tunnel(&house);
    let (mut silent, mut other) = tunnel(&house);
    eventually("the silent one has ended", || {
        speaks.send("ping");
        instance.expect("ping");
        (house.metrics()["doors"]["tunnelTimeouts"] == 1).then_some(())
    });
    assert_eq!((silent.end(), other.end()), ((Ended::Closed, 0), (Ended::Closed, 0)));
    instance.send("pong");
    speaks.expect("pong");
    assert_eq!(house.metrics()["services"]["s"]["inFlight"], 1);
}

#[test]
fn a_refused_switch_is_passed_on_and_the_connection_goes_on() {
    for status in [200, 403, 426] {
        let house = House::new();
        let (mut client, mut instance) = asking(&house);
        instance.send(answer(status, &[("Upgrade", "websocket"), ("Connection", "upgrade")], "no"));
        let refused = client.answer().with_status(status);
        assert_eq!((refused.text().as_str(), refused.header("x-mesh-instance")), ("no", Some("i")));
        client.send(head("GET /health", &[]));
        client.answer().with_status(200);
    }
}

#[test]
fn an_instance_that_fails_the_handshake_is_tried_again_like_any_other() {
    let house = House::new();
    let (mut client, instance) = asking(&house);
    let stage = Stage::new();
    house.register_at("s", "other", stage.port());
    instance.reset();
    let mut instance = stage.accept();
    assert_eq!(instance.head().one("upgrade"), Some("websocket"));
    instance.send(SWITCHED);
    assert_eq!(client.head().status(), 101);
}

#[test]
fn any_other_switch_is_refused_before_anybody_is_asked() {
    let house = House::new();
    let stage = Stage::of(&house);
    for (method, protocol) in [("GET", "h2c"), ("GET", "websocket, h2c"), ("GET", "TLS/1.0"), ("POST", "websocket")] {
        let mut client = Wire::to(&house);
        client.send(head(&format!("{method} /proxy/s/"), &["Connection: upgrade", &format!("Upgrade: {protocol}")]));
        let answer = client.answer().with_status(501);
        assert_eq!(answer.reason(), "not_implemented", "{protocol}");
    }
    assert!(stage.try_accept().is_none());
}

#[test]
fn upgrade_without_connection_is_no_wish_to_switch() {
    let house = House::new();
    let stage = Stage::of(&house);
    let mut client = Wire::to(&house);
    client.send(head("GET /proxy/s/", &["Upgrade: h2c"]));
    let mut instance = stage.accept();
    assert_eq!(instance.head().one("upgrade"), None);
    instance.send(answer(200, &[], "x"));
    client.answer().with_status(200);
}

#[test]
fn a_switch_nobody_asked_for_is_a_bad_gateway() {
    let house = House::new();
    let stage = Stage::of(&house);
    let mut client = Wire::to(&house);
    client.send(head("POST /proxy/s/", &["Content-Length: 0"]));
    let mut instance = stage.accept();
    instance.head();
    instance.send([SWITCHED, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"].concat());
    assert_eq!(client.answer().with_status(502).reason(), "upstream_protocol");
    instance.end();
}

#[test]
fn a_page_of_another_origin_gets_no_websocket() {
    let house = House::new();
    let stage = Stage::of(&house);
    for target in ["/proxy/s/chat", "/v1.0/invoke/s/method/chat"] {
        for origin in ["http://evil.example", "http://localhost:9", "null"] {
            let mut client = Wire::to(&house);
            let origin = format!("Origin: {origin}");
            client.send(head(&format!("GET {target}"), &[&ASKED[..], &[origin.as_str()]].concat()));
            assert_eq!(client.answer().with_status(403).reason(), "forbidden", "{target} {origin}");
        }
    }
    assert!(stage.try_accept().is_none(), "nobody was asked");
    let mut client = Wire::to(&house);
    let ours = if crate::SECURED { "https://localhost" } else { "http://localhost" };
    client.send(head("GET /proxy/s/chat", &[&ASKED[..], &[format!("Origin: {ours}").as_str()]].concat()));
    let mut instance = stage.accept();
    assert_eq!(instance.head().one("origin"), Some(ours), "a page of our own origin");
    instance.send(SWITCHED);
    assert_eq!(client.head().status(), 101);
}
