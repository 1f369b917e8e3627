//! The only tiny_http: a listener, and a fixed pool of workers that take requests from it directly.
//!
//! tiny_http trusts its clients: it has no limits and no timeouts. It may listen only where clients are trusted, which is why anything but
//! loopback needs to be asked for.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::crew::Crew;
use super::desk::{Arrival, Desk};
use super::{Api, Routed};
use crate::contract::answer::{Answer, ApiError};
use crate::contract::request::Request;
use crate::mesh::Mesh;
use crate::model::settings::{Millis, settings};
use crate::model::sync::Published;
use crate::model::{Call, Cause, Headers, Invalid, Limit, RequestId, ServiceName, push_decimal, shown};

settings! {
    /// Settings of the API server.
    pub struct Config {
        /// Where to listen: host:port ("localhost" is both loopback addresses), or unix:/path.
        listen: String = "localhost:3000".to_owned();
        /// Threads that answer requests.
        workers: usize = 16, in 2, 1_024;
        /// Of these, how many never make calls, so that control requests are always answered.
        reserved_workers: usize = 2, in 1, 1_023;
        /// Calls that may wait for a worker; the next one is refused at once.
        queue: usize = 1024, in 0, 1_000_000;
        /// The largest request body, in bytes.
        max_body_bytes: usize = 1_048_576, in 1, 104_857_600;
        /// Allow listening beyond loopback although everybody there may do everything.
        insecure: bool = false;
        /// After a signal to stop: how long to go on as before with /ready saying no, so that load balancers notice.
        drain_delay_ms: Millis = Millis(0), in 0, 3_600_000;
        /// Then: how long running requests may take to finish.
        drain_timeout_ms: Millis = Millis(10_000), in 0, 3_600_000;
    }
}

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
        Address::parse(&self.listen).map(|_| ())
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
    /// What `listen` means: `localhost` is both loopback addresses.
    fn parse(listen: &str) -> Result<Vec<Self>, Invalid> {
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

    fn is_loopback(&self) -> bool {
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

/// A running API server. Dropping it stops it.
pub struct Server {
    shared: Arc<Shared>,
    doors: Vec<Door>,
    threads: Vec<JoinHandle<()>>,
}

/// One listening socket and the tiny_http behind it.
struct Door {
    address: Address,
    listener: Listener,
    http: Arc<tiny_http::Server>,
    crew: Arc<Crew>,
}

/// A second handle to a listening socket, to stop it by.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// What the threads share.
struct Shared {
    api: Api,
    desk: Desk<Waiting>,
    max_body: usize,
    /// Answers carry `Connection: close`.
    draining: AtomicBool,
    /// Workers go home.
    stopped: AtomicBool,
    /// Requests being answered.
    busy: AtomicUsize,
    /// The thread that keeps the line.
    keeper: OnceLock<Thread>,
}

impl Shared {
    fn wake_keeper(&self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.unpark();
        }
    }
}

/// A call that waits for a worker.
struct Waiting {
    exchange: Exchange,
    call: Call,
    start: Instant,
    /// What has gone wrong when its patience is over.
    over: Cause,
}

impl Waiting {
    /// Answers the call that it cannot be made now.
    fn refuse(self, cause: Cause) {
        let Self { exchange, call, start, .. } = self;
        let error = exchange.shared.api.mesh.refuse(&call, cause, start);
        exchange.answer(&ApiError::Call(Box::new(error)).into());
    }
}

/// A request that must be answered: counted as busy until it is.
struct Exchange {
    http: Option<tiny_http::Request>,
    id: RequestId,
    head_only: bool,
    keep_alive_1_0: bool,
    shared: Arc<Shared>,
}

impl Server {
    /// Starts the API server of `mesh`. `effective` is what `/config` shows.
    ///
    /// # Errors
    /// [`StartError`] when a setting is not acceptable, the address cannot be listened on, or a thread cannot be started.
    pub fn start(mesh: &Mesh, config: &Config, effective: Value) -> Result<Self, StartError> {
        config.check_together().map_err(StartError::Invalid)?;
        let addresses = Address::parse(&config.listen).map_err(StartError::Invalid)?;
        let loopback = addresses.iter().all(Address::is_loopback);
        if !loopback && !config.insecure {
            let why =
                format!("{} is not loopback, and whoever reaches it may do everything; add --insecure if that is meant", config.listen);
            return Err(StartError::Invalid(Invalid::new("listen", why)));
        }
        let calls = config.workers - config.reserved_workers;
        let shared = Arc::new(Shared {
            api: Api {
                mesh: mesh.clone(),
                ready: AtomicBool::new(true),
                // Over a Unix socket, the Host field is whatever the client makes up.
                loopback: loopback && addresses.iter().any(|address| matches!(address, Address::Tcp(_))),
                watchers: AtomicUsize::new(0),
                max_watchers: (config.reserved_workers / 2).max(1),
                effective: Published::new(Arc::new(effective)),
            },
            desk: Desk::new(calls, config.queue),
            max_body: config.max_body_bytes,
            draining: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
            keeper: OnceLock::new(),
        });
        let doors = open(&addresses)?;
        let mut server = Self { shared, doors, threads: Vec::new() };
        for door in &server.doors {
            for _ in 0..config.workers {
                let (shared, http, crew) = (Arc::clone(&server.shared), Arc::clone(&door.http), Arc::clone(&door.crew));
                let worker = thread::Builder::new().name("weft-worker".to_owned()).stack_size(STACK);
                server.threads.push(worker.spawn(move || work(&shared, &http, &crew)).map_err(StartError::Thread)?);
            }
        }
        let shared = Arc::clone(&server.shared);
        let keeper = thread::Builder::new().name("weft-line".to_owned()).stack_size(STACK).spawn(move || keep_line(&shared));
        let keeper = keeper.map_err(StartError::Thread)?;
        // Set once: this is the only keeper.
        let _ = server.shared.keeper.set(keeper.thread().clone());
        server.threads.push(keeper);
        Ok(server)
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<Address> {
        self.doors.iter().map(|door| door.address.clone()).collect()
    }

    /// Replaces what `/config` shows.
    pub fn set_effective(&self, effective: Value) {
        self.shared.api.effective.update(|current| *current = Arc::new(effective));
    }

    /// Stops in order: `/ready` says no, everything goes on for `delay`, then nothing new is accepted, and what runs may finish for at most
    /// `timeout`. Answers whether everything was finished.
    pub fn drain(&self, delay: Duration, timeout: Duration) -> bool {
        let clock = &self.shared.api.mesh.inner.clock;
        self.shared.api.ready.store(false, Ordering::SeqCst);
        let serve_until = clock.now() + delay;
        while clock.now() < serve_until {
            clock.park_until(serve_until);
        }
        self.shared.draining.store(true, Ordering::SeqCst);
        for door in &self.doors {
            door.close();
        }
        let api = &self.shared.api;
        api.mesh.hurry();
        // Clients with open connections get one more answer each, with word to close; it is over when none has come for a while.
        let until = clock.now() + timeout;
        let mut quiet_since = None;
        while clock.now() < until {
            let quiet = self.shared.busy.load(Ordering::SeqCst) == 0;
            quiet_since = if quiet { quiet_since.or_else(|| Some(clock.now())) } else { None };
            if quiet_since.is_some_and(|since| clock.now() >= since + QUIET) {
                break;
            }
            clock.park_until((clock.now() + POLL).min(until));
        }
        api.mesh.shutdown(Duration::ZERO) == 0 && self.shared.busy.load(Ordering::SeqCst) == 0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.draining.store(true, Ordering::SeqCst);
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.shared.wake_keeper();
        for door in &self.doors {
            door.crew.dismiss();
            for _ in 0..self.threads.len() {
                door.http.unblock();
            }
        }
        for thread in self.threads.drain(..) {
            // A worker survives panics of handlers; one that died all the same has nothing to give back.
            let _ = thread.join();
        }
    }
}

/// Stack of a worker.
const STACK: usize = 512 * 1024;
/// How long nothing must have come before a drain is over.
const QUIET: Duration = Duration::from_millis(50);
/// How often the end of a drain is looked for.
const POLL: Duration = Duration::from_millis(5);
/// Longer than any line is left alone.
const LONG: Duration = Duration::from_secs(3600);

/// Opens all addresses. Of `localhost`, the IPv6 side may be missing; a port of 0 is the same for both.
fn open(addresses: &[Address]) -> Result<Vec<Door>, StartError> {
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
    fn close(&self) {
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

/// A worker's day.
fn work(shared: &Arc<Shared>, http: &tiny_http::Server, crew: &Crew) {
    crew.receive();
    while !shared.stopped.load(Ordering::SeqCst) {
        // An error says that somebody unblocked the workers, or that nothing is accepted any more; open connections go on.
        if let Ok(request) = http.recv()
            && attend(shared, request, crew) == Attended::AtLength
        {
            crew.receive();
        }
    }
}

/// What attending to a request came to.
#[derive(PartialEq, Eq)]
enum Attended {
    /// It took no time; the worker still receives.
    Briefly,
    /// The worker has left its place among those that receive.
    AtLength,
}

/// Reads, routes and answers one request; then whatever calls have been waiting for this worker.
fn attend(shared: &Arc<Shared>, http: tiny_http::Request, crew: &Crew) -> Attended {
    let clock = &shared.api.mesh.inner.clock;
    let start = clock.now();
    let dice = &shared.api.mesh.inner.dice;
    let fresh = || RequestId::from_roll(dice.roll(), dice.roll());
    let mut exchange = Exchange::begin(http, shared, fresh);
    let mut attended = Attended::Briefly;
    let mut at_length = || {
        if attended == Attended::Briefly {
            attended = Attended::AtLength;
            crew.leave();
        }
    };
    if exchange.is_to_be_waited_for() {
        at_length();
    }
    let request = match exchange.read(shared.max_body) {
        Ok(request) => request,
        Err(error) => {
            exchange.answer(&error.into());
            return attended;
        }
    };
    let answered = catch_unwind(AssertUnwindSafe(|| match shared.api.route(&request) {
        Routed::Refused(answer) => Err(answer),
        Routed::Here(route, captured) => {
            at_length();
            Err(shared.api.handle(route, &captured, &request))
        }
        Routed::Call => shared.api.call_of(&request),
    }));
    match answered {
        Ok(Ok(call)) => {
            drop(request);
            let (patience, over) = shared.api.mesh.queue_patience(&call);
            let service = call.service.clone();
            match shared.desk.arrive(&service, start + patience, Waiting { exchange, call, start, over }) {
                Arrival::Seated(waiting) => {
                    at_length();
                    make_calls(shared, service, waiting);
                }
                Arrival::Waits { unwatched: true } => shared.wake_keeper(),
                Arrival::Waits { unwatched: false } => {}
                Arrival::Full(waiting) => waiting.refuse(Cause::Overloaded(Limit::Workers)),
            }
        }
        Ok(Err(answer)) => exchange.answer(&answer),
        Err(panic) => exchange.answer(&panicked(&*panic)),
    }
    attended
}

/// Makes a call, and after it those that have been waiting.
fn make_calls(shared: &Arc<Shared>, service: ServiceName, waiting: Waiting) {
    let mut next = Some((service, waiting));
    while let Some((service, Waiting { exchange, call, start, .. })) = next {
        let answer = catch_unwind(AssertUnwindSafe(|| shared.api.invoke(&call, start))).unwrap_or_else(|panic| panicked(&*panic));
        // The seat is free before the answer is written: the client's next call finds it so.
        next = shared.desk.leave(&service);
        exchange.answer(&answer);
    }
}

/// A handler's panic: the log says what, the client only that.
fn panicked(panic: &(dyn std::any::Any + Send)) -> Answer {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
    let text = text.unwrap_or_else(|| "a panic".to_owned());
    log::error!("a handler panicked: {}", shown(&text));
    ApiError::Internal(text).into()
}

/// Answers the calls that have waited too long for a worker.
fn keep_line(shared: &Arc<Shared>) {
    let clock = &shared.api.mesh.inner.clock;
    while !shared.stopped.load(Ordering::SeqCst) {
        let (expired, next) = shared.desk.expire(clock.now());
        for waiting in expired {
            let over = waiting.over.clone();
            waiting.refuse(over);
        }
        clock.park_until(next.unwrap_or_else(|| clock.now() + LONG));
    }
}

impl Exchange {
    fn begin(http: tiny_http::Request, shared: &Arc<Shared>, fresh: impl FnOnce() -> RequestId) -> Self {
        shared.busy.fetch_add(1, Ordering::SeqCst);
        let field = |name: &'static str| http.headers().iter().find(|header| header.field.equiv(name)).map(|header| header.value.as_str());
        Self {
            id: field("x-request-id").and_then(RequestId::from_caller).unwrap_or_else(fresh),
            head_only: *http.method() == tiny_http::Method::Head,
            keep_alive_1_0: *http.http_version() < tiny_http::HTTPVersion(1, 1)
                && field("connection").is_some_and(|value| value.eq_ignore_ascii_case("keep-alive")),
            http: Some(http),
            shared: Arc::clone(shared),
        }
    }

    /// Whether reading the body may take as long as the client likes; tiny_http has read short ones already.
    fn is_to_be_waited_for(&self) -> bool {
        const READ_ALREADY: usize = 1024;
        let Some(http) = &self.http else { return false };
        let chunked = || http.headers().iter().any(|header| header.field.equiv("transfer-encoding") || header.field.equiv("expect"));
        http.body_length().map_or_else(chunked, |length| length > READ_ALREADY)
    }

    /// Reads the request, its body whole.
    fn read(&mut self, max_body: usize) -> Result<Request, ApiError> {
        let Some(http) = &mut self.http else { return Err(ApiError::Internal("answered twice".to_owned())) };
        if http.body_length().is_some_and(|length| length > max_body) {
            return Err(ApiError::TooLarge(max_body));
        }
        let mut body = Vec::with_capacity(http.body_length().unwrap_or(0));
        let most = u64::try_from(max_body).unwrap_or(u64::MAX).saturating_add(1);
        let read = http.as_reader().take(most).read_to_end(&mut body);
        if read.is_err() {
            return Err(Invalid::new("body", "broke off before its end").into());
        }
        if body.len() > max_body {
            return Err(ApiError::TooLarge(max_body));
        }
        let mut headers = Headers::with_room(http.headers().len());
        for header in http.headers() {
            headers.push(header.field.as_str().as_str(), header.value.as_str());
        }
        Ok(Request {
            method: method(http.method()),
            target: http.url().to_owned(),
            headers,
            body,
            peer: http.remote_addr().map(SocketAddr::ip),
            id: self.id.clone(),
        })
    }

    /// Writes the answer, head and body in one piece.
    fn answer(mut self, answer: &Answer) {
        let Some(http) = self.http.take() else { return };
        let close = self.shared.draining.load(Ordering::SeqCst);
        let bytes = self.serialise(answer, close);
        let mut writer = http.into_writer();
        // A client that has gone away cannot be told anything.
        if let Err(error) = writer.write_all(&bytes).and_then(|()| writer.flush()) {
            log::debug!("an answer could not be written: {error}");
        }
    }

    fn serialise(&self, answer: &Answer, close: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(512 + answer.body.len());
        out.extend_from_slice(b"HTTP/1.1 ");
        push_decimal(&mut out, u64::from(answer.status));
        out.push(b' ');
        out.extend_from_slice(reason_phrase(answer.status).as_bytes());
        out.extend_from_slice(b"\r\n");
        let mut field = |name: &str, value: &[u8]| {
            for part in [name.as_bytes(), b": ", value, b"\r\n"] {
                out.extend_from_slice(part);
            }
        };
        for (name, value) in answer.headers.iter() {
            field(name, value);
        }
        field("x-request-id", self.id.as_str().as_bytes());
        if close {
            field("connection", b"close");
        } else if self.keep_alive_1_0 {
            field("connection", b"keep-alive");
        }
        let bodiless = matches!(answer.status, 204 | 304);
        if !bodiless {
            out.extend_from_slice(b"content-length: ");
            push_decimal(&mut out, u64::try_from(answer.body.len()).unwrap_or(u64::MAX));
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if !bodiless && !self.head_only {
            out.extend_from_slice(&answer.body);
        }
        out
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.shared.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A method as text, without an allocation for those that are expected.
fn method(method: &tiny_http::Method) -> Cow<'static, str> {
    match method {
        tiny_http::Method::Get => "GET".into(),
        tiny_http::Method::Post => "POST".into(),
        tiny_http::Method::Put => "PUT".into(),
        tiny_http::Method::Delete => "DELETE".into(),
        tiny_http::Method::Head => "HEAD".into(),
        other => other.as_str().to_owned().into(),
    }
}

/// The phrase that goes with a status; for people who look at the wire.
const fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        413 => "Content Too Large",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        508 => "Loop Detected",
        _ => "",
    }
}
