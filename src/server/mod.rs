//! The server of a mesh: the edge on the public port, the API server behind it, and the watch over both.

pub mod token_file;

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

pub use crate::edge::{Acceptor, Address, Config, InvokeOn};

use crate::api::{Api, ApiServer, ask};
use crate::contract::access::{Access, Welcome};
use crate::edge::{Edge, EdgeError};
use crate::mesh::Mesh;
use crate::model::Invalid;
use crate::model::sync::Locked;
use crate::telemetry::doors::DoorCounters;
use crate::telemetry::history::STEP;

/// A running server. Dropping it stops it.
pub struct Server {
    mesh: Mesh,
    api: Arc<Api>,
    edge: Arc<Edge>,
    access: Option<Arc<Access>>,
    token_file: String,
    /// Guarded: the workers, which the watchdog may replace.
    workers: Arc<Locked<Option<ApiServer>>>,
    watchdog: Option<JoinHandle<()>>,
    stopped: Arc<AtomicBool>,
}

/// Why a server could not be started.
#[derive(Debug)]
pub enum StartError {
    /// A setting is not acceptable.
    Invalid(Invalid),
    /// The address cannot be listened on.
    Listen(String, io::Error),
    /// The system refused a thread, or a private socket.
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

impl From<EdgeError> for StartError {
    fn from(error: EdgeError) -> Self {
        match error {
            EdgeError::Listen(address, error) => Self::Listen(address, error),
            EdgeError::Invalid(fault) => Self::Invalid(fault),
            EdgeError::Thread(error) => Self::Thread(error),
        }
    }
}

/// How long nothing must have come before a drain is over.
const QUIET: Duration = Duration::from_millis(50);
/// How often the end of a drain is looked for.
const POLL: Duration = Duration::from_millis(5);

impl Server {
    /// Starts the server of `mesh`. `effective` is what `/config` shows.
    ///
    /// # Errors
    /// [`StartError`] when a setting is not acceptable, the address cannot be listened on, or a thread cannot be started.
    pub fn start(mesh: &Mesh, config: &Config, effective: Value) -> Result<Self, StartError> {
        config.check_together().map_err(StartError::Invalid)?;
        let addresses = config.addresses().map_err(StartError::Invalid)?;
        let admin = config.admin_addresses().map_err(StartError::Invalid)?;
        let loopback = addresses.iter().chain(&admin).all(Address::is_loopback);
        let access = match config.token_file.as_str() {
            "" => None,
            path => Some(Arc::new(Access::new(token_file::read(Path::new(path)).map_err(StartError::Invalid)?))),
        };
        // Whoever has to show a token or a certificate is no stranger.
        if !loopback && access.is_none() && !config.insecure && config.tls_client_ca.is_empty() {
            let why = format!(
                "{} is not loopback, and whoever reaches it may do everything; name a --token-file, or add --insecure if that is meant",
                config.listen
            );
            return Err(StartError::Invalid(Invalid::new("listen", why)));
        }
        // The edge knows by which door a request has come; what comes by any must be right for this.
        let judged = Address::are_judged(&addresses) && (admin.is_empty() || Address::are_judged(&admin));
        let (loops, _) = Edge::loops(config);
        let counters = Arc::new(DoorCounters::new(loops));
        let welcome = Welcome { access: access.clone(), origins: config.cors.allow_origins.iter().cloned().collect() };
        let api = Arc::new(Api::new(mesh, judged, welcome.clone(), effective, Arc::clone(&counters)));
        let edge = Arc::new(Edge::start(mesh, config, &addresses, &admin, &welcome, &counters)?);
        if access.is_some() || !loopback || !config.tls_client_ca.is_empty() {
            let tcp = |address: &Address| if let Address::Tcp(at) = address { Some(*at) } else { None };
            mesh.refuse_own(edge.addresses().iter().chain(edge.admin_addresses()).filter_map(tcp));
        }
        let stopped = Arc::new(AtomicBool::new(false));
        let workers = Arc::new(Locked::new(None));
        let mut server =
            Self { mesh: mesh.clone(), api, edge, access, token_file: config.token_file.clone(), workers, watchdog: None, stopped };
        let keeper = Keeper {
            mesh: mesh.clone(),
            api: Arc::clone(&server.api),
            edge: Arc::downgrade(&server.edge),
            workers: Arc::clone(&server.workers),
            counters,
            config: config.clone(),
            stopped: Arc::clone(&server.stopped),
            leaving: Arc::default(),
        };
        let line = keeper.start_workers().map_err(StartError::Thread)?;
        let watchdog = thread::Builder::new().name("weft-watchdog".to_owned()).stack_size(STACK);
        server.watchdog = Some(watchdog.spawn(move || keeper.watch(line)).map_err(StartError::Thread)?);
        Ok(server)
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<Address> {
        self.edge.addresses().to_vec()
    }

    /// Reads the token file again; answers how many callers it names, or nothing when there is none.
    ///
    /// # Errors
    /// [`Invalid`]; the tokens are what they were.
    pub fn reload_tokens(&self) -> Result<Option<usize>, Invalid> {
        let Some(access) = &self.access else { return Ok(None) };
        let tokens = token_file::read(Path::new(&self.token_file))?;
        let callers = tokens.len();
        access.replace(tokens);
        Ok(Some(callers))
    }

    /// Where the API is answered, if that is a place of its own.
    pub fn admin_addresses(&self) -> Vec<Address> {
        self.edge.admin_addresses().to_vec()
    }

    /// Secures clients to come by this; those that are here stay as they are.
    pub fn use_acceptor(&self, acceptor: Option<&Acceptor>) {
        self.edge.use_acceptor(acceptor);
    }

    /// Something to ask, again and again, whether all goes on: whether every event loop has turned since the last time. Asked first, it says
    /// yes; once the server is gone, no.
    pub fn pulse(&self) -> impl FnMut() -> bool + Send + use<> {
        let edge = Arc::downgrade(&self.edge);
        let mut asked: Option<(Arc<AtomicUsize>, usize)> = None;
        move || {
            let Some(edge) = edge.upgrade() else { return false };
            let before = asked.replace(edge.count_loops());
            before.is_none_or(|(counted, all)| counted.load(Ordering::SeqCst) == all)
        }
    }

    /// Replaces what `/config` shows.
    pub fn set_effective(&self, effective: Value) {
        self.api.set_effective(effective);
    }

    /// Stops in order: `/ready` says no, everything goes on for `delay`, then nothing new is accepted, and what runs may finish for at most
    /// `timeout`. Answers whether everything was finished.
    pub fn drain(&self, delay: Duration, timeout: Duration) -> bool {
        let clock = &self.mesh.inner.clock;
        self.api.stop_being_ready();
        let serve_until = clock.now() + delay;
        while clock.now() < serve_until {
            clock.park_until(serve_until);
        }
        self.edge.close();
        self.mesh.hurry();
        self.edge.hurry();
        // Clients with open connections get one more answer each, with word to close; it is over when none has come for a while.
        let until = clock.now() + timeout;
        let mut quiet_since = None;
        while clock.now() < until {
            let quiet = self.edge.is_quiet();
            quiet_since = if quiet { quiet_since.or_else(|| Some(clock.now())) } else { None };
            if quiet_since.is_some_and(|since| clock.now() >= since + QUIET) {
                break;
            }
            clock.park_until((clock.now() + POLL).min(until));
        }
        self.mesh.shutdown(Duration::ZERO) == 0 && self.edge.is_quiet()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.thread().unpark();
            // It has nothing to give back.
            let _ = watchdog.join();
        }
        // The workers go home when the edge no longer speaks to them, and the edge when nobody holds it.
        drop(self.workers.with(Option::take));
    }
}

/// Stack of the watchdog.
const STACK: usize = 256 * 1024;

/// Whoever starts the workers, asks whether they still answer, and replaces them if not.
struct Keeper {
    mesh: Mesh,
    api: Arc<Api>,
    edge: Weak<Edge>,
    workers: Arc<Locked<Option<ApiServer>>>,
    counters: Arc<DoorCounters>,
    config: Config,
    stopped: Arc<AtomicBool>,
    /// Workers that were replaced and have not come home.
    leaving: Arc<AtomicUsize>,
}

/// How often workers are replaced while those before them do not come home: whatever holds them up would hold up any number.
const MOST_LEAVING: usize = 4;

impl Keeper {
    /// Starts workers, gives the edge its connections to them, and keeps one to ask by.
    fn start_workers(&self) -> io::Result<UnixStream> {
        // Workers that are replaced may never come home; whoever waits for them must not be us, and must be there before they are replaced.
        let farewell = if self.workers.with(|workers| workers.is_some()) { Some(self.prepare_farewell()?) } else { None };
        let (loops, lines) = Edge::loops(&self.config);
        let (server, mut all) = ApiServer::start(&self.api, self.config.workers, loops * lines + 1)?;
        let own = all.pop().ok_or(io::ErrorKind::NotConnected)?;
        own.set_read_timeout(Some(self.config.watchdog_ms.duration()))?;
        own.set_write_timeout(Some(self.config.watchdog_ms.duration()))?;
        if let Some(edge) = self.edge.upgrade() {
            edge.use_lines(all);
        }
        let replaced = self.workers.with(|workers| workers.replace(server));
        if let (Some(replaced), Some(farewell)) = (replaced, farewell) {
            self.leaving.fetch_add(1, Ordering::SeqCst);
            // Its end is open as long as it is waited for.
            let _ = farewell.send(replaced);
        }
        Ok(own)
    }

