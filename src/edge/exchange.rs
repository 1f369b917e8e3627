//! One request from its head to its answer: what it is about, its body where that is taken in whole, and who is to answer it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::buffers::{ALWAYS, gather};
use super::calls::Calling;
use super::client::{Client, Stage};
use super::config::InvokeOn;
use super::gate::Side;
use super::http1::{Body, Fault, Framing, RequestHead};
use super::inner::Hand;
use super::reactor::{Loop, Turn};
use super::slots::Key;
use super::socket::Moved;
use super::timers::Tick;
use super::tunnel::Tunnel;
use super::watch::Watch;
use crate::contract::answer::{Answer, ApiError};
use crate::contract::caller::Grant;
use crate::contract::paths;
use crate::contract::wire::{Persistence, write_answer, write_answer_with};
use crate::model::{Fields, Limit, RequestId};
use crate::telemetry::taps::Tap;

/// A request being answered. Made to be used again.
pub(super) struct Exchange {
    pub(super) request: RequestHead,
    /// Where the request's body has come to.
    pub(super) incoming: Body,
    /// What has come of the body: decoded where it is taken in whole; as it came, for another attempt, where it streams.
    pub(super) gathered: Vec<u8>,
    pub(super) id: RequestId,
    pub(super) began: Instant,
    /// Who has sent it, where that has to be proven.
    pub(super) grant: Option<Arc<Grant>>,
    /// `Authorization` has a token for the mesh, which is nobody else's business.
    pub(super) token_in_authorization: bool,
    /// It comes from a page that may see its answer.
    pub(super) cors: bool,
    told_to_go_on: bool,
    pub(super) task: Task,
}

/// What is being done about a request.
#[allow(clippy::large_enum_variant)] // An exchange is kept and used again, so that this costs no allocation for each call.
pub(super) enum Task {
    /// Nothing yet, or any more.
    None,
    /// Its body is taken in.
    Gather(Goal),
    /// It waits for a service to change.
    Watch(Watch),
    /// It watches calls.
    Tap(Tap),
    /// The API server answers it.
    Hand(Hand),
    /// It is a call.
    Call(Calling),
    /// It has become a tunnel.
    Tunnel(Tunnel),
}

/// What is to be done about a request once its body is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Goal {
    Api,
    Invoke,
    /// A call of the service named in it; what follows the service in the target begins there.
    Proxy(paths::Proxied),
}

/// What came of doing what can be done now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flow {
    /// More can be done.
    Again,
    /// Nothing before something else happens.
    Wait,
    /// The answer is written.
    Over,
    /// The connection must break, so that nobody takes what was written for an answer.
    Abort,
}

impl Exchange {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            request: RequestHead::default(),
            incoming: Body::default(),
            gathered: Vec::new(),
            id: RequestId::from_roll(0, 0),
            began: now,
            grant: None,
            token_in_authorization: false,
            cors: false,
            told_to_go_on: false,
            task: Task::None,
        }
    }

    pub(super) fn head_only(&self) -> bool {
        self.request.method() == "HEAD"
    }
}

impl Loop {
    /// Begins with the next request that has come whole up to the end of its head. Answers whether there was one.
    pub(super) fn begin(&mut self, key: Key, client: &mut Client) -> bool {
        let input = client.input.rest();
        let limits = self.shared.limits;
        // Reading a head again is worth it only when another line has come, or too much.
        let news = input.get(client.seen..).unwrap_or_default();
        if input.is_empty() || (client.seen > 0 && !news.contains(&b'\n') && input.len() <= limits.target) {
            client.seen = client.input.len();
            return false;
        }
        let mut exchange = self.exchanges.pop().unwrap_or_else(|| Box::new(Exchange::new(self.now)));
        match exchange.request.parse(input, limits) {
            Ok(None) => {
                client.seen = input.len();
                if client.stage == Stage::Idle {
                    client.stage = Stage::Head;
                    client.until = self.timers.tick(self.now + self.shared.config.head_timeout_ms.duration());
                }
                self.exchanges.push(exchange);
                false
            }
            Ok(Some(length)) => {
                client.seen = 0;
                client.input.consume(length);
                self.route(key, client, exchange);
                true
            }
            Err(fault) => {
                self.exchanges.push(exchange);
                self.refuse_head(client, fault);
                true
            }
        }
    }

