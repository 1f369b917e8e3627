//! What the call machine tells its driver to do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::member::Member;
use super::report::End;
use crate::model::{Call, Endpoint, ServiceName};
use crate::policy::route::HeaderChanges;
use crate::telemetry::context::Traced;

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
    /// Ask for this instead of what the call says.
    pub endpoint: Option<Arc<str>>,
    /// Do this to the caller's header fields before those of the mesh are added.
    pub changes: Option<Arc<HeaderChanges>>,
    /// Give a copy of the request, as this attempt sends it, to [`Mesh::mirror`](super::Mesh::mirror) for this service.
    pub mirror: Option<ServiceName>,
    /// What to say of the trace it belongs to, where traces are made; else what the caller says of one stays as it is.
    pub trace: Option<Traced>,
    /// It is such a copy: say so in `x-mesh-mirror: true`.
    pub is_mirror: bool,
}

impl Attempt {
    /// The path and query to ask for, where those of the call are `call`.
    pub fn endpoint<'a>(&'a self, call: &'a str) -> &'a str {
        self.endpoint.as_deref().unwrap_or(call)
    }

    /// The copy of a call that is to be mirrored, if one is.
    pub fn mirrored(&self, call: &Call) -> Option<Call> {
        let service = self.mirror.clone()?;
        let mut headers = call.headers.clone();
        if let Some(changes) = &self.changes {
            changes.apply(&mut headers);
        }
        let endpoint = self.endpoint.as_ref().map_or_else(|| Ok(call.endpoint.clone()), |new| Endpoint::new(new)).ok()?;
        let copy = Call { service, endpoint, headers, timeout: None, max_retries: Some(0), ..call.clone() };
        // So that mirrors of mirrors come to an end.
        Some(Call { hops: call.hops.saturating_add(1), ..copy })
    }
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
