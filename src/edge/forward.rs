//! What is written to instances and callers when a call passes through: heads of requests and answers, with what belongs to one connection
//! or to the mesh taken out and what the mesh has to say put in. Everything else keeps its order, its case and its duplicates.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use super::client::Client;
use super::exchange::Exchange;
use super::http1::{Framing, Head, ResponseHead};
use crate::contract::answer::Answer;
use crate::contract::paths::{self, DAPR_APP_ID};
use crate::contract::wire::{Persistence, is_bodiless, write_field, write_length, write_number, write_persistence};
use crate::mesh::Member;
use crate::mesh::call::Attempt;
use crate::model::time::whole_ms;
use crate::model::{
    Call, Endpoint, Fields, Headers, Invalid, Method, RequestId, is_hop_by_hop, is_of_mesh, is_only_ours, push_decimal, reads_as,
};

/// How this hop is named to the next (RFC 9110 §7.6.3).
const VIA: &[u8] = b"1.1 weft";

/// Refuses a path that the instance might read as another one.
pub(super) fn judge_path(path: &str) -> Result<(), Invalid> {
    if path.starts_with('/') { Endpoint::judge_forwarded(path) } else { Ok(()) }
}

/// A path with the slash at its beginning that may be missing where the service alone is named.
pub(super) fn rooted(path: &str) -> Cow<'_, str> {
    if path.starts_with('/') { path.into() } else { format!("/{path}").into() }
}

/// A request that is passed on, as a call: for a copy of it.
pub(super) fn as_call(exchange: &Exchange, proxied: paths::Proxied, client: &Client) -> Option<Call> {
    let request = &exchange.request;
    let (service, path) = paths::service_and_path(proxied, request.target(), request.authority(), &request.head);
    let mut call = Call::new(service, Method::new(request.method()).ok()?, &rooted(path)).ok()?;
    for (name, value) in request.head.fields() {
        call.headers.push(std::str::from_utf8(name).unwrap_or_default(), value);
    }
    call.body = (!exchange.gathered.is_empty()).then(|| exchange.gathered.as_slice().into());
    call.request_id = Some(exchange.id.clone());
    if exchange.token_in_authorization {
        call.headers.remove_all("authorization");
    }
    call.caller = exchange.caller(client);
    call.hops = request.head.first("x-mesh-hops").and_then(|text| text.parse().ok()).unwrap_or(0);
    Some(call)
}

