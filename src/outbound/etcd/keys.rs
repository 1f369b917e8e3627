//! What stands in etcd under which key, and how it is read.
//!
//! An instance is JSON in the words of the API, and at the same time what kratos' registry writes: `id`, `name`, `version`, `metadata` and
//! `endpoints`. One that only has those, since something else has written it, is read too.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::wire::Pair;
use crate::mesh::record::{Document, Key, Node, Record, Version};
use crate::model::{HealthTarget, InstanceId, Invalid, Registration, Scheme, ServiceName, authority};
use crate::outbound::store::document::{Flat, FlatPolicy};

/// The longest record of a node, in bytes: an id, a version and a few addresses.
const LONGEST_NODE: usize = 4096;

/// What is read of a key.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Place {
    Document(Key),
    /// The node with that id.
    Node(String),
    /// Written once, when the first mesh came: another one means another registry.
    Born,
}

/// The keys under one prefix.
pub(super) struct Keys {
    prefix: String,
}

/// What is kept, with all that etcd says of it.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Kept {
    pub(super) document: Document,
    pub(super) version: Version,
    /// 0 is none.
    pub(super) lease: u64,
}

#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    flat: Flat<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    endpoints: [String; 1],
}

/// An instance that something other than weft has written.
#[derive(Deserialize)]
struct Foreign {
    id: String,
    name: String,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
    endpoints: Vec<String>,
}

impl Keys {
    pub(super) const fn new(prefix: String) -> Self {
        Self { prefix }
    }

    /// The first key of all, and the first beyond them.
    pub(super) fn all(&self) -> (String, String) {
        // The slash is part of the prefix, or /mesh/v1 would take in /mesh/v10; the zero comes right after it.
        (format!("{}/", self.prefix), format!("{}0", self.prefix))
    }

    pub(super) fn of(&self, key: &Key) -> String {
        format!("{}/{key}", self.prefix)
    }

    pub(super) fn node(&self, id: &str) -> String {
        format!("{}/nodes/{id}", self.prefix)
    }

    pub(super) fn born(&self) -> String {
        format!("{}/born", self.prefix)
    }

    /// What a key is about; `None` when it is nothing of ours.
    pub(super) fn place(&self, key: &[u8]) -> Option<Place> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?.strip_prefix('/')?;
        let mut parts = rest.split('/');
        let place = match (parts.next(), parts.next(), parts.next()) {
            (Some("instances"), Some(service), Some(id)) => {
                Place::Document(Key::Instance(ServiceName::new(service).ok()?, InstanceId::new(id).ok()?))
            }
            (Some("policies"), Some(service), None) => Place::Document(Key::Policy(ServiceName::new(service).ok()?)),
            (Some("nodes"), Some(id), None) => Place::Node(InstanceId::new(id).ok()?.to_string()),
            (Some("born"), None, None) => Place::Born,
            _ => return None,
        };
        parts.next().is_none().then_some(place)
    }
}

/// A document as it is written.
pub(super) fn value(document: &Document) -> Vec<u8> {
    let json = match document {
        Document::Instance(record) => {
            let registration = &record.registration;
            let scheme = match registration.scheme.unwrap_or_default() {
                Scheme::Http => "http",
                Scheme::Https => "https",
            };
            serde_json::to_vec(&Written {
                flat: Flat::of(record),
                version: registration.metadata.as_ref().and_then(|labels| labels.get("version")).map(String::as_str),
                endpoints: [format!("{scheme}://{}", authority(&registration.host, registration.port))],
            })
        }
        Document::Policy(service, patch) => serde_json::to_vec(&FlatPolicy::of(service, patch)),
    };
    // Text, numbers and maps with text keys can always be written.
    json.unwrap_or_default()
}

/// Reads what stands under the key of a document.
pub(super) fn kept(key: &Key, pair: &Pair) -> Result<Kept, Invalid> {
    let document = match key {
        Key::Instance(..) => Document::Instance(Box::new(record(&pair.value)?)),
        Key::Policy(_) => policy(&pair.value)?,
    };
    if document.key() != *key {
        return Err(Invalid::new("key", format!("is {key}, and what stands there is about {}", document.key())));
    }
    Ok(Kept { document, version: Version(pair.mod_revision), lease: pair.lease })
}

/// Reads what stands under the key of a node: nothing where it is another's, or longer than any that a node writes.
pub(super) fn node(id: &str, pair: &Pair) -> Option<Node> {
    if pair.value.len() > LONGEST_NODE {
        return None;
    }
    serde_json::from_slice(&pair.value).ok().filter(|node: &Node| node.id == id)
}

