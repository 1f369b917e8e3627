//! What there is to see: metrics, services, explanations, events, health of the mesh itself.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use super::Api;
use crate::contract::answer::{Answer, ApiError};
use crate::contract::request::Request;
use crate::mesh::view::{InstanceView, ServiceView};
use crate::model::{Invalid, Limit, shown};

/// The longest a long poll may wait.
const MAX_WAIT: Duration = Duration::from_secs(60);

impl Api {
    pub(super) fn metrics(&self) -> Answer {
        Answer::pretty(&self.mesh.metrics())
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
        if let Some(seen) = request.parameter("index") {
            let seen = seen.parse().map_err(|_| Invalid::new("index", format!("{} is not a number", shown(&seen))))?;
            let wait = request.parameter("wait").map_or(Ok(MAX_WAIT), |text| duration(&text))?.min(MAX_WAIT);
            let _watching = Watching::begin(&self.watchers, self.max_watchers)?;
            self.mesh.watch(name, seen, self.mesh.inner.clock.now() + wait).ok_or_else(gone)?;
        }
        let service = self.mesh.service(name).ok_or_else(gone)?;
        Ok(Answer::pretty(&service).with("x-mesh-index", service.index.to_string()))
    }

    pub(super) fn explain(&self, name: &str) -> Result<Answer, ApiError> {
        self.mesh.explain(name).map(|explanation| Answer::pretty(&explanation)).ok_or_else(|| ApiError::NoSuchService(name.to_owned()))
    }

    pub(super) fn events(&self, request: &Request) -> Result<Answer, ApiError> {
        let since = match request.parameter("since") {
            None => 0,
            Some(text) => text.parse().map_err(|_| Invalid::new("since", format!("{} is not a number", shown(&text))))?,
        };
        Ok(Answer::pretty(&self.mesh.events(since)))
    }
}

/// `30s`, `500ms` or plain seconds.
fn duration(text: &str) -> Result<Duration, Invalid> {
    let fault = || Invalid::new("wait", format!("{} is not a time such as 30s or 500ms", shown(text)));
    let (number, unit): (&str, fn(u64) -> Duration) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, Duration::from_millis),
        (None, Some(number)) => (number, Duration::from_secs),
        (None, None) => (text, Duration::from_secs),
    };
    number.parse().map(unit).map_err(|_| fault())
}

/// A long poll under way; it occupies a worker, so there may be only a few.
struct Watching<'a>(&'a AtomicUsize);

impl<'a> Watching<'a> {
    fn begin(count: &'a AtomicUsize, most: usize) -> Result<Self, ApiError> {
        let watching = Self(count);
        if count.fetch_add(1, Ordering::SeqCst) >= most { Err(ApiError::Full(Limit::Watchers)) } else { Ok(watching) }
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_read_with_and_without_a_unit() {
        for (text, ms) in [("30s", 30_000), ("500ms", 500), ("2", 2_000), ("0", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "-1s", "1m", "1.5s"] {
            assert_eq!(duration(text).expect_err(text).field, "wait");
        }
    }
}
