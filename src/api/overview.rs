//! What a dashboard asks for every other second: everything at a glance, and one service in detail. Who has seen it already is told so, and
//! those who ask within a moment of one another share one look at the mesh, so that many of them cost little more than one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Api;
use crate::contract::answer::{Answer, ApiError};
use crate::contract::request::Request;
use crate::mesh::overview::{Detail, Overview, ServiceOverview, Sort};
use crate::model::{Invalid, shown};
use crate::policy::hash::hash;
use crate::telemetry::doors::DoorReport;
use crate::telemetry::history::Points;

/// How long one look at the mesh serves everybody.
const MOMENT: Duration = Duration::from_millis(250);
/// Services, or instances, in one answer: unless another number is asked for, and at most.
const USUAL: usize = 100;
const MOST: usize = 1000;

/// A look at the mesh, and when it was taken.
pub(super) type Glance = (Instant, Arc<Overview>);

/// All services, as many as were asked for, with the points that are new.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Page<'a> {
    #[serde(flatten)]
    overview: &'a Overview,
    ready: bool,
    doors: DoorReport,
    /// When each of the points was, in milliseconds since the Unix epoch.
    at: Vec<u64>,
    points: Points,
    /// Services whose names were asked for.
    matching: usize,
    services: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    service: &'a ServiceOverview,
    #[serde(skip_serializing_if = "Points::is_empty")]
    points: Points,
}

#[derive(Serialize)]
struct Opened {
    #[serde(flatten)]
    detail: Detail,
    step: u64,
    at: Vec<u64>,
    points: Points,
}

impl Api {
    pub(super) fn overview(&self, request: &Request) -> Result<Answer, ApiError> {
        let (since, limit) = (number(request, "since", 0)?, limit(request)?);
        let wanted = request.parameter("q").map(|text| text.to_lowercase()).unwrap_or_default();
        let overview = self.glance();
        let seen = || overview.services.iter().filter(|service| request.sees(&service.name));
        let matching = || seen().filter(|service| service.name.to_lowercase().contains(&wanted));
        let row = |service| Row { service, points: self.mesh.points_of(&service.name, since, overview.step) };
        let (at, points) = self.mesh.points(since);
        let page = Page {
            ready: self.is_ready(),
            doors: self.doors.report(),
            at,
            points,
            matching: matching().count(),
            services: matching().take(limit).map(row).collect(),
            overview: &overview,
        };
        Ok(self.unless_seen(request, Answer::json(&page)))
    }

    pub(super) fn service_overview(&self, name: &str, request: &Request) -> Result<Answer, ApiError> {
        let (since, from, limit) = (number(request, "since", 0)?, number(request, "from", 0)?, limit(request)?);
        let sort = match request.parameter("sort").as_deref() {
            None | Some("level") => Sort::Level,
            Some("latency") => Sort::Latency,
            Some("calls") => Sort::Calls,
            Some("failures") => Sort::Failures,
            Some("id") => Sort::Id,
            Some(other) => {
                let why = format!("{} is none of level, latency, calls, failures, id", shown(other));
                return Err(Invalid::new("sort", why).into());
            }
        };
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let detail = self.mesh.detail(name, sort, from, limit).ok_or_else(|| ApiError::NoSuchService(name.to_owned()))?;
        let (at, _) = self.mesh.points(since);
        let step = self.glance().step;
        let opened = Opened { points: self.mesh.points_of(name, since, step), at, step, detail };
        Ok(self.unless_seen(request, Answer::json(&opened)))
    }

    /// The mesh as it is now, or was a moment ago.
    fn glance(&self) -> Arc<Overview> {
        let now = self.mesh.inner.clock.now();
        let fresh = |at: Instant| now.saturating_duration_since(at) < MOMENT;
        if let Some(seen) = self.glance.with(|last| last.as_ref().filter(|(at, _)| fresh(*at)).map(|(_, seen)| Arc::clone(seen))) {
            return seen;
        }
        let seen = Arc::new(self.mesh.overview());
        self.glance.with(|last| last.replace((now, Arc::clone(&seen))));
        seen
    }

    /// The answer, or that the client has it already. The time is in a field of its own, since it alone changes always.
    fn unless_seen(&self, request: &Request, answer: Answer) -> Answer {
        let tag = format!("\"{:016x}\"", hash(&answer.body));
        let answer = if request.has(&tag) { Answer::empty(304) } else { answer };
        let time = self.mesh.inner.clock.wall_ms().to_string();
        answer.with("etag", tag).with("cache-control", "private, no-cache").with("x-mesh-time", time)
    }
}

fn number(request: &Request, name: &'static str, otherwise: u64) -> Result<u64, Invalid> {
    let Some(text) = request.parameter(name) else { return Ok(otherwise) };
    text.parse().map_err(|_| Invalid::new(name, format!("{} is not a number", shown(&text))))
}

fn limit(request: &Request) -> Result<usize, Invalid> {
    let limit = number(request, "limit", USUAL as u64)?;
    let limit = usize::try_from(limit).ok().filter(|limit| (1..=MOST).contains(limit));
    limit.ok_or_else(|| Invalid::new("limit", format!("is not between 1 and {MOST}")))
}
