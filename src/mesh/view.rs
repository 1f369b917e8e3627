//! The mesh as it can be seen from outside: services and instances, why each can or cannot be picked, what was counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde::Serialize;

use super::cluster::Cluster;
use super::pick::{is_in, may_be_picked};
use super::ports::Standing;
use super::seat::{Seat, Unavailable};
use super::{Member, Mesh};
use crate::model::Limit;
use crate::model::time::whole_ms;
use crate::policy::Policy;
use crate::policy::balance::{FULL, Strategy};
use crate::policy::breaker::{Control, Status};
use crate::policy::route::{Route, Side};
use crate::telemetry::counters::ServiceCounters;
use crate::telemetry::histogram::Snapshot;
use crate::telemetry::report::{
    self, BreakerHistory, BreakerReport, DiscoveryReport, InstanceReport, LatencyReport, RefusedReport, RegistryGlance, RegistryReport,
    Report, RoutesReport, ServiceReport,
};

/// A service, as `GET /services` shows it.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[allow(missing_docs)] // The names are the contract's.
pub struct ServiceView {
    pub name: String,
    pub instances: Vec<InstanceView>,
    /// Grows with every change of the instances; for `?index=`.
    #[serde(skip)]
    pub index: u64,
}

/// An instance, as `GET /services` shows it.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct InstanceView {
    pub id: String,
    pub host: String,
    pub port: u16,
    pub healthy: bool,
    pub request_count: u64,
    pub avg_response_time: String,
    pub failure_count: u32,
    pub last_health_check: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check_url: Option<String>,
    pub metadata: BTreeMap<String, String>,
    pub weight: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<u32>,
    pub state: &'static str,
    /// Who registered it, where that has been proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registered_by: Option<std::sync::Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_reason: Option<String>,
    pub in_flight: u32,
    pub ejected: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejected_for_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u64>,
}

/// Why each instance of a service can or cannot be picked right now.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Explanation {
    pub service: String,
    pub strategy: Strategy,
    /// The zone that is preferred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// So few instances are healthy that health is ignored.
    pub panic: bool,
    pub circuit_breaker: BreakerReport,
    /// Who decides about it.
    pub breaker_control: Control,
    pub in_flight: u32,
    pub max_in_flight: u32,
    pub queued: u32,
    pub max_queue: u32,
    pub retry_budget_left: f64,
    /// The instance the next call would go to; absent when there is none.
    pub next_pick: Option<String>,
    pub instances: Vec<ExplainedInstance>,
}

/// One instance of an [`Explanation`].
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct ExplainedInstance {
    pub id: String,
    pub available: bool,
    /// A sentence for a person.
    pub why: String,
    pub in_flight: u32,
    pub weight: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What the strategy expects an answer to take, where it goes by that and has seen one; what failed counts as slow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_ms: Option<f64>,
    /// Which sides of which routes it is on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<String>,
}

impl Mesh {
    /// All services with their instances, sorted by name and id.
    pub fn services(&self) -> Vec<ServiceView> {
        let now = self.inner.clock.now();
        // One without instances is about to get its first or has just lost its last.
        self.inner.registry.all().iter().map(|cluster| service_view(cluster, now)).filter(|view| !view.instances.is_empty()).collect()
    }

    /// One service; `None` when it is not registered.
    pub fn service(&self, name: &str) -> Option<ServiceView> {
        let now = self.inner.clock.now();
        self.inner.registry.find(name).map(|cluster| service_view(&cluster, now)).filter(|view| !view.instances.is_empty())
    }

