//! The mesh at a glance: is every service fine, and if not, which, why and since when; and what was counted lately. For those who look
//! again and again: cheap to make, small, and only what is new since the last look.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Mesh;
use super::cluster::{Cluster, State};
use super::member::Member;
use super::pick::may_be_picked;
use super::seat::{Seat, Unavailable};
use super::view::{InstanceView, explained, instance_view, refused};
use crate::model::Limit;
use crate::model::time::as_ms;
use crate::policy::balance::Strategy;
use crate::policy::breaker::Control;
use crate::telemetry::histogram::Snapshot;
use crate::telemetry::history::{Counts, Lately, Points, STEP};
use crate::telemetry::report::{BreakerReport, LatencyReport, RefusedReport, RegistryGlance, percent};
use crate::telemetry::verdict::{Facts, Heads, Level, Trouble, judge, slowest};

/// All services.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // The names are the contract's.
pub struct Overview {
    pub version: &'static str,
    /// Milliseconds since the Unix epoch.
    pub started_at: u64,
    /// Time from one point to the next, in milliseconds.
    pub step_ms: u64,
    /// The number of the newest step: the `since` to ask with next.
    pub step: u64,
    /// The worst of all services'.
    pub level: Level,
    pub heads: Heads,
    /// Calls since the start, as in `GET /metrics`.
    pub requests: u64,
    pub failures: u64,
    pub recent: RecentReport,
    pub in_flight: u32,
    pub queued: u32,
    pub unknown_service_requests: u64,
    /// Requests other than calls that were refused, by the setting of the limit that was full.
    pub refused: std::collections::BTreeMap<&'static str, u64>,
    /// The number of the last event: what is new is in `GET /events?since=`.
    pub events: u64,
    /// How many single calls have been kept so far: while it stays the same, there is nothing new in `GET /traces`.
    pub traces: u64,
    /// Where registrations are kept.
    pub registry: RegistryGlance,
    /// All services there are, those that are not shown included.
    pub services_total: usize,
    /// Those that are worst off first, then by name. Not written with the rest: which of them somebody may see, and how many at once, is up to
    /// whoever shows them.
    #[serde(skip)]
    pub services: Vec<ServiceOverview>,
}

/// One service.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct ServiceOverview {
    pub name: String,
    pub level: Level,
    /// What is the matter, the worst first.
    pub troubles: Vec<Trouble>,
    /// Since when something has been, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    pub circuit_breaker: BreakerReport,
    pub breaker_control: Control,
    pub heads: Heads,
    pub in_flight: u32,
    pub queued: u32,
    pub panic: bool,
    pub retry_budget_left: f64,
    pub requests: u64,
    pub failures: u64,
    pub recent: RecentReport,
    #[serde(skip)]
    lately: Lately,
}

/// About the last minute.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct RecentReport {
    /// How long it was.
    pub seconds: f64,
    pub calls: u64,
    pub failures: u64,
    pub retries: u64,
    pub latency_ms: LatencyReport,
}

/// One service in detail, with a page of its instances.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Detail {
    #[serde(flatten)]
    pub service: ServiceOverview,
    pub strategy: Strategy,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The instance the next call would go to; absent when there is none.
    pub next_pick: Option<String>,
    pub max_in_flight: u32,
    pub max_queue: u32,
    pub refused: RefusedReport,
    pub retries: u64,
    pub ejections: u64,
    pub latency_ms: LatencyReport,
    pub instances: Vec<InstanceOverview>,
}

/// One instance.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct InstanceOverview {
    #[serde(flatten)]
    pub view: InstanceView,
    pub level: Level,
    pub available: bool,
    /// Why it can or cannot be picked, for a person.
    pub why: String,
    pub failures: u64,
    /// Of the attempts of the last minute.
    pub share_percent: f64,
    /// Much slower than the others.
    pub slow: bool,
    pub recent: RecentReport,
}

/// In which order instances are shown.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Sort {
    /// Those that are worst off first.
    #[default]
    Level,
    /// The slowest of the last minute first.
    Latency,
    /// The busiest of the last minute first.
    Calls,
    /// Those that failed most in the last minute first.
    Failures,
    /// By id.
    Id,
}

