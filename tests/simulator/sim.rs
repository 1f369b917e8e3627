//! The event loop: one thread, virtual time, thousands of calls under way. It is the second driver of the call machine, and does nothing
//! but what the machine says.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft::mesh::Wake;
use weft::mesh::call::{Attempt, CallMachine, CallMeta, Step, Verdict};
use weft::mesh::ports::{Incoming, Outgoing, Probe, Transport};
use weft::model::time::{Clock, Dice, ManualClock, SeededDice};
use weft::model::{AdminState, Failure, Headers, HealthTarget, InstanceId, RequestId, ServiceName};
use weft::policy::health::CheckResult;
use weft::{Call, Mesh, Registration};

use super::figures::{Ended, Figures, Sent};
use super::instance::{Instance, Mood, Outcome, gap};

const SERVICE: &str = "users";

/// A mesh, its instances, and the traffic.
pub struct Sim {
    pub mesh: Mesh,
    pub instances: Vec<Instance>,
    pub figures: Figures,
    clock: Arc<ManualClock>,
    start: Instant,
    dice: SeededDice,
    call: Call,
    running: HashMap<u64, CallMachine>,
    events: BinaryHeap<Reverse<(Duration, u64, What)>>,
    scripts: HashMap<u64, Script>,
    /// How checks of instances end now, for the mesh that asks.
    checks: Arc<Mutex<HashMap<String, CheckResult>>>,
    woken: Arc<Mutex<Vec<u64>>>,
    wake: Arc<dyn Fn(u64) + Send + Sync>,
    number: u64,
    per_second: f64,
    until: Duration,
}

/// Something that a scenario does at its time.
type Script = Box<dyn FnOnce(&mut Sim)>;

/// What happens at a time; its number is a call's or a script's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Arrival,
    Step(u64),
    Answered(u64, u16),
    Refused(u64),
    TimedOut(u64),
    Script(u64),
}

impl Sim {
    /// A service with these settings and no instance.
    pub fn new(seed: u64, policy: Value) -> Self {
        let clock = Arc::new(ManualClock::default());
        let checks: Arc<Mutex<HashMap<String, CheckResult>>> = Arc::default();
        let same: Arc<dyn Clock> = Arc::clone(&clock) as Arc<dyn Clock>;
        let builder = Mesh::builder().clock(same).dice(SeededDice::new(seed)).transport(Checks(Arc::clone(&checks))).background(false);
        let mesh = builder.defaults(policy).build().expect("a mesh");
        let woken: Arc<Mutex<Vec<u64>>> = Arc::default();
        let bell = Arc::clone(&woken);
        Self {
            mesh,
            instances: Vec::new(),
            figures: Figures::default(),
            start: clock.now(),
            clock,
            dice: SeededDice::new(seed ^ 0x5eed),
            call: Call::get(SERVICE, "/").expect("a call"),
            running: HashMap::new(),
            events: BinaryHeap::new(),
            scripts: HashMap::new(),
            checks,
            woken,
            wake: Arc::new(move |number| bell.lock().expect("whole").push(number)),
            number: 0,
            per_second: 0.0,
            until: Duration::ZERO,
        }
    }

    /// With one more instance.
    pub fn with(mut self, instance: Instance) -> Self {
        self.add(instance, |_| ());
        self
    }

    /// Adds an instance now; answers its number.
    pub fn add(&mut self, instance: Instance, say: impl FnOnce(&mut Registration)) -> usize {
        let number = self.instances.len();
        let mut registration = Registration::new(SERVICE, &id(number), "10.0.0.1", 4001).expect("valid");
        registration.health_check = HealthTarget::new("http://10.0.0.1/health").ok();
        registration.healthy = Some(true);
        say(&mut registration);
        self.mesh.register(registration).expect("registered");
        self.instances.push(instance);
        self.checks.lock().expect("whole").insert(id(number), CheckResult::Passed);
        number
    }

    /// At that second, this happens.
    pub fn at(&mut self, second: f64, what: impl FnOnce(&mut Self) + 'static) {
        self.number += 1;
        self.scripts.insert(self.number, Box::new(what));
        self.schedule(Duration::from_secs_f64(second), What::Script(self.number));
    }

    /// Health is checked every so many seconds.
    pub fn checks_every(&mut self, seconds: u64, until: u64) {
        for second in (seconds..=until).step_by(usize::try_from(seconds).expect("small")) {
            self.at(second as f64, |sim| sim.mesh.check_now());
        }
    }

    pub fn mood(&mut self, instance: usize, mood: Mood) {
        self.instances[instance].mood = mood;
        let check = if mood == Mood::Down { CheckResult::Unreachable } else { CheckResult::Passed };
        self.checks.lock().expect("whole").insert(id(instance), check);
    }

    pub fn state(&self, instance: usize, state: AdminState) {
        let (service, id) = (ServiceName::new(SERVICE).expect("valid"), InstanceId::new(&id(instance)).expect("valid"));
        self.mesh.set_state(&service, &id, state, None).expect("known");
    }

