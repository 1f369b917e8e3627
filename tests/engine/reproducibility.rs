//! The same seed, the same world: every number, every event, every id.

use serde_json::json;
use weft::model::{AdminState, HealthTarget};
use weft::policy::health::CheckResult::{Answered, Passed, TimedOut};

use super::world::{World, answer, get, hang, ms, ok, post, refuse, reset, stale, unreachable};

/// A busy hour, and all that can be seen of it.
fn history(seed: u64) -> String {
    let world = World::seeded(seed).policy(json!({"retry": {"jitter": 1}, "loadBalancing": {"strategy": "least_connections"}}));
    let world = world
        .with("a", [ok().after(12), answer(500).after(3), ok().after(7), reset(), answer(404)])
        .with("b", [refuse(), refuse(), unreachable(), ok().after(30), stale(false), answer(503).header("Retry-After", "1")])
        .with("c", [hang(), ok().cut_off(), answer(429), ok()]);
    world.register("a", |registration| registration.health_check = HealthTarget::new("http://10.0.0.1/health").ok());
    world.checks("a", [Passed, TimedOut, Answered(503), Answered(503), Passed]);
    let mut seen = String::new();
    for round in 0..60 {
        let call = if round % 3 == 0 { post() } else { get().timeout(ms(50 + 400 * (round % 5))) };
        seen += &format!("{:?}\n", world.invoke(&call));
        world.pass(1_000 * (round % 7));
        match round {
            20 => world.weight("b", 5),
            25 => world.state("c", AdminState::Drain),
            _ if round % 10 == 0 => world.mesh.check_now(),
            _ => {}
        }
    }
    let metrics = serde_json::to_string_pretty(&world.mesh.metrics()).expect("JSON");
    let events = serde_json::to_string_pretty(&world.mesh.events(0)).expect("JSON");
    let services = serde_json::to_string_pretty(&world.mesh.services()).expect("JSON");
    let explained = serde_json::to_string_pretty(&world.explain()).expect("JSON");
    let sent: String = world.deliveries().iter().map(|sent| format!("{} {:?} {:?}\n", sent.instance, sent.headers, sent.timeout)).collect();
    [seen, metrics, events, services, explained, sent, format!("{:?}", world.times())].join("\n")
}

#[test]
fn the_same_seed_gives_the_same_history_to_the_last_byte() {
    for seed in 0..20 {
        let (one, other) = (history(seed), history(seed));
        if let Some((left, right)) = one.lines().zip(other.lines()).find(|(left, right)| left != right) {
            panic!("seed {seed}: {left}\ninstead of {right}");
        }
        assert_eq!(one.len(), other.len(), "seed {seed}");
    }
}

#[test]
fn another_seed_gives_another_one() {
    assert_ne!(history(1), history(2));
}
