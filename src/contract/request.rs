//! A request to the API, framed and bounded by the door it came through.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use crate::model::{Caller, Headers, Invalid, RequestId, shown};

/// A request, its body read whole.
#[derive(Clone, Debug)]
pub struct Request {
    /// In capitals.
    pub method: Cow<'static, str>,
    /// Path and query as they came.
    pub target: String,
    /// Header fields.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
    /// The client's address.
    pub peer: Option<IpAddr>,
    /// The caller's id for it if it sent a valid one, else a new one.
    pub id: RequestId,
    /// How long it has waited for a worker.
    pub waited: Duration,
}

impl Request {
    /// The path, without the query.
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(&*self.target, |(path, _)| path)
    }

    /// The parameters of the query, percent-decoded, in order.
    pub fn query(&self) -> Vec<(String, String)> {
        parameters(&self.target)
    }

    /// One parameter of the query.
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.query().into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Whether the client has what `tag` stands for (RFC 9110 §13.1.2).
    pub fn has(&self, tag: &str) -> bool {
        self.headers.first("if-none-match").is_some_and(|tags| tags.split(',').any(|known| known.trim().trim_start_matches("W/") == tag))
    }

    /// Whether an `Accept` field names the media type.
    pub fn accepts(&self, media_type: &str) -> bool {
        self.headers.first("accept").is_some_and(|accept| accept.to_ascii_lowercase().contains(media_type))
    }

    /// Who sent it.
    pub fn caller(&self) -> Caller {
        Caller { name: None, address: self.peer }
    }
}

/// The parameters of a target's query, percent-decoded, in order.
pub(super) fn parameters(target: &str) -> Vec<(String, String)> {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(key, value)| (decoded(key), decoded(value))).collect()
}

/// The longest a long poll may wait.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(60);

/// What a long poll asks for: the index it has seen, and how long it waits for another. `None`: it does not wait.
///
/// # Errors
/// [`Invalid`] naming the parameter.
pub fn watch(request: &Request) -> Result<Option<(u64, Duration)>, Invalid> {
    let Some(seen) = request.parameter("index") else { return Ok(None) };
    let seen = seen.parse().map_err(|_| Invalid::new("index", format!("{} is not a number", shown(&seen))))?;
    let wait = request.parameter("wait").map_or(Ok(MAX_WAIT), |text| duration(&text))?.min(MAX_WAIT);
    Ok(Some((seen, wait)))
}

/// `30s`, `500ms` or plain seconds.
pub(super) fn duration(text: &str) -> Result<Duration, Invalid> {
    let fault = || Invalid::new("wait", format!("{} is not a time such as 30s or 500ms", shown(text)));
    let (number, unit): (&str, fn(u64) -> Duration) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, Duration::from_millis),
        (None, Some(number)) => (number, Duration::from_secs),
        (None, None) => (text, Duration::from_secs),
    };
    number.parse().map(unit).map_err(|_| fault())
}

/// `text` percent-decoded, with `+` as a space; what is malformed stays as it is.
fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = |b: &u8| char::from(*b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        match (first, after) {
            (b'%', [high, low, after @ ..]) if hex(high).is_some() && hex(low).is_some() => {
                out.push(hex(high).unwrap_or(0) << 4 | hex(low).unwrap_or(0));
                rest = after;
            }
            (b'+', after) => {
                out.push(b' ');
                rest = after;
            }
            (byte, after) => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_taken_apart_and_decoded() {
        let request = Request {
            method: "GET".into(),
            target: "/services?metadata.region=us%2Deast+1&healthy=true&&x&bad=%zz%4".to_owned(),
            headers: Headers::new(),
            body: Vec::new(),
            peer: None,
            id: RequestId::from_roll(0, 0),
            waited: Duration::ZERO,
        };
        assert_eq!(request.path(), "/services");
        assert_eq!(request.parameter("metadata.region").as_deref(), Some("us-east 1"));
        assert_eq!(request.parameter("healthy").as_deref(), Some("true"));
        assert_eq!(request.parameter("x").as_deref(), Some(""));
        assert_eq!(request.parameter("bad").as_deref(), Some("%zz%4"));
    }
    #[test]
    fn waits_are_read_with_and_without_a_unit() {
        for (text, ms) in [("30s", 30_000), ("500ms", 500), ("2", 2_000), ("0", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "-1s", "1m", "1.5s"] {
            assert_eq!(duration(text).expect_err(text).field, "wait");
        }
    }
}
