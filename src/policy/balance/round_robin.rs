//! Smooth weighted round robin, as nginx does it (commit 52327e0, 2012): each pick adds every weight to its credit, takes the largest
//! credit, and pays the sum of the weights from it. Equal weights go round in order; unequal ones are spread, not bunched.

use super::Candidate;

pub(super) fn pick(candidates: &mut [Candidate]) -> Option<usize> {
    let total: i64 = candidates.iter().map(|candidate| i64::from(candidate.weight)).sum();
    for candidate in candidates.iter_mut() {
        candidate.credit += i64::from(candidate.weight);
    }
    // The first of the largest, so that ties go in order of registration.
    let best = candidates.iter_mut().reduce(|best, other| if other.credit > best.credit { other } else { best })?;
    best.credit -= total;
    Some(best.seat)
}

#[cfg(test)]
mod tests {
    use super::super::candidates;
    use super::*;
    use crate::model::time::{Dice, SeededDice};

    fn picks(weights: &[u32], times: usize) -> Vec<usize> {
        let mut all = candidates(weights);
        (0..times).filter_map(|_| pick(&mut all)).collect()
    }

    #[test]
    fn equal_weights_go_round_in_order() {
        assert_eq!(picks(&[1, 1, 1], 7), [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(picks(&[7, 7], 4), [0, 1, 0, 1]);
        assert!(picks(&[], 1).is_empty());
    }

    #[test]
    fn unequal_weights_are_spread_as_in_the_published_example() {
        assert_eq!(picks(&[5, 1, 1], 7), [0, 0, 1, 0, 2, 0, 0]);
    }

    /// For any weights: over one cycle (the sum of the weights) each is picked exactly its weight's times, and at no moment is any
    /// instance more than one whole pick ahead of its share for two instances, or a cycle's worth for many.
    #[test]
    fn every_cycle_is_exact_for_any_weights() {
        for seed in 0..300 {
            let dice = SeededDice::new(seed);
            let weights: Vec<u32> = (0..=dice.roll() % 9).map(|_| 1 + (dice.roll() % 50) as u32).collect();
            let cycle: usize = weights.iter().map(|w| *w as usize).sum();
            let order = picks(&weights, 3 * cycle);
            for turn in order.chunks(cycle) {
                for (seat, weight) in weights.iter().enumerate() {
                    assert_eq!(turn.iter().filter(|s| **s == seat).count(), *weight as usize, "seed {seed}: {weights:?}");
                }
            }
        }
    }

    #[test]
    fn leaving_and_coming_back_disturbs_the_shares_by_less_than_one_round() {
        let mut all = candidates(&[1, 1, 1]);
        for _ in 0..100 {
            pick(&mut all[..2]);
        }
        let mut counts = [0; 3];
        for _ in 0..300 {
            counts[pick(&mut all).expect("some")] += 1;
        }
        assert!(counts.iter().all(|count| (99..=101).contains(count)), "{counts:?}");
    }
}
