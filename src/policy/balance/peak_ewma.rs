//! Peak EWMA: the least of `expected latency × (attempts in flight + 1) / weight`, where the expectation jumps up with a slow answer and
//! comes down slowly, after Finagle's `Ewma` and Linkerd. What failed or asked to be spared counts as slow, so that an instance that fails
//! fast attracts nothing.

use std::time::{Duration, Instant};

use super::Candidate;
use super::random::below;

/// How long an expectation takes to lose all but 1/e of itself.
const DECAY: Duration = Duration::from_secs(10);
/// Up to so many candidates all are looked at; of more, two taken by chance (Mitzenmacher, 2001).
const FULL_SCAN: usize = 16;

/// As how slow someone unknown counts at most, in microseconds: less than a failure does.
const AT_MOST: f64 = 1e6;

/// The expected latency of one instance.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Ewma {
    micros: f64,
    at: Instant,
}

impl Ewma {
    /// What is expected after an attempt took, or counts as, `latency`.
    pub fn observe(before: Option<Self>, latency: Duration, now: Instant) -> Self {
        let micros = latency.as_secs_f64() * 1e6;
        match before {
            Some(before) if micros < before.micros => {
                let kept = before.kept(now);
                Self { micros: before.micros * kept + micros * (1.0 - kept), at: before.at.max(now) }
            }
            _ => Self { micros, at: now },
        }
    }

    /// What is expected at `now`, in microseconds: it fades while nothing new is learnt, so that everyone is tried again.
    pub fn micros(&self, now: Instant) -> f64 {
        self.micros * self.kept(now)
    }

    fn kept(&self, now: Instant) -> f64 {
        (-now.saturating_duration_since(self.at).as_secs_f64() / DECAY.as_secs_f64()).exp()
    }
}

pub(super) fn pick(candidates: &[Candidate], chance: u64) -> Option<usize> {
    let count = candidates.len();
    // Someone unknown is taken for as quick as the quickest, and for quicker than one that fails.
    let usual = candidates.iter().filter_map(|candidate| candidate.latency).fold(AT_MOST, f64::min);
    // A microsecond at least, so that attempts in flight always count.
    let cost = |candidate: &Candidate| {
        candidate.latency.unwrap_or(usual).max(1.0) * (f64::from(candidate.in_flight) + 1.0) / f64::from(candidate.weight.max(1))
    };
    let cheaper = |a, b| if cost(b) < cost(a) { b } else { a };
    let first = below(chance, count);
    if count > FULL_SCAN {
        let other = (first + 1 + below(chance.rotate_left(32), count - 1)) % count;
        let (first, other) = candidates.get(first).zip(candidates.get(other))?;
        return Some(cheaper(first, other).seat);
    }
    // Beginning anywhere, so that ties are broken by chance.
    candidates.iter().cycle().skip(first).take(count).reduce(cheaper).map(|candidate| candidate.seat)
}

#[cfg(test)]
mod tests {
    use super::super::candidates;
    use super::*;
    use crate::model::time::{Dice, SeededDice};

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn all(latencies: &[Option<f64>], in_flight: &[u32]) -> Vec<Candidate> {
        let mut all = candidates(&vec![1; latencies.len()]);
        for ((candidate, latency), in_flight) in all.iter_mut().zip(latencies).zip(in_flight) {
            (candidate.latency, candidate.in_flight) = (*latency, *in_flight);
        }
        all
    }

    #[test]
    fn a_slow_answer_counts_at_once_and_quick_ones_bring_it_down_over_ten_seconds() {
        let start = Instant::now();
        let slow = Ewma::observe(Some(Ewma::observe(None, ms(10), start)), ms(500), start + ms(1));
        assert!((slow.micros(start + ms(1)) - 500_000.0).abs() < 1.0, "{slow:?}");
        let mut ewma = slow;
        for n in 1..=100 {
            ewma = Ewma::observe(Some(ewma), ms(10), start + ms(1 + 100 * n));
        }
        // 10 + 490/e ms.
        let left = ewma.micros(start + ms(10_001));
        assert!((left - 190_000.0).abs() < 2_000.0, "{left}");
    }

    #[test]
    fn what_nothing_is_heard_of_fades_so_that_it_is_tried_again() {
        let start = Instant::now();
        let ewma = Ewma::observe(None, ms(1_000), start);
        let faded = ewma.micros(start + ms(20_000));
        assert!((faded - 1e6 / std::f64::consts::E.powi(2)).abs() < 1.0, "{faded}");
        assert!(ewma.micros(start) <= 1e6 && ewma.micros(start.checked_sub(ms(5)).unwrap_or(start)) <= 1e6, "time going back adds nothing");
    }

    #[test]
    fn the_quickest_answer_to_be_expected_decides_and_who_is_unknown_counts_as_the_quickest() {
        for (latencies, in_flight, seat) in [
            (&[Some(10.0), Some(5.0)][..], &[0, 0][..], 1),
            (&[Some(10.0), Some(5.0)], &[0, 2], 0),
            (&[Some(5_000.0), Some(5.0)], &[0, 900], 1),
            (&[Some(10.0), None, Some(30.0)], &[0, 1, 0], 0),
            (&[Some(10.0), None, Some(30.0)], &[1, 0, 0], 1),
            (&[Some(5e6), None], &[0, 1], 1),
            (&[None, None], &[1, 0], 1),
        ] {
            for chance in [0, u64::MAX / 2, u64::MAX] {
                assert_eq!(pick(&all(latencies, in_flight), chance), Some(seat), "{latencies:?} {in_flight:?}");
            }
        }
        assert_eq!(pick(&[], 1), None);
    }

    #[test]
    fn weight_divides_the_cost_and_ties_are_broken_by_chance() {
        let mut two = all(&[Some(10.0), Some(10.0)], &[1, 1]);
        two[1].weight = 3;
        assert_eq!(pick(&two, 0), Some(1));
        let (equal, dice) = (all(&[Some(7.0); 4], &[0; 4]), SeededDice::new(5));
        let mut counts = [0_u32; 4];
        for _ in 0..4_000 {
            counts[pick(&equal, dice.roll()).expect("some")] += 1;
        }
        assert!(counts.iter().all(|count| (890..=1110).contains(count)), "{counts:?}");
    }

    #[test]
    fn of_many_two_different_ones_are_compared() {
        let latencies: Vec<Option<f64>> = (0..40).map(|seat| Some(f64::from(seat))).collect();
        let (all, dice) = (all(&latencies, &[0; 40]), SeededDice::new(9));
        let mut counts = [0_u32; 40];
        for _ in 0..40_000 {
            counts[pick(&all, dice.roll()).expect("some")] += 1;
        }
        assert_eq!(counts[39], 0, "the worst one loses against every other");
        // Seat n wins against those after it: (39 − n) of 780 pairs. Seat 0 and 1 cost the same microsecond.
        for (seat, count) in counts.iter().enumerate().skip(2) {
            let expected = 40_000.0 * (39 - seat) as f64 / 780.0;
            assert!((f64::from(*count) - expected).abs() <= 5.0 * expected.sqrt().max(1.0), "seat {seat}: {count}, expected {expected}");
        }
    }
}
