//! The API server: tiny_http, and a fixed pool of workers that take requests from it directly.
//!
//! tiny_http trusts its clients: it has no limits and no timeouts, and connections that come in a burst may be forgotten. So nobody but the
//! edge ever speaks to it: over connections that are opened here, one after the other and each tried before the next, on a Unix socket in a
//! private directory. Once they are open nothing is accepted any more and the socket is gone.

use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::exchange::Exchange;
use super::{Api, Routed};
use crate::contract::answer::{Answer, ApiError};
use crate::model::shown;

/// A running API server. Dropping it stops it, as soon as its last request is answered.
pub struct ApiServer {
    http: Arc<tiny_http::Server>,
    stopped: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Stack of a worker.
const STACK: usize = 512 * 1024;
/// How long the server may take to answer a new connection.
const PATIENCE: Duration = Duration::from_secs(5);

impl ApiServer {
    /// Starts the server with so many workers, and opens so many connections to it.
    ///
    /// # Errors
    /// When the system refuses a socket, a directory for it, or a thread.
    pub fn start(api: &Arc<Api>, workers: usize, connections: usize) -> io::Result<(Self, Vec<UnixStream>)> {
        let place = Place::new(api)?;
        let listener = UnixListener::bind(&place.socket)?;
        let other = listener.try_clone()?;
        // It panics when the system refuses it a thread.
        let http = catch_unwind(move || tiny_http::Server::from_listener(other, None)).map_err(|_| io::ErrorKind::WouldBlock)?;
        let http = http.map_err(io::Error::other)?;
        let mut server = Self { http: Arc::new(http), stopped: Arc::default(), threads: Vec::new() };
        for _ in 0..workers {
            let (api, http, stopped) = (Arc::clone(api), Arc::clone(&server.http), Arc::clone(&server.stopped));
            let worker = thread::Builder::new().name("weft-worker".to_owned()).stack_size(STACK);
            server.threads.push(worker.spawn(move || work(&api, &http, &stopped))?);
        }
        let lines = (0..connections).map(|_| connect(&place.socket)).collect::<io::Result<_>>()?;
        // From here on nobody else can connect. The thread that accepts ends with this, and says so in tiny_http's own log.
        rustix::net::shutdown(&listener, rustix::net::Shutdown::Read)?;
        Ok((server, lines))
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        for _ in &self.threads {
            self.http.unblock();
        }
        for thread in self.threads.drain(..) {
            // A worker survives panics of handlers; one that died all the same has nothing to give back.
            let _ = thread.join();
        }
    }
}

/// Opens a connection and has it answered once, so that it is known to be served whatever comes after it.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let mut line = UnixStream::connect(socket)?;
    line.set_read_timeout(Some(PATIENCE))?;
    ask(&mut line)?;
    line.set_read_timeout(None)?;
    Ok(line)
}

/// Asks the server for its health.
///
/// # Errors
/// When no answer comes within the timeout of the connection.
pub fn ask(line: &mut UnixStream) -> io::Result<()> {
    line.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut piece = [0; 512];
    // The body is one object and ends with the only brace.
    while answer.last() != Some(&b'}') {
        match line.read(&mut piece) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => answer.extend_from_slice(piece.get(..read).unwrap_or_default()),
            // A process that was stopped and goes on is told so here, and has nothing to blame anybody for.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A private directory with a socket in it; gone when it is no longer needed.
struct Place {
    directory: PathBuf,
    socket: PathBuf,
}

impl Place {
    fn new(api: &Api) -> io::Result<Self> {
        let name = format!("weft-{:016x}", api.mesh.inner.dice.roll());
        let mut refusal = io::Error::from(io::ErrorKind::NotFound);
        // Wherever there is a place to write; a path for a socket must be short.
        for parent in [std::env::temp_dir(), "/run".into(), "/dev/shm".into(), "/var/tmp".into()] {
            let directory = parent.join(&name);
            match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
                Ok(()) => return Ok(Self { socket: directory.join("api"), directory }),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What cannot be removed is an empty directory that only we can read.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A worker's day.
fn work(api: &Api, http: &tiny_http::Server, stopped: &AtomicBool) {
    while !stopped.load(Ordering::SeqCst) {
        // An error says that somebody unblocked the workers, or that nothing is accepted any more; open connections go on.
        if let Ok(request) = http.recv() {
            attend(api, request);
        }
    }
}

/// Reads, routes and answers one request.
fn attend(api: &Api, http: tiny_http::Request) {
    let mut exchange = Exchange::begin(http);
    let answered = catch_unwind(AssertUnwindSafe(|| {
        let request = match exchange.read(&api.mesh.inner.dice, api.welcome.access.as_deref()) {
            Ok(request) => request,
            Err(error) => return error.into(),
        };
        match api.route(&request) {
            Routed::Refused(answer) => answer,
            Routed::Here(route, captured) => api.handle(route, &captured, &request),
        }
    }));
    exchange.answer(&answered.unwrap_or_else(|panic| panicked(&*panic)));
}

/// A handler's panic: the log says what, the client only that.
fn panicked(panic: &(dyn std::any::Any + Send)) -> Answer {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
    let text = text.unwrap_or_else(|| "a panic".to_owned());
    log::error!("a handler panicked: {}", shown(&text));
    ApiError::Internal(text).into()
}
