//! How long things may take, from one connection to the whole call.

use std::time::{Duration, Instant};

use crate::model::Invalid;
use crate::model::settings::{Millis, settings};

settings! {
    /// Time limits of one service.
    pub struct Config {
        /// The whole call, all attempts and waits included. A caller can only shorten it.
        total_ms: Millis = Millis(30_000), in 1, 86_400_000;
        /// One attempt, so that a hanging instance leaves time for another.
        attempt_ms: Millis = Millis(10_000), in 1, 86_400_000;
        /// Connecting, over all addresses of the instance: a healthy host answers in a round trip.
        connect_ms: Millis = Millis(1_000), in 1, 600_000;
        /// Silence while a streamed body is passed on.
        idle_body_ms: Millis = Millis(10_000), in 1, 86_400_000;
    }
}

impl Config {
    /// Refuses limits that contradict each other.
    pub(super) fn check_order(&self, faults: &mut Vec<Invalid>) {
        if self.attempt_ms > self.total_ms {
            let (attempt, total) = (self.attempt_ms.0, self.total_ms.0);
            faults.push(Invalid::new(
                "timeouts.attemptMs",
                format!("{attempt} is above timeouts.totalMs {total}; one attempt cannot outlast the call"),
            ));
        }
    }
}

/// The least time worth sending an attempt for.
pub const FLOOR: Duration = Duration::from_millis(5);

/// The end of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadline {
    end: Instant,
    by_caller: bool,
}

impl Deadline {
    /// The deadline of a call that began at `start`: the policy's total, or the caller's limit where that is shorter.
    pub fn new(config: &Config, caller: Option<Duration>, start: Instant) -> Self {
        let total = config.total_ms.duration();
        let by_caller = caller.is_some_and(|limit| limit < total);
        Self { end: start + caller.map_or(total, |limit| limit.min(total)), by_caller }
    }

    /// When the call is over.
    pub const fn end(self) -> Instant {
        self.end
    }

    /// What is left at `now`; nothing when it has passed.
    pub fn left(self, now: Instant) -> Duration {
        self.end.saturating_duration_since(now)
    }

    /// Time for one attempt beginning at `now`, and whether it is the caller's own limit that cuts it short.
    pub fn attempt(self, config: &Config, now: Instant) -> (Duration, bool) {
        let attempt = config.attempt_ms.duration();
        let left = self.left(now);
        (attempt.min(left), self.by_caller && left < attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_caller_can_only_shorten_the_total() {
        let (config, now) = (Config::default(), Instant::now());
        for (caller, left) in [(None, ms(30_000)), (Some(ms(2_000)), ms(2_000)), (Some(ms(99_000)), ms(30_000)), (Some(ms(0)), ms(0))] {
            assert_eq!(Deadline::new(&config, caller, now).left(now), left, "{caller:?}");
        }
    }

    #[test]
    fn an_attempt_gets_its_own_limit_or_what_is_left() {
        let (config, start) = (Config::default(), Instant::now());
        let deadline = Deadline::new(&config, None, start);
        for (elapsed, time) in [(0, 10_000), (19_999, 10_000), (25_000, 5_000), (30_000, 0), (31_000, 0)] {
            assert_eq!(deadline.attempt(&config, start + ms(elapsed)), (ms(time), false), "{elapsed}");
        }
    }

    #[test]
    fn it_is_known_when_the_callers_limit_cuts_an_attempt_short() {
        let (config, now) = (Config::default(), Instant::now());
        assert_eq!(Deadline::new(&config, Some(ms(1)), now).attempt(&config, now), (ms(1), true));
        assert_eq!(Deadline::new(&config, Some(ms(20_000)), now).attempt(&config, now), (ms(10_000), false));
        assert_eq!(Deadline::new(&config, Some(ms(20_000)), now).attempt(&config, now + ms(15_000)), (ms(5_000), true));
    }
}
