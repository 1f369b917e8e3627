//! Everything fails for a while: what the mesh adds to it, and how it comes back.

use serde_json::json;

use super::instance::{Instance, Latency, Mood};
use super::sim::{Sim, alike};

const USUAL: Latency = Latency::LogNormal(10.0, 0.5);

#[test]
fn retries_do_not_become_a_storm() {
    // The circuit breaker would stop it; here it stays out of the way.
    let sim = Sim::new(1, json!({"circuitBreaker": {"failureThreshold": 1_000_000}, "outlier": {"consecutiveFailures": 1_000_000}}));
    let mut sim = alike(sim, 4, || Instance::new(USUAL));
    sim.at(10.0, |sim| (0..4).for_each(|instance| sim.mood(instance, Mood::FailsFast)));
    sim.run(500.0, 60);
    let all = sim.figures.between(10, 60);
    let (calls, attempts) = (all.calls.len() as f64, all.attempts.len() as f64);
    println!("{calls} calls, {attempts} attempts: {:.3} a call", attempts / calls);
    // What ten quiet seconds saved up, then a fifth of the calls and ten a second.
    assert!(attempts <= 1.2 * calls + 10.0 * 50.0 + 100.0, "{attempts} attempts for {calls} calls");
    let later = sim.figures.between(12, 60);
    let (calls, attempts) = (later.calls.len() as f64, later.attempts.len() as f64);
    assert!(attempts <= 1.2 * calls + 10.0 * 48.0 + 10.0, "{attempts} attempts for {calls} calls once the burst is over");
}

#[test]
fn with_the_breaker_a_dead_service_gets_next_to_nothing() {
    // Without retries, whose budget would be empty: a call that the budget cut short says nothing about the service.
    let sim = Sim::new(1, json!({"circuitBreaker": {"timeoutMs": 5_000}, "retry": {"maxRetries": 0}}));
    let mut sim = alike(sim, 4, || Instance::new(USUAL));
    sim.at(10.0, |sim| (0..4).for_each(|instance| sim.mood(instance, Mood::FailsFast)));
    sim.run(500.0, 60);
    let outage = sim.figures.between(11, 60);
    println!("{} attempts for {} calls; {:?}", outage.attempts.len(), outage.calls.len(), outage.reasons());
    assert!(outage.attempts.len() <= 2 * 11, "two trials every five seconds: {}", outage.attempts.len());
    assert!(outage.reasons()["circuit_open"] * 1000 > outage.calls.len() * 998);
}

#[test]
fn a_service_comes_back_from_an_outage_without_a_herd() {
    // Room for 1600 calls a second, 1000 offered.
    let sim = Sim::new(
        2,
        json!({"circuitBreaker": {"timeoutMs": 2_000}, "limits": {"maxInFlight": 200}, "timeouts": {"totalMs": 2_000, "attemptMs": 1_000}}),
    );
    let mut sim = alike(sim, 4, || Instance::new(Latency::Fixed(10.0)).with_room(4));
    sim.at(10.0, |sim| (0..4).for_each(|instance| sim.mood(instance, Mood::Down)));
    sim.at(25.0, |sim| (0..4).for_each(|instance| sim.mood(instance, Mood::Well)));
    // Half of them have been ejected; a check that passes brings them back.
    sim.checks_every(3, 50);
    sim.run(1_000.0, 50);
    // It is tried at most two seconds after.
    for second in 27..35 {
        let part = sim.figures.between(second, second + 1);
        let ratio = part.attempts.len() as f64 / part.calls.len() as f64;
        println!(
            "second {second}: {} calls, {:.2} attempts each, {} failed, p99 {:.0} ms",
            part.calls.len(),
            ratio,
            part.failed(),
            part.quantile(0.99)
        );
        assert!(ratio <= 1.2, "second {second}: {ratio}");
    }
    let back = sim.figures.between(30, 50);
    assert_eq!(back.failed(), 0, "{:?}", back.reasons());
    assert!(back.quantile(0.99) < 60.0, "{}", back.quantile(0.99));
}

#[test]
fn a_zone_goes_and_comes_back() {
    let mut sim = Sim::new(4, json!({"loadBalancing": {"zone": "east"}, "healthCheck": {"unhealthyThreshold": 1}}));
    for zone in ["east", "east", "east", "west", "west", "west"] {
        sim.add(Instance::new(USUAL), |registration| registration.zone = Some(zone.to_owned()));
    }
    sim.at(20.0, |sim| (0..3).for_each(|instance| sim.mood(instance, Mood::Down)));
    sim.at(60.0, |sim| (0..3).for_each(|instance| sim.mood(instance, Mood::Well)));
    sim.checks_every(5, 120);
    sim.run(500.0, 120);
    let west = |from, to| {
        let part = sim.figures.between(from, to);
        (3..6).map(|instance| part.share_of(instance)).sum::<f64>()
    };
    let all = sim.figures.from(0);
    println!(
        "west: {:.3} before, {:.3} during, {:.3} after; {} of {} calls failed",
        west(0, 20),
        west(30, 60),
        west(70, 120),
        all.failed(),
        all.calls.len()
    );
    assert_eq!((west(0, 20), west(70, 120)), (0.0, 0.0));
    assert!(west(30, 60) > 0.999, "{}", west(30, 60));
    assert_eq!(all.failed(), 0, "{:?}", all.reasons());
}
