//! One connection of a caller, and the request on it that is being answered.

use std::net::IpAddr;
use std::sync::Arc;

use super::buffers::{Buffer, Spare, room};
use super::exchange::Exchange;
use super::gate::{Arrival, Door};
use super::shared::Open;
use super::socket::{Moved, Socket};
use super::timers::{Alarm, Tick};
use super::tls::Secured;
use crate::contract::access::Remembered;

/// A connection of a caller.
pub(super) struct Client {
    pub(super) socket: Socket,
    /// What stands between the socket and the plain bytes.
    pub(super) secured: Option<Secured>,
    /// By which it has come.
    pub(super) door: Door,
    pub(super) address: Option<IpAddr>,
    /// Who it has proven to be by its certificate.
    pub(super) name: Option<Arc<str>>,
    pub(super) stage: Stage,
    pub(super) readiness: Readiness,
    /// Read, and not yet part of anything.
    pub(super) input: Buffer,
    /// So much of a head has been looked at and found unfinished.
    pub(super) seen: usize,
    /// Written, and not yet sent.
    pub(super) output: Buffer,
    /// When whatever it waits for is over.
    pub(super) until: Tick,
    /// When an answer that is whole must have been taken.
    pub(super) write_by: Tick,
    pub(super) alarm: Alarm,
    /// Bytes counted as held in memory.
    pub(super) charged: usize,
    /// The connection closes when the output is sent.
    pub(super) closes: bool,
    /// Counted as busy.
    pub(super) busy: bool,
    /// Who its last request was from.
    pub(super) remembered: Remembered,
    /// The request being answered.
    pub(super) exchange: Option<Box<Exchange>>,
    /// Counts it as open.
    _open: Open,
}

impl Client {
    pub(super) fn new(arrival: Arrival, secured: Option<Secured>) -> Self {
        let Arrival { socket, address, open, door } = arrival;
        Self {
            socket,
            stage: if secured.is_some() { Stage::Shaking } else { Stage::Idle },
            secured,
            door,
            address,
            name: None,
            readiness: Readiness::OPEN,
            input: Buffer::default(),
            seen: 0,
            output: Buffer::default(),
            until: Tick::NEVER,
            write_by: Tick::NEVER,
            alarm: Alarm::default(),
            charged: 0,
            closes: false,
            busy: false,
            remembered: Remembered::default(),
            exchange: None,
            _open: open,
        }
    }

    /// Reads once more of what the caller sends: the more at once, the more has come already.
    pub(super) fn read(&mut self, spare: &mut Spare, so_far: usize) -> Moved {
        if !self.readiness.readable {
            return if self.readiness.ended { Moved::Bytes(0) } else { Moved::Blocked };
        }
        let buffer = self.input.room_to_read(spare, room(so_far));
        let (moved, more) = match &mut self.secured {
            Some(secured) => match secured.read_into(&self.socket, buffer) {
                // Requests say themselves where they end, and many clients take no formal leave.
                (Moved::Broken, _) if secured.has_ended() => (Moved::Bytes(0), false),
                read => read,
            },
            None => self.socket.read_into(buffer),
        };
        self.readiness.has_read(moved, more);
        moved
    }

    /// How it speaks to us, as the beginning of a URL says it.
    pub(super) const fn scheme(&self) -> &'static str {
        if self.secured.is_some() { "https" } else { "http" }
    }

    /// Whether anything is still to be sent.
    pub(super) fn owes(&self) -> bool {
        !self.output.is_empty() || self.secured.as_ref().is_some_and(Secured::owes)
    }

    /// Sends what can be sent. Where the connection closes after that, whoever calls this also finishes it.
    pub(super) fn send(&mut self) {
        let last = self.closes && matches!(self.stage, Stage::Idle | Stage::Head);
        let moved = match &mut self.secured {
            Some(secured) => secured.send_out(&self.socket, &mut self.output),
            None => self.output.send(&self.socket, last),
        };
        match moved {
            Moved::Bytes(_) => {}
            Moved::Blocked => self.readiness.writable = false,
            Moved::Broken => self.readiness.broken = true,
        }
    }

    /// Takes leave of a client in the manner of TLS, if that is how it is spoken to.
    pub(super) fn take_leave(&mut self) {
        if let Some(secured) = self.secured.as_mut().filter(|_| !self.readiness.broken) {
            secured.finish(&self.socket);
        }
    }

    /// Says that nothing more will be sent; what still comes is nobody's business.
    pub(super) fn finish(&mut self) {
        self.take_leave();
        self.secured = None;
        self.socket.finish();
    }

    /// Whether its answer comes as it goes, so that only its pace counts.
    pub(super) fn streams(&self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| exchange.streams())
    }

    /// Bytes held in memory for it.
    pub(super) fn holds(&self) -> usize {
        let secured = self.secured.as_ref().map_or(0, Secured::holds);
        secured + self.input.len() + self.output.len() + self.exchange.as_ref().map_or(0, |exchange| exchange.holds())
    }
}

/// What a connection is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// It is being secured.
    Shaking,
    /// It may send a head, of which nothing has come.
    Idle,
    /// Some of a head has come.
    Head,
    /// A request is being answered.
    Busy,
    /// The last answer has been sent; what still comes is thrown away, so that the answer is not lost to a reset. So many bytes are.
    Lingering(usize),
}

/// What the system has said about a socket since it was last found wanting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Readiness {
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The other side has said its last, or soon will have.
    pub(super) ending: bool,
    /// All that it has said has been read.
    pub(super) ended: bool,
    pub(super) broken: bool,
}

impl Readiness {
    /// Of a connection that is there.
    pub(super) const OPEN: Self = Self { readable: true, writable: true, ending: false, ended: false, broken: false };
    /// Of one that may come to be.
    pub(super) const NONE: Self = Self { readable: false, writable: false, ..Self::OPEN };

    pub(super) fn hear(&mut self, event: &mio::event::Event) {
        self.readable |= event.is_readable() || event.is_read_closed();
        self.writable |= event.is_writable();
        self.ending |= event.is_read_closed();
        self.broken |= event.is_error() || event.is_write_closed();
    }

    /// Takes in what came of reading, and whether there may be more.
    pub(super) const fn has_read(&mut self, moved: Moved, more: bool) {
        match moved {
            Moved::Bytes(0) => (self.readable, self.ended) = (false, true),
            // The end of what is said is told only once.
            Moved::Bytes(_) => self.readable = more || self.ending,
            Moved::Blocked => self.readable = false,
            Moved::Broken => (self.readable, self.broken) = (false, true),
        }
    }
}
