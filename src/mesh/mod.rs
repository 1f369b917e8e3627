//! The mesh: shared state and the call machine. Every lock on request state is here.
//!
//! [`Mesh`] is the handle: cheap to clone, safe to share, without a listener or a global. What it needs of the outer world comes in through
//! [`ports`].

pub mod call;
mod care;
mod cluster;
mod control;
mod discovery;
mod flight;
mod instances;
mod invoke;
mod keeping;
pub(crate) mod learning;
mod member;
mod membership;
mod meta;
mod mirroring;
mod observe;
pub mod overview;
mod pick;
mod picture;
pub mod ports;
mod queue;
mod quota;
pub mod record;
mod registry;
mod report;
mod seat;
mod settings;
mod step;
pub mod view;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

pub use cluster::Cluster;
pub use discovery::Discovery;
pub use instances::RegistryError;
#[cfg(feature = "server")]
pub(crate) use invoke::{MAX_ANSWER, upstream_headers};
pub use member::Member;
#[cfg(feature = "server")]
pub(crate) use observe::Asked;
pub use queue::Wake;
pub use settings::Settings;

use call::{CallMachine, CallMeta};
use discovery::Lookups;
use mirroring::Mirrors;
use ports::{Resolver, Store, Transport};
use record::{Key, Version};
use registry::{Layers, Registry};

use crate::model::sync::{Locked, Published, Turns};
use crate::model::time::{Clock, Dice};
use crate::model::{CallError, Cause, Limit, ServiceName, shown};
use crate::policy::allow::Action;
use crate::policy::upstreams;
use crate::telemetry::counters::MeshCounters;
use crate::telemetry::events::{Events, Kind, Page};
use crate::telemetry::history::Whole;
use crate::telemetry::onlookers::Onlookers;

/// Through how many meshes a call may pass.
const MAX_HOPS: u32 = 8;
/// The longest a shutdown waits, however long it may.
const LONGEST_SHUTDOWN: Duration = Duration::from_secs(24 * 3600);

/// A service mesh in this process.
///
/// Cloning gives another handle to the same mesh. Built by [`Mesh::builder`].
#[derive(Clone)]
pub struct Mesh {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) dice: Arc<dyn Dice>,
    pub(crate) transport: Arc<dyn Transport>,
    resolver: Arc<dyn Resolver>,
    store: Arc<dyn Store>,
    /// Whoever changes what is kept has the turn of its key, from before it is kept until it is in force.
    turns: Turns<Key>,
    /// Guarded: what was removed here, until what others tell has come past that.
    buried: Locked<HashMap<Key, Version>>,
    pub(crate) counters: MeshCounters,
    pub(crate) events: Arc<Events>,
    pub(crate) onlookers: Onlookers,
    registry: Registry,
    max_instances: usize,
    /// Guarded: which addresses instances may have.
    upstreams: Published<Arc<upstreams::Config>>,
    /// Guarded: where the mesh itself listens, if nobody may be called there.
    own: Published<Arc<upstreams::Own>>,
    /// Guarded: registrations under way, by owner, where there is a limit.
    claims: Locked<HashMap<Arc<str>, Vec<Key>>>,
    /// Registrations that wait for a resolver.
    resolving: AtomicUsize,
    started: Instant,
    /// When that was, in milliseconds since the Unix epoch.
    started_ms: u64,
    /// Guarded: what was counted lately of all services together.
    whole: Locked<Whole>,
    /// Waits between attempts are skipped.
    hurried: AtomicBool,
    /// No new calls.
    stopping: AtomicBool,
    running: AtomicUsize,
    /// Guarded: threads that wait for a retry, a change, or the end of the last call.
    parked: Locked<Vec<Thread>>,
    /// Who wants to know of new members: the health checker.
    newcomers: OnceLock<Announce>,
    /// Who sends copies of calls.
    mirrors: OnceLock<Mirrors>,
    /// Guarded: the names that are looked up.
    lookups: Locked<Lookups>,
    /// Who looks them up, and wants to know of others.
    seeker: OnceLock<Wakes>,
}

/// Wakes a thread of a driver's.
type Wakes = Box<dyn Fn() + Send + Sync>;

