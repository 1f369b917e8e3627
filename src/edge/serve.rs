//! A caller's connection from its first byte to its last: reading, answering one request after the other, patience, and the end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Token};

use super::buffers::ALWAYS;
use super::client::{Client, Stage};
use super::exchange::Flow;
use super::gate::Arrival;
use super::reactor::{CLIENT, Loop};
use super::slots::Key;
use super::socket::Moved;
use super::timers::Tick;
use super::tls::{Broken, Secured};
use crate::contract::answer::ApiError;
use crate::model::shown;

/// What is to become of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Stays,
    Goes,
}

/// Requests of one client answered before others have a turn.
const TURN: usize = 64;
/// Handshakes up to here go on whatever else is in memory; hardly any is longer.
const LONG_HANDSHAKE: usize = 16 * 1024;
/// How long, and how much, is thrown away after the last answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 64 * 1024;

impl Loop {
    /// A new connection.
    pub(super) fn welcome(&mut self, arrival: Arrival) {
        let secured = match self.acceptor.as_ref().filter(|_| arrival.door.is_secured).map(Secured::from).transpose() {
            Ok(secured) => secured,
            Err(why) => return log::error!("a connection cannot be secured: {why}"),
        };
        let raw = arrival.socket.raw();
        let key = self.clients.insert(Box::new(Client::new(arrival, secured)));
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
    pub(super) fn attend(&mut self, key: Key, mut client: Box<Client>, what: fn(&mut Self, Key, &mut Client) -> Fate) {
        let fate = catch_unwind(AssertUnwindSafe(|| what(self, key, &mut client))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
            log::error!("answering a request panicked: {}", shown(&text.unwrap_or_else(|| "a panic".to_owned())));
            self.after_panic(key, &mut client)
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
    fn after_panic(&mut self, key: Key, client: &mut Client) -> Fate {
        if !client.output.is_empty() {
            return Fate::Goes;
        }
        self.refuse_at_once(client, ApiError::Internal(String::new()));
        self.again.push(key);
        Fate::Stays
    }

    fn serve(&mut self, key: Key, client: &mut Client) -> Fate {
        for _ in 0..TURN {
            if client.readiness.broken {
                return Fate::Goes;
            }
            if client.input.is_empty() || client.output.len() > ALWAYS || client.stage == Stage::Busy {
                self.flush(client);
            }
            match client.stage {
                Stage::Shaking => {
                    if !self.shake(key, client) {
                        return Fate::Stays;
                    }
                }
                Stage::Idle | Stage::Head => {
                    if client.closes && !client.readiness.broken {
                        if !client.output.is_empty() {
                            self.flush(client);
                        }
                        if !client.output.is_empty() {
                            return Fate::Stays;
                        }
                        client.finish();
                        client.stage = Stage::Lingering(0);
                        client.until = self.timers.tick(self.now + LINGER);
                        continue;
                    }
                    // Who does not take answers gets no more of them.
                    if client.output.len() > ALWAYS {
                        return Fate::Stays;
                    }
                    if self.begin(key, client) {
                        continue;
                    }
                    self.flush(client);
                    match client.read(&mut self.spare, 0) {
                        Moved::Bytes(0) if client.output.is_empty() => {
                            client.take_leave();
                            return Fate::Goes;
                        }
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

    /// Goes on with securing a connection. Answers whether more can be done on it now.
    fn shake(&mut self, key: Key, client: &mut Client) -> bool {
        // Handshakes cost a hundred times what a request does: others have a turn between them.
        if self.handshakes == 0 {
            self.again.push(key);
            return false;
        }
        self.handshakes -= 1;
        let mut shaken = client.secured.as_mut().map_or(Ok(true), |secured| secured.shake(&client.socket));
        let holds = client.holds();
        if shaken == Ok(false) && holds > LONG_HANDSHAKE && !self.shared.has_room_for(holds.saturating_sub(client.charged)) {
            self.counters().refused_buffers.add(1);
            shaken = Err(Broken::Because("as much is in memory as may be".to_owned()));
        }
        match shaken {
            Ok(false) => return false,
            Ok(true) => {
                self.counters().handshakes.add(1);
                client.name = client.secured.as_ref().and_then(Secured::name);
                client.stage = Stage::Idle;
                client.until = self.timers.tick(self.now + self.shared.config.head_timeout_ms.duration());
            }
            Err(Broken::Plain) => {
                self.counters().malformed.add(1);
                client.secured = None;
                self.refuse_at_once(client, ApiError::Malformed("this port speaks TLS; use https://"));
            }
            Err(Broken::Because(why)) => {
                self.counters().failed_handshakes.add(1);
                log::debug!("a handshake failed: {}", shown(&why));
                client.secured = None;
                client.socket.finish();
                client.stage = Stage::Lingering(0);
                client.until = self.timers.tick(self.now + LINGER);
            }
        }
        true
    }

    /// The time of whatever a client does is over.
    pub(super) fn expire(&mut self, key: Key, client: &mut Client) -> Fate {
        let now = self.timers.tick(self.now);
        if client.write_by <= now {
            self.counters().write_timeouts.add(1);
            client.socket.reset_on_drop();
            return Fate::Goes;
        }
        match client.stage {
            Stage::Shaking => {
                self.counters().handshake_timeouts.add(1);
                return Fate::Goes;
            }
            Stage::Idle => {
                self.counters().idle_timeouts.add(1);
                client.take_leave();
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
        if !client.readiness.writable || !client.owes() {
            return;
        }
        client.send();
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
    pub(super) fn bury(&mut self, key: Key, mut client: Box<Client>) {
        self.mark_busy(&mut client, false);
        self.charge(&mut client, 0);
        if let Some(exchange) = client.exchange.take() {
            self.abandon(key, &client, exchange);
        }
        self.clients.remove(key);
    }
}
