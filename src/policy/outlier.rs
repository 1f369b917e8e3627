//! Ejection of an instance whose attempts keep failing (passive outlier detection, in Envoy's terms).
//!
//! It reacts before the circuit breaker, which counts whole calls: one dead instance of several is left out and no caller notices.

use std::time::{Duration, Instant};

use super::classify::Outcome;
use crate::model::settings::{Millis, settings};

settings! {
    /// Settings of ejection.
    pub struct Config {
        /// Failed attempts in a row that eject an instance.
        consecutive_failures: u32 = 5, in 1, 1_000_000;
        /// How long the first ejection lasts; each further one in a row lasts that much longer.
        base_ejection_ms: Millis = Millis(30_000), in 1, 86_400_000;
        /// No ejection lasts longer than this.
        max_ejection_ms: Millis = Millis(300_000), in 1, 86_400_000;
    }
}

/// What is known about one instance. Guarded by its owner.
#[derive(Clone, Default, Debug)]
pub struct Outlier {
    failures: u32,
    ejected: Option<Ejection>,
    /// Ejections without a success in between, halved by a success.
    in_a_row: u32,
    /// Every failure of the current row was a failed connection or a timeout, which an active check can disprove.
    unreachable: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ejection {
    until: Instant,
    check_may_end_it: bool,
}

impl Outlier {
    /// Takes in the outcome of one attempt. `unreachable`: a failure to connect or a timeout. Answers whether the instance has earned an
    /// ejection; whether it may go is for its owner to say, who knows the others.
    pub fn record(&mut self, config: &Config, outcome: Outcome, unreachable: bool, now: Instant) -> bool {
        match outcome {
            Outcome::Success => {
                self.failures = 0;
                if self.ejected_until(now).is_none() {
                    self.in_a_row /= 2;
                    self.ejected = None;
                }
                false
            }
            // The end of an attempt from before the ejection is no news.
            Outcome::Failure if self.ejected_until(now).is_some() => false,
            Outcome::Failure => {
                self.unreachable = unreachable && (self.failures == 0 || self.unreachable);
                self.failures = self.failures.saturating_add(1);
                self.failures >= config.consecutive_failures
            }
            Outcome::Excluded => false,
        }
    }

    /// Leaves the instance out, and says for how long.
    pub fn eject(&mut self, config: &Config, now: Instant) -> Duration {
        self.in_a_row = self.in_a_row.saturating_add(1);
        let time = config.base_ejection_ms.duration().saturating_mul(self.in_a_row).min(config.max_ejection_ms.duration());
        self.ejected = Some(Ejection { until: now + time, check_may_end_it: self.unreachable });
        self.failures = 0;
        time
    }

    /// An active check passed: ends an ejection that failed connections or timeouts caused. Answers whether one ended.
    pub fn check_passed(&mut self, now: Instant) -> bool {
        let ends = self.ejected.is_some_and(|ejection| now < ejection.until && ejection.check_may_end_it);
        if ends {
            self.ejected = None;
        }
        ends
    }

    /// Whether its time is over, which is said once.
    pub fn returned(&mut self, now: Instant) -> bool {
        let over = self.ejected.is_some_and(|ejection| ejection.until <= now);
        if over {
            self.ejected = None;
        }
        over
    }

    /// Whether it is left out, or nobody has yet asked whether its time is over.
    pub const fn is_out(&self) -> bool {
        self.ejected.is_some()
    }

    /// Until when the instance is left out, if it is.
    pub fn ejected_until(&self, now: Instant) -> Option<Instant> {
        self.ejected.map(|ejection| ejection.until).filter(|until| now < *until)
    }

    /// Failed attempts in a row.
    pub const fn failures(&self) -> u32 {
        self.failures
    }
}

/// How many of `instances` may be ejected at once: half, at least one where there are two or more.
pub const fn may_be_ejected(instances: usize) -> usize {
    match instances {
        0 | 1 => 0,
        2 | 3 => 1,
        more => more / 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds failures; answers whether the last one earned an ejection.
    fn fail(outlier: &mut Outlier, times: usize, unreachable: bool, now: Instant) -> bool {
        (0..times).fold(false, |_, _| outlier.record(&Config::default(), Outcome::Failure, unreachable, now))
    }

    #[test]
    fn five_failures_in_a_row_earn_an_ejection_and_a_success_starts_again() {
        let (now, mut outlier) = (Instant::now(), Outlier::default());
        assert!(!fail(&mut outlier, 4, false, now));
        outlier.record(&Config::default(), Outcome::Success, false, now);
        assert!(!fail(&mut outlier, 4, false, now));
        outlier.record(&Config::default(), Outcome::Excluded, false, now);
        assert!(fail(&mut outlier, 1, false, now));
    }

    #[test]
    fn each_ejection_in_a_row_lasts_longer_up_to_the_maximum() {
        let (mut now, mut outlier) = (Instant::now(), Outlier::default());
        for seconds in [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300] {
            assert!(fail(&mut outlier, 5, false, now));
            assert_eq!(outlier.eject(&Config::default(), now), Duration::from_secs(seconds));
            assert!(outlier.ejected_until(now).is_some());
            now += Duration::from_secs(seconds);
            assert_eq!(outlier.ejected_until(now), None, "time ends it");
        }
    }

    #[test]
    fn a_success_after_return_halves_the_row() {
        let (mut now, mut outlier, config) = (Instant::now(), Outlier::default(), Config::default());
        for _ in 0..4 {
            fail(&mut outlier, 5, false, now);
            now += outlier.eject(&config, now);
        }
        outlier.record(&config, Outcome::Success, false, now);
        fail(&mut outlier, 5, false, now);
        assert_eq!(outlier.eject(&config, now), Duration::from_secs(90));
    }

    #[test]
    fn a_success_of_an_attempt_from_before_the_ejection_does_not_end_it() {
        let (now, mut outlier, config) = (Instant::now(), Outlier::default(), Config::default());
        fail(&mut outlier, 5, false, now);
        outlier.eject(&config, now);
        outlier.record(&config, Outcome::Success, false, now);
        assert!(outlier.ejected_until(now).is_some());
    }

    #[test]
    fn failures_of_attempts_from_before_the_ejection_are_not_counted_after_it() {
        let (now, mut outlier) = (Instant::now(), Outlier::default());
        fail(&mut outlier, 5, true, now);
        let until = now + outlier.eject(&Config::default(), now);
        fail(&mut outlier, 60, false, now);
        assert_eq!(outlier.failures(), 0);
        assert!(!fail(&mut outlier, 4, true, until));
        assert!(fail(&mut outlier, 1, true, until));
    }

    #[test]
    fn a_passing_check_ends_it_only_where_it_can_disprove_the_cause() {
        for (unreachable, ends) in [(true, true), (false, false)] {
            let (now, mut outlier) = (Instant::now(), Outlier::default());
            fail(&mut outlier, 5, unreachable, now);
            outlier.eject(&Config::default(), now);
            assert_eq!(outlier.check_passed(now), ends, "unreachable: {unreachable}");
        }
        let (now, mut outlier) = (Instant::now(), Outlier::default());
        fail(&mut outlier, 4, true, now);
        fail(&mut outlier, 1, false, now);
        outlier.eject(&Config::default(), now);
        assert!(!outlier.check_passed(now), "one answered 500 among timeouts is not disproved by a check");
    }

    #[test]
    fn half_may_go_and_one_of_two_or_three_and_never_the_only_one() {
        let counts: Vec<usize> = (0..=7).map(may_be_ejected).collect();
        assert_eq!(counts, [0, 0, 1, 1, 2, 2, 3, 3]);
    }
}
