//! Taking the picture that metrics are written from: each service is looked at for a moment, and nothing is held while anything is written.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Mesh;
use super::cluster::{Cluster, State};
use super::member::Member;
use super::ports;
use super::seat::{Seat, Unavailable};
use crate::model::AdminState;
use crate::telemetry::exposition::Format;
use crate::telemetry::picture::{InstanceNow, InstancePicture, MeshPicture, Picture, RegistryNow, ServiceNow, ServicePicture, Standing};
use crate::telemetry::table;

/// A service and its instances, each as it was.
type Taken = (Arc<Cluster>, ServiceNow, Vec<(Arc<Member>, InstanceNow)>);

impl Mesh {
    /// Everything that is counted, as text for Prometheus: what `GET /metrics` of a server says, but for its doors and its process.
    pub fn metrics_text(&self, format: Format) -> String {
        self.with_picture_of(&|_| true, |mesh| table::render(&Picture { mesh, doors: None, process: None }, format))
    }

    /// Has a picture of the mesh looked at, of those services that may be `seen`.
    pub(crate) fn with_picture_of<R>(&self, seen: &dyn Fn(&str) -> bool, look: impl FnOnce(MeshPicture<'_>) -> R) -> R {
        let inner = &self.inner;
        let now = inner.clock.now();
        let all = inner.registry.all().into_iter().filter(|cluster| seen(cluster.name.as_str()));
        let taken: Vec<Taken> = all.map(|cluster| take(cluster, now)).collect();
        look(MeshPicture {
            counters: &inner.counters,
            events: inner.events.count(),
            onlookers: inner.onlookers.report(),
            max_services: inner.registry.max_services(),
            registry: RegistryNow::from(&self.standing()),
            services: taken
                .iter()
                // One without instances is about to get its first or has just lost its last.
                .filter(|(_, _, instances)| !instances.is_empty())
                .map(|(cluster, now, instances)| ServicePicture {
                    name: cluster.name.as_str(),
                    counters: &cluster.counters,
                    now: *now,
                    instances: instances
                        .iter()
                        .map(|(member, now)| InstancePicture { id: member.id.as_str(), counters: &member.counters, now: *now })
                        .collect(),
                })
                .collect(),
        })
    }
}

impl From<&ports::Standing> for RegistryNow {
    fn from(standing: &ports::Standing) -> Self {
        Self {
            stale_seconds: standing.stale.as_ref().map(|(age, _)| age.as_secs_f64()),
            withheld: standing.withheld,
            resyncs: standing.resyncs,
            refused: standing.refused,
            damaged_files: standing.damaged_files,
        }
    }
}

fn take(cluster: Arc<Cluster>, now: Instant) -> Taken {
    let (service, instances) = cluster.look(|state| {
        let instances = state.seats.iter().map(|seat| (Arc::clone(&seat.member), instance_now(seat, now))).collect();
        (service_now(state, now), instances)
    });
    (cluster, service, instances)
}

fn service_now(state: &mut State, now: Instant) -> ServiceNow {
    let (breaker, ..) = state.breaker.view();
    ServiceNow {
        breaker,
        control: state.breaker.control(),
        in_flight: state.in_flight,
        max_in_flight: state.policy.limits.max_in_flight,
        queued: state.queue.len(),
        max_queue: state.policy.limits.max_queue,
        retry_budget: state.budget.left(&state.policy.retry, now),
        panic: state.is_panic(now),
    }
}

fn instance_now(seat: &Seat, now: Instant) -> InstanceNow {
    InstanceNow {
        standing: match seat.unavailable(now) {
            None => Standing::Available,
            Some(Unavailable::State(AdminState::Maint)) => Standing::Maint,
            Some(Unavailable::State(_)) => Standing::Drain,
            Some(Unavailable::WeightZero) => Standing::WeightZero,
            Some(Unavailable::Unhealthy(_)) => Standing::Unhealthy,
            Some(Unavailable::Ejected { .. }) => Standing::Ejected,
            Some(Unavailable::LeaseOver) => Standing::LeaseOver,
            Some(Unavailable::NoAddress) => Standing::NoAddress,
        },
        healthy: seat.health.is_healthy(),
        ejected: seat.outlier.ejected_until(now).is_some(),
        in_flight: seat.in_flight,
        weight: seat.weight().get(),
        last_check_ms: seat.member.last_check_ms.load(Ordering::Relaxed),
    }
}
