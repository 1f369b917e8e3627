//! A client of TLS in the hands of a test.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};
use weft::server::Config;
use weft::{Mesh, Server};

use crate::support::PATIENCE;
use crate::support::client::{Answer, Client, request};
use crate::support::papers::Papers;

/// A mesh whose clients speak TLS, with nothing before its door.
pub(crate) struct Secured {
    pub(crate) papers: Papers,
    _server: Server,
    pub(crate) at: SocketAddr,
}

impl Secured {
    pub(crate) fn new() -> Self {
        Self::with(Papers::new(), Config::default())
    }

    pub(crate) fn with(papers: Papers, config: Config) -> Self {
        let config = if config.tls_cert.is_empty() { papers.secured("door", &config) } else { config };
        let config = Config { listen: "127.0.0.1:0".to_owned(), ..config };
        let mesh = Mesh::builder().build().expect("a mesh");
        let server = Server::start(&mesh, &config, serde_json::json!({})).expect("a server");
        let at = match server.addresses().as_slice() {
            [weft::server::Address::Tcp(at)] => *at,
            other => panic!("one TCP address, not {other:?}"),
        };
        Self { papers, _server: server, at }
    }

    /// What the doors have counted under a name, as an honest client is told.
    pub(crate) fn counted(&self, name: &str) -> u64 {
        let metrics = ask(self.at, &self.papers.client(None), "/metrics").expect("metrics").json();
        metrics["doors"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {}", metrics["doors"]))
    }

    /// A connection, not secured.
    pub(crate) fn raw(&self) -> TcpStream {
        raw(self.at)
    }
}

pub(crate) fn raw(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&at, PATIENCE).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    stream.set_write_timeout(Some(PATIENCE)).expect("a time limit");
    stream
}

/// A secured connection.
pub(crate) type Talk = StreamOwned<ClientConnection, TcpStream>;

/// Connects and completes the handshake.
pub(crate) fn talk(at: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Talk> {
    let mut session = ClientConnection::new(Arc::clone(config), ServerName::try_from("localhost").expect("a name")).expect("a session");
    let mut stream = raw(at);
    stream.set_nodelay(true)?;
    session.complete_io(&mut stream)?;
    Ok(StreamOwned::new(session, stream))
}

/// One GET on a connection of its own.
pub(crate) fn ask(at: SocketAddr, config: &Arc<ClientConfig>, target: &str) -> io::Result<Answer> {
    Client::of(talk(at, config)?).ask("GET", target, &[("connection", "close")], b"")
}

/// One GET on a connection of its own, and whether its session was a new one.
pub(crate) fn ask_and_tell(at: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<HandshakeKind> {
    let mut talk = talk(at, config)?;
    talk.write_all(&request("GET", "/health", &[("connection", "close")], b""))?;
    let mut answer = Vec::new();
    talk.read_to_end(&mut answer)?;
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&answer));
    Ok(talk.conn.handshake_kind().expect("a handshake"))
}
