//! A document as JSON, in the words of the API: what stands in a line of the log, and in what `weft state export` prints.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::mesh::record::{Document, Key, Record};
use crate::model::time::whole_ms;
use crate::model::{AdminState, HealthTarget, InstanceId, Invalid, Registration, Scheme, ServiceName, Weight};

/// An instance. Fields that say nothing are left out.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Flat<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    host: String,
    port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scheme: Option<Scheme>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    health_check_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<Cow<'a, BTreeMap<String, String>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_in_flight: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    registered_by: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "is_default")]
    state: AdminState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'a, str>>,
    /// What an operator set; `weight` is what the instance registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    operator_weight: Option<u16>,
}

/// A patch of a service's policy.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct FlatPolicy<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    patch: Cow<'a, Value>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl<'a> Flat<'a> {
    pub(crate) fn of(record: &'a Record) -> Self {
        let registration = &record.registration;
        Self {
            name: registration.service.as_str().into(),
            id: registration.id.as_str().into(),
            host: registration.host.to_string(),
            port: registration.port.get(),
            scheme: registration.scheme,
            health_check_url: registration.health_check.as_ref().map(ToString::to_string),
            metadata: registration.metadata.as_ref().map(Cow::Borrowed),
            weight: registration.weight.map(Weight::get),
            zone: registration.zone.as_deref().map(Cow::Borrowed),
            max_in_flight: registration.max_in_flight,
            ttl_ms: registration.ttl.map(whole_ms),
            registered_by: registration.owner.as_deref().map(Cow::Borrowed),
            state: record.state,
            reason: record.reason.as_deref().map(Cow::Borrowed),
            operator_weight: record.weight.map(Weight::get),
        }
    }

    pub(crate) fn record(self) -> Result<Record, Invalid> {
        let weight = |weight: Option<u16>| weight.map(|weight| Weight::new(u64::from(weight))).transpose();
        let base = Registration::new(&self.name, &self.id, &self.host, self.port)?;
        let registration = Registration {
            scheme: self.scheme.map(Scheme::supported).transpose()?,
            health_check: self.health_check_url.as_deref().map(HealthTarget::new).transpose()?,
            metadata: self.metadata.map(Cow::into_owned),
            weight: weight(self.weight)?,
            zone: self.zone.map(Cow::into_owned),
            max_in_flight: self.max_in_flight,
            ttl: self.ttl_ms.map(Duration::from_millis),
            owner: self.registered_by.map(|name| name.as_ref().into()),
            ..base
        };
        Ok(Record { registration, state: self.state, reason: self.reason.map(Cow::into_owned), weight: weight(self.operator_weight)? })
    }
}

impl<'a> FlatPolicy<'a> {
    pub(crate) fn of(service: &'a ServiceName, patch: &'a Value) -> Self {
        Self { name: service.as_str().into(), patch: Cow::Borrowed(patch) }
    }

    pub(crate) fn document(self) -> Result<Document, Invalid> {
        Ok(Document::Policy(ServiceName::new(&self.name)?, self.patch.into_owned()))
    }
}

/// A key as it is displayed.
pub(crate) fn key(text: &str) -> Result<Key, Invalid> {
    let mut parts = text.split('/');
    let key = match (parts.next(), parts.next(), parts.next()) {
        (Some("instances"), Some(service), Some(id)) => Key::Instance(ServiceName::new(service)?, InstanceId::new(id)?),
        (Some("policies"), Some(service), None) => Key::Policy(ServiceName::new(service)?),
        _ => return Err(Invalid::new("key", format!("{} is neither an instance nor a policy", crate::model::shown(text)))),
    };
    if parts.next().is_some() { Err(Invalid::new("key", "has too many parts")) } else { Ok(key) }
}

/// A whole registry as one JSON document, to be moved from one store to another.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Export<'a> {
    #[serde(borrow)]
    instances: Vec<Flat<'a>>,
    policies: Vec<FlatPolicy<'a>>,
}

/// All documents as JSON for a person to read, and for [`import`].
pub fn export(documents: &[Document]) -> String {
    let mut all = Export { instances: Vec::new(), policies: Vec::new() };
    for document in documents {
        match document {
            Document::Instance(record) => all.instances.push(Flat::of(record)),
            Document::Policy(service, patch) => all.policies.push(FlatPolicy::of(service, patch)),
        }
    }
    // Text, numbers and maps with text keys can always be written.
    serde_json::to_string_pretty(&all).unwrap_or_default()
}

/// Reads what [`export`] has written.
///
/// # Errors
/// [`Invalid`] naming the first thing that is not acceptable.
pub fn import(json: &str) -> Result<Vec<Document>, Invalid> {
    let all: Export<'_> =
        serde_json::from_str(json).map_err(|error| Invalid::new("state", format!("is not what was exported: {error}")))?;
    let instances = all.instances.into_iter().map(|flat| flat.record().map(|record| Document::Instance(Box::new(record))));
    instances.chain(all.policies.into_iter().map(FlatPolicy::document)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_field_survives() {
        let mut full = Registration::new("s", "i", "::1", 1).expect("valid");
        full.scheme = Some(Scheme::Http);
        full.health_check = HealthTarget::new("http://h:2/x?y").ok();
        full.metadata = Some([("a\"\n".to_owned(), "b".to_owned())].into());
        full.weight = Weight::new(0).ok();
        full.zone = Some("north".to_owned());
        full.max_in_flight = Some(4);
        full.ttl = Some(Duration::from_millis(1_500));
        full.owner = Some("ci".into());
        let full = Record { state: AdminState::Maint, reason: Some("é".to_owned()), weight: Weight::new(9).ok(), ..Record::new(full) };
        let least = Record::new(Registration::new("s", "j", "host", 1).expect("valid"));
        let documents = vec![
            Document::Instance(Box::new(full)),
            Document::Instance(Box::new(least)),
            Document::Policy(ServiceName::new("s").expect("valid"), json!({"retry": {"maxRetries": 1.50}})),
        ];
        assert_eq!(import(&export(&documents)).expect("as exported"), documents);
        for document in &documents {
            assert_eq!(key(&document.key().to_string()), Ok(document.key()));
        }
    }

    #[test]
    fn what_was_not_exported_is_refused_with_a_reason() {
        for (json, words) in [
            ("{}", "missing field"),
            ("[]", "is not what was exported"),
            (r#"{"instances":[{"name":"s","id":"i","host":"a b","port":1}],"policies":[]}"#, "host"),
            (r#"{"instances":[],"policies":[],"other":1}"#, "unknown field"),
        ] {
            assert!(import(json).expect_err(json).to_string().contains(words), "{json}");
        }
        for text in ["", "instances/s", "instances/s/i/x", "policies/s/x", "nodes/n", "instances//i"] {
            assert!(key(text).is_err(), "{text}");
        }
    }
}
