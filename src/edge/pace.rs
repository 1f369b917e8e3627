//! Answers of the API for which there is no room in memory: few go out as fast as their clients take them, and the others are refused, so that
//! no worker waits for a stranger.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::buffers::ALWAYS;
use super::client::Client;
use super::exchange::{Exchange, Flow};
use super::http1::Framing;
use super::line::Line;
use super::reactor::Loop;
use super::shared::Shared;
use crate::contract::answer::{Answer, ApiError};
use crate::model::Limit;

/// How long a client that has its answer as fast as it takes it may take nothing.
pub(super) const PACE: Duration = Duration::from_secs(1);

/// An answer of the API that goes out as fast as its client takes it. It may hold a worker.
pub(super) struct Paced(Arc<Shared>);

impl Paced {
    /// `None` when as many do so as may: a quarter of the workers.
    pub(super) fn new(shared: &Arc<Shared>) -> Option<Self> {
        let paced = Self(Arc::clone(shared));
        (shared.paced.fetch_add(1, Ordering::SeqCst) < (shared.config.workers / 4).max(1)).then_some(paced)
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        self.0.paced.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Loop {
    /// As much is in memory as may be, and the answer is more. The request has been answered: nobody is told that it was not.
    pub(super) fn no_room_for_answer(&mut self, client: &mut Client, exchange: &mut Exchange) -> Flow {
        self.counters().refused_buffers.add(1);
        let mut answer = Answer::from(ApiError::Full(Limit::Buffers));
        answer.headers.remove_all("x-mesh-not-sent");
        self.say(client, exchange, &answer)
    }

    /// Whether an answer can be taken: a worker never waits for a stranger. Where there is no room for all of it, a few may go out as fast
    /// as their clients take them, so that what is larger than there could be room for can be had at all.
    pub(super) fn may_take(&mut self, line: &mut Line) -> bool {
        let Framing::Length(length) = line.answer.framing() else { return true };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length <= ALWAYS || self.shared.has_room_for(length) {
            return true;
        }
        let all = &self.inner.lines;
        let paced = all.iter().filter(|key| self.lines.get_mut(**key).is_some_and(|line| line.paced.is_some())).count();
        line.paced = (paced < all.len() / 2).then(|| Paced::new(&self.shared)).flatten();
        line.paced.is_some()
    }
}
