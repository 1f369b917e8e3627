//! What a mesh says of itself, as lists.

#![allow(clippy::indexing_slicing)] // What a JSON value does not have is null; looking for it never panics.

use std::time::Duration;

use serde_json::{Map, Value};

use super::ask::Mesh;
use super::paper::{Cell, Line, Table, Tone, date, harmless_json, print};
use super::{Failed, no_such, print_json};
use crate::model::time::{Clock, SystemClock};

/// How often events are asked for.
const PACE: Duration = Duration::from_millis(500);

/// Services, out of `GET /metrics`.
pub(super) fn services(metrics: &Value, name: Option<&str>) -> Result<(), Failed> {
    let none = Map::new();
    let all = metrics["services"].as_object().unwrap_or(&none);
    let mut table = Table::new(&["SERVICE", "CIRCUIT", ">AVAILABLE", ">CALLS", ">FAILED", ">RETRIES", ">P50 ms", ">P99 ms", ">IN FLIGHT"]);
    let wanted: Vec<_> = all.iter().filter(|(service, _)| name.is_none_or(|name| name == *service)).collect();
    if let Some(name) = name.filter(|_| wanted.is_empty()) {
        return Err(no_such(name));
    }
    if wanted.is_empty() {
        say!("no service is registered");
        return Ok(());
    }
    for (service, view) in wanted {
        let (available, instances) = availability(metrics, service, view);
        table.row(vec![
            Cell::new(service),
            circuit(metrics, service),
            available_of(available, instances),
            number(&view["requests"]),
            failed(&view["failures"], &view["requests"]),
            number(&view["retries"]),
            number(&view["latencyMs"]["p50"]),
            number(&view["latencyMs"]["p99"]),
            number(&view["inFlight"]),
        ]);
    }
    print(&table.lines());
    Ok(())
}

/// Instances, out of `GET /services`.
pub(super) fn instances(services: &Value) {
    let mut table = Table::new(&["SERVICE", "INSTANCE", "ADDRESS", "IS", ">WEIGHT", ">ATTEMPTS", ">MEAN", ">IN FLIGHT", "LABELS"]);
    let mut any = false;
    for service in services.as_array().into_iter().flatten() {
        for instance in service["instances"].as_array().into_iter().flatten() {
            any = true;
            let labels = instance["metadata"].as_object().into_iter().flatten().map(|(key, value)| format!("{key}={}", text(value)));
            table.row(vec![
                Cell::new(text(&service["name"])),
                Cell::new(text(&instance["id"])),
                Cell::new(format!("{}:{}", text(&instance["host"]), text(&instance["port"]))),
                standing(&instance["state"], instance["healthy"] == true, instance["ejected"] == true),
                number(&instance["weight"]),
                number(&instance["requestCount"]),
                Cell::new(text(&instance["avgResponseTime"])),
                number(&instance["inFlight"]),
                Cell::new(labels.collect::<Vec<_>>().join(" ")).toned(Tone::Faint),
            ]);
        }
    }
    if any { print(&table.lines()) } else { say!("no instance is registered") }
}

/// Why each instance of a service can or cannot be picked.
pub(super) fn explain(explanation: &Value) {
    let of = |name: &str| text(&explanation[name]);
    let status = text(&explanation["circuitBreaker"]["status"]);
    let next = explanation["nextPick"].as_str().unwrap_or("nobody, or only chance will tell");
    let mut lines = vec![
        Line::of(Cell::new(format!("{}: {}, next pick {next}", of("service"), of("strategy")))),
        Line(vec![
            Cell::new("circuit "),
            Cell::new(&status).toned(tone_of_circuit(&status)),
            Cell::new(format!(
                ", in flight {} of {}, queued {} of {}, retry budget {}",
                of("inFlight"),
                of("maxInFlight"),
                of("queued"),
                of("maxQueue"),
                of("retryBudgetLeft")
            )),
        ]),
    ];
    if explanation["panic"] == true {
        lines.push(Line::of(Cell::new("panic: so few instances are healthy that health is not believed").toned(Tone::Bad)));
    }
    lines.push(Line::default());
    let mut table = Table::new(&["INSTANCE", ">WEIGHT", ">IN FLIGHT", "WHY"]);
    for instance in explanation["instances"].as_array().into_iter().flatten() {
        let tone = if instance["available"] == true { Tone::Good } else { Tone::Bad };
        let why = Cell::new(text(&instance["why"])).toned(tone);
        table.row(vec![Cell::new(text(&instance["id"])), number(&instance["weight"]), number(&instance["inFlight"]), why]);
    }
    lines.extend(table.lines());
    print(&lines);
}

