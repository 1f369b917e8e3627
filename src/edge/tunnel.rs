//! WebSockets: after both sides have agreed to switch, bytes in both directions, unread.

use super::calls::Form;
use super::client::Client;
use super::exchange::{Exchange, Flow, Goal, Task};
use super::http1::RequestHead;
use super::line::Line;
use super::reactor::{Loop, Turn};
use super::slots::Key;
use super::socket::Moved;
use super::timers::Tick;
use crate::mesh::call::{CallMachine, Step};
use crate::model::Fields;

/// A connection that has become a tunnel.
pub(super) struct Tunnel {
    line: Key,
    /// The call that it is, which holds its slot until the tunnel ends.
    machine: CallMachine,
    form: Form,
    /// The caller's end has been passed on to the instance.
    finished: bool,
}

/// What a request asks to switch to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asked {
    Nothing,
    WebSocket,
    Other,
}

/// What a request asks to switch to.
pub(super) fn asked_for(request: &RequestHead) -> Asked {
    if !request.head.lists("connection", "upgrade") {
        return Asked::Nothing;
    }
    match request.head.first("upgrade") {
        None => Asked::Nothing,
        Some(protocol) if protocol.eq_ignore_ascii_case("websocket") && request.method() == "GET" => Asked::WebSocket,
        Some(_) => Asked::Other,
    }
}

impl Tunnel {
    pub(super) const fn new(line: Key, machine: CallMachine, form: Form) -> Self {
        Self { line, machine, form, finished: false }
    }
}

impl Loop {
    /// Passes on what can be passed on.
    pub(super) fn advance_tunnel(&mut self, _: Key, client: &mut Client, exchange: &mut Exchange, mut tunnel: Tunnel) -> Flow {
        let Some(mut line) = self.lines.lend(tunnel.line) else { return Flow::Abort };
        let flow = match tunnel.form {
            Form::Proxy { proxied, .. } if !self.is_still_welcome(client, exchange, Goal::Proxy(proxied)) => Flow::Abort,
            _ => self.pass(client, &mut line, &mut tunnel),
        };
        match flow {
            Flow::Over | Flow::Abort => self.end_tunnel(client, exchange, tunnel),
            Flow::Wait | Flow::Again => {
                self.lines.give_back(tunnel.line, line);
                exchange.task = Task::Tunnel(tunnel);
            }
        }
        flow
    }

    /// However it ended: what it was used for is nobody's business.
    fn end_tunnel(&mut self, client: &mut Client, exchange: &mut Exchange, mut tunnel: Tunnel) {
        tunnel.machine.body_end(Ok(()), self.now, 0);
        if let Step::Done(end) = tunnel.machine.step(self.now) {
            self.shared.mesh.observe(&tunnel.machine, &end.report, || tunnel.form.asked(exchange, client));
        }
        self.lines.remove(tunnel.line);
        client.closes = true;
    }

    /// Neither side has said anything for too long: who has gone without a word would hold its place for ever.
    pub(super) fn late_tunnel(&mut self, client: &mut Client, exchange: &mut Exchange, tunnel: Tunnel) -> Flow {
        self.counters().tunnel_timeouts.add(1);
        self.end_tunnel(client, exchange, tunnel);
        Flow::Over
    }

    fn pass(&mut self, client: &mut Client, line: &mut Line, tunnel: &mut Tunnel) -> Flow {
        let owed = client.output.len() + line.output.len();
        let mut is_alive = client.until == Tick::NEVER;
        let (mut moved, mut turn) = (true, Turn::new());
        while moved {
            if turn.is_over() {
                self.again.extend(line.owner);
                break;
            }
            moved = false;
            line.flush();
            self.flush(client);
            if line.deaf || client.readiness.broken {
                return Flow::Abort;
            }
            if line.output.is_empty() {
                if client.input.is_empty() {
                    let _ = client.read(&mut self.spare, usize::MAX);
                }
                moved |= !client.input.is_empty();
                line.output.push(client.input.rest(), &mut self.spare);
                client.input.consume(client.input.len());
                if client.readiness.ended && line.output.is_empty() && !std::mem::replace(&mut tunnel.finished, true) {
                    line.finish();
                }
            }
            if client.output.is_empty() {
                if line.input.is_empty() {
                    match line.read(&mut self.spare, usize::MAX) {
                        Moved::Bytes(0) => return Flow::Over,
                        Moved::Broken => return Flow::Abort,
                        Moved::Bytes(_) | Moved::Blocked => {}
                    }
                }
                moved |= !line.input.is_empty();
                client.output.push(line.input.rest(), &mut self.spare);
                line.input.consume(line.input.len());
            }
            is_alive |= moved;
        }
        if is_alive || client.output.len() + line.output.len() != owed {
            client.until = self.timers.tick(self.now + self.shared.config.tunnel_idle_timeout_ms.duration());
        }
        Flow::Wait
    }

    /// The caller has gone.
    pub(super) fn abandon_tunnel(&mut self, client: &Client, exchange: &Exchange, mut tunnel: Tunnel) {
        self.shared.mesh.observe_abandoned(&mut tunnel.machine, || tunnel.form.asked(exchange, client));
        self.lines.remove(tunnel.line);
    }
}
