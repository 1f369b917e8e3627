//! A histogram of durations with buckets of at most 1/32 of their value, after Gil Tene's HdrHistogram: quantiles are off by at most 1.6 %.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Below this many microseconds each has a bucket of its own.
const LINEAR: u64 = 64;
/// Buckets per power of two above.
const PER_OCTAVE: u64 = 32;
/// Durations from here on (71 minutes) share the last bucket.
const HIGHEST_BIT: u32 = 31;
const BUCKETS: usize = (LINEAR + (HIGHEST_BIT as u64 - 5) * PER_OCTAVE) as usize;

/// Counts durations. Recording is a few relaxed atomic additions; 7 KiB are taken by the first one.
#[derive(Default, Debug)]
pub struct Histogram {
    buckets: OnceLock<Box<[AtomicU64]>>,
    sum_us: AtomicU64,
    max_us: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let buckets = self.buckets.get_or_init(|| (0..BUCKETS).map(|_| AtomicU64::new(0)).collect());
        if let Some(bucket) = buckets.get(index(us)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(us, Ordering::Relaxed);
        // Most values are no new maximum; a read is cheaper than a write all threads share.
        if us > self.max_us.load(Ordering::Relaxed) {
            self.max_us.fetch_max(us, Ordering::Relaxed);
        }
    }

    /// What has been counted so far.
    pub fn snapshot(&self) -> Snapshot {
        let counts: Vec<u64> = self.buckets.get().map_or(Vec::new(), |all| all.iter().map(|b| b.load(Ordering::Relaxed)).collect());
        Snapshot {
            count: counts.iter().sum(),
            counts,
            sum: Duration::from_micros(self.sum_us.load(Ordering::Relaxed)),
            max: Duration::from_micros(self.max_us.load(Ordering::Relaxed)),
        }
    }

    /// Mean of all durations; zero when there is none.
    pub fn mean(&self) -> Duration {
        let snapshot = self.snapshot();
        u32::try_from(snapshot.count).ok().and_then(|count| snapshot.sum.checked_div(count)).unwrap_or_default()
    }
}

/// A histogram at one moment.
#[derive(Clone, Default, Debug)]
pub struct Snapshot {
    counts: Vec<u64>,
    /// How many durations.
    pub count: u64,
    /// Their sum.
    pub sum: Duration,
    /// The longest.
    pub max: Duration,
}

/// What a histogram had counted at an earlier time: 8 bytes for each bucket in use, which are seldom more than a hundred.
#[derive(Clone, Default, Debug)]
pub struct Mark {
    counts: Box<[(u16, u32)]>,
    sum: Duration,
}

impl Snapshot {
    /// What there is to remember, so that [`Snapshot::since`] can tell later what has been counted from now on.
    pub fn mark(&self) -> Mark {
        let used = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        Mark { counts: used.filter_map(|(at, count)| Some((u16::try_from(at).ok()?, low(*count)))).collect(), sum: self.sum }
    }

    /// What has been counted since `mark` was made; at most four thousand million in each bucket.
    pub fn since(&self, mark: &Mark) -> Self {
        let mut counts = self.counts.clone();
        for (at, before) in &mark.counts {
            if let Some(count) = counts.get_mut(usize::from(*at)) {
                // Both are the low halves of a number that only grows.
                *count = u64::from(low(*count).wrapping_sub(*before));
            }
        }
        let mut since = Self { count: counts.iter().sum(), counts, sum: self.sum.saturating_sub(mark.sum), max: self.max };
        since.max = since.quantile(1.0);
        since
    }

    /// Adds what another one has counted.
    pub fn add(&mut self, other: &Self) {
        self.counts.resize(self.counts.len().max(other.counts.len()), 0);
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// The duration that a share of `q` (0 to 1) does not exceed; zero when nothing has been counted.
    pub fn quantile(&self, q: f64) -> Duration {
        let rank = (q * self.count as f64).ceil().max(1.0);
        let mut seen = 0_u64;
        for (i, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen as f64 >= rank {
                return middle(i).min(self.max);
            }
        }
        Duration::ZERO
    }
}

/// The low half of a number.
const fn low(number: u64) -> u32 {
    (number & 0xffff_ffff) as u32
}

/// The bucket of `us` microseconds.
fn index(us: u64) -> usize {
    if us < LINEAR {
        return usize::try_from(us).unwrap_or(0);
    }
    let bit = (63 - us.leading_zeros()).min(HIGHEST_BIT);
    let sub = (us >> (bit - 5)).min(2 * PER_OCTAVE - 1) - PER_OCTAVE;
    let at = LINEAR + u64::from(bit - 6) * PER_OCTAVE + sub;
    usize::try_from(at).unwrap_or(0)
}

/// The middle of bucket `i`.
fn middle(i: usize) -> Duration {
    let i = i as u64;
    if i < LINEAR {
        return Duration::from_micros(i);
    }
    let (octave, sub) = ((i - LINEAR) / PER_OCTAVE, (i - LINEAR) % PER_OCTAVE);
    let low = (PER_OCTAVE + sub) << (octave + 1);
    Duration::from_micros(low + (1 << octave))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_falls_into_a_bucket_whose_middle_is_within_1_6_percent() {
        let mut us = 1_u64;
        while us < 1 << 31 {
            let off = middle(index(us)).as_micros() as f64 / us as f64 - 1.0;
            assert!(off.abs() <= 1.0 / 63.0, "{us} µs: {off}");
            us += 1 + us / 97;
        }
    }

    #[test]
    fn buckets_are_in_order_and_the_longest_durations_share_the_last() {
        let indices: Vec<usize> = (0..40).map(|bit| index(1 << bit)).collect();
        assert!(indices.windows(2).all(|pair| pair[0] <= pair[1]), "{indices:?}");
        assert_eq!(index(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_of_a_known_distribution() {
        let histogram = Histogram::default();
        assert_eq!(histogram.snapshot().quantile(0.5), Duration::ZERO);
        for ms in 1..=1000 {
            histogram.record(Duration::from_millis(ms));
        }
        let snapshot = histogram.snapshot();
        for (q, ms) in [(0.5, 500.0), (0.95, 950.0), (0.99, 990.0), (1.0, 1000.0)] {
            let got = snapshot.quantile(q).as_secs_f64() * 1e3;
            assert!((got / ms - 1.0).abs() < 0.02, "p{q}: {got}");
        }
        assert_eq!(snapshot.max, Duration::from_millis(1000));
        assert_eq!(histogram.mean(), Duration::from_micros(500_500));
    }

    #[test]
    fn what_was_counted_since_a_mark_can_be_told_and_added_up() {
        let (one, other) = (Histogram::default(), Histogram::default());
        for _ in 0..100 {
            one.record(Duration::from_secs(1));
        }
        let mark = one.snapshot().mark();
        assert_eq!((one.snapshot().since(&mark).count, one.snapshot().since(&mark).quantile(0.99)), (0, Duration::ZERO));
        one.record(Duration::from_micros(20));
        other.record(Duration::from_micros(40));
        let mut both = one.snapshot().since(&mark);
        assert_eq!((both.count, both.max, both.sum), (1, Duration::from_micros(20), Duration::from_micros(20)));
        both.add(&other.snapshot());
        assert_eq!((both.count, both.quantile(0.5), both.max), (2, Duration::from_micros(20), Duration::from_micros(40)));
        let mut none = Snapshot::default();
        none.add(&both);
        assert_eq!((none.count, none.quantile(1.0)), (2, Duration::from_micros(40)));
    }
}
