//! Choosing one of the available instances.
//!
//! A strategy is one file here, one variant of [`Strategy`] and one line in [`Strategy::pick`].

mod consistent_hash;
mod least_connections;
mod peak_ewma;
mod random;
mod round_robin;
mod slow_start;
mod weighted_random;

use serde::{Deserialize, Serialize};

pub use peak_ewma::Ewma;
pub use slow_start::{FULL, warmth};

use crate::model::settings::{Millis, leaf, settings};

settings! {
    /// How an instance is chosen.
    pub struct Config {
        /// round_robin: each in turn, by weight. least_connections: the one with the fewest attempts in flight for its weight.
        /// peak_ewma: the one that promises the quickest answer, by its latency and attempts in flight; failing counts as slow.
        /// random, weighted_random: by chance. consistent_hash: the same key goes to the same instance.
        strategy: Strategy = Strategy::RoundRobin;
        /// Header whose value is the key of a call that names no hashKey; null means none. Calls without a key take turns.
        hash_header: Option<String> = None;
        /// Instances registered with this zone are preferred; the others get calls while none of it is available. null: no preference.
        zone: Option<String> = None;
        /// How long a new or recovered instance takes to get its full share, which grows evenly from a tenth of it. 0: none.
        slow_start_ms: Millis = Millis(0), in 0, 3_600_000;
        /// Below this share of healthy instances health and ejection are ignored, lest a lying check take everything away. 0: never.
        panic_threshold_percent: u32 = 0, in 0, 100;
    }
}

/// The strategies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Smooth weighted round robin.
    #[serde(alias = "round-robin")]
    RoundRobin,
    /// Fewest attempts in flight for its weight; ties go round.
    #[serde(alias = "least-connections", alias = "least-conn", alias = "least_conn")]
    LeastConnections,
    /// Least expected latency.
    #[serde(alias = "peak-ewma")]
    PeakEwma,
    /// Any, whatever its weight.
    Random,
    /// Any, in proportion to its weight.
    #[serde(alias = "weighted-random")]
    WeightedRandom,
    /// The one that the key belongs to.
    #[serde(alias = "consistent-hash")]
    ConsistentHash,
}

leaf! { Strategy => |_| None }

/// An available instance, as a strategy sees it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Candidate {
    /// Which one: the owner's index.
    pub seat: usize,
    /// Its weight, above 0.
    pub weight: u32,
    /// Attempts it has in flight.
    pub in_flight: u32,
    /// What a strategy remembers about it between picks; the owner keeps it.
    pub credit: i64,
    /// The hash of its id.
    pub id: u64,
    /// Its expected latency in microseconds, where the strategy goes by it and it is known.
    pub latency: Option<f64>,
}

/// What a pick may go by besides the candidates.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Draw {
    /// Sixty-four bits of chance.
    pub chance: u64,
    /// The hash of the call's key, if it has one.
    pub key: Option<u64>,
}

impl Strategy {
    /// Chooses one of `candidates` (their order is the order of registration); `None` when there is none. Updates the credits.
    pub fn pick(self, candidates: &mut [Candidate], draw: Draw) -> Option<usize> {
        match self {
            Self::RoundRobin => round_robin::pick(candidates),
            Self::LeastConnections => least_connections::pick(candidates),
            Self::PeakEwma => peak_ewma::pick(candidates, draw.chance),
            Self::Random => random::pick(candidates, draw.chance),
            Self::WeightedRandom => weighted_random::pick(candidates, draw.chance),
            Self::ConsistentHash => consistent_hash::pick(candidates, draw.key),
        }
    }

    /// Whether it goes by the latency of instances, so that it is worth measuring.
    pub const fn goes_by_latency(self) -> bool {
        matches!(self, Self::PeakEwma)
    }

    /// Whether nothing but chance decides, so that the next pick cannot be told beforehand.
    pub const fn is_chance(self) -> bool {
        matches!(self, Self::Random | Self::WeightedRandom)
    }
}

#[cfg(test)]
pub(crate) fn candidates(weights: &[u32]) -> Vec<Candidate> {
    let id = |seat: usize| super::hash::hash(format!("instance-{seat}").as_bytes());
    let candidate =
        |(seat, weight): (usize, &u32)| Candidate { seat, weight: *weight, in_flight: 0, credit: 0, id: id(seat), latency: None };
    weights.iter().enumerate().map(candidate).collect()
}
