//! A call in an event loop: the second driver of the call machine. It sends and listens as the machine says, and turns every wait into a
//! timer or a message to its loop; no rule of the mesh is in here.

use std::time::Duration;

use super::attempts::Underway;
use super::buffers::ALWAYS;
use super::client::Client;
use super::exchange::{Exchange, Flow, Task};
use super::forward;
use super::gate::Side;
use super::http1::Fault;
use super::reactor::Loop;
use super::slots::Key;
use super::timers::Tick;
use super::tunnel::{self, Tunnel};
use crate::contract::answer::{Answer, ApiError};
use crate::contract::handover::is_passed_on;
use crate::contract::request::Request;
use crate::contract::{envelope, paths};
use crate::mesh::Asked;
use crate::mesh::call::{Attempt, CallMachine, CallMeta, End, Mode, Step};
use crate::model::{Call, Cause, ConnectFailure, Failure, Fields, Headers, Invalid, Limit, Method, Reason, ServiceName};

/// How much of a body that streams is kept for another attempt.
pub(super) const REPLAYED: usize = 64 * 1024;

/// A call under way.
pub(super) struct Calling {
    pub(super) machine: CallMachine,
    pub(super) form: Form,
    /// The attempt under way.
    pub(super) attempt: Option<Underway>,
    /// The answer, where it is collected and came in more than one piece.
    pub(super) collected: Vec<u8>,
    /// Bytes of the request that the instance has not taken yet.
    pub(super) on_its_way: usize,
    /// The head of the answer has been passed on.
    pub(super) delivering: bool,
    pub(super) interim: u8,
    /// Part of the request's body is gone.
    pub(super) body_is_gone: bool,
}

/// How a call came in, and so how it is sent and how its answer is handed on.
pub(super) enum Form {
    /// As JSON.
    Invoke(Box<Call>),
    /// As a request to be passed on; `upgrade`: it asks for a WebSocket.
    Proxy { proxied: paths::Proxied, upgrade: bool },
}

