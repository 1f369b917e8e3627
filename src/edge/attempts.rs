//! One attempt of a call: connecting to one address after the other, sending the request, passing its body on as it comes.

use std::net::SocketAddr;
use std::time::Instant;

use super::calls::{Calling, Form, Heard, REPLAYED};
use super::client::Client;
use super::exchange::{Exchange, Flow, Task};
use super::forward;
use super::line::{Line, Phase};
use super::reactor::{Loop, Turn};
use super::slots::Key;
use super::socket::{Moved, Socket};
use super::timers::Tick;
use crate::mesh::call::{Attempt, Connection};
use crate::mesh::upstream_headers;
use crate::model::{ConnectFailure, Failure, Method};
use crate::outbound::connection::why_not;

/// An attempt under way.
pub(super) struct Underway {
    pub(super) attempt: Attempt,
    pub(super) began: Instant,
    pub(super) line: Key,
    /// When it is over.
    pub(super) by: Tick,
    /// Connecting, while that is not done.
    pub(super) dial: Option<Dial>,
}

/// Trying one address after the other.
pub(super) struct Dial {
    addresses: Vec<SocketAddr>,
    /// The one being tried.
    at: usize,
    by: Instant,
    refused: bool,
}

impl Loop {
    /// Sends an attempt on a connection that is there, or begins to make one.
    pub(super) fn send(
        &mut self,
        key: Key,
        client: &mut Client,
        exchange: &mut Exchange,
        calling: &mut Calling,
        attempt: Attempt,
    ) -> Result<(), Failure> {
        let by = self.timers.tick(self.now + attempt.timeout);
        let idle = if attempt.fresh { None } else { self.take_idle(&attempt.member) };
        let (line, dial) = match idle {
            Some(line) => {
                calling.machine.connected(Connection::Kept);
                (line, None)
            }
            None => {
                let addresses = attempt.member.addresses();
                let dial = Dial { addresses, at: 0, by: self.now + attempt.connect, refused: false };
                let (line, dial) = self.dial(&attempt, dial).map_err(Failure::Connect)?;
                (line, Some(dial))
            }
        };
        client.until = dial.as_ref().map_or(by, |dial| self.timers.tick(dial.share_ends(self.now)).min(by));
        calling.attempt = Some(Underway { attempt, began: self.now, line, by, dial });
        if let Some(mut borrowed) = self.lines.lend(line) {
            self.write_request(key, client, exchange, calling, &mut borrowed);
            borrowed.flush();
            calling.on_its_way = borrowed.output.len();
            self.lines.give_back(line, borrowed);
        }
        Ok(())
    }

    /// Begins to connect to the next address that can be tried.
    pub(super) fn dial(&mut self, attempt: &Attempt, mut dial: Dial) -> Result<(Key, Dial), ConnectFailure> {
        while let Some(address) = dial.addresses.get(dial.at) {
            if self.now >= dial.by {
                return Err(ConnectFailure::TimedOut);
            }
            match Socket::connect(*address) {
                Ok(socket) => {
                    let mut line = Line::to_instance(socket, &attempt.member, &self.shared.trust)?;
                    line.address = Some(*address);
                    return self.add_line(line).map(|key| (key, dial)).ok_or(ConnectFailure::NoMeans);
                }
                Err(error) => match why_not(&error) {
                    // One that is kept for later makes way for one that is needed now.
                    ConnectFailure::NoMeans if self.drop_any_idle() => {}
                    ConnectFailure::NoMeans => return Err(ConnectFailure::NoMeans),
                    why => {
                        dial.refused |= why == ConnectFailure::Refused;
                        dial.at += 1;
                    }
                },
            }
        }
        Err(dial.failure())
    }

    /// Writes the request of an attempt.
    fn write_request(&mut self, key: Key, client: &Client, exchange: &Exchange, calling: &Calling, line: &mut Line) {
        let Some(Underway { attempt, .. }) = &calling.attempt else { return };
        let out = line.output.out(&mut self.spare);
        let to_head = match &calling.form {
            Form::Invoke(call) => {
                let headers = upstream_headers(call, &exchange.id, attempt);
                forward::write_call(out, call, &headers, attempt);
                call.method == Method::Head
            }
            Form::Proxy { proxied, upgrade } => {
                forward::write_proxied(out, exchange, *proxied, *upgrade, attempt, client);
                exchange.request.method() == "HEAD"
            }
        };
        line.begin(key, to_head);
        if line.phase == Phase::Idle {
            line.phase = Phase::Asked;
        }
    }

    /// An address could not be connected to; the next one may be.
    pub(super) fn next_address(
        &mut self,
        key: Key,
        client: &mut Client,
        exchange: &mut Exchange,
        mut calling: Calling,
        failure: &Failure,
    ) -> Flow {
        let Some(Underway { attempt, began, by, dial: Some(mut dial), .. }) = calling.attempt.take() else {
            return self.step(key, client, exchange, calling);
        };
        dial.refused |= *failure == Failure::Connect(ConnectFailure::Refused);
        dial.at += 1;
        match self.dial(&attempt, dial) {
            Ok((line, dial)) => {
                client.until = self.timers.tick(dial.share_ends(self.now)).min(by);
                calling.attempt = Some(Underway { attempt, began, line, by, dial: Some(dial) });
                if let Some(mut borrowed) = self.lines.lend(line) {
                    self.write_request(key, client, exchange, &calling, &mut borrowed);
                    self.lines.give_back(line, borrowed);
                }
                exchange.task = Task::Call(calling);
                Flow::Wait
            }
            Err(why) => {
                // What the last address came to says more than that there is no other.
                let timed_out = *failure == Failure::Connect(ConnectFailure::TimedOut) && why == ConnectFailure::Unreachable;
                let why = if timed_out { ConnectFailure::TimedOut } else { why };
                calling.machine.failed(Failure::Connect(why), self.now, self.roll());
                self.step(key, client, exchange, calling)
            }
        }
    }

