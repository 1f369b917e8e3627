//! TLS without waiting: rustls between a socket that never blocks and the plain bytes of a connection, on either side of the mesh.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;

use rustls::{Connection, ServerConnection};
use webpki::EndEntityCert;

use super::acceptor::Acceptor;
use super::buffers::Buffer;
use super::socket::{Moved, Socket};
use crate::model::Host;
use crate::outbound::trust::{self, Trust, Vintage};

/// The TLS side of a connection.
pub(super) struct Secured {
    session: Box<Connection>,
    /// Plain bytes that have been encrypted and may not all be on their way yet.
    owed: usize,
    /// Plain bytes that have been decrypted and not yet been taken.
    pending: usize,
    /// Bytes that have come during the handshake.
    came: usize,
    /// The other side has said its last.
    ended: bool,
    /// The other side did not want us, which it says after what we held to be the handshake.
    refusal: Option<String>,
    /// What an instance was trusted by.
    vintage: Option<Vintage>,
}

/// Why a handshake came to nothing.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Broken {
    /// Whoever is there does not speak TLS at all, but perhaps HTTP.
    Plain,
    /// For a person.
    Because(String),
}

/// Plain bytes encrypted at once: the most that is held twice for a client that does not take them.
const PIECE: usize = 32 * 1024;
/// Bytes of a handshake; chains of certificates are shorter.
const MOST_OF_HANDSHAKE: usize = 64 * 1024;
/// A name that is longer, or more than one word, is nobody's.
const MOST_OF_NAME: usize = 255;
/// What a client is told in the middle of nothing when there is no room for it: a fatal alert, `internal_error` (RFC 8446 §6.2).
pub(super) const NO_ROOM: &[u8] = &[21, 3, 3, 0, 2, 2, 80];

impl Secured {
    /// Begins a handshake with the instance at `host`.
    ///
    /// # Errors
    /// Why there can be none, for a person.
    pub(super) fn to(host: &Host, trust: &Trust) -> Result<Self, String> {
        let vintage = Some(trust.vintage());
        Ok(Self { vintage, ..Self::new(trust.connect(host)?.into()) })
    }

    /// Awaits the handshake of a client.
    ///
    /// # Errors
    /// Why there can be none, for a person.
    pub(super) fn from(acceptor: &Acceptor) -> Result<Self, String> {
        let session = ServerConnection::new(acceptor.config()).map_err(|error| error.to_string())?;
        Ok(Self::new(session.into()))
    }

    fn new(session: Connection) -> Self {
        Self { session: Box::new(session), owed: 0, pending: 0, came: 0, ended: false, refusal: None, vintage: None }
    }

    /// Whether an instance would still be trusted by the same.
    pub(super) fn is_trusted(&self, trust: &Trust) -> bool {
        self.vintage == Some(trust.vintage())
    }

