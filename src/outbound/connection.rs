//! One TCP connection to an instance, as ureq's transport: it connects only to judged addresses, knows whether it has been used before, and
//! spends one system call, not six, on finding out whether a kept-alive connection is still good.
//!
//! ureq leaves this interface unversioned, which is why its version is pinned and nothing else in the house knows it.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Weak;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::RecvFlags;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport};

use crate::mesh::Member;
use crate::model::time::{Clock, SystemClock};
use crate::model::{ConnectFailure, Failure};

/// Size of each buffer; ureq's own default would be 128 KiB.
pub(super) const BUFFER: usize = 16 * 1024;

/// Opens connections to fixed, judged addresses, whatever name stands in the URL.
pub(super) enum Dialer {
    /// To an instance, at whatever its addresses are now.
    Member(Weak<Member>),
    /// To one of these.
    Fixed(Vec<SocketAddr>),
    /// To wherever this says at the time; it may look at the connection that came of it.
    #[cfg(feature = "etcd")]
    Asking(std::sync::Arc<dyn Ask>),
}

/// Knows where to connect to.
#[cfg(feature = "etcd")]
pub(super) trait Ask: Send + Sync {
    fn addresses(&self) -> Vec<SocketAddr>;

    fn connected(&self, _stream: &TcpStream) {}
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialer")
    }
}

impl Connector<()> for Dialer {
    type Out = Connection;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Connection>, ureq::Error> {
        let member = match self {
            Self::Member(member) => member.upgrade(),
            _ => None,
        };
        let addresses = match (self, &member) {
            (Self::Fixed(addresses), _) => addresses.clone(),
            (Self::Member(_), Some(member)) => member.addresses(),
            (Self::Member(_), None) => Vec::new(),
            #[cfg(feature = "etcd")]
            (Self::Asking(ask), _) => ask.addresses(),
        };
        let begin = SystemClock.now();
        let end = begin + *details.timeout.after;
        let (stream, address) = connect_in_turn(&addresses, end).map_err(|why| carry(Failure::Connect(why)))?;
        if let Some(member) = member.filter(|_| addresses.first() != Some(&address)) {
            member.prefer(address);
        }
        stream.set_nodelay(true)?;
        MADE.set(Some(SystemClock.now().saturating_duration_since(begin)));
        #[cfg(feature = "etcd")]
        if let Self::Asking(ask) = self {
            ask.connected(&stream);
        }
        let place = match self {
            Self::Member(member) => Some((Weak::clone(member), address)),
            Self::Fixed(_) => None,
            #[cfg(feature = "etcd")]
            Self::Asking(_) => None,
        };
        Ok(Some(Connection::new(stream, place)))
    }
}

thread_local! {
    /// How long it took to make the last connection of this thread. ureq has no other way to say so.
    static MADE: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// How long it took this thread to make a connection, if it has made one since it was last asked.
pub(super) fn made() -> Option<Duration> {
    MADE.take()
}

/// Tries the addresses in turn; each gets an even share of the time that is left.
fn connect_in_turn(addresses: &[SocketAddr], end: Instant) -> Result<(TcpStream, SocketAddr), ConnectFailure> {
    let mut last = ConnectFailure::NoAddress;
    for (i, address) in addresses.iter().enumerate() {
        let share = u32::try_from(addresses.len() - i).unwrap_or(1);
        let time = end.saturating_duration_since(SystemClock.now()) / share;
        if time.is_zero() {
            return Err(ConnectFailure::TimedOut);
        }
        match TcpStream::connect_timeout(address, time) {
            Ok(stream) => return Ok((stream, *address)),
            Err(error) => {
                let why = why_not(&error);
                if why == ConnectFailure::NoMeans {
                    return Err(why);
                }
                // A refusal says more than that another address is unreachable.
                if last != ConnectFailure::Refused {
                    last = why;
                }
            }
        }
    }
    Err(last)
}

/// What an error of connecting means.
pub fn why_not(error: &io::Error) -> ConnectFailure {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => ConnectFailure::NoMeans,
        _ => match error.kind() {
            io::ErrorKind::ConnectionRefused => ConnectFailure::Refused,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => ConnectFailure::TimedOut,
            _ => ConnectFailure::Unreachable,
        },
    }
}

