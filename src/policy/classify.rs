//! The one place that decides what an event means: for the circuit breaker, for the instance, and for a retry.

use std::time::Duration;

use super::retry::{Config, RetryOn};
use crate::model::{ConnectFailure, Failure, Fields};

/// What something says about the health of whoever it is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It works.
    Success,
    /// It does not.
    Failure,
    /// Nothing either way.
    Excluded,
}

/// When an event may be followed by another attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Again {
    /// Not at all.
    Never,
    /// When the request may be processed twice.
    IfIdempotent,
    /// Always: it was certainly not processed, or the answer asks for it.
    Always,
}

/// How an attempt ended.
#[derive(Clone)]
pub enum Event<'a> {
    /// An answer came: its status and header fields.
    Answer(u16, &'a dyn Fields),
    /// No (whole) answer came.
    Failed(&'a Failure),
}

/// What an event means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meaning {
    /// For the circuit breaker, if the call ends with it.
    pub call: Outcome,
    /// For the ejection of the instance.
    pub instance: Outcome,
    /// For a retry.
    pub again: Again,
    /// The answer is passed on as it is if the call ends with it.
    pub deliverable: bool,
    /// When the instance asked to be called again, if it did.
    pub retry_after: Option<Duration>,
    /// The instance asked to be spared, which is no failure.
    pub busy: bool,
}

/// As how slow an answer counts that failed, for strategies that go by latency.
const PENALTY: Duration = Duration::from_secs(5);
/// No instance can take itself out for longer than this.
const LONGEST_PENALTY: Duration = Duration::from_secs(300);

impl Meaning {
    /// What an attempt that took `took` counts as for strategies that go by latency: a failure or a request to be spared as slow, whatever
    /// the time it took. `None` when it shows nothing.
    pub fn latency(&self, took: Duration) -> Option<Duration> {
        match self.instance {
            Outcome::Success => Some(took),
            Outcome::Excluded if !self.busy => None,
            Outcome::Failure | Outcome::Excluded => Some(self.retry_after.unwrap_or(PENALTY).min(LONGEST_PENALTY).max(took)),
        }
    }
}

