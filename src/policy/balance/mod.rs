//! Choosing one of the available instances.
//!
//! A strategy is one file here, one variant of [`Strategy`] and one line in [`Strategy::pick`].

mod least_connections;
mod round_robin;

use serde::{Deserialize, Serialize};

use crate::model::settings::{leaf, settings};

settings! {
    /// How an instance is chosen.
    pub struct Config {
        /// round_robin: each in turn, by weight. least_connections: the one with the fewest attempts in flight for its weight.
        strategy: Strategy = Strategy::RoundRobin;
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
}

impl Strategy {
    /// Chooses one of `candidates` (their order is the order of registration); `None` when there is none. Updates the credits.
    pub fn pick(self, candidates: &mut [Candidate]) -> Option<usize> {
        match self {
            Self::RoundRobin => round_robin::pick(candidates),
            Self::LeastConnections => least_connections::pick(candidates),
        }
    }
}

#[cfg(test)]
pub(crate) fn candidates(weights: &[u32]) -> Vec<Candidate> {
    weights.iter().enumerate().map(|(seat, weight)| Candidate { seat, weight: *weight, in_flight: 0, credit: 0 }).collect()
}
