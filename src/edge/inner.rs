//! Handing requests to the API server: over a few connections that are always open, one request on each at a time.
//!
//! A request is handed over only when it is here whole, and its answer is taken off the worker's hands as fast as it comes, whatever the
//! client does: a worker never waits for a stranger.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;

use super::buffers::ALWAYS;
use super::calls::read_call;
use super::client::Client;
use super::desk::Arrival;
use super::exchange::{Exchange, Flow, Task};
use super::http1::Body;
use super::line::{Line, Phase};
use super::pace::PACE;
use super::page::write_cors;
use super::reactor::Loop;
use super::shared::{Seat, Waiting};
use super::slots::Key;
use super::socket::{Moved, Socket};
use super::timers::Tick;
use crate::contract::answer::ApiError;
use crate::contract::handover::{self, is_passed_on};
use crate::contract::wire::{write_field, write_length, write_number, write_persistence};
use crate::mesh::Asked;
use crate::model::{Call, Cause, Limit};

/// The connections of one loop to the API server.
#[derive(Default)]
pub(super) struct Inner {
    idle: Vec<Key>,
    /// All of them.
    pub(super) lines: Vec<Key>,
    /// Clients whose requests wait for one.
    waiting: VecDeque<Key>,
}

impl Inner {
    /// How many connections there are.
    pub(super) const fn len(&self) -> usize {
        self.lines.len()
    }
}

/// A request that is handed to the API server.
pub(super) struct Hand {
    stage: Handing,
    /// A call's seat among the workers.
    seat: Option<Seat>,
}

enum Handing {
    /// It waits for a seat, for no longer than its caller's patience; then this has gone wrong.
    Seat(Cause),
    /// It waits for a connection; it has done so for long.
    Line { for_long: bool },
    /// It is on this connection; some of its answer may have been written.
    Sent(Key, bool),
}

impl Loop {
    /// Takes over connections to a fresh API server. Whatever is on the old ones is lost.
    pub(super) fn take_lines(&mut self, streams: Vec<UnixStream>) {
        for key in std::mem::take(&mut self.inner.lines) {
            if let Some(line) = self.lines.remove(key)
                && let Some(owner) = line.owner
            {
                self.again.push(owner);
            }
        }
        self.inner.idle.clear();
        for stream in streams {
            let socket = match Socket::of_unix(stream) {
                Ok(socket) => socket,
                Err(error) => {
                    log::error!("a connection to the API server cannot be used: {error}");
                    continue;
                }
            };
            if let Some(key) = self.add_line(Line::new(socket, None, Phase::Idle)) {
                self.inner.lines.push(key);
                self.line_is_free(key);
            }
        }
    }

    /// A connection has nothing to do: the request that has waited longest may have it.
    fn line_is_free(&mut self, key: Key) {
        self.inner.idle.push(key);
        self.again.extend(self.inner.waiting.front());
    }

    /// A connection with nothing to do, if it is this client's turn to have one.
    fn take_line(&mut self, client: Key) -> Option<Key> {
        if self.inner.waiting.front().is_some_and(|first| *first != client) {
            return None;
        }
        let line = self.inner.idle.pop()?;
        self.inner.waiting.pop_front();
        if !self.inner.idle.is_empty() {
            self.again.extend(self.inner.waiting.front());
        }
        Some(line)
    }

    /// A connection to the API server has ended by itself.
    pub(super) fn inner_line_lost(&mut self, key: Key) {
        self.inner.idle.retain(|other| *other != key);
        self.inner.lines.retain(|other| *other != key);
        self.lines.remove(key);
    }

    /// A call for the workers: it needs a seat.
    pub(super) fn begin_on_workers(&mut self, key: Key, client: &mut Client, exchange: &mut Exchange) -> Flow {
        let call = match read_call(client, exchange) {
            Ok(call) => call,
            Err(error) => return self.turn_away(client, exchange, error),
        };
        let waiting = Waiting { of_loop: self.index, client: key };
        match self.shared.desk.arrive(&call.service, waiting) {
            Arrival::Seated => {
                let seat = Seat::taken(&self.shared, call.service);
                self.hand_over(key, client, exchange, Some(seat))
            }
            Arrival::Waits => {
                let (patience, over) = self.shared.mesh.queue_patience(&call.service, call.timeout);
                client.until = self.timers.tick(self.now + patience);
                exchange.task = Task::Hand(Hand { stage: Handing::Seat(over), seat: None });
                Flow::Wait
            }
            Arrival::Full => self.refuse_call(client, exchange, &call, Cause::Overloaded(Limit::Workers)),
        }
    }