/// A failure on its way through ureq.
pub(super) fn carry(failure: Failure) -> io::Error {
    io::Error::other(failure)
}

/// A connection. Its errors carry a [`Failure`] that says what it knows.
pub(super) struct Connection {
    stream: TcpStream,
    /// Of whom it is at what address.
    place: Option<(Weak<Member>, SocketAddr)>,
    buffers: LazyBuffers,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    /// It has served an exchange before.
    reused: bool,
    /// A byte of the answer to the current request has come.
    answered: bool,
    /// It has been put back into the pool since.
    returned: bool,
}

impl Connection {
    fn new(stream: TcpStream, place: Option<(Weak<Member>, SocketAddr)>) -> Self {
        let buffers = LazyBuffers::new(BUFFER, BUFFER);
        Self { stream, place, buffers, read_timeout: None, write_timeout: None, reused: false, answered: false, returned: false }
    }

    /// What has been said on it so far was no request.
    #[cfg(feature = "tls")]
    pub(super) const fn begin_anew(&mut self) {
        self.answered = false;
    }

    /// What it means that the connection is gone.
    fn gone(&self, written: bool) -> io::Error {
        carry(if self.reused && !self.answered { Failure::Stale { written } } else { Failure::Reset })
    }
}

/// Whether the socket's timeout may stay as it is: a little shorter than wanted is as good, since a timeout that comes early is waited out.
fn is_near(current: Option<Duration>, wanted: Duration) -> bool {
    current.is_some_and(|current| current <= wanted && wanted.mul_f64(0.9) <= current)
}

fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        if self.answered {
            self.answered = false;
            self.returned = false;
            self.reused = true;
        }
        let end = SystemClock.now() + *timeout.after;
        let mut rest = self.buffers.output().get(..amount).unwrap_or_default();
        while !rest.is_empty() {
            let left = end.saturating_duration_since(SystemClock.now());
            if left.is_zero() {
                return Err(carry(Failure::Timeout).into());
            }
            if !is_near(self.write_timeout, left) {
                self.stream.set_write_timeout(Some(left))?;
                self.write_timeout = Some(left);
            }
            match (&self.stream).write(rest) {
                Ok(0) => return Err(self.gone(false).into()),
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted || timed_out(&error) => {}
                Err(_) => {
                    let (reused, answered) = (self.reused, self.answered);
                    let failure = if reused && !answered { Failure::Stale { written: false } } else { Failure::Reset };
                    return Err(carry(failure).into());
                }
            }
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let end = SystemClock.now() + *timeout.after;
        loop {
            let left = end.saturating_duration_since(SystemClock.now());
            if left.is_zero() {
                return Err(carry(Failure::Timeout).into());
            }
            if !is_near(self.read_timeout, left) {
                self.stream.set_read_timeout(Some(left))?;
                self.read_timeout = Some(left);
            }
            let room = self.buffers.input_append_buf();
            if room.is_empty() {
                // Only a head fills the buffer: bodies are consumed as they come. Reading nothing would look like the end.
                return Err(carry(Failure::Protocol("the head is larger than 16 KiB".into())).into());
            }
            match (&self.stream).read(room) {
                // The end of a body without a length is an ordinary end; before the first byte it is not.
                Ok(0) if self.answered => return Ok(false),
                Ok(0) => return Err(self.gone(true).into()),
                Ok(amount) => {
                    self.answered = true;
                    self.buffers.input_appended(amount);
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted || timed_out(&error) => {}
                Err(_) => return Err(self.gone(true).into()),
            }
        }
    }

    fn is_open(&mut self) -> bool {
        // ureq asks twice, before it puts a connection back and before it takes it out again; only the second answer can matter.
        if self.answered && !self.returned {
            self.returned = true;
            return true;
        }
        if let Some((member, address)) = &self.place
            && !member.upgrade().is_some_and(|member| member.is_reached_at(*address))
        {
            return false;
        }
        let mut byte = [0];
        // Nothing to read is what an idle connection should have; bytes or an end mean that it cannot be used again.
        matches!(rustix::net::recv(&self.stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT), Err(rustix::io::Errno::AGAIN))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}
