//! A call in retrospect: how it ended, and what each of its attempts came to.

use std::sync::Arc;
use std::time::Duration;

use super::member::Member;
use crate::model::CallError;

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
}

/// An attempt in retrospect.
#[derive(Clone)]
pub struct AttemptReport {
    /// Which instance.
    pub member: Arc<Member>,
    /// From sending to the end.
    pub took: Duration,
    /// The status of the answer, if one came.
    pub status: Option<u16>,
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
