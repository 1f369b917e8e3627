//! Consistent hashing: rendezvous hashing (Thaler and Ravishankar, 1998; weighted as by Schindelhauer and Schomaker, 2005) with bounded
//! load (Mirrokni, Thorup and Zadimoghaddam, 2016): a key goes to its instance until that one has a quarter more than its share in flight,
//! then to the key's next. An instance that comes or goes moves only the keys it wins or had.

use super::{Candidate, round_robin};
use crate::model::time::fraction;
use crate::policy::hash::pair;

/// How much more than its share an instance may have in flight.
const BOUND: f64 = 1.25;

pub(super) fn pick(candidates: &mut [Candidate], key: Option<u64>) -> Option<usize> {
    // Without a key there is nothing to be consistent about.
    let Some(key) = key else { return round_robin::pick(candidates) };
    let weights: f64 = candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
    let load = candidates.iter().map(|candidate| f64::from(candidate.in_flight)).sum::<f64>() + 1.0;
    // The shares add up to the load, so somebody is always below a bound above his share.
    let has_room =
        |candidate: &&Candidate| f64::from(candidate.in_flight) + 1.0 <= (BOUND * load * f64::from(candidate.weight) / weights).ceil();
    let score = |candidate: &Candidate| -f64::from(candidate.weight) / (1.0 - fraction(pair(key, candidate.id))).ln();
    let best = candidates.iter().filter(has_room).max_by(|a, b| score(a).total_cmp(&score(b)))?;
    Some(best.seat)
}

#[cfg(test)]
mod tests {
    use super::super::candidates;
    use super::*;
    use crate::policy::hash::hash;

    fn owners(all: &mut [Candidate], keys: usize) -> Vec<usize> {
        (0..keys).map(|key| pick(all, Some(hash(format!("key-{key}").as_bytes()))).expect("some")).collect()
    }

    #[test]
    fn the_same_key_goes_to_the_same_instance_whatever_their_order() {
        let mut all = candidates(&[1; 7]);
        let before = owners(&mut all, 500);
        all.reverse();
        assert_eq!(owners(&mut all, 500), before);
    }

    #[test]
    fn keys_are_spread_by_weight() {
        let owners = owners(&mut candidates(&[1, 1, 2]), 20_000);
        for (seat, share) in [(0, 0.25), (1, 0.25), (2, 0.5)] {
            let got = owners.iter().filter(|owner| **owner == seat).count() as f64 / 20_000.0;
            assert!((got - share).abs() < 0.015, "seat {seat}: {got}");
        }
    }

    #[test]
    fn who_leaves_gives_up_his_keys_and_no_other_key_moves() {
        let mut all = candidates(&[1; 5]);
        let before = owners(&mut all, 5_000);
        all.remove(2);
        for (was, is) in before.iter().zip(owners(&mut all, 5_000)) {
            assert!(*was == is || *was == 2);
            assert_ne!(is, 2);
        }
    }

    #[test]
    fn nobody_gets_more_than_a_quarter_above_his_share() {
        let mut all = candidates(&[1; 4]);
        for load in 1..=400_u32 {
            let seat = pick(&mut all, Some(hash(b"hot"))).expect("some");
            all[seat].in_flight += 1;
            let bound = (1.25 * f64::from(load) / 4.0).ceil();
            assert!(all.iter().all(|candidate| f64::from(candidate.in_flight) <= bound), "{load}");
        }
        assert_eq!(pick(&mut [], Some(1)), None);
    }

    #[test]
    fn without_a_key_they_take_turns() {
        let mut all = candidates(&[1, 1, 1]);
        let order: Vec<Option<usize>> = (0..4).map(|_| pick(&mut all, None)).collect();
        assert_eq!(order, [Some(0), Some(1), Some(2), Some(0)]);
    }
}
