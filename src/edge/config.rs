//! Settings of the doors: where to listen, what strangers may cost, and how to stop.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use crate::model::settings::{Millis, leaf, settings};
use crate::model::{Invalid, shown};

settings! {
    /// Settings of the server: the edge, which owns the port, and the workers behind it.
    pub struct Config {
        /// Where to listen: host:port ("localhost" is both loopback addresses), or unix:/path.
        listen: String = "localhost:3000".to_owned();
        /// The certificate by which clients know the mesh, a PEM file with those between it and its authority. Connections over TCP then speak
        /// TLS, and those over Unix sockets do not. Read again on SIGHUP.
        tls_cert: String = String::new();
        /// The private key to it, a PEM file that only its owner may read.
        tls_key: String = String::new();
        /// Authorities that clients must be certified by, a PEM file; the name in its certificate is who a client is. Empty: anybody may come.
        tls_client_ca: String = String::new();
        /// Where everything but calls and /health is answered instead, and calls are not: host:port or unix:/path. Empty: where all else is.
        admin_listen: String = String::new();
        /// Threads of the edge, each with an event loop; 0 means one per core.
        loops: usize = 0, in 0, 256;
        /// Where POST /invoke runs: edge (in the event loops) or workers (a thread for each call, blocking, with sleeping backoff).
        invoke_on: InvokeOn = InvokeOn::Edge;
        /// Threads that answer everything but /proxy, /health and, unless it runs on them, /invoke.
        workers: usize = 16, in 2, 1_024;
        /// Of these, how many never make calls, so that control requests are always answered.
        reserved_workers: usize = 2, in 1, 1_023;
        /// Requests that may wait for a worker; the next one is refused at once.
        queue: usize = 1024, in 0, 1_000_000;
        /// The largest body of a request to the API, in bytes. Bodies through /proxy stream and have no limit.
        max_body_bytes: usize = 1_048_576, in 1, 104_857_600;
        /// The largest head of a request, in bytes. It also has at most 100 fields.
        max_head_bytes: usize = 16_384, in 1_024, 65_536;
        /// The longest path with its query, in bytes.
        max_target_bytes: usize = 8_192, in 256, 65_536;
        /// Open connections; 0 means half of the open files the system allows. More are turned away.
        max_connections: usize = 0, in 0, 10_000_000;
        /// Open connections from one address, or from one /64 of IPv6 that is not local; 0 means no limit. Loopback has none.
        max_connections_per_address: usize = 1_024, in 0, 10_000_000;
        /// Bytes of requests and answers held in memory over all connections, beyond which nothing more is taken in.
        max_buffered_bytes: usize = 67_108_864, in 1_048_576, 2_000_000_000;
        /// Long polls that wait for a change at once.
        max_watchers: usize = 1_024, in 0, 1_000_000;
        /// From the first byte of a request to the end of its head, however it trickles in.
        head_timeout_ms: Millis = Millis(5_000), in 1, 3_600_000;
        /// From the end of the head to the end of the body, where the body is taken in whole.
        body_timeout_ms: Millis = Millis(10_000), in 1, 3_600_000;
        /// How long a connection may be kept open between requests.
        idle_timeout_ms: Millis = Millis(60_000), in 1, 86_400_000;
        /// How long both sides of a WebSocket may be silent.
        tunnel_idle_timeout_ms: Millis = Millis(3_600_000), in 1, 86_400_000;
        /// From the first time a client does not take its answer to the end of that answer, where it has been taken in whole.
        write_timeout_ms: Millis = Millis(30_000), in 1, 3_600_000;
        /// How long the workers may leave a question unanswered before they are replaced.
        watchdog_ms: Millis = Millis(10_000), in 10, 3_600_000;
        /// Pages in browsers, for which the API is off limits unless they are named here.
        cors: Cors = Cors::default();
        /// The file that says who may do what, made by weft token new. Empty: everybody may do everything.
        token_file: String = String::new();
        /// Allow listening beyond loopback although everybody there may do everything.
        insecure: bool = false;
        /// After a signal to stop: how long to go on as before with /ready saying no, so that load balancers notice.
        drain_delay_ms: Millis = Millis(0), in 0, 3_600_000;
        /// Then: how long running requests may take to finish.
        drain_timeout_ms: Millis = Millis(10_000), in 0, 3_600_000;
    }
}

