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
}

/// What `event` means under `config`. `cut_short`: the time that was over, if one was, was the caller's own limit, not the policy's.
pub fn classify(event: &Event<'_>, config: &Config, cut_short: bool) -> Meaning {
    let retried = |on: RetryOn, again: Again| if config.retry_on.contains(&on) { again } else { Again::Never };
    let said = |call, instance, again, deliverable| Meaning { call, instance, again, deliverable, retry_after: None };
    match event {
        Event::Answer(status, headers) => {
            let retry_after = || headers.first("retry-after").and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
            let on = RetryOn::Status(*status);
            match status {
                429 => {
                    let again = retried(on, Again::Always);
                    Meaning { call: Outcome::Excluded, instance: Outcome::Excluded, again, deliverable: true, retry_after: retry_after() }
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
            Failure::Connect(_) => said(Outcome::Failure, Outcome::Failure, retried(RetryOn::Connect, Again::Always), false),
            Failure::Stale { written: false } => said(Outcome::Excluded, Outcome::Excluded, Again::Always, false),
            Failure::Stale { written: true } => said(Outcome::Excluded, Outcome::Excluded, Again::IfIdempotent, false),
            Failure::Reset => said(Outcome::Failure, Outcome::Failure, retried(RetryOn::Reset, Again::IfIdempotent), false),
            Failure::Timeout => said(Outcome::Failure, Outcome::Failure, retried(RetryOn::Timeout, Again::IfIdempotent), false),
            Failure::Protocol(_) => said(Outcome::Failure, Outcome::Failure, Again::Never, false),
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
            ("refused to a caller in a hurry", failed(&Failure::Connect(ConnectFailure::Refused), true), (Bad, Bad, Always, false)),
            ("stale, not written", failed(&Failure::Stale { written: false }, false), (Excluded, Excluded, Always, false)),
            ("stale, written", failed(&Failure::Stale { written: true }, false), (Excluded, Excluded, IfIdempotent, false)),
            ("reset", failed(&Failure::Reset, false), (Bad, Bad, IfIdempotent, false)),
            ("timeout", failed(&Failure::Timeout, false), (Bad, Bad, IfIdempotent, false)),
            ("timeout by the caller", failed(&Failure::Timeout, true), (Excluded, Excluded, Never, false)),
            ("protocol", failed(&Failure::Protocol("x".into()), false), (Bad, Bad, Never, false)),
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
    fn the_instance_can_say_when_to_come_back() {
        assert_eq!(answer(503, &[("Retry-After", "7")]).retry_after, Some(Duration::from_secs(7)));
        assert_eq!(answer(429, &[("retry-after", "soon")]).retry_after, None);
        assert_eq!(answer(500, &[("Retry-After", "7")]).retry_after, None);
    }
}