    /// Answers a head that cannot be one. Whatever comes after it on this connection means nothing.
    fn refuse_head(&self, client: &mut Client, fault: Fault) {
        match fault {
            Fault::HeadTooLarge | Fault::TargetTooLong => self.counters().heads_too_large.add(1),
            Fault::Malformed(_) | Fault::Version => self.counters().malformed.add(1),
        }
        self.refuse_at_once(client, fault.into());
    }

    /// Answers a request of which nothing is known, and closes.
    pub(super) fn refuse_at_once(&self, client: &mut Client, error: ApiError) {
        client.closes = true;
        client.stage = Stage::Idle;
        let mut bytes = Vec::new();
        write_answer(&mut bytes, &error.into(), &self.fresh_id(), Persistence::Closes, false);
        // Rare enough for a buffer of its own.
        client.output.push(&bytes, &mut super::buffers::Spare::default());
    }

    /// Finds out what a request is about.
    fn route(&mut self, key: Key, client: &mut Client, mut exchange: Box<Exchange>) {
        self.counters().requests.add(1);
        let request = &exchange.request;
        client.closes = !request.persists() || self.shared.closing.load(Ordering::Relaxed);
        let id = request.head.first("x-request-id").and_then(RequestId::from_caller);
        exchange.id = id.unwrap_or_else(|| self.fresh_id());
        exchange.incoming = Body::of_request(request.framing());
        exchange.began = self.now;
        exchange.told_to_go_on = !request.expects_continue();
        exchange.gathered.clear();
        exchange.cors = false;
        if super::health::asks_for_health(request) && exchange.incoming.is_done() {
            self.tell_health(client, &exchange);
            return self.finish(client, exchange);
        }
        client.stage = Stage::Busy;
        let flow = self.set_out(key, client, &mut exchange);
        self.follow(key, client, exchange, flow);
    }

    /// Begins to do something about a request.
    fn set_out(&mut self, key: Key, client: &mut Client, exchange: &mut Exchange) -> Flow {
        let request = &exchange.request;
        let goal = match paths::goal(request.method(), request.target(), request.authority(), &request.head) {
            paths::Goal::Api => Goal::Api,
            paths::Goal::Invoke => Goal::Invoke,
            paths::Goal::Proxy(proxied) => Goal::Proxy(proxied),
        };
        // Whoever asks for a tunnel may have begun to use it: what comes next need not be a request, whatever the answer.
        let is_connect = request.method() == "CONNECT";
        client.closes |= is_connect;
        let is_here = match client.door.side {
            Side::Both => true,
            Side::Calls => goal != Goal::Api,
            Side::Api => goal == Goal::Api,
        };
        if !is_here {
            let accept = request.head.first("accept").unwrap_or_default();
            let answer = Answer::nothing_here(accept.to_ascii_lowercase().contains("application/json"));
            return self.say(client, exchange, &answer);
        }
        if let Some(flow) = self.judge_page(client, exchange, goal) {
            return flow;
        }
        if let Err(why) = self.identify(client, exchange, goal) {
            return self.turn_away(client, exchange, why);
        }
        let request = &exchange.request;
        let most = self.most_gathered(goal);
        match (goal, request.framing()) {
            _ if is_connect => {
                return self.refuse(client, exchange, ApiError::WrongMethod(vec!["GET", "POST", "PUT", "DELETE"]));
            }
            // It streams, and need not be here before the call begins.
            (Goal::Proxy(proxied), Framing::Chunked) => return self.begin_proxy(key, client, exchange, proxied),
            (Goal::Proxy(proxied), Framing::Length(length)) if length > most as u64 => {
                return self.begin_proxy(key, client, exchange, proxied);
            }
            (_, Framing::Length(length)) if length > most as u64 => return self.too_large(client, exchange),
            (_, Framing::Length(length))
                if length > ALWAYS as u64 && !self.shared.has_room_for(usize::try_from(length).unwrap_or(usize::MAX)) =>
            {
                return self.out_of_buffers(client, exchange);
            }
            _ => {}
        }
        client.until = self.timers.tick(self.now + self.shared.config.body_timeout_ms.duration());
        exchange.task = Task::Gather(goal);
        self.gather(key, client, exchange, goal)
    }

