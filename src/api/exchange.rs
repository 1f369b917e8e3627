//! One request of tiny_http, from its head to its answer.

use std::borrow::Cow;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::contract::answer::{Answer, ApiError};
use crate::contract::request::Request;
use crate::model::{Headers, Invalid, RequestId, push_decimal};

/// What is under way, for a server that wants to stop in order.
#[derive(Default)]
pub(super) struct Traffic {
    /// Requests being answered.
    busy: AtomicUsize,
    /// Answers carry `Connection: close`.
    closing: AtomicBool,
}

impl Traffic {
    /// From now on every answer asks its client to close the connection.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    /// Whether no request is being answered.
    pub(super) fn is_quiet(&self) -> bool {
        self.busy.load(Ordering::SeqCst) == 0
    }
}

/// A request that must be answered: counted as busy until it is.
pub(super) struct Exchange {
    http: Option<tiny_http::Request>,
    id: RequestId,
    head_only: bool,
    keep_alive_1_0: bool,
    traffic: Arc<Traffic>,
}

impl Exchange {
    pub(super) fn begin(http: tiny_http::Request, traffic: &Arc<Traffic>, fresh: impl FnOnce() -> RequestId) -> Self {
        traffic.busy.fetch_add(1, Ordering::SeqCst);
        let field = |name: &'static str| http.headers().iter().find(|header| header.field.equiv(name)).map(|header| header.value.as_str());
        Self {
            id: field("x-request-id").and_then(RequestId::from_caller).unwrap_or_else(fresh),
            head_only: *http.method() == tiny_http::Method::Head,
            keep_alive_1_0: *http.http_version() < tiny_http::HTTPVersion(1, 1)
                && field("connection").is_some_and(|value| value.eq_ignore_ascii_case("keep-alive")),
            http: Some(http),
            traffic: Arc::clone(traffic),
        }
    }

    pub(super) const fn id(&self) -> &RequestId {
        &self.id
    }

    /// Whether reading the body may take as long as the client likes; tiny_http has read short ones already.
    pub(super) fn is_to_be_waited_for(&self) -> bool {
        const READ_ALREADY: usize = 1024;
        let Some(http) = &self.http else { return false };
        let chunked = || http.headers().iter().any(|header| header.field.equiv("transfer-encoding") || header.field.equiv("expect"));
        http.body_length().map_or_else(chunked, |length| length > READ_ALREADY)
    }

    /// Reads the request, its body whole.
    pub(super) fn read(&mut self, max_body: usize) -> Result<Request, ApiError> {
        let Some(http) = &mut self.http else { return Err(ApiError::Internal("answered twice".to_owned())) };
        if http.body_length().is_some_and(|length| length > max_body) {
            return Err(ApiError::TooLarge(max_body));
        }
        let mut body = Vec::with_capacity(http.body_length().unwrap_or(0));
        let most = u64::try_from(max_body).unwrap_or(u64::MAX).saturating_add(1);
        let read = http.as_reader().take(most).read_to_end(&mut body);
        if read.is_err() {
            return Err(Invalid::new("body", "broke off before its end").into());
        }
        if body.len() > max_body {
            return Err(ApiError::TooLarge(max_body));
        }
        let mut headers = Headers::with_room(http.headers().len());
        for header in http.headers() {
            headers.push(header.field.as_str().as_str(), header.value.as_str());
        }
        Ok(Request {
            method: method(http.method()),
            target: http.url().to_owned(),
            headers,
            body,
            peer: http.remote_addr().map(SocketAddr::ip),
            id: self.id.clone(),
        })
    }

    /// Writes the answer, head and body in one piece.
    pub(super) fn answer(mut self, answer: &Answer) {
        let Some(http) = self.http.take() else { return };
        let close = self.traffic.closing.load(Ordering::SeqCst);
        let bytes = self.serialise(answer, close);
        let mut writer = http.into_writer();
        // A client that has gone away cannot be told anything.
        if let Err(error) = writer.write_all(&bytes).and_then(|()| writer.flush()) {
            log::debug!("an answer could not be written: {error}");
        }
    }

    fn serialise(&self, answer: &Answer, close: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(512 + answer.body.len());
        out.extend_from_slice(b"HTTP/1.1 ");
        push_decimal(&mut out, u64::from(answer.status));
        out.push(b' ');
        out.extend_from_slice(reason_phrase(answer.status).as_bytes());
        out.extend_from_slice(b"\r\n");
        let mut field = |name: &str, value: &[u8]| {
            for part in [name.as_bytes(), b": ", value, b"\r\n"] {
                out.extend_from_slice(part);
            }
        };
        for (name, value) in answer.headers.iter() {
            field(name, value);
        }
        field("x-request-id", self.id.as_str().as_bytes());
        if close {
            field("connection", b"close");
        } else if self.keep_alive_1_0 {
            field("connection", b"keep-alive");
        }
        let bodiless = matches!(answer.status, 204 | 304);
        if !bodiless {
            out.extend_from_slice(b"content-length: ");
            push_decimal(&mut out, u64::try_from(answer.body.len()).unwrap_or(u64::MAX));
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if !bodiless && !self.head_only {
            out.extend_from_slice(&answer.body);
        }
        out
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.traffic.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A method as text, without an allocation for those that are expected.
fn method(method: &tiny_http::Method) -> Cow<'static, str> {
    match method {
        tiny_http::Method::Get => "GET".into(),
        tiny_http::Method::Post => "POST".into(),
        tiny_http::Method::Put => "PUT".into(),
        tiny_http::Method::Delete => "DELETE".into(),
        tiny_http::Method::Head => "HEAD".into(),
        other => other.as_str().to_owned().into(),
    }
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
        409 => "Conflict",
        413 => "Content Too Large",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        508 => "Loop Detected",
        _ => "",
    }
}
