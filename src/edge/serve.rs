//! A caller's connection from its first byte to its last: reading, answering one request after the other, patience, and the end.

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Token};

use super::client::{Client, Stage};
use super::exchange::Flow;
use super::reactor::{CLIENT, Loop};
use super::shared::Open;
use super::slots::Key;
use super::socket::{Moved, Socket};
use super::timers::Tick;
use crate::contract::answer::ApiError;
use crate::model::shown;

/// What is to become of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Stays,
    Goes,
}

/// An answer or more that a client has not taken: it gets no further one.
const BACKLOG: usize = 64 * 1024;
/// Requests of one client answered before others have a turn.
const TURN: usize = 64;
/// How long, and how much, is thrown away after the last answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 64 * 1024;

impl Loop {
    /// A new connection.
    pub(super) fn welcome(&mut self, socket: Socket, address: Option<IpAddr>, open: Open) {
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
    pub(super) fn attend(&mut self, key: Key, mut client: Box<Client>, what: fn(&mut Self, Key, &mut Client) -> Fate) {
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
    pub(super) fn expire(&mut self, key: Key, client: &mut Client) -> Fate {
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
    pub(super) fn bury(&mut self, key: Key, mut client: Box<Client>) {
        self.mark_busy(&mut client, false);
        self.charge(&mut client, 0);
        if let Some(exchange) = client.exchange.take() {
            self.abandon(key, &client, exchange);
        }
        self.clients.remove(key);
    }
}
