//! A call in an event loop: the second driver of the call machine. It sends and listens as the machine says, and turns every wait into a
//! timer or a message to its loop; no rule of the mesh is in here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::Client;
use super::exchange::{Exchange, Flow, Task};
use super::forward::{self, Delivered};
use super::http1::{Body, Fault, Framing};
use super::line::{Line, Phase};
use super::reactor::Loop;
use super::slots::Key;
use super::socket::{Moved, Socket};
use super::timers::Tick;
use super::tunnel::{self, Tunnel};
use crate::contract::answer::{Answer, ApiError};
use crate::contract::request::Request;
use crate::contract::{envelope, paths};
use crate::mesh::call::{Attempt, CallMachine, CallMeta, End, Mode, Step, Verdict};
use crate::mesh::{MAX_ANSWER, upstream_headers};
use crate::model::{Call, Cause, ConnectFailure, Failure, Fields, Limit, Method, Reason, ServiceName};

/// How much of a body that streams is kept for another attempt.
pub(super) const REPLAYED: usize = 64 * 1024;
/// Answers before the answer that are passed on; more are thrown away.
const MAX_INTERIM: u8 = 16;

/// A call under way.
pub(super) struct Calling {
    machine: CallMachine,
    form: Form,
    /// The attempt under way.
    attempt: Option<Underway>,
    /// The answer, where it is collected and came in more than one piece.
    collected: Vec<u8>,
    /// The head of the answer has been passed on.
    delivering: bool,
    interim: u8,
    /// Part of the request's body is gone.
    body_is_gone: bool,
}

/// How a call came in, and so how it is sent and how its answer is handed on.
pub(super) enum Form {
    /// As JSON.
    Invoke(Box<Call>),
    /// As a request to be passed on; `upgrade`: it asks for a WebSocket.
    Proxy { proxied: paths::Proxied, upgrade: bool },
}

/// An attempt under way.
pub(super) struct Underway {
    pub(super) attempt: Attempt,
    pub(super) began: Instant,
    line: Key,
    /// When it is over.
    by: Tick,
    /// Connecting, while that is not done.
    dial: Option<Dial>,
}

/// Trying one address after the other.
struct Dial {
    addresses: Vec<SocketAddr>,
    /// The one being tried.
    at: usize,
    by: Instant,
    refused: bool,
}

/// What was heard of an attempt.
enum Heard {
    /// Nothing that decides anything.
    Nothing,
    /// The machine has been told; ask it what comes next. The line may be used again.
    Told { reusable: bool },
    /// It failed.
    Failed(Failure),
    /// The answer has been passed on to its end.
    Delivered { reusable: bool },
    /// The instance has switched protocols.
    Switched,
    /// The body of the request is not one.
    Malformed(Fault),
    /// As much is in memory as may be, and the answer would be more.
    NoRoom,
}

impl Loop {
    /// `POST /invoke`: a call as JSON.
    pub(super) fn begin_invoke(&mut self, key: Key, client: &mut Client, exchange: &mut Exchange) -> Flow {
        let call = match envelope::call(&self.as_request(client, exchange)) {
            Ok(call) => call,
            Err(fault) => return self.refuse(client, exchange, fault.into()),
        };
        let meta = CallMeta::of(&call, exchange.id.clone());
        match self.shared.mesh.start(meta, self.wake(key), exchange.began) {
            Ok(machine) => {
                let form = Form::Invoke(Box::new(call));
                self.step(key, client, exchange, Calling::new(machine, form))
            }
            Err(error) => self.refuse(client, exchange, ApiError::Call(error)),
        }
    }

    /// A request as handlers and the envelope read it.
    pub(super) fn as_request(&self, client: &Client, exchange: &mut Exchange) -> Request {
        let mut headers = crate::model::Headers::new();
        for (name, value) in exchange.request.head.fields() {
            headers.push(name, value);
        }
        Request {
            method: "POST".into(),
            target: exchange.request.target().to_owned(),
            headers,
            body: exchange.gathered.clone(),
            peer: client.address,
            id: exchange.id.clone(),
            waited: Duration::ZERO,
        }
    }