/// Told of each member that is registered.
type Announce = Box<dyn Fn(&Arc<Member>, Newcomer) + Send + Sync>;

/// Why a member is announced to the health checker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Newcomer {
    /// Its first check should run at once.
    CheckNow,
    /// Its first check should run after one interval, since its registration said how it is.
    CheckLater,
    /// Its first check should run within a second, like those of all others that were there from the start.
    CheckSoon,
}

/// The parts a mesh is assembled from. [`Mesh::builder`] fills in those of the real world.
#[allow(missing_docs)] // The names are those of the ports.
pub struct Parts {
    pub clock: Arc<dyn Clock>,
    pub dice: Arc<dyn Dice>,
    pub transport: Arc<dyn Transport>,
    pub resolver: Arc<dyn Resolver>,
    pub store: Arc<dyn Store>,
    pub settings: Settings,
}

impl Mesh {
    /// Puts a mesh together from its parts, with everything that its store has kept. Starts no thread.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`] when the settings are not acceptable, [`RegistryError::Unavailable`] when the store cannot be read.
    pub fn assemble(parts: Parts) -> Result<Self, RegistryError> {
        let Settings { defaults, services, upstreams, telemetry, discover, max_services, max_instances_per_service } = parts.settings;
        let layers = Layers::new(defaults, services);
        let mesh = Self {
            inner: Arc::new(Inner {
                registry: Registry::new(layers, max_services)?,
                events: Arc::new(Events::new(Arc::clone(&parts.clock))),
                onlookers: Onlookers::new(&telemetry),
                started: parts.clock.now(),
                started_ms: parts.clock.wall_ms(),
                whole: Locked::default(),
                clock: parts.clock,
                dice: parts.dice,
                transport: parts.transport,
                resolver: parts.resolver,
                store: parts.store,
                turns: Turns::default(),
                buried: Locked::default(),
                counters: MeshCounters::default(),
                max_instances: max_instances_per_service,
                upstreams: Published::new(Arc::new(upstreams)),
                own: Published::default(),
                claims: Locked::default(),
                resolving: AtomicUsize::new(0),
                hurried: AtomicBool::new(false),
                stopping: AtomicBool::new(false),
                running: AtomicUsize::new(0),
                parked: Locked::default(),
                newcomers: OnceLock::new(),
                mirrors: OnceLock::new(),
                lookups: Locked::default(),
                seeker: OnceLock::new(),
            }),
        };
        mesh.restore()?;
        mesh.discover(discover);
        mesh.warn_of_configuration();
        Ok(mesh)
    }

    // --- what there is to see ---

    /// Changes of state after number `since` (0: all that are remembered, at most 1024).
    pub fn events(&self, since: u64) -> Page {
        self.inner.events.since(since)
    }

    /// Waits until something about a service's instances changes from index `seen`, at most until `until`. Answers the current index;
    /// `None` when there is no such service.
    pub fn watch(&self, service: &str, seen: u64, until: Instant) -> Option<u64> {
        loop {
            let wake = Wake::Thread(thread::current());
            let index = self.watch_with(service, seen, &wake)?;
            if index != seen || self.inner.clock.now() >= until || self.inner.hurried.load(Ordering::SeqCst) {
                self.unwatch(service, &wake);
                return Some(index);
            }
            self.pause(until);
        }
    }

    /// The current index of a service; while it is `seen`, `wake` is used with its next change.
    pub(crate) fn watch_with(&self, service: &str, seen: u64, wake: &Wake) -> Option<u64> {
        self.inner.registry.find(service).map(|cluster| cluster.watch(seen, wake))
    }

    /// `wake` is not to be used any more.
    pub(crate) fn unwatch(&self, service: &str, wake: &Wake) {
        if let Some(cluster) = self.inner.registry.find(service) {
            cluster.unwatch(wake);
        }
    }

    // --- calls ---