/// What all views of a service have in common, as it is right now.
struct Now {
    heads: Heads,
    panic: bool,
    queued: u32,
    in_flight: u32,
    breaker: BreakerReport,
    control: Control,
    budget: f64,
}

/// An instance on its way into a view.
struct Sitting {
    member: Arc<Member>,
    level: Level,
    lately: Lately,
}

impl Mesh {
    /// Takes a step of the history; to be called every [`STEP`] by whoever wants one. Takes no lock that a call waits for while it counts.
    pub fn remember(&self) {
        let inner = &self.inner;
        let (now, at) = (inner.clock.now(), inner.clock.wall_ms());
        let step = inner.whole.with(|whole| whole.step) + 1;
        let (mut counts, mut latency) = (Counts::default(), Snapshot::default());
        for cluster in inner.registry.all() {
            let members = cluster.look(|state| state.seats.iter().map(|seat| Arc::clone(&seat.member)).collect::<Vec<_>>());
            let mut speeds = Vec::with_capacity(members.len());
            for member in &members {
                let (counts, latency) = (counts_of(member), member.counters.latency.snapshot());
                let lately = member.recent.with(|recent| {
                    recent.step(step, now, counts, &latency);
                    recent.lately(now, counts, &latency)
                });
                speeds.push((lately.counts.calls, as_ms(lately.latency.quantile(0.5))));
            }
            let slow = slowest(&speeds).and_then(|at| members.get(at)).map(|member| member.id.to_string());
            let (so_far, took) = (cluster.counts(), cluster.counters.latency.snapshot());
            let (more, times) = cluster.history.with(|history| {
                history.slow = slow;
                history.step(step, now, so_far, &took)
            });
            counts.add(&more);
            latency.add(&times);
            service(&cluster, now, at);
        }
        inner.whole.with(|whole| whole.step(step, at, &counts, &latency));
    }

    /// All services at a glance.
    pub fn overview(&self) -> Overview {
        let inner = &self.inner;
        let (now, at) = (inner.clock.now(), inner.clock.wall_ms());
        let mut services: Vec<ServiceOverview> =
            inner.registry.all().iter().map(|cluster| service(cluster, now, at)).filter(|service| service.heads.total > 0).collect();
        services.sort_by(|a, b| b.level.cmp(&a.level).then_with(|| a.name.cmp(&b.name)));
        let mut whole = Lately { time: STEP, counts: Counts::default(), latency: Snapshot::default() };
        let (mut heads, mut in_flight, mut queued) = (Heads::default(), 0_u32, 0_u32);
        for service in &services {
            whole.time = whole.time.max(service.lately.time);
            whole.counts.add(&service.lately.counts);
            whole.latency.add(&service.lately.latency);
            heads.add(&service.heads);
            in_flight = in_flight.saturating_add(service.in_flight);
            queued = queued.saturating_add(service.queued);
        }
        let (successes, failures) = (inner.counters.successes.get(), inner.counters.failures.get());
        Overview {
            version: env!("CARGO_PKG_VERSION"),
            started_at: inner.started_ms,
            step_ms: u64::try_from(STEP.as_millis()).unwrap_or(u64::MAX),
            step: inner.whole.with(|whole| whole.step),
            level: services.first().map_or(Level::Fine, |worst| worst.level),
            heads,
            requests: successes + failures,
            failures,
            recent: RecentReport::from(&whole),
            in_flight,
            queued,
            unknown_service_requests: inner.counters.unknown.get(),
            refused: Limit::OF_THE_MESH.iter().map(|limit| (limit.setting(), inner.counters.refused.get(*limit))).collect(),
            events: inner.events.last(),
            traces: inner.onlookers.traces.number(),
            registry: RegistryGlance::from(&self.standing()),
            services_total: services.len(),
            services,
        }
    }

    /// When the steps after number `seen` ended, in milliseconds since the Unix epoch, and the points of all services together.
    pub fn points(&self, seen: u64) -> (Vec<u64>, Points) {
        self.inner.whole.with(|whole| (whole.times(seen), whole.track.points(seen, whole.step)))
    }

    /// The points of one service after step `seen` and up to step `until`; none when it is not registered.
    pub fn points_of(&self, service: &str, seen: u64, until: u64) -> Points {
        let cluster = self.inner.registry.find(service);
        cluster.map_or_else(Points::default, |cluster| cluster.history.with(|history| history.track.points(seen, until)))
    }