    /// A request that is passed on as it is.
    pub(super) fn begin_proxy(&mut self, key: Key, client: &mut Client, exchange: &mut Exchange, proxied: paths::Proxied) -> Flow {
        let request = &exchange.request;
        let (service, path) = paths::service_and_path(proxied, request.target(), request.authority(), &request.head);
        let service = match self.service_named(service) {
            Ok(service) => service,
            Err(fault) => return self.refuse(client, exchange, fault.into()),
        };
        if let Err(fault) = forward::judge_path(path) {
            return self.refuse(client, exchange, fault.into());
        }
        let asks = tunnel::asked_for(request);
        if asks == tunnel::Asked::Other {
            return self.refuse(client, exchange, ApiError::Unsupported("the only protocol that can be upgraded to is websocket"));
        }
        let number = |name: &str| request.head.first(name).and_then(|text| text.parse::<u64>().ok());
        let method = Method::new(request.method()).ok().filter(|method| method.as_str() == request.method()).unwrap_or(Method::Other);
        let meta = CallMeta {
            service: &service,
            method,
            idempotent: method.is_idempotent() || request.method() == "TRACE" || request.head.contains("idempotency-key"),
            timeout: number("x-request-timeout-ms").map(Duration::from_millis),
            max_retries: None,
            hops: number("x-mesh-hops").and_then(|hops| u32::try_from(hops).ok()).unwrap_or(0),
            is_retry: number("x-mesh-attempt").is_some_and(|attempt| attempt > 1),
            request_id: exchange.id.clone(),
            mode: Mode::Stream,
        };
        match self.shared.mesh.start(meta, self.wake(key), exchange.began) {
            Ok(machine) => {
                let form = Form::Proxy { proxied, upgrade: asks == tunnel::Asked::WebSocket };
                self.step(key, client, exchange, Calling::new(machine, form))
            }
            Err(error) => self.say_failed(client, exchange, ApiError::Call(error)),
        }
    }

    /// A name, without an allocation when it was the last one as well.
    fn service_named(&mut self, text: &str) -> Result<ServiceName, crate::model::Invalid> {
        match &self.service {
            Some(service) if service.as_str() == text => Ok(service.clone()),
            _ => {
                let service = ServiceName::new(text)?;
                self.service = Some(service.clone());
                Ok(service)
            }
        }
    }

    /// Does what the machine says until there is something to wait for.
    fn step(&mut self, key: Key, client: &mut Client, exchange: &mut Exchange, mut calling: Calling) -> Flow {
        loop {
            if self.hurried {
                calling.machine.hurry();
            }
            match calling.machine.step(self.now) {
                Step::Send(attempt) => {
                    if let Err(failure) = self.send(key, client, exchange, &mut calling, attempt) {
                        calling.machine.failed(failure, self.now, self.roll());
                        continue;
                    }
                }
                Step::Queued { until } | Step::Wait { until } => client.until = self.timers.tick(until),
                Step::Done(end) => return self.conclude(client, exchange, &calling, end),
            }
            exchange.task = Task::Call(calling);
            return Flow::Wait;
        }
    }