/// Writes the request of a call that came as JSON.
pub(super) fn write_call(out: &mut Vec<u8>, call: &Call, headers: &Headers, attempt: &Attempt) {
    write_request_line(out, call.method.as_str(), attempt.endpoint(call.endpoint.as_str()));
    write_field(out, "host", attempt.member.authority.as_bytes());
    for (name, value) in headers.iter() {
        write_field(out, name, value);
    }
    match (&call.body, call.method) {
        (Some(body), _) => write_length(out, body.len() as u64),
        (None, Method::Post | Method::Put | Method::Patch) => write_length(out, 0),
        (None, _) => {}
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(call.body.as_deref().unwrap_or_default());
}

fn write_request_line(out: &mut Vec<u8>, method: &str, path: &str) {
    // `*` is the server as a whole.
    for part in [method, if path.starts_with('/') || path == "*" { " " } else { " /" }, path, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Writes a request that is passed on, with as much of its body as has been kept.
pub(super) fn write_proxied(
    out: &mut Vec<u8>,
    exchange: &Exchange,
    proxied: paths::Proxied,
    upgrade: bool,
    attempt: &Attempt,
    client: &Client,
) {
    let request = &exchange.request;
    let head = &request.head;
    let (_, path) = paths::service_and_path(proxied, request.target(), request.authority(), head);
    out.reserve(head.size() + 512);
    write_request_line(out, request.method(), attempt.endpoint(path));
    write_field(out, "host", attempt.member.authority.as_bytes());
    let hops = Hops::of(head);
    let changes = attempt.changes.as_deref();
    let taken_out = |name: &[u8]| changes.is_some_and(|changes| std::str::from_utf8(name).is_ok_and(|name| changes.takes_out(name)));
    let said_by_trace = |name: &[u8]| attempt.trace.is_some_and(|trace| trace.replaces(name));
    for (name, value) in head.fields() {
        let is_for_the_mesh = exchange.token_in_authorization && name.eq_ignore_ascii_case(b"authorization");
        if !said_by_trace(name)
            && !hops.end_here(name)
            && !is_only_ours(name)
            && !is_of_mesh(name)
            && !is_said_anew(name)
            && !taken_out(name)
            && !is_for_the_mesh
        {
            write_field(out, name, value);
        }
    }
    for (name, value) in changes.iter().flat_map(|changes| &changes.set) {
        write_field(out, name, value.as_bytes());
    }
    if let Some(trace) = &attempt.trace {
        trace.each(|name, value| write_field(out, name, value));
    }
    write_list(out, head, "x-forwarded-for", |out| match client.address {
        Some(IpAddr::V4(client)) => push_address(out, client),
        Some(IpAddr::V6(client)) => out.extend_from_slice(client.to_string().as_bytes()),
        None => out.extend_from_slice(b"unknown"),
    });
    write_field(out, "x-forwarded-proto", head.first("x-forwarded-proto").unwrap_or_else(|| client.scheme()).as_bytes());
    write_field(out, "x-forwarded-host", head.first("x-forwarded-host").unwrap_or_else(|| request.authority()).as_bytes());
    write_list(out, head, "via", |out| out.extend_from_slice(VIA));
    let hops = head.first("x-mesh-hops").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    write_field(out, "x-request-id", exchange.id.as_bytes());
    write_field(out, "x-service-mesh", b"true");
    if let Some(grant) = &exchange.grant {
        write_field(out, "x-mesh-caller", grant.identity.name.as_bytes());
    }
    write_number(out, "x-mesh-hops", hops.saturating_add(1));
    write_number(out, "x-mesh-attempt", u64::from(attempt.number));
    write_number(out, "x-request-timeout-ms", whole_ms(attempt.left).max(1));
    if upgrade {
        out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
    }
    match request.framing() {
        Framing::Length(length) => write_length(out, length),
        Framing::Chunked => write_field(out, "transfer-encoding", b"chunked"),
        Framing::None | Framing::UntilClose => {}
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&exchange.gathered);
}

/// Fields that are written with something added, or that have done their work.
fn is_said_anew(name: &[u8]) -> bool {
    let said = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "via", DAPR_APP_ID];
    said.iter().any(|said| reads_as(name, said.as_bytes()))
}

/// Writes a comma-separated field with what was in it and one member more.
fn write_list(out: &mut Vec<u8>, head: &Head, name: &str, member: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    for value in head.all(name).filter(|value| !value.is_empty()) {
        out.extend_from_slice(value);
        out.extend_from_slice(b", ");
    }
    member(out);
    out.extend_from_slice(b"\r\n");
}

/// An address, without the machinery of formatting.
fn push_address(out: &mut Vec<u8>, address: Ipv4Addr) {
    for (n, part) in address.octets().into_iter().enumerate() {
        if n > 0 {
            out.push(b'.');
        }
        push_decimal(out, u64::from(part));
    }
}

/// Which fields belong to one connection only.
struct Hops<'a> {
    head: &'a Head,
    /// `Connection` names other fields.
    names_fields: bool,
}

impl<'a> Hops<'a> {
    fn of(head: &'a Head) -> Self {
        let usual = |value: &[u8]| value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close");
        Self { names_fields: head.all("connection").any(|value| !usual(value)), head }
    }

    fn end_here(&self, name: &[u8]) -> bool {
        is_hop_by_hop(name) || self.names_fields && self.head.lists("connection", name)
    }
}

/// What is said with an answer that is delivered.
pub(super) struct Delivered<'a> {
    pub(super) member: &'a Arc<Member>,
    pub(super) attempts: u32,
    pub(super) took: Duration,
    pub(super) id: &'a RequestId,
    pub(super) persistence: Persistence,
    /// The length of the body, where it was collected.
    pub(super) collected: Option<u64>,
    /// The request, where it comes from a page that may see the answer.
    pub(super) for_page: Option<&'a Exchange>,
    /// The caller speaks HTTP/1.0, which knows no chunks.
    pub(super) is_1_0: bool,
    /// The API is answered at the same place.
    pub(super) beside_api: bool,
}

