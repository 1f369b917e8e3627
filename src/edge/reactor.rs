//! An event loop: one thread that serves many connections, and never waits for any one of them.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::buffers::Spare;
use super::client::{Client, Stage};
use super::exchange::{Exchange, Flow};
use super::gate::Gate;
use super::inner::Inner;
use super::line::{Line, Phase};
use super::mail::{Mail, Mailbox};
use super::shared::{Open, Shared};
use super::slots::{Key, Slots};
use super::socket::{Listener, Moved, Socket};
use super::timers::{Tick, Timers};
use crate::contract::answer::ApiError;
use crate::mesh::Wake;
use crate::model::{RequestId, ServiceName, shown};
use crate::telemetry::doors::LoopCounters;

/// An event loop and all it serves.
pub(super) struct Loop {
    pub(super) index: usize,
    pub(super) shared: Arc<Shared>,
    poll: Poll,
    mailbox: Arc<Mailbox>,
    wake: Arc<dyn Fn(u64) + Send + Sync>,
    /// The loop that accepts has it.
    pub(super) gate: Option<Gate>,
    pub(super) clients: Slots<Box<Client>>,
    pub(super) lines: Slots<Box<Line>>,
    pub(super) timers: Timers,
    line_timers: Timers,
    /// Idle connections by the instance they lead to. Each keeps its instance, so that no other has the same address.
    idle: HashMap<usize, Vec<Key>>,
    pub(super) inner: Inner,
    pub(super) spare: Spare,
    /// Exchanges to be used again. In boxes, so that a client takes one without moving it.
    #[allow(clippy::vec_box)]
    pub(super) exchanges: Vec<Box<Exchange>>,
    /// Where short things are put together.
    pub(super) stream: Vec<u8>,
    /// Clients for whom more can be done, after others have had a turn.
    pub(super) again: Vec<Key>,
    /// The service that was called last.
    pub(super) service: Option<ServiceName>,
    /// The time of this turn.
    pub(super) now: Instant,
    /// Waits between attempts are over.
    pub(super) hurried: bool,
    stopped: bool,
}

/// What is to become of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Stays,
    Goes,
}

/// Events taken in at once.
const EVENTS: usize = 1024;
/// What an event is about, in the lower two bits of its token.
const CLIENT: usize = 0;
const LINE: usize = 1;
const OTHER: usize = 2;
/// The mailbox; listeners follow.
const MAIL: Token = Token(OTHER);
/// An answer or more that a client has not taken: it gets no further one.
const BACKLOG: usize = 64 * 1024;
/// Requests of one client answered before others have a turn.
const TURN: usize = 64;
/// How long, and how much, is thrown away after the last answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 64 * 1024;
/// How long a connection to an instance is kept idle, unless it says less: shorter than the keep-alive of common servers, so that they
/// rarely close one under a request.
const IDLE_AGE: Duration = Duration::from_secs(4);
/// Idle connections kept per instance and loop.
const MOST_IDLE: usize = 1024;
/// The longest sleep; a wake-up that was lost costs no more.
const LONGEST: Duration = Duration::from_secs(1);

impl Loop {
    /// A loop that does not run yet, and its letter box.
    pub(super) fn new(index: usize, shared: Arc<Shared>) -> io::Result<(Self, Arc<Mailbox>)> {
        let poll = Poll::new()?;
        let mailbox = Mailbox::new(poll.registry(), MAIL)?;
        let now = shared.mesh.inner.clock.now();
        let to = Arc::clone(&mailbox);
        let made = Self {
            index,
            poll,
            wake: Arc::new(move |bits| to.send(Mail::Look(Key::of_bits(bits)))),
            gate: None,
            clients: Slots::new(),
            lines: Slots::new(),
            timers: Timers::new(now),
            line_timers: Timers::new(now),
            idle: HashMap::new(),
            inner: Inner::default(),
            spare: Spare::default(),
            exchanges: Vec::new(),
            stream: Vec::new(),
            again: Vec::new(),
            service: None,
            now,
            hurried: false,
            stopped: false,
            mailbox: Arc::clone(&mailbox),
            shared,
        };
        Ok((made, mailbox))
    }

    /// Makes this loop the one that accepts.
    pub(super) fn open(&mut self, listeners: Vec<Listener>) -> io::Result<()> {
        for (n, listener) in listeners.iter().enumerate() {
            let token = Token((n + 1) << 2 | OTHER);
            self.poll.registry().register(&mut SourceFd(&listener.raw()), token, Interest::READABLE)?;
        }
        self.gate = Some(Gate::new(listeners));
        Ok(())
    }

