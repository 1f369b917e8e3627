//! A mesh over scripted instances, in virtual time.
//!
//! ```ignore
//! let world = World::new().with("a", [answer(500), ok().after(20)]);
//! assert_eq!(world.get().expect("the retry succeeds").attempts, 2);
//! assert_eq!(world.times(), [0, 100]);
//! ```

mod act;
mod gate;
mod network;
mod time;

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft::mesh::view::Explanation;
use weft::model::time::{Clock, SeededDice};
use weft::model::{AdminState, InstanceId, ServiceName, Weight};
use weft::policy::breaker::Status;
use weft::policy::health::CheckResult;
use weft::telemetry::events::{Event, Kind};
use weft::telemetry::report::ServiceReport;
use weft::{Builder, Call, CallError, Mesh, Registration, Reply};

pub use act::{Act, answer, garbage, hang, ok, panics, refuse, reset, stale, unreachable};
pub use gate::Gate;
pub use network::Delivery;
use network::Network;
use time::{Flowing, Hand, Standing};

/// The service that is called where a test does not care which.
pub const SERVICE: &str = "users";

/// How long real threads are waited for before a test fails instead of hanging.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A mesh, its instances and its time.
#[derive(Clone)]
pub struct World {
    pub mesh: Mesh,
    pub network: Network,
    clock: Arc<dyn Hand>,
    start: Instant,
}

// --- making a world ---

impl World {
    /// A world of one thread: waiting moves the time.
    pub fn new() -> Self {
        Self::seeded(1)
    }

    /// As [`World::new`], with other chances.
    pub fn seeded(seed: u64) -> Self {
        Self::assemble(Arc::new(Flowing::default()), |builder| builder.dice(SeededDice::new(seed)))
    }

    /// A world of real threads: a waiting thread waits until it is woken or the time is moved by [`World::pass`].
    pub fn of_threads() -> Self {
        Self::assemble(Arc::new(Standing::default()), |builder| builder)
    }

    /// A world of one thread whose mesh is built differently.
    pub fn built(change: impl FnOnce(Builder) -> Builder) -> Self {
        Self::assemble(Arc::new(Flowing::default()), change)
    }

    fn assemble(clock: Arc<dyn Hand>, change: impl FnOnce(Builder) -> Builder) -> Self {
        let network = Network::new(Arc::clone(&clock));
        let same: Arc<dyn Clock> = Arc::clone(&clock) as Arc<dyn Clock>;
        // Without jitter, waits can be compared exactly.
        let builder = Mesh::builder().clock(same).transport(network.clone()).dice(SeededDice::new(1)).background(false);
        let mesh = change(builder.defaults(json!({"retry": {"jitter": 0}}))).build().expect("a world");
        Self { mesh, network, start: clock.now(), clock }
    }

    /// Another mesh in the same world: the same time, the same network, its own services.
    pub fn beside(&self) -> Self {
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let builder = Mesh::builder().clock(clock).transport(self.network.clone()).dice(SeededDice::new(2)).background(false);
        Self { mesh: builder.defaults(json!({"retry": {"jitter": 0}})).build().expect("a mesh"), ..self.clone() }
    }

    /// With an instance that acts as the script says; the last act is repeated for ever.
    pub fn with(self, instance: &str, script: impl IntoIterator<Item = Act>) -> Self {
        self.script(instance, script);
        self.register(instance, |_| ());
        self
    }

    /// With these settings for the service.
    pub fn policy(self, patch: Value) -> Self {
        self.patch(patch);
        self
    }

    /// Changes the settings of the service.
    #[allow(clippy::needless_pass_by_value)] // It reads better where it is used.
    pub fn patch(&self, patch: Value) {
        self.mesh.patch_policy(&service(SERVICE), &patch).expect("a valid policy");
    }

    /// Registers an instance (again), with what `say` adds.
    pub fn register(&self, instance: &str, say: impl FnOnce(&mut Registration)) {
        let mut registration = at_port(instance, 4001);
        say(&mut registration);
        self.mesh.register(registration).expect("registered");
    }

    /// What the instance does from now on.
    pub fn script(&self, instance: &str, script: impl IntoIterator<Item = Act>) {
        self.network.script(instance, script);
    }

    /// How the next checks of the instance end; the last one is repeated for ever.
    pub fn checks(&self, instance: &str, results: impl IntoIterator<Item = CheckResult>) {
        self.network.checks(instance, results);
    }

    pub fn state(&self, instance: &str, state: AdminState) {
        self.mesh.set_state(&service(SERVICE), &id(instance), state, None).expect("known");
    }

    pub fn weight(&self, instance: &str, weight: u64) {
        self.mesh.set_weight(&service(SERVICE), &id(instance), Weight::new(weight).expect("a weight")).expect("known");
    }
}

// --- living in it ---

impl World {
    pub fn get(&self) -> Result<Reply, CallError> {
        self.mesh.invoke(&get())
    }

    pub fn post(&self) -> Result<Reply, CallError> {
        self.mesh.invoke(&post())
    }

