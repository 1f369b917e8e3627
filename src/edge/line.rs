//! One connection to an instance or to the API server, and the answer that comes on it.

use std::net::SocketAddr;
use std::sync::Arc;

use super::buffers::{Buffer, Spare, room};
use super::client::Readiness;
use super::http1::{Body, ResponseHead};
use super::pace::Paced;
use super::shared::Seat;
use super::slots::Key;
use super::socket::{Moved, Socket};
use super::timers::{Alarm, Tick};
use super::tls::{Broken, Secured};
use crate::mesh::Member;
use crate::model::{ConnectFailure, Scheme};
use crate::outbound::trust::Trust;

/// A connection to whoever answers.
pub(super) struct Line {
    pub(super) socket: Socket,
    /// What stands between the socket and the plain bytes.
    pub(super) secured: Option<Secured>,
    /// The instance; `None` for the API server.
    pub(super) member: Option<Arc<Member>>,
    /// Where the instance has been connected to.
    pub(super) address: Option<SocketAddr>,
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
    /// The answer of the API server goes out as fast as its client takes it.
    pub(super) paced: Option<Paced>,
    /// When the API server was asked.
    pub(super) asked: Tick,
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
    /// It is there, and being secured.
    Shaking,
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
            secured: None,
            member,
            address: None,
            owner: None,
            phase,
            readiness,
            used: false,
            to_head: false,
            seat: None,
            paced: None,
            asked: Tick::NEVER,
            answered: false,
            deaf: false,
            input: Buffer::default(),
            output: Buffer::default(),
            answer: ResponseHead::default(),
            body: Body::default(),
            alarm: Alarm::default(),
        }
    }

    /// One to an instance that is being connected to.
    pub(super) fn to_instance(socket: Socket, member: &Arc<Member>, trust: &Trust) -> Result<Self, ConnectFailure> {
        let line = Self::new(socket, Some(Arc::clone(member)), Phase::Connecting);
        match member.scheme {
            Scheme::Http => Ok(line),
            Scheme::Https => {
                let secured = Secured::to(&member.host, trust).map_err(ConnectFailure::Tls)?;
                Ok(Self { secured: Some(secured), ..line })
            }
        }
    }

    /// A request is about to go out on it.
    pub(super) const fn begin(&mut self, owner: Key, to_head: bool) {
        self.owner = Some(owner);
        self.to_head = to_head;
        self.answered = false;
        self.deaf = false;
    }

    /// Goes on with what must be done before anything can be sent. Answers whether that is done.
    pub(super) fn secure(&mut self) -> Result<bool, String> {
        let Some(secured) = &mut self.secured else { return Ok(true) };
        secured.shake(&self.socket).map_err(|broken| match broken {
            Broken::Plain => "what it says is not TLS".to_owned(),
            Broken::Because(why) => why,
        })
    }

    /// Why the other side has refused us, although the connection was secured.
    pub(super) fn refusal(&mut self) -> Option<String> {
        self.secured.as_mut().filter(|_| !self.answered)?.refusal()
    }

    /// Sends what can be sent.
    pub(super) fn flush(&mut self) {
        if matches!(self.phase, Phase::Connecting | Phase::Shaking) {
            return;
        }
        if let Some(secured) = &mut self.secured {
            self.deaf |= secured.send(&self.socket) == Moved::Broken;
        }
        while !self.output.is_empty() && !self.deaf {
            let output = std::mem::take(&mut self.output);
            let moved = self.write(output.rest());
            self.output = output;
            match moved {
                Moved::Bytes(sent) => self.output.consume(sent),
                Moved::Blocked | Moved::Broken => return,
            }
        }
    }

    /// Sends some bytes past the output, which is empty.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Moved {
        let moved = self.write_once(bytes);
        match moved {
            Moved::Bytes(_) => {}
            Moved::Blocked => self.readiness.writable = false,
            // It may have answered before it stopped listening.
            Moved::Broken => {
                self.deaf = true;
                self.readiness.readable = true;
            }
        }
        moved
    }

    fn write_once(&mut self, bytes: &[u8]) -> Moved {
        match &mut self.secured {
            Some(secured) => secured.write(&self.socket, bytes),
            None => self.socket.write(bytes),
        }
    }

    /// Says that nothing more will be sent.
    pub(super) fn finish(&mut self) {
        if let Some(secured) = &mut self.secured {
            secured.finish(&self.socket);
        }
        self.socket.finish();
    }

    /// Reads once more of the answer, of which so much has come.
    pub(super) fn read(&mut self, spare: &mut Spare, so_far: usize) -> Moved {
        if !self.readiness.readable {
            return if self.readiness.ended { Moved::Bytes(0) } else { Moved::Blocked };
        }
        let buffer = self.input.room_to_read(spare, room(so_far));
        let (moved, more) = match &mut self.secured {
            Some(secured) => secured.read_into(&self.socket, buffer),
            None => self.socket.read_into(buffer),
        };
        self.readiness.has_read(moved, more);
        self.answered |= matches!(moved, Moved::Bytes(read) if read > 0);
        moved
    }
}
