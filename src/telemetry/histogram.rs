//! A histogram of durations with buckets of at most 1/32 of their value, after Gil Tene's HdrHistogram: quantiles are off by at most 1.6 %.
//!
//! Monitoring systems want to know how many durations were within round [`BOUNDS`], and none of these is a border between two of our buckets:
//! 0.5 ms lies within 496 to 503 µs. So each bucket that a bound lies in is kept in two parts, up to the bound and beyond, and the counts are
//! exact, for durations in whole microseconds. Telling the parts apart costs a look into a table; what is added up stays one counter.

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

/// How many round bounds there are.
pub const BOUND_COUNT: usize = 17;
/// The bounds at which durations are told apart for monitoring, in microseconds: those that OpenTelemetry recommends for the durations of HTTP
/// requests (semantic conventions, `http.server.request.duration`), and three below for what is near.
pub const BOUNDS: [u64; BOUND_COUNT] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000, 750_000, 1_000_000, 2_500_000, 5_000_000,
    7_500_000, 10_000_000,
];
/// For each bucket, the place of the bound within it, counted from 1; 0 where there is none.
const BOUND_WITHIN: [u8; BUCKETS] = bound_within();

#[allow(clippy::indexing_slicing)] // Evaluated by the compiler, which would not build what is out of bounds.
const fn bound_within() -> [u8; BUCKETS] {
    let mut within = [0; BUCKETS];
    let mut bound = 0;
    while bound < BOUND_COUNT {
        bound += 1;
        // There are 17.
        within[index(BOUNDS[bound - 1])] = bound as u8;
    }
    within
}

/// Counts durations. Recording is a few relaxed atomic additions; 7 KiB are taken by the first one.
#[derive(Default, Debug)]
pub struct Histogram {
    /// The buckets, without what follows them: their parts up to a bound, one for each bound.
    buckets: OnceLock<Box<[AtomicU64]>>,
    sum_us: AtomicU64,
    max_us: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let buckets = self.buckets.get_or_init(|| (0..BUCKETS + BOUND_COUNT).map(|_| AtomicU64::new(0)).collect());
        if let Some(bucket) = buckets.get(place(us)) {
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
        let mut counts: Vec<u64> = self.buckets.get().map_or(Vec::new(), |all| all.iter().map(|b| b.load(Ordering::Relaxed)).collect());
        let parts = counts.split_off(counts.len().min(BUCKETS));
        for (part, bound) in parts.iter().zip(BOUNDS) {
            if let Some(count) = counts.get_mut(index(bound)) {
                *count += part;
            }
        }
        Snapshot {
            count: counts.iter().sum(),
            counts,
            sum: Duration::from_micros(self.sum_us.load(Ordering::Relaxed)),
            max: Duration::from_micros(self.max_us.load(Ordering::Relaxed)),
        }
    }

    /// How many durations were within each of the [`BOUNDS`], counted exactly in whole microseconds. `None` when nothing has been counted.
    pub fn within_bounds(&self) -> Option<WithinBounds> {
        let (buckets, parts) = self.buckets.get()?.split_at_checked(BUCKETS)?;
        let (mut at_most, mut count, mut from) = ([0; BOUND_COUNT], 0, 0);
        for ((bound, part), at_most) in BOUNDS.iter().zip(parts).zip(&mut at_most) {
            let to = index(*bound);
            count += sum(buckets.get(from..to)) + part.load(Ordering::Relaxed);
            *at_most = count;
            from = to;
        }
        count += sum(buckets.get(from..));
        Some(WithinBounds { at_most, count, sum: Duration::from_micros(self.sum_us.load(Ordering::Relaxed)) })
    }

    /// Mean of all durations; zero when there is none.
    pub fn mean(&self) -> Duration {
        let snapshot = self.snapshot();
        u32::try_from(snapshot.count).ok().and_then(|count| snapshot.sum.checked_div(count)).unwrap_or_default()
    }
}

fn sum(buckets: Option<&[AtomicU64]>) -> u64 {
    buckets.unwrap_or_default().iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
}

/// A histogram by [`BOUNDS`], at one moment.
#[derive(Clone, Debug)]
pub struct WithinBounds {
    /// How many durations were at most as long as each bound.
    pub at_most: [u64; BOUND_COUNT],
    /// How many there were.
    pub count: u64,
    /// Their sum.
    pub sum: Duration,
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

/// Where `us` microseconds are counted: in their bucket, or in the part of it that ends with a bound.
fn place(us: u64) -> usize {
    let bucket = index(us);
    let bound = usize::from(BOUND_WITHIN.get(bucket).copied().unwrap_or(0));
    match bound.checked_sub(1).and_then(|bound| BOUNDS.get(bound)) {
        Some(limit) if us <= *limit => BUCKETS + bound - 1,
        _ => bucket,
    }
}

/// The bucket of `us` microseconds.
#[allow(clippy::cast_possible_truncation)] // All is below BUCKETS.
const fn index(us: u64) -> usize {
    if us < LINEAR {
        return us as usize;
    }
    let highest = 63 - us.leading_zeros();
    let bit = if highest < HIGHEST_BIT { highest } else { HIGHEST_BIT };
    let above = us >> (bit - 5);
    let sub = if above < 2 * PER_OCTAVE { above - PER_OCTAVE } else { PER_OCTAVE - 1 };
    (LINEAR + (bit - 6) as u64 * PER_OCTAVE + sub) as usize
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
    fn what_is_within_a_bound_is_counted_exactly() {
        let histogram = Histogram::default();
        assert!(histogram.within_bounds().is_none());
        for bound in BOUNDS {
            for us in [bound - 1, bound, bound + 1] {
                histogram.record(Duration::from_micros(us));
            }
        }
        histogram.record(Duration::from_secs(3600));
        let within = histogram.within_bounds().expect("some");
        for (n, at_most) in within.at_most.iter().enumerate() {
            assert_eq!(*at_most, 3 * n as u64 + 2, "{} µs", BOUNDS[n]);
        }
        assert_eq!(within.count, 3 * 17 + 1);
        assert_eq!((histogram.snapshot().count, histogram.snapshot().sum), (within.count, within.sum));
    }

    #[test]
    fn no_two_bounds_share_a_bucket() {
        let mut buckets = BOUNDS.map(index).to_vec();
        buckets.dedup();
        assert_eq!(buckets.len(), BOUND_COUNT);
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
