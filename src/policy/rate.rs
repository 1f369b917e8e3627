//! How often a service may be called, by everyone and by each caller: token buckets (Turner, 1986), in a table of fixed size.

use std::time::{Duration, Instant};

use crate::model::Limit;
use crate::model::settings::settings;

settings! {
    /// Rate limits of one service.
    pub struct Config {
        /// Calls per second; what is above is refused with 429. 0: unlimited.
        rate_per_second: f64 = 0.0, in 0, 1_000_000_000;
        /// Calls that may come at once after a quiet while. 0: one second's worth, at least one.
        burst: u32 = 0, in 0, 1_000_000_000;
        /// The same for each caller by itself, told apart by name or address (IPv6 by its /64).
        per_caller: PerCaller = PerCaller::default();
    }
}

settings! {
    /// Rate limits of each caller.
    pub struct PerCaller {
        /// Calls per second of one caller. 0: unlimited.
        rate_per_second: f64 = 0.0, in 0, 1_000_000_000;
        /// Calls of one caller that may come at once after a quiet while. 0: one second's worth, at least one.
        burst: u32 = 0, in 0, 1_000_000_000;
    }
}

impl Config {
    /// Whether callers are told apart.
    pub const fn is_per_caller(&self) -> bool {
        self.per_caller.rate_per_second > 0.0
    }

    fn whole(&self) -> Option<Rate> {
        Rate::of(self.rate_per_second, self.burst)
    }

    fn each(&self) -> Option<Rate> {
        Rate::of(self.per_caller.rate_per_second, self.per_caller.burst)
    }
}

/// A rate that is on.
#[derive(Clone, Copy, Debug)]
struct Rate {
    per_second: f64,
    burst: f64,
}

impl Rate {
    fn of(per_second: f64, burst: u32) -> Option<Self> {
        let burst = if burst == 0 { per_second.max(1.0) } else { f64::from(burst) };
        (per_second > 0.0).then_some(Self { per_second, burst })
    }
}

/// A call comes too often.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limited {
    /// By which limit.
    pub limit: Limit,
    /// When the next call may come.
    pub retry_after: Duration,
}

/// How many calls may still come. Full at first.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    const fn full(rate: Rate, now: Instant) -> Self {
        Self { tokens: rate.burst, at: now }
    }

    fn refill(&mut self, rate: Rate, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = (self.tokens + passed * rate.per_second).min(rate.burst);
    }

    /// Time to the next call that may come, if none may come now.
    fn wait(&mut self, rate: Rate, now: Instant) -> Option<Duration> {
        self.refill(rate, now);
        let lacking = 1.0 - self.tokens;
        // A rate may be so low that no duration can hold the wait.
        (lacking > 1e-9).then(|| Duration::try_from_secs_f64(lacking / rate.per_second).unwrap_or(Duration::MAX))
    }
}

/// Sets of places in the table of callers; each caller has its set. A stranger cannot make it grow beyond 200 KiB.
const SETS: usize = 1024;
/// Places in a set.
const WAYS: usize = 4;
/// The places of some callers, each with the hash of whose it is. Made when the first of them comes.
type Set = Option<Box<[Option<(u64, Bucket)>; WAYS]>>;

/// The buckets of one service. Guarded by its owner.
#[derive(Default, Debug)]
pub struct Limiter {
    whole: Option<Bucket>,
    /// Where a caller's place is taken, whoever was heard of least recently makes room: who waited long is full again anyway.
    callers: Vec<Set>,
}

impl Limiter {
    /// Lets a call of `caller` (a hash) in, or not.
    ///
    /// # Errors
    /// [`Limited`], saying by which limit and until when.
    pub fn admit(&mut self, config: &Config, caller: u64, now: Instant) -> Result<(), Limited> {
        let mut alone = None;
        if let Some(rate) = config.each()
            && let Some(bucket) = self.of_caller(caller, rate, now)
        {
            if let Some(retry_after) = bucket.wait(rate, now) {
                return Err(Limited { limit: Limit::CallerRate, retry_after });
            }
            alone = Some(rate);
        }
        if let Some(rate) = config.whole() {
            let bucket = self.whole.get_or_insert_with(|| Bucket::full(rate, now));
            if let Some(retry_after) = bucket.wait(rate, now) {
                return Err(Limited { limit: Limit::Rate, retry_after });
            }
            bucket.tokens -= 1.0;
        }
        // Taken only once both let it in.
        if let Some(bucket) = alone.and_then(|rate| self.of_caller(caller, rate, now)) {
            bucket.tokens -= 1.0;
        }
        Ok(())
    }

