//! Clients that mean no good, before and after a handshake: each has its end, is counted, and leaves the next client alone.

use std::io::{Read, Write};
use std::time::Duration;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use serde_json::json;
use weft::model::settings::Millis;
use weft::server::Config;

use crate::house::House;
use crate::support::eventually;
use crate::support::papers::Papers;
use crate::talk::{Secured, ask, talk};

fn is_served(secured: &Secured) {
    ask(secured.at, &secured.papers.client(None), "/health").expect("the next one is served").with_status(200);
}

/// The first bytes of an honest client.
fn hello(secured: &Secured) -> Vec<u8> {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut session = ClientConnection::new(secured.papers.client(None), name).expect("a session");
    let mut hello = Vec::new();
    session.write_tls(&mut hello).expect("a hello");
    hello
}

/// Whatever comes until the end, which may be a reset.
fn until_the_end(mut stream: impl Read) -> Vec<u8> {
    let (mut all, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return all,
            Ok(read) => all.extend(&piece[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return all,
            Err(error) => panic!("no end: {error}"),
        }
    }
}

#[test]
fn what_is_no_handshake_is_refused_by_an_alert() {
    let secured = Secured::new();
    let broken_hello = {
        let mut hello = hello(&secured);
        hello[43..].fill(0xff);
        hello
    };
    let rows: [(&str, Vec<u8>); 7] = [
        ("noise", (0..4096_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3] | 0x80).collect()),
        ("a record of no kind", vec![9, 3, 3, 0, 5, 1, 2, 3, 4, 5]),
        ("data before a handshake", vec![23, 3, 3, 0, 5, 1, 2, 3, 4, 5]),
        ("a record longer than any", [&[22, 3, 3, 0xff, 0xff][..], &[1; 70_000]].concat()),
        ("a hello longer than any", [&[22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff][..], &[3; 70_000]].concat()),
        ("an empty hello", vec![22, 3, 1, 0, 4, 1, 0, 0, 0]),
        ("a hello of nonsense", broken_hello),
    ];
    let count = rows.len() as u64;
    for (what, bytes) in rows {
        let mut stream = secured.raw();
        // It may be cut off in the middle.
        let _ = stream.write_all(&bytes);
        let said = until_the_end(&stream);
        assert!(said.is_empty() || said[0] == 21, "{what}: an alert or nothing, not {said:?}");
        is_served(&secured);
    }
    assert_eq!(secured.counted("failedHandshakes"), count);
}

#[test]
fn a_handshake_byte_by_byte_is_a_handshake() {
    let secured = Secured::new();
    let name = ServerName::try_from("localhost").expect("a name");
    let mut session = ClientConnection::new(secured.papers.client(None), name).expect("a session");
    let mut stream = secured.raw();
    stream.set_nodelay(true).expect("no delay");
    session.writer().write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("room");
    let mut answer = Vec::new();
    loop {
        let mut bytes = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut bytes).expect("bytes");
        }
        for byte in bytes {
            stream.write_all(&[byte]).expect("taken");
        }
        if session.read_tls(&mut stream).expect("read") == 0 {
            break;
        }
        let state = session.process_new_packets().expect("TLS");
        let so_far = answer.len();
        answer.resize(so_far + state.plaintext_bytes_to_read(), 0);
        session.reader().read_exact(&mut answer[so_far..]).expect("read");
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
}

#[test]
fn a_handshake_that_stalls_ends_with_the_time_of_a_head() {
    let config = Config { head_timeout_ms: Millis(100), ..Config::default() };
    let secured = Secured::with(Papers::new(), config);
    let hello = hello(&secured);
    for (n, sends) in [&[][..], &hello[..1], &hello[..hello.len() - 1], &hello[..]].into_iter().enumerate() {
        let mut stream = secured.raw();
        stream.write_all(sends).expect("taken");
        until_the_end(&stream);
        assert_eq!(secured.counted("handshakeTimeouts"), n as u64 + 1);
    }
    // Trickling does not help.
    let mut stream = secured.raw();
    stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a time limit");
    for byte in hello.iter().cycle().take(100_000) {
        if stream.write_all(&[*byte]).is_err() || matches!(stream.read(&mut [0]), Ok(0)) {
            break;
        }
    }
    eventually("the trickle has been cut", || (secured.counted("handshakeTimeouts") == 5).then_some(()));
}

#[test]
fn a_secured_client_has_the_time_of_a_head_as_any_other() {
    let config = Config { head_timeout_ms: Millis(100), ..Config::default() };
    let secured = Secured::with(Papers::new(), config);
    let mut talk = talk(secured.at, &secured.papers.client(None)).expect("a handshake");
    talk.write_all(b"GET /health HTT").expect("sent");
    let mut said = String::new();
    talk.read_to_string(&mut said).expect("an announced end");
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
}