    fn refuse_call(&mut self, client: &mut Client, exchange: &mut Exchange, call: &Call, cause: Cause) -> Flow {
        let error = self.shared.mesh.refuse(&call.service, cause, exchange.id.clone(), exchange.began, || Asked::of(call));
        self.refuse(client, exchange, ApiError::Call(Box::new(error)))
    }

    /// A client's call has been given a seat.
    pub(super) fn seat(&mut self, key: Key, seat: Seat) {
        let Some(mut client) = self.clients.lend(key) else { return };
        if let Some(exchange) = &mut client.exchange
            && let Task::Hand(hand @ Hand { stage: Handing::Seat(..), .. }) = &mut exchange.task
        {
            *hand = Hand { stage: Handing::Line { for_long: false }, seat: Some(seat) };
            client.until = self.patience_with_workers();
            self.inner.waiting.push_back(key);
        }
        self.clients.give_back(key, client);
        self.drive(key);
    }

    /// Hands a request to the API server, or lets it wait until one of its connections is free.
    pub(super) fn hand_over(&mut self, key: Key, client: &mut Client, exchange: &mut Exchange, seat: Option<Seat>) -> Flow {
        if self.inner.idle.is_empty() || !self.inner.waiting.is_empty() {
            if seat.is_none() && self.inner.waiting.len() >= self.shared.config.queue {
                self.counters().refused_queue.add(1);
                return self.refuse(client, exchange, ApiError::Full(Limit::Workers));
            }
            self.inner.waiting.push_back(key);
            client.until = self.patience_with_workers();
        }
        self.advance_hand(key, client, exchange, Hand { stage: Handing::Line { for_long: false }, seat })
    }

    /// When who waits for a connection has waited for long.
    fn patience_with_workers(&self) -> Tick {
        self.timers.tick(self.now + self.shared.config.watchdog_ms.duration())
    }

    /// Does what can be done about a request that is handed over.
    pub(super) fn advance_hand(&mut self, key: Key, client: &mut Client, exchange: &mut Exchange, mut hand: Hand) -> Flow {
        if matches!(hand.stage, Handing::Line { .. })
            && let Some(line_key) = self.take_line(key)
            && let Some(mut line) = self.lines.lend(line_key)
        {
            line.begin(key, exchange.request.method() == "HEAD");
            line.phase = Phase::Asked;
            line.asked = self.timers.tick(self.now);
            self.write_inner_request(client, exchange, &mut line);
            line.flush();
            self.lines.give_back(line_key, line);
            hand.stage = Handing::Sent(line_key, false);
            client.until = Tick::NEVER;
        }
        let Handing::Sent(line_key, begun) = &mut hand.stage else {
            exchange.task = Task::Hand(hand);
            return Flow::Wait;
        };
        let line_key = *line_key;
        let Some(mut line) = self.lines.lend(line_key) else { return self.lost(client, exchange, *begun) };
        let relayed = self.relay_inner(client, exchange, &mut line, begun);
        let begun = *begun;
        match relayed {
            Relayed::All => {
                (line.owner, line.paced) = (None, None);
                line.phase = Phase::Idle;
                line.input.release(&mut self.spare);
                line.output.release(&mut self.spare);
                self.lines.give_back(line_key, line);
                // The seat is free before the answer is sent: the client's next call finds it so.
                drop(hand);
                self.line_is_free(line_key);
                Flow::Over
            }
            Relayed::Some => {
                if line.paced.is_some() {
                    client.until = self.timers.tick(self.now + PACE);
                }
                self.lines.give_back(line_key, line);
                exchange.task = Task::Hand(hand);
                Flow::Wait
            }
            Relayed::NoRoom => {
                (line.owner, line.seat) = (None, hand.seat);
                self.lines.give_back(line_key, line);
                self.drain_inner(line_key);
                self.no_room_for_answer(client, exchange)
            }
            Relayed::Broken => {
                self.inner_line_lost(line_key);
                self.lost(client, exchange, begun)
            }
        }
    }