    /// Why each instance of a service can or cannot be picked right now; `None` when it is not registered.
    pub fn explain(&self, name: &str) -> Option<Explanation> {
        let now = self.inner.clock.now();
        let cluster = self.inner.registry.find(name)?;
        Some(cluster.look(|state| {
            let policy = Arc::clone(&state.policy);
            let (panic, busy) = (state.is_panic(now), policy.limits.instance_max_in_flight);
            let mut instances: Vec<ExplainedInstance> =
                state.availability(now).map(|(seat, why)| explained(seat, why.as_ref(), panic, busy, &policy, now)).collect();
            instances.sort_by(|a, b| a.id.cmp(&b.id));
            let (status, failure_count, success_count) = state.breaker.view();
            let open = status == Status::Open;
            Explanation {
                service: cluster.name.to_string(),
                strategy: policy.load_balancing.strategy,
                zone: policy.load_balancing.zone.clone(),
                panic,
                circuit_breaker: BreakerReport { status, failure_count, success_count },
                breaker_control: state.breaker.control(),
                in_flight: state.in_flight,
                max_in_flight: state.policy.limits.max_in_flight,
                queued: u32::try_from(state.queue.len()).unwrap_or(u32::MAX),
                max_queue: state.policy.limits.max_queue,
                retry_budget_left: state.budget.left(&state.policy.retry, now).floor(),
                next_pick: if open { None } else { state.peek(now).map(|id| id.to_string()) },
                instances,
            }
        }))
    }

    /// Everything that is counted.
    pub fn metrics(&self) -> Report {
        self.metrics_of(&|_| true)
    }

    /// As [`Mesh::metrics`], with no word of the services that are not `seen`; totals are those of the whole mesh.
    pub(crate) fn metrics_of(&self, seen: &dyn Fn(&str) -> bool) -> Report {
        let inner = &self.inner;
        let now = inner.clock.now();
        let (successes, failures) = (inner.counters.successes.get(), inner.counters.failures.get());
        let total = successes + failures;
        let mut report = Report {
            registry: RegistryReport::from(&self.standing()),
            discovery: DiscoveryReport {
                resolutions: inner.counters.resolutions.get(),
                failures: inner.counters.failed_resolutions.get(),
                failing: inner.lookups.with(|lookups| lookups.failing()),
            },
            total_requests: total,
            successful_requests: successes,
            failed_requests: failures,
            success_rate: report::rate(successes, total),
            average_latency: report::mean_ms(inner.counters.latency_us.get(), total),
            circuit_breakers: BTreeMap::new(),
            service_health: BTreeMap::new(),
            uptime_seconds: now.saturating_duration_since(inner.started).as_secs(),
            version: env!("CARGO_PKG_VERSION"),
            unknown_service_requests: inner.counters.unknown.get(),
            refused: Limit::OF_THE_MESH.iter().map(|limit| (limit.setting(), inner.counters.refused.get(*limit))).collect(),
            onlookers: inner.onlookers.report(),
            services: BTreeMap::new(),
        };
        for cluster in inner.registry.all().into_iter().filter(|cluster| seen(cluster.name.as_str())) {
            add_service(&mut report, &cluster, now);
        }
        report
    }
}

/// Why an instance can or cannot be picked. `panic`: health is ignored; `busy`: how many attempts it may have in flight.
pub(super) fn explained(
    seat: &mut Seat,
    why: Option<&Unavailable>,
    panic: bool,
    busy: Option<u32>,
    policy: &Policy,
    now: Instant,
) -> ExplainedInstance {
    // One that gets no calls does not warm up by being looked at.
    let percent = if why.is_none() { seat.warmth(&policy.load_balancing, now) } else { FULL };
    ExplainedInstance {
        id: seat.member.id.to_string(),
        available: may_be_picked(seat, panic, now),
        why: match why {
            None if seat.is_full(busy) => "available, but at its limit of attempts in flight: it is passed over".to_owned(),
            None if percent < FULL => format!("available, warming up: {percent} % of its weight"),
            None => "available".to_owned(),
            Some(why) if may_be_picked(seat, panic, now) => {
                format!("available only because too few others are healthy; {}", sentence(why, seat, now))
            }
            Some(why) => sentence(why, seat, now),
        },
        in_flight: seat.in_flight,
        weight: seat.weight().get(),
        zone: seat.registration.zone.clone(),
        expected_ms: seat.ewma.map(|ewma| (ewma.micros(now).round()) / 1e3),
        routes: sides_of(seat, policy),
    }
}

