//! Whoever looks at single calls: the rings behind `GET /traces`, the exporter of spans, the access log, taps. One record of a call serves them
//! all, and none is made when nobody wants it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Serialize;

use super::context::Sampler;
use super::counters::Counter;
use super::taps::{ShownFields, Taps};
use super::trace::Trace;
use super::traces::Traces;
use crate::model::settings::{Millis, leaf, settings};
use crate::model::{HealthTarget, Invalid, shown_url};

settings! {
    /// How single calls are looked at.
    pub struct Config {
        /// A call that keeps its caller waiting longer than this is slow, and kept for GET /traces.
        slow_ms: Millis = Millis(1_000), in 1, 86_400_000;
        /// Make traces: instances are told of the trace (W3C or B3, as it came) with a span for each attempt. Off: what callers say of a
        /// trace passes through untouched.
        tracing: bool = false;
        /// The share of traces that is looked at where the caller has not decided.
        sample_ratio: f64 = 1.0, in 0, 1;
        /// Export the spans of failed calls whether they were to be looked at or not.
        sample_errors: bool = true;
        /// Where spans go.
        otlp: Otlp = Otlp::default();
        /// A line for each call, on stderr: off, text or json.
        access_log: LogFormat = LogFormat::Off;
        /// Lines that may wait to be written; further ones are dropped and counted.
        access_log_queue: usize = 4_096, in 1, 1_000_000;
        /// Taps that may be open at once.
        max_taps: usize = 16, in 0, 10_000;
    }
}

settings! {
    /// Where spans go.
    pub struct Otlp {
        /// The collector, such as http://localhost:4318/v1/traces (OTLP over HTTP, JSON). Empty: spans are not exported.
        endpoint: String = String::new();
        /// What the mesh is called there.
        service_name: String = "weft".to_owned();
        /// How long the collector may take to answer.
        timeout_ms: Millis = Millis(10_000), in 1, 600_000;
        /// The longest a span waits for others to go with.
        delay_ms: Millis = Millis(1_000), in 1, 60_000;
        /// Calls that may wait to be exported, each with its spans; further ones are dropped and counted.
        queue: usize = 2_048, in 1, 1_000_000;
    }
}

/// How the access log is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // The names say it.
pub enum LogFormat {
    Off,
    Text,
    Json,
}

leaf! { LogFormat => |_| None }

impl Otlp {
    /// Where spans are sent: at the end of a bare address, the usual path.
    pub fn url(&self) -> String {
        let endpoint = self.endpoint.trim_end_matches('/');
        let bare = endpoint.split_once("://").is_some_and(|(_, rest)| !rest.contains('/'));
        if bare { format!("{endpoint}/v1/traces") } else { self.endpoint.clone() }
    }
}

impl Config {
    /// What a range cannot say.
    ///
    /// # Errors
    /// [`Invalid`] naming the setting.
    pub fn check_together(&self) -> Result<(), Invalid> {
        let endpoint = self.otlp.endpoint.as_str();
        if endpoint.is_empty() {
            return Ok(());
        }
        let fault = |why: &str| Err(Invalid::new("telemetry.otlp.endpoint", format!("{} {why}", shown_url(endpoint))));
        if !endpoint.starts_with("http://") {
            return fault("is not an http:// address; for a collector elsewhere, let one beside the mesh pass spans on");
        }
        // A port that is none would be taken for port 80.
        HealthTarget::new(endpoint).map_err(|fault| Invalid::new("telemetry.otlp.endpoint", fault.why))?;
        if cfg!(feature = "otlp") { Ok(()) } else { fault("is set, but this build cannot export spans") }
    }
}

/// Somebody who is shown calls.
pub trait Onlooker: Send + Sync + 'static {
    /// Takes a call; answers whether there was room for it. Must not block.
    fn take(&self, trace: &Arc<Trace>) -> bool;

    /// Works off what has been taken, for at most `within`.
    fn flush(&self, within: Duration) {
        let _ = within;
    }
}

/// Whoever looks at single calls.
pub struct Onlookers {
    /// From when on a call is slow.
    pub slow: Duration,
    /// How calls are sampled; `None` where traces are not made.
    pub sampler: Option<Sampler>,
    sample_errors: bool,
    /// The last ones worth a look.
    pub traces: Traces,
    /// What became of what was to be shown.
    pub counters: Counters,
    exporter: OnceLock<Box<dyn Onlooker>>,
    log: OnceLock<Box<dyn Onlooker>>,
    /// Lines of the program's own log that were lost, where it is known.
    own_log_lines_dropped: OnceLock<Arc<Counter>>,
    /// Whoever watches.
    pub taps: Arc<Taps>,
    /// How many may watch at once.
    pub max_taps: usize,
}

