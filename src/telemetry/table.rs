//! The metrics: one row each, with its name, what it means, and where the number comes from.
//!
//! To add one: if the number is not in the [`Picture`] yet, give it a field there, which whoever takes the picture fills in; then a row here.
//! Names are `weft_…` with their unit at the end, seconds or bytes, and `_total` if they only grow. Labels are `service`, `instance`, `code`,
//! `reason`, `state`, `result` (and `loop`, of which there are as many as event loops), and their values come from what is registered and from the words
//! of this crate, never from what a stranger sends: a call to a service that is not registered counts under `_unknown`.

use super::counters::{Counter, MeshCounters};
use super::exposition::{Escaped, Format, Kind, Out, Text};
use super::picture::{InstancePicture, MeshPicture, Picture, Process, ServicePicture, Standing};
use super::{doors, doors::DoorCounters};
use crate::model::{Limit, Reason};
use crate::policy::breaker::{Control, Status};

/// A metric.
#[derive(Debug)]
pub struct Row {
    /// Its name, as it stands in the samples.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
    /// What kind of numbers it has.
    pub kind: Kind,
    of: Of,
}

/// What a metric is about, and how to write its samples.
#[derive(Debug)]
pub(super) enum Of {
    /// The mesh as a whole.
    Mesh(fn(&MeshPicture<'_>, &mut Out<'_>)),
    /// Each service.
    Service(fn(&ServicePicture<'_>, &mut Out<'_>)),
    /// A counter of each service.
    Counter(for<'p> fn(&ServicePicture<'p>) -> &'p Counter),
    /// Each service, and what was called under names that no service has.
    AnyService(fn(&ServicePicture<'_>, &mut Out<'_>), fn(&MeshCounters, &mut Out<'_>)),
    /// Each instance.
    Instance(fn(&InstancePicture<'_>, &mut Out<'_>)),
    /// The doors.
    Doors(fn(&DoorCounters, &mut Out<'_>)),
    /// The process.
    Process(fn(&Process, &mut Out<'_>)),
}

pub(super) const fn counter(name: &'static str, help: &'static str, of: Of) -> Row {
    Row { name, help, kind: Kind::Counter, of }
}

const fn gauge(name: &'static str, help: &'static str, of: Of) -> Row {
    Row { name, help, kind: Kind::Gauge, of }
}

const fn histogram(name: &'static str, help: &'static str, of: Of) -> Row {
    Row { name, help, kind: Kind::Histogram, of }
}

/// Every metric, in the order in which they are written.
pub fn all() -> impl Iterator<Item = &'static Row> {
    TABLE.iter().chain(doors::ROWS)
}

/// What is called under a name that no service has.
const UNKNOWN: &str = "service=\"_unknown\"";
const BREAKER: [&str; 3] = ["closed", "open", "half_open"];
const REGISTRY: [&str; 2] = ["current", "stale"];
const CONTROL: [&str; 3] = [Control::Auto.as_str(), Control::ForcedOpen.as_str(), Control::Disabled.as_str()];

#[rustfmt::skip]
const TABLE: &[Row] = &[
    Row { name: "weft_build_info", help: "The version of weft that runs.", kind: Kind::Info, of: Of::Mesh(|_, out| {
        out.by("version", env!("CARGO_PKG_VERSION"), 1_u64);
    }) },

    // --- calls ---
    counter("weft_calls_total", "Calls by the status they were answered with, before any fallback; failed ones by that of their reason. Code 0 is no status of HTTP.", Of::AnyService(
        |service, out| service.counters.by_code.seen().for_each(|(code, count)| out.by("code", code, count)),
        |mesh, out| out.by("code", Reason::UnknownService.status(), mesh.unknown.get()),
    )),
    counter("weft_call_failures_total", "Calls that failed, refusals included, by reason.", Of::AnyService(
        |service, out| service.counters.by_reason.seen().for_each(|(reason, count)| out.by("reason", reason.word(), count)),
        |mesh, out| out.by("reason", Reason::UnknownService.word(), mesh.unknown.get()),
    )),
    histogram("weft_call_duration_seconds", "Duration of calls, from their arrival to the end of their answer.", Of::Service(|service, out| {
        out.durations(&service.counters.latency);
    })),
    gauge("weft_calls_in_flight", "Calls that hold a slot, waits between attempts included.", Of::Service(|service, out| out.is(service.now.in_flight))),
    gauge("weft_calls_in_flight_limit", "How many calls may hold a slot (maxInFlight).", Of::Service(|service, out| out.is(service.now.max_in_flight))),
    gauge("weft_calls_queued", "Calls that wait for a slot.", Of::Service(|service, out| out.is(service.now.queued))),
    gauge("weft_calls_queued_limit", "How many calls may wait for a slot (maxQueue).", Of::Service(|service, out| out.is(service.now.max_queue))),
    counter("weft_limit_refusals_total", "Calls refused because a limit was full, by the setting of the limit.", Of::Service(|service, out| {
        for limit in Limit::OF_CALLS {
            out.by("reason", limit.setting(), service.counters.by_limit.get(limit));
        }
    })),
    counter("weft_requests_refused_total", "Requests other than calls that were refused because a limit was full, by the setting of the limit.", Of::Mesh(|mesh, out| {
        for limit in Limit::OF_THE_MESH {
            out.by("reason", limit.setting(), mesh.counters.refused.get(limit));
        }
    })),

    // --- what the policies do ---
    counter("weft_retries_total", "Attempts after the first, by what the one before came to.", Of::Service(|service, out| {
        service.counters.retries_by_reason.seen().for_each(|(reason, count)| out.by("reason", reason.word(), count));
    })),
    counter("weft_retries_over_budget_total", "Retries left out because the budget was empty.", Of::Counter(|service| &service.counters.budget_exhausted)),
    gauge("weft_retry_budget_tokens", "Retries the budget has left.", Of::Service(|service, out| out.is(service.now.retry_budget))),
    gauge("weft_circuit_breaker_state", "Whether the circuit breaker is in this state.", Of::Service(|service, out| out.one_of(&BREAKER, word(service.now.breaker)))),
    counter("weft_circuit_breaker_transitions_total", "How often the circuit breaker came into this state.", Of::Service(|service, out| {
        for status in [Status::Closed, Status::Open, Status::HalfOpen] {
            out.by("state", word(status), service.counters.became(status).get());
        }
    })),
    gauge("weft_circuit_breaker_control", "Who decides about the circuit breaker: the outcomes of calls (auto), or an operator.", Of::Service(|service, out| {
        out.one_of(&CONTROL, service.now.control.as_str());
    })),
    counter("weft_calls_not_allowed_total", "Calls that the rules about callers refused (allow).", Of::Counter(|service| &service.counters.not_allowed)),
    counter("weft_calls_audited_total", "Calls that the rules about callers let in, and would refuse if they were not only tried out.", Of::Counter(|service| &service.counters.audited)),
    gauge("weft_panic", "Whether so few instances are healthy that health is not believed.", Of::Service(|service, out| out.is(service.now.panic))),
    counter("weft_ejections_total", "Ejections of instances.", Of::Counter(|service| &service.counters.ejections)),
    counter("weft_calls_held_up_total", "Calls that a route was told to hold up.", Of::Counter(|service| &service.counters.held_up)),
    counter("weft_fallbacks_total", "Calls that failed and got the answer of their route instead.", Of::Counter(|service| &service.counters.fallbacks)),
    counter("weft_mirrored_total", "Calls that were copied to another service.", Of::Counter(|service| &service.counters.mirrored)),
    counter("weft_mirrors_dropped_total", "Copies that were dropped, since too many waited.", Of::Counter(|service| &service.counters.mirrors_dropped)),

    // --- the registry ---
    gauge("weft_services", "Registered services.", Of::Mesh(|mesh, out| out.is(mesh.services.len()))),
    gauge("weft_services_limit", "How many services there may be (maxServices).", Of::Mesh(|mesh, out| out.is(mesh.max_services))),
    gauge("weft_instances", "Registered instances, by whether they are available or why not.", Of::Service(|service, out| {
        for (standing, word) in Standing::ALL {
            out.by("state", word, service.instances.iter().filter(|instance| instance.now.standing == standing).count());
        }
    })),
    counter("weft_health_checks_total", "Checks of instances, by what came of them: passed, answered with a status that does not pass, unreachable, timed_out, not_made for want of a descriptor.", Of::Service(|service, out| {
        service.counters.checks().for_each(|(result, count)| out.by("result", result, count));
    })),
    gauge("weft_registry_state", "Whether what is known of a shared registry is current, or stale: then changes of others are not known.", Of::Mesh(|mesh, out| {
        out.one_of(&REGISTRY, if mesh.registry.stale_seconds.is_some() { "stale" } else { "current" });
    })),
    gauge("weft_registry_stale_seconds", "For how long what is known of a shared registry may have been out of date; 0 is not at all.", Of::Mesh(|mesh, out| {
        out.is(mesh.registry.stale_seconds.unwrap_or_default());
    })),
    gauge("weft_registry_withheld_instances", "Instances that are kept although a shared registry does not name them any more.", Of::Mesh(|mesh, out| {
        out.is(mesh.registry.withheld);
    })),
    counter("weft_registry_resyncs_total", "How often a shared registry was read anew as a whole.", Of::Mesh(|mesh, out| out.is(mesh.registry.resyncs))),
    counter("weft_registry_changes_refused_total", "Changes refused because the registry did not answer.", Of::Mesh(|mesh, out| out.is(mesh.registry.refused))),
    counter("weft_registry_damaged_files_total", "Files of the state directory that were found damaged and set aside.", Of::Mesh(|mesh, out| {
        out.is(mesh.registry.damaged_files);
    })),
    counter("weft_discovery_resolutions_total", "Look-ups of names whose addresses are instances.", Of::Mesh(|mesh, out| {
        out.is(mesh.counters.resolutions.get());
    })),
    counter("weft_discovery_failures_total", "Look-ups that found nothing, or something that cannot be registered.", Of::Mesh(|mesh, out| {
        out.is(mesh.counters.failed_resolutions.get());
    })),
    counter("weft_events_total", "Changes of state, as in GET /events.", Of::Mesh(|mesh, out| out.is(mesh.events))),

    // --- instances ---
    gauge("weft_instance_available", "Whether it can be picked.", Of::Instance(|instance, out| out.is(instance.now.standing == Standing::Available))),
    gauge("weft_instance_healthy", "Whether it passes its checks.", Of::Instance(|instance, out| out.is(instance.now.healthy))),
    gauge("weft_instance_ejected", "Whether it is ejected because its attempts kept failing.", Of::Instance(|instance, out| out.is(instance.now.ejected))),
    gauge("weft_instance_weight", "Its share, relative to the others'.", Of::Instance(|instance, out| out.is(instance.now.weight))),
    gauge("weft_instance_last_check_timestamp_seconds", "When it was last checked, since the Unix epoch; 0 is never.", Of::Instance(|instance, out| {
        out.is(instance.now.last_check_ms as f64 / 1e3);
    })),
    counter("weft_attempts_total", "Attempts that ended.", Of::Instance(|instance, out| out.is(instance.counters.requests.get()))),
    counter("weft_attempt_failures_total", "Attempts that failed.", Of::Instance(|instance, out| out.is(instance.counters.failures.get()))),
    gauge("weft_attempts_in_flight", "Attempts under way.", Of::Instance(|instance, out| out.is(instance.now.in_flight))),
    histogram("weft_attempt_duration_seconds", "Duration of attempts, from sending to the end of the answer.", Of::Instance(|instance, out| {
        out.durations(&instance.counters.latency);
    })),

    // --- whoever looks at single calls ---
    counter("weft_spans_exported_total", "Spans that a collector has taken.", Of::Mesh(|mesh, out| out.is(mesh.onlookers.spans_exported))),
    counter("weft_spans_dropped_total", "Spans that were lost: too many waited, or no collector took them.", Of::Mesh(|mesh, out| out.is(mesh.onlookers.spans_dropped))),
    counter("weft_spans_rejected_total", "Those of the lost spans that a collector has refused.", Of::Mesh(|mesh, out| out.is(mesh.onlookers.spans_rejected))),
    counter("weft_span_export_failures_total", "Requests to the collector that failed.", Of::Mesh(|mesh, out| out.is(mesh.onlookers.export_failures))),
    counter("weft_traces_kept_total", "Calls that were kept for GET /traces.", Of::Mesh(|mesh, out| out.is(mesh.onlookers.traces_kept))),
    counter("weft_traces_dropped_total", "Those of them that newer ones have displaced.", Of::Mesh(|mesh, out| out.is(mesh.onlookers.traces_dropped))),
    counter("weft_access_log_lines_total", "Lines of the access log that were written.", Of::Mesh(|mesh, out| out.is(mesh.onlookers.log_lines))),
    counter("weft_access_log_lines_dropped_total", "Lines of the access log that were lost, since too many waited.", Of::Mesh(|mesh, out| out.is(mesh.onlookers.log_lines_dropped))),
    counter("weft_log_lines_dropped_total", "Lines of the program's own log that were lost, since they were not read in time.", Of::Mesh(|mesh, out| out.is(mesh.onlookers.own_log_lines_dropped))),
    gauge("weft_taps_open", "Open taps (GET /tap).", Of::Mesh(|mesh, out| out.is(mesh.onlookers.open_taps))),
    counter("weft_tap_lines_total", "Calls that were shown to taps.", Of::Mesh(|mesh, out| out.is(mesh.onlookers.tap_lines))),
    counter("weft_tap_lines_dropped_total", "Calls that a tap was not shown, since too many waited for it.", Of::Mesh(|mesh, out| out.is(mesh.onlookers.tap_lines_dropped))),

    // --- the doors; what they count follows the table ---
    gauge("weft_connections_open", "Open connections of clients.", Of::Doors(|doors, out| out.is(doors.open()))),
    gauge("weft_upstream_connections_open", "Open connections to instances, but for those of workers and of health checks.", Of::Doors(|doors, out| out.is(doors.upstream()))),
    gauge("weft_requests_in_progress", "Requests being answered, those of the API included.", Of::Doors(|doors, out| out.is(doors.busy()))),
    gauge("weft_buffered_bytes", "Bytes of requests and answers in memory.", Of::Doors(|doors, out| {
        out.is(doors.buffered.load(std::sync::atomic::Ordering::Relaxed));
    })),
    histogram("weft_event_loop_turn_seconds", "Duration of the turns of an event loop: its lag, since for so long, at worst, something that had come waited.", Of::Doors(|doors, out| {
        for (n, one) in doors.loops.iter().enumerate() {
            Out { to: out.to, name: out.name, labels: &format!("loop=\"{n}\"") }.durations(&one.turns);
        }
    })),

    // --- the process, by the names that every client library of Prometheus uses ---
    counter("process_cpu_seconds_total", "Processor time used.", Of::Process(|process, out| out.is(process.cpu_seconds))),
    gauge("process_start_time_seconds", "When the process started, since the Unix epoch.", Of::Process(|process, out| out.is(process.start_seconds))),
    gauge("process_virtual_memory_bytes", "Address space.", Of::Process(|process, out| out.is(process.virtual_bytes))),
    gauge("process_resident_memory_bytes", "Memory in use.", Of::Process(|process, out| out.is(process.resident_bytes))),
    gauge("process_threads", "Threads.", Of::Process(|process, out| out.is(process.threads))),
    gauge("process_open_fds", "Open descriptors.", Of::Process(|process, out| out.is(process.open_fds))),
    gauge("process_max_fds", "How many descriptors may be open.", Of::Process(|process, out| out.is(process.max_fds))),
];

/// All metrics of a picture as text.
pub fn render(picture: &Picture<'_>, format: Format) -> String {
    let services: Vec<(&ServicePicture<'_>, String)> =
        picture.mesh.services.iter().map(|service| (service, format!("service=\"{}\"", Escaped(service.name, true)))).collect();
    let instances: Vec<(&InstancePicture<'_>, String)> = services
        .iter()
        .flat_map(|(service, labels)| service.instances.iter().map(move |instance| (instance, labels)))
        .map(|(instance, labels)| (instance, format!("{labels},instance=\"{}\"", Escaped(instance.id, true))))
        .collect();
    let mut text = Text { text: String::with_capacity(64 * 1024), format };
    for Row { name, help, kind, of } in all() {
        let before = text.text.len();
        text.family(name, help, *kind);
        let announced = text.text.len();
        let mut about = |labels: &str, write: &dyn Fn(&mut Out<'_>)| write(&mut Out { to: &mut text, name, labels });
        match of {
            Of::Mesh(write) => about("", &|out| write(&picture.mesh, out)),
            Of::Service(write) => services.iter().for_each(|(service, labels)| about(labels, &|out| write(service, out))),
            Of::Counter(counter) => {
                services.iter().for_each(|(service, labels)| about(labels, &|out| out.is(counter(service).get())));
            }
            Of::AnyService(write, unknown) => {
                services.iter().for_each(|(service, labels)| about(labels, &|out| write(service, out)));
                about(UNKNOWN, &|out| unknown(picture.mesh.counters, out));
            }
            Of::Instance(write) => instances.iter().for_each(|(instance, labels)| about(labels, &|out| write(instance, out))),
            Of::Doors(write) => picture.doors.iter().for_each(|doors| about("", &|out| write(doors, out))),
            Of::Process(write) => picture.process.iter().for_each(|process| about("", &|out| write(process, out))),
        }
        // A family without samples says nothing.
        if text.text.len() == announced {
            text.text.truncate(before);
        }
    }
    text.end()
}

/// A state of the circuit breaker, as a label.
const fn word(status: Status) -> &'static str {
    match status {
        Status::Closed => "closed",
        Status::Open => "open",
        Status::HalfOpen => "half_open",
    }
}
