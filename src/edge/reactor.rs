//! An event loop: one thread that serves many connections, and never waits for any one of them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::acceptor::Acceptor;
use super::buffers::Spare;
use super::client::Client;
use super::exchange::Exchange;
use super::gate::{Door, Gate};
use super::inner::Inner;
use super::line::{Line, Phase};
use super::mail::{Mail, Mailbox};
use super::pool::Idle;
use super::shared::Shared;
use super::slots::{Key, Slots};
use super::socket::Listener;
use super::timers::Timers;
use crate::mesh::Wake;
use crate::model::{RequestId, ServiceName};
use crate::telemetry::doors::LoopCounters;

/// How often somebody is read from before others have a turn: whoever sends faster than it is read would else have the loop for itself, and
/// no deadline would be looked at. Who has more to come is put in [`Loop::again`].
pub(super) struct Turn(usize);

impl Turn {
    pub(super) const fn new() -> Self {
        Self(16)
    }

    /// Whether there is nothing left of it; else it is one less.
    pub(super) const fn is_over(&mut self) -> bool {
        let is_over = self.0 == 0;
        self.0 = self.0.saturating_sub(1);
        is_over
    }
}

/// An event loop and all it serves.
pub(super) struct Loop {
    pub(super) index: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) poll: Poll,
    mailbox: Arc<Mailbox>,
    wake: Arc<dyn Fn(u64) + Send + Sync>,
    /// What clients are secured with.
    pub(super) acceptor: Option<Acceptor>,
    /// Steps of handshakes that may be made before others have a turn.
    pub(super) handshakes: usize,
    /// The loop that accepts has it.
    pub(super) gate: Option<Gate>,
    pub(super) clients: Slots<Box<Client>>,
    pub(super) lines: Slots<Box<Line>>,
    pub(super) timers: Timers,
    pub(super) line_timers: Timers,
    /// Connections to instances that wait for the next call.
    pub(super) idle: Idle,
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

/// Events taken in at once.
const EVENTS: usize = 1024;
/// Steps of handshakes in one turn: some milliseconds.
const HANDSHAKES: usize = 16;
/// What an event is about, in the lower two bits of its token.
pub(super) const CLIENT: usize = 0;
pub(super) const LINE: usize = 1;
const OTHER: usize = 2;
/// The mailbox; listeners follow.
const MAIL: Token = Token(OTHER);
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
            acceptor: None,
            handshakes: HANDSHAKES,
            gate: None,
            clients: Slots::new(),
            lines: Slots::new(),
            timers: Timers::new(now),
            line_timers: Timers::new(now),
            idle: Idle::default(),
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
    pub(super) fn open(&mut self, listeners: Vec<(Listener, Door)>) -> io::Result<()> {
        for (n, (listener, _)) in listeners.iter().enumerate() {
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
            self.handshakes = HANDSHAKES;
            self.accept();
            self.ring();
            for key in std::mem::take(&mut self.again) {
                self.drive(key);
            }
            self.clients.settle();
            self.lines.settle();
            self.end_turn();
        }
        // Machines and seats are given back as everything else is dropped.
        for key in self.clients.keys() {
            if let Some(client) = self.clients.lend(key) {
                self.bury(key, client);
            }
        }
    }

    /// Counts what there is to see of a loop after each turn.
    fn end_turn(&self) {
        let counters = self.counters();
        counters.turns.record(self.shared.mesh.inner.clock.now().saturating_duration_since(self.now));
        counters.upstream.store(self.lines.len().saturating_sub(self.inner.len()), Ordering::Relaxed);
    }

    /// How long nothing is to be done.
    fn pause(&self) -> Duration {
        if !self.again.is_empty() || self.gate.as_ref().is_some_and(Gate::has_more) {
            return Duration::ZERO;
        }
        let rest = self.gate.as_ref().and_then(|gate| gate.rests_until).map(|until| until.saturating_duration_since(self.now));
        let past = self.timers.past(self.now);
        let all = [self.timers.quiet(past), self.line_timers.quiet(past), rest, Some(LONGEST)];
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
                Mail::Connection(arrival) => self.welcome(arrival),
                Mail::Acceptor(acceptor) => self.use_acceptor(acceptor),
                Mail::Look(key) => self.drive(key),
                Mail::Seat(key, seat) => self.seat(key, seat),
                Mail::Lines(streams) => self.take_lines(streams),
                Mail::Close => self.close_doors(),
                Mail::Hurry => self.hurry(),
                Mail::Count(loops) => drop(loops.fetch_add(1, Ordering::SeqCst)),
                Mail::Stop => self.stopped = true,
            }
        }
    }

    /// Looks after whatever's time has come.
    fn ring(&mut self) {
        let past = self.timers.past(self.now);
        while let Some((tick, key)) = self.timers.due(past) {
            let Some(mut client) = self.clients.lend(key) else { continue };
            if self.timers.is_over(&mut client.alarm, key, tick) {
                self.attend(key, client, Self::expire);
            } else {
                self.clients.give_back(key, client);
            }
        }
        while let Some((tick, key)) = self.line_timers.due(past) {
            let Some(line) = self.lines.get_mut(key) else { continue };
            if self.line_timers.is_over(&mut line.alarm, key, tick) && line.owner.is_none() && line.member.is_some() {
                self.drop_idle(key);
            }
        }
    }

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
