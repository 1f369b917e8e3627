//! How clients are secured: versions, keys, sessions, names, and what they are shown.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::{ClientConfig, HandshakeKind};
use weft::server::Config;

use crate::support::client::Client;
use crate::support::papers::Papers;
use crate::talk::{Secured, ask, ask_and_tell, raw, talk};

/// A client of one version only, which offers these protocols.
fn client(papers: &Papers, version: &'static rustls::SupportedProtocolVersion, protocols: &[&str]) -> Arc<ClientConfig> {
    let usual = papers.client(None);
    let builder = ClientConfig::builder_with_provider(Arc::clone(usual.crypto_provider())).with_protocol_versions(&[version]);
    let mut made = builder.expect("a version").with_root_certificates(papers.roots()).with_no_client_auth();
    made.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(made)
}

#[test]
fn both_versions_and_both_kinds_of_keys_are_spoken() {
    let papers = Papers::new();
    for pair in [papers.issue("elliptic", "DNS:localhost"), papers.issue_rsa("rsa", "DNS:localhost")] {
        let config = Config { tls_cert: pair.cert, tls_key: pair.key, ..Config::default() };
        let secured = Secured::with(Papers::new(), config);
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let client = client(&papers, version, &["h2", "http/1.1"]);
            let talk = talk(secured.at, &client).expect("a handshake");
            assert_eq!(talk.conn.protocol_version(), Some(version.version));
            assert_eq!(talk.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
            ask(secured.at, &client, "/health").expect("answered").with_status(200);
        }
    }
}

#[test]
fn a_client_that_speaks_only_another_protocol_is_told_so_in_the_handshake() {
    let secured = Secured::new();
    let only_h2 = client(&secured.papers, &rustls::version::TLS13, &["h2"]);
    let refused = talk(secured.at, &only_h2).expect_err("no protocol in common");
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    assert_eq!(secured.counted("failedHandshakes"), 1);
}

#[test]
fn a_session_is_resumed_in_both_versions() {
    let secured = Secured::new();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = client(&secured.papers, version, &[]);
        assert_eq!(ask_and_tell(secured.at, &client).expect("answered"), HandshakeKind::Full, "{version:?}");
        assert_eq!(ask_and_tell(secured.at, &client).expect("answered"), HandshakeKind::Resumed, "{version:?}");
    }
}

#[test]
fn a_connection_is_kept_and_requests_in_a_row_are_answered_in_a_row() {
    let secured = Secured::new();
    let mut client = Client::of(talk(secured.at, &secured.papers.client(None)).expect("a handshake"));
    for _ in 0..3 {
        client.ask("GET", "/health", &[], b"").expect("answered").with_status(200);
        client.ask("GET", "/metrics", &[], b"").expect("answered").with_status(200);
    }
    client.send(&b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1000)).expect("sent");
    for _ in 0..1000 {
        client.receive(false).expect("answered").with_status(200);
    }
    assert_eq!(secured.counted("handshakes"), 2, "this one is the second");
}

#[test]
fn http_in_the_clear_is_answered_in_the_clear_with_what_is_wrong() {
    let secured = Secured::new();
    let mut client = Client::of(secured.raw());
    let answer = client.ask("GET", "/health", &[], b"").expect("answered").with_status(400);
    assert_eq!((answer.reason().as_str(), answer.header("connection")), ("bad_request", Some("close")));
    assert!(answer.text().contains("this port speaks TLS; use https://"), "{}", answer.text());
    assert!(client.is_at_end());
}

#[test]
fn the_end_is_announced_whoever_ends_it() {
    let secured = Secured::new();
    for announced in [true, false] {
        let mut talk = talk(secured.at, &secured.papers.client(None)).expect("a handshake");
        talk.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
        if announced {
            talk.conn.send_close_notify();
            talk.flush().expect("sent");
        }
        talk.sock.shutdown(std::net::Shutdown::Write).expect("half closed");
        let mut answer = String::new();
        talk.read_to_string(&mut answer).unwrap_or_else(|error| panic!("an end announced ({announced} by us too): {error}"));
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
}

#[test]
fn a_unix_socket_stays_plain_beside_it() {
    use weft::{Mesh, Server};
    let papers = Papers::new();
    let path = papers.path("socket");
    let config = Config { listen: format!("unix:{path}"), ..papers.secured("door", &Config::default()) };
    let mesh = Mesh::builder().build().expect("a mesh");
    let _server = Server::start(&mesh, &config, serde_json::json!({})).expect("a server");
    let mut client = Client::connect_unix(path.as_ref()).expect("a connection");
    client.ask("GET", "/health", &[], b"").expect("answered").with_status(200);
}

#[test]
fn curl_and_openssl_agree_with_it() {
    let secured = Secured::new();
    let url = format!("https://localhost:{}/health", secured.at.port());
    let curl = Command::new("curl").args(["-sS", "--cacert", &secured.papers.ca, &url, &url]).output().expect("curl");
    let said = String::from_utf8_lossy(&curl.stdout).into_owned() + &String::from_utf8_lossy(&curl.stderr);
    assert_eq!(said.matches("\"healthy\"").count(), 2, "{said}");
    for version in ["-tls1_2", "-tls1_3"] {
        let at = secured.at.to_string();
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-quiet", "-verify_return_error", version, "-connect", &at, "-CAfile", &secured.papers.ca]);
        let mut openssl = openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("openssl");
        let mut stdin = openssl.stdin.take().expect("piped");
        stdin.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
        let output = openssl.wait_with_output().expect("an end");
        drop(stdin);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("\"healthy\""), "{said} {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn older_versions_are_refused() {
    let secured = Secured::new();
    // A hello of TLS 1.0, as short as it can be.
    let mut hello = vec![22, 3, 1, 0, 45, 1, 0, 0, 41, 3, 1];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0, 47, 1, 0]);
    let mut stream = raw(secured.at);
    stream.write_all(&hello).expect("sent");
    let mut said = Vec::new();
    stream.read_to_end(&mut said).expect("an end");
    assert_eq!(said.first(), Some(&21), "an alert: {said:?}");
    assert_eq!(secured.counted("failedHandshakes"), 1);
}

#[test]
fn a_client_that_says_all_in_one_go_is_answered() {
    let secured = Secured::new();
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let mut session = rustls::ClientConnection::new(secured.papers.client(None), name).expect("a session");
    let mut stream = raw(secured.at);
    session.write_tls(&mut stream).expect("a hello");
    while session.is_handshaking() {
        session.read_tls(&mut stream).expect("read");
        session.process_new_packets().expect("TLS");
    }
    session.writer().write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("room");
    session.send_close_notify();
    // The end of the handshake, the request and the end of the connection in one segment.
    let mut bytes = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut bytes).expect("bytes");
    }
    stream.write_all(&bytes).expect("sent");
    let mut answer = String::new();
    rustls::Stream::new(&mut session, &mut stream).read_to_string(&mut answer).expect("an announced end");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}