    /// Begins a call that came in at `start`.
    ///
    /// # Errors
    /// [`CallError`] when it cannot even be begun: no such service, too many hops, the mesh is shutting down. It has been counted.
    pub fn start(&self, meta: CallMeta<'_>, wake: Wake, start: Instant) -> Result<CallMachine, Box<CallError>> {
        let running = self.begin_call(!meta.is_mirror);
        let cause = if meta.hops >= MAX_HOPS {
            Cause::LoopDetected
        } else if self.is_stopping() {
            Cause::Draining
        } else {
            match self.inner.registry.find(meta.service.as_str()) {
                Some(cluster) => {
                    let meta = CallMeta { trace: self.context(meta.headers), ..meta };
                    let (caller, method, endpoint, counted) = (meta.caller, meta.method, meta.endpoint, Arc::clone(&cluster));
                    let machine = CallMachine::start(cluster, meta, self.inner.dice.roll(), running, wake, start);
                    if machine.allowed() == Action::Audit {
                        counted.counters.audited.add(1);
                        let name = caller.name.as_deref().unwrap_or("somebody unknown");
                        let path = shown(endpoint.split('?').next().unwrap_or_default());
                        log::warn!("{}: would be refused: {method} {path} by {name} (request {})", counted.name, machine.request_id());
                    }
                    return Ok(machine);
                }
                None => Cause::UnknownService,
            }
        };
        let asked = observe::Asked::from_meta(&meta);
        Err(Box::new(self.refuse(meta.service, cause, meta.request_id, start, || asked)))
    }

    /// How long a call may wait for its turn before it is begun, wherever it waits, and what has gone wrong when that is over.
    pub fn queue_patience(&self, service: &ServiceName, timeout: Option<Duration>) -> (Duration, Cause) {
        let Some(cluster) = self.inner.registry.find(service.as_str()) else { return (Duration::ZERO, Cause::UnknownService) };
        let policy = cluster.policy();
        let (patience, total) = (policy.limits.queue_timeout_ms.duration(), policy.timeouts.total_ms.duration());
        let deadline = timeout.map_or(total, |limit| limit.min(total));
        if deadline < patience { (deadline, Cause::DeadlineExceeded) } else { (patience, Cause::Overloaded(Limit::QueueTimeout)) }
    }

    /// Counts a call as running until the answer is dropped, if a shutdown should `wait` for it.
    fn begin_call(&self, wait: bool) -> Running {
        let places = usize::from(wait);
        self.inner.running.fetch_add(places, Ordering::SeqCst);
        Running(Arc::clone(&self.inner), places)
    }

    /// Whether the mesh is shutting down.
    pub fn is_stopping(&self) -> bool {
        self.inner.stopping.load(Ordering::SeqCst)
    }

    /// Shutdown is near: calls go on, but skip the waits between their attempts.
    pub fn hurry(&self) {
        let inner = &self.inner;
        if !inner.hurried.swap(true, Ordering::SeqCst) {
            inner.events.publish(Kind::Draining, None, None, "shutting down".to_owned());
        }
        for thread in inner.parked.with(|parked| parked.clone()) {
            thread.unpark();
        }
    }

    /// Shuts the mesh down: no new calls, waits between retries end, running calls finish, for at most `timeout`. Answers how many calls
    /// were still running then. Every clone of the handle is shut down with it.
    pub fn shutdown(&self, timeout: Duration) -> usize {
        let inner = &self.inner;
        inner.stopping.store(true, Ordering::SeqCst);
        self.hurry();
        let until = inner.clock.now() + timeout.min(LONGEST_SHUTDOWN);
        inner.parked.with(|parked| parked.push(thread::current()));
        let me = thread::current().id();
        let left = loop {
            let running = inner.running.load(Ordering::SeqCst);
            if running == 0 || inner.clock.now() >= until {
                break running;
            }
            inner.clock.park_until(until);
        };
        inner.parked.with(|parked| parked.retain(|thread| thread.id() != me));
        self.flush(until.saturating_duration_since(inner.clock.now()));
        left
    }
}

/// A running call; the last one to end wakes whoever waits for that.
pub(crate) struct Running(Arc<Inner>, usize);

impl Running {
    /// Counts the call, which has ended.
    fn count(&self, delivered: bool, took: Duration) {
        self.0.counters.call(delivered, took);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let last = self.1 > 0 && self.0.running.fetch_sub(self.1, Ordering::SeqCst) == self.1;
        if last && self.0.stopping.load(Ordering::SeqCst) {
            for thread in self.0.parked.with(|parked| parked.clone()) {
                thread.unpark();
            }
        }
    }
}