    /// Goes on with the handshake as far as it goes. Answers whether it is done.
    pub(super) fn shake(&mut self, socket: &Socket) -> Result<bool, Broken> {
        let gone = || Broken::Because("closed in the middle of it".to_owned());
        while self.session.is_handshaking() {
            if self.send(socket) == Moved::Broken {
                return Err(gone());
            }
            if !self.session.is_handshaking() {
                break;
            }
            match self.receive(socket) {
                // Who has said all there is to say at once may have ended it as well.
                Ok(_) if self.ended && self.session.is_handshaking() => return Err(gone()),
                Ok(_) if self.came > MOST_OF_HANDSHAKE => return Err(Broken::Because("longer than any handshake".to_owned())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Unsupported => return Err(Broken::Plain),
                Err(error) => {
                    // So that the other side learns why.
                    self.send(socket);
                    return Err(Broken::Because(trust::said(&error).map_or_else(|| error.to_string(), trust::why)));
                }
            }
        }
        self.came = 0;
        if self.send(socket) == Moved::Broken { Err(gone()) } else { Ok(true) }
    }

    /// The name that a client's certificate proves: its SPIFFE id or other URI, else its first DNS name.
    pub(super) fn name(&self) -> Option<Arc<str>> {
        let certificate = EndEntityCert::try_from(self.session.peer_certificates()?.first()?).ok()?;
        let mut uris = certificate.valid_uri_names();
        let name = uris.next().or_else(|| certificate.valid_dns_names().next())?;
        (name.len() <= MOST_OF_NAME && name.bytes().all(|byte| byte.is_ascii_graphic())).then(|| name.into())
    }

    /// Reads plain bytes into the room a buffer has. Says whether there may be more. An end that the other side did not announce is
    /// `Broken` for whoever needs to know whether that was all.
    pub(super) fn read_into(&mut self, socket: &Socket, buffer: &mut Vec<u8>) -> (Moved, bool) {
        let room = buffer.capacity().saturating_sub(buffer.len()).max(1);
        // Only what the socket says now counts: what it said before, it may have unsaid by an event since.
        let mut drained = false;
        loop {
            let mut plain = self.session.reader();
            match plain.fill_buf() {
                Ok([]) => return (Moved::Bytes(0), false),
                Ok(bytes) => {
                    let taken = bytes.len().min(room);
                    buffer.extend_from_slice(bytes.get(..taken).unwrap_or_default());
                    plain.consume(taken);
                    self.pending = self.pending.saturating_sub(taken);
                    return (Moved::Bytes(taken), self.pending > 0 || self.ended || !drained);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The connection ended without saying so: what came may not be all.
                Err(_) => return (Moved::Broken, false),
            }
            match self.receive(socket) {
                Ok(all) => drained = all,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (Moved::Blocked, false),
                Err(error) => {
                    self.refusal = trust::said(&error).and_then(trust::refusal);
                    // So that the other side learns what it did.
                    self.send(socket);
                    return (Moved::Broken, false);
                }
            }
        }
    }

    /// Whether the other side ended the connection, without announcing it.
    pub(super) const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Why the other side did not want us.
    pub(super) fn refusal(&mut self) -> Option<String> {
        self.refusal.take()
    }

    /// Takes plain bytes to be sent, as many as there is room for.
    pub(super) fn write(&mut self, socket: &Socket, bytes: &[u8]) -> Moved {
        match self.send(socket) {
            Moved::Bytes(_) => {}
            other => return other,
        }
        match self.session.writer().write(bytes) {
            Ok(written) if self.send(socket) != Moved::Broken => Moved::Bytes(written),
            _ => Moved::Broken,
        }
    }

    /// Sends plain bytes; they leave `output` only when they have been taken, so that what is in it is what is still to be sent.
    pub(super) fn send_out(&mut self, socket: &Socket, output: &mut Buffer) -> Moved {
        loop {
            match self.send(socket) {
                Moved::Bytes(_) => {}
                other => return other,
            }
            output.consume(std::mem::take(&mut self.owed));
            let rest = output.rest();
            if rest.is_empty() {
                return Moved::Bytes(0);
            }
            match self.session.writer().write(rest.get(..PIECE).unwrap_or(rest)) {
                Ok(taken) if taken > 0 => self.owed = taken,
                _ => return Moved::Broken,
            }
        }
    }

    /// Whether something has come that nobody has taken.
    pub(super) const fn has_pending(&self) -> bool {
        self.pending > 0
    }

    /// Whether there is something to be sent.
    pub(super) fn owes(&self) -> bool {
        self.session.wants_write()
    }

    /// Bytes held in memory for it, beside what every connection needs.
    pub(super) const fn holds(&self) -> usize {
        self.owed + self.came
    }

    /// Says that nothing more will be written.
    pub(super) fn finish(&mut self, socket: &Socket) {
        self.session.send_close_notify();
        // A connection that is broken is finished as well.
        self.send(socket);
    }

    /// Sends what is ready to be sent, as far as the socket takes it.
    pub(super) fn send(&mut self, socket: &Socket) -> Moved {
        while self.session.wants_write() {
            match self.session.write_tls(&mut &*socket) {
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return Moved::Blocked,
                Err(_) => return Moved::Broken,
            }
        }
        Moved::Bytes(0)
    }

    /// Takes in what has come. Answers whether that was all the socket had.
    fn receive(&mut self, socket: &Socket) -> io::Result<bool> {
        let is_first = self.came == 0 && self.session.is_handshaking() && matches!(*self.session, Connection::Server(_));
        let mut tap = Tap { socket, is_first, drained: false };
        let read = self.session.read_tls(&mut tap)?;
        let drained = tap.drained;
        self.ended |= read == 0;
        if self.session.is_handshaking() {
            self.came += read;
        }
        let state = self.session.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.pending = state.plaintext_bytes_to_read();
        self.ended |= state.peer_has_closed();
        Ok(drained)
    }
}

/// A socket whose answers are looked at on the way.
struct Tap<'a> {
    socket: &'a Socket,
    /// Nothing has come before.
    is_first: bool,
    /// It gave less than it might have.
    drained: bool,
}

impl Read for Tap<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = loop {
            match (&mut &*self.socket).read(into) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.drained = read < into.len();
        // Every method of HTTP begins with a letter; no record of TLS does.
        if self.is_first && read > 0 && into.first().is_some_and(u8::is_ascii_alphabetic) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(read)
    }
}