    /// One service in detail, with `limit` of its instances from place `from` of the order on; `None` when it is not registered.
    pub fn detail(&self, name: &str, sort: Sort, from: usize, limit: usize) -> Option<Detail> {
        let inner = &self.inner;
        let (now, at) = (inner.clock.now(), inner.clock.wall_ms());
        let cluster = inner.registry.find(name)?;
        let overview = service(&cluster, now, at);
        let seated: Vec<(Arc<Member>, Level)> =
            cluster.look(|state| state.availability(now).map(|(seat, why)| (Arc::clone(&seat.member), level_of(why.as_ref()))).collect());
        // Histograms are read after the lock is left.
        let mut all: Vec<Sitting> = seated.into_iter().map(|(member, level)| Sitting::new(member, level, now)).collect();
        if all.is_empty() {
            return None;
        }
        let attempts: u64 = all.iter().map(|one| one.lately.counts.calls).sum();
        all.sort_by(|a, b| sort.compare(a, b).then_with(|| a.member.id.as_str().cmp(b.member.id.as_str())));
        let page: Vec<Sitting> = all.into_iter().skip(from).take(limit).collect();
        let slow = cluster.history.with(|history| history.slow.clone());
        let counters = &cluster.counters;
        let (strategy, zone, next_pick, limits, views) = cluster.look(|state| {
            let policy = Arc::clone(&state.policy);
            let panic = state.is_panic(now);
            let next_pick = if state.breaker.is_open() { None } else { state.peek(now).map(|id| id.to_string()) };
            let views: Vec<_> = page.iter().map(|one| one.view(state, panic, now)).collect();
            let limits = (policy.limits.max_in_flight, policy.limits.max_queue);
            (policy.load_balancing.strategy, policy.load_balancing.zone.clone(), next_pick, limits, views)
        });
        let instances = page.iter().zip(views).filter_map(|(one, view)| {
            let (view, available, why) = view?;
            let is_slow = slow.as_deref() == Some(one.member.id.as_str());
            Some(one.overview(view, available, why, is_slow, attempts))
        });
        Some(Detail {
            strategy,
            zone,
            next_pick,
            max_in_flight: limits.0,
            max_queue: limits.1,
            refused: refused(counters),
            retries: counters.retries.get(),
            ejections: counters.ejections.get(),
            latency_ms: LatencyReport::from(&counters.latency.snapshot()),
            instances: instances.collect(),
            service: overview,
        })
    }
}

impl Cluster {
    fn counts(&self) -> Counts {
        let counters = &self.counters;
        let failures = counters.failures.get();
        Counts {
            calls: counters.successes.get() + failures,
            failures,
            retries: counters.retries.get(),
            refused: Limit::OF_CALLS.iter().map(|limit| counters.by_limit.get(*limit)).sum(),
            over_budget: counters.budget_exhausted.get(),
        }
    }
}

fn counts_of(member: &Member) -> Counts {
    Counts { calls: member.counters.requests.get(), failures: member.counters.failures.get(), ..Counts::default() }
}

/// One service as it is at `now`, which is `at` milliseconds since the Unix epoch.
fn service(cluster: &Cluster, now: Instant, at: u64) -> ServiceOverview {
    let Now { heads, panic, queued, in_flight, breaker, control, budget } = cluster.look(|state| state.at_a_glance(now));
    let (counts, latency) = (cluster.counts(), cluster.counters.latency.snapshot());
    let (lately, slow) = cluster.history.with(|history| (history.recent.lately(now, counts, &latency), history.slow.clone()));
    let troubles = judge(&Facts { breaker: breaker.status, control, heads, panic, queued, lately: &lately, slow: slow.as_deref() });
    ServiceOverview {
        name: cluster.name.to_string(),
        level: troubles.first().map_or(Level::Fine, |worst| worst.level),
        since: cluster.history.with(|history| history.standing.take(&troubles, at)),
        troubles,
        circuit_breaker: breaker,
        breaker_control: control,
        heads,
        in_flight,
        queued,
        panic,
        retry_budget_left: budget,
        requests: counts.calls,
        failures: counts.failures,
        recent: RecentReport::from(&lately),
        lately,
    }
}