/// What was heard of an attempt.
pub(super) enum Heard {
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
        let call = match read_call(client, exchange) {
            Ok(call) => call,
            Err(error) => return self.turn_away(client, exchange, error),
        };
        // What has been read out of it is enough; and it is to be sent.
        exchange.forget_large();
        let body = body_of(&call);
        if body > ALWAYS && !self.shared.has_room_for((2 * body).saturating_sub(client.charged)) {
            return self.out_of_buffers(client, exchange);
        }
        let meta = CallMeta::of(&call, exchange.id.clone());
        match self.shared.mesh.start(meta, self.wake(key), exchange.began) {
            Ok(machine) => {
                let form = Form::Invoke(Box::new(call));
                self.step(key, client, exchange, Calling::new(machine, form))
            }
            Err(error) => self.refuse(client, exchange, ApiError::Call(error)),
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
        // It is passed on as it came; but who reads it in any case must not be asked what a rule forbids.
        let method = Method::new(request.method()).unwrap_or(Method::Other);
        let caller = exchange.caller(client);
        let meta = CallMeta {
            endpoint: &forward::rooted(path),
            headers: &request.head,
            hash_key: None,
            caller: &caller,
            is_mirror: false,
            trace: None,
            service: &service,
            method,
            idempotent: method.is_idempotent() || request.method() == "TRACE" || request.head.contains("idempotency-key"),
            timeout: number("x-request-timeout-ms").map(Duration::from_millis),
            max_retries: None,
            hops: number("x-mesh-hops").map_or(0, |hops| u32::try_from(hops).unwrap_or(u32::MAX)),
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
    fn service_named(&mut self, text: &str) -> Result<ServiceName, Invalid> {
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
    pub(super) fn step(&mut self, key: Key, client: &mut Client, exchange: &mut Exchange, mut calling: Calling) -> Flow {
        loop {
            if self.hurried {
                calling.machine.hurry();
            }
            match calling.machine.step(self.now) {
                Step::Send(attempt) => {
                    if attempt.mirror.is_some() {
                        let copy = calling.form.copy(client, exchange, &attempt);
                        self.shared.mesh.mirror(calling.machine.service(), copy);
                    }
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
                calling.on_its_way = line.output.len();
                line.input.release(&mut self.spare);
                self.lines.give_back(line_key, line);
                exchange.task = Task::Call(calling);
                Flow::Wait
            }
            Heard::Switched => {
                self.lines.give_back(line_key, line);
                exchange.task = Task::Tunnel(Tunnel::new(line_key, calling.machine, calling.form));
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
                self.shared.mesh.observe_abandoned(&mut calling.machine, || calling.form.asked(exchange, client));
                self.counters().malformed.add(1);
                if calling.delivering { Flow::Abort } else { self.refuse(client, exchange, fault.into()) }
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

    /// An answer has come for which there is no room. The instance has done its part: it is not asked again.
    fn out_of_room(&mut self, client: &mut Client, exchange: &mut Exchange, calling: &Calling) -> Flow {
        self.counters().refused_buffers.add(1);
        let cause = Cause::Overloaded(Limit::Buffers);
        let asked = || calling.form.asked(exchange, client);
        let mut error = self.shared.mesh.refuse(calling.machine.service(), cause, exchange.id.clone(), exchange.began, asked);
        if let Some(Underway { attempt, .. }) = &calling.attempt {
            error.attempts = attempt.number;
            error.instance = Some(attempt.member.id.clone());
            error.not_sent = false;
        }
        self.refuse(client, exchange, ApiError::Call(Box::new(error)))
    }

    /// A call is over without an answer to pass on.
    fn conclude(&mut self, client: &mut Client, exchange: &mut Exchange, calling: &Calling, end: End) -> Flow {
        self.shared.mesh.observe(&calling.machine, &end.report, || calling.form.asked(exchange, client));
        if calling.delivering {
            return Flow::Abort;
        }
        let error = match end.result {
            Err(error) => error,
            // Cannot be: what is delivered is delivered where it is heard. If it could, it would be a broken answer.
            Ok(()) => {
                let asked = || calling.form.asked(exchange, client);
                self.shared.mesh.refuse(calling.machine.service(), Cause::Reset, exchange.id.clone(), exchange.began, asked)
            }
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
        let is_fallback = matches!(&error, ApiError::Call(call) if call.fallback.is_some());
        let mut answer = Answer::from(error);
        if is_fallback && client.door.side == Side::Both {
            forward::set_apart(&mut answer);
        }
        if !is_fallback && matches!(reason, Reason::UpstreamReset | Reason::UpstreamProtocol) {
            answer.status = 502;
        }
        self.say(client, exchange, &answer)
    }

    /// The time of whatever a call waits for is over.
    pub(super) fn late_call(&mut self, key: Key, client: &mut Client, exchange: &mut Exchange, mut calling: Calling) -> Flow {
        if let Some(flow) = self.caller_is_late(client, exchange, &mut calling) {
            return flow;
        }
        let Some(underway) = &mut calling.attempt else { return self.step(key, client, exchange, calling) };
        let line = underway.line;
        let dialling = underway.dial.is_some() && underway.by > self.timers.tick(self.now);
        if let Some(line) = self.lines.get_mut(line) {
            // The system would go on trying to deliver what nobody waits for any more.
            line.socket.reset_on_drop();
        }
        self.lines.remove(line);
        if dialling {
            return self.next_address(key, client, exchange, calling, &Failure::Connect(ConnectFailure::TimedOut));
        }
        let failure = if underway.dial.is_some() { Failure::Connect(ConnectFailure::TimedOut) } else { Failure::Timeout };
        self.attempt_failed(key, client, exchange, calling, failure)
    }

    /// What becomes of a call when it is its caller who keeps everybody waiting; the instance is not to blame, and the machine gives back
    /// what it holds.
    fn caller_is_late(&mut self, client: &mut Client, exchange: &mut Exchange, calling: &mut Calling) -> Option<Flow> {
        let underway = calling.attempt.as_ref().filter(|underway| underway.dial.is_none())?;
        let line = self.lines.get_mut(underway.line)?;
        let takes_nothing = calling.delivering && !client.output.is_empty();
        let sends_nothing = !exchange.incoming.is_done() && line.output.is_empty();
        if !takes_nothing && !sends_nothing {
            return None;
        }
        line.socket.reset_on_drop();
        self.lines.remove(underway.line);
        self.shared.mesh.observe_abandoned(&mut calling.machine, || calling.form.asked(exchange, client));
        let counters = self.counters();
        if takes_nothing { &counters.write_timeouts } else { &counters.body_timeouts }.add(1);
        if calling.delivering {
            return Some(Flow::Abort);
        }
        client.closes = true;
        Some(self.refuse(client, exchange, ApiError::Late("the body of the request")))
    }

    /// The caller has gone; the machine gives back what it holds.
    pub(super) fn abandon_call(&mut self, client: &Client, exchange: &Exchange, mut calling: Calling) {
        self.shared.mesh.observe_abandoned(&mut calling.machine, || calling.form.asked(exchange, client));
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

/// Reads the call that a request describes as JSON.
///
/// # Errors
/// What is wrong with it, or that its caller may not call that service.
pub(super) fn read_call(client: &Client, exchange: &mut Exchange) -> Result<Call, ApiError> {
    let mut headers = Headers::new();
    for (name, value) in exchange.request.head.fields().filter(|(name, value)| is_passed_on(name, value)) {
        headers.push(std::str::from_utf8(name).unwrap_or_default(), value);
    }
    let request = Request {
        method: "POST".into(),
        target: String::new(),
        headers,
        body: std::mem::take(&mut exchange.gathered),
        peer: client.address,
        id: exchange.id.clone(),
        waited: Duration::ZERO,
        grant: exchange.grant.clone(),
    };
    let call = envelope::call(&request);
    let may = call.as_ref().map_or(Ok(()), |call| request.may_touch(call.service.as_str()));
    exchange.gathered = request.body;
    may?;
    Ok(call?)
}

fn body_of(call: &Call) -> usize {
    call.body.as_ref().map_or(0, |body| body.len())
}

impl Form {
    /// The request of a call, for those who look at single calls.
    pub(super) fn asked<'a>(&'a self, exchange: &'a Exchange, client: &Client) -> Asked<'a> {
        match self {
            Self::Invoke(call) => Asked::of(call),
            Self::Proxy { proxied, .. } => proxied_asked(*proxied, exchange, client),
        }
    }

    /// The copy of a call that is to be mirrored; none when it cannot be copied, such as one whose body streams.
    fn copy(&self, client: &Client, exchange: &Exchange, attempt: &Attempt) -> Option<Call> {
        match self {
            Self::Invoke(call) => attempt.mirrored(call),
            Self::Proxy { proxied, upgrade: false } if exchange.incoming.is_done() => {
                attempt.mirrored(&forward::as_call(exchange, *proxied, client)?)
            }
            Self::Proxy { .. } => None,
        }
    }
}

/// The request of a call that is passed on.
pub(super) fn proxied_asked<'a>(proxied: paths::Proxied, exchange: &'a Exchange, client: &Client) -> Asked<'a> {
    let request = &exchange.request;
    let (_, endpoint) = paths::service_and_path(proxied, request.target(), request.authority(), &request.head);
    Asked { method: request.method(), endpoint, headers: &request.head, caller: client.address }
}

impl Calling {
    fn new(machine: CallMachine, form: Form) -> Self {
        Self { machine, form, attempt: None, collected: Vec::new(), on_its_way: 0, delivering: false, interim: 0, body_is_gone: false }
    }

    /// Bytes of request and answer held in memory.
    fn holds(&self) -> usize {
        let body = if let Form::Invoke(call) = &self.form { body_of(call) } else { 0 };
        body + self.on_its_way + self.collected.len()
    }
}

impl Exchange {
    /// Lets go of a body that has been large.
    pub(super) fn forget_large(&mut self) {
        if self.gathered.capacity() > ALWAYS {
            self.gathered = Vec::new();
        }
    }

    /// Bytes held in memory for it.
    pub(super) fn holds(&self) -> usize {
        let collected = if let Task::Call(calling) = &self.task { calling.holds() } else { 0 };
        self.gathered.len() + collected
    }

    /// Whether its answer is passed on as it comes.
    pub(super) const fn streams(&self) -> bool {
        match &self.task {
            Task::Call(calling) => calling.delivering,
            Task::Tunnel(_) | Task::Tap(_) => true,
            Task::None | Task::Gather(_) | Task::Watch(_) | Task::Hand(_) => false,
        }
    }

    /// Whether it waits for a time to come or a service to change.
    fn waits(&self) -> bool {
        match &self.task {
            Task::Call(calling) => calling.attempt.is_none(),
            Task::Watch(_) | Task::Tap(_) => true,
            Task::None | Task::Gather(_) | Task::Hand(_) | Task::Tunnel(_) => false,
        }
    }
}
