//! Least connections: the fewest attempts in flight for its weight. Every instance is looked at, since two random ones would pick the
//! busier of two hosts a quarter of the time; ties go round by weight.

use super::{Candidate, round_robin};

pub(super) fn pick(candidates: &mut [Candidate]) -> Option<usize> {
    // in_flight / weight, compared without dividing.
    let load = |candidate: &Candidate| (u64::from(candidate.in_flight), u64::from(candidate.weight));
    let lighter = |a: (u64, u64), b: (u64, u64)| a.0 * b.1 < b.0 * a.1;
    let least = candidates.iter().map(load).reduce(|least, other| if lighter(other, least) { other } else { least })?;
    let tied = |candidate: &Candidate| !lighter(least, load(candidate));
    let ties = candidates.iter().filter(|candidate| tied(candidate)).count();
    if ties == candidates.len() {
        return round_robin::pick(candidates);
    }
    // Ties are moved to the front in order, so that the round goes over them alone.
    candidates.sort_by_key(|candidate| (!tied(candidate), candidate.seat));
    round_robin::pick(candidates.get_mut(..ties)?)
}

#[cfg(test)]
mod tests {
    use super::super::candidates;
    use super::*;

    fn pick_with(weights: &[u32], in_flight: &[u32]) -> Option<usize> {
        let mut all = candidates(weights);
        for (candidate, in_flight) in all.iter_mut().zip(in_flight) {
            candidate.in_flight = *in_flight;
        }
        pick(&mut all)
    }

    #[test]
    fn the_least_busy_for_its_weight_is_chosen() {
        for (weights, in_flight, seat) in [
            (&[1, 1, 1][..], &[2, 1, 3][..], Some(1)),
            (&[1, 1], &[1, 0], Some(1)),
            (&[10, 1], &[9, 1], Some(0)),
            (&[10, 1], &[11, 1], Some(1)),
            (&[], &[], None),
        ] {
            assert_eq!(pick_with(weights, in_flight), seat, "{weights:?} {in_flight:?}");
        }
    }

    #[test]
    fn ties_go_round() {
        let mut all = candidates(&[1, 1, 1]);
        all[1].in_flight = 5;
        let mut order = Vec::new();
        for _ in 0..4 {
            all.sort_by_key(|candidate| candidate.seat);
            order.extend(pick(&mut all));
        }
        assert_eq!(order, [0, 2, 0, 2]);
    }
}