fn not_understood(error: &serde_json::Error) -> Invalid {
    Invalid::new("value", format!("is not understood: {error}"))
}

fn record(value: &[u8]) -> Result<Record, Invalid> {
    match serde_json::from_slice::<Flat<'_>>(value) {
        Ok(flat) => flat.record(),
        Err(error) => {
            let foreign: Foreign = serde_json::from_slice(value).map_err(|_| not_understood(&error))?;
            let targets = foreign.endpoints.iter().filter_map(|url| HealthTarget::new(url).ok());
            let target = targets.into_iter().next().ok_or_else(|| Invalid::new("endpoints", "names nothing that speaks HTTP"))?;
            let base = Registration::new(&foreign.name, &foreign.id, &target.host.to_string(), target.port.get())?;
            let scheme = Some(Scheme::supported(target.scheme)?).filter(|scheme| *scheme != Scheme::Http);
            Ok(Record::new(Registration { scheme, metadata: foreign.metadata, ..base }))
        }
    }
}

fn policy(value: &[u8]) -> Result<Document, Invalid> {
    let flat: FlatPolicy<'_> = serde_json::from_slice(value).map_err(|error| not_understood(&error))?;
    flat.document()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    fn pair(value: &[u8]) -> Pair {
        Pair { value: value.to_vec(), mod_revision: 7, lease: 5, ..Pair::default() }
    }

    #[test]
    fn what_is_written_is_read_again_and_says_what_kratos_wants_to_know() {
        let mut registration = Registration::new("s", "i", "::1", 80).expect("valid");
        registration.metadata = Some([("version".to_owned(), "2".to_owned())].into());
        registration.ttl = Some(Duration::from_secs(9));
        let instance = Document::Instance(Box::new(Record { reason: Some("é".to_owned()), ..Record::new(registration) }));
        let policy = Document::Policy(ServiceName::new("s").expect("valid"), json!({"retry": {"maxRetries": 1}}));
        let json: Value = serde_json::from_slice(&value(&instance)).expect("JSON");
        assert_eq!(
            (&json["version"], &json["endpoints"], &json["metadata"]),
            (&json!("2"), &json!(["http://[::1]:80"]), &json!({"version": "2"}))
        );
        for document in [instance, policy] {
            let read = kept(&document.key(), &pair(&value(&document))).expect("as written");
            assert_eq!(read, Kept { document, version: Version(7), lease: 5 });
        }
    }

    #[test]
    fn what_another_program_has_written_is_read_if_it_speaks_http() {
        let keys = Keys::new("/microservices".to_owned());
        let Some(Place::Document(key)) = keys.place(b"/microservices/instances/users/1") else { panic!("an instance") };
        let json =
            r#"{"id":"1","name":"users","version":"v1","metadata":{"a":"b"},"endpoints":["grpc://10.0.0.1:9000","http://10.0.0.1:8000"]}"#;
        let Ok(Kept { document: Document::Instance(record), .. }) = kept(&key, &pair(json.as_bytes())) else { panic!("an instance") };
        assert_eq!((record.registration.host.to_string().as_str(), record.registration.port.get()), ("10.0.0.1", 8000));
        for json in [
            r#"{"id":"1","name":"users","endpoints":["grpc://10.0.0.1:9000"]}"#,
            "{}",
            "x",
            r#"{"id":"2","name":"users","host":"h","port":1}"#,
        ] {
            assert!(kept(&key, &pair(json.as_bytes())).is_err(), "{json}");
        }
    }

    #[test]
    fn keys_beside_ours_are_nothing_of_ours() {
        let keys = Keys::new("/mesh/v1".to_owned());
        assert_eq!(keys.all(), ("/mesh/v1/".to_owned(), "/mesh/v10".to_owned()));
        assert_eq!(keys.place(keys.node("n").as_bytes()), Some(Place::Node("n".to_owned())));
        assert_eq!(keys.place(keys.born().as_bytes()), Some(Place::Born));
        for key in [
            "/mesh/v1/instances/s",
            "/mesh/v1/instances/s/i/x",
            "/mesh/v1/policies/s/x",
            "/mesh/v1/other",
            "/mesh/v10/nodes/n",
            "/mesh/v1/nodes/n/x",
        ] {
            assert_eq!(keys.place(key.as_bytes()), None, "{key}");
        }
        assert_eq!(keys.place(b"\xff"), None);
    }
}