settings! {
    /// Cross-origin requests.
    pub struct Cors {
        /// Origins whose pages may use the API, such as `https://ops.example.com`. What instances answer through /proxy is their business.
        allow_origins: Vec<String> = Vec::new();
    }
}

/// Where `POST /invoke` runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InvokeOn {
    /// In the event loops: a waiting call holds no thread.
    Edge,
    /// On the workers: tiny_http, a fixed pool, blocking ureq, sleeping backoff.
    Workers,
}

leaf! { InvokeOn => |_| None }

impl Config {
    /// Settings that contradict each other.
    ///
    /// # Errors
    /// [`Invalid`] naming the setting.
    pub fn check_together(&self) -> Result<(), Invalid> {
        if self.reserved_workers >= self.workers {
            let (reserved, workers) = (self.reserved_workers, self.workers);
            return Err(Invalid::new("reservedWorkers", format!("{reserved} leaves no worker of {workers} for calls; use less")));
        }
        if self.max_target_bytes > self.max_head_bytes {
            let (target, head) = (self.max_target_bytes, self.max_head_bytes);
            return Err(Invalid::new("maxTargetBytes", format!("{target} is above maxHeadBytes {head}, which it is part of")));
        }
        let is_origin = |text: &String| text.split_once("://").is_some_and(|(_, host)| !host.is_empty() && !host.contains(['/', '*', ' ']));
        if let Some(other) = self.cors.allow_origins.iter().find(|text| !is_origin(text)) {
            let why = format!("{} is no origin such as https://ops.example.com; there is no \"*\"", shown(other));
            return Err(Invalid::new("cors.allowOrigins", why));
        }
        for (has, name, needs) in [
            (!self.tls_cert.is_empty() && self.tls_key.is_empty(), "tlsCert", "tlsKey"),
            (!self.tls_key.is_empty() && self.tls_cert.is_empty(), "tlsKey", "tlsCert"),
            (!self.tls_client_ca.is_empty() && self.tls_cert.is_empty(), "tlsClientCa", "tlsCert"),
        ] {
            if has {
                return Err(Invalid::new(name, format!("does nothing without {needs}; set that as well")));
            }
        }
        self.addresses().and_then(|_| self.admin_addresses()).map(|_| ())
    }

    /// Where to listen; beyond loopback only when that is meant.
    ///
    /// # Errors
    /// [`Invalid`] naming what is wrong with `listen`.
    pub fn addresses(&self) -> Result<Vec<Address>, Invalid> {
        Address::parse("listen", &self.listen)
    }

    /// Where the API is answered, if that is a place of its own.
    ///
    /// # Errors
    /// [`Invalid`] naming what is wrong with `adminListen`.
    pub fn admin_addresses(&self) -> Result<Vec<Address>, Invalid> {
        if self.admin_listen.is_empty() { Ok(Vec::new()) } else { Address::parse("adminListen", &self.admin_listen) }
    }

    /// How many event loops there are.
    pub(super) fn loop_count(&self) -> usize {
        match self.loops {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            loops => loops,
        }
    }
}

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
    /// The address as a URL, or nearly so; `secured`: by TLS, where it is TCP.
    pub fn url(&self, secured: bool) -> String {
        match self {
            Self::Tcp(address) if secured => format!("https://{address}"),
            _ => self.to_string(),
        }
    }

    /// What `listen` means: `localhost` is both loopback addresses.
    fn parse(setting: &'static str, listen: &str) -> Result<Vec<Self>, Invalid> {
        let fault = |why: &str| Invalid::new(setting, format!("{} {why}", shown(listen)));
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

    /// Whether whoever comes in by these can be told by the name it asks for: over loopback that is this machine's, over a Unix socket it is
    /// whatever the client makes up.
    pub fn are_judged(all: &[Self]) -> bool {
        all.iter().all(Self::is_loopback) && all.iter().any(|address| matches!(address, Self::Tcp(_)))
    }

    /// Whether only this machine reaches it.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}
