//! A thousand connections on one thread: of ordinary clients or of attackers, who together send so many requests a second, whatever comes of
//! them. Every answer is looked at.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::arms::{Bytes, Manner, Shot};
use crate::held::Role;
use crate::support::PATIENCE;
use crate::wire::take_answer;

/// What a crowd does.
pub(crate) struct Plan {
    pub(crate) at: SocketAddr,
    pub(crate) connections: usize,
    /// Requests a second, all together.
    pub(crate) rate: u64,
    pub(crate) shots: Vec<Shot>,
    /// What the first connections are held for; the others throw.
    pub(crate) roles: Vec<Role>,
    /// From which number on those that are numbered are.
    pub(crate) numbered_from: u64,
}

/// What came of it.
#[derive(Default, Debug)]
pub(crate) struct Tally {
    /// Requests, pipelined ones one by one.
    pub(crate) sent: u64,
    /// Requests that were begun only to hold their connections.
    pub(crate) held: u64,
    pub(crate) connections: u64,
    /// Requests after which the connection was over.
    pub(crate) closed: u64,
    pub(crate) answers: BTreeMap<u16, u64>,
    /// How often one of a burst was not answered within a second.
    pub(crate) late: u64,
    /// How far behind its time the crowd was at most.
    pub(crate) behind: Duration,
    pub(crate) next_number: u64,
    pub(crate) faults: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, held, connections, closed, answers, late, behind, .. } = self;
        write!(f, "{sent} requests, and {held} begun to hold connections; {connections} connections, {closed} requests were their last; ")?;
        write!(f, "answers {answers:?}; at most {} ms behind, {late} of bursts late", behind.as_millis())
    }
}

/// A crowd at work.
pub(crate) struct Crowd {
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<Tally>>,
}

impl Crowd {
    pub(crate) fn start(plan: Plan) -> Self {
        let stopped = Arc::<AtomicBool>::default();
        let here = Arc::clone(&stopped);
        Self {
            stopped,
            thread: Some(thread::Builder::new().name("crowd".to_owned()).spawn(move || Running::new(plan).run(&here)).expect("a thread")),
        }
    }

    /// Lets everything be answered that has been asked, and ends all connections.
    pub(crate) fn stop(mut self) -> Tally {
        self.stopped.store(true, Ordering::SeqCst);
        self.thread.take().map(JoinHandle::join).expect("a thread").expect("no panic")
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
    }
}

struct Slot {
    stream: TcpStream,
    state: State,
    came: Vec<u8>,
    owed: Arc<[u8]>,
    sent: usize,
    /// When it stopped taking anything, for a flood.
    full_since: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// It may be used.
    Free,
    /// The answer to this shot, or to what a held connection is about, is to come.
    Awaits(usize),
    /// The last answer has come, and the end is to.
    Ends(usize),
    Held,
    /// It has been ended, and comes again at the next look.
    Gone,
}

struct Running {
    plan: Plan,
    poll: Poll,
    slots: Vec<Slot>,
    free: VecDeque<usize>,
    floods: Vec<usize>,
    next_flood: usize,
    next_shot: usize,
    next_number: u64,
    fired: u64,
    tally: Tally,
}

/// How often held connections are looked at; each sends something at every fourth look.
const LOOK: Duration = Duration::from_millis(250);
/// How long a flood waits until something is taken again.
const FULL: Duration = Duration::from_secs(2);
/// The answer to what is longer may be lost, since its connection is reset.
const LONG: usize = 48 * 1024;
/// Faults that are told.
const TOLD: usize = 10;

fn connect(poll: &Poll, at: SocketAddr, place: usize, narrow: bool) -> TcpStream {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)
        .expect("a socket");
    if narrow {
        sockopt::set_socket_recv_buffer_size(&socket, 4096).expect("a small buffer");
    }
    match rustix::net::connect(&socket, &at) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => panic!("no connection: {error}"),
    }
    let stream = TcpStream::from(socket);
    let both = Interest::READABLE | Interest::WRITABLE;
    poll.registry().register(&mut SourceFd(&stream.as_raw_fd()), Token(place), both).expect("registered");
    stream
}

impl Running {
    fn new(plan: Plan) -> Self {
        let poll = Poll::new().expect("a poll");
        let nothing: Arc<[u8]> = Arc::default();
        let slots: Vec<Slot> = (0..plan.connections)
            .map(|place| {
                let stream = connect(&poll, plan.at, place, plan.roles.get(place).is_some_and(|role| role.is_narrow()));
                Slot { stream, state: State::Free, came: Vec::new(), owed: Arc::clone(&nothing), sent: 0, full_since: None }
            })
            .collect();
        let tally = Tally { connections: slots.len() as u64, ..Tally::default() };
        let floods = (0..plan.roles.len()).filter(|place| plan.roles[*place] == Role::Flood).collect();
        let free = (plan.roles.len()..slots.len()).collect();
        let next_number = plan.numbered_from;
        Self { plan, poll, slots, free, floods, next_flood: 0, next_shot: 0, next_number, fired: 0, tally }
    }