fn service_view(cluster: &Cluster, now: Instant) -> ServiceView {
    // Histograms are read after the lock is left.
    let (index, seats) = cluster.look(|state| {
        let seats: Vec<_> = state.seats.iter().map(|seat| (Arc::clone(&seat.member), instance_view(seat, now))).collect();
        (state.index, seats)
    });
    let mut instances: Vec<InstanceView> = seats
        .into_iter()
        .map(|(member, view)| InstanceView {
            request_count: member.counters.requests.get(),
            avg_response_time: format!("{:.0}ms", member.counters.latency.mean().as_secs_f64() * 1e3),
            ..view
        })
        .collect();
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    ServiceView { name: cluster.name.to_string(), instances, index }
}

/// An instance as it sits there; what is counted is left out.
pub(super) fn instance_view(seat: &Seat, now: Instant) -> InstanceView {
    let registration = &seat.registration;
    InstanceView {
        id: registration.id.to_string(),
        host: registration.host.to_string(),
        port: registration.port.get(),
        healthy: seat.health.is_healthy(),
        request_count: 0,
        avg_response_time: String::new(),
        failure_count: seat.outlier.failures(),
        last_health_check: seat.member.last_check_ms.load(Ordering::Relaxed),
        health_check_url: registration.health_check.as_ref().map(ToString::to_string),
        metadata: registration.metadata.clone().unwrap_or_default(),
        weight: seat.weight().get(),
        zone: registration.zone.clone(),
        max_in_flight: registration.max_in_flight,
        state: seat.admin.as_str(),
        registered_by: registration.owner.clone(),
        state_reason: seat.admin_reason.clone(),
        in_flight: seat.in_flight,
        ejected: seat.outlier.ejected_until(now).is_some(),
        ejected_for_ms: seat.outlier.ejected_until(now).map(|until| whole_ms(until.saturating_duration_since(now))),
        expires_in_seconds: seat.lease_until.map(|until| until.saturating_duration_since(now).as_secs()),
    }
}

/// The sides of routes that an instance is on, each with its share; not too many of them, since calls wait meanwhile.
fn sides_of(seat: &Seat, policy: &Policy) -> Vec<String> {
    let on = |route: &Arc<Route>| {
        let total: u32 = route.sides().iter().map(|side| side.weight).sum();
        let share = |side: &Side| format!("route {}: a side with {} of {total}", route.name, side.weight);
        route.sides().iter().filter(|side| is_in(seat, Some(&side.subset))).map(share).collect::<Vec<_>>()
    };
    policy.routes.iter().flat_map(on).take(MOST_SIDES).collect()
}

/// Of how many sides of routes an instance is explained.
const MOST_SIDES: usize = 20;

fn sentence(why: &Unavailable, seat: &Seat, now: Instant) -> String {
    match why {
        Unavailable::State(state) => {
            let reason = seat.admin_reason.as_ref().map_or(String::new(), |reason| format!(" ({reason})"));
            format!("state is {}{reason}", state.as_str())
        }
        Unavailable::WeightZero => "weight is 0".to_owned(),
        Unavailable::Unhealthy(Some(last)) => format!("unhealthy: {}", last.describe()),
        Unavailable::Unhealthy(None) => "unhealthy: registered so".to_owned(),
        Unavailable::Ejected { until } => {
            let left = until.saturating_duration_since(now);
            format!("ejected for another {} ms because its attempts kept failing", whole_ms(left))
        }
        Unavailable::LeaseOver => "its lease is over: no heartbeat in time".to_owned(),
        Unavailable::NoAddress => "its host name has no usable address".to_owned(),
    }
}

