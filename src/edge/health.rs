//! `GET /health`, answered by the event loop itself: whatever else is busy, whoever asks.

use super::client::Client;
use super::exchange::Exchange;
use super::http1::RequestHead;
use super::reactor::Loop;
use crate::contract::paths;
use crate::contract::wire::{write_field, write_length, write_persistence};
use crate::model::push_decimal;

impl Loop {
    /// `GET /health`, the mesh itself.
    pub(super) fn tell_health(&mut self, client: &mut Client, exchange: &Exchange) {
        let mut body = std::mem::take(&mut self.stream);
        body.clear();
        body.extend_from_slice(b"{\"status\":\"healthy\",\"timestamp\":");
        push_decimal(&mut body, self.shared.mesh.inner.clock.wall_ms());
        body.push(b'}');
        let persistence = self.persistence(client, exchange);
        let out = client.output.out(&mut self.spare);
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n");
        write_field(out, "x-request-id", exchange.id.as_str().as_bytes());
        write_persistence(out, persistence);
        write_length(out, body.len() as u64);
        out.extend_from_slice(b"\r\n");
        if !exchange.head_only() {
            out.extend_from_slice(&body);
        }
        self.stream = body;
    }
}

/// Whether a request is about the health of the mesh itself, and not of a service that its host or a field names.
pub(super) fn asks_for_health(request: &RequestHead) -> bool {
    let goal = || paths::goal(request.method(), request.target(), request.authority(), &request.head);
    request.target() == "/health" && matches!(request.method(), "GET" | "HEAD") && goal() == paths::Goal::Api
}
