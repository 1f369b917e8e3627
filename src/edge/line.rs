//! One connection to an instance or to the API server, and the answer that comes on it.

use std::sync::Arc;

use super::buffers::{Buffer, Spare, room};
use super::client::Readiness;
use super::http1::{Body, ResponseHead};
use super::shared::Seat;
use super::slots::Key;
use super::socket::{Moved, Socket};
use super::timers::Alarm;
use crate::mesh::Member;

/// A connection to whoever answers.
pub(super) struct Line {
    pub(super) socket: Socket,
    /// The instance; `None` for the API server.
    pub(super) member: Option<Arc<Member>>,
    /// The client whose request is on it.
    pub(super) owner: Option<Key>,
    pub(super) phase: Phase,
    pub(super) readiness: Readiness,
    /// It has served an exchange before.
    pub(super) used: bool,
    /// The request on it is HEAD, so that its answer has no body.
    pub(super) to_head: bool,
    /// The seat of a call whose caller has gone.
    pub(super) seat: Option<Seat>,
    /// A byte of the answer to the current request has come.
    pub(super) answered: bool,
    /// Nothing can be sent any more, though an answer may still come.
    pub(super) deaf: bool,
    pub(super) input: Buffer,
    pub(super) output: Buffer,
    pub(super) answer: ResponseHead,
    pub(super) body: Body,
    /// When it has been idle for too long.
    pub(super) alarm: Alarm,
}

/// Where an exchange on a line has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// The connection is being made.
    Connecting,
    /// The request is on its way, and the head of the answer is to come.
    Asked,
    /// The body of the answer is to come.
    Answering,
    /// Nothing is going on.
    Idle,
}

impl Line {
    pub(super) fn new(socket: Socket, member: Option<Arc<Member>>, phase: Phase) -> Self {
        let readiness = if phase == Phase::Connecting { Readiness::NONE } else { Readiness::OPEN };
        Self {
            socket,
            member,
            owner: None,
            phase,
            readiness,
            used: false,
            to_head: false,
            seat: None,
            answered: false,
            deaf: false,
            input: Buffer::default(),
            output: Buffer::default(),
            answer: ResponseHead::default(),
            body: Body::default(),
            alarm: Alarm::default(),
        }
    }

    /// A request is about to go out on it.
    pub(super) const fn begin(&mut self, owner: Key, to_head: bool) {
        self.owner = Some(owner);
        self.to_head = to_head;
        self.answered = false;
        self.deaf = false;
    }

    /// Sends what can be sent.
    pub(super) fn flush(&mut self) {
        if self.deaf || self.phase == Phase::Connecting {
            return;
        }
        match self.output.send(&self.socket) {
            Moved::Bytes(_) => {}
            Moved::Blocked => self.readiness.writable = false,
            // It may have answered before it stopped listening.
            Moved::Broken => {
                self.deaf = true;
                self.readiness.readable = true;
            }
        }
    }

    /// Reads once more of the answer, of which so much has come.
    pub(super) fn read(&mut self, spare: &mut Spare, so_far: usize) -> Moved {
        if !self.readiness.readable {
            return if self.readiness.ended { Moved::Bytes(0) } else { Moved::Blocked };
        }
        let (moved, more) = self.input.read(&self.socket, spare, room(so_far));
        self.readiness.has_read(moved, more);
        self.answered |= matches!(moved, Moved::Bytes(read) if read > 0);
        moved
    }
}