impl State {
    fn at_a_glance(&mut self, now: Instant) -> Now {
        let mut heads = Heads::default();
        for (_, why) in self.availability(now) {
            heads.count(why.as_ref());
        }
        let (status, failure_count, success_count) = self.breaker.view();
        Now {
            heads,
            panic: self.is_panic(now),
            queued: u32::try_from(self.queue.len()).unwrap_or(u32::MAX),
            in_flight: self.in_flight,
            breaker: BreakerReport { status, failure_count, success_count },
            control: self.breaker.control(),
            budget: self.budget.left(&self.policy.retry, now).floor(),
        }
    }
}

impl Heads {
    const fn count(&mut self, why: Option<&Unavailable>) {
        self.total += 1;
        match why {
            None => self.available += 1,
            Some(Unavailable::State(_) | Unavailable::WeightZero) => self.paused += 1,
            Some(Unavailable::Ejected { .. }) => self.ejected += 1,
            Some(Unavailable::Unhealthy(_) | Unavailable::LeaseOver | Unavailable::NoAddress) => self.unhealthy += 1,
        }
    }

    const fn add(&mut self, other: &Self) {
        self.total += other.total;
        self.available += other.available;
        self.paused += other.paused;
        self.ejected += other.ejected;
        self.unhealthy += other.unhealthy;
    }
}

const fn level_of(why: Option<&Unavailable>) -> Level {
    match why {
        None => Level::Fine,
        Some(Unavailable::State(_) | Unavailable::WeightZero) => Level::Paused,
        Some(Unavailable::Ejected { .. }) => Level::Degraded,
        Some(Unavailable::Unhealthy(_) | Unavailable::LeaseOver | Unavailable::NoAddress) => Level::Down,
    }
}

impl Sort {
    fn compare(self, a: &Sitting, b: &Sitting) -> Ordering {
        match self {
            Self::Level => b.level.cmp(&a.level),
            Self::Latency => b.lately.latency.quantile(0.95).cmp(&a.lately.latency.quantile(0.95)),
            Self::Calls => b.lately.counts.calls.cmp(&a.lately.counts.calls),
            Self::Failures => b.lately.counts.failures.cmp(&a.lately.counts.failures),
            Self::Id => Ordering::Equal,
        }
    }
}

impl Sitting {
    fn new(member: Arc<Member>, level: Level, now: Instant) -> Self {
        let (counts, latency) = (counts_of(&member), member.counters.latency.snapshot());
        let lately = member.recent.with(|recent| recent.lately(now, counts, &latency));
        Self { member, level, lately }
    }

    /// Its place in the service; `None` when it has gone meanwhile.
    fn view(&self, state: &mut State, panic: bool, now: Instant) -> Option<(InstanceView, bool, String)> {
        let policy = Arc::clone(&state.policy);
        let seat: &mut Seat = state.seats.iter_mut().find(|seat| Arc::ptr_eq(&seat.member, &self.member))?;
        let why = seat.unavailable(now);
        let explained = explained(seat, why.as_ref(), panic, policy.limits.instance_max_in_flight, &policy, now);
        Some((instance_view(seat, now), may_be_picked(seat, panic, now), explained.why))
    }

    fn overview(&self, view: InstanceView, available: bool, why: String, slow: bool, attempts: u64) -> InstanceOverview {
        let counters = &self.member.counters;
        InstanceOverview {
            view: InstanceView {
                request_count: counters.requests.get(),
                avg_response_time: format!("{:.0}ms", as_ms(counters.latency.mean())),
                ..view
            },
            level: self.level,
            available,
            why,
            failures: counters.failures.get(),
            share_percent: percent(self.lately.counts.calls, attempts),
            slow,
            recent: RecentReport::from(&self.lately),
        }
    }
}

impl From<&Lately> for RecentReport {
    fn from(lately: &Lately) -> Self {
        let Lately { time, counts, latency } = lately;
        let seconds = (time.max(&Duration::from_secs(1)).as_secs_f64() * 10.0).round() / 10.0;
        Self { seconds, calls: counts.calls, failures: counts.failures, retries: counts.retries, latency_ms: LatencyReport::from(latency) }
    }
}