    /// The API server will not answer.
    fn lost(&mut self, client: &mut Client, exchange: &mut Exchange, begun: bool) -> Flow {
        if begun {
            return Flow::Abort;
        }
        self.refuse(client, exchange, ApiError::Internal("the API server was replaced".to_owned()))
    }

    /// Passes on what has come of the answer.
    fn relay_inner(&mut self, client: &mut Client, exchange: &Exchange, line: &mut Line, begun: &mut bool) -> Relayed {
        line.flush();
        loop {
            if line.phase == Phase::Asked && !line.input.is_empty() {
                match line.answer.parse_own(line.input.rest(), line.to_head) {
                    Ok(None) => {}
                    Ok(Some(length)) => {
                        if !self.may_take(line) {
                            return Relayed::NoRoom;
                        }
                        let persistence = self.persistence(client, exchange);
                        let out = client.output.out(&mut self.spare);
                        // Our own server's head is passed on as it is, but for its end.
                        out.extend_from_slice(line.input.rest().get(..length - 2).unwrap_or_default());
                        write_cors(out, exchange);
                        write_persistence(out, persistence);
                        out.extend_from_slice(b"\r\n");
                        line.input.consume(length);
                        line.body = Body::new(line.answer.framing());
                        line.phase = Phase::Answering;
                        *begun = true;
                    }
                    Err(_) => return Relayed::Broken,
                }
            }
            if line.phase == Phase::Answering {
                let Ok(taken) = line.body.pass(line.input.rest()) else { return Relayed::Broken };
                client.output.push(line.input.rest().get(..taken).unwrap_or_default(), &mut self.spare);
                line.input.consume(taken);
                if line.body.is_done() {
                    return Relayed::All;
                }
                if client.output.len() > ALWAYS {
                    self.flush(client);
                    if !client.output.is_empty() && line.paced.is_some() {
                        return Relayed::Some;
                    }
                }
            }
            match line.read(&mut self.spare, client.output.len()) {
                Moved::Bytes(0) | Moved::Broken => return Relayed::Broken,
                Moved::Blocked => return Relayed::Some,
                Moved::Bytes(_) => {}
            }
        }
    }

    /// Writes a request anew, with what the API reads of it.
    fn write_inner_request(&mut self, client: &Client, exchange: &Exchange, line: &mut Line) {
        let request = &exchange.request;
        let out = line.output.out(&mut self.spare);
        for part in [request.method(), " ", request.target(), " HTTP/1.1\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        write_field(out, "host", request.authority().as_bytes());
        for (name, value) in request.head.fields().filter(|(name, value)| is_passed_on(name, value)) {
            write_field(out, name, value);
        }
        write_field(out, handover::ID, exchange.id.as_bytes());
        if let Some(address) = client.address {
            write_field(out, handover::PEER, address.to_string().as_bytes());
        }
        if let Some(grant) = &exchange.grant {
            write_field(out, handover::CALLER, grant.identity.name.as_bytes());
        }
        let waited = self.now.saturating_duration_since(exchange.began).as_micros();
        write_number(out, handover::WAITED_US, u64::try_from(waited).unwrap_or(u64::MAX));
        write_length(out, exchange.gathered.len() as u64);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&exchange.gathered);
    }