/// Writes the head of an answer that is delivered.
pub(super) fn write_answer_head(out: &mut Vec<u8>, answer: &ResponseHead, delivered: &Delivered<'_>) {
    out.reserve(answer.head.size() + 256);
    let proxied = delivered.collected.is_none();
    write_status(out, answer);
    let hops = Hops::of(&answer.head);
    for (name, value) in answer.head.fields() {
        let is_said_to_pages =
            delivered.for_page.is_some() && name.get(..15).is_some_and(|begin| begin.eq_ignore_ascii_case(b"access-control-"));
        let ends_here = is_said_to_pages || hops.end_here(name) || is_ours_to_say(name) || proxied && name.eq_ignore_ascii_case(b"via");
        if !ends_here {
            write_field(out, name, value);
        }
    }
    if proxied {
        write_list(out, &answer.head, "via", |out| out.extend_from_slice(VIA));
        if delivered.beside_api && may_be_a_page(answer.head.all("content-type")) {
            write_field(out, ALONE.0, ALONE.1);
        }
    }
    if let Some(exchange) = delivered.for_page {
        super::page::write_cors(out, exchange);
    }
    write_field(out, "x-mesh-instance", delivered.member.id.as_str().as_bytes());
    write_number(out, "x-mesh-attempts", u64::from(delivered.attempts));
    write_number(out, "x-mesh-upstream-ms", whole_ms(delivered.took));
    write_field(out, "x-request-id", delivered.id.as_bytes());
    if answer.status == 101 {
        out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
    } else {
        write_persistence(out, delivered.persistence);
    }
    match (delivered.collected, answer.framing()) {
        (Some(length), _) if !is_bodiless(answer.status) => write_length(out, length),
        (None, Framing::Length(length)) => write_length(out, length),
        (None, Framing::Chunked) if !delivered.is_1_0 => write_field(out, "transfer-encoding", b"chunked"),
        // The length of what a GET would have got.
        (None, Framing::None) if !matches!(answer.status, 100..=199 | 204) => {
            if let Some(length) = answer.head.first("content-length") {
                write_field(out, "content-length", length.as_bytes());
            }
        }
        _ => {}
    }
    out.extend_from_slice(b"\r\n");
}

fn write_status(out: &mut Vec<u8>, answer: &ResponseHead) {
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(out, u64::from(answer.status));
    out.push(b' ');
    out.extend_from_slice(answer.phrase());
    out.extend_from_slice(b"\r\n");
}

/// Fields of an answer that only the mesh may say.
fn is_ours_to_say(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"x-request-id") || is_of_mesh(name)
}

/// Whether a browser may make a page of it. Not only of HTML: pictures and documents in XML run scripts as well, of what does not say what it
/// is a browser guesses that, and of several it takes the last. What says that it is JSON, and nothing else, is none.
fn may_be_a_page<'a>(mut kinds: impl Iterator<Item = &'a [u8]>) -> bool {
    let is_json = |kind: &[u8]| {
        let (name, rest) = kind.split_at_checked(JSON.len()).unwrap_or((kind, b""));
        name.eq_ignore_ascii_case(JSON) && matches!(rest.first(), None | Some(b';' | b' ')) && !rest.contains(&b',')
    };
    !matches!((kinds.next(), kinds.next()), (Some(kind), None) if is_json(kind))
}

/// The same for an answer that the mesh gives in the instance's place.
pub(super) fn set_apart(answer: &mut Answer) {
    let kinds = answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    if may_be_a_page(kinds.map(|(_, kind)| kind)) {
        answer.headers.push(ALONE.0, ALONE.1);
    }
}

const JSON: &[u8] = b"application/json";
/// Gives a page an origin of its own, where it would else share that of the API.
const ALONE: (&str, &[u8]) = ("content-security-policy", b"sandbox");

/// Writes an answer before the answer.
pub(super) fn write_interim(out: &mut Vec<u8>, answer: &ResponseHead) {
    write_status(out, answer);
    let hops = Hops::of(&answer.head);
    for (name, value) in answer.head.fields().filter(|(name, _)| !hops.end_here(name) && !is_ours_to_say(name)) {
        write_field(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
}
