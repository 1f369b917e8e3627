//! What the call machine tells its driver to do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::member::Member;
use super::report::End;

/// What to do next.
#[allow(clippy::large_enum_variant)] // Made once per step and taken apart at once; a box would cost each call an allocation.
pub enum Step {
    /// Send the request to this instance, now; then report `head` or `failed`.
    Send(Attempt),
    /// No slot is free: step again when woken, or at `until`.
    Queued {
        /// When waiting is over.
        until: Instant,
    },
    /// Wait before the next attempt: step again at `until`.
    Wait {
        /// When to go on.
        until: Instant,
    },
    /// The call is over: deliver the answer that was collected or streamed, or this error.
    Done(End),
}

/// One request to send.
#[derive(Clone)]
pub struct Attempt {
    /// To whom.
    pub member: Arc<Member>,
    /// Which attempt of the call this is; the first is 1.
    pub number: u32,
    /// Time for connecting, over all addresses.
    pub connect: Duration,
    /// Time for the whole attempt.
    pub timeout: Duration,
    /// What is left of the whole call, for the instance to know.
    pub left: Duration,
    /// Use no kept-alive connection: one has just turned out to be closed.
    pub fresh: bool,
}

/// What to do with an answer whose head has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Read the whole body, keep it, then report `body_end`; it is delivered once it is whole.
    Collect,
    /// Pass it on as it comes, then report `body_end`.
    Deliver,
    /// Throw it away and step again: there will be another attempt, or the call has failed.
    Discard,
}
