//! The shape of `GET /metrics` as JSON: the documented keys first, in their documented order.

use std::collections::BTreeMap;

use serde::Serialize;

use super::histogram::Snapshot;
use super::onlookers::OnlookersReport;
use crate::model::time::as_ms;
use crate::policy::breaker::{Control, Status};

/// Everything that is counted.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // The names are the contract's.
pub struct Report {
    pub total_requests: u64,
    pub successful_requests: u64,
    pub failed_requests: u64,
    pub success_rate: String,
    pub average_latency: String,
    pub circuit_breakers: BTreeMap<String, BreakerReport>,
    pub service_health: BTreeMap<String, bool>,
    pub uptime_seconds: u64,
    pub version: &'static str,
    pub unknown_service_requests: u64,
    /// Requests other than calls, by the setting of the limit that was full.
    pub refused: BTreeMap<&'static str, u64>,
    /// Where registrations are kept, and how it is with that.
    pub registry: RegistryReport,
    /// Names whose addresses are instances.
    pub discovery: DiscoveryReport,
    pub onlookers: OnlookersReport,
    pub services: BTreeMap<String, ServiceReport>,
}

/// Where registrations are kept.
#[derive(Clone, PartialEq, Default, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct RegistryReport {
    pub backend: &'static str,
    /// "current", or "stale": what others have changed may not be known.
    pub state: &'static str,
    /// How old what is known may be.
    pub stale_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Instances that are kept although a shared registry does not name them any more.
    pub withheld: usize,
    pub resyncs: u64,
    /// Changes that were refused because the registry did not answer.
    pub refused: u64,
    pub damaged_files: u64,
}

/// Where registrations are kept, at a glance.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // The names are the contract's.
pub struct RegistryGlance {
    pub backend: &'static str,
    /// For how long what is known may have been out of date; left out while it is current.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// The look-ups of names whose addresses are instances.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct DiscoveryReport {
    pub resolutions: u64,
    /// Those that found nothing, or something that cannot be registered.
    pub failures: u64,
    /// Names for which that was so last time.
    pub failing: usize,
}

/// A circuit breaker: exactly the documented keys.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct BreakerReport {
    pub status: Status,
    pub failure_count: u32,
    pub success_count: u32,
}

/// One service.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct ServiceReport {
    pub requests: u64,
    pub successes: u64,
    pub failures: u64,
    pub retries: u64,
    pub in_flight: u32,
    pub queued: u32,
    pub panic: bool,
    pub refused: RefusedReport,
    pub routes: RoutesReport,
    pub breaker: BreakerHistory,
    pub ejections: u64,
    pub retry_budget_left: f64,
    pub latency_ms: LatencyReport,
    pub instances: BTreeMap<String, InstanceReport>,
}

/// What routes have done besides sending.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct RoutesReport {
    pub held_up: u64,
    pub fallbacks: u64,
    pub mirrored: u64,
    pub mirrors_dropped: u64,
}

/// Who decides about a circuit breaker, and how often it has changed.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct BreakerHistory {
    pub control: Control,
    pub opened: u64,
    pub half_opened: u64,
    pub closed: u64,
}

/// Calls that were answered without an attempt, and retries that were left out, by what was full or missing.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct RefusedReport {
    pub circuit_open: u64,
    pub no_healthy_instance: u64,
    pub overloaded: u64,
    pub rate_limited: u64,
    pub fault_injected: u64,
    pub not_allowed: u64,
    pub audited: u64,
    pub retries_over_budget: u64,
    /// By the setting of the limit that was full.
    pub by_limit: BTreeMap<&'static str, u64>,
}

/// One instance.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct InstanceReport {
    pub requests: u64,
    pub failures: u64,
    pub in_flight: u32,
    pub share_percent: f64,
    pub latency_ms: LatencyReport,
    pub state: &'static str,
    pub ejected: bool,
}

/// Quantiles in milliseconds, with three decimals.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[allow(missing_docs)]
pub struct LatencyReport {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

impl From<&Snapshot> for LatencyReport {
    fn from(snapshot: &Snapshot) -> Self {
        let ms = |q| (as_ms(snapshot.quantile(q)) * 1e3).round() / 1e3;
        Self { p50: ms(0.5), p95: ms(0.95), p99: ms(0.99), max: (as_ms(snapshot.max) * 1e3).round() / 1e3 }
    }
}

/// "97.64%", or "0%" before the first call.
pub fn rate(successes: u64, all: u64) -> String {
    if all == 0 {
        return "0%".to_owned();
    }
    format!("{:.2}%", successes as f64 * 100.0 / all as f64)
}

/// "45ms": the mean in whole milliseconds.
pub fn mean_ms(sum_us: u64, count: u64) -> String {
    let mean = if count == 0 { 0.0 } else { sum_us as f64 / count as f64 / 1e3 };
    format!("{mean:.0}ms")
}

/// `part` of `all` in percent, with two decimals.
pub fn percent(part: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { (part as f64 * 10_000.0 / all as f64).round() / 100.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_means_look_as_documented() {
        assert_eq!(rate(0, 0), "0%");
        assert_eq!(rate(0, 7), "0.00%");
        assert_eq!(rate(1_241, 1_271), "97.64%");
        assert_eq!(rate(5, 5), "100.00%");
        assert_eq!(mean_ms(0, 0), "0ms");
        assert_eq!(mean_ms(90_400, 2), "45ms");
        assert_eq!(percent(1, 3), 33.33);
    }
}
