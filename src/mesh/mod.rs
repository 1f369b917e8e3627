//! The mesh: shared state and the call machine. Every lock on request state is here.
//!
//! [`Mesh`] is the handle: cheap to clone, safe to share, without a listener or a global. What it needs of the outer world comes in through
//! [`ports`].

pub mod call;
mod cluster;
mod invoke;
mod member;
pub mod ports;
mod queue;
mod registry;
mod seat;
pub mod view;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use serde_json::Value;

pub use cluster::Cluster;
pub use member::Member;
pub use queue::Wake;

use call::{CallMachine, Mode};
use cluster::Upsert;
use ports::{Change, Probe, Resolver, Store, StoreError, Transport};
use registry::{Layers, Registry};

use crate::model::sync::{Locked, Published};
use crate::model::time::{Clock, Dice};
use crate::model::{AdminState, Call, Cause, Host, InstanceId, Invalid, Limit, Registration, RequestId, ServiceName, Weight};
use crate::policy::health::CheckResult;
use crate::policy::{Policy, upstreams};
use crate::telemetry::counters::MeshCounters;
use crate::telemetry::events::{Events, Kind, Page};

/// How long a registration waits for its host name to resolve.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(2);

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
    transport: Arc<dyn Transport>,
    resolver: Arc<dyn Resolver>,
    store: Arc<dyn Store>,
    pub(crate) counters: MeshCounters,
    pub(crate) events: Arc<Events>,
    registry: Registry,
    max_instances: usize,
    /// Guarded: which addresses instances may have.
    upstreams: Published<Arc<upstreams::Config>>,
    started: Instant,
    /// Waits between attempts are skipped.
    hurried: AtomicBool,
    /// No new calls.
    stopping: AtomicBool,
    running: AtomicUsize,
    /// Guarded: threads that wait for a retry, a change, or the end of the last call.
    parked: Locked<Vec<Thread>>,
    /// Who wants to know of new members: the health checker.
    newcomers: OnceLock<Announce>,
}

/// Told of each member that is registered.
type Announce = Box<dyn Fn(&Arc<Member>, Newcomer) + Send + Sync>;

/// Why a member is announced to the health checker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Newcomer {
    /// Its first check should run at once.
    CheckNow,
    /// Its first check should run after one interval, since its registration said how it is.
    CheckLater,
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

/// What of the configuration concerns the mesh itself.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Settings of every service that names none of its own, as JSON with every key optional.
    pub defaults: Value,
    /// Settings of single services.
    pub services: BTreeMap<ServiceName, Value>,
    /// Which addresses instances may have.
    pub upstreams: upstreams::Config,
    /// How many services there may be.
    pub max_services: usize,
    /// How many instances a service may have.
    pub max_instances_per_service: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            defaults: Value::Null,
            services: BTreeMap::new(),
            upstreams: upstreams::Config::default(),
            max_services: 1000,
            max_instances_per_service: 1000,
        }
    }
}

/// Why a change of the registry was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RegistryError {
    /// A value is not acceptable.
    Invalid(Invalid),
    /// The address is refused by policy; says why.
    NotAllowed(String),
    /// A limit is full.
    Full(Limit),
    /// No such service or instance.
    NotFound,
    /// The store could not keep the change; nothing was changed.
    Unavailable(StoreError),
}

impl std::fmt::Display for RegistryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invalid(fault) => fault.fmt(f),
            Self::NotAllowed(why) => f.write_str(why),
            Self::Full(limit) => write!(f, "the limit {} is reached", limit.setting()),
            Self::NotFound => f.write_str("no such instance is registered"),
            Self::Unavailable(why) => write!(f, "the registry cannot keep the change: {why}"),
        }
    }
}

impl std::error::Error for RegistryError {}

impl From<Invalid> for RegistryError {
    fn from(fault: Invalid) -> Self {
        Self::Invalid(fault)
    }
}

impl From<StoreError> for RegistryError {
    fn from(why: StoreError) -> Self {
        Self::Unavailable(why)
    }
}