    /// A thread that sees off workers who have been replaced.
    fn prepare_farewell(&self) -> io::Result<Sender<ApiServer>> {
        let (farewell, replaced) = mpsc::channel();
        let leaving = Arc::clone(&self.leaving);
        let see_off = move || {
            if let Ok(replaced) = replaced.recv() {
                drop::<ApiServer>(replaced);
                leaving.fetch_sub(1, Ordering::SeqCst);
            }
        };
        thread::Builder::new().name("weft-workers-end".to_owned()).stack_size(STACK).spawn(see_off)?;
        Ok(farewell)
    }

    /// Asks again and again, until the server stops; and remembers meanwhile what was counted, for those who look at it later.
    fn watch(self, mut line: UnixStream) {
        let clock = &self.mesh.inner.clock;
        let mut due = clock.now() + self.config.watchdog_ms.duration();
        let mut step = clock.now() + STEP;
        while !self.stopped.load(Ordering::SeqCst) {
            if clock.now() >= step {
                self.mesh.remember();
                // After a pause the past is not made up for.
                step = (step + STEP).max(clock.now());
            }
            if clock.now() < due {
                clock.park_until(due.min(step));
                continue;
            }
            due = clock.now() + self.config.watchdog_ms.duration();
            // One that answers is not enough, when all that the edge asks do not.
            let is_stuck = self.edge.upgrade().is_some_and(|edge| edge.has_found_workers_stuck());
            match ask(&mut line) {
                Ok(()) if !is_stuck => continue,
                _ if self.leaving.load(Ordering::SeqCst) >= MOST_LEAVING => {
                    log::error!("the workers do not answer, and neither have those before them: they stay");
                    continue;
                }
                Ok(()) => log::error!("the workers leave requests unanswered; they are replaced"),
                Err(error) => log::error!("the workers do not answer ({error}); they are replaced"),
            }
            if let Some(first) = self.counters.loops.first() {
                first.worker_restarts.add(1);
            }
            match self.start_workers() {
                Ok(fresh) => line = fresh,
                Err(error) => log::error!("no workers could be started: {error}"),
            }
        }
    }
}
