//! What came of the calls of the last while: a sliding window in slices, so that what is old drops out bit by bit.

use std::time::{Duration, Instant};

/// Slices per window: what drops out at once is a tenth of it.
const SLICES: usize = 10;

/// What was counted in one slice, or in all of them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Calls.
    pub calls: u32,
    /// Those that failed.
    pub failures: u32,
    /// Those that took too long.
    pub slow: u32,
}

impl Counts {
    /// Whether `part` of the calls is at least `percent` of them.
    pub const fn is_share(&self, part: u32, percent: u32) -> bool {
        self.calls > 0 && part as u64 * 100 >= percent as u64 * self.calls as u64
    }
}

/// The window. Guarded by its owner.
#[derive(Clone, Default, Debug)]
pub struct Window {
    slices: [Counts; SLICES],
    /// When the first slice of all began, and which one is the latest.
    began: Option<Instant>,
    latest: u128,
}

impl Window {
    /// Counts a call, and answers what the window of length `whole` that ends at `now` holds.
    pub fn count(&mut self, whole: Duration, failed: bool, slow: bool, now: Instant) -> Counts {
        self.advance(whole, now);
        let at = usize::try_from(self.latest % SLICES as u128).unwrap_or(0);
        if let Some(slice) = self.slices.get_mut(at) {
            slice.calls += 1;
            slice.failures += u32::from(failed);
            slice.slow += u32::from(slow);
        }
        self.slices.iter().fold(Counts::default(), |all, slice| Counts {
            calls: all.calls.saturating_add(slice.calls),
            failures: all.failures.saturating_add(slice.failures),
            slow: all.slow.saturating_add(slice.slow),
        })
    }

    fn advance(&mut self, whole: Duration, now: Instant) {
        let began = *self.began.get_or_insert(now);
        let slice = (whole / SLICES as u32).as_nanos().max(1);
        let number = now.saturating_duration_since(began).as_nanos() / slice;
        // A window that has become longer counts its slices anew.
        if number < self.latest {
            *self = Self { began: Some(now), ..Self::default() };
            return;
        }
        for past in 0..(number - self.latest).min(SLICES as u128) {
            let at = usize::try_from((number - past) % SLICES as u128).unwrap_or(0);
            if let Some(slice) = self.slices.get_mut(at) {
                *slice = Counts::default();
            }
        }
        self.latest = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn what_is_older_than_the_window_drops_out_slice_by_slice() {
        let (start, whole) = (Instant::now(), ms(1_000));
        let mut window = Window::default();
        for n in 0..10 {
            window.count(whole, true, false, start + ms(100 * n));
        }
        assert_eq!(window.count(whole, false, true, start + ms(999)), Counts { calls: 11, failures: 10, slow: 1 });
        assert_eq!(window.count(whole, false, false, start + ms(1_450)), Counts { calls: 7, failures: 5, slow: 1 });
        assert_eq!(window.count(whole, false, false, start + ms(60_000)), Counts { calls: 1, failures: 0, slow: 0 });
    }

    #[test]
    fn time_going_back_and_another_length_do_no_harm() {
        let start = Instant::now() + ms(10_000);
        let mut window = Window::default();
        window.count(ms(1_000), true, false, start);
        window.count(ms(1_000), true, false, start + ms(5_000));
        assert_eq!(window.count(ms(1_000), false, false, start).calls, 1);
        assert!(window.count(ms(100), false, false, start + ms(10)).calls <= 2);
    }

    #[test]
    fn shares_are_compared_without_rounding() {
        let counts = Counts { calls: 3, failures: 1, slow: 0 };
        assert!(counts.is_share(counts.failures, 33) && !counts.is_share(counts.failures, 34));
        assert!(!Counts::default().is_share(0, 0));
    }
}