impl Mesh {
    /// Puts a mesh together from its parts. Starts no thread.
    ///
    /// # Errors
    /// [`Invalid`] when the settings are not acceptable.
    pub fn assemble(parts: Parts) -> Result<Self, Invalid> {
        let Settings { defaults, services, upstreams, max_services, max_instances_per_service } = parts.settings;
        let layers = Layers::new(defaults, services);
        Ok(Self {
            inner: Arc::new(Inner {
                registry: Registry::new(layers, max_services)?,
                events: Arc::new(Events::new(Arc::clone(&parts.clock))),
                started: parts.clock.now(),
                clock: parts.clock,
                dice: parts.dice,
                transport: parts.transport,
                resolver: parts.resolver,
                store: parts.store,
                counters: MeshCounters::default(),
                max_instances: max_instances_per_service,
                upstreams: Published::new(Arc::new(upstreams)),
                hurried: AtomicBool::new(false),
                stopping: AtomicBool::new(false),
                running: AtomicUsize::new(0),
                parked: Locked::default(),
                newcomers: OnceLock::new(),
            }),
        })
    }

    // --- instances ---

    /// Registers an instance, or registers it again. Waits at most 2 s for its host name to resolve; one that does not resolve is accepted
    /// and stays unavailable until it does.
    ///
    /// # Errors
    /// [`RegistryError`]; nothing was changed.
    #[allow(clippy::needless_pass_by_value)] // A registration is made to be handed over.
    pub fn register(&self, registration: Registration) -> Result<(), RegistryError> {
        let inner = &self.inner;
        let addresses = inner.resolver.resolve(&registration.host, RESOLVE_PATIENCE);
        self.judge_all(&registration.host, &addresses, registration.port.get())?;
        if let Some(target) = registration.health_check.as_ref().filter(|target| target.host != registration.host) {
            self.judge_all(&target.host, &inner.resolver.resolve(&target.host, RESOLVE_PATIENCE), target.port.get())?;
        } else if let Some(target) = &registration.health_check {
            self.judge_all(&target.host, &addresses, target.port.get())?;
        }
        // Looked at again when it is added; but what is refused now need not be kept.
        self.room_for(&registration)?;
        inner.store.commit(&Change::Register(&registration))?;
        let service = registration.service.clone();
        let newcomer = if registration.healthy.is_some() { Newcomer::CheckLater } else { Newcomer::CheckNow };
        let place = crate::model::authority(&registration.host, registration.port);
        loop {
            let now = inner.clock.now();
            let cluster = inner.registry.find_or_make(&service, &inner.events, now).map_err(RegistryError::Full)?;
            let member = match cluster.upsert(registration.clone(), &addresses, inner.max_instances, now) {
                // The last instance went between finding the service and adding to it.
                None => {
                    inner.registry.forget(&cluster);
                    continue;
                }
                Some(Upsert::Full) => return Err(RegistryError::Full(Limit::Instances)),
                Some(Upsert::New(member)) => {
                    inner.events.publish(Kind::Registered, Some(&service), Some(&member.id), format!("registered at {place}"));
                    member
                }
                Some(Upsert::Again(member)) => {
                    if !addresses.is_empty() {
                        cluster.resolved(&member, &addresses);
                    }
                    member
                }
            };
            if let Some(announce) = inner.newcomers.get() {
                announce(&member, newcomer);
            }
            return Ok(());
        }
    }

    /// Removes an instance. Calls it is answering finish.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], or the store's refusal.
    pub fn deregister(&self, service: &ServiceName, id: &InstanceId) -> Result<(), RegistryError> {
        self.known(service, id)?;
        self.inner.store.commit(&Change::Remove { service, id })?;
        if self.remove(service, id, None, Kind::Deregistered, "deregistered") { Ok(()) } else { Err(RegistryError::NotFound) }
    }

