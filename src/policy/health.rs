//! What active checks say about an instance: thresholds, so that one hiccup changes nothing, and quick repeats, so that a death is known
//! within one interval.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::model::settings::{Millis, settings};
use crate::model::time::fraction;
use crate::model::{Headers, Invalid, shown};

settings! {
    /// Settings of active health checks.
    pub struct Config {
        /// Time between two checks of an instance.
        interval_ms: Millis = Millis(10_000), in 10, 86_400_000;
        /// A check without an answer by then has failed.
        timeout_ms: Millis = Millis(5_000), in 1, 600_000;
        /// Failed checks in a row that make an instance unhealthy.
        unhealthy_threshold: u32 = 2, in 1, 1_000;
        /// Passed checks in a row that make it healthy again.
        healthy_threshold: u32 = 1, in 1, 1_000;
        /// Time to the next check while the verdict is in the balance.
        fast_interval_ms: Millis = Millis(250), in 1, 600_000;
        /// Statuses that pass; empty means any 2xx, and 429, which means busy but alive.
        expect_status: Vec<u16> = Vec::new();
        /// GET or HEAD.
        method: String = "GET".to_owned();
        /// Header fields to send with a check; host may be one of them.
        headers: BTreeMap<String, String> = BTreeMap::new();
    }
}

impl Config {
    /// Refuses what could not be sent.
    pub(super) fn check_request(&self, faults: &mut Vec<Invalid>) {
        if !["GET", "HEAD"].contains(&self.method.as_str()) {
            faults.push(Invalid::new("healthCheck.method", format!("{} is neither GET nor HEAD", shown(&self.method))));
        }
        let mut fault = |why| faults.push(Invalid::new("healthCheck.headers", why));
        for (name, value) in &self.headers {
            let mut one = Headers::new();
            if let Err(invalid) = one.append(name, value) {
                fault(invalid.why);
            } else if one.for_upstream().is_empty() && !name.eq_ignore_ascii_case("host") {
                // A check goes wherever a registration says: to others too, who take the mesh at its word.
                fault(format!("{} belongs to the connection or to the mesh", shown(name)));
            }
        }
        if let Some(status) = self.expect_status.iter().find(|status| !(100..=599).contains(*status)) {
            faults.push(Invalid::new("healthCheck.expectStatus", format!("{status} is not a status; use 100 to 599")));
        }
    }
}

/// Share of the interval by which a check may come early, so that checks do not bunch.
const JITTER: f64 = 0.1;

/// How one check ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CheckResult {
    /// An answer that passes.
    Passed,
    /// An answer that does not pass: the instance says so itself.
    Answered(u16),
    /// No connection.
    Unreachable,
    /// No answer in time.
    TimedOut,
    /// It could not be made, for want of a descriptor or the like: nothing is known that was not known before.
    NotMade,
}

impl CheckResult {
    /// Every [`CheckResult::word`].
    pub const WORDS: [&'static str; 5] = ["passed", "answered", "unreachable", "timed_out", "not_made"];

    /// For metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Answered(_) => "answered",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::NotMade => "not_made",
        }
    }

    /// What an answered status means.
    pub fn of_status(config: &Config, status: u16) -> Self {
        let passed =
            if config.expect_status.is_empty() { matches!(status, 200..=299 | 429) } else { config.expect_status.contains(&status) };
        if passed { Self::Passed } else { Self::Answered(status) }
    }

    /// For events and explanations.
    pub fn describe(self) -> String {
        match self {
            Self::Passed => "check passed".to_owned(),
            Self::Answered(status) => format!("check answered {status}"),
            Self::Unreachable => "check got no connection".to_owned(),
            Self::TimedOut => "check timed out".to_owned(),
            Self::NotMade => "check could not be made".to_owned(),
        }
    }
}

/// What is known about one instance. Guarded by its owner.
#[derive(Clone, Debug)]
pub struct Health {
    healthy: bool,
    /// A check has been answered for: until then `healthy` is what the registration said.
    checked: bool,
    /// Checks in a row against the verdict.
    against: u32,
    /// A failed check has been cancelled by passing calls since the verdict last stood.
    cancelled: bool,
    last: Option<CheckResult>,
}

impl Health {
    /// As registered: healthy unless it said otherwise.
    pub const fn registered(healthy: Option<bool>) -> Self {
        Self { healthy: !matches!(healthy, Some(false)), checked: false, against: 0, cancelled: false, last: None }
    }

    /// A new registration said so: `false` always takes effect, `true` never overrides a failed check.
    pub const fn say(&mut self, healthy: bool) {
        if !healthy {
            self.healthy = false;
            self.against = 0;
        } else if !self.checked {
            self.healthy = true;
        }
    }

    /// Takes in one check. `recent_success`: a call to the instance has succeeded within the last interval. Answers whether the verdict
    /// changed.
    pub fn record(&mut self, config: &Config, result: CheckResult, recent_success: bool) -> bool {
        if result == CheckResult::NotMade {
            return false;
        }
        let passed = result == CheckResult::Passed;
        let first = !self.checked;
        self.checked = true;
        self.last = Some(result);
        if passed == self.healthy {
            self.against = 0;
            self.cancelled = false;
            return false;
        }
        // Calls that succeed prove that the instance can be reached; they do not outweigh its own word.
        let disproved = matches!(result, CheckResult::Unreachable | CheckResult::TimedOut) && recent_success;
        if disproved && !self.cancelled && self.healthy {
            self.cancelled = true;
            return false;
        }
        self.against += 1;
        let threshold = if passed { config.healthy_threshold } else { config.unhealthy_threshold };
        if first || self.against >= threshold {
            self.healthy = passed;
            self.against = 0;
            self.cancelled = false;
            return true;
        }
        false
    }