    /// So many calls a second, coming independently of each other, for so many seconds; then until all have ended.
    pub fn run(&mut self, per_second: f64, seconds: u64) {
        let real = Instant::now();
        (self.per_second, self.until) = (per_second, Duration::from_secs(seconds));
        self.schedule(Duration::ZERO, What::Arrival);
        while let Some(Reverse((at, _, what))) = self.events.pop() {
            self.clock.park_until(self.start + at);
            self.happen(at, what);
            loop {
                let woken = std::mem::take(&mut *self.woken.lock().expect("whole"));
                if woken.is_empty() {
                    break;
                }
                for call in woken {
                    self.step(call, at);
                }
            }
        }
        assert!(self.running.is_empty(), "every call ends");
        let service = self.mesh.metrics().services.remove(SERVICE).expect("registered");
        assert_eq!((service.in_flight, service.queued), (0, 0));
        assert_eq!(service.requests, self.figures.calls.len() as u64, "and is counted once");
        let rate = self.figures.calls.len() as f64 / real.elapsed().as_secs_f64() / 1e3;
        println!("{} calls, {rate:.0} in a millisecond of real time", self.figures.calls.len());
    }

    fn schedule(&mut self, at: Duration, what: What) {
        self.number += 1;
        self.events.push(Reverse((at, self.number, what)));
    }

    fn happen(&mut self, now: Duration, what: What) {
        match what {
            What::Arrival => {
                self.begin(now);
                let next = now + gap(self.per_second, &self.dice);
                if next < self.until {
                    self.schedule(next, What::Arrival);
                }
            }
            What::Step(call) => self.step(call, now),
            What::Answered(call, status) => self.report(call, now, &Outcome::Answer(status)),
            What::Refused(call) => self.report(call, now, &Outcome::Failed(Failure::Connect(weft::model::ConnectFailure::Refused))),
            What::TimedOut(call) => self.report(call, now, &Outcome::Failed(Failure::Timeout)),
            What::Script(script) => {
                let script = self.scripts.remove(&script).expect("once");
                script(self);
            }
        }
    }

    fn begin(&mut self, now: Duration) {
        self.number += 1;
        let (number, call) = (self.number, self.call.clone());
        let meta = CallMeta::of(&call, RequestId::from_roll(number, 0));
        let wake = Wake::Call(Arc::clone(&self.wake), number);
        let machine = self.mesh.start(meta, wake, self.start + now).unwrap_or_else(|error| panic!("{error}"));
        self.running.insert(number, machine);
        self.step(number, now);
    }

    fn step(&mut self, call: u64, now: Duration) {
        let Some(machine) = self.running.get_mut(&call) else { return };
        match machine.step(self.start + now) {
            Step::Send(attempt) => self.send(call, &attempt, now),
            Step::Wait { until } | Step::Queued { until } => self.schedule(until - self.start, What::Step(call)),
            Step::Done(end) => {
                self.running.remove(&call);
                let reason = end.result.as_ref().err().map(|error| error.reason().word());
                let took = end.report.took;
                self.figures.calls.push(Ended { began: now.saturating_sub(took), took, delivered: reason.is_none(), reason });
            }
        }
    }

    fn send(&mut self, call: u64, attempt: &Attempt, now: Duration) {
        let instance: usize = attempt.member.id.as_str().trim_start_matches('i').parse().expect("a number");
        self.figures.attempts.push(Sent { at: now, instance });
        let (took, outcome) = self.instances[instance].serve(now, &self.dice);
        let (took, what) = match outcome {
            _ if took > attempt.timeout => (attempt.timeout, What::TimedOut(call)),
            Outcome::Answer(status) => (took, What::Answered(call, status)),
            Outcome::Failed(_) => (took, What::Refused(call)),
        };
        self.schedule(now + took, what);
    }

    fn report(&mut self, call: u64, now: Duration, outcome: &Outcome) {
        let (at, roll) = (self.start + now, self.dice.roll());
        let Some(machine) = self.running.get_mut(&call) else { return };
        match outcome {
            Outcome::Failed(failure) => machine.failed(failure.clone(), at, roll),
            Outcome::Answer(status) => {
                if machine.head(*status, &Headers::new(), at, roll) != Verdict::Discard {
                    machine.body_end(Ok(()), at, roll);
                }
            }
        }
        self.step(call, now);
    }
}

fn id(instance: usize) -> String {
    format!("i{instance}")
}

/// So many instances alike.
pub fn alike(sim: Sim, count: usize, make: impl Fn() -> Instance) -> Sim {
    (0..count).fold(sim, |sim, _| sim.with(make()))
}

/// A balancing strategy, with what else is set.
pub fn balanced(strategy: &str, more: &Value) -> Value {
    let mut policy = json!({"loadBalancing": {"strategy": strategy}});
    weft::policy::merge(&mut policy, more);
    policy
}

/// Answers checks; attempts are the event loop's.
struct Checks(Arc<Mutex<HashMap<String, CheckResult>>>);

impl Transport for Checks {
    fn send(&self, _: &Attempt, _: &Outgoing<'_>) -> Result<Incoming, Failure> {
        panic!("attempts are sent by the event loop")
    }

    fn probe(&self, probe: &Probe) -> CheckResult {
        self.0.lock().expect("whole")[probe.member.id.as_str()]
    }
}
