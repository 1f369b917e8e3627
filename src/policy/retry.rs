//! When a failed attempt is repeated: the schedule, and the budget that keeps retries from becoming a storm.

use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::settings::{Millis, leaf, settings};
use crate::model::time::fraction;

settings! {
    /// Settings of retries.
    pub struct Config {
        /// Attempts after the first; 0 switches retries off.
        max_retries: u32 = 3, in 0, 100;
        /// The wait before the first retry; each further one waits twice as long: 100, 200, 400 ms.
        base_delay_ms: Millis = Millis(100), in 0, 600_000;
        /// No wait is longer than this.
        max_delay_ms: Millis = Millis(10_000), in 0, 600_000;
        /// Share of the wait that chance adds, so that callers that failed together do not come back together. Never shortens.
        jitter: f64 = 0.1, in 0, 1;
        /// What is retried: "connect", "reset", "timeout" and statuses.
        retry_on: RetryOnList = retried_by_default();
        /// Retry POST and PATCH like idempotent methods, although they may have been processed.
        non_idempotent: bool = false;
        /// Retries allowed per call, on average.
        budget_ratio: f64 = 0.2, in 0, 100;
        /// Retries allowed per second besides, so that a quiet service can retry at all. Ten seconds' worth may be saved up.
        budget_per_second: f64 = 10.0, in 0, 1_000_000;
        /// Larger streamed bodies are not kept for a retry.
        replay_limit_bytes: usize = 65_536, in 0, 104_857_600;
    }
}

/// What [`Config::retry_on`] holds.
pub type RetryOnList = Vec<RetryOn>;

/// One kind of failure that may be retried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RetryOn {
    /// No connection.
    Connect,
    /// The connection broke.
    Reset,
    /// The time of one attempt was over.
    Timeout,
    /// An answer with this status.
    Status(u16),
}

impl Serialize for RetryOn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Connect => serializer.serialize_str("connect"),
            Self::Reset => serializer.serialize_str("reset"),
            Self::Timeout => serializer.serialize_str("timeout"),
            Self::Status(status) => serializer.serialize_u16(*status),
        }
    }
}

impl<'de> Deserialize<'de> for RetryOn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Status(u16),
            Word(String),
        }
        let allowed = || serde::de::Error::custom("use \"connect\", \"reset\", \"timeout\" or a status from 400 to 599");
        match Written::deserialize(deserializer).map_err(|_| allowed())? {
            Written::Status(status @ 400..=599) => Ok(Self::Status(status)),
            Written::Word(word) if word == "connect" => Ok(Self::Connect),
            Written::Word(word) if word == "reset" => Ok(Self::Reset),
            Written::Word(word) if word == "timeout" => Ok(Self::Timeout),
            Written::Status(_) | Written::Word(_) => Err(allowed()),
        }
    }
}

leaf! { RetryOnList => |_| None }

/// The default of [`Config::retry_on`].
fn retried_by_default() -> RetryOnList {
    let statuses = [500, 502, 503, 504, 429].map(RetryOn::Status);
    [RetryOn::Connect, RetryOn::Reset, RetryOn::Timeout].into_iter().chain(statuses).collect()
}

impl Config {
    /// The wait before retry number `retry` (1 is the first).
    pub fn delay(&self, retry: u32, roll: u64) -> Duration {
        let doubled = self.base_delay_ms.0.saturating_mul(1_u64.checked_shl(retry.saturating_sub(1)).unwrap_or(u64::MAX));
        let wait = Duration::from_millis(doubled.min(self.max_delay_ms.0));
        wait.mul_f64(1.0 + self.jitter * fraction(roll))
    }
}

/// Seconds' worth of the budget's rate that can be saved up.
const BURST_SECONDS: f64 = 10.0;

/// A token bucket that bounds retries to a share of calls (after Finagle's `RetryBudget`): calls and time deposit, retries withdraw.
#[derive(Clone, Debug)]
pub struct Budget {
    tokens: f64,
    at: Instant,
}

impl Budget {
    /// A full budget.
    pub fn new(config: &Config, now: Instant) -> Self {
        Self { tokens: Self::cap(config), at: now }
    }

    /// A call began.
    pub fn deposit(&mut self, config: &Config, now: Instant) {
        self.refill(config, now);
        self.tokens = (self.tokens + config.budget_ratio).min(Self::cap(config));
    }

    /// Whether one more retry may be made; takes it out of the budget if so.
    pub fn withdraw(&mut self, config: &Config, now: Instant) -> bool {
        self.refill(config, now);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }

    /// Retries that could be made right now.
    pub fn left(&self, config: &Config, now: Instant) -> f64 {
        let mut copy = self.clone();
        copy.refill(config, now);
        copy.tokens
    }

    /// The latest time this budget has seen.
    pub const fn last_seen(&self) -> Instant {
        self.at
    }

    /// Whether the settings allow any retry at all.
    pub fn is_possible(config: &Config) -> bool {
        Self::cap(config) >= 1.0
    }

    fn refill(&mut self, config: &Config, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = (self.tokens + passed * config.budget_per_second).min(Self::cap(config));
    }

    /// Ten seconds' worth; with no rate at all, the share of calls alone may save up ten retries.
    fn cap(config: &Config) -> f64 {
        if config.budget_per_second > 0.0 { config.budget_per_second * BURST_SECONDS } else { BURST_SECONDS * config.budget_ratio.min(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_schedule_is_100_200_400_and_chance_only_adds_up_to_a_tenth() {
        let config = Config::default();
        for (retry, wait) in [(1, 100), (2, 200), (3, 400), (4, 800), (8, 10_000), (1000, 10_000)] {
            assert_eq!(config.delay(retry, 0), ms(wait), "retry {retry}");
            let most = config.delay(retry, u64::MAX);
            assert!(ms(wait) < most && most <= ms(wait) * 11 / 10, "retry {retry}: {most:?}");
        }
    }

    #[test]
    fn a_full_budget_allows_a_burst_and_then_a_fifth_of_the_calls_and_ten_a_second() {
        let (config, start) = (Config::default(), Instant::now());
        let mut budget = Budget::new(&config, start);
        let burst = (0..1000).filter(|_| budget.withdraw(&config, start)).count();
        assert_eq!(burst, 100);
        let mut retries = 0;
        for _ in 0..1000 {
            budget.deposit(&config, start);
            retries += usize::from(budget.withdraw(&config, start));
        }
        assert!((199..=200).contains(&retries), "{retries}");
        let later = start + ms(1000);
        let second = (0..1000).filter(|_| budget.withdraw(&config, later)).count();
        assert!((10..=11).contains(&second), "{second}");
    }

    #[test]
    fn the_budget_never_grows_beyond_its_cap_and_time_going_back_changes_nothing() {
        let (config, start) = (Config::default(), Instant::now() + ms(10_000));
        let mut budget = Budget::new(&config, start);
        budget.deposit(&config, start + ms(3_600_000));
        assert!(budget.left(&config, start + ms(3_600_000)) <= 100.0);
        assert!(budget.withdraw(&config, start));
        assert!(budget.left(&config, start) <= 99.0);
    }

    #[test]
    fn what_is_retried_is_written_as_words_and_statuses() {
        let list: RetryOnList = serde_json::from_str("[\"connect\", 503]").expect("valid");
        assert_eq!(list, [RetryOn::Connect, RetryOn::Status(503)]);
        for bad in ["[\"always\"]", "[200]", "[true]", "\"connect\""] {
            assert!(serde_json::from_str::<RetryOnList>(bad).is_err(), "{bad}");
        }
    }
}