/// What `event` means under `config`. `cut_short`: the time that was over, if one was, was the caller's own limit, not the policy's.
pub fn classify(event: &Event<'_>, config: &Config, cut_short: bool) -> Meaning {
    let retried = |on: RetryOn, again: Again| if config.retry_on.contains(&on) { again } else { Again::Never };
    let said = |call, instance, again, deliverable| Meaning { call, instance, again, deliverable, retry_after: None, busy: false };
    match event {
        Event::Answer(status, headers) => {
            let retry_after = || headers.first("retry-after").and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
            let on = RetryOn::Status(*status);
            match status {
                429 => {
                    let again = retried(on, Again::Always);
                    let said = said(Outcome::Excluded, Outcome::Excluded, again, true);
                    Meaning { retry_after: retry_after(), busy: true, ..said }
                }
                501 | 505 => said(Outcome::Success, Outcome::Success, Again::Never, true),
                503 => {
                    // A 503 means "not now"; but one that another mesh made may hide an attempt that was processed.
                    let may_hide = headers.first("x-mesh-reason").is_some() && headers.first("x-mesh-not-sent") != Some("true");
                    let again = retried(on, if may_hide { Again::IfIdempotent } else { Again::Always });
                    Meaning { retry_after: retry_after(), ..said(Outcome::Failure, Outcome::Failure, again, false) }
                }
                500.. => said(Outcome::Failure, Outcome::Failure, retried(on, Again::IfIdempotent), false),
                // 408, 425 and the like only when the policy names them.
                _ => said(Outcome::Success, Outcome::Success, retried(on, Again::IfIdempotent), true),
            }
        }
        Event::Failed(failure) => match failure {
            Failure::Connect(ConnectFailure::TimedOut) | Failure::Timeout if cut_short => {
                said(Outcome::Excluded, Outcome::Excluded, Again::Never, false)
            }
            // The instance has not been asked.
            Failure::Connect(ConnectFailure::NoMeans) => {
                said(Outcome::Excluded, Outcome::Excluded, retried(RetryOn::Connect, Again::Always), false)
            }
            Failure::Connect(_) => said(Outcome::Failure, Outcome::Failure, retried(RetryOn::Connect, Again::Always), false),
            Failure::Stale { written: false } => said(Outcome::Excluded, Outcome::Excluded, Again::Always, false),
            Failure::Stale { written: true } => said(Outcome::Excluded, Outcome::Excluded, Again::IfIdempotent, false),
            Failure::Reset => said(Outcome::Failure, Outcome::Failure, retried(RetryOn::Reset, Again::IfIdempotent), false),
            Failure::Timeout => said(Outcome::Failure, Outcome::Failure, retried(RetryOn::Timeout, Again::IfIdempotent), false),
            Failure::Protocol(_) => said(Outcome::Failure, Outcome::Failure, Again::Never, false),
            // Whoever asks for much so that it is too much here must not break the service off for others.
            Failure::TooLong(_) => said(Outcome::Excluded, Outcome::Excluded, Again::Never, false),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Headers;

    fn answer(status: u16, fields: &[(&str, &str)]) -> Meaning {
        let mut headers = Headers::new();
        for (name, value) in fields {
            headers.push(name, value);
        }
        classify(&Event::Answer(status, &headers), &Config::default(), false)
    }

    fn failed(failure: &Failure, cut_short: bool) -> Meaning {
        classify(&Event::Failed(failure), &Config::default(), cut_short)
    }

    /// The table in the documentation of [`crate::policy`], row by row.
    #[test]
    fn every_row_of_the_table_holds() {
        use Again::{Always, IfIdempotent, Never};
        use Outcome::{Excluded, Failure as Bad, Success as Good};
        let rows = [
            ("200", answer(200, &[]), (Good, Good, Never, true)),
            ("302", answer(302, &[]), (Good, Good, Never, true)),
            ("404", answer(404, &[]), (Good, Good, Never, true)),
            ("429", answer(429, &[]), (Excluded, Excluded, Always, true)),
            ("500", answer(500, &[]), (Bad, Bad, IfIdempotent, false)),
            ("501", answer(501, &[]), (Good, Good, Never, true)),
            ("502", answer(502, &[]), (Bad, Bad, IfIdempotent, false)),
            ("503", answer(503, &[]), (Bad, Bad, Always, false)),
            ("503 of a mesh", answer(503, &[("x-mesh-reason", "upstream_reset")]), (Bad, Bad, IfIdempotent, false)),
            (
                "503 of a mesh, not sent",
                answer(503, &[("x-mesh-reason", "overloaded"), ("x-mesh-not-sent", "true")]),
                (Bad, Bad, Always, false),
            ),
            ("504", answer(504, &[]), (Bad, Bad, IfIdempotent, false)),
            ("505", answer(505, &[]), (Good, Good, Never, true)),
            ("507", answer(507, &[]), (Bad, Bad, Never, false)),
            ("connect", failed(&Failure::Connect(ConnectFailure::Refused), false), (Bad, Bad, Always, false)),
            (
                "connect timeout by the caller",
                failed(&Failure::Connect(ConnectFailure::TimedOut), true),
                (Excluded, Excluded, Never, false),
            ),
            ("nothing to connect with", failed(&Failure::Connect(ConnectFailure::NoMeans), false), (Excluded, Excluded, Always, false)),
            ("refused to a caller in a hurry", failed(&Failure::Connect(ConnectFailure::Refused), true), (Bad, Bad, Always, false)),
            ("stale, not written", failed(&Failure::Stale { written: false }, false), (Excluded, Excluded, Always, false)),
            ("stale, written", failed(&Failure::Stale { written: true }, false), (Excluded, Excluded, IfIdempotent, false)),
            ("reset", failed(&Failure::Reset, false), (Bad, Bad, IfIdempotent, false)),
            ("timeout", failed(&Failure::Timeout, false), (Bad, Bad, IfIdempotent, false)),
            ("timeout by the caller", failed(&Failure::Timeout, true), (Excluded, Excluded, Never, false)),
            ("protocol", failed(&Failure::Protocol("x".into()), false), (Bad, Bad, Never, false)),
            ("longer than is collected", failed(&Failure::TooLong(1), false), (Excluded, Excluded, Never, false)),
        ];
        for (name, meaning, expected) in rows {
            assert_eq!((meaning.call, meaning.instance, meaning.again, meaning.deliverable), expected, "{name}");
        }
    }

    #[test]
    fn only_what_the_policy_lists_is_retried() {
        let config = Config { retry_on: vec![RetryOn::Connect], ..Config::default() };
        let empty = Headers::new();
        for status in [429, 500, 503] {
            assert_eq!(classify(&Event::Answer(status, &empty), &config, false).again, Again::Never, "{status}");
        }
        assert_eq!(classify(&Event::Failed(&Failure::Reset), &config, false).again, Again::Never);
    }

    #[test]
    fn what_failed_or_is_busy_counts_as_slow() {
        let (quick, s) = (Duration::from_millis(1), Duration::from_secs);
        for (name, meaning, latency) in [
            ("200", answer(200, &[]), Some(quick)),
            ("404", answer(404, &[]), Some(quick)),
            ("500", answer(500, &[]), Some(s(5))),
            ("429", answer(429, &[]), Some(s(5))),
            ("429 for a while", answer(429, &[("retry-after", "60")]), Some(s(60))),
            ("503 for ever", answer(503, &[("retry-after", "86400")]), Some(s(300))),
            ("refused", failed(&Failure::Connect(ConnectFailure::Refused), false), Some(s(5))),
            ("timeout by the caller", failed(&Failure::Timeout, true), None),
            ("stale", failed(&Failure::Stale { written: false }, false), None),
        ] {
            assert_eq!(meaning.latency(quick), latency, "{name}");
        }
        assert_eq!(failed(&Failure::Timeout, false).latency(s(10)), Some(s(10)));
    }

    #[test]
    fn the_instance_can_say_when_to_come_back() {
        assert_eq!(answer(503, &[("Retry-After", "7")]).retry_after, Some(Duration::from_secs(7)));
        assert_eq!(answer(429, &[("retry-after", "soon")]).retry_after, None);
        assert_eq!(answer(500, &[("Retry-After", "7")]).retry_after, None);
    }
}