    /// How large a body may be that is taken in whole.
    fn most_gathered(&self, goal: Goal) -> usize {
        match goal {
            Goal::Api | Goal::Invoke => self.shared.config.max_body_bytes,
            Goal::Proxy(_) => super::calls::REPLAYED,
        }
    }

    /// Does what can be done about the request of a client.
    pub(super) fn advance(&mut self, key: Key, client: &mut Client) -> Flow {
        let Some(mut exchange) = client.exchange.take() else { return Flow::Over };
        let flow = match std::mem::replace(&mut exchange.task, Task::None) {
            Task::None => Flow::Over,
            Task::Gather(goal) => {
                exchange.task = Task::Gather(goal);
                self.gather(key, client, &mut exchange, goal)
            }
            Task::Watch(watch) => self.look_again(key, client, &mut exchange, watch),
            Task::Tap(tap) => self.advance_tap(key, client, &mut exchange, tap),
            Task::Hand(hand) => self.advance_hand(key, client, &mut exchange, hand),
            Task::Call(calling) => self.advance_call(key, client, &mut exchange, calling),
            Task::Tunnel(tunnel) => self.advance_tunnel(key, client, &mut exchange, tunnel),
        };
        self.follow(key, client, exchange, flow);
        flow
    }

    /// Leaves the exchange as the flow says.
    fn follow(&mut self, _: Key, client: &mut Client, exchange: Box<Exchange>, flow: Flow) {
        match flow {
            Flow::Again | Flow::Wait => client.exchange = Some(exchange),
            Flow::Over => self.finish(client, exchange),
            Flow::Abort => {
                self.counters().broken_off.add(1);
                client.socket.reset_on_drop();
                client.readiness.broken = true;
            }
        }
    }

    /// The answer is written; the connection is free for the next request.
    fn finish(&mut self, client: &mut Client, mut exchange: Box<Exchange>) {
        // What is left of a body cannot be told from a request.
        client.closes |= !exchange.incoming.is_done();
        exchange.task = Task::None;
        exchange.forget_large();
        if self.exchanges.len() < SPARE_EXCHANGES {
            self.exchanges.push(exchange);
        }
        client.stage = Stage::Idle;
        client.until = self.timers.tick(self.now + self.shared.config.idle_timeout_ms.duration());
    }

    /// Takes in the body, and then does what it is for.
    fn gather(&mut self, key: Key, client: &mut Client, exchange: &mut Exchange, goal: Goal) -> Flow {
        let most = self.most_gathered(goal);
        let mut turn = Turn::new();
        while !exchange.incoming.is_done() {
            if client.input.is_empty() {
                if turn.is_over() {
                    self.again.push(key);
                    return Flow::Wait;
                }
                self.tell_to_go_on(client, exchange);
                match client.read(&mut self.spare, exchange.gathered.len()) {
                    Moved::Bytes(0) | Moved::Broken => return Flow::Abort,
                    Moved::Blocked => return Flow::Wait,
                    Moved::Bytes(_) => {}
                }
            }
            let piece = match exchange.incoming.take(client.input.rest()) {
                Ok(piece) => piece,
                Err(fault) => {
                    self.counters().malformed.add(1);
                    client.closes = true;
                    return self.refuse(client, exchange, fault.into());
                }
            };
            let data = client.input.rest().get(piece.data.clone()).unwrap_or_default();
            // A chunk says beforehand how long it will be.
            let announced = usize::try_from(exchange.incoming.announced()).unwrap_or(usize::MAX);
            let all = exchange.gathered.len() + data.len();
            if all.saturating_add(announced) > most {
                return self.too_large(client, exchange);
            }
            if all > ALWAYS && !self.shared.has_room_for(all.saturating_sub(client.charged)) {
                return self.out_of_buffers(client, exchange);
            }
            gather(&mut exchange.gathered, data, exchange.incoming.left());
            client.input.consume(piece.taken);
        }
        client.until = Tick::NEVER;
        match goal {
            Goal::Api => self.begin_api(key, client, exchange),
            Goal::Invoke if self.shared.config.invoke_on == InvokeOn::Workers => self.begin_on_workers(key, client, exchange),
            Goal::Invoke => self.begin_invoke(key, client, exchange),
            Goal::Proxy(proxied) => self.begin_proxy(key, client, exchange, proxied),
        }
    }

