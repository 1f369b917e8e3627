//! Who comes in: listening sockets, how many connections there may be, and what to do when the system has no more descriptors.
//!
//! One loop accepts and gives each connection to the loop that has the fewest, so that none sits idle while another is busy.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::io::Errno;

use super::config::Address;
use super::mail::Mail;
use super::reactor::Loop;
use super::shared::{Open, Shared};
use super::socket::{Listener, Reserve, Socket};
use super::tls::NO_ROOM;

/// How long accepting rests after the system has refused it.
const REST_MS: u64 = 50;
/// Connections accepted before others are looked at again.
const BATCH: usize = 256;

/// Ports tried where any will do, until one is free at every address.
const PORTS_TRIED: usize = 16;

/// Connections beyond `maxConnections` to a door of the API's own.
const RESERVED: usize = 64;

/// What a client is told that is one too many.
macro_rules! full {
    ($limit:literal, $length:literal) => {
        concat!(
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nx-mesh-reason: overloaded\r\nx-mesh-not-sent: true\r\n",
            "retry-after: 1\r\nconnection: close\r\ncontent-length: ",
            $length,
            "\r\n\r\n{\"error\":\"the limit ",
            $limit,
            " is reached\",\"reason\":\"overloaded\",\"limit\":\"",
            $limit,
            "\"}"
        )
    };
}
const FULL: &str = full!("maxConnections", 94);
const NO_FILES: &str = full!("open files", 86);
const FULL_OF_ONE_ADDRESS: &str = full!("maxConnectionsPerAddress", 114);

/// The doors: listening sockets, and the state of accepting.
pub(super) struct Gate {
    listeners: Vec<(Listener, Door)>,
    reserve: Reserve,
    /// Which may have more to accept.
    ready: Vec<bool>,
    /// Nothing is accepted before this.
    pub(super) rests_until: Option<Instant>,
    /// When it was last said that accepting failed.
    said: Option<Instant>,
    /// Which loop is asked first.
    next: usize,
}

/// What is to be known of whoever comes in by a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Door {
    /// Its clients speak TLS.
    pub(super) is_secured: bool,
    /// A request for another host has been led here.
    pub(super) is_judged: bool,
    pub(super) side: Side,
}

/// What is answered behind a door.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    /// Everything.
    Both,
    /// Calls.
    Calls,
    /// The API.
    Api,
}

/// A connection that has been let in.
pub(super) struct Arrival {
    pub(super) socket: Socket,
    pub(super) address: Option<IpAddr>,
    pub(super) open: Open,
    pub(super) door: Door,
}

/// Where a server listens, and on what.
pub(super) type Opened = (Vec<Address>, Vec<(Listener, Door)>);

/// Opens all addresses. Of `localhost`, the IPv6 side may be missing; a port of 0 is the same for both.
///
/// # Errors
/// The address that cannot be listened on, and why.
pub(super) fn open(addresses: &[Address], door: Door) -> Result<Opened, (String, io::Error)> {
    let any_port = addresses.iter().any(|address| matches!(address, Address::Tcp(wanted) if wanted.port() == 0));
    let mut tries = if any_port { PORTS_TRIED } else { 1 };
    loop {
        tries -= 1;
        match open_all(addresses, door) {
            // The port that was free at one address is taken at the other.
            Err((_, error)) if tries > 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            opened => return opened,
        }
    }
}

fn open_all(addresses: &[Address], door: Door) -> Result<Opened, (String, io::Error)> {
    let (mut opened, mut listeners): Opened = Default::default();
    for address in addresses {
        let wanted = match (address, opened.first()) {
            (Address::Tcp(wanted), Some(Address::Tcp(first))) if wanted.port() == 0 => {
                Address::Tcp(SocketAddr::new(wanted.ip(), first.port()))
            }
            _ => address.clone(),
        };
        match open_one(&wanted) {
            Ok((listener, address)) => {
                // What does not leave the machine needs no secrecy.
                let door = Door { is_secured: door.is_secured && matches!(address, Address::Tcp(_)), ..door };
                opened.push(address);
                listeners.push((listener, door));
            }
            Err(error) if !opened.is_empty() && error.kind() != io::ErrorKind::AddrInUse => {
                log::debug!("not listening on {wanted}: {error}");
            }
            Err(error) => return Err((wanted.to_string(), error)),
        }
    }
    Ok((opened, listeners))
}

fn open_one(address: &Address) -> io::Result<(Listener, Address)> {
    match address {
        Address::Tcp(wanted) => Listener::tcp(*wanted).map(|(listener, address)| (listener, Address::Tcp(address))),
        Address::Unix(path) => {
            let listener = match Listener::unix(path) {
                // A socket where nobody listens was left behind by a process that has ended. Anything else is somebody's file.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && !is_socket(path) => {
                    return Err(io::Error::other("a file is there that is no socket"));
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path) => {
                    std::fs::remove_file(path)?;
                    Listener::unix(path)?
                }
                bound => bound?,
            };
            Ok((listener, address.clone()))
        }
    }
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
}