/// What became of what was to be shown.
#[derive(Default, Debug)]
pub struct Counters {
    /// Spans that a collector has taken.
    pub spans_exported: Counter,
    /// Spans that were lost: too many waited, or no collector took them.
    pub spans_dropped: Counter,
    /// Those of them that a collector has refused.
    pub spans_rejected: Counter,
    /// Requests to the collector that failed.
    pub export_failures: Counter,
    /// Lines of the access log that were written.
    pub log_lines: Counter,
    /// Lines of the access log that were lost, since too many waited.
    pub log_lines_dropped: Counter,
}

/// [`Counters`], as `GET /metrics` shows them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // As there.
pub struct OnlookersReport {
    pub spans_exported: u64,
    pub spans_dropped: u64,
    pub spans_rejected: u64,
    pub export_failures: u64,
    pub log_lines: u64,
    pub log_lines_dropped: u64,
    pub own_log_lines_dropped: u64,
    pub traces_kept: u64,
    pub traces_dropped: u64,
    pub open_taps: usize,
    pub tap_lines: u64,
    pub tap_lines_dropped: u64,
    pub taps_refused: u64,
}

impl Onlookers {
    /// As configured.
    pub fn new(config: &Config) -> Self {
        Self {
            slow: config.slow_ms.duration(),
            sampler: config.tracing.then(|| Sampler::new(config.sample_ratio)),
            sample_errors: config.sample_errors,
            traces: Traces::default(),
            counters: Counters::default(),
            exporter: OnceLock::new(),
            log: OnceLock::new(),
            own_log_lines_dropped: OnceLock::new(),
            taps: Arc::default(),
            max_taps: config.max_taps,
        }
    }

    /// Spans go there from now on.
    pub fn on_export(&self, onlooker: impl Onlooker) {
        // The first one stays: a mesh has one exporter. The same below.
        let _ = self.exporter.set(Box::new(onlooker));
    }

    /// Calls are written there from now on.
    pub fn on_log(&self, onlooker: impl Onlooker) {
        let _ = self.log.set(Box::new(onlooker));
    }

    /// Lines of the program's own log that are lost are counted there.
    #[cfg(feature = "server")]
    pub(crate) fn on_own_log(&self, lines_dropped: &Arc<Counter>) {
        // A program has one log.
        let _ = self.own_log_lines_dropped.set(Arc::clone(lines_dropped));
    }

    /// Whether somebody wants to see every call.
    pub fn want_all(&self) -> bool {
        self.log.get().is_some() || self.taps.count() > 0
    }

    /// Shows a call to whoever wants it, the rings excepted. `fields` are those of its request: they are long, and kept for nobody but taps.
    pub fn show(&self, trace: &Arc<Trace>, fields: impl FnOnce() -> ShownFields) {
        let wanted = trace.is_sampled() || trace.context.is_some() && self.sample_errors && trace.is_failed();
        if let Some(exporter) = self.exporter.get().filter(|_| wanted)
            && !exporter.take(trace)
        {
            self.counters.spans_dropped.add(trace.spans());
        }
        if let Some(log) = self.log.get()
            && !log.take(trace)
        {
            self.counters.log_lines_dropped.add(1);
        }
        if self.taps.count() > 0 {
            self.taps.show(trace, fields());
        }
    }

    /// Has everything worked off that was taken, for at most `within`.
    pub fn flush(&self, within: Duration) {
        for onlooker in [&self.exporter, &self.log].into_iter().filter_map(OnceLock::get) {
            onlooker.flush(within);
        }
    }

    /// What became of what was to be shown.
    pub fn report(&self) -> OnlookersReport {
        let counters = &self.counters;
        let (traces_kept, traces_dropped) = self.traces.counts();
        OnlookersReport {
            spans_exported: counters.spans_exported.get(),
            spans_dropped: counters.spans_dropped.get(),
            spans_rejected: counters.spans_rejected.get(),
            export_failures: counters.export_failures.get(),
            log_lines: counters.log_lines.get(),
            log_lines_dropped: counters.log_lines_dropped.get(),
            own_log_lines_dropped: self.own_log_lines_dropped.get().map_or(0, |dropped| dropped.get()),
            traces_kept,
            traces_dropped,
            open_taps: self.taps.count(),
            tap_lines: self.taps.lines.get(),
            tap_lines_dropped: self.taps.dropped.get(),
            taps_refused: self.taps.refused.get(),
        }
    }
}
