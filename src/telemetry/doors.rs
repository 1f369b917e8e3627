//! What is counted at the doors: connections, what was refused before it became a call, what took too long.
//!
//! A line in the list below is a counter, its place in `GET /metrics` as JSON, and a metric.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;

use super::counters::Counter;
use super::histogram::Histogram;
use super::table::{Of, Row, counter};

macro_rules! door_counters {
    ($(#[doc = $doc:literal] $name:ident;)*) => {
        /// One event loop. It alone writes here, so that counting costs no other loop anything.
        #[derive(Default, Debug)]
        #[repr(align(128))]
        pub struct LoopCounters {
            /// Open connections.
            pub open: AtomicUsize,
            /// Requests being answered.
            pub busy: AtomicUsize,
            /// Connections to instances.
            pub upstream: AtomicUsize,
            /// How long each turn took: for so long, at worst, something waited that had come.
            pub turns: Histogram,
            $(#[doc = $doc] pub $name: Counter,)*
        }

        /// All event loops together, as `GET /metrics` shows them.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
        #[serde(rename_all = "camelCase")]
        #[allow(missing_docs)] // As above.
        pub struct DoorReport {
            pub open_connections: usize,
            pub requests_in_progress: usize,
            pub buffered_bytes: usize,
            $(pub $name: u64,)*
        }

        impl DoorCounters {
            /// The sums.
            pub fn report(&self) -> DoorReport {
                let mut report = DoorReport { buffered_bytes: self.buffered.load(Ordering::Relaxed), ..DoorReport::default() };
                for one in &self.loops {
                    report.open_connections += one.open.load(Ordering::Relaxed);
                    report.requests_in_progress += one.busy.load(Ordering::Relaxed);
                    $(report.$name += one.$name.get();)*
                }
                report
            }
        }

        /// The rows of the table of metrics about what is counted here.
        pub(super) const ROWS: &[Row] = &[
            $(counter(concat!("weft_door_", stringify!($name), "_total"), $doc, Of::Doors(|doors, out| {
                out.is(doors.loops.iter().map(|one| one.$name.get()).sum::<u64>());
            })),)*
        ];
    };
}

door_counters! {
    /// Connections that were accepted.
    accepted;
    /// Connections turned away because `maxConnections` were open.
    refused_connections;
    /// Connections turned away because `maxConnectionsPerAddress` were open from there.
    refused_per_address;
    /// Times the system could not accept, such as for want of descriptors.
    accept_errors;
    /// Connections that were secured.
    handshakes;
    /// Connections that could not be secured.
    failed_handshakes;
    /// Connections that were not secured within `headTimeoutMs`.
    handshake_timeouts;
    /// Requests whose head was read.
    requests;
    /// Requests that were not acceptable HTTP.
    malformed;
    /// Requests whose head or target was too large.
    heads_too_large;
    /// Requests whose body was too large.
    bodies_too_large;
    /// Requests turned away with 401, since they came without a valid token.
    unauthorized;
    /// Requests turned away with 403, since their token is for something else.
    forbidden;
    /// Requests refused because `queue` others waited for a worker.
    refused_queue;
    /// Requests refused because `maxBufferedBytes` were in use.
    refused_buffers;
    /// Long polls refused because `maxWatchers` were waiting.
    refused_watchers;
    /// Heads that took longer than `headTimeoutMs`.
    head_timeouts;
    /// Bodies that took longer than `bodyTimeoutMs`.
    body_timeouts;
    /// Connections closed after `idleTimeoutMs` without a request.
    idle_timeouts;
    /// WebSockets ended after `tunnelIdleTimeoutMs` of silence.
    tunnel_timeouts;
    /// Answers not taken within `writeTimeoutMs`.
    write_timeouts;
    /// Answers that broke off, so that the connection was reset.
    broken_off;
    /// Times the workers were replaced because they did not answer.
    worker_restarts;
}

/// What the doors count, loop by loop.
#[derive(Debug)]
pub struct DoorCounters {
    /// One for each event loop.
    pub loops: Vec<LoopCounters>,
    /// Where a loop that has none would count.
    pub spare: LoopCounters,
    /// Bytes of requests and answers in memory.
    pub buffered: AtomicUsize,
}

impl DoorCounters {
    /// For so many event loops.
    pub fn new(loops: usize) -> Self {
        Self { loops: (0..loops).map(|_| LoopCounters::default()).collect(), spare: LoopCounters::default(), buffered: AtomicUsize::new(0) }
    }

    /// Connections to instances.
    pub fn upstream(&self) -> usize {
        self.loops.iter().map(|one| one.upstream.load(Ordering::Relaxed)).sum()
    }

    /// Requests being answered.
    pub fn busy(&self) -> usize {
        self.loops.iter().map(|one| one.busy.load(Ordering::Relaxed)).sum()
    }

    /// Open connections.
    pub fn open(&self) -> usize {
        self.loops.iter().map(|one| one.open.load(Ordering::Relaxed)).sum()
    }

    /// Whether no request is being answered.
    pub fn is_quiet(&self) -> bool {
        self.loops.iter().all(|one| one.busy.load(Ordering::SeqCst) == 0)
    }
}
