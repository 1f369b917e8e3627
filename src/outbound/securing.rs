//! TLS between ureq and a connection, with the mesh's own trust, and errors that say who did not trust whom.

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::time::Instant;

use rustls::{ClientConnection, StreamOwned};
use ureq::unversioned::transport::time::Instant as UreqInstant;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport};

use super::connection::{BUFFER, Connection, carry};
use super::trust::{self, Trust, Vintage};
use crate::model::time::{Clock, SystemClock};
use crate::model::{ConnectFailure, Failure, Host};

/// Secures what a dialer has connected.
pub(super) struct Securer {
    pub(super) trust: Trust,
    /// Whose name the certificate must bear.
    pub(super) host: Host,
}

impl fmt::Debug for Securer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Securer")
    }
}

impl Connector<Connection> for Securer {
    type Out = Secured;

    fn connect(&self, details: &ConnectionDetails<'_>, chained: Option<Connection>) -> Result<Option<Secured>, ureq::Error> {
        let Some(connection) = chained else { return Ok(None) };
        let vintage = self.trust.vintage();
        let mut session = self.trust.connect(&self.host).map_err(|why| carry(Failure::Connect(ConnectFailure::Tls(why))))?;
        // Connecting and securing share their time.
        let began = if let UreqInstant::Exact(began) = details.now { began } else { SystemClock.now() };
        let mut socket = Socket { connection, timeout: details.timeout, since: began };
        match session.complete_io(&mut socket) {
            Ok(_) => {}
            Err(error) => return Err(carry(Failure::Connect(of_handshake(error))).into()),
        }
        // What it was asked and answered so far was no request.
        socket.connection.begin_anew();
        let buffers = LazyBuffers::new(BUFFER, BUFFER);
        let trust = self.trust.clone();
        Ok(Some(Secured { buffers, stream: StreamOwned::new(session, socket), answered: false, trust, vintage }))
    }
}

/// A connection as rustls reads and writes it.
struct Socket {
    connection: Connection,
    /// How long it may take, from then on.
    timeout: NextTimeout,
    since: Instant,
}

impl Socket {
    fn allow(&mut self, timeout: NextTimeout) {
        (self.timeout, self.since) = (timeout, SystemClock.now());
    }

    fn left(&self) -> NextTimeout {
        let spent = SystemClock.now().saturating_duration_since(self.since);
        NextTimeout { after: self.timeout.after.saturating_sub(spent).into(), ..self.timeout }
    }
}

fn into_io(error: ureq::Error) -> io::Error {
    if let ureq::Error::Io(error) = error { error } else { io::Error::other(error) }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.left();
        self.connection.maybe_await_input(left).map_err(into_io)?;
        let input = self.connection.buffers().input();
        let most = input.len().min(into.len());
        for (to, from) in into.iter_mut().zip(input) {
            *to = *from;
        }
        self.connection.buffers().input_consume(most);
        Ok(most)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.left();
        let output = self.connection.buffers().output();
        let most = output.len().min(bytes.len());
        for (to, from) in output.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.connection.transmit_output(most, left).map_err(into_io)?;
        Ok(most)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What an error in the middle of a handshake means.
fn of_handshake(error: io::Error) -> ConnectFailure {
    if let Some(error) = trust::said(&error) {
        return ConnectFailure::Tls(trust::why(error));
    }
    match super::upstream::failure_of_io(error) {
        Failure::Timeout => ConnectFailure::TimedOut,
        Failure::Connect(why) => why,
        _ => ConnectFailure::Tls("closed in the middle of it".to_owned()),
    }
}

/// A connection that is secured.
pub(super) struct Secured {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, Socket>,
    /// A byte of an answer has come.
    answered: bool,
    trust: Trust,
    vintage: Vintage,
}

impl Secured {
    /// What an error of it means: one of TLS is either a refusal, of which nothing has been processed, or the end of trusting what comes.
    fn fault(&self, error: io::Error) -> ureq::Error {
        match trust::said(&error) {
            // An end that the instance has not announced may be anybody's, and ureq would take it for that of an answer without a length.
            None if error.kind() == io::ErrorKind::UnexpectedEof => carry(Failure::Reset).into(),
            None => error.into(),
            Some(said) => match trust::refusal(said).filter(|_| !self.answered) {
                Some(why) => carry(Failure::Connect(ConnectFailure::Tls(why))).into(),
                None => carry(Failure::Reset).into(),
            },
        }
    }
}

impl Transport for Secured {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.get_mut().allow(timeout);
        let sent = self.stream.write_all(self.buffers.output().get(..amount).unwrap_or_default());
        sent.map_err(|error| self.fault(error))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.get_mut().allow(timeout);
        let room = self.buffers.input_append_buf();
        if room.is_empty() {
            // As on a plain connection.
            return Err(carry(Failure::Protocol("the head is larger than 16 KiB".into())).into());
        }
        let read = self.stream.read(room).map_err(|error| self.fault(error))?;
        self.buffers.input_appended(read);
        self.answered |= read > 0;
        Ok(read > 0)
    }

    fn is_open(&mut self) -> bool {
        // What has come beyond an answer would be taken for the next one.
        let has_more = self.stream.conn.reader().fill_buf().is_ok() || !self.stream.sock.connection.buffers().input().is_empty();
        !has_more && self.vintage == self.trust.vintage() && self.stream.sock.connection.is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secured")
    }
}
