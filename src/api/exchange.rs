//! One request of tiny_http, from its head to its answer. The edge has framed and bounded it, and speaks for its client in `x-weft-…` fields.

use std::borrow::Cow;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use crate::contract::access::Access;
use crate::contract::answer::{Answer, ApiError};
use crate::contract::caller::{Denied, Grant};
use crate::contract::handover;
use crate::contract::request::Request;
use crate::contract::wire::{Persistence, write_answer};
use crate::model::time::Dice;
use crate::model::{Headers, Invalid, RequestId};

/// A request that must be answered.
pub(super) struct Exchange {
    http: Option<tiny_http::Request>,
    id: Option<RequestId>,
    head_only: bool,
}

impl Exchange {
    pub(super) fn begin(http: tiny_http::Request) -> Self {
        Self { head_only: *http.method() == tiny_http::Method::Head, http: Some(http), id: None }
    }

    /// Reads the request, its body whole.
    pub(super) fn read(&mut self, dice: &Arc<dyn Dice>, access: Option<&Access>) -> Result<Request, ApiError> {
        let Some(http) = &mut self.http else { return Err(ApiError::Internal("answered twice".to_owned())) };
        let mut body = Vec::with_capacity(http.body_length().unwrap_or(0));
        if http.as_reader().read_to_end(&mut body).is_err() {
            return Err(Invalid::new("body", "broke off before its end").into());
        }
        let mut headers = Headers::with_room(http.headers().len());
        let mut waited = Duration::ZERO;
        let mut peer = None;
        let mut id = None;
        let mut grant = None;
        for header in http.headers() {
            let (name, value) = (header.field.as_str().as_str(), header.value.as_str());
            match name {
                handover::ID => id = RequestId::from_caller(value),
                handover::PEER => peer = value.parse().ok(),
                handover::CALLER => {
                    grant = match access {
                        // Since the edge has asked, its name may have gone out of the file.
                        Some(access) => Some(access.named(value).ok_or(Denied::BadToken)?),
                        None => Some(Arc::new(Grant::of_certificate(value))),
                    };
                }
                handover::WAITED_US => waited = Duration::from_micros(value.parse().unwrap_or(0)),
                name => headers.push(name, value),
            }
        }
        let id = id.unwrap_or_else(|| RequestId::from_roll(dice.roll(), dice.roll()));
        self.id = Some(id.clone());
        Ok(Request { method: method(http.method()), target: http.url().to_owned(), headers, body, peer, id, waited, grant })
    }

    /// Writes the answer, head and body in one piece.
    pub(super) fn answer(self, answer: &Answer) {
        let Some(http) = self.http else { return };
        let id = self.id.unwrap_or_else(|| RequestId::from_roll(0, 0));
        let mut bytes = Vec::new();
        write_answer(&mut bytes, answer, &id, Persistence::Stays, self.head_only);
        let mut writer = http.into_writer();
        // An edge that has gone away cannot be told anything.
        if let Err(error) = writer.write_all(&bytes).and_then(|()| writer.flush()) {
            log::debug!("an answer could not be written: {error}");
        }
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