    /// Sends and hears what can be sent and heard.
    pub(super) fn converse(&mut self, client: &mut Client, exchange: &mut Exchange, calling: &mut Calling, line: &mut Line) -> Heard {
        if line.phase == Phase::Connecting {
            if !line.readiness.writable && !line.readiness.broken {
                return Heard::Nothing;
            }
            if let Err(error) = line.socket.connected() {
                return Heard::Failed(Failure::Connect(why_not(&error)));
            }
            line.phase = Phase::Shaking;
        }
        if line.phase == Phase::Shaking {
            match line.secure() {
                Ok(true) => line.phase = Phase::Asked,
                Ok(false) => return Heard::Nothing,
                Err(why) => {
                    // Somebody is there, and is not who it should be: no other address will do.
                    if let Some(underway) = &mut calling.attempt {
                        underway.dial = None;
                    }
                    return Heard::Failed(Failure::Connect(ConnectFailure::Tls(why)));
                }
            }
            if let Some(underway) = &mut calling.attempt {
                calling.machine.connected(Connection::Made(self.now.saturating_duration_since(underway.began)));
                if let Some(address) = underway.dial.take().filter(|dial| dial.at > 0).and_then(|dial| dial.addresses.get(dial.at).copied())
                {
                    underway.attempt.member.prefer(address);
                }
                client.until = underway.by;
            }
        }
        line.flush();
        if let Err(fault) = self.pump(client, exchange, calling, line) {
            return fault;
        }
        if line.phase == Phase::Asked {
            match self.await_head(client, exchange, calling, line) {
                Some(heard) => heard,
                None => self.take_body(client, exchange, calling, line),
            }
        } else {
            self.take_body(client, exchange, calling, line)
        }
    }

    /// Passes the request's body on as it comes, as fast as the instance takes it.
    fn pump(&mut self, client: &mut Client, exchange: &mut Exchange, calling: &mut Calling, line: &mut Line) -> Result<(), Heard> {
        let mut turn = Turn::new();
        while !exchange.incoming.is_done() && line.output.is_empty() && !line.deaf {
            if turn.is_over() {
                self.again.extend(line.owner);
                break;
            }
            if client.input.is_empty() {
                if !calling.delivering {
                    self.tell_to_go_on(client, exchange);
                }
                match client.read(&mut self.spare, REPLAYED) {
                    Moved::Bytes(0) | Moved::Broken => {
                        // The caller has gone in the middle of its request; what it sent so far is no request.
                        line.socket.reset_on_drop();
                        client.readiness.broken = true;
                        return Err(Heard::Nothing);
                    }
                    Moved::Blocked => break,
                    Moved::Bytes(_) => {}
                }
            }
            let taken = match exchange.incoming.pass(client.input.rest()) {
                Ok(taken) => taken,
                Err(fault) => {
                    line.socket.reset_on_drop();
                    return Err(Heard::Malformed(fault));
                }
            };
            let bytes = client.input.rest().get(..taken).unwrap_or_default();
            if !calling.body_is_gone {
                if exchange.gathered.len() + taken <= REPLAYED {
                    exchange.gathered.extend_from_slice(bytes);
                } else {
                    calling.body_is_gone = true;
                    calling.machine.body_is_gone();
                    exchange.gathered = Vec::new();
                }
            }
            let sent = match line.write(bytes) {
                Moved::Bytes(sent) => sent,
                Moved::Blocked => 0,
                Moved::Broken => taken,
            };
            line.output.push(bytes.get(sent..).unwrap_or_default(), &mut self.spare);
            client.input.consume(taken);
            self.progress(client, exchange, calling);
        }
        Ok(())
    }

    /// Something moved in a stream: the patience with it begins anew. An upload may take as long as it goes on, and the answer to it has
    /// the time of an attempt from its end; a limit that the caller has set stands.
    pub(super) fn progress(&self, client: &mut Client, exchange: &Exchange, calling: &Calling) {
        if !calling.delivering && exchange.request.head.contains("x-request-timeout-ms") {
            return;
        }
        let timeouts = calling.machine.timeouts();
        let moves = calling.delivering || !exchange.incoming.is_done();
        let patience = if moves { timeouts.idle_body_ms } else { timeouts.attempt_ms };
        client.until = self.timers.tick(self.now + patience.duration());
    }
}

impl Dial {
    /// Until when the current address may be tried: it gets an even share of the time that is left.
    fn share_ends(&self, now: Instant) -> Instant {
        let left = u32::try_from(self.addresses.len().saturating_sub(self.at)).unwrap_or(1).max(1);
        now + self.by.saturating_duration_since(now) / left
    }

    /// What it means that no address is left. A refusal says more than that another address is unreachable.
    fn failure(&self) -> ConnectFailure {
        match (self.addresses.is_empty(), self.refused) {
            (true, _) => ConnectFailure::NoAddress,
            (false, true) => ConnectFailure::Refused,
            (false, false) => ConnectFailure::Unreachable,
        }
    }
}