/// Events, and with `follow` those to come.
pub(super) fn events(mesh: &Mesh, name: Option<&str>, json: bool, follow: bool) -> Result<(), Failed> {
    let mut since = 0;
    loop {
        let page = mesh.ask(&format!("/events?since={since}"))?;
        let next = page["next"].as_u64().unwrap_or(0);
        if next < since {
            // It has been started anew, and counts from the beginning.
            since = 0;
            continue;
        }
        since = next;
        let events = page["events"].as_array().into_iter().flatten();
        let events = events.filter(|event| name.is_none_or(|name| event["service"] == name));
        match (json, follow) {
            (true, false) => return print_json(&Value::Array(events.cloned().collect())),
            (true, true) => events.for_each(|event| say!("{}", harmless_json(&event.to_string()))),
            (false, _) => print(&events.map(event_line).collect::<Vec<_>>()),
        }
        if !follow {
            return Ok(());
        }
        let until = SystemClock.now() + PACE;
        while SystemClock.now() < until {
            SystemClock.park_until(until);
        }
    }
}

pub(super) fn event_line(event: &Value) -> Line {
    let kind = text(&event["kind"]);
    let tone = match kind.as_str() {
        "expired" | "unhealthy" | "ejected" | "breaker" | "panic" | "warning" => Tone::Bad,
        "healthy" | "returned" => Tone::Good,
        _ => Tone::Plain,
    };
    let about = match (event["service"].as_str(), event["instance"].as_str()) {
        (Some(service), Some(instance)) => format!("{service}/{instance}"),
        (Some(service), None) => service.to_owned(),
        _ => "mesh".to_owned(),
    };
    Line(vec![
        Cell::new(date(event["at"].as_u64().unwrap_or(0))).toned(Tone::Faint),
        Cell::new(format!("  {kind:<12}")).toned(tone),
        Cell::new(format!("  {about}: {}", text(&event["detail"]))),
    ])
}

/// How many instances of a service are available, of how many.
pub(super) fn availability(metrics: &Value, service: &str, view: &Value) -> (usize, usize) {
    let instances = || view["instances"].as_object().into_iter().flatten();
    let is_available = |(id, instance): &(&String, &Value)| {
        instance["state"] == "ready" && instance["ejected"] != true && metrics["serviceHealth"][format!("{service}:{id}")] == true
    };
    (instances().filter(is_available).count(), instances().count())
}

pub(super) fn available_of(available: usize, instances: usize) -> Cell {
    let tone = if available < instances { Tone::Bad } else { Tone::Good };
    Cell::new(format!("{available}/{instances}")).toned(tone)
}

pub(super) fn circuit(metrics: &Value, service: &str) -> Cell {
    let status = text(&metrics["circuitBreakers"][service]["status"]);
    let tone = tone_of_circuit(&status);
    Cell::new(status).toned(tone)
}

fn tone_of_circuit(status: &str) -> Tone {
    if status == "CLOSED" { Tone::Good } else { Tone::Bad }
}

/// What keeps an instance from being picked, or that nothing does.
pub(super) fn standing(state: &Value, healthy: bool, ejected: bool) -> Cell {
    match (text(state).as_str(), healthy, ejected) {
        ("ready", true, false) => Cell::new("available").toned(Tone::Good),
        ("ready", true, true) => Cell::new("ejected").toned(Tone::Bad),
        ("ready", false, _) => Cell::new("unhealthy").toned(Tone::Bad),
        (state, ..) => Cell::new(state).toned(Tone::Faint),
    }
}

fn failed(failures: &Value, all: &Value) -> Cell {
    let (failures, all) = (failures.as_f64().unwrap_or(0.0), all.as_f64().unwrap_or(0.0));
    share(failures, all)
}

/// A share in percent, bad if it is anything.
pub(super) fn share(part: f64, all: f64) -> Cell {
    if all <= 0.0 {
        return Cell::new("-").toned(Tone::Faint);
    }
    Cell::new(format!("{:.2} %", part * 100.0 / all)).toned(if part > 0.0 { Tone::Bad } else { Tone::Plain })
}

pub(super) fn number(value: &Value) -> Cell {
    Cell::new(text(value))
}

/// A plain value as text.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}