    fn run(mut self, stopped: &AtomicBool) -> Tally {
        let mut events = Events::with_capacity(1024);
        for place in 0..self.plan.roles.len() {
            self.hold(place);
        }
        let (began, mut looks) = (Instant::now(), 0);
        let mut over: Option<Instant> = None;
        loop {
            let now = Instant::now();
            if over.is_none() && stopped.load(Ordering::SeqCst) {
                over = Some(now);
            }
            if let Some(since) = over {
                let waits = |slot: &Slot| matches!(slot.state, State::Awaits(_) | State::Ends(_));
                if !self.slots.iter().any(waits) {
                    break;
                }
                if now > since + PATIENCE {
                    self.fault(format!("{} are still waiting", self.slots.iter().filter(|slot| waits(slot)).count()));
                    break;
                }
            } else {
                self.fire_all((now - began).as_nanos() as u64 * self.plan.rate / 1_000_000_000);
            }
            if now >= began + LOOK * looks {
                looks += 1;
                self.look(looks as usize, over.is_none());
            }
            let next = Duration::from_nanos((self.fired + 1) * 1_000_000_000 / self.plan.rate.max(1));
            let pause = if over.is_some() { LOOK } else { (began + next).saturating_duration_since(Instant::now()).min(LOOK) };
            // Interrupted, there are no events.
            let _ = self.poll.poll(&mut events, Some(pause));
            for event in &events {
                self.attend(event.token().0);
            }
        }
        self.tally.next_number = self.next_number;
        self.tally
    }

    fn fault(&mut self, text: String) {
        if self.tally.faults.len() < TOLD {
            self.tally.faults.push(text);
        }
    }

    fn role(&self, place: usize) -> Option<Role> {
        self.plan.roles.get(place).copied()
    }

    /// Ends a connection and makes another in its place.
    fn renew(&mut self, place: usize, by_reset: bool) {
        let narrow = self.role(place).is_some_and(Role::is_narrow);
        let slot = &mut self.slots[place];
        if by_reset {
            sockopt::set_socket_linger(&slot.stream, Some(Duration::ZERO)).expect("linger");
        }
        slot.stream = connect(&self.poll, self.plan.at, place, narrow);
        slot.came.clear();
        slot.owed = Arc::default();
        slot.sent = 0;
        slot.full_since = None;
        slot.state = State::Free;
        self.tally.connections += 1;
        if self.role(place).is_some() {
            self.hold(place);
        } else {
            self.free.push_back(place);
        }
    }

    /// Throws until so many requests have been sent.
    fn fire_all(&mut self, due: u64) {
        let behind = Duration::from_nanos((due.saturating_sub(self.fired)) * 1_000_000_000 / self.plan.rate.max(1));
        self.tally.behind = self.tally.behind.max(behind);
        while self.fired < due {
            let at = self.next_shot % self.plan.shots.len();
            let shot = &self.plan.shots[at];
            if let Manner::Pours(requests) = shot.manner {
                let Bytes::Same(bytes) = &shot.bytes else { panic!("{} is always the same", shot.name) };
                let bytes = Arc::clone(bytes);
                self.next_shot += 1;
                let poured = self.pour(bytes, requests) as u64;
                self.fired += poured;
                self.tally.sent += poured;
                continue;
            }
            let Some(place) = self.free.pop_front() else { return };
            let bytes: Arc<[u8]> = match &shot.bytes {
                Bytes::Same(bytes) => Arc::clone(bytes),
                Bytes::Numbered(make) => {
                    self.next_number += 1;
                    make(self.next_number).into()
                }
            };
            let manner = shot.manner;
            self.next_shot += 1;
            self.fired += 1;
            self.tally.sent += 1;
            let slot = &mut self.slots[place];
            (slot.owed, slot.sent, slot.state) = (bytes, 0, State::Awaits(at));
            self.write(place);
            if manner != Manner::Asks {
                self.tally.closed += 1;
                self.renew(place, manner == Manner::Resets);
            }
        }
    }

    /// Sends requests on a connection on which nobody reads; how many were taken.
    fn pour(&mut self, bytes: Arc<[u8]>, requests: usize) -> usize {
        let place = self.floods[self.next_flood % self.floods.len()];
        self.next_flood += 1;
        if self.slots[place].sent == self.slots[place].owed.len() {
            (self.slots[place].owed, self.slots[place].sent) = (bytes, 0);
        }
        let before = self.slots[place].sent;
        self.write(place);
        let slot = &mut self.slots[place];
        if slot.sent > before {
            slot.full_since = None;
            return requests * (slot.sent - before) / slot.owed.len();
        }
        let full_since = *slot.full_since.get_or_insert_with(Instant::now);
        if full_since.elapsed() > FULL {
            self.renew(place, true);
        }
        0
    }

