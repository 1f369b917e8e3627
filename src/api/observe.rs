//! What there is to see: metrics, services, explanations, events, health of the mesh itself.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::Api;
use crate::contract::answer::{Answer, ApiError};
use crate::contract::negotiation::metrics_format;
use crate::contract::request::{Request, watch};
use crate::mesh::view::{InstanceView, ServiceView};
use crate::model::{Invalid, shown};
use crate::outbound::process;
use crate::telemetry::doors::DoorReport;
use crate::telemetry::exposition::Format;
use crate::telemetry::picture::Picture;
use crate::telemetry::report::{RegistryReport, Report};
use crate::telemetry::table;
use crate::telemetry::traces::Query;

/// How many calls `/traces` shows unless it is asked for more or fewer.
const TRACES: u64 = 100;

/// Everything that is counted, the doors included.
#[derive(Serialize)]
struct Metrics {
    #[serde(flatten)]
    mesh: Report,
    doors: DoorReport,
}

/// The text format that a request for metrics asks for.
pub(super) fn text_format(request: &Request) -> Option<Format> {
    request.headers.first("accept").and_then(metrics_format)
}

impl Api {
    pub(super) fn metrics(&self, request: &Request) -> Answer {
        match text_format(request) {
            Some(format) => self.metrics_text(format, request),
            None => Answer::pretty(&Metrics { mesh: self.mesh.metrics_of(&|service| request.sees(service)), doors: self.doors.report() }),
        }
    }

    pub(super) fn metrics_text(&self, format: Format, request: &Request) -> Answer {
        let process = process::look();
        let sees = |service: &str| request.sees(service);
        let text = self.mesh.with_picture_of(&sees, |mesh| table::render(&Picture { mesh, doors: Some(&self.doors), process }, format));
        Answer::new(200, format.content_type(), text)
    }

    pub(super) fn nodes(&self) -> Answer {
        let standing = self.mesh.standing();
        Answer::pretty(&json!({"registry": RegistryReport::from(&standing), "nodes": standing.nodes}))
    }

    pub(super) fn health(&self) -> Answer {
        Answer::json(&json!({"status": "healthy", "timestamp": self.mesh.inner.clock.wall_ms()}))
    }

    /// `ready_status` when ready: some clients want 200, some 204.
    pub(super) fn readiness(&self, ready_status: u16) -> Answer {
        match (self.is_ready(), ready_status) {
            (true, 204) => Answer::empty(204),
            (true, status) => Answer { status, ..Answer::json(&json!({"status": "ready"})) },
            (false, _) => ApiError::Draining.into(),
        }
    }

    pub(super) fn services(&self, request: &Request) -> Result<Answer, ApiError> {
        let query = request.query();
        let limit = match request.parameter("limit") {
            None => usize::MAX,
            Some(text) => text
                .parse()
                .ok()
                .filter(|n| *n > 0)
                .ok_or_else(|| Invalid::new("limit", format!("{} is not a number above 0", shown(&text))))?,
        };
        let healthy = match request.parameter("healthy").as_deref() {
            None => None,
            Some("true") => Some(true),
            Some("false") => Some(false),
            Some(other) => return Err(Invalid::new("healthy", format!("{} is neither true nor false", shown(other))).into()),
        };
        let labels: Vec<(&str, &str)> = query.iter().filter_map(|(key, value)| Some((key.strip_prefix("metadata.")?, &**value))).collect();
        let wanted = |instance: &InstanceView| {
            healthy.is_none_or(|healthy| instance.healthy == healthy)
                && labels.iter().all(|(key, value)| instance.metadata.get(*key).is_some_and(|have| have == value))
        };
        let (name, after) = (request.parameter("name"), request.parameter("after"));
        let filtered = healthy.is_some() || !labels.is_empty();
        let services = self.mesh.services().into_iter();
        let page: Vec<ServiceView> = services
            .filter(|service| request.sees(&service.name))
            .filter(|service| name.as_ref().is_none_or(|name| service.name == *name))
            .filter(|service| after.as_ref().is_none_or(|after| service.name > *after))
            .map(|mut service| {
                service.instances.retain(wanted);
                service
            })
            .filter(|service| !filtered || !service.instances.is_empty())
            .take(limit)
            .collect();
        Ok(Answer::pretty(&page))
    }

    pub(super) fn service(&self, name: &str, request: &Request) -> Result<Answer, ApiError> {
        let gone = || ApiError::NoSuchService(name.to_owned());
        // Whoever wants to wait for a change has done so at the edge.
        watch(request)?;
        let service = self.mesh.service(name).ok_or_else(gone)?;
        Ok(Answer::pretty(&service).with("x-mesh-index", service.index.to_string()))
    }

    pub(super) fn explain(&self, name: &str) -> Result<Answer, ApiError> {
        self.mesh.explain(name).map(|explanation| Answer::pretty(&explanation)).ok_or_else(|| ApiError::NoSuchService(name.to_owned()))
    }

    /// Calls that were sampled, failed or were slow.
    pub(super) fn traces(&self, request: &Request) -> Result<Answer, ApiError> {
        let number = |name: &'static str, default: u64| match request.parameter(name) {
            None => Ok(default),
            Some(text) => text.parse::<u64>().map_err(|_| Invalid::new(name, format!("{} is not a number", shown(&text)))),
        };
        let failed = match request.parameter("failed").as_deref() {
            None | Some("false") => false,
            Some("true" | "") => true,
            Some(other) => return Err(Invalid::new("failed", format!("{} is neither true nor false", shown(other))).into()),
        };
        let query = Query {
            service: request.parameter("service"),
            prefix: request.grant.as_ref().and_then(|grant| grant.service_prefix.clone()),
            failed,
            at_least: Duration::from_millis(number("slowerThanMs", 0)?),
            limit: usize::try_from(number("limit", TRACES)?).unwrap_or(usize::MAX),
        };
        Ok(Answer::pretty(&self.mesh.traces(&query)))
    }

    pub(super) fn events(&self, request: &Request) -> Result<Answer, ApiError> {
        let since = match request.parameter("since") {
            None => 0,
            Some(text) => text.parse().map_err(|_| Invalid::new("since", format!("{} is not a number", shown(&text))))?,
        };
        let mut page = self.mesh.events(since);
        page.events.retain(|event| event.service.as_ref().is_none_or(|service| request.sees(service.as_str())));
        Ok(Answer::pretty(&page))
    }
}
