//! The JSON of etcd's gateway: keys and values in base64, 64-bit numbers as strings, and what is zero, false or empty left out.

use std::fmt;
use std::marker::PhantomData;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeOwned, Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The longest list that is taken in. A watch tells of a thousand revisions at once, of 128 changes each.
const MANY: usize = 200_000;

/// Bytes as the gateway wants them.
pub(super) fn encoded(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// Comes with every answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
pub(super) struct Header {
    #[serde(default, deserialize_with = "number")]
    pub(super) cluster_id: u64,
    /// Of the whole store, at the time of the answer.
    #[serde(default, deserialize_with = "number")]
    pub(super) revision: u64,
}

impl Header {
    /// The revision after that. Whoever is not etcd may name any number.
    pub(super) const fn next(self) -> u64 {
        self.revision.saturating_add(1)
    }
}

/// A key and what it stands for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
pub(super) struct Pair {
    #[serde(default, deserialize_with = "bytes")]
    pub(super) key: Vec<u8>,
    #[serde(default, deserialize_with = "bytes")]
    pub(super) value: Vec<u8>,
    #[serde(default, deserialize_with = "number")]
    pub(super) create_revision: u64,
    #[serde(default, deserialize_with = "number")]
    pub(super) mod_revision: u64,
    /// 0 is none.
    #[serde(default, deserialize_with = "number")]
    pub(super) lease: u64,
}

/// Answers `range`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
pub(super) struct Ranged {
    #[serde(default)]
    pub(super) header: Header,
    #[serde(default, deserialize_with = "list::<_, _, MANY>")]
    pub(super) kvs: Vec<Pair>,
    #[serde(default)]
    pub(super) more: bool,
}

/// Answers `deleterange`, and whatever else of which only the header counts.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Done {
    #[serde(default)]
    pub(super) header: Header,
}

/// Answers `txn`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Decided {
    #[serde(default)]
    pub(super) header: Header,
    #[serde(default)]
    pub(super) succeeded: bool,
    #[serde(default, deserialize_with = "list::<_, _, 1>")]
    pub(super) responses: Vec<Part>,
}

/// Of a transaction: the only one we ask for an answer of is `range`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Part {
    #[serde(default, alias = "responseRange")]
    pub(super) response_range: Ranged,
}

/// Answers `lease/grant`, and inside its stream `lease/keepalive`, where no time means that there is no such lease.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Granted {
    #[serde(default, rename = "ID", deserialize_with = "number")]
    pub(super) id: u64,
    #[serde(default, rename = "TTL", deserialize_with = "number")]
    pub(super) seconds: u64,
}

/// A line of a stream.
#[derive(Debug, Default, Deserialize)]
#[serde(bound = "T: DeserializeOwned + Default")]
pub(super) struct Line<T> {
    #[serde(default)]
    pub(super) result: T,
    #[serde(default)]
    pub(super) error: Option<Complaint>,
}

/// Answers `auth/authenticate`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Admitted {
    #[serde(default)]
    pub(super) token: String,
}

/// Why something was refused.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Complaint {
    #[serde(default)]
    pub(super) message: String,
    #[serde(default, alias = "grpc_code")]
    pub(super) code: u64,
}

/// A line of a watch.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Watched {
    #[serde(default)]
    pub(super) header: Header,
    #[serde(default)]
    pub(super) created: bool,
    #[serde(default)]
    pub(super) canceled: bool,
    #[serde(default, deserialize_with = "number")]
    pub(super) compact_revision: u64,
    #[serde(default)]
    pub(super) cancel_reason: String,
    #[serde(default, deserialize_with = "list::<_, _, MANY>")]
    pub(super) events: Vec<Event>,
}

/// A change.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Event {
    #[serde(default, rename = "type")]
    pub(super) kind: Kind,
    #[serde(default)]
    pub(super) kv: Pair,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Kind {
    /// Left out when it is this.
    #[default]
    Put,
    Delete,
}

/// A number, written as one or as a string; negative ones (no such lease) count as 0.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        Number(i64),
        Large(u64),
    }
    match Written::deserialize(deserializer)? {
        Written::Large(number) => Ok(number),
        Written::Number(number) => Ok(u64::try_from(number).unwrap_or(0)),
        Written::Text(text) if text.starts_with('-') => Ok(0),
        Written::Text(text) => text.parse().map_err(D::Error::custom),
    }
}

/// A list of at most so many: what is left out takes little room, and much once it is read.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MOST: usize>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct Items<T, const MOST: usize>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Items<T, MOST> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut all = Vec::new();
            while let Some(item) = items.next_element()? {
                if all.len() == MOST {
                    return Err(A::Error::custom(format_args!("a list has more than {MOST} items")));
                }
                all.push(item);
            }
            Ok(all)
        }
    }
    deserializer.deserialize_seq(Items::<T, MOST>(PhantomData))
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_zero_and_what_is_there_is_read() {
        let lost: Decided = serde_json::from_str(r#"{"header":{"cluster_id":"14841639068965178418","revision":"7"}}"#).expect("read");
        assert!(!lost.succeeded && lost.header.revision == 7 && lost.header.cluster_id == 14_841_639_068_965_178_418);
        let line = r#"{"result":{"header":{"revision":"7"},"events":[{"kv":{"key":"YQ==","value":"Yg==","mod_revision":"7"}},
            {"type":"DELETE","kv":{"key":"YQ==","mod_revision":7}}]}}"#;
        let watched: Line<Watched> = serde_json::from_str(line).expect("read");
        let kinds: Vec<_> =
            watched.result.events.iter().map(|event| (event.kind, event.kv.key.as_slice(), event.kv.mod_revision)).collect();
        assert_eq!(kinds, [(Kind::Put, &b"a"[..], 7), (Kind::Delete, &b"a"[..], 7)]);
        let kept: Line<Granted> = serde_json::from_str(r#"{"result":{"ID":"5"}}"#).expect("read");
        assert_eq!((kept.result.id, kept.result.seconds), (5, 0));
        assert!(serde_json::from_str::<Pair>(r#"{"key":"%"}"#).is_err());
    }
}
