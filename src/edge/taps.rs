//! Taps at the door: calls that have ended, a line of JSON each, for as long as somebody reads them. They are held here, where waiting costs no
//! thread.

use super::client::Client;
use super::exchange::{Exchange, Flow, Goal, Task};
use super::reactor::Loop;
use super::slots::Key;
use super::socket::Moved;
use super::timers::Tick;
use crate::contract::answer::ApiError;
use crate::contract::wire::{write_field, write_persistence};
use crate::model::Limit;
use crate::telemetry::taps::{Filter, Tap, TapLine};

/// More than this from somebody who should only read, and the tap is over.
const CHATTER: usize = 4 * 1024;

impl Loop {
    /// Opens a tap, if the query is one and there is room for it.
    pub(super) fn begin_tap(&mut self, key: Key, client: &mut Client, exchange: &mut Exchange, parameters: &[(String, String)]) -> Flow {
        let filter = match Filter::of(parameters) {
            Ok(filter) => Filter { prefix: exchange.grant.as_ref().and_then(|grant| grant.service_prefix.clone()), ..filter },
            Err(fault) => return self.refuse(client, exchange, fault.into()),
        };
        let onlookers = &self.shared.mesh.inner.onlookers;
        let wake = self.wake(key);
        let Some(tap) = onlookers.taps.open(filter, onlookers.max_taps, move || wake.wake()) else {
            return self.refuse(client, exchange, ApiError::Full(Limit::Taps));
        };
        // To HTTP/1.0, which knows no chunks, the end of the connection is the end of the answer.
        client.closes |= exchange.request.is_1_0();
        let persistence = self.persistence(client, exchange);
        let out = client.output.out(&mut self.spare);
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ncache-control: no-store\r\n");
        write_field(out, "x-request-id", exchange.id.as_str().as_bytes());
        write_persistence(out, persistence);
        if !exchange.request.is_1_0() {
            write_field(out, "transfer-encoding", b"chunked");
        }
        out.extend_from_slice(b"\r\n");
        client.until = Tick::NEVER;
        self.advance_tap(key, client, exchange, tap)
    }

    /// Shows what there is to show, as fast as it is read.
    pub(super) fn advance_tap(&mut self, _: Key, client: &mut Client, exchange: &mut Exchange, mut tap: Tap) -> Flow {
        // What may be seen is decided when it is opened; who may see something else by now, or nothing, has to open another.
        let is_still_welcome = self.is_still_welcome(client, exchange, Goal::Api);
        self.flush(client);
        if client.output.is_empty() && !tap.is_over() && is_still_welcome {
            let chunked = !exchange.request.is_1_0();
            for call in tap.collect() {
                let mut line = serde_json::to_vec(&TapLine::of(&call)).unwrap_or_default();
                line.push(b'\n');
                if chunked {
                    client.output.push(format!("{:x}\r\n", line.len()).as_bytes(), &mut self.spare);
                    line.extend_from_slice(b"\r\n");
                }
                client.output.push(&line, &mut self.spare);
            }
            self.flush(client);
        }
        if tap.is_over() || self.hurried || !is_still_welcome {
            if !exchange.request.is_1_0() {
                client.output.push(b"0\r\n\r\n", &mut self.spare);
            }
            return Flow::Over;
        }
        if client.output.is_empty() && client.input.len() < CHATTER {
            // Somebody who has nothing more to say has gone: else a tap would outlive its reader until the next call.
            match client.read(&mut self.spare, client.input.len()) {
                Moved::Bytes(0) | Moved::Broken => return Flow::Abort,
                Moved::Bytes(_) | Moved::Blocked => {}
            }
        }
        if client.input.len() >= CHATTER {
            return Flow::Abort;
        }
        exchange.task = Task::Tap(tap);
        Flow::Wait
    }
}
