//! Requests that pages in a browser send: which of them may come in, and what their browser has to hear about that.

use super::client::Client;
use super::exchange::{Exchange, Flow, Goal};
use super::gate::Side;
use super::reactor::Loop;
use super::tunnel;
use crate::contract::access::Need;
use crate::contract::answer::{Answer, ApiError};
use crate::contract::wire::write_field;
use crate::contract::{browser, paths};
use crate::model::Fields;

impl Loop {
    /// Answers what a browser asks on behalf of a page, or refuses what no page may; `None`: the request goes its way.
    pub(super) fn judge_page(&mut self, client: &mut Client, exchange: &mut Exchange, goal: Goal) -> Option<Flow> {
        let (welcome, door) = (&self.shared.welcome, client.door);
        let request = &exchange.request;
        let origin = request.head.first("origin");
        // What an instance answers, it answers for itself.
        exchange.cors = !matches!(goal, Goal::Proxy(_)) && origin.is_some_and(|origin| welcome.allows(origin));
        if exchange.cors && request.method() == "OPTIONS" && request.head.contains("access-control-request-method") {
            let answer = Answer::empty(204)
                .with("access-control-allow-methods", "GET, POST, PUT, DELETE")
                .with("access-control-allow-headers", "authorization, content-type, idempotency-key, x-request-id, x-request-timeout-ms")
                .with("access-control-max-age", "600");
            return Some(self.say(client, exchange, &answer));
        }
        // A name of our own in the host, or a field of its own, cannot be forged by a page.
        let is_secured = client.secured.is_some();
        // What comes in at a door that it shares with calls, the API judges itself; but it never hears of taps, nor of TLS.
        let is_judged_here = || is_secured || door.side == Side::Api || paths::tapped(request.method(), request.target()).is_some();
        let of_api = goal == Goal::Api
            && is_judged_here()
            && !Need::of(request.method(), request.target().split('?').next().unwrap_or_default()).is_open();
        let may_be_a_pages = of_api || matches!(goal, Goal::Invoke | Goal::Proxy(paths::Proxied::Path(..)));
        // A browser lets any page read and write what comes of this one: only its origin tells.
        let is_talk = || tunnel::asked_for(request) == tunnel::Asked::WebSocket;
        let judged = if !may_be_a_pages {
            Ok(())
        } else if matches!(request.method(), "GET" | "HEAD" | "OPTIONS") && !is_talk() {
            browser::judge_reading(request.authority(), door.is_judged)
        } else {
            browser::judge(request.authority(), origin, door.is_judged, is_secured, welcome)
        };
        judged.err().map(|why| self.turn_away(client, exchange, ApiError::Forbidden(why)))
    }
}

/// Tells the browser of an allowed page that the page may see the answer. What depends on where a request comes from is kept for nobody else.
pub(super) fn write_cors(out: &mut Vec<u8>, exchange: &Exchange) {
    if exchange.cors
        && let Some(origin) = exchange.request.head.first("origin")
    {
        write_field(out, "access-control-allow-origin", origin.as_bytes());
        write_field(out, "access-control-expose-headers", b"x-request-id, x-mesh-reason, x-mesh-index, retry-after");
        write_field(out, "vary", b"origin");
    }
}