    /// A request has waited too long for a worker.
    pub(super) fn late_hand(&mut self, key: Key, client: &mut Client, exchange: &mut Exchange, hand: Hand) -> Flow {
        match hand.stage {
            Handing::Seat(over) if self.shared.desk.give_up(Waiting { of_loop: self.index, client: key }) => {
                // It could be read before.
                match read_call(client, exchange) {
                    Ok(call) => self.refuse_call(client, exchange, &call, over),
                    Err(fault) => self.refuse(client, exchange, fault),
                }
            }
            Handing::Line { for_long: false } => {
                if self.is_stuck() {
                    self.shared.stuck.store(true, Ordering::SeqCst);
                }
                // Fresh workers may be on their way.
                client.until = self.timers.tick(self.now + 2 * self.shared.config.watchdog_ms.duration());
                exchange.task = Task::Hand(Hand { stage: Handing::Line { for_long: true }, ..hand });
                Flow::Wait
            }
            Handing::Line { for_long: true } => {
                self.inner.waiting.retain(|other| *other != key);
                if hand.seat.is_some()
                    && let Ok(call) = read_call(client, exchange)
                {
                    return self.refuse_call(client, exchange, &call, Cause::Overloaded(Limit::Workers));
                }
                self.counters().refused_queue.add(1);
                self.refuse(client, exchange, ApiError::Full(Limit::Workers))
            }
            // Others want the place of one who does not keep pace.
            stage @ Handing::Sent(_, true) => {
                self.counters().write_timeouts.add(1);
                self.abandon_hand(key, Hand { stage, ..hand });
                Flow::Abort
            }
            // A seat is on its way.
            stage => {
                exchange.task = Task::Hand(Hand { stage, ..hand });
                Flow::Wait
            }
        }
    }

    /// Whether no connection has had an answer for so long that the workers must be thought lost.
    fn is_stuck(&mut self) -> bool {
        let long_ago = self.timers.past(self.now).before(self.shared.config.watchdog_ms.duration());
        let lines = &mut self.lines;
        self.inner.lines.iter().all(|key| lines.get_mut(*key).is_none_or(|line| line.phase == Phase::Asked && line.asked <= long_ago))
    }

    /// A client that waits for a worker has gone.
    pub(super) fn abandon_hand(&mut self, key: Key, hand: Hand) {
        match hand.stage {
            Handing::Seat(..) => {
                self.shared.desk.give_up(Waiting { of_loop: self.index, client: key });
            }
            Handing::Line { .. } => self.inner.waiting.retain(|other| *other != key),
            // The answer is still to come, and to be thrown away; until then the connection, and a call's seat, are taken.
            Handing::Sent(line_key, _) => {
                if let Some(line) = self.lines.get_mut(line_key) {
                    line.owner = None;
                    line.seat = hand.seat;
                }
                self.drain_inner(line_key);
            }
        }
    }

    /// Throws away what comes of an answer nobody waits for.
    pub(super) fn drain_inner(&mut self, line_key: Key) {
        let Some(mut line) = self.lines.lend(line_key) else { return };
        let done = loop {
            line.flush();
            if line.phase == Phase::Asked && !line.input.is_empty() {
                match line.answer.parse_own(line.input.rest(), line.to_head) {
                    Ok(None) => {}
                    Ok(Some(length)) => {
                        line.input.consume(length);
                        line.body = Body::new(line.answer.framing());
                        line.phase = Phase::Answering;
                    }
                    Err(_) => break Relayed::Broken,
                }
            }
            if line.phase == Phase::Answering {
                let Ok(taken) = line.body.pass(line.input.rest()) else { break Relayed::Broken };
                line.input.consume(taken);
                if line.body.is_done() {
                    break Relayed::All;
                }
            }
            match line.read(&mut self.spare, 0) {
                Moved::Bytes(0) | Moved::Broken => break Relayed::Broken,
                Moved::Blocked => break Relayed::Some,
                Moved::Bytes(_) => {}
            }
        };
        match done {
            Relayed::Some | Relayed::NoRoom => self.lines.give_back(line_key, line),
            Relayed::Broken => {
                drop(line);
                self.inner_line_lost(line_key);
            }
            Relayed::All => {
                (line.seat, line.paced) = (None, None);
                line.phase = Phase::Idle;
                self.lines.give_back(line_key, line);
                self.line_is_free(line_key);
            }
        }
    }
}

/// What came of passing an answer on.
enum Relayed {
    All,
    Some,
    /// There is no room for it.
    NoRoom,
    Broken,
}