#[test]
fn a_record_that_is_forged_ends_the_connection_and_nothing_of_it_is_believed() {
    let secured = Secured::new();
    let mut talk = talk(secured.at, &secured.papers.client(None)).expect("a handshake");
    talk.sock.write_all(&[&[23, 3, 3, 0, 40][..], &[7; 40]].concat()).expect("sent");
    let said = until_the_end(&mut talk.sock);
    // The tickets of the handshake, and an alert.
    assert!(!said.windows(4).any(|bytes| bytes == b"HTTP"), "no answer");
    is_served(&secured);
}

#[test]
fn renegotiation_is_refused() {
    use std::process::{Command, Stdio};
    let secured = Secured::new();
    let at = secured.at.to_string();
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-tls1_2", "-connect", &at, "-CAfile", &secured.papers.ca]);
    let mut openssl = openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("openssl");
    // To openssl, a line with an R is the wish to renegotiate.
    let mut stdin = openssl.stdin.take().expect("piped");
    eventually("the handshake is done", || (secured.counted("handshakes") > 0).then_some(()));
    stdin.write_all(b"R\n").expect("sent");
    let output = openssl.wait_with_output().expect("an end");
    drop(stdin);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("renegotiation"), "{said}");
    is_served(&secured);
}

#[test]
fn a_client_that_never_reads_is_held_up_and_cut_off() {
    let config = Config { write_timeout_ms: Millis(200), ..Config::default() };
    let secured = Secured::with(Papers::new(), config);
    let mut talk = talk(secured.at, &secured.papers.client(None)).expect("a handshake");
    let flood = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
    let mut sent = 0;
    while talk.write_all(&flood).is_ok() {
        sent += flood.len();
        assert!(sent < 1 << 28, "nobody holds it up");
    }
    assert_eq!(secured.counted("writeTimeouts"), 1);
    eventually("nothing is held for it", || (secured.counted("bufferedBytes") < 1 << 16).then_some(()));
}

#[test]
fn who_is_one_too_many_is_told_so_in_the_language_of_the_door() {
    let config = Config { max_connections: 2, ..Config::default() };
    let secured = Secured::with(Papers::new(), config);
    let held: Vec<_> = (0..2).map(|_| talk(secured.at, &secured.papers.client(None)).expect("a handshake")).collect();
    let refused = talk(secured.at, &secured.papers.client(None)).expect_err("one too many");
    assert!(refused.to_string().contains("InternalError"), "{refused}");
    drop(held);
    eventually("there is room again", || ask(secured.at, &secured.papers.client(None), "/health").ok());
    eventually("only who asks is counted", || (secured.counted("openConnections") == 1).then_some(()));
}

#[test]
fn what_long_handshakes_hold_in_memory_has_the_same_bound_as_everything_else() {
    let config = Config { max_buffered_bytes: 1 << 20, ..Config::default() };
    let secured = Secured::with(Papers::new(), config);
    // A hello of 65 535 bytes, in records of 16 KiB, of which the last byte does not come.
    let mut hello = vec![1, 0, 0xff, 0xfb];
    hello.resize(0xffff, 3);
    let mut bytes = Vec::new();
    for piece in hello.chunks(1 << 14) {
        bytes.extend([22, 3, 3]);
        bytes.extend(u16::try_from(piece.len()).expect("a record").to_be_bytes());
        bytes.extend(piece);
    }
    bytes.truncate(60_000);
    let mut held: Vec<_> = (0..40).map(|_| secured.raw()).collect();
    for stream in &mut held {
        // It may be cut off in the middle.
        let _ = stream.write_all(&bytes);
    }
    eventually("some of them are refused", || (secured.counted("refusedBuffers") >= 20).then_some(()));
    assert!(secured.counted("bufferedBytes") <= (1 << 20) + (1 << 16));
    is_served(&secured);
    drop(held);
    eventually("nothing is held for them", || (secured.counted("bufferedBytes") < 1 << 16).then_some(()));
}

#[test]
fn a_page_that_came_in_the_clear_changes_nothing_behind_tls() {
    let house = House::new();
    let registration = json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": 9}).to_string();
    let asked =
        [("POST", "/register", &*registration), ("POST", "/invoke", "{}"), ("POST", "/proxy/s/", ""), ("DELETE", "/services/s/i", "")];
    for (method, target, body) in asked {
        let status = |origin| house.ask(method, target, &[("host", "localhost"), ("origin", origin)], body.as_bytes()).status;
        assert_eq!(status("http://localhost"), 403, "{target}");
        assert_ne!(status("https://localhost"), 403, "{target}");
    }
}
