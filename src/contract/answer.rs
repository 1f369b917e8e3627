//! How a result is said over HTTP. The one place where an error becomes a status, a reason and a sentence.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use crate::mesh::RegistryError;
use crate::model::time::whole_ms;
use crate::model::{CallError, Headers, InstanceId, Invalid, Limit, Reason, Reply, StaticAnswer};

/// An answer, whole.
#[derive(Clone, PartialEq, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Header fields, without framing.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// An answer with a body of that type.
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Headers::new(), body: body.into() }.with("content-type", content_type)
    }

    /// An answer without a body.
    pub const fn empty(status: u16) -> Self {
        Self { status, headers: Headers::new(), body: Vec::new() }
    }

    /// That nothing is at that path: the documented words for a plain client, JSON for one that asks for it.
    pub fn nothing_here(as_json: bool) -> Self {
        let reason = Reason::NotFound.word();
        let answer = if as_json {
            Self { status: 404, ..Self::json(&json!({"error": "Service Mesh - Not Found", "reason": reason})) }
        } else {
            Self::new(404, "text/plain; charset=utf-8", "Service Mesh - Not Found")
        };
        answer.with("x-mesh-reason", reason)
    }

    /// JSON on one line.
    pub fn json(value: &impl Serialize) -> Self {
        Self::of_json(serde_json::to_vec(value))
    }

    /// JSON for a person to read.
    pub fn pretty(value: &impl Serialize) -> Self {
        let mut answer = Self::of_json(serde_json::to_vec_pretty(value));
        answer.body.push(b'\n');
        answer
    }

    fn of_json(json: serde_json::Result<Vec<u8>>) -> Self {
        match json {
            Ok(body) => Self::new(200, JSON, body),
            // A type of this crate that cannot be written as JSON would be a fault of this crate.
            Err(error) => ApiError::Internal(error.to_string()).into(),
        }
    }

    /// Adds a header field.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push(name, value);
        self
    }
}

const JSON: &str = "application/json";

/// `{"success":true}`
pub fn done() -> Answer {
    Answer::json(&json!({"success": true}))
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        let mut headers = reply.headers;
        headers.push("x-mesh-instance", reply.instance.as_str());
        headers.push_number("x-mesh-attempts", u64::from(reply.attempts));
        headers.push_number("x-mesh-upstream-ms", whole_ms(reply.upstream));
        Self { status: reply.status, headers, body: reply.body }
    }
}

