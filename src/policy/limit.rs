//! How much of one service may run and wait at once, so that a slow one cannot take everything.

use crate::model::settings::{Millis, settings};

settings! {
    /// Concurrency limits of one service.
    pub struct Config {
        /// Calls in flight at once, waits between retries included.
        max_in_flight: u32 = 1024, in 1, 1_000_000;
        /// Calls of one caller under way at once, waiting ones included; callers are told apart as for rateLimit.perCaller. null: unlimited.
        max_in_flight_per_caller: Option<u32> = None, in 1, 1_000_000;
        /// Calls waiting for a free slot; the next one is refused at once.
        max_queue: u32 = 256, in 0, 1_000_000;
        /// How long a call waits for a slot before it is refused.
        queue_timeout_ms: Millis = Millis(1_000), in 0, 600_000;
        /// Attempts in flight at one instance, for instances that do not name their own limit; null means unlimited.
        instance_max_in_flight: Option<u32> = None, in 1, 1_000_000;
    }
}
