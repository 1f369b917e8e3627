//! What tests over real sockets share: a raw HTTP client, scripted upstreams, and patience with an end.

pub(crate) mod client;
pub(crate) mod hole;
#[cfg(feature = "tls")]
pub(crate) mod papers;
#[cfg(feature = "tls")]
pub(crate) mod sleeve;
pub(crate) mod upstream;

use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take that is bound to happen; only a failing test waits that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Looks again and again until `look` finds something, and gives up after [`PATIENCE`].
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "this never happened: {what}");
        // Leaves the processor to whatever is looked for.
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// Looks again and again for `time` that `holds` holds.
#[track_caller]
pub(crate) fn throughout(time: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert!(holds(), "this did not hold: {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}