    fn of_caller(&mut self, caller: u64, rate: Rate, now: Instant) -> Option<&mut Bucket> {
        if self.callers.is_empty() {
            self.callers.resize_with(SETS, || None);
        }
        let set = usize::try_from(caller % SETS as u64).unwrap_or(0);
        let places = self.callers.get_mut(set)?.get_or_insert_default();
        let heard = |place: &Option<(u64, Bucket)>| place.map(|(_, bucket)| bucket.at);
        let is_it = |place: &Option<(u64, Bucket)>| place.is_some_and(|(known, _)| known == caller);
        // None comes before any time: a free place is taken first.
        let at = places.iter().position(is_it).or_else(|| (0..WAYS).min_by_key(|at| places.get(*at).and_then(heard)))?;
        let place = places.get_mut(at)?;
        if !is_it(place) {
            *place = Some((caller, Bucket::full(rate, now)));
        }
        place.as_mut().map(|(_, bucket)| bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::hash::hash;

    fn config(whole: (f64, u32), each: (f64, u32)) -> Config {
        Config { rate_per_second: whole.0, burst: whole.1, per_caller: PerCaller { rate_per_second: each.0, burst: each.1 } }
    }

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn admitted(limiter: &mut Limiter, config: &Config, caller: u64, calls: usize, now: Instant) -> usize {
        (0..calls).filter(|_| limiter.admit(config, caller, now).is_ok()).count()
    }

    #[test]
    fn a_burst_and_then_the_rate_to_the_call() {
        let (config, start, mut limiter) = (config((10.0, 5), (0.0, 0)), Instant::now(), Limiter::default());
        assert_eq!(admitted(&mut limiter, &config, 0, 100, start), 5);
        assert_eq!(limiter.admit(&config, 0, start), Err(Limited { limit: Limit::Rate, retry_after: ms(100) }));
        let later = (1..=1000).filter(|n| limiter.admit(&config, 0, start + ms(10 * n)).is_ok()).count();
        assert_eq!(later, 100, "ten a second for ten seconds");
    }

    #[test]
    fn without_a_burst_it_is_one_seconds_worth_and_without_a_rate_there_is_no_limit() {
        let start = Instant::now();
        for (whole, calls) in [((7.0, 0), 7), ((0.5, 0), 1), ((0.0, 3), 1000)] {
            assert_eq!(admitted(&mut Limiter::default(), &config(whole, (0.0, 0)), 0, 1000, start), calls, "{whole:?}");
        }
        let mut slow = Limiter::default();
        let hourly = config((1.0 / 3600.0, 0), (0.0, 0));
        assert!(slow.admit(&hourly, 0, start).is_ok());
        let wait = slow.admit(&hourly, 0, start).expect_err("once an hour").retry_after;
        assert!(wait > ms(3_599_000) && wait <= ms(3_601_000), "{wait:?}");
    }

    #[test]
    fn one_caller_does_not_use_up_what_another_may_and_a_refused_call_costs_nothing() {
        let (config, now, mut limiter) = (config((100.0, 8), (10.0, 5)), Instant::now(), Limiter::default());
        assert_eq!(admitted(&mut limiter, &config, 1, 100, now), 5);
        assert_eq!(limiter.admit(&config, 1, now).expect_err("too often").limit, Limit::CallerRate);
        assert_eq!(admitted(&mut limiter, &config, 2, 100, now), 3);
        assert_eq!(limiter.admit(&config, 2, now).expect_err("too often").limit, Limit::Rate);
        assert_eq!(admitted(&mut limiter, &config, 2, 100, now + ms(40)), 2, "what the service refused was not taken from the caller");
    }

    #[test]
    fn the_table_of_callers_never_grows_and_the_busy_ones_keep_their_places() {
        let (config, start, mut limiter) = (config((0.0, 0), (1.0, 1)), Instant::now(), Limiter::default());
        assert!(limiter.admit(&config, hash(b"busy"), start).is_ok());
        for stranger in 0..100_000_u32 {
            let now = start + Duration::from_micros(u64::from(stranger));
            assert!(limiter.admit(&config, hash(&stranger.to_be_bytes()), now).is_ok());
            if stranger % 64 == 0 {
                assert!(limiter.admit(&config, hash(b"busy"), now).is_err(), "after {stranger}");
            }
        }
        assert_eq!(limiter.callers.len(), SETS);
    }
}
