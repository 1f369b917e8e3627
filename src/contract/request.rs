//! A request to the API, framed and bounded by the door it came through.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::model::{Caller, Headers, RequestId};

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
}

impl Request {
    /// The path, without the query.
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(&*self.target, |(path, _)| path)
    }

    /// The parameters of the query, percent-decoded, in order.
    pub fn query(&self) -> Vec<(String, String)> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(key, value)| (decoded(key), decoded(value))).collect()
    }

    /// One parameter of the query.
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.query().into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
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
        };
        assert_eq!(request.path(), "/services");
        assert_eq!(request.parameter("metadata.region").as_deref(), Some("us-east 1"));
        assert_eq!(request.parameter("healthy").as_deref(), Some("true"));
        assert_eq!(request.parameter("x").as_deref(), Some(""));
        assert_eq!(request.parameter("bad").as_deref(), Some("%zz%4"));
    }
}
