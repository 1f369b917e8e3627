//! `weft top`: the whole picture in a terminal, again every second.

#![allow(clippy::indexing_slicing)] // What a JSON value does not have is null; looking for it never panics.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Failed;
use super::ask::Mesh;
use super::lists::{availability, available_of, circuit, event_line, number, share, standing, text};
use super::paper::{Cell, Line, Table, Tone, lasting, print};
use super::terminal::{Happened, Screen, wants_colour};
use crate::model::time::{Clock, SystemClock};

/// How often the mesh is asked.
const PACE: Duration = Duration::from_secs(1);
/// How many of the last events are shown.
const EVENTS: usize = 5;

/// What the mesh said, and when.
struct Look {
    metrics: Value,
    events: Value,
    at: Instant,
}

/// Shows the picture until the user has seen enough, or once where there is no terminal.
pub(super) fn run(mesh: &Mesh) -> Result<ExitCode, Failed> {
    // Before the screen changes, so that a mesh that cannot be reached is said like anywhere else.
    let mut before = look(mesh)?;
    let Some(screen) = Screen::take()? else {
        let until = before.at + PACE;
        while SystemClock.now() < until {
            SystemClock.park_until(until);
        }
        print(&picture(&mesh.url, &before, &look(mesh)?));
        return Ok(ExitCode::SUCCESS);
    };
    let colour = wants_colour();
    let mut shown = picture(&mesh.url, &before, &before);
    let mut trouble = None;
    let mut changed = true;
    let mut due = before.at + PACE;
    loop {
        if changed {
            let (columns, _) = screen.size();
            screen.show(&trouble.iter().chain(&shown).map(|line| line.text(colour, Some(columns))).collect::<Vec<_>>())?;
        }
        changed = match screen.wait()? {
            Happened::Nothing => false,
            Happened::Resized => true,
            Happened::Quit => return Ok(ExitCode::SUCCESS),
            Happened::Ended => return Ok(ExitCode::from(130)),
        };
        if SystemClock.now() >= due {
            due = SystemClock.now() + PACE;
            changed = true;
            match look(mesh) {
                Ok(now) => {
                    shown = picture(&mesh.url, &before, &now);
                    (before, trouble) = (now, None);
                }
                // It may come back; until then, the last picture stays below.
                Err(failed) => trouble = Some(Line::of(Cell::new(failed.to_string()).toned(Tone::Bad))),
            }
        }
    }
}

fn look(mesh: &Mesh) -> Result<Look, Failed> {
    let (metrics, events) = (mesh.ask("/metrics")?, mesh.ask("/events")?);
    Ok(Look { metrics, events, at: SystemClock.now() })
}

/// The picture of what has happened between two looks.
fn picture(url: &str, before: &Look, now: &Look) -> Vec<Line> {
    let seconds = now.at.saturating_duration_since(before.at).as_secs_f64();
    let (was, is) = (&before.metrics, &now.metrics);
    // After a restart it counts from the beginning.
    let grown = |was: &Value, is: &Value| (is.as_f64().unwrap_or(0.0) - was.as_f64().unwrap_or(0.0)).max(0.0);
    let rate = |was: &Value, is: &Value| if seconds > 0.0 { format!("{:.1}", grown(was, is) / seconds) } else { "-".to_owned() };
    let up = is["uptimeSeconds"].as_u64().unwrap_or(0);
    let calls = rate(&was["totalRequests"], &is["totalRequests"]);
    let failing = share(grown(&was["failedRequests"], &is["failedRequests"]), grown(&was["totalRequests"], &is["totalRequests"]));
    let doors = &is["doors"];
    let about = format!(
        ", {} connections, {} requests in progress, {} MiB buffered",
        text(&doors["openConnections"]),
        text(&doors["requestsInProgress"]),
        doors["bufferedBytes"].as_u64().unwrap_or(0) >> 20
    );
    let mut lines = vec![
        Line(vec![
            Cell::new(format!("weft {} at {url}, up {}", text(&is["version"]), lasting(up))),
            Cell::new("  (q quits)").toned(Tone::Faint),
        ]),
        Line(vec![Cell::new(format!("{calls} calls/s, failed ")), failing, Cell::new(about)]),
        Line::default(),
    ];
    let mut table =
        Table::new(&["SERVICE", "IS", ">AVAILABLE", ">CALLS/S", ">FAILED", ">RETRIES/S", ">P50 ms", ">P99 ms", ">IN FLIGHT", ">QUEUED"]);
    for (service, view) in is["services"].as_object().into_iter().flatten() {
        let old = &was["services"][service];
        let (available, all) = availability(is, service, view);
        table.row(vec![
            Cell::new(service),
            circuit(is, service),
            available_of(available, all),
            Cell::new(rate(&old["requests"], &view["requests"])),
            share(grown(&old["failures"], &view["failures"]), grown(&old["requests"], &view["requests"])),
            Cell::new(rate(&old["retries"], &view["retries"])),
            number(&view["latencyMs"]["p50"]),
            number(&view["latencyMs"]["p99"]),
            number(&view["inFlight"]),
            number(&view["queued"]),
        ]);
        for (id, instance) in view["instances"].as_object().into_iter().flatten() {
            let old = &old["instances"][id];
            let healthy = is["serviceHealth"][format!("{service}:{id}")] == true;
            table.row(vec![
                Cell::new(format!("  {id}")),
                standing(&instance["state"], healthy, instance["ejected"] == true),
                Cell::new(""),
                Cell::new(rate(&old["requests"], &instance["requests"])),
                share(grown(&old["failures"], &instance["failures"]), grown(&old["requests"], &instance["requests"])),
                Cell::new(""),
                number(&instance["latencyMs"]["p50"]),
                number(&instance["latencyMs"]["p99"]),
                number(&instance["inFlight"]),
                Cell::new(""),
            ]);
        }
    }
    lines.extend(table.lines());
    lines.push(Line::default());
    let events: Vec<Line> = now.events["events"].as_array().into_iter().flatten().rev().take(EVENTS).map(event_line).collect();
    lines.extend(events);
    lines
}
