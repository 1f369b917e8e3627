//! The API server: a fixed pool of workers that take requests from tiny_http directly, and the order in which it starts and stops.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::crew::Crew;
use super::desk::{Arrival, Desk};
use super::exchange::{Exchange, Traffic};
use super::listen::{Address, Door, StartError, open};
use super::{Api, Routed};
use crate::contract::answer::{Answer, ApiError};
use crate::mesh::Mesh;
use crate::model::settings::{Millis, settings};
use crate::model::sync::Published;
use crate::model::{Call, Cause, Invalid, Limit, RequestId, ServiceName, shown};

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

/// A running API server. Dropping it stops it.
pub struct Server {
    shared: Arc<Shared>,
    doors: Vec<Door>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads share.
struct Shared {
    api: Api,
    desk: Desk<Waiting>,
    max_body: usize,
    traffic: Arc<Traffic>,
    /// Workers go home.
    stopped: AtomicBool,
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
    fn refuse(self, mesh: &Mesh, cause: Cause) {
        let Self { exchange, call, start, .. } = self;
        let id = exchange.id().clone();
        let error = mesh.refuse(&call.service, cause, id, start);
        exchange.answer(&ApiError::Call(Box::new(error)).into());
    }
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
            traffic: Arc::default(),
            stopped: AtomicBool::new(false),
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
        self.shared.traffic.close();
        for door in &self.doors {
            door.close();
        }
        let api = &self.shared.api;
        api.mesh.hurry();
        // Clients with open connections get one more answer each, with word to close; it is over when none has come for a while.
        let until = clock.now() + timeout;
        let mut quiet_since = None;
        while clock.now() < until {
            let quiet = self.shared.traffic.is_quiet();
            quiet_since = if quiet { quiet_since.or_else(|| Some(clock.now())) } else { None };
            if quiet_since.is_some_and(|since| clock.now() >= since + QUIET) {
                break;
            }
            clock.park_until((clock.now() + POLL).min(until));
        }
        api.mesh.shutdown(Duration::ZERO) == 0 && self.shared.traffic.is_quiet()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.traffic.close();
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
    let mut exchange = Exchange::begin(http, &shared.traffic, fresh);
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
            let (patience, over) = shared.api.mesh.queue_patience(&call.service, call.timeout);
            let service = call.service.clone();
            match shared.desk.arrive(&service, start + patience, Waiting { exchange, call, start, over }) {
                Arrival::Seated(waiting) => {
                    at_length();
                    make_calls(shared, service, waiting);
                }
                Arrival::Waits { unwatched: true } => shared.wake_keeper(),
                Arrival::Waits { unwatched: false } => {}
                Arrival::Full(waiting) => waiting.refuse(&shared.api.mesh, Cause::Overloaded(Limit::Workers)),
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
            waiting.refuse(&shared.api.mesh, over);
        }
        clock.park_until(next.unwrap_or_else(|| clock.now() + LONG));
    }
}
