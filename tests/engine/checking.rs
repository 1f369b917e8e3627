//! The health checker's threads: how long some instances take to answer is not how long others wait to be asked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use weft::mesh::call::Attempt;
use weft::mesh::ports::{Incoming, Outgoing, Probe, Transport};
use weft::model::time::{Clock, SystemClock};
use weft::model::{Failure, HealthTarget};
use weft::policy::health::CheckResult;
use weft::{Mesh, Registration};

use super::world::{ms, until};

/// Real time, and some more.
#[derive(Clone, Default)]
struct Ahead(Arc<Mutex<Duration>>);

impl Clock for Ahead {
    fn now(&self) -> Instant {
        SystemClock.now() + *self.0.lock().expect("no panic inside")
    }

    fn wall_ms(&self) -> u64 {
        SystemClock.wall_ms()
    }

    fn park_until(&self, until: Instant) {
        SystemClock.park_until(until);
    }
}

/// Instances of the service `slow` answer at the end of a round, all others at once.
#[derive(Clone, Default)]
struct Instances {
    /// How many wait for the end of each round.
    waiting: Arc<[AtomicUsize; 3]>,
    round: Arc<(Mutex<Round>, Condvar)>,
    others: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, PartialEq, Default)]
enum Round {
    #[default]
    First,
    Second,
    Over,
}

impl Instances {
    fn begin(&self, round: Round) {
        *self.round.0.lock().expect("no panic inside") = round;
        self.round.1.notify_all();
    }

    fn waiting(&self, round: Round) -> usize {
        self.waiting[round as usize].load(Ordering::SeqCst)
    }

    fn others(&self) -> usize {
        self.others.load(Ordering::SeqCst)
    }
}

impl Transport for Instances {
    fn send(&self, _: &Attempt, _: &Outgoing<'_>) -> Result<Incoming, Failure> {
        Err(Failure::Reset)
    }

    fn probe(&self, probe: &Probe) -> CheckResult {
        if probe.member.service.as_str() == "slow" {
            let (round, changed) = &*self.round;
            let now = round.lock().expect("no panic inside");
            let begun = *now;
            self.waiting[begun as usize].fetch_add(1, Ordering::SeqCst);
            drop(changed.wait_while(now, |now| *now == begun && *now != Round::Over));
            self.waiting[begun as usize].fetch_sub(1, Ordering::SeqCst);
        } else {
            self.others.fetch_add(1, Ordering::SeqCst);
        }
        CheckResult::Passed
    }
}

#[test]
fn instances_that_answer_late_but_in_time_delay_the_checks_of_no_other() {
    const THREADS: usize = 64;
    let (instances, clock) = (Instances::default(), Ahead::default());
    let mesh = Mesh::builder()
        .transport(instances.clone())
        .clock(Arc::new(clock.clone()))
        .defaults(json!({"healthCheck": {"intervalMs": 10, "timeoutMs": 5000}}))
        .build()
        .expect("a mesh");
    let register = |service: &str, id: usize| {
        let mut registration = Registration::new(service, &id.to_string(), "10.0.0.1", 4001).expect("valid");
        registration.health_check = HealthTarget::new("http://10.0.0.1:4001/").ok();
        mesh.register(registration).expect("registered");
    };
    (0..THREADS).for_each(|id| register("slow", id));
    until(|| instances.waiting(Round::First) == THREADS);
    // They take three seconds of five.
    *clock.0.lock().expect("no panic inside") += ms(3_000);
    // More than one, in case the machine holds one up.
    (0..4).for_each(|id| register("quick", id));
    instances.begin(Round::Second);
    // Asked again, they hold half of the threads and no more.
    until(|| instances.waiting(Round::First) == 0 && instances.waiting(Round::Second) >= THREADS / 2);
    for _ in 0..5 {
        let before = instances.others();
        until(|| instances.others() > before + 3);
        assert_eq!(instances.waiting(Round::Second), THREADS / 2);
    }
    instances.begin(Round::Over);
}
