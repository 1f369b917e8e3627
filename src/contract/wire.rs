//! An answer as bytes.

use super::answer::Answer;
use crate::model::{RequestId, push_decimal};

/// What an answer says about the connection it goes out on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Persistence {
    /// Nothing: a connection of HTTP/1.1 stays open.
    Stays,
    /// `Connection: keep-alive`, for a client of HTTP/1.0 that asked for it.
    StaysOn1_0,
    /// `Connection: close`.
    Closes,
}

/// Writes an answer, head and body, with the id of its request. `head_only`: the request was HEAD.
pub fn write_answer(out: &mut Vec<u8>, answer: &Answer, id: &RequestId, persistence: Persistence, head_only: bool) {
    out.reserve(256 + answer.body.len());
    write_status_line(out, answer.status);
    for (name, value) in answer.headers.iter() {
        write_field(out, name, value);
    }
    write_field(out, "x-request-id", id.as_bytes());
    write_persistence(out, persistence);
    let bodiless = is_bodiless(answer.status);
    if !bodiless {
        write_length(out, answer.body.len() as u64);
    }
    out.extend_from_slice(b"\r\n");
    if !bodiless && !head_only {
        out.extend_from_slice(&answer.body);
    }
}

/// `HTTP/1.1 200 OK`
pub fn write_status_line(out: &mut Vec<u8>, status: u16) {
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(reason_phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// `name: value`
pub fn write_field(out: &mut Vec<u8>, name: impl AsRef<[u8]>, value: &[u8]) {
    let name = name.as_ref();
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// `name: number`
pub fn write_number(out: &mut Vec<u8>, name: &str, number: u64) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    push_decimal(out, number);
    out.extend_from_slice(b"\r\n");
}

/// `content-length: length`
pub fn write_length(out: &mut Vec<u8>, length: u64) {
    write_number(out, "content-length", length);
}

/// What is to be said about the connection.
pub fn write_persistence(out: &mut Vec<u8>, persistence: Persistence) {
    match persistence {
        Persistence::Stays => {}
        Persistence::StaysOn1_0 => write_field(out, "connection", b"keep-alive"),
        Persistence::Closes => write_field(out, "connection", b"close"),
    }
}

/// Whether an answer of that status never has a body (RFC 9110 §6.4.1).
pub const fn is_bodiless(status: u16) -> bool {
    matches!(status, 100..=199 | 204 | 304)
}

/// The phrase that goes with a status; for people who look at the wire.
const fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        414 => "URI Too Long",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        _ => "",
    }
}
