//! Slow start: a new or recovered instance, whose caches are cold, gets its share little by little (Envoy's `slow_start_config` with an
//! aggression of 1 and a least weight of 10 %).

use std::time::Duration;

/// The warmth of an instance that gets its full share: a hundred percent.
pub const FULL: u32 = 100;
/// Where it begins, so that it gets anything at all.
const LEAST: u32 = 10;

/// The percentage of its weight that an instance gets which has been there for `age`, when `whole` is how long warming up takes.
pub fn warmth(whole: Duration, age: Duration) -> u32 {
    if age >= whole {
        return FULL;
    }
    // Below the whole, a part of it is below a hundred percent.
    ((age.as_secs_f64() / whole.as_secs_f64() * f64::from(FULL)) as u32).clamp(LEAST, FULL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_evenly_from_a_tenth() {
        let whole = Duration::from_secs(10);
        for (ms, percent) in [(0, 10), (500, 10), (1_500, 15), (5_000, 50), (9_990, 99), (10_000, 100), (99_000, 100)] {
            assert_eq!(warmth(whole, Duration::from_millis(ms)), percent, "{ms}");
        }
        assert_eq!(warmth(Duration::ZERO, Duration::ZERO), FULL, "switched off");
    }
}
