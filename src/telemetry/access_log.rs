//! A call as one line: for people, with the letters of Envoy's response flags, or as JSON. Pure.

use std::fmt::Write;

use serde::Serialize;

use super::context::hex;
use super::onlookers::LogFormat;
use super::trace::{AttemptTrace, Trace, ms};
use crate::model::Reason;

/// The line of a call, without its end.
pub fn line(format: LogFormat, trace: &Trace) -> String {
    match format {
        LogFormat::Off | LogFormat::Text => text(trace),
        LogFormat::Json => serde_json::to_string(&Line::of(trace)).unwrap_or_default(),
    }
}

/// `[time] "METHOD path" status flags service/instance attempts=… total=… queue=… connect=… first=… "request id" caller trace reason`, times
/// in milliseconds, `-` for what there is not.
fn text(trace: &Trace) -> String {
    let last = trace.attempts.last();
    let or_dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
    let time = |time: Option<std::time::Duration>| time.map_or_else(|| "-".to_owned(), |time| ms(time).to_string());
    let mut out = String::with_capacity(256);
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "[{}] \"{} {}\" {} {} {}/{} attempts={} total={} queue={} connect={} first={} \"{}\" {} {} {}",
        stamp(trace.started_ms),
        trace.method,
        trace.path.replace('"', "\\\""),
        trace.status,
        flags(trace),
        trace.service,
        or_dash(last.map(|last| last.instance.as_str())),
        trace.attempts.len(),
        ms(trace.took),
        ms(trace.queued),
        time(last.and_then(|last| last.connect)),
        time(last.and_then(|last| last.first_byte)),
        trace.request_id,
        or_dash(trace.caller.map(|caller| caller.to_string()).as_deref()),
        or_dash(trace.context.map(|context| hex(context.trace_id, 32)).as_deref()),
        or_dash(trace.reason),
    );
    out
}

/// The line as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    time: String,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    service: &'a str,
    method: &'a str,
    path: &'a str,
    status: u16,
    flags: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a str>,
    attempts: usize,
    duration_ms: f64,
    queue_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_byte_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<String>,
}

impl<'a> Line<'a> {
    fn of(trace: &'a Trace) -> Self {
        let last: Option<&AttemptTrace> = trace.attempts.last();
        Self {
            time: stamp(trace.started_ms),
            request_id: trace.request_id.as_str(),
            trace_id: trace.context.map(|context| hex(context.trace_id, 32)),
            service: trace.service.as_str(),
            method: &trace.method,
            path: &trace.path,
            status: trace.status,
            flags: flags(trace),
            reason: trace.reason,
            instance: last.map(|last| last.instance.as_str()),
            attempts: trace.attempts.len(),
            duration_ms: ms(trace.took),
            queue_ms: ms(trace.queued),
            connect_ms: last.and_then(|last| last.connect).map(ms),
            first_byte_ms: last.and_then(|last| last.first_byte).map(ms),
            caller: trace.caller.map(|caller| caller.to_string()),
        }
    }
}

/// The letters of Envoy's access log for what went wrong, `-` for nothing.
pub fn flags(trace: &Trace) -> String {
    let Some(reason) = trace.reason else { return "-".to_owned() };
    let letters = LETTERS.iter().find(|(word, _)| *word == reason).map(|(_, letters)| *letters);
    let exhausted = (trace.attempts.len() > 1).then_some("URX");
    let all: Vec<&str> = letters.into_iter().chain(exhausted).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(",") }
}

const LETTERS: &[(&str, &str)] = &[
    (Reason::NoHealthyInstance.word(), "UH"),
    (Reason::UpstreamConnect.word(), "UF"),
    (Reason::Overloaded.word(), "UO"),
    (Reason::CircuitOpen.word(), "UO"),
    (Reason::UnknownService.word(), "NR"),
    (Reason::UpstreamReset.word(), "UC"),
    (Reason::UpstreamProtocol.word(), "UPE"),
    (Reason::UpstreamTimeout.word(), "UT"),
    (Reason::DeadlineExceeded.word(), "UMSDR"),
    (Reason::RateLimited.word(), "RL"),
    (Reason::FaultInjected.word(), "FI"),
    (Reason::Forbidden.word(), "UAEX"),
    (super::trace::CALLER_GONE, "DC"),
];

/// Milliseconds since the Unix epoch as RFC 3339 writes them (days to dates after Howard Hinnant's `civil_from_days`).
pub fn stamp(ms: u64) -> String {
    let (seconds, ms) = (ms / 1000, ms % 1000);
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{ms:03}Z", of_day / 3_600, of_day / 60 % 60, of_day % 60)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{InstanceId, RequestId, ServiceName};
    use crate::telemetry::trace::shown_path;

    fn trace(reason: Option<&'static str>, attempts: usize) -> Trace {
        let attempt = AttemptTrace {
            span: 0,
            instance: InstanceId::new("a-1").expect("valid"),
            authority: "127.0.0.1:80".into(),
            offset: Duration::from_millis(1),
            waited: Duration::ZERO,
            took: Duration::from_millis(9),
            connect: Some(Duration::from_micros(250)),
            first_byte: Some(Duration::from_millis(7)),
            reused: false,
            status: Some(500),
            failure: Some(Reason::UpstreamStatus),
        };
        Trace {
            context: None,
            state: None,
            request_id: RequestId::from_caller("r-1").expect("valid"),
            service: ServiceName::new("s").expect("valid"),
            method: "GET".into(),
            path: shown_path("/a\"b\n\u{1b}[31m?secret"),
            caller: Some(std::net::Ipv4Addr::LOCALHOST.into()),
            started_ms: 1_795_453_272_096,
            took: Duration::from_micros(12_345),
            queued: Duration::from_millis(1),
            status: 503,
            reason,
            streamed: false,
            attempts: vec![attempt; attempts],
        }
    }

    #[test]
    fn a_line_says_what_came_of_a_call_and_stays_one_line() {
        assert_eq!(
            line(LogFormat::Text, &trace(Some("upstream_connect"), 2)),
            "[2026-11-23T17:01:12.096Z] \"GET /a\\\"b\\u{a}\\u{1b}[31m\" 503 UF,URX s/a-1 attempts=2 total=12.345 queue=1 connect=0.25 first=7 \
             \"r-1\" 127.0.0.1 - upstream_connect"
        );
        let json: serde_json::Value = serde_json::from_str(&line(LogFormat::Json, &trace(None, 0))).expect("JSON");
        assert_eq!((&json["path"], &json["flags"], &json["attempts"]), (&"/a\"b\\u{a}\\u{1b}[31m".into(), &"-".into(), &0.into()));
        assert_eq!((json.get("instance"), json.get("reason")), (None, None));
    }

    #[test]
    fn every_letter_stands_for_a_reason_there_is() {
        let known = |word: &str| word == super::super::trace::CALLER_GONE || Reason::ALL.iter().any(|reason| reason.word() == word);
        assert!(LETTERS.iter().all(|(word, _)| known(word)));
        assert_eq!(flags(&trace(Some("unknown_service"), 0)), "NR");
        assert_eq!(flags(&trace(Some("upstream_status"), 1)), "-");
        assert_eq!(flags(&trace(Some("caller_gone"), 1)), "DC");
    }

    #[test]
    fn times_are_written_as_dates() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00.000Z"),
            (4_102_444_799_001, "2099-12-31T23:59:59.001Z"),
        ] {
            assert_eq!(stamp(ms), text);
        }
    }
}