    fn write(&mut self, place: usize) {
        let slot = &mut self.slots[place];
        while slot.sent < slot.owed.len() {
            match slot.stream.write(&slot.owed[slot.sent..]) {
                Ok(sent) => slot.sent += sent,
                // What has been answered early is found out by reading.
                Err(_) => return,
            }
        }
    }

    /// Begins with what a connection is held for.
    fn hold(&mut self, place: usize) {
        let Some(role) = self.role(place) else { return };
        // A burst comes later.
        if role != Role::Burst {
            let opening = role.opening(place);
            self.tally.held += u64::from(!opening.is_empty());
            let slot = &mut self.slots[place];
            (slot.owed, slot.sent, slot.state) = (opening.into(), 0, State::Held);
            self.write(place);
        }
    }

    /// Looks after those that are held.
    fn look(&mut self, look: usize, goes_on: bool) {
        for place in 0..self.plan.roles.len() {
            let role = self.plan.roles[place];
            match role {
                // All at once.
                Role::Burst if look.is_multiple_of(4) && goes_on && self.slots[place].state == State::Free => {
                    self.renew(place, true);
                    let slot = &mut self.slots[place];
                    (slot.owed, slot.state) = (role.opening(place).into(), State::Awaits(usize::MAX));
                    self.tally.sent += 1;
                    self.fired += 1;
                    self.write(place);
                }
                Role::Burst if look.is_multiple_of(4) && goes_on => self.tally.late += 1,
                _ if !(look + place).is_multiple_of(4) => {}
                _ if self.slots[place].state == State::Gone => self.renew(place, false),
                _ => self.drip(place, role),
            }
        }
    }

    fn drip(&mut self, place: usize, role: Role) {
        let slot = &mut self.slots[place];
        if role == Role::Reader {
            let ended = match slot.stream.read(&mut [0; 256]) {
                Ok(read) => read == 0,
                Err(error) => error.kind() != ErrorKind::WouldBlock,
            };
            if ended {
                slot.state = State::Gone;
            }
        } else if let Some(more) = role.drip()
            && slot.sent == slot.owed.len()
        {
            // Whether it is still taken is found out by reading.
            let _ = slot.stream.write(more);
        }
    }

    /// Does all that can be done on a connection.
    fn attend(&mut self, place: usize) {
        let role = self.role(place);
        if self.slots[place].state == State::Gone {
            return;
        }
        if role.is_some_and(Role::is_narrow) {
            if role == Some(Role::Reader) {
                self.write(place);
            }
            return;
        }
        self.write(place);
        let mut piece = [0; 16 * 1024];
        loop {
            let slot = &mut self.slots[place];
            match slot.stream.read(&mut piece) {
                Ok(read @ 1..) => slot.came.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::NotConnected => break,
                Ok(_) | Err(_) => {
                    self.hear(place);
                    return self.ended(place);
                }
            }
        }
        self.hear(place);
    }

    /// Takes the answer out of what has come.
    fn hear(&mut self, place: usize) {
        let slot = &mut self.slots[place];
        if slot.came.is_empty() {
            return;
        }
        let Some((answer, taken)) = take_answer(&slot.came, false) else { return };
        slot.came.drain(..taken);
        let rest = slot.came.len();
        *self.tally.answers.entry(answer.status).or_default() += 1;
        let closes = answer.header("connection") == Some("close");
        let (name, fits) = match (slot.state, self.plan.roles.get(place)) {
            (State::Awaits(_) | State::Held, Some(role)) => ("a held connection", role.may_hear(answer.status)),
            (State::Awaits(shot), None) => {
                let shot = &self.plan.shots[shot];
                (&*shot.name, shot.answers.contains(&answer.status))
            }
            _ => ("nothing", false),
        };
        if !fits || rest > 0 {
            let text = format!("{name} was answered {} {:.300}, and {rest} bytes more; {:?}", answer.status, answer.text(), slot.state);
            self.fault(text);
        }
        let slot = &mut self.slots[place];
        slot.state = match slot.state {
            State::Awaits(shot) if closes => State::Ends(shot),
            State::Awaits(_) if self.plan.roles.get(place).is_none() => {
                self.free.push_back(place);
                State::Free
            }
            State::Awaits(_) => State::Free,
            other => other,
        };
    }

    /// A connection is over.
    fn ended(&mut self, place: usize) {
        let slot = &self.slots[place];
        self.tally.closed += u64::from(matches!(slot.state, State::Awaits(_) | State::Ends(_)));
        match slot.state {
            State::Awaits(shot) if self.role(place).is_none() && slot.owed.len() < LONG => {
                let text = format!("{}: no answer, but an end after {:?}", self.plan.shots[shot].name, String::from_utf8_lossy(&slot.came));
                self.fault(text);
            }
            State::Awaits(_) if self.role(place).is_some() => self.fault("one of a burst was sent away".to_owned()),
            State::Free if self.role(place).is_none() => self.free.retain(|other| *other != place),
            _ => {}
        }
        match self.role(place) {
            Some(role) if role != Role::Burst => self.slots[place].state = State::Gone,
            _ => self.renew(place, false),
        }
    }
}
