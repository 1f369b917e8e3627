//! Random: any of them, each as likely as the others, whatever its weight.

use super::Candidate;

pub(super) fn pick(candidates: &[Candidate], chance: u64) -> Option<usize> {
    candidates.get(below(chance, candidates.len())).map(|candidate| candidate.seat)
}

/// A number below `end` (0 when that is 0), as evenly as 64 bits allow: the upper half of a product (Lemire, 2019, without the rejection,
/// which would correct one part in 2^64 / `end`).
pub(super) fn below(chance: u64, end: usize) -> usize {
    usize::try_from((u128::from(chance) * end as u128) >> 64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::candidates;
    use super::*;
    use crate::model::time::{Dice, SeededDice};

    #[test]
    fn each_is_as_likely_as_the_others_whatever_its_weight() {
        let (all, dice) = (candidates(&[1, 1, 500]), SeededDice::new(1));
        let mut counts = [0_u32; 3];
        for _ in 0..30_000 {
            counts[pick(&all, dice.roll()).expect("some")] += 1;
        }
        // Four standard deviations of a binomial distribution are 327.
        assert!(counts.iter().all(|count| (9_673..=10_327).contains(count)), "{counts:?}");
        assert_eq!(pick(&[], 7), None);
    }

    #[test]
    fn the_extremes_of_chance_stay_inside() {
        assert_eq!([below(0, 3), below(u64::MAX, 3), below(u64::MAX, 0)], [0, 2, 0]);
    }
}
