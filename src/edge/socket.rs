//! Sockets that never block, TCP or Unix: the only place of the edge that asks the system for anything but readiness.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
#[cfg(feature = "tls")]
use rustix::net::SendAncillaryBuffer;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, sockopt};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 4096;

/// A connection.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

/// What came of reading or writing without waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Moved {
    /// So many bytes; none, when reading, means that the other side has said its last.
    Bytes(usize),
    /// Not now.
    Blocked,
    /// The connection is broken.
    Broken,
}

impl From<Result<usize, Errno>> for Moved {
    fn from(result: Result<usize, Errno>) -> Self {
        match result {
            Ok(bytes) => Self::Bytes(bytes),
            // Interrupted system calls are tried again with the next event; sockets that never block are hardly ever interrupted.
            Err(Errno::AGAIN | Errno::INTR) => Self::Blocked,
            Err(_) => Self::Broken,
        }
    }
}

impl Socket {
    /// Takes over a connection to a Unix socket.
    pub(super) fn of_unix(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self(stream.into()))
    }

    /// Begins to connect; whether it worked shows when the socket becomes writable.
    pub(super) fn connect(address: SocketAddr) -> io::Result<Self> {
        let family = if address.is_ipv4() { rustix::net::AddressFamily::INET } else { rustix::net::AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(Self(socket)),
            Err(error) => Err(error.into()),
        }
    }

    /// What came of connecting.
    pub(super) fn connected(&self) -> io::Result<()> {
        match sockopt::socket_error(&self.0)? {
            Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads once into the room a buffer has. Says whether there may be more to read.
    pub(super) fn read_into(&self, buffer: &mut Vec<u8>) -> (Moved, bool) {
        let room = buffer.capacity() - buffer.len();
        let moved = rustix::net::recv(&self.0, rustix::buffer::spare_capacity(buffer), RecvFlags::empty()).map(|(read, _)| read).into();
        // One that gave less than there was room for has no more for now.
        (moved, matches!(moved, Moved::Bytes(read) if read == room))
    }

    pub(super) fn write(&self, bytes: &[u8]) -> Moved {
        rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL).into()
    }

    /// Writes what is to be finished with at once, so that both may travel together.
    pub(super) fn write_last(&self, bytes: &[u8]) -> Moved {
        #[cfg(target_os = "linux")]
        let flags = SendFlags::NOSIGNAL | SendFlags::MORE;
        #[cfg(not(target_os = "linux"))]
        let flags = SendFlags::NOSIGNAL;
        rustix::net::send(&self.0, bytes, flags).into()
    }

    /// Says that nothing more will be written; what has been still arrives.
    pub(super) fn finish(&self) {
        // A connection that is broken is finished as well.
        let _ = rustix::net::shutdown(&self.0, Shutdown::Write);
    }

    /// Lets the connection end by a reset when it is dropped, so that nobody takes what came so far for the whole.
    pub(super) fn reset_on_drop(&self) {
        // What cannot be reset is closed.
        let _ = sockopt::set_socket_linger(&self.0, Some(Duration::ZERO));
    }

    pub(super) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(feature = "tls")]
impl io::Read for &Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(&self.0, into, RecvFlags::empty()).map(|(read, _)| read)?)
    }
}

#[cfg(feature = "tls")]
impl io::Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[io::IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        Ok(rustix::net::sendmsg(&self.0, pieces, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener(OwnedFd);

/// A connection that was accepted, and from where.
pub(super) type Accepted = (Socket, Option<IpAddr>);

impl Listener {
    pub(super) fn tcp(address: SocketAddr) -> io::Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        // Accepted sockets inherit it, which saves a system call for each.
        sockopt::set_tcp_nodelay(&listener, true)?;
        rustix::net::listen(&listener, BACKLOG)?;
        let address = listener.local_addr()?;
        Ok((Self(listener.into()), address))
    }

    pub(super) fn unix(path: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self(listener.into()))
    }

    /// The next connection that waits, if one does.
    pub(super) fn accept(&self) -> Result<Option<Accepted>, Errno> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        loop {
            match rustix::net::acceptfrom_with(&self.0, flags) {
                Ok((socket, from)) => {
                    let from = from.and_then(|address| SocketAddr::try_from(address).ok()).map(|address| address.ip().to_canonical());
                    return Ok(Some((Socket(socket), from)));
                }
                Err(Errno::AGAIN) => return Ok(None),
                // The client has gone again, or a signal came: neither says anything about the next one.
                Err(Errno::CONNABORTED | Errno::INTR | Errno::PROTO) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Lets no more connections wait than the one that the system insists on.
    pub(super) fn turn_away(&self) {
        // What cannot be narrowed is closed a little later.
        let _ = rustix::net::listen(&self.0, 0);
    }

    pub(super) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A descriptor kept in reserve, given up for a moment to accept and turn away when there is none left.
#[derive(Debug)]
pub(super) struct Reserve(Option<OwnedFd>);

impl Reserve {
    pub(super) fn new() -> Self {
        Self(spare())
    }

    /// Accepts a connection only to say `why` and close it, so that it does not wait for nothing and the listener does not stay ready for
    /// ever. Answers whether there was one.
    pub(super) fn turn_one_away(&mut self, listener: &Listener, why: &[u8]) -> bool {
        self.0 = None;
        let accepted = listener.accept();
        if let Ok(Some((socket, _))) = &accepted {
            // Whether it is read does not matter: the connection closes.
            let _ = socket.write(why);
            socket.finish();
        }
        let went = matches!(accepted, Ok(Some(_)));
        drop(accepted);
        self.0 = spare();
        went
    }
}

/// One descriptor, so that one is enough to have it again.
fn spare() -> Option<OwnedFd> {
    rustix::net::socket_with(rustix::net::AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).ok()
}

/// How many files this process may have open, after asking for as many as it can get.
pub(super) fn raise_file_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.or(limit.current).unwrap_or(u64::MAX);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum });
    if raised.is_ok() { most } else { limit.current.unwrap_or(u64::MAX) }
}
