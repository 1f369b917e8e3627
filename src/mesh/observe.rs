//! Calls that have ended, shown to whoever looks at single calls.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Mesh;
use super::call::{AttemptReport, CallMachine, Connection, Report};
use super::meta::CallMeta;
use crate::model::{Call, Fields, Reason, RequestId, ServiceName};
use crate::telemetry::context::Context;
use crate::telemetry::taps::shown_fields;
use crate::telemetry::trace::{AttemptTrace, CALLER_GONE, MOST_ATTEMPTS, Trace, shown_method, shown_path};
use crate::telemetry::traces::{Page, Query};

/// What a driver knows of the request of a call.
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a str,
    /// Path and query.
    pub(crate) endpoint: &'a str,
    pub(crate) headers: &'a dyn Fields,
    pub(crate) caller: Option<IpAddr>,
}

impl<'a> Asked<'a> {
    /// The request that a call is.
    pub(crate) fn of(call: &'a Call) -> Self {
        let (method, endpoint) = (call.method.as_str(), call.endpoint.as_str());
        Self { method, endpoint, headers: &call.headers, caller: call.caller.address }
    }

    /// As far as the machine is told of it.
    pub(super) fn from_meta(meta: &CallMeta<'a>) -> Self {
        Self { method: meta.method.as_str(), endpoint: meta.endpoint, headers: meta.headers, caller: meta.caller.address }
    }
}

impl Mesh {
    /// Calls that were sampled, failed or were slow, as far as they are remembered.
    pub fn traces(&self, query: &Query) -> Page {
        self.inner.onlookers.traces.page(query)
    }

    /// A call has ended: shows it to whoever wants to see it. Costs a comparison or two when nobody does.
    pub(crate) fn observe<'a>(&self, machine: &CallMachine, report: &Report, asked: impl FnOnce() -> Asked<'a>) {
        self.show(machine.service(), machine.request_id(), report, asked);
    }

    /// The caller of a call has gone.
    #[cfg(feature = "server")]
    pub(crate) fn observe_abandoned<'a>(&self, machine: &mut CallMachine, asked: impl FnOnce() -> Asked<'a>) {
        if let Some(report) = machine.abandon(self.inner.clock.now()) {
            self.observe(machine, &report, asked);
        }
    }

    /// Has whatever single calls were shown to worked off, such as spans and lines of a log, for at most `within`.
    pub fn flush(&self, within: Duration) {
        self.inner.onlookers.flush(within);
    }

    pub(super) fn show<'a>(&self, service: &ServiceName, request_id: &RequestId, report: &Report, asked: impl FnOnce() -> Asked<'a>) {
        let onlookers = &self.inner.onlookers;
        let slow = report.kept_waiting() >= onlookers.slow;
        let failed = report.is_failed();
        let sampled = report.context.is_some_and(|context| context.sampled);
        if !failed && !slow && !sampled && !onlookers.want_all() {
            return;
        }
        let asked = asked();
        let trace = Arc::new(self.trace(service, request_id, report, &asked));
        if failed || slow || trace.is_sampled() {
            onlookers.traces.keep(&trace, slow);
        }
        onlookers.show(&trace, || shown_fields(asked.headers));
    }

    /// The trace a request belongs to; `None` where traces are not made.
    pub(super) fn context(&self, headers: &dyn Fields) -> Option<Context> {
        let sampler = self.inner.onlookers.sampler?;
        let dice = &self.inner.dice;
        Some(Context::of(headers, sampler, [dice.roll(), dice.roll(), dice.roll()]))
    }

    fn trace(&self, service: &ServiceName, request_id: &RequestId, report: &Report, asked: &Asked<'_>) -> Trace {
        let took = u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX);
        let context = report.context.or_else(|| self.context(asked.headers));
        Trace {
            context,
            state: context.and_then(|_| state(asked.headers)),
            request_id: request_id.clone(),
            service: service.clone(),
            method: shown_method(asked.method),
            path: shown_path(asked.endpoint),
            caller: asked.caller,
            started_ms: self.inner.clock.wall_ms().saturating_sub(took),
            took: report.took,
            queued: report.queued,
            status: report.status,
            reason: report.reason.map(Reason::word).or_else(|| report.caller_has_gone().then_some(CALLER_GONE)),
            streamed: report.streamed,
            attempts: report.attempts.iter().take(MOST_ATTEMPTS).map(AttemptReport::trace).collect(),
        }
    }
}

/// What the fields `tracestate` say together, if it is not too long.
fn state(headers: &dyn Fields) -> Option<Box<str>> {
    let mut all = String::new();
    headers.each("tracestate", &mut |_, value| {
        if let Ok(value) = std::str::from_utf8(value) {
            all.push_str(if all.is_empty() { "" } else { "," });
            all.push_str(value);
        }
    });
    (1..=LONGEST_STATE).contains(&all.len()).then(|| all.into())
}

/// The longest `tracestate` that is kept, in bytes.
const LONGEST_STATE: usize = 512;

impl AttemptReport {
    fn trace(&self) -> AttemptTrace {
        let connect: Option<Duration> = match self.connection {
            Connection::Made(took) => Some(took),
            Connection::Kept | Connection::Unknown => None,
        };
        AttemptTrace {
            span: self.span,
            instance: self.member.id.clone(),
            authority: Arc::clone(&self.member.authority),
            offset: self.offset,
            waited: self.waited,
            took: self.took,
            connect,
            first_byte: self.first_byte,
            reused: self.connection == Connection::Kept,
            status: self.status,
            failure: self.failure,
        }
    }
}
