//! A host that swallows connections.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// A listener that takes no connection any more: its queue is full, so that the system drops what knocks.
pub(crate) struct BlackHole {
    pub(crate) at: SocketAddr,
    _listener: rustix::fd::OwnedFd,
    _waiting: Vec<TcpStream>,
}

impl BlackHole {
    pub(crate) fn new() -> Self {
        use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
        let listener = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&listener, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port");
        listen(&listener, 0).expect("listening");
        let at = SocketAddr::try_from(getsockname(&listener).expect("a name")).expect("an address");
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&at, Duration::from_millis(100)) {
            waiting.push(stream);
            assert!(waiting.len() < 100, "the queue never fills");
        }
        Self { at, _listener: listener, _waiting: waiting }
    }
}