    /// Serves until it is told to stop.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        while !self.stopped {
            let pause = self.pause();
            if let Err(error) = self.poll.poll(&mut events, Some(pause))
                && error.kind() != io::ErrorKind::Interrupted
            {
                log::error!("an event loop cannot wait for events: {error}");
            }
            self.now = self.shared.mesh.inner.clock.now();
            for event in &events {
                self.hear(event);
            }
            self.accept();
            self.ring();
            for key in std::mem::take(&mut self.again) {
                self.drive(key);
            }
            self.clients.settle();
            self.lines.settle();
        }
        // Machines and seats are given back as everything else is dropped.
        for key in self.clients.keys() {
            if let Some(client) = self.clients.lend(key) {
                self.bury(key, client);
            }
        }
    }

    /// How long nothing is to be done.
    fn pause(&self) -> Duration {
        if !self.again.is_empty() || self.gate.as_ref().is_some_and(Gate::has_more) {
            return Duration::ZERO;
        }
        let rest = self.gate.as_ref().and_then(|gate| gate.rests_until).map(|until| until.saturating_duration_since(self.now));
        let all = [self.timers.quiet(self.now), self.line_timers.quiet(self.now), rest, Some(LONGEST)];
        all.into_iter().flatten().min().unwrap_or(LONGEST)
    }

    fn hear(&mut self, event: &mio::event::Event) {
        let Token(token) = event.token();
        let place = u32::try_from(token >> 2).unwrap_or(u32::MAX);
        match token & 3 {
            CLIENT => {
                if let Some(key) = self.clients.at(place)
                    && let Some(client) = self.clients.get_mut(key)
                {
                    client.readiness.hear(event);
                    self.drive(key);
                }
            }
            LINE => {
                if let Some(key) = self.lines.at(place)
                    && let Some(line) = self.lines.get_mut(key)
                {
                    line.readiness.hear(event);
                    match (line.owner, &line.member) {
                        (Some(owner), _) => self.drive(owner),
                        (None, None) if line.phase == Phase::Idle => self.check_inner(key),
                        (None, None) => self.drain_inner(key),
                        // Nothing should come on an idle connection: it has been closed, or cannot be trusted.
                        (None, Some(_)) if line.readiness.readable => self.drop_idle(key),
                        (None, Some(_)) => {}
                    }
                }
            }
            _ if event.token() == MAIL => self.read_mail(),
            _ => {
                if let Some(gate) = &mut self.gate {
                    gate.knocked((token >> 2) - 1);
                }
            }
        }
    }

    fn read_mail(&mut self) {
        for mail in self.mailbox.collect() {
            match mail {
                Mail::Connection(socket, address, open) => self.welcome(socket, address, open),
                Mail::Look(key) => self.drive(key),
                Mail::Seat(key, seat) => self.seat(key, seat),
                Mail::Lines(streams) => self.take_lines(streams),
                Mail::Close => self.close_doors(),
                Mail::Hurry => self.hurry(),
                Mail::Stop => self.stopped = true,
            }
        }
    }

    /// Looks after whatever's time has come.
    fn ring(&mut self) {
        while let Some((tick, key)) = self.timers.due(self.now) {
            let Some(mut client) = self.clients.lend(key) else { continue };
            if self.timers.is_over(&mut client.alarm, key, tick) {
                self.attend(key, client, Self::expire);
            } else {
                self.clients.give_back(key, client);
            }
        }
        while let Some((tick, key)) = self.line_timers.due(self.now) {
            let Some(line) = self.lines.get_mut(key) else { continue };
            if self.line_timers.is_over(&mut line.alarm, key, tick) && line.owner.is_none() && line.member.is_some() {
                self.drop_idle(key);
            }
        }
    }

    // --- clients ---

    /// A new connection.
    pub(super) fn welcome(&mut self, socket: Socket, address: Option<std::net::IpAddr>, open: Open) {
        let raw = socket.raw();
        let key = self.clients.insert(Box::new(Client::new(socket, address, open)));
        let token = Token((key.place() as usize) << 2 | CLIENT);
        if let Err(error) = self.poll.registry().register(&mut SourceFd(&raw), token, Interest::READABLE | Interest::WRITABLE) {
            log::warn!("a connection cannot be watched: {error}");
            self.clients.remove(key);
            return;
        }
        let until = self.timers.tick(self.now + self.shared.config.head_timeout_ms.duration());
        if let Some(client) = self.clients.get_mut(key) {
            client.until = until;
        }
        // What it has to say often has come with it.
        self.drive(key);
    }

    /// Does all that can be done for a client.
    pub(super) fn drive(&mut self, key: Key) {
        if let Some(client) = self.clients.lend(key) {
            self.attend(key, client, Self::serve);
        }
    }

    /// Has `what` done for a client, and leaves it in order whatever happens.
    fn attend(&mut self, key: Key, mut client: Box<Client>, what: fn(&mut Self, Key, &mut Client) -> Fate) {
        let fate = catch_unwind(AssertUnwindSafe(|| what(self, key, &mut client))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
            log::error!("answering a request panicked: {}", shown(&text.unwrap_or_else(|| "a panic".to_owned())));
            self.after_panic(&mut client)
        });
        match fate {
            Fate::Stays => {
                self.rest(key, &mut client);
                self.clients.give_back(key, client);
            }
            Fate::Goes => self.bury(key, client),
        }
    }

    /// Answers for a request whose handling went wrong, if nothing has been answered yet.
    fn after_panic(&self, client: &mut Client) -> Fate {
        if !client.output.is_empty() {
            return Fate::Goes;
        }
        self.refuse_at_once(client, ApiError::Internal(String::new()));
        self.flush(client);
        Fate::Stays
    }

    fn serve(&mut self, key: Key, client: &mut Client) -> Fate {
        for _ in 0..TURN {
            if client.readiness.broken {
                return Fate::Goes;
            }
            if client.input.is_empty() || client.output.len() > BACKLOG || client.stage == Stage::Busy {
                self.flush(client);
            }
            match client.stage {
                Stage::Idle | Stage::Head => {
                    if client.closes && !client.readiness.broken {
                        if !client.output.is_empty() {
                            self.flush(client);
                        }
                        if !client.output.is_empty() {
                            return Fate::Stays;
                        }
                        client.socket.finish();
                        client.stage = Stage::Lingering(0);
                        client.until = self.timers.tick(self.now + LINGER);
                        continue;
                    }
                    // Who does not take answers gets no more of them.
                    if client.output.len() > BACKLOG {
                        return Fate::Stays;
                    }
                    if self.begin(key, client) {
                        continue;
                    }
                    self.flush(client);
                    match client.read(&mut self.spare, 0) {
                        Moved::Bytes(0) if client.output.is_empty() => return Fate::Goes,
                        Moved::Bytes(0) => {
                            // No more requests will come; what has been answered is still to be sent.
                            client.closes = true;
                            client.input.consume(client.input.len());
                        }
                        Moved::Broken => return Fate::Goes,
                        Moved::Blocked => return Fate::Stays,
                        Moved::Bytes(_) => {}
                    }
                }
                Stage::Busy => match self.advance(key, client) {
                    Flow::Again | Flow::Over => {}
                    Flow::Wait => {
                        self.flush(client);
                        return if client.readiness.broken { Fate::Goes } else { Fate::Stays };
                    }
                    Flow::Abort => return Fate::Goes,
                },
                Stage::Lingering(so_far) => {
                    client.input.consume(client.input.len());
                    match client.read(&mut self.spare, so_far) {
                        Moved::Bytes(more) if more > 0 && so_far < LINGER_BYTES => client.stage = Stage::Lingering(so_far + more),
                        Moved::Blocked => return Fate::Stays,
                        Moved::Bytes(_) | Moved::Broken => return Fate::Goes,
                    }
                }
            }
        }
        self.again.push(key);
        Fate::Stays
    }

    /// The time of whatever a client does is over.
    fn expire(&mut self, key: Key, client: &mut Client) -> Fate {
        let now = self.timers.tick(self.now);
        if client.write_by <= now {
            self.counters().write_timeouts.add(1);
            client.socket.reset_on_drop();
            return Fate::Goes;
        }
        match client.stage {
            Stage::Idle => {
                self.counters().idle_timeouts.add(1);
                return Fate::Goes;
            }
            Stage::Head => {
                self.counters().head_timeouts.add(1);
                client.input.consume(client.input.len());
                self.refuse_at_once(client, ApiError::Late("the head of the request"));
            }
            Stage::Busy => {
                if self.late(key, client) == Flow::Abort {
                    return Fate::Goes;
                }
            }
            Stage::Lingering(_) => return Fate::Goes,
        }
        self.serve(key, client)
    }

    /// Sends what can be sent.
    pub(super) fn flush(&self, client: &mut Client) {
        if client.output.is_empty() || !client.readiness.writable {
            return;
        }
        match client.output.send(&client.socket) {
            Moved::Bytes(_) => {}
            Moved::Blocked => client.readiness.writable = false,
            Moved::Broken => client.readiness.broken = true,
        }
    }

    /// Leaves a client until something happens.
    fn rest(&mut self, key: Key, client: &mut Client) {
        client.input.release(&mut self.spare);
        client.output.release(&mut self.spare);
        self.mark_busy(client, client.stage == Stage::Busy || !client.output.is_empty());
        self.charge(client, client.holds());
        if client.output.is_empty() {
            client.write_by = Tick::NEVER;
        } else if client.write_by == Tick::NEVER && !client.streams() {
            client.write_by = self.timers.tick(self.now + self.shared.config.write_timeout_ms.duration());
        }
        let mut deadline = client.until.min(client.write_by);
        if client.stage == Stage::Idle && !client.output.is_empty() {
            // It is not idle before its answer is sent.
            client.until = self.timers.tick(self.now + self.shared.config.idle_timeout_ms.duration());
            deadline = client.write_by;
        }
        self.timers.set(&mut client.alarm, key, deadline);
    }

    fn mark_busy(&self, client: &mut Client, busy: bool) {
        if client.busy != busy {
            client.busy = busy;
            let counter = &self.counters().busy;
            if busy {
                counter.fetch_add(1, Ordering::SeqCst)
            } else {
                counter.fetch_sub(1, Ordering::SeqCst)
            };
        }
    }

    /// Counts the bytes held for a client.
    fn charge(&self, client: &mut Client, holds: usize) {
        let buffered = &self.shared.counters.buffered;
        if holds > client.charged {
            buffered.fetch_add(holds - client.charged, Ordering::Relaxed);
        } else if holds < client.charged {
            buffered.fetch_sub(client.charged - holds, Ordering::Relaxed);
        }
        client.charged = holds;
    }

    /// A connection is over: whatever it held is given back.
    fn bury(&mut self, key: Key, mut client: Box<Client>) {
        self.mark_busy(&mut client, false);
        self.charge(&mut client, 0);
        if let Some(exchange) = client.exchange.take() {
            self.abandon(key, exchange);
        }
        self.clients.remove(key);
    }

    // --- lines ---

    /// Takes a connection to an instance or the API server into the loop.
    pub(super) fn add_line(&mut self, line: Line) -> Option<Key> {
        let raw = line.socket.raw();
        let key = self.lines.insert(Box::new(line));
        let token = Token((key.place() as usize) << 2 | LINE);
        match self.poll.registry().register(&mut SourceFd(&raw), token, Interest::READABLE | Interest::WRITABLE) {
            Ok(()) => Some(key),
            Err(error) => {
                log::warn!("a connection cannot be watched: {error}");
                self.lines.remove(key);
                None
            }
        }
    }

    /// An idle connection to an instance, if there is one.
    pub(super) fn take_idle(&mut self, member: &Arc<crate::mesh::Member>) -> Option<Key> {
        self.idle.get_mut(&(Arc::as_ptr(member) as usize))?.pop()
    }

    /// Puts a connection back after an exchange, or ends it.
    pub(super) fn park(&mut self, key: Key, mut line: Box<Line>, reusable: bool) {
        let Some(member) = line.member.as_ref().filter(|_| reusable && !line.readiness.ending && !line.readiness.ended) else {
            self.lines.remove(key);
            return;
        };
        let kept = self.idle.entry(Arc::as_ptr(member) as usize).or_default();
        if kept.len() >= MOST_IDLE {
            self.lines.remove(key);
            return;
        }
        kept.push(key);
        line.owner = None;
        line.used = true;
        line.phase = Phase::Idle;
        line.input.release(&mut self.spare);
        line.output.release(&mut self.spare);
        let age = line.answer.keeps_alive().map_or(IDLE_AGE, |said| said.min(IDLE_AGE));
        let until = self.line_timers.tick(self.now + age);
        self.line_timers.set(&mut line.alarm, key, until);
        self.lines.give_back(key, line);
    }

    /// An idle connection is of no further use.
    fn drop_idle(&mut self, key: Key) {
        let Some(line) = self.lines.remove(key) else { return };
        let Some(member) = &line.member else { return };
        let at = Arc::as_ptr(member) as usize;
        if let Some(kept) = self.idle.get_mut(&at) {
            kept.retain(|other| *other != key);
            if kept.is_empty() {
                self.idle.remove(&at);
            }
        }
    }

    /// Something came on an idle connection to the API server: its end, or the end of trusting it.
    fn check_inner(&mut self, key: Key) {
        if self.lines.get_mut(key).is_some_and(|line| line.readiness.readable && line.read(&mut self.spare, 0) != Moved::Blocked) {
            self.inner_line_lost(key);
        }
    }

    // --- what everything needs ---

    pub(super) fn counters(&self) -> &LoopCounters {
        // There is one for each loop.
        self.shared.counters.loops.get(self.index).unwrap_or(&self.shared.counters.spare)
    }

    /// How something elsewhere in the process wakes the request of a client.
    pub(super) fn wake(&self, key: Key) -> Wake {
        Wake::Call(Arc::clone(&self.wake), key.bits())
    }

    pub(super) fn roll(&self) -> u64 {
        self.shared.mesh.inner.dice.roll()
    }

    pub(super) fn fresh_id(&self) -> RequestId {
        RequestId::from_roll(self.roll(), self.roll())
    }
}