fn add_service(report: &mut Report, cluster: &Cluster, now: Instant) {
    let name = cluster.name.to_string();
    let (breaker, control, in_flight, queued, budget, panic, seats) = cluster.look(|state| {
        let (status, failure_count, success_count) = state.breaker.view();
        let seats: Vec<(Arc<Member>, bool, u32, &'static str, bool)> = state
            .seats
            .iter()
            .map(|seat| {
                let ejected = seat.outlier.ejected_until(now).is_some();
                (Arc::clone(&seat.member), seat.health.is_healthy(), seat.in_flight, seat.admin.as_str(), ejected)
            })
            .collect();
        let breaker = BreakerReport { status, failure_count, success_count };
        let queued = u32::try_from(state.queue.len()).unwrap_or(u32::MAX);
        let budget = state.budget.left(&state.policy.retry, now);
        (breaker, state.breaker.control(), state.in_flight, queued, budget, state.is_panic(now), seats)
    });
    let all: u64 = seats.iter().map(|(member, ..)| member.counters.requests.get()).sum();
    let latency = |snapshot: Snapshot| LatencyReport::from(&snapshot);
    let mut instances = BTreeMap::new();
    for (member, healthy, in_flight, state, ejected) in seats {
        report.service_health.insert(format!("{name}:{}", member.id), healthy);
        let requests = member.counters.requests.get();
        instances.insert(
            member.id.to_string(),
            InstanceReport {
                requests,
                failures: member.counters.failures.get(),
                in_flight,
                share_percent: report::percent(requests, all),
                latency_ms: latency(member.counters.latency.snapshot()),
                state,
                ejected,
            },
        );
    }
    let counters = &cluster.counters;
    let (successes, failures) = (counters.successes.get(), counters.failures.get());
    report.circuit_breakers.insert(name.clone(), breaker);
    report.services.insert(
        name,
        ServiceReport {
            requests: successes + failures,
            successes,
            failures,
            retries: counters.retries.get(),
            in_flight,
            queued,
            panic,
            refused: refused(counters),
            routes: RoutesReport {
                held_up: counters.held_up.get(),
                fallbacks: counters.fallbacks.get(),
                mirrored: counters.mirrored.get(),
                mirrors_dropped: counters.mirrors_dropped.get(),
            },
            breaker: BreakerHistory {
                control,
                opened: counters.breaker_opened.get(),
                half_opened: counters.breaker_half_opened.get(),
                closed: counters.breaker_closed.get(),
            },
            ejections: counters.ejections.get(),
            retry_budget_left: budget.floor(),
            latency_ms: latency(counters.latency.snapshot()),
            instances,
        },
    );
}

impl From<&Standing> for RegistryReport {
    fn from(standing: &Standing) -> Self {
        let (age, why) = standing.stale.clone().unzip();
        Self {
            backend: standing.backend,
            state: if age.is_some() { "stale" } else { "current" },
            stale_seconds: age.map_or(0.0, |age| (age.as_secs_f64() * 1e3).round() / 1e3),
            why,
            withheld: standing.withheld,
            resyncs: standing.resyncs,
            refused: standing.refused,
            damaged_files: standing.damaged_files,
        }
    }
}

impl From<&Standing> for RegistryGlance {
    fn from(standing: &Standing) -> Self {
        let (age, why) = standing.stale.clone().unzip();
        // Stale for no time yet is stale all the same.
        let stale_ms = age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX).max(1));
        Self { backend: standing.backend, stale_ms, why }
    }
}

pub(super) fn refused(counters: &ServiceCounters) -> RefusedReport {
    let of = |limits: &[Limit]| limits.iter().map(|limit| counters.by_limit.get(*limit)).sum();
    RefusedReport {
        circuit_open: counters.circuit_open.get(),
        no_healthy_instance: counters.no_instance.get(),
        overloaded: of(&[Limit::Queue, Limit::QueueTimeout, Limit::Workers, Limit::CallerInFlight, Limit::Files]),
        rate_limited: of(&[Limit::Rate, Limit::CallerRate]),
        fault_injected: counters.fault_injected.get(),
        not_allowed: counters.not_allowed.get(),
        audited: counters.audited.get(),
        retries_over_budget: counters.budget_exhausted.get(),
        by_limit: Limit::OF_CALLS.iter().map(|limit| (limit.setting(), counters.by_limit.get(*limit))).collect(),
    }
}
