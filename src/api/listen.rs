//! Where the API server listens: addresses, sockets, and a tiny_http behind each.
//!
//! tiny_http trusts its clients: it has no limits and no timeouts. It may listen only where clients are trusted, which is why anything but
//! loopback needs to be asked for. It is known to this file, [`super::exchange`] and [`super::server`] alone.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::crew::Crew;
use crate::model::{Invalid, shown};

/// Where a server listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// What `listen` means: `localhost` is both loopback addresses.
    pub(super) fn parse(listen: &str) -> Result<Vec<Self>, Invalid> {
        let fault = |why: &str| Invalid::new("listen", format!("{} {why}", shown(listen)));
        if let Some(path) = listen.strip_prefix("unix:") {
            return if path.is_empty() { Err(fault("has no path")) } else { Ok(vec![Self::Unix(path.into())]) };
        }
        let (host, port) = listen.rsplit_once(':').ok_or_else(|| fault("has no port; use host:port"))?;
        let port: u16 = port.parse().map_err(|_| fault("has a bad port; use 0 to 65535"))?;
        if host.eq_ignore_ascii_case("localhost") {
            let both = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
            return Ok(both.map(|ip| Self::Tcp(SocketAddr::new(ip, port))).into());
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let found = (bare, port).to_socket_addrs().map_err(|_| fault("has a host that is no address of this machine"))?;
        found.take(1).map(|address| Ok(Self::Tcp(address))).collect()
    }

    pub(super) fn is_loopback(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

/// Why a server could not be started.
#[derive(Debug)]
pub enum StartError {
    /// A setting is not acceptable.
    Invalid(Invalid),
    /// The address cannot be listened on.
    Listen(String, io::Error),
    /// The system refused a thread.
    Thread(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(fault) => fault.fmt(f),
            Self::Listen(address, error) => match error.kind() {
                io::ErrorKind::AddrInUse => write!(f, "cannot listen on {address}: another program listens there already"),
                io::ErrorKind::PermissionDenied => write!(f, "cannot listen on {address}: not permitted; ports below 1024 need privileges"),
                io::ErrorKind::AddrNotAvailable => write!(f, "cannot listen on {address}: not an address of this machine"),
                _ => write!(f, "cannot listen on {address}: {error}"),
            },
            Self::Thread(error) => write!(f, "cannot start a thread: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// One listening socket and the tiny_http behind it.
pub(super) struct Door {
    pub(super) address: Address,
    listener: Listener,
    pub(super) http: Arc<tiny_http::Server>,
    pub(super) crew: Arc<Crew>,
}

/// A second handle to a listening socket, to stop it by.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Opens all addresses. Of `localhost`, the IPv6 side may be missing; a port of 0 is the same for both.
pub(super) fn open(addresses: &[Address]) -> Result<Vec<Door>, StartError> {
    let mut doors: Vec<Door> = Vec::new();
    for address in addresses {
        let address = match (address, doors.first().map(|door| &door.address)) {
            (Address::Tcp(wanted), Some(Address::Tcp(first))) if wanted.port() == 0 => {
                Address::Tcp(SocketAddr::new(wanted.ip(), first.port()))
            }
            _ => address.clone(),
        };
        match Door::open(&address) {
            Ok(door) => doors.push(door),
            Err(error) if !doors.is_empty() && error.kind() != io::ErrorKind::AddrInUse => {
                log::debug!("not listening on {address}: {error}");
            }
            Err(error) => return Err(StartError::Listen(address.to_string(), error)),
        }
    }
    Ok(doors)
}

impl Door {
    fn open(address: &Address) -> io::Result<Self> {
        let start = |listener: tiny_http::Listener| tiny_http::Server::from_listener(listener, None).map_err(io::Error::other);
        match address {
            Address::Tcp(wanted) => {
                let listener = TcpListener::bind(wanted)?;
                // Accepted sockets inherit it; without it, answers of 1 to 40 KB wait 40 ms for an acknowledgement.
                rustix::net::sockopt::set_tcp_nodelay(&listener, true)?;
                let address = Address::Tcp(listener.local_addr()?);
                let http = Arc::new(start(listener.try_clone()?.into())?);
                Ok(Self { address, listener: Listener::Tcp(listener), http, crew: Arc::new(Crew::new()) })
            }
            Address::Unix(path) => {
                let listener = match UnixListener::bind(path) {
                    // A socket where nobody listens was left behind by a process that has ended.
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path) => {
                        std::fs::remove_file(path)?;
                        UnixListener::bind(path)?
                    }
                    bound => bound?,
                };
                let http = Arc::new(start(listener.try_clone()?.into())?);
                Ok(Self { address: address.clone(), listener: Listener::Unix(listener), http, crew: Arc::new(Crew::new()) })
            }
        }
    }

    /// Accepts nothing more; connections that are open stay so.
    pub(super) fn close(&self) {
        let closed = match &self.listener {
            Listener::Tcp(listener) => rustix::net::shutdown(listener, rustix::net::Shutdown::Read),
            Listener::Unix(listener) => rustix::net::shutdown(listener, rustix::net::Shutdown::Read),
        };
        if let Err(error) = closed {
            log::debug!("closing {}: {error}", self.address);
        }
    }
}

fn is_abandoned(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}
