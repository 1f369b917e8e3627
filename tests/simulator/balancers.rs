//! One instance is worse than the others: who notices, and what the callers see of it.

use serde_json::json;

use super::instance::{Instance, Latency, Mood};
use super::sim::{Sim, alike, balanced};

/// Real services: most answers come in 10 ms, one in a hundred takes ten times that.
const USUAL: Latency = Latency::LogNormal(10.0, 1.0);
const TEN_TIMES: Latency = Latency::LogNormal(100.0, 1.0);
const STRATEGIES: [&str; 5] = ["round_robin", "random", "weighted_random", "least_connections", "peak_ewma"];

/// p99 of a service of five under 1500 calls a second, in milliseconds, and the share of the fifth.
fn p99(strategy: &str, fifth: Latency) -> (f64, f64) {
    let sim = Sim::new(7, balanced(strategy, &json!({})));
    let mut sim = alike(sim, 4, || Instance::new(USUAL)).with(Instance::new(fifth));
    sim.run(1_500.0, 30);
    let part = sim.figures.from(5);
    assert_eq!(part.failed(), 0);
    (part.quantile(0.99), part.share_of(4))
}

#[test]
fn one_slow_instance_of_five_under_each_balancer() {
    println!("| strategy | p99, all fast | p99, one ten times slower | ratio | its share |");
    let mut ratios = std::collections::BTreeMap::new();
    for strategy in STRATEGIES {
        let ((fast, _), (slow, share)) = (p99(strategy, USUAL), p99(strategy, TEN_TIMES));
        println!("| {strategy} | {fast:.0} ms | {slow:.0} ms | {:.2} | {:.2} % |", slow / fast, share * 100.0);
        ratios.insert(strategy, slow / fast);
    }
    assert!(ratios["peak_ewma"] <= 1.2, "{ratios:?}");
    assert!(ratios["least_connections"] <= 2.0, "{ratios:?}");
    assert!(ratios["round_robin"] > 2.0, "the scenario would show nothing: {ratios:?}");
}

#[test]
fn a_fast_failing_instance_attracts_nothing() {
    let sim = Sim::new(3, balanced("peak_ewma", &json!({})));
    let mut sim = alike(sim, 5, || Instance::new(USUAL));
    sim.at(5.0, |sim| sim.mood(4, Mood::FailsFast));
    sim.run(1_000.0, 60);
    let part = sim.figures.from(5);
    println!("share {:.3} %, {} of {} calls failed", part.share_of(4) * 100.0, part.failed(), part.calls.len());
    assert!(part.share_of(4) <= 0.02, "{}", part.share_of(4));
    assert_eq!(part.failed(), 0, "{:?}", part.reasons());
}

#[test]
fn a_cold_instance_hurts_less_with_slow_start() {
    let p99_after_join = |slow_start_ms: u64| {
        let sim = Sim::new(5, json!({"loadBalancing": {"slowStartMs": slow_start_ms}}));
        let mut sim = alike(sim, 4, || Instance::new(Latency::LogNormal(10.0, 0.3)));
        // Cold, it takes twenty times as long, until it has served a thousand requests.
        sim.at(20.0, |sim| {
            sim.add(Instance::new(Latency::LogNormal(10.0, 0.3)).cold(1_000, 20.0), |_| ());
        });
        sim.run(1_000.0, 60);
        assert_eq!(sim.figures.from(0).failed(), 0);
        let share = sim.figures.between(50, 60).share_of(4);
        assert!((share - 0.2).abs() < 0.01, "warm, it has its full share: {share}");
        (sim.figures.between(20, 25).quantile(0.95), sim.figures.between(20, 25).quantile(0.99))
    };
    let (cold, warmed) = (p99_after_join(0), p99_after_join(20_000));
    println!(
        "p95, p99 in the first five seconds: {:.0}, {:.0} ms without, {:.0}, {:.0} ms with slow start",
        cold.0, cold.1, warmed.0, warmed.1
    );
    assert!(warmed.0 < cold.0 / 3.0, "{cold:?} {warmed:?}");
}