/// Everything the API can refuse or fail.
#[derive(Clone, PartialEq, Debug)]
pub enum ApiError {
    /// A field is not acceptable.
    Bad(Invalid),
    /// A change of the registry was refused.
    Registry(RegistryError),
    /// A call failed.
    Call(Box<CallError>),
    /// No such service.
    NoSuchService(String),
    /// The path exists, with these methods.
    WrongMethod(Vec<&'static str>),
    /// The body is larger than this.
    TooLarge(usize),
    /// Not acceptable HTTP; says why.
    Malformed(&'static str),
    /// The head is too large.
    HeadTooLarge,
    /// The target is too long.
    TargetTooLong,
    /// Another version of HTTP.
    Version,
    /// What did not come in time.
    Late(&'static str),
    /// Something the mesh does not do.
    Unsupported(&'static str),
    /// Refused as a browser's.
    Forbidden(&'static str),
    /// A limit is full.
    Full(Limit),
    /// The mesh is shutting down.
    Draining,
    /// A fault in the mesh.
    Internal(String),
}

impl From<Invalid> for ApiError {
    fn from(fault: Invalid) -> Self {
        Self::Bad(fault)
    }
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

impl ApiError {
    /// The word, and with it the status.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Bad(_) | Self::Malformed(_) | Self::Registry(RegistryError::Invalid(_)) => Reason::BadRequest,
            Self::HeadTooLarge => Reason::HeadersTooLarge,
            Self::TargetTooLong => Reason::UriTooLong,
            Self::Version => Reason::VersionNotSupported,
            Self::Late(_) => Reason::RequestTimeout,
            Self::Unsupported(_) => Reason::NotImplemented,
            Self::Registry(RegistryError::NotAllowed(_)) => Reason::UpstreamNotAllowed,
            Self::Registry(RegistryError::NotFound) | Self::NoSuchService(_) => Reason::NotFound,
            Self::Registry(RegistryError::Unavailable(_)) => Reason::RegistryUnavailable,
            Self::Registry(RegistryError::Full(_)) | Self::Full(_) => Reason::Overloaded,
            Self::Call(error) => error.reason(),
            Self::WrongMethod(_) => Reason::MethodNotAllowed,
            Self::TooLarge(_) => Reason::PayloadTooLarge,
            Self::Forbidden(_) => Reason::Forbidden,
            Self::Draining => Reason::Draining,
            Self::Internal(_) => Reason::Internal,
        }
    }

    /// The limit that was full, if one was and it was no call that it refused.
    pub const fn limit(&self) -> Option<Limit> {
        match self {
            Self::Full(limit) | Self::Registry(RegistryError::Full(limit)) => Some(*limit),
            _ => None,
        }
    }

    const fn status(&self) -> u16 {
        match self {
            Self::Call(error) => error.status(),
            _ => self.reason().status(),
        }
    }

    fn sentence(&self) -> String {
        match self {
            Self::Bad(fault) => fault.to_string(),
            Self::Registry(error) => error.to_string(),
            Self::Call(error) => error.to_string(),
            Self::NoSuchService(name) => format!("no such service is registered: {}", crate::model::shown(name)),
            Self::WrongMethod(allowed) => format!("use {}", allowed.join(", ")),
            Self::TooLarge(limit) => format!("the body is larger than {limit} bytes"),
            Self::Malformed(why) => format!("not acceptable as HTTP/1.1: {why}"),
            Self::HeadTooLarge => "the head of the request is too large, or has more than 100 fields".to_owned(),
            Self::TargetTooLong => "the path and query of the request are too long".to_owned(),
            Self::Version => "only HTTP/1.1 and HTTP/1.0 are spoken here".to_owned(),
            Self::Late(what) => format!("{what} did not come in time"),
            Self::Unsupported(why) | Self::Forbidden(why) => (*why).to_owned(),
            Self::Full(limit) => format!("the limit {} is reached", limit.setting()),
            Self::Draining => "the mesh is shutting down".to_owned(),
            Self::Internal(_) => "a fault in the mesh; its log says more".to_owned(),
        }
    }
}

/// The answer a route gives in place of a failure, which its header fields tell all the same.
fn fallback(answer: &StaticAnswer, error: &CallError) -> Answer {
    let StaticAnswer { status, headers, body } = answer.clone();
    let mut answer = Answer { status, headers, body }.with("x-mesh-reason", error.reason().word()).with("x-mesh-fallback", "true");
    answer.headers.push_number("x-mesh-attempts", u64::from(error.attempts));
    answer
}

impl From<ApiError> for Answer {
    fn from(error: ApiError) -> Self {
        if let ApiError::Call(error) = &error
            && let Some(answer) = &error.fallback
        {
            return fallback(answer, error);
        }
        let reason = error.reason();
        let mut body = ErrorBody { error: error.sentence(), reason: reason.word(), ..ErrorBody::default() };
        let mut headers = Headers::with_room(8);
        headers.push("content-type", JSON);
        headers.push("x-mesh-reason", reason.word());
        match &error {
            ApiError::Bad(fault) | ApiError::Registry(RegistryError::Invalid(fault)) => body.field = Some(&fault.field),
            ApiError::Call(call) => {
                body.service = Some(call.service.as_str());
                body.attempts = Some(call.attempts);
                body.upstream_status = call.upstream_status();
                body.limit = call.limit().map(Limit::setting);
                body.instance = call.instance.as_ref().map(InstanceId::as_str);
                let how = "may have been processed; send idempotent:true or an Idempotency-Key to allow retries";
                body.retry_skipped = call.retry_skipped.map(|method| format!("{method} {how}"));
                body.budget_exhausted = call.budget_exhausted.then_some(true);
                body.request_id = Some(call.request_id.as_str());
                headers.push_number("x-mesh-attempts", u64::from(call.attempts));
                if let Some(instance) = body.instance {
                    headers.push("x-mesh-instance", instance);
                }
                if call.not_sent {
                    headers.push("x-mesh-not-sent", "true");
                }
                if let Some(after) = call.retry_after() {
                    headers.push_number("retry-after", whole_seconds(after));
                }
            }
            ApiError::WrongMethod(allowed) => headers.push("allow", allowed.join(", ")),
            ApiError::Full(limit) | ApiError::Registry(RegistryError::Full(limit)) => {
                body.limit = Some(limit.setting());
                headers.push("retry-after", "1");
                headers.push("x-mesh-not-sent", "true");
            }
            ApiError::Registry(RegistryError::Unavailable(_)) => headers.push("retry-after", "5"),
            ApiError::Draining => headers.push("x-mesh-not-sent", "true"),
            ApiError::Registry(RegistryError::NotAllowed(_) | RegistryError::NotFound)
            | ApiError::NoSuchService(_)
            | ApiError::TooLarge(_)
            | ApiError::Malformed(_)
            | ApiError::HeadTooLarge
            | ApiError::TargetTooLong
            | ApiError::Version
            | ApiError::Late(_)
            | ApiError::Unsupported(_)
            | ApiError::Forbidden(_)
            | ApiError::Internal(_) => {}
        }
        // Text and numbers can always be written.
        let body = serde_json::to_vec(&body).unwrap_or_default();
        Self { status: error.status(), headers, body }
    }
}

/// An error as JSON, in the order of the documentation.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorBody<'a> {
    error: String,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_skipped: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget_exhausted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

/// Seconds, rounded up, so that who waits that long is not early; at least one.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::model::{Cause, Method, RequestId, ServiceName};

    fn call_error(cause: Cause) -> CallError {
        CallError {
            service: ServiceName::new("user-service").expect("valid"),
            cause,
            attempts: 4,
            instance: None,
            request_id: RequestId::from_roll(0, 0),
            retry_skipped: None,
            budget_exhausted: false,
            not_sent: false,
            fallback: None,
        }
    }

    #[test]
    fn a_failed_call_says_all_the_contract_promises() {
        let error = CallError { retry_skipped: Some(Method::Post), budget_exhausted: true, ..call_error(Cause::Status(500)) };
        let answer = Answer::from(ApiError::Call(Box::new(error)));
        assert_eq!(answer.status, 503);
        let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(body["error"], "Failed to call user-service after 4 attempts: service returned status 500");
        assert_eq!(body["reason"], "upstream_status");
        assert_eq!((&body["service"], &body["attempts"], &body["upstreamStatus"]), (&json!("user-service"), &json!(4), &json!(500)));
        assert_eq!(body["requestId"], "00000000-0000-4000-8000-000000000000");
        assert_eq!(body["retrySkipped"], "POST may have been processed; send idempotent:true or an Idempotency-Key to allow retries");
        assert_eq!(body["budgetExhausted"], true);
        assert_eq!(answer.headers.first("x-mesh-reason"), Some("upstream_status"));
    }

    #[test]
    fn an_open_circuit_says_when_to_come_back_in_whole_seconds() {
        for (ms, seconds) in [(1, "1"), (59_001, "60"), (60_000, "60")] {
            let cause = Cause::CircuitOpen { retry_after: Duration::from_millis(ms) };
            let answer = Answer::from(ApiError::Call(Box::new(call_error(cause))));
            assert_eq!(answer.headers.first("retry-after"), Some(seconds), "{ms}");
        }
    }

    #[test]
    fn a_fault_in_the_mesh_does_not_tell_strangers_about_its_insides() {
        let answer = Answer::from(ApiError::Internal("panicked at src/secret.rs".to_owned()));
        assert!(!String::from_utf8_lossy(&answer.body).contains("secret"));
    }
}