/// Whether nobody listens at a socket. Other files refuse connections as well.
fn is_abandoned(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

impl Door {
    /// How somebody is told who is one too many.
    const fn says(self, text: &'static str) -> &'static [u8] {
        if self.is_secured { NO_ROOM } else { text.as_bytes() }
    }
}

impl Gate {
    pub(super) fn new(listeners: Vec<(Listener, Door)>) -> Self {
        let ready = vec![false; listeners.len()];
        Self { listeners, reserve: Reserve::new(), ready, rests_until: None, said: None, next: 0 }
    }

    /// Something may be waiting at a listener.
    pub(super) fn knocked(&mut self, listener: usize) {
        if let Some(ready) = self.ready.get_mut(listener) {
            *ready = true;
        }
    }

    pub(super) fn has_more(&self) -> bool {
        self.rests_until.is_none() && self.ready.contains(&true)
    }

    /// Accepts what waits, a batch at most.
    fn accept(&mut self, now: Instant, mut welcome: impl FnMut(Socket, Option<IpAddr>, Door, &mut usize)) -> Option<Errno> {
        if self.rests_until.is_some_and(|until| now < until) {
            return None;
        }
        self.rests_until = None;
        let mut left = BATCH;
        for ((listener, door), ready) in self.listeners.iter().zip(&mut self.ready) {
            while *ready && left > 0 {
                left -= 1;
                match listener.accept() {
                    Ok(Some((socket, address))) => welcome(socket, address, *door, &mut self.next),
                    Ok(None) => *ready = false,
                    Err(error) => {
                        // Clients that wait would wait for nothing, and the listener would be ready for ever.
                        if matches!(error, Errno::MFILE | Errno::NFILE) {
                            while left > 0 && self.reserve.turn_one_away(listener, door.says(NO_FILES)) {
                                left -= 1;
                            }
                        }
                        self.rests_until = Some(now + std::time::Duration::from_millis(REST_MS));
                        return Some(error);
                    }
                }
            }
        }
        None
    }
}

impl Loop {
    /// Accepts whatever waits, if this loop does that.
    pub(super) fn accept(&mut self) {
        let Some(mut gate) = self.gate.take() else { return };
        let mut here = Vec::new();
        self.accept_at(&mut gate, &mut here);
        self.gate = Some(gate);
        self.welcome_all(here);
    }

    fn welcome_all(&mut self, arrivals: Vec<Arrival>) {
        for arrival in arrivals {
            self.welcome(arrival);
        }
    }

    /// Accepts a batch of what waits; those that are for this loop are put `here`.
    fn accept_at(&mut self, gate: &mut Gate, here: &mut Vec<Arrival>) {
        let (shared, now) = (Arc::clone(&self.shared), self.now);
        let failed = gate.accept(now, |socket, address, door, next| {
            match admit(&shared, self.index, door, address, next) {
                Ok((of_loop, open)) => {
                    self.counters().accepted.add(1);
                    let arrival = Arrival { socket, address, open, door };
                    if of_loop == self.index {
                        here.push(arrival);
                    } else {
                        shared.send(of_loop, Mail::Connection(arrival));
                    }
                }
                Err(why) => {
                    // Whether it is read does not matter: the connection closes.
                    let _ = socket.write(door.says(why));
                    socket.finish();
                }
            }
        });
        if let Some(error) = failed {
            self.counters().accept_errors.add(1);
            if gate.said.is_none_or(|said| now >= said + std::time::Duration::from_secs(1)) {
                gate.said = Some(now);
                log::warn!("cannot accept connections for now: {error}");
            }
        }
    }

    /// Accepts what already waits, and then nothing more.
    pub(super) fn close_doors(&mut self) {
        let Some(mut gate) = self.gate.take() else { return };
        for (listener, _) in &gate.listeners {
            listener.turn_away();
        }
        let mut here = Vec::new();
        for one in std::mem::take(&mut gate.listeners) {
            (gate.listeners, gate.ready, gate.rests_until) = (vec![one], vec![true], None);
            while gate.has_more() {
                self.accept_at(&mut gate, &mut here);
            }
            // Whoever comes between the last look and this is lost: so each is closed at once, and nobody is served in between.
            gate.listeners.clear();
        }
        self.welcome_all(here);
    }
}

/// The loop that is to have a connection, or what its client is told when there are too many already.
fn admit(shared: &Arc<Shared>, me: usize, door: Door, address: Option<IpAddr>, next: &mut usize) -> Result<(usize, Open), &'static str> {
    let counters = shared.counters.loops.get(me).unwrap_or(&shared.counters.spare);
    // Whoever comes to see why everything is full gets in.
    let reserve = if door.side == Side::Api { RESERVED } else { 0 };
    if shared.counters.open() >= shared.max_connections.saturating_add(reserve) {
        counters.refused_connections.add(1);
        return Err(FULL);
    }
    let all = &shared.counters.loops;
    *next = (*next + 1) % all.len();
    // Of those with the fewest, the first from `next` on.
    let in_turn = (0..all.len()).map(|n| (n + *next) % all.len());
    let fewest = in_turn.min_by_key(|n| all.get(*n).map_or(usize::MAX, |one| one.open.load(Ordering::Relaxed)));
    let of_loop = fewest.unwrap_or(me);
    Open::new(shared, of_loop, address).map(|open| (of_loop, open)).ok_or_else(|| {
        counters.refused_per_address.add(1);
        FULL_OF_ONE_ADDRESS
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn who_is_one_too_many_is_told_so_in_one_whole_answer() {
        for text in [super::FULL, super::FULL_OF_ONE_ADDRESS, super::NO_FILES] {
            let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
            assert!(head.ends_with(&format!("content-length: {}", body.len())), "{} bytes", body.len());
            serde_json::from_str::<serde_json::Value>(body).expect("JSON");
        }
    }
}