    pub fn invoke(&self, call: &Call) -> Result<Reply, CallError> {
        self.mesh.invoke(call)
    }

    /// So many calls, all of which are answered.
    #[track_caller]
    pub fn serves(&self, calls: usize) {
        for _ in 0..calls {
            self.get().expect("an answer");
        }
    }

    /// So many calls without a retry, all of which fail.
    #[track_caller]
    pub fn fails(&self, calls: usize) {
        for _ in 0..calls {
            self.invoke(&Call { max_retries: Some(0), ..post() }).expect_err("a failure");
        }
    }

    /// Lets time pass.
    pub fn pass(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
    }

    /// Milliseconds since the world began.
    pub fn elapsed(&self) -> u64 {
        self.since_start(self.clock.now())
    }

    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// How often a thread of the mesh has gone to sleep.
    pub fn sleeps(&self) -> usize {
        self.clock.sleeps()
    }

    /// How often anyone has looked at the clock.
    pub fn looks(&self) -> usize {
        self.clock.looks()
    }

    fn since_start(&self, at: Instant) -> u64 {
        u64::try_from((at - self.start).as_millis()).expect("a short test")
    }
}

// --- looking at it ---

impl World {
    /// Every request that was sent, in order.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.network.deliveries_after(0)
    }

    /// Those that were sent after the first `n`.
    pub fn deliveries_after(&self, n: usize) -> Vec<Delivery> {
        self.network.deliveries_after(n)
    }

    /// How many requests were sent, or tried to be.
    pub fn sent(&self) -> usize {
        self.network.sent()
    }

    /// How many requests were sent to this instance, or tried to be.
    pub fn sent_to(&self, instance: &str) -> usize {
        self.deliveries().iter().filter(|delivery| delivery.instance == instance).count()
    }

    /// To whom requests were sent, in order.
    pub fn order(&self) -> Vec<String> {
        self.deliveries().into_iter().map(|delivery| delivery.instance).collect()
    }

    /// When requests were sent, in milliseconds since the world began.
    pub fn times(&self) -> Vec<u64> {
        self.deliveries().iter().map(|delivery| self.since_start(delivery.at)).collect()
    }

    pub fn metrics(&self) -> ServiceReport {
        self.mesh.metrics().services.remove(SERVICE).expect("registered")
    }

    pub fn explain(&self) -> Explanation {
        self.mesh.explain(SERVICE).expect("registered")
    }

    /// Why the instance can or cannot be picked.
    pub fn why(&self, instance: &str) -> String {
        self.explain().instances.into_iter().find(|other| other.id == instance).expect("registered").why
    }

    pub fn breaker(&self) -> Status {
        self.explain().circuit_breaker.status
    }

    /// The ids of the ejected instances.
    pub fn ejected(&self) -> Vec<String> {
        self.metrics().instances.into_iter().filter(|(_, instance)| instance.ejected).map(|(id, _)| id).collect()
    }

    pub fn events(&self, kind: Kind) -> Vec<Event> {
        self.mesh.events(0).events.into_iter().filter(|event| event.kind == kind).collect()
    }

    /// Nothing is in flight or waiting, and every call has been counted once; answers how many there were.
    #[track_caller]
    pub fn is_at_rest(&self) -> u64 {
        let all = self.mesh.metrics();
        for (service, metrics) in &all.services {
            assert_eq!((metrics.in_flight, metrics.queued), (0, 0), "{service} kept slots or places in its queue");
            assert!(metrics.instances.values().all(|instance| instance.in_flight == 0), "{service} kept slots of instances");
            assert_eq!(metrics.requests, metrics.successes + metrics.failures);
        }
        assert_eq!(all.total_requests, all.successful_requests + all.failed_requests);
        all.total_requests
    }
}

// --- words ---

pub fn service(name: &str) -> ServiceName {
    ServiceName::new(name).expect("a name")
}

pub fn id(instance: &str) -> InstanceId {
    InstanceId::new(instance).expect("an id")
}

pub fn at_port(instance: &str, port: u16) -> Registration {
    Registration::new(SERVICE, instance, "10.0.0.1", port).expect("a registration")
}

pub fn get() -> Call {
    Call::get(SERVICE, "/profile").expect("a call")
}

pub fn post() -> Call {
    Call::post(SERVICE, "/orders", *b"{}").expect("a call")
}

pub const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

// --- threads ---

/// Runs `work` in so many threads that start together; answers what they came to.
pub fn together<R: Send>(threads: usize, work: impl Fn(usize) -> R + Sync) -> Vec<R> {
    let start = Barrier::new(threads);
    let run = |n| {
        start.wait();
        work(n)
    };
    thread::scope(|scope| {
        let run = &run;
        let all: Vec<_> = (0..threads).map(|n| scope.spawn(move || run(n))).collect();
        all.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

/// Waits until another thread has brought `what` about.
#[track_caller]
pub fn until(what: impl Fn() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !what() {
        assert!(Instant::now() < patience, "waited in vain");
        thread::yield_now();
    }
}
