//! A call in retrospect, for those who look at single calls. Made at most once for a call, and only when somebody wants it; all who do share
//! the one.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::context::{Context, hex};
use crate::model::time::as_ms;
use crate::model::{InstanceId, Reason, RequestId, ServiceName, is_unseen};

/// The longest path that is shown, in characters.
const LONGEST_PATH: usize = 256;
/// The longest method that is shown, in characters.
const LONGEST_METHOD: usize = 24;
/// Attempts of one call that are shown. A call makes four unless somebody wants more.
pub const MOST_ATTEMPTS: usize = 16;

/// The reason of a call whose caller had gone before it was answered; nobody is told.
pub const CALLER_GONE: &str = "caller_gone";

/// A call in retrospect.
#[derive(Clone, PartialEq, Debug)]
pub struct Trace {
    /// The trace it belongs to, where traces are made.
    pub context: Option<Context>,
    /// What came as `tracestate`, where it is a span.
    pub state: Option<Box<str>>,
    /// The id of the call.
    pub request_id: RequestId,
    /// The service that was called, registered or not.
    pub service: ServiceName,
    /// The method, in the letters of its caller.
    pub method: Box<str>,
    /// The path, as [`shown_path`] shows it.
    pub path: Box<str>,
    /// The address of the caller; `None` for a call from within the process.
    pub caller: Option<IpAddr>,
    /// When it came in, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// From start to end.
    pub took: Duration,
    /// How long it waited for a slot or a worker.
    pub queued: Duration,
    /// What its caller got; 0 when the caller had gone.
    pub status: u16,
    /// Why it failed; `None` when an answer was delivered.
    pub reason: Option<&'static str>,
    /// It was passed on as it came.
    pub streamed: bool,
    /// Its attempts in order, the first [`MOST_ATTEMPTS`].
    pub attempts: Vec<AttemptTrace>,
}

/// An attempt in retrospect.
#[derive(Clone, PartialEq, Debug)]
pub struct AttemptTrace {
    /// Its span; 0 where traces are not made.
    pub span: u64,
    /// At which instance.
    pub instance: InstanceId,
    /// Where it listens, as host and port.
    pub authority: Arc<str>,
    /// When it was sent, from the start of the call.
    pub offset: Duration,
    /// How long the call had waited before: for a slot, a worker, or the time to try again.
    pub waited: Duration,
    /// From sending to the end.
    pub took: Duration,
    /// How long connecting took, where a connection had to be made and was.
    pub connect: Option<Duration>,
    /// From sending to the head of the answer, if one came.
    pub first_byte: Option<Duration>,
    /// It went out on a connection that was there already.
    pub reused: bool,
    /// The status of the answer, if one came.
    pub status: Option<u16>,
    /// Why it counts as failed.
    pub failure: Option<Reason>,
}

impl Trace {
    /// Whether it was chosen to be looked at.
    pub fn is_sampled(&self) -> bool {
        self.context.is_some_and(|context| context.sampled)
    }

    /// How many spans it is: its own and one for each attempt.
    pub fn spans(&self) -> u64 {
        1 + self.attempts.len() as u64
    }

    /// Whether the call failed, or its caller was told so by the instance.
    pub const fn is_failed(&self) -> bool {
        self.reason.is_some() || self.status >= 500
    }
}

/// A path without its query, on one line whatever is in it, and cut when it is very long.
pub fn shown_path(endpoint: &str) -> Box<str> {
    let path = endpoint.split('?').next().unwrap_or_default();
    let rooted = if path.starts_with('/') || path == "*" { "" } else { "/" };
    escaped(rooted, path, LONGEST_PATH)
}

/// A method, whatever its caller made of it.
pub fn shown_method(method: &str) -> Box<str> {
    escaped("", method, LONGEST_METHOD)
}

/// `text` after `prefix`, with what is unseen escaped, and cut after so many characters.
pub fn escaped(prefix: &str, text: &str, most: usize) -> Box<str> {
    let mut out = String::with_capacity(prefix.len() + text.len().min(most + 3));
    out.push_str(prefix);
    let mut rest = text.chars();
    for c in rest.by_ref().take(most) {
        if is_unseen(c) {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\u{{{:x}}}", c as u32);
        } else {
            out.push(c);
        }
    }
    if rest.next().is_some() {
        out.push('…');
    }
    out.into()
}

/// Milliseconds with three decimals.
pub fn ms(time: Duration) -> f64 {
    (as_ms(time) * 1e3).round() / 1e3
}

/// A call as `GET /traces` shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    span_id: Option<String>,
    request_id: &'a str,
    service: &'a str,
    method: &'a str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<IpAddr>,
    started_at: u64,
    duration_ms: f64,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    queue_ms: f64,
    sampled: bool,
    attempts: Vec<ShownAttempt<'a>>,
}

/// An attempt as `GET /traces` shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownAttempt<'a> {
    attempt: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    span_id: Option<String>,
    instance: &'a str,
    offset_ms: f64,
    wait_ms: f64,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_byte_ms: Option<f64>,
    reused: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'static str>,
}

impl Serialize for Trace {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shown = Shown {
            trace_id: self.context.map(|context| hex(context.trace_id, 32)),
            span_id: self.context.map(|context| hex(context.span.into(), 16)),
            request_id: self.request_id.as_str(),
            service: self.service.as_str(),
            method: &self.method,
            path: &self.path,
            caller: self.caller,
            started_at: self.started_ms,
            duration_ms: ms(self.took),
            status: self.status,
            reason: self.reason,
            queue_ms: ms(self.queued),
            sampled: self.is_sampled(),
            attempts: self.attempts.iter().zip(1..).map(|(attempt, number)| attempt.shown(number)).collect(),
        };
        shown.serialize(serializer)
    }
}

impl AttemptTrace {
    fn shown(&self, attempt: usize) -> ShownAttempt<'_> {
        ShownAttempt {
            attempt,
            span_id: (self.span != 0).then(|| hex(self.span.into(), 16)),
            instance: self.instance.as_str(),
            offset_ms: ms(self.offset),
            wait_ms: ms(self.waited),
            duration_ms: ms(self.took),
            connect_ms: self.connect.map(ms),
            first_byte_ms: self.first_byte.map(ms),
            reused: self.reused,
            status: self.status,
            failure: self.failure.map(Reason::word),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_shown_on_one_line_without_its_query_and_not_for_ever() {
        assert_eq!(&*shown_path("/a/b?token=secret"), "/a/b");
        assert_eq!(&*shown_path("?x"), "/");
        assert_eq!(&*shown_path("*"), "*");
        assert_eq!(&*shown_path("/a\u{1b}[31m\u{202e}b\n"), "/a\\u{1b}[31m\\u{202e}b\\u{a}");
        let long = shown_path(&format!("/{}", "é".repeat(5000)));
        assert_eq!((long.chars().count(), long.chars().last()), (LONGEST_PATH + 1, Some('…')));
        assert_eq!(shown_method(&"M".repeat(1000)).chars().count(), LONGEST_METHOD + 1);
    }
}