    /// Tells a client that waits for it to send its body.
    pub(super) fn tell_to_go_on(&mut self, client: &mut Client, exchange: &mut Exchange) {
        if !std::mem::replace(&mut exchange.told_to_go_on, true) {
            client.output.push(b"HTTP/1.1 100 Continue\r\n\r\n", &mut self.spare);
            self.flush(client);
        }
    }

    /// Whatever a client's request waits for has taken too long.
    pub(super) fn late(&mut self, key: Key, client: &mut Client) -> Flow {
        let Some(mut exchange) = client.exchange.take() else { return Flow::Over };
        let flow = match std::mem::replace(&mut exchange.task, Task::None) {
            Task::None => Flow::Over,
            Task::Gather(_) => {
                self.counters().body_timeouts.add(1);
                client.closes = true;
                self.refuse(client, &mut exchange, ApiError::Late("the body of the request"))
            }
            Task::Watch(watch) => self.look_again(key, client, &mut exchange, watch),
            Task::Hand(hand) => self.late_hand(key, client, &mut exchange, hand),
            Task::Call(calling) => self.late_call(key, client, &mut exchange, calling),
            Task::Tunnel(tunnel) => self.late_tunnel(client, &mut exchange, tunnel),
            Task::Tap(_) => Flow::Abort,
        };
        self.follow(key, client, exchange, flow);
        flow
    }

    /// A client has gone: whatever its request holds is given back.
    pub(super) fn abandon(&mut self, key: Key, client: &Client, mut exchange: Box<Exchange>) {
        match std::mem::replace(&mut exchange.task, Task::None) {
            Task::None | Task::Gather(_) | Task::Tap(_) => {}
            Task::Watch(watch) => self.abandon_watch(key, &watch),
            Task::Hand(hand) => self.abandon_hand(key, hand),
            Task::Call(calling) => self.abandon_call(client, &exchange, calling),
            Task::Tunnel(tunnel) => self.abandon_tunnel(client, &exchange, tunnel),
        }
    }

    fn too_large(&mut self, client: &mut Client, exchange: &mut Exchange) -> Flow {
        self.counters().bodies_too_large.add(1);
        client.closes = true;
        let most = self.shared.config.max_body_bytes;
        self.refuse(client, exchange, ApiError::TooLarge(most))
    }

    pub(super) fn out_of_buffers(&mut self, client: &mut Client, exchange: &mut Exchange) -> Flow {
        self.counters().refused_buffers.add(1);
        client.closes = true;
        self.refuse(client, exchange, ApiError::Full(Limit::Buffers))
    }

    /// Answers a request with an error.
    pub(super) fn refuse(&mut self, client: &mut Client, exchange: &mut Exchange, error: ApiError) -> Flow {
        self.say(client, exchange, &error.into())
    }

    /// Answers a request.
    pub(super) fn say(&mut self, client: &mut Client, exchange: &Exchange, answer: &Answer) -> Flow {
        client.closes |= !exchange.incoming.is_done();
        let persistence = self.persistence(client, exchange);
        let extra = |out: &mut Vec<u8>| super::page::write_cors(out, exchange);
        write_answer_with(client.output.out(&mut self.spare), answer, &exchange.id, persistence, exchange.head_only(), extra);
        Flow::Over
    }

    /// What the answer to a request says about its connection.
    pub(super) fn persistence(&self, client: &mut Client, exchange: &Exchange) -> Persistence {
        client.closes |= self.shared.closing.load(Ordering::Relaxed);
        match (client.closes, exchange.request.is_1_0()) {
            (true, _) => Persistence::Closes,
            (false, true) => Persistence::StaysOn1_0,
            (false, false) => Persistence::Stays,
        }
    }
}

/// Unused exchanges that are kept.
const SPARE_EXCHANGES: usize = 256;