    /// Renews the lease of an instance.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`]: register again.
    pub fn heartbeat(&self, service: &ServiceName, id: &InstanceId) -> Result<(), RegistryError> {
        let cluster = self.find(service)?;
        if cluster.heartbeat(id, self.inner.clock.now()) { Ok(()) } else { Err(RegistryError::NotFound) }
    }

    /// Sets what an operator wants of an instance.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], or the store's refusal.
    pub fn set_state(&self, service: &ServiceName, id: &InstanceId, state: AdminState, reason: Option<&str>) -> Result<(), RegistryError> {
        let cluster = self.known(service, id)?;
        self.inner.store.commit(&Change::State { service, id, state, reason })?;
        let news = cluster.set_state(id, state, reason.map(str::to_owned)).ok_or(RegistryError::NotFound)?;
        if news {
            let why = reason.map_or(String::new(), |reason| format!(": {}", crate::model::shown(reason)));
            self.inner.events.publish(Kind::State, Some(service), Some(id), format!("state is now {}{why}", state.as_str()));
        }
        Ok(())
    }

    /// Sets an instance's share of the traffic, whatever it registers.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], or the store's refusal.
    pub fn set_weight(&self, service: &ServiceName, id: &InstanceId, weight: Weight) -> Result<(), RegistryError> {
        let cluster = self.known(service, id)?;
        self.inner.store.commit(&Change::Weight { service, id, weight })?;
        if cluster.set_weight(id, weight).ok_or(RegistryError::NotFound)? {
            self.inner.events.publish(Kind::Weight, Some(service), Some(id), format!("weight is now {}", weight.get()));
        }
        Ok(())
    }

    // --- settings ---

    /// The settings in force for a service, registered or not.
    pub fn policy(&self, service: &ServiceName) -> Policy {
        // Layers were checked when they were set; the defaults stand in for what cannot happen.
        self.inner.registry.layers().policy(service).unwrap_or_default()
    }

    /// Merges `patch` (RFC 7396) into the settings of a service. Checked as a whole and applied at once to calls that begin from now on.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`] naming the bad key, or the store's refusal; nothing was changed.
    pub fn patch_policy(&self, service: &ServiceName, patch: &Value) -> Result<(), RegistryError> {
        let registry = &self.inner.registry;
        let layers = registry.layers();
        if !layers.put.contains_key(service) && layers.put.len() >= registry.max_services() {
            return Err(RegistryError::Full(Limit::Services));
        }
        let mut patched = Layers::clone(&layers);
        patched.patch(service, patch);
        patched.policy(service)?;
        self.inner.store.commit(&Change::Policy { service, patch: patched.put.get(service) })?;
        registry.change_layers(|layers| layers.patch(service, patch))?;
        self.inner.events.publish(Kind::Policy, Some(service), None, "policy changed".to_owned());
        Ok(())
    }

    /// Takes back what [`Mesh::patch_policy`] set; the configuration applies again.
    ///
    /// # Errors
    /// The store's refusal.
    pub fn reset_policy(&self, service: &ServiceName) -> Result<(), RegistryError> {
        let registry = &self.inner.registry;
        if registry.layers().put.contains_key(service) {
            self.inner.store.commit(&Change::Policy { service, patch: None })?;
            registry.change_layers(|layers| {
                layers.put.remove(service);
            })?;
            self.inner.events.publish(Kind::Policy, Some(service), None, "policy is the configured one again".to_owned());
        }
        Ok(())
    }

