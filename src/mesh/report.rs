//! A call in retrospect: how it ended, and what each of its attempts came to.

use std::sync::Arc;
use std::time::Duration;

use super::member::Member;
use super::meta::Mode;
use crate::model::{CallError, Reason};
use crate::telemetry::context::Context;

/// How a call ended.
pub struct End {
    /// `Ok`: deliver the answer.
    pub result: Result<(), CallError>,
    /// What there is to count and to log.
    pub report: Report,
}

/// A call in retrospect.
pub struct Report {
    /// The attempts in order.
    pub attempts: Attempts,
    /// From start to end.
    pub took: Duration,
    /// How long it waited for a slot or a worker.
    pub queued: Duration,
    /// What its caller gets; 0 when the caller had gone.
    pub status: u16,
    /// Why it failed.
    pub reason: Option<Reason>,
    /// The trace it belongs to, where traces are made.
    pub context: Option<Context>,
    /// It streamed, so that how long it took is up to those at its ends.
    pub streamed: bool,
}

/// An attempt in retrospect.
#[derive(Clone)]
pub struct AttemptReport {
    /// Its span; 0 where traces are not made.
    pub span: u64,
    /// Which instance.
    pub member: Arc<Member>,
    /// When it was sent, from the start of the call.
    pub offset: Duration,
    /// How long the call had waited before.
    pub waited: Duration,
    /// From sending to the end.
    pub took: Duration,
    /// The connection it went out on.
    pub connection: Connection,
    /// From sending to the head of the answer, if one came.
    pub first_byte: Option<Duration>,
    /// The status of the answer, if one came.
    pub status: Option<u16>,
    /// Why it counts as failed.
    pub failure: Option<Reason>,
}

/// What is known of the connection of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Connection {
    /// None was there in time, or nobody has said.
    #[default]
    Unknown,
    /// It was there already.
    Kept,
    /// It was made, which took so long.
    Made(Duration),
}

impl Report {
    /// A call that was refused before it was begun.
    pub(super) fn refused(error: &CallError, took: Duration) -> Self {
        let (status, reason) = (error.status(), Some(error.reason()));
        Self { context: None, attempts: Attempts::default(), took, queued: Duration::ZERO, status, reason, streamed: false }
    }

    /// Whether the call failed, or its caller was told so by the instance.
    pub const fn is_failed(&self) -> bool {
        self.reason.is_some() || self.status >= 500 || self.caller_has_gone()
    }

    /// Whether its caller had gone before it ended, without an answer.
    pub const fn caller_has_gone(&self) -> bool {
        self.status == 0
    }

    /// How long it kept its caller waiting: to the end, or where it streamed to the head of the answer.
    pub fn kept_waiting(&self) -> Duration {
        let head = |last: &AttemptReport| Some(last.offset + last.first_byte?);
        self.attempts.last().filter(|_| self.streamed).and_then(head).unwrap_or(self.took)
    }
}

impl AttemptReport {
    /// One that is being sent.
    pub(super) const fn sent(member: Arc<Member>, offset: Duration, waited: Duration, span: u64) -> Self {
        let connection = Connection::Unknown;
        Self { span, member, offset, waited, took: Duration::ZERO, connection, first_byte: None, status: None, failure: None }
    }
}

/// The status that the caller of a call is told, `last` being its last attempt.
pub(super) fn told(result: &Result<(), CallError>, mode: Mode, last: Option<&AttemptReport>) -> u16 {
    // What streamed has been told before it broke off.
    let begun = last.filter(|last| mode == Mode::Stream && last.first_byte.is_some()).and_then(|last| last.status);
    match result {
        Ok(()) => last.and_then(|last| last.status).unwrap_or(200),
        Err(CallError { fallback: Some(fallback), .. }) => fallback.status,
        Err(error) => begun.unwrap_or_else(|| match (mode, error.reason()) {
            (Mode::Stream, Reason::UpstreamReset | Reason::UpstreamProtocol) => 502,
            _ => error.status(),
        }),
    }
}

/// The attempts of a call in order. The first, which is mostly the only one, costs no allocation.
#[derive(Clone, Default)]
pub struct Attempts {
    first: Option<AttemptReport>,
    others: Vec<AttemptReport>,
}

impl Attempts {
    pub(super) fn push(&mut self, attempt: AttemptReport) {
        match &self.first {
            None => self.first = Some(attempt),
            Some(_) => self.others.push(attempt),
        }
    }

    pub(super) fn last_mut(&mut self) -> Option<&mut AttemptReport> {
        self.others.last_mut().or(self.first.as_mut())
    }

    /// Whether one of them was made at this member.
    pub(super) fn were_at(&self, member: &Arc<Member>) -> bool {
        self.iter().any(|attempt| Arc::ptr_eq(&attempt.member, member))
    }

    /// The last one so far.
    pub fn last(&self) -> Option<&AttemptReport> {
        self.others.last().or(self.first.as_ref())
    }

    /// All of them in order.
    pub fn iter(&self) -> impl Iterator<Item = &AttemptReport> {
        self.first.iter().chain(&self.others)
    }

    /// How many.
    pub fn count(&self) -> u32 {
        u32::try_from(self.others.len()).unwrap_or(u32::MAX).saturating_add(u32::from(self.first.is_some()))
    }
}
