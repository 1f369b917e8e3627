//! Whoever looks at single calls: the rings behind `GET /traces`.

use std::time::Duration;

use super::traces::Traces;
use crate::model::settings::{Millis, settings};

settings! {
    /// How single calls are looked at.
    pub struct Config {
        /// A call that keeps its caller waiting longer than this is slow, and kept for GET /traces.
        slow_ms: Millis = Millis(1_000), in 1, 86_400_000;
    }
}

/// Whoever looks at single calls.
pub struct Onlookers {
    /// From when on a call is slow.
    pub slow: Duration,
    /// The last ones worth a look.
    pub traces: Traces,
}

impl Onlookers {
    /// As configured.
    pub fn new(config: &Config) -> Self {
        Self { slow: config.slow_ms.duration(), traces: Traces::default() }
    }
}
