//! Instances come and go: nobody notices.

use serde_json::json;
use weft::model::AdminState;

use super::instance::{Instance, Latency, Mood};
use super::sim::{Sim, alike};

const USUAL: Latency = Latency::LogNormal(10.0, 0.5);

#[test]
fn a_rolling_restart_with_draining_fails_no_call_and_repeats_none() {
    let mut sim = alike(Sim::new(1, json!({})), 4, || Instance::new(USUAL));
    for instance in 0..4 {
        let second = 5.0 + 10.0 * f64::from(instance);
        let instance = usize::try_from(instance).expect("small");
        sim.at(second, move |sim| sim.state(instance, AdminState::Drain));
        sim.at(second + 2.0, move |sim| sim.mood(instance, Mood::Down));
        sim.at(second + 7.0, move |sim| {
            sim.mood(instance, Mood::Well);
            sim.state(instance, AdminState::Ready);
        });
    }
    sim.run(1_000.0, 60);
    let all = sim.figures.from(0);
    assert_eq!((all.failed(), all.attempts.len()), (0, all.calls.len()), "{:?}", all.reasons());
}

#[test]
fn a_rolling_restart_without_draining_fails_no_call_either() {
    let mut sim = alike(Sim::new(2, json!({})), 4, || Instance::new(USUAL));
    sim.checks_every(10, 60);
    for instance in 0..4 {
        let second = 5.0 + 12.0 * f64::from(instance);
        let instance = usize::try_from(instance).expect("small");
        sim.at(second, move |sim| sim.mood(instance, Mood::Down));
        sim.at(second + 5.0, move |sim| sim.mood(instance, Mood::Well));
    }
    sim.run(1_000.0, 60);
    let all = sim.figures.from(0);
    println!("{} calls, {} attempts", all.calls.len(), all.attempts.len());
    assert_eq!(all.failed(), 0, "{:?}", all.reasons());
    assert!(all.attempts.len() < all.calls.len() + 200, "a dead instance is left alone after five failures");
}

#[test]
fn a_flapping_instance_costs_no_call_and_little_work() {
    let mut sim = alike(Sim::new(3, json!({"outlier": {"baseEjectionMs": 5_000}})), 4, || Instance::new(USUAL));
    for cycle in 0..30 {
        sim.at(f64::from(cycle) * 10.0, |sim| sim.mood(3, Mood::FailsFast));
        sim.at(f64::from(cycle) * 10.0 + 3.0, |sim| sim.mood(3, Mood::Well));
    }
    sim.run(300.0, 300);
    let all = sim.figures.from(0);
    let service = sim.mesh.metrics().services.remove("users").expect("registered");
    let wasted = all.attempts.len() - all.calls.len();
    println!("{} calls, {wasted} wasted attempts, {} ejections, share {:.3}", all.calls.len(), service.ejections, all.share_of(3));
    assert_eq!(all.failed(), 0, "{:?}", all.reasons());
    assert!(wasted < 30 * 8, "five failures or so each time it goes down: {wasted}");
}
