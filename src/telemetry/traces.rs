//! The last calls worth a look, for `GET /traces`: those that were sampled, that failed and that were slow, each kind in a ring of its own, so
//! that a storm of one leaves the others in sight.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::trace::Trace;
use crate::model::sync::Locked;

/// How many calls of each kind are kept. One takes about half a KiB and 100 bytes for each attempt after the first.
const FAILED: usize = 256;
const SLOW: usize = 128;
const SAMPLED: usize = 256;

/// The rings.
#[derive(Default)]
pub struct Traces {
    /// Guarded: what is kept.
    kept: Locked<Kept>,
}

#[derive(Default)]
struct Kept {
    failed: VecDeque<(u64, Arc<Trace>)>,
    slow: VecDeque<(u64, Arc<Trace>)>,
    sampled: VecDeque<(u64, Arc<Trace>)>,
    /// The number of the next.
    next: u64,
    dropped: u64,
}

/// Which calls to show.
#[derive(Clone, PartialEq, Debug)]
pub struct Query {
    /// Of this service.
    pub service: Option<String>,
    /// Of services whose names begin so: those that whoever asks may see.
    pub prefix: Option<Box<str>>,
    /// Only those that failed.
    pub failed: bool,
    /// Only those that took at least so long.
    pub at_least: Duration,
    /// At most so many.
    pub limit: usize,
}

/// What there is to show.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Page {
    /// How many are kept, whatever was asked for.
    pub kept: usize,
    /// How many have been dropped for newer ones.
    pub dropped: u64,
    /// Those that were asked for, the newest first.
    pub traces: Vec<Arc<Trace>>,
}

impl Traces {
    /// Keeps a call. `slow`: it took longer than it should.
    pub fn keep(&self, trace: &Arc<Trace>, slow: bool) {
        let trace = Arc::clone(trace);
        // What falls out is freed once the lock is left.
        let _old = self.kept.with(|kept| {
            let (ring, most) = if trace.is_failed() {
                (&mut kept.failed, FAILED)
            } else if slow {
                (&mut kept.slow, SLOW)
            } else {
                (&mut kept.sampled, SAMPLED)
            };
            let old = if ring.len() >= most { ring.pop_front() } else { None };
            ring.push_back((kept.next, trace));
            kept.next += 1;
            kept.dropped += u64::from(old.is_some());
            old
        });
    }

    /// How many have been kept so far, those that have been dropped included: while it stays the same, there is nothing new.
    pub fn number(&self) -> u64 {
        self.kept.with(|kept| kept.next)
    }

    /// How many have been kept so far, and how many of them dropped for newer ones.
    pub fn counts(&self) -> (u64, u64) {
        self.kept.with(|kept| (kept.next, kept.dropped))
    }

    /// Those that `query` asks for.
    pub fn page(&self, query: &Query) -> Page {
        let (mut all, dropped) = self.kept.with(|kept| {
            let rings = [&kept.failed, &kept.slow, &kept.sampled];
            (rings.into_iter().flatten().cloned().collect::<Vec<_>>(), kept.dropped)
        });
        all.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
        let kept = all.len();
        let wanted = |trace: &Arc<Trace>| {
            query.service.as_ref().is_none_or(|service| trace.service.as_str() == service)
                && query.prefix.as_ref().is_none_or(|prefix| trace.service.as_str().starts_with(&**prefix))
                && (!query.failed || trace.is_failed())
                && trace.took >= query.at_least
        };
        let traces = all.into_iter().map(|(_, trace)| trace).filter(wanted).take(query.limit).collect();
        Page { kept, dropped, traces }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{RequestId, ServiceName};
    use crate::telemetry::trace::shown_path;

    fn trace(n: u64, service: &str, status: u16, ms: u64) -> Arc<Trace> {
        Arc::new(Trace {
            context: None,
            state: None,
            request_id: RequestId::from_roll(n, n),
            service: ServiceName::new(service).expect("valid"),
            method: "GET".into(),
            path: shown_path("/"),
            caller: None,
            started_ms: n,
            took: Duration::from_millis(ms),
            queued: Duration::ZERO,
            status,
            reason: (status >= 500).then_some("upstream_status"),
            streamed: false,
            attempts: Vec::new(),
        })
    }

    const ALL: Query = Query { service: None, prefix: None, failed: false, at_least: Duration::ZERO, limit: usize::MAX };

    #[test]
    fn a_storm_of_one_kind_leaves_the_others_in_sight_and_everything_is_bounded() {
        let traces = Traces::default();
        traces.keep(&trace(0, "a", 200, 5000), true);
        traces.keep(&trace(1, "a", 200, 1), false);
        for n in 2..1000 {
            traces.keep(&trace(n, "b", 503, 1), false);
        }
        let page = traces.page(&ALL);
        assert_eq!((page.kept, page.dropped, page.traces.len()), (258, 742, 258));
        let starts: Vec<u64> = page.traces.iter().map(|trace| trace.started_ms).collect();
        assert!(starts.is_sorted_by(|a, b| a > b), "the newest first");
        assert_eq!((starts[0], &starts[256..]), (999, &[1, 0][..]));
    }

    #[test]
    fn what_is_asked_for_is_shown_and_nothing_else() {
        let traces = Traces::default();
        for n in 0..10 {
            traces.keep(&trace(n, if n % 2 == 0 { "even" } else { "odd" }, if n < 5 { 500 } else { 200 }, n), false);
        }
        let starts = |query: &Query| traces.page(query).traces.iter().map(|trace| trace.started_ms).collect::<Vec<_>>();
        assert_eq!(starts(&Query { service: Some("odd".to_owned()), ..ALL }), [9, 7, 5, 3, 1]);
        assert_eq!(starts(&Query { failed: true, ..ALL }), [4, 3, 2, 1, 0]);
        assert_eq!(starts(&Query { at_least: Duration::from_millis(7), ..ALL }), [9, 8, 7]);
        assert_eq!(starts(&Query { limit: 2, ..ALL }), [9, 8]);
        assert_eq!(starts(&Query { service: Some("nobody".to_owned()), ..ALL }), [0_u64; 0]);
    }
}
