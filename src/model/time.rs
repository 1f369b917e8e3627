//! Time and chance, the only place where they enter: clocks that can be replaced, dice that can be loaded, deadlines.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::sync::Locked;

/// Where the mesh gets the time from. Replaceable, so that a whole mesh can run in virtual time.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic time; every decision is made on it.
    fn now(&self) -> Instant;

    /// Milliseconds since the Unix epoch, for stamps only.
    fn wall_ms(&self) -> u64;

    /// Blocks the calling thread until `until` or until it is unparked; may return early.
    fn park_until(&self, until: Instant);
}

/// The real time.
#[derive(Clone, Copy, Default, Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn park_until(&self, until: Instant) {
        thread::park_timeout(until.saturating_duration_since(Instant::now()));
    }
}

/// Virtual time: stands still until it is advanced; parking advances it to the end of the wait at once.
#[derive(Debug)]
pub struct ManualClock {
    start: Instant,
    /// Guarded: how far time has come.
    elapsed: Locked<Duration>,
}

impl Default for ManualClock {
    fn default() -> Self {
        Self { start: Instant::now(), elapsed: Locked::default() }
    }
}

impl ManualClock {
    /// Moves time forward by `by`.
    pub fn advance(&self, by: Duration) {
        self.elapsed.with(|elapsed| *elapsed += by);
    }

    /// How far time has come since the clock was made.
    pub fn elapsed(&self) -> Duration {
        self.elapsed.with(|elapsed| *elapsed)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.start + self.elapsed()
    }

    fn wall_ms(&self) -> u64 {
        u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn park_until(&self, until: Instant) {
        self.elapsed.with(|elapsed| *elapsed = (*elapsed).max(until.saturating_duration_since(self.start)));
    }
}

/// Where the mesh gets chance from. Replaceable, so that a run can be repeated.
pub trait Dice: Send + Sync + 'static {
    /// Sixty-four evenly distributed bits.
    fn roll(&self) -> u64;
}

/// Dice of the process: one generator per thread, seeded by the operating system. Not for secrets.
#[derive(Clone, Copy, Default, Debug)]
pub struct SystemDice;

impl Dice for SystemDice {
    fn roll(&self) -> u64 {
        thread_local! {
            static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(thread::current().id()));
        }
        STATE.with(|state| {
            let next = state.get().wrapping_add(GOLDEN);
            state.set(next);
            mix(next)
        })
    }
}

/// Loaded dice: the same seed rolls the same numbers.
#[derive(Debug)]
pub struct SeededDice(AtomicU64);

impl SeededDice {
    /// Dice that roll the sequence of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }
}

impl Dice for SeededDice {
    fn roll(&self) -> u64 {
        mix(self.0.fetch_add(GOLDEN, Ordering::Relaxed).wrapping_add(GOLDEN))
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output function of SplitMix64 (Steele, Lea and Flood, 2014).
pub(crate) const fn mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// As much chance as one call needs, out of one roll: the sequence that the roll begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chances(u64);

impl Chances {
    /// The sequence that `roll` begins.
    pub(crate) const fn of(roll: u64) -> Self {
        Self(roll)
    }

    /// The next sixty-four evenly distributed bits.
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }
}

/// A share of one, in `0.0..1.0`, from a roll.
pub fn fraction(roll: u64) -> f64 {
    // The upper 53 bits are exactly what an f64 can hold.
    (roll >> 11) as f64 / (1_u64 << 53) as f64
}

/// `time` in milliseconds, with fractions.
pub fn as_ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// `time` in whole milliseconds.
pub fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeded_dice_repeat_and_spread() {
        let (a, b) = (SeededDice::new(7), SeededDice::new(7));
        let rolls: Vec<u64> = (0..1000).map(|_| a.roll()).collect();
        assert!(rolls.iter().all(|roll| *roll == b.roll()));
        let mean = rolls.iter().map(|roll| fraction(*roll)).sum::<f64>() / 1000.0;
        assert!((0.45..0.55).contains(&mean), "{mean}");
    }

    #[test]
    fn parking_on_a_manual_clock_moves_time_and_never_back() {
        let clock = ManualClock::default();
        let start = clock.now();
        clock.park_until(start + Duration::from_secs(5));
        clock.park_until(start);
        assert_eq!(clock.now() - start, Duration::from_secs(5));
    }
}