    /// Takes over a new configuration; what was set through [`Mesh::patch_policy`] stays on top.
    ///
    /// # Errors
    /// [`Invalid`]; nothing was changed.
    pub fn reconfigure(&self, settings: Settings) -> Result<(), Invalid> {
        self.inner.registry.change_layers(|layers| {
            layers.defaults = settings.defaults;
            layers.configured = settings.services;
        })?;
        self.inner.upstreams.update(|current| *current = Arc::new(settings.upstreams));
        self.inner.events.publish(Kind::Config, None, None, "configuration reloaded".to_owned());
        Ok(())
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
            let cluster = self.inner.registry.find(service)?;
            let wake = Wake::Thread(thread::current());
            let index = cluster.watch(seen, &wake);
            if index != seen || self.inner.clock.now() >= until || self.inner.hurried.load(Ordering::SeqCst) {
                cluster.unwatch(&wake);
                return Some(index);
            }
            self.pause(until);
        }
    }

    // --- calls ---

    /// Begins a call of a registered service; `None` when there is no such service.
    pub fn start(&self, call: &Call, request_id: RequestId, mode: Mode, wake: Wake, start: Instant) -> Option<CallMachine> {
        let cluster = self.inner.registry.find(call.service.as_str())?;
        Some(CallMachine::start(cluster, call, request_id, mode, wake, start))
    }

    /// How long a call may wait for its turn before it is begun, wherever it waits, and what has gone wrong when that is over.
    pub fn queue_patience(&self, call: &Call) -> (Duration, Cause) {
        let Some(cluster) = self.inner.registry.find(call.service.as_str()) else { return (Duration::ZERO, Cause::UnknownService) };
        let policy = cluster.policy();
        let (patience, total) = (policy.limits.queue_timeout_ms.duration(), policy.timeouts.total_ms.duration());
        let deadline = call.timeout.map_or(total, |limit| limit.min(total));
        if deadline < patience { (deadline, Cause::DeadlineExceeded) } else { (patience, Cause::Overloaded(Limit::QueueTimeout)) }
    }

    /// Counts a call as running until the answer is dropped; `None` once the mesh is shutting down.
    fn begin_call(&self) -> Option<Running<'_>> {
        self.inner.running.fetch_add(1, Ordering::SeqCst);
        let running = Running(&self.inner);
        (!self.is_stopping()).then_some(running)
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
        left
    }

    // --- health ---

    /// Tells `announce` of every member that is registered from now on.
    pub(crate) fn on_newcomer(&self, announce: impl Fn(&Arc<Member>, Newcomer) + Send + Sync + 'static) {
        // There is one health checker; a second one would be a mistake of this crate's.
        let _ = self.inner.newcomers.set(Box::new(announce));
    }

    /// What is due for a member: `None` when it is no longer registered.
    pub(crate) fn care(&self, member: &Arc<Member>) -> Option<Care> {
        let cluster = self.inner.registry.find(member.service.as_str())?;
        cluster.look(|state| {
            let config = state.policy.health_check.clone();
            let seat = state.seats.iter().find(|seat| Arc::ptr_eq(&seat.member, member))?;
            let target = seat.registration.health_check.clone().filter(|_| seat.admin != AdminState::Maint);
            Some(Care { target, config, lease_until: seat.lease_until, last: seat.health.last() })
        })
    }

    /// Resolves a member's host name again, and judges what it now means.
    pub(crate) fn resolve_again(&self, member: &Arc<Member>, patience: Duration) {
        if matches!(member.host, Host::Ip(_)) {
            return;
        }
        let addresses = self.resolve_judged(&member.host, member.port.get(), patience);
        // A resolver that fails does not take away what is known; one that answers with forbidden addresses does.
        if let (Some(addresses), Some(cluster)) = (addresses, self.inner.registry.find(member.service.as_str())) {
            cluster.resolved(member, &addresses);
        }
    }

    /// The allowed addresses of `host`; `None` when it does not resolve.
    fn resolve_judged(&self, host: &Host, port: u16, patience: Duration) -> Option<Vec<IpAddr>> {
        let all = self.inner.resolver.resolve(host, patience);
        let judge = self.inner.upstreams.read(Arc::clone);
        (!all.is_empty()).then(|| all.into_iter().filter(|ip| judge.judge(host, *ip, port).is_ok()).collect())
    }

    /// Runs one active check of a member in this thread, and takes in its result. Answers the time to the next one; `None` when the member
    /// is gone.
    pub(crate) fn check(&self, member: &Arc<Member>) -> Option<Duration> {
        let care = self.care(member)?;
        let timeout = care.config.timeout_ms.duration();
        self.resolve_again(member, timeout);
        let Some(target) = care.target else { return Some(care.config.interval_ms.duration()) };
        let addresses = self.resolve_judged(&target.host, target.port.get(), timeout).unwrap_or_default();
        let result = if addresses.is_empty() {
            CheckResult::Unreachable
        } else {
            self.inner.transport.probe(&Probe { member: Arc::clone(member), target, addresses, config: care.config })
        };
        member.last_check_ms.store(self.inner.clock.wall_ms(), Ordering::Relaxed);
        let cluster = self.inner.registry.find(member.service.as_str())?;
        cluster.checked(member, result, self.inner.clock.now(), self.inner.dice.roll())
    }

    /// Runs every active check once, in this thread, and removes what has expired: for embedders that want no background threads.
    pub fn check_now(&self) {
        for cluster in self.inner.registry.all() {
            for member in cluster.look(|state| state.seats.iter().map(|seat| Arc::clone(&seat.member)).collect::<Vec<_>>()) {
                self.expire(&member);
                self.check(&member);
            }
        }
    }

    /// Removes a member whose lease is over.
    pub(crate) fn expire(&self, member: &Arc<Member>) {
        self.remove(&member.service, &member.id, Some(self.inner.clock.now()), Kind::Expired, "lease expired: no heartbeat in time");
    }

    fn remove(&self, service: &ServiceName, id: &InstanceId, expired_at: Option<Instant>, kind: Kind, why: &str) -> bool {
        let Some(cluster) = self.inner.registry.find(service.as_str()) else { return false };
        let (went, closed) = cluster.remove(id, expired_at);
        if went {
            self.inner.events.publish(kind, Some(service), Some(id), why.to_owned());
        }
        if closed {
            self.inner.registry.forget(&cluster);
        }
        went
    }

    fn find(&self, service: &ServiceName) -> Result<Arc<Cluster>, RegistryError> {
        self.inner.registry.find(service.as_str()).ok_or(RegistryError::NotFound)
    }

    fn known(&self, service: &ServiceName, id: &InstanceId) -> Result<Arc<Cluster>, RegistryError> {
        let cluster = self.find(service)?;
        let known = cluster.look(|state| state.seats.iter().any(|seat| seat.member.id == *id));
        if known { Ok(cluster) } else { Err(RegistryError::NotFound) }
    }

    fn room_for(&self, registration: &Registration) -> Result<(), RegistryError> {
        let Some(cluster) = self.inner.registry.find(registration.service.as_str()) else {
            return if self.inner.registry.is_full() { Err(RegistryError::Full(Limit::Services)) } else { Ok(()) };
        };
        let most = self.inner.max_instances;
        let room = cluster.look(|state| state.seats.len() < most || state.seats.iter().any(|seat| seat.member.id == registration.id));
        if room { Ok(()) } else { Err(RegistryError::Full(Limit::Instances)) }
    }

    fn judge_all(&self, host: &Host, addresses: &[IpAddr], port: u16) -> Result<(), RegistryError> {
        let judge = self.inner.upstreams.read(Arc::clone);
        addresses.iter().try_for_each(|ip| judge.judge(host, *ip, port)).map_err(RegistryError::NotAllowed)
    }
}

/// What the health checker needs to know about a member.
pub(crate) struct Care {
    /// What to ask, unless it is not to be asked.
    pub(crate) target: Option<crate::model::HealthTarget>,
    pub(crate) config: crate::policy::health::Config,
    pub(crate) lease_until: Option<Instant>,
    /// The last result.
    pub(crate) last: Option<CheckResult>,
}

/// A running call; the last one to end wakes whoever waits for that.
struct Running<'a>(&'a Inner);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let last = self.0.running.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.0.stopping.load(Ordering::SeqCst) {
            for thread in self.0.parked.with(|parked| parked.clone()) {
                thread.unpark();
            }
        }
    }
}