    /// Time to the next check: quick while the verdict is in the balance, else the interval less a little chance.
    pub fn next_check(&self, config: &Config, roll: u64) -> Duration {
        if self.against > 0 || self.cancelled {
            return config.fast_interval_ms.duration().min(config.interval_ms.duration());
        }
        config.interval_ms.duration().mul_f64(1.0 - JITTER * fraction(roll))
    }

    /// The verdict.
    pub const fn is_healthy(&self) -> bool {
        self.healthy
    }

    /// The last result, if there was one.
    pub const fn last(&self) -> Option<CheckResult> {
        self.last
    }
}

/// Whether a success at `last` still counts as recent at `now`.
pub fn is_recent(config: &Config, last: Option<Instant>, now: Instant) -> bool {
    last.is_some_and(|last| now.saturating_duration_since(last) <= config.interval_ms.duration())
}

#[cfg(test)]
mod tests {
    use super::CheckResult::{Answered, NotMade, Passed, TimedOut, Unreachable};
    use super::*;

    /// Feeds results and gives the verdicts after each.
    fn verdicts(health: &mut Health, results: &[(CheckResult, bool)]) -> Vec<bool> {
        results
            .iter()
            .map(|(result, recent)| {
                health.record(&Config::default(), *result, *recent);
                health.is_healthy()
            })
            .collect()
    }

    #[test]
    fn the_first_result_decides_alone_and_then_two_failures_or_one_pass() {
        let mut health = Health::registered(None);
        assert_eq!(verdicts(&mut health, &[(Unreachable, false)]), [false]);
        let results =
            [(Passed, false), (Answered(500), false), (Passed, false), (Answered(500), false), (Answered(500), false), (Passed, false)];
        assert_eq!(verdicts(&mut health, &results), [true, true, true, true, false, true]);
    }

    #[test]
    fn a_call_that_succeeded_lately_cancels_one_lost_check_but_never_an_answer() {
        let mut health = Health::registered(None);
        verdicts(&mut health, &[(Passed, false)]);
        assert_eq!(verdicts(&mut health.clone(), &[(TimedOut, true), (TimedOut, true), (TimedOut, true)]), [true, true, false]);
        assert_eq!(verdicts(&mut health.clone(), &[(Answered(503), true), (Answered(503), true)]), [true, false]);
        assert_eq!(verdicts(&mut health, &[(TimedOut, true), (Passed, false), (TimedOut, true), (TimedOut, true)]), [true; 4]);
    }

    #[test]
    fn a_check_that_could_not_be_made_changes_nothing() {
        let mut health = Health::registered(None);
        assert_eq!(verdicts(&mut health, &[(NotMade, false); 5]), [true; 5]);
        assert_eq!(
            verdicts(&mut health, &[(Unreachable, false), (NotMade, false)]),
            [false; 2],
            "the first one that was made decides alone"
        );
        assert_eq!(health.last(), Some(Unreachable));
    }

    #[test]
    fn registering_again_can_always_say_unhealthy_but_healthy_does_not_override_a_check() {
        let mut health = Health::registered(Some(true));
        health.say(false);
        assert!(!health.is_healthy());
        health.say(true);
        assert!(health.is_healthy());
        verdicts(&mut health, &[(Unreachable, false)]);
        health.say(true);
        assert!(!health.is_healthy());
    }

    #[test]
    fn checks_are_quick_while_the_verdict_is_in_the_balance_and_jitter_only_makes_them_earlier() {
        let config = Config::default();
        let mut health = Health::registered(None);
        health.record(&config, Passed, false);
        assert_eq!(health.next_check(&config, 0), Duration::from_secs(10));
        assert!(health.next_check(&config, u64::MAX) >= Duration::from_secs(9));
        health.record(&config, TimedOut, false);
        assert_eq!(health.next_check(&config, 0), Duration::from_millis(250));
        health.record(&config, TimedOut, false);
        assert!(!health.is_healthy());
        assert_eq!(health.next_check(&config, 0), Duration::from_secs(10));
    }

    #[test]
    fn a_check_that_could_not_be_sent_is_refused() {
        for (json, field) in [
            (r#"{"method":"POST"}"#, "healthCheck.method"),
            (r#"{"headers":{"a\r\nb":"c"}}"#, "healthCheck.headers"),
            (r#"{"headers":{"x-mesh-caller":"root"}}"#, "healthCheck.headers"),
            (r#"{"headers":{"X_Mesh_Caller":"root"}}"#, "healthCheck.headers"),
            (r#"{"headers":{"transfer-encoding":"chunked"}}"#, "healthCheck.headers"),
            (r#"{"headers":{"content-length":"5"}}"#, "healthCheck.headers"),
            (r#"{"expectStatus":[0]}"#, "healthCheck.expectStatus"),
        ] {
            let config: Config = serde_json::from_str(json).expect(json);
            let mut faults = Vec::new();
            config.check_request(&mut faults);
            assert_eq!(faults.first().map(|fault| &*fault.field), Some(field), "{json}");
        }
    }

    #[test]
    fn statuses_pass_as_configured() {
        let config = Config::default();
        for (status, passes) in [(200, true), (204, true), (299, true), (429, true), (302, false), (404, false), (503, false)] {
            assert_eq!(CheckResult::of_status(&config, status) == Passed, passes, "{status}");
        }
        let strict = Config { expect_status: vec![204], ..config };
        assert_eq!(CheckResult::of_status(&strict, 200), Answered(200));
    }
}