    /// Sends an attempt on a connection that is there, or begins to make one.
    fn send(
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
            Some(line) => (line, None),
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
            self.lines.give_back(line, borrowed);
        }
        Ok(())
    }

    /// Begins to connect to the next address that can be tried.
    fn dial(&mut self, attempt: &Attempt, mut dial: Dial) -> Result<(Key, Dial), ConnectFailure> {
        while let Some(address) = dial.addresses.get(dial.at) {
            if self.now >= dial.by {
                return Err(ConnectFailure::TimedOut);
            }
            match Socket::connect(*address) {
                Ok(socket) => {
                    let line = Line::new(socket, Some(Arc::clone(&attempt.member)), Phase::Connecting);
                    return self.add_line(line).map(|key| (key, dial)).ok_or(ConnectFailure::Unreachable);
                }
                Err(error) => {
                    dial.refused |= error.kind() == std::io::ErrorKind::ConnectionRefused;
                    dial.at += 1;
                }
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
                forward::write_call(out, call, &headers, &attempt.member.authority);
                call.method == Method::Head
            }
            Form::Proxy { proxied, upgrade } => {
                forward::write_proxied(out, exchange, *proxied, *upgrade, attempt, client.address);
                exchange.request.method() == "HEAD"
            }
        };
        line.begin(key, to_head);
        if line.phase != Phase::Connecting {
            line.phase = Phase::Asked;
        }
    }

    /// Does what can be done about a call.
    pub(super) fn advance_call(&mut self, key: Key, client: &mut Client, exchange: &mut Exchange, mut calling: Calling) -> Flow {
        let Some(line_key) = calling.attempt.as_ref().map(|underway| underway.line) else {
            return self.step(key, client, exchange, calling);
        };
        let Some(mut line) = self.lines.lend(line_key) else {
            return self.attempt_failed(key, client, exchange, calling, Failure::Reset);
        };
        match self.converse(client, exchange, &mut calling, &mut line) {
            Heard::Nothing => {
                self.lines.give_back(line_key, line);
                exchange.task = Task::Call(calling);
                Flow::Wait
            }
            Heard::Switched => {
                self.lines.give_back(line_key, line);
                calling.machine.body_end(Ok(()), self.now, 0);
                calling.machine.step(self.now);
                exchange.task = Task::Tunnel(Tunnel::new(line_key));
                client.until = Tick::NEVER;
                Flow::Again
            }
            Heard::Told { reusable } => {
                calling.attempt = None;
                self.park(line_key, line, reusable && exchange.incoming.is_done());
                self.step(key, client, exchange, calling)
            }
            Heard::Delivered { reusable } => {
                self.park(line_key, line, reusable && exchange.incoming.is_done());
                Flow::Over
            }
            Heard::Failed(failure) => {
                self.lines.remove(line_key);
                if calling.attempt.as_ref().is_some_and(|underway| underway.dial.is_some()) {
                    return self.next_address(key, client, exchange, calling, &failure);
                }
                self.attempt_failed(key, client, exchange, calling, failure)
            }
            Heard::NoRoom => {
                self.lines.remove(line_key);
                self.out_of_room(client, exchange, &calling)
            }
            Heard::Malformed(fault) => {
                self.lines.remove(line_key);
                self.counters().malformed.add(1);
                if calling.delivering { Flow::Abort } else { self.refuse(client, exchange, fault.into()) }
            }
        }
    }

    /// An address could not be connected to; the next one may be.
    fn next_address(&mut self, key: Key, client: &mut Client, exchange: &mut Exchange, mut calling: Calling, failure: &Failure) -> Flow {
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
                let why = if *failure == Failure::Connect(ConnectFailure::TimedOut) && why == ConnectFailure::Unreachable {
                    ConnectFailure::TimedOut
                } else {
                    why
                };
                calling.machine.failed(Failure::Connect(why), self.now, self.roll());
                self.step(key, client, exchange, calling)
            }
        }
    }

    /// An attempt has failed; its line is gone.
    fn attempt_failed(&mut self, key: Key, client: &mut Client, exchange: &mut Exchange, mut calling: Calling, failure: Failure) -> Flow {
        calling.attempt = None;
        calling.collected = Vec::new();
        let roll = self.roll();
        // The machine knows which of the two it waits for.
        calling.machine.body_end(Err(failure.clone()), self.now, roll);
        calling.machine.failed(failure, self.now, roll);
        self.step(key, client, exchange, calling)
    }

    /// Sends and hears what can be sent and heard.
    fn converse(&mut self, client: &mut Client, exchange: &mut Exchange, calling: &mut Calling, line: &mut Line) -> Heard {
        if line.phase == Phase::Connecting {
            if !line.readiness.writable && !line.readiness.broken {
                return Heard::Nothing;
            }
            if let Err(error) = line.socket.connected() {
                return Heard::Failed(Failure::Connect(match error.kind() {
                    std::io::ErrorKind::ConnectionRefused => ConnectFailure::Refused,
                    std::io::ErrorKind::TimedOut => ConnectFailure::TimedOut,
                    _ => ConnectFailure::Unreachable,
                }));
            }
            line.phase = Phase::Asked;
            if let Some(underway) = &mut calling.attempt {
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
        while !exchange.incoming.is_done() && line.output.is_empty() && !line.deaf {
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
            let sent = match line.socket.write(bytes) {
                Moved::Bytes(sent) => sent,
                Moved::Blocked => 0,
                Moved::Broken => {
                    line.deaf = true;
                    line.readiness.readable = true;
                    taken
                }
            };
            line.output.push(bytes.get(sent..).unwrap_or_default(), &mut self.spare);
            client.input.consume(taken);
            self.progress(client, calling);
        }
        Ok(())
    }

    /// Something moved in a stream: the patience with it begins anew. Before the head of the answer, the attempt has its own time.
    fn progress(&self, client: &mut Client, calling: &Calling) {
        if calling.delivering {
            let idle = calling.machine.policy().timeouts.idle_body_ms.duration();
            client.until = self.timers.tick(self.now + idle);
        }
    }

    /// Waits for the head of the answer. `None`: it has come, and its body is to follow.
    fn await_head(&mut self, client: &mut Client, exchange: &mut Exchange, calling: &mut Calling, line: &mut Line) -> Option<Heard> {
        loop {
            if !line.input.is_empty() {
                match line.answer.parse(line.input.rest(), line.to_head) {
                    Ok(None) => {}
                    Ok(Some(length)) => {
                        line.input.consume(length);
                        if !line.answer.is_interim() {
                            return self.head_has_come(client, exchange, calling, line);
                        }
                        self.pass_interim(client, exchange, calling, line);
                        continue;
                    }
                    Err(fault) => return Some(Heard::Failed(protocol(fault))),
                }
            }
            match line.read(&mut self.spare, line.input.len()) {
                Moved::Bytes(0) | Moved::Broken => {
                    let written = line.output.is_empty() && !line.deaf;
                    let stale = line.used && !line.answered;
                    return Some(Heard::Failed(if stale { Failure::Stale { written } } else { Failure::Reset }));
                }
                Moved::Blocked => return Some(Heard::Nothing),
                Moved::Bytes(_) => {}
            }
        }
    }

    /// Answers before the answer, such as 103, go to callers that understand them.
    fn pass_interim(&mut self, client: &mut Client, exchange: &Exchange, calling: &mut Calling, line: &Line) {
        let passed_on = matches!(calling.form, Form::Proxy { .. }) && !exchange.request.is_1_0() && line.answer.status != 100;
        if passed_on && calling.interim < MAX_INTERIM {
            calling.interim += 1;
            forward::write_interim(client.output.out(&mut self.spare), &line.answer);
        }
    }

    /// The head of the answer has come.
    fn head_has_come(&mut self, client: &mut Client, exchange: &mut Exchange, calling: &mut Calling, line: &mut Line) -> Option<Heard> {
        let status = line.answer.status;
        let upgrade = matches!(calling.form, Form::Proxy { upgrade: true, .. });
        if status == 101 && !upgrade {
            return Some(Heard::Failed(Failure::Protocol("a switch of protocols nobody asked for".into())));
        }
        let verdict = calling.machine.head(status, &line.answer.head, self.now, self.roll());
        line.body = Body::new(line.answer.framing());
        line.phase = Phase::Answering;
        match verdict {
            Verdict::Discard => {
                // What has come with the head is all that is thrown away; a line with more to come is not worth waiting for.
                let taken = line.body.pass(line.input.rest()).unwrap_or(0);
                line.input.consume(taken);
                Some(Heard::Told { reusable: line.body.is_done() && line.answer.persists() && line.input.is_empty() })
            }
            Verdict::Collect => None,
            Verdict::Deliver => {
                calling.delivering = true;
                self.progress(client, calling);
                if status == 101 {
                    self.write_switch(client, exchange, line);
                    return Some(Heard::Switched);
                }
                client.closes |= line.answer.framing() == Framing::UntilClose
                    || line.answer.framing() == Framing::Chunked && exchange.request.is_1_0()
                    || !exchange.incoming.is_done();
                self.write_head(client, exchange, calling, line, None);
                None
            }
        }
    }

    /// Writes the head of an answer to the caller; `collected`: how long its body is, which is here whole.
    fn write_head(&mut self, client: &mut Client, exchange: &Exchange, calling: &Calling, line: &Line, collected: Option<u64>) {
        let Some(underway) = &calling.attempt else { return };
        let persistence = self.persistence(client, exchange);
        let delivered = Delivered {
            member: &underway.attempt.member,
            attempts: underway.attempt.number,
            took: self.now.saturating_duration_since(underway.began),
            id: &exchange.id,
            persistence,
            collected,
            is_1_0: exchange.request.is_1_0(),
        };
        forward::write_answer_head(client.output.out(&mut self.spare), &line.answer, &delivered);
    }

    fn write_switch(&mut self, client: &mut Client, exchange: &Exchange, line: &Line) {
        forward::write_switch(client.output.out(&mut self.spare), &line.answer, &exchange.id);
    }

    /// Takes the body of the answer as it comes: collects it, or passes it on.
    fn take_body(&mut self, client: &mut Client, exchange: &mut Exchange, calling: &mut Calling, line: &mut Line) -> Heard {
        let heard = if calling.delivering {
            self.relay(client, exchange, calling, line)
        } else if let Some(heard) = self.collect(client, exchange, calling, line).transpose() {
            heard
        } else {
            return Heard::NoRoom;
        };
        match heard {
            Ok(true) => {
                let reusable = line.answer.persists() && line.input.is_empty() && line.output.is_empty() && !line.deaf;
                Heard::Delivered { reusable }
            }
            Ok(false) => Heard::Nothing,
            Err(failure) => Heard::Failed(failure),
        }
    }

    /// Collects the body, and delivers the answer once it is whole. Answers whether it is; `None` when there is no room for it.
    fn collect(
        &mut self,
        client: &mut Client,
        exchange: &Exchange,
        calling: &mut Calling,
        line: &mut Line,
    ) -> Result<Option<bool>, Failure> {
        let mut collected = std::mem::take(&mut calling.collected);
        loop {
            let piece = line.body.take(line.input.rest()).map_err(protocol)?;
            let data = line.input.rest().get(piece.data.clone()).unwrap_or_default();
            if collected.len() + data.len() > MAX_ANSWER {
                return Err(Failure::Protocol(format!("the body is longer than {MAX_ANSWER} bytes").into()));
            }
            if line.body.is_done() && collected.is_empty() {
                // Most answers come in one piece, and are passed on without being copied.
                self.deliver(client, exchange, calling, line, piece.data)?;
                line.input.consume(piece.taken);
                return Ok(Some(true));
            }
            let more = collected.len() + data.len();
            if more > LARGE && !self.shared.has_room_for(more.saturating_sub(client.charged)) {
                return Ok(None);
            }
            collected.extend_from_slice(data);
            line.input.consume(piece.taken);
            if line.body.is_done() {
                calling.collected = collected;
                self.deliver(client, exchange, calling, line, 0..0)?;
                return Ok(Some(true));
            }
            if piece.taken > 0 && !line.input.is_empty() {
                continue;
            }
            match line.read(&mut self.spare, collected.len()) {
                Moved::Bytes(0) if line.body.may_end_here() => {
                    calling.collected = collected;
                    self.deliver(client, exchange, calling, line, 0..0)?;
                    return Ok(Some(true));
                }
                Moved::Bytes(0) | Moved::Broken => return Err(Failure::Reset),
                Moved::Blocked => {
                    calling.collected = collected;
                    return Ok(Some(false));
                }
                Moved::Bytes(_) => {}
            }
        }
    }

    /// Hands a collected answer to the caller: what was collected, or that part of the line's input.
    fn deliver(
        &mut self,
        client: &mut Client,
        exchange: &Exchange,
        calling: &mut Calling,
        line: &Line,
        data: std::ops::Range<usize>,
    ) -> Result<(), Failure> {
        calling.machine.body_end(Ok(()), self.now, 0);
        let Step::Done(End { result: Ok(()), .. }) = calling.machine.step(self.now) else { return Err(Failure::Reset) };
        let collected = std::mem::take(&mut calling.collected);
        let body = if collected.is_empty() { line.input.rest().get(data).unwrap_or_default() } else { &collected };
        self.write_head(client, exchange, calling, line, Some(body.len() as u64));
        if !crate::contract::wire::is_bodiless(line.answer.status) {
            client.output.push(body, &mut self.spare);
        }
        Ok(())
    }

    /// Passes the body on, as fast as the caller takes it. Answers whether all of it has been.
    fn relay(&mut self, client: &mut Client, exchange: &Exchange, calling: &mut Calling, line: &mut Line) -> Result<bool, Failure> {
        let unchunk = line.answer.framing() == Framing::Chunked && exchange.request.is_1_0();
        for _ in 0..TURN {
            if !line.input.is_empty() {
                let taken = if unchunk {
                    let piece = line.body.take(line.input.rest()).map_err(protocol)?;
                    client.output.push(line.input.rest().get(piece.data).unwrap_or_default(), &mut self.spare);
                    piece.taken
                } else {
                    let taken = line.body.pass(line.input.rest()).map_err(protocol)?;
                    client.output.push(line.input.rest().get(..taken).unwrap_or_default(), &mut self.spare);
                    taken
                };
                line.input.consume(taken);
                self.progress(client, calling);
            }
            if line.body.is_done() {
                break;
            }
            if !line.input.is_empty() {
                continue;
            }
            self.flush(client);
            if !client.output.is_empty() {
                return Ok(false);
            }
            match line.read(&mut self.spare, REPLAYED) {
                Moved::Bytes(0) if line.body.may_end_here() => {
                    line.body = Body::default();
                    break;
                }
                Moved::Bytes(0) | Moved::Broken => return Err(Failure::Reset),
                Moved::Blocked => return Ok(false),
                Moved::Bytes(_) => {}
            }
        }
        if !line.body.is_done() {
            // Others have a turn before there is more.
            self.again.extend(line.owner);
            return Ok(false);
        }
        calling.machine.body_end(Ok(()), self.now, 0);
        calling.machine.step(self.now);
        Ok(true)
    }

    /// An answer has come for which there is no room. The instance has done its part: it is not asked again.
    fn out_of_room(&mut self, client: &mut Client, exchange: &mut Exchange, calling: &Calling) -> Flow {
        self.counters().refused_buffers.add(1);
        let cause = Cause::Overloaded(Limit::Buffers);
        let mut error = self.shared.mesh.refuse(calling.machine.service(), cause, exchange.id.clone(), exchange.began);
        if let Some(Underway { attempt, .. }) = &calling.attempt {
            error.attempts = attempt.number;
            error.instance = Some(attempt.member.id.clone());
            error.not_sent = false;
        }
        self.refuse(client, exchange, ApiError::Call(Box::new(error)))
    }

    /// A call is over without an answer to pass on.
    fn conclude(&mut self, client: &mut Client, exchange: &mut Exchange, calling: &Calling, end: End) -> Flow {
        if calling.delivering {
            return Flow::Abort;
        }
        let error = match end.result {
            Err(error) => error,
            // Cannot be: what is delivered is delivered where it is heard. If it could, it would be a broken answer.
            Ok(()) => self.shared.mesh.refuse(calling.machine.service(), Cause::Reset, exchange.id.clone(), exchange.began),
        };
        let error = ApiError::Call(Box::new(error));
        match calling.form {
            Form::Invoke(_) => self.refuse(client, exchange, error),
            Form::Proxy { .. } => self.say_failed(client, exchange, error),
        }
    }

    /// Answers that a request could not be passed on. What the instance did wrong is a bad gateway there.
    fn say_failed(&mut self, client: &mut Client, exchange: &mut Exchange, error: ApiError) -> Flow {
        let reason = error.reason();
        let mut answer = Answer::from(error);
        if matches!(reason, Reason::UpstreamReset | Reason::UpstreamProtocol) {
            answer.status = 502;
        }
        self.say(client, exchange, &answer)
    }

    /// The time of whatever a call waits for is over.
    pub(super) fn late_call(&mut self, key: Key, client: &mut Client, exchange: &mut Exchange, mut calling: Calling) -> Flow {
        if let Some(flow) = self.caller_is_late(client, exchange, &calling) {
            return flow;
        }
        let Some(underway) = &mut calling.attempt else { return self.step(key, client, exchange, calling) };
        let line = underway.line;
        let dialling = underway.dial.is_some() && underway.by > self.timers.tick(self.now);
        self.lines.remove(line);
        if dialling {
            return self.next_address(key, client, exchange, calling, &Failure::Connect(ConnectFailure::TimedOut));
        }
        let failure = if underway.dial.is_some() { Failure::Connect(ConnectFailure::TimedOut) } else { Failure::Timeout };
        self.attempt_failed(key, client, exchange, calling, failure)
    }

    /// What becomes of a call when it is its caller who keeps everybody waiting; the instance is not to blame, and the machine gives back
    /// what it holds.
    fn caller_is_late(&mut self, client: &mut Client, exchange: &mut Exchange, calling: &Calling) -> Option<Flow> {
        let underway = calling.attempt.as_ref().filter(|underway| underway.dial.is_none())?;
        let line = self.lines.get_mut(underway.line)?;
        let takes_nothing = calling.delivering && !client.output.is_empty();
        let sends_nothing = !exchange.incoming.is_done() && line.output.is_empty();
        if !takes_nothing && !sends_nothing {
            return None;
        }
        line.socket.reset_on_drop();
        self.lines.remove(underway.line);
        let counters = self.counters();
        if takes_nothing { &counters.write_timeouts } else { &counters.body_timeouts }.add(1);
        if calling.delivering {
            return Some(Flow::Abort);
        }
        client.closes = true;
        Some(self.refuse(client, exchange, ApiError::Late("the body of the request")))
    }

    /// The caller has gone; the machine gives back what it holds.
    pub(super) fn abandon_call(&mut self, calling: Calling) {
        if let Some(underway) = calling.attempt {
            self.lines.remove(underway.line);
        }
    }

    /// Waits between attempts are over.
    pub(super) fn hurry(&mut self) {
        self.hurried = true;
        for key in self.clients.keys() {
            let waits = self.clients.get_mut(key).is_some_and(|client| client.exchange.as_ref().is_some_and(|exchange| exchange.waits()));
            if waits {
                self.again.push(key);
            }
        }
    }
}

/// Answers up to here are collected whatever else is in memory.
const LARGE: usize = 64 * 1024;
/// How often a stream is read before others have a turn.
const TURN: usize = 16;

impl Calling {
    fn new(machine: CallMachine, form: Form) -> Self {
        Self { machine, form, attempt: None, collected: Vec::new(), delivering: false, interim: 0, body_is_gone: false }
    }

    /// Bytes of the answer held in memory.
    fn holds(&self) -> usize {
        self.collected.len()
    }
}

impl Exchange {
    /// Bytes held in memory for it.
    pub(super) fn holds(&self) -> usize {
        let collected = if let Task::Call(calling) = &self.task { calling.holds() } else { 0 };
        self.gathered.len() + collected
    }

    /// Whether its answer is passed on as it comes.
    pub(super) const fn streams(&self) -> bool {
        match &self.task {
            Task::Call(calling) => calling.delivering,
            Task::Tunnel(_) => true,
            Task::None | Task::Gather(_) | Task::Watch(_) | Task::Hand(_) => false,
        }
    }

    /// Whether it waits for a time to come or a service to change.
    fn waits(&self) -> bool {
        match &self.task {
            Task::Call(calling) => calling.attempt.is_none(),
            Task::Watch(_) => true,
            Task::None | Task::Gather(_) | Task::Hand(_) | Task::Tunnel(_) => false,
        }
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

fn protocol(fault: Fault) -> Failure {
    Failure::Protocol(match fault {
        Fault::Malformed(why) => why.into(),
        Fault::HeadTooLarge | Fault::TargetTooLong => "the head is larger than 16 KiB, or has more than 100 fields".into(),
        Fault::Version => "another version of HTTP".into(),
    })
}
