//! Weighted random: any of them, each in proportion to its weight.

use super::Candidate;
use super::random::below;

pub(super) fn pick(candidates: &[Candidate], chance: u64) -> Option<usize> {
    let total: usize = candidates.iter().map(weight).sum();
    let mut left = below(chance, total);
    for candidate in candidates {
        match left.checked_sub(weight(candidate)) {
            Some(after) => left = after,
            None => return Some(candidate.seat),
        }
    }
    None
}

fn weight(candidate: &Candidate) -> usize {
    usize::try_from(candidate.weight).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::candidates;
    use super::*;
    use crate::model::time::{Dice, SeededDice};

    #[test]
    fn each_gets_its_share_within_four_standard_deviations() {
        let (weights, calls) = ([1_u32, 2, 7, 90], 100_000_u32);
        let (all, dice) = (candidates(&weights), SeededDice::new(3));
        let mut counts = [0_u32; 4];
        for _ in 0..calls {
            counts[pick(&all, dice.roll()).expect("some")] += 1;
        }
        for (count, weight) in counts.iter().zip(weights) {
            let share = f64::from(weight) / 100.0;
            let (mean, deviation) = (f64::from(calls) * share, (f64::from(calls) * share * (1.0 - share)).sqrt());
            assert!((f64::from(*count) - mean).abs() <= 4.0 * deviation, "{counts:?}");
        }
        assert_eq!(pick(&[], 7), None);
    }
}
