//! What is kept of the registry: one record per instance, one patch per service whose policy was changed. Nothing else survives a restart.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{AdminState, InstanceId, Registration, ServiceName, Weight};

/// What a kept document is about.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Key {
    /// An instance.
    Instance(ServiceName, InstanceId),
    /// The settings that were put on top of a service's configuration.
    Policy(ServiceName),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(service, id) => write!(f, "instances/{service}/{id}"),
            Self::Policy(service) => write!(f, "policies/{service}"),
        }
    }
}

/// All that is kept about one thing, whole: a later document replaces an earlier one with the same key.
#[derive(Clone, PartialEq, Debug)]
pub enum Document {
    /// An instance.
    Instance(Box<Record>),
    /// A patch (RFC 7396) of a service's policy.
    Policy(ServiceName, Value),
}

impl Document {
    /// What it is about.
    pub fn key(&self) -> Key {
        match self {
            Self::Instance(record) => record.key(),
            Self::Policy(service, _) => Key::Policy(service.clone()),
        }
    }
}

/// What is kept of an instance: what it registered, and what operators want of it. Health, ejection and counters are not.
#[derive(Clone, PartialEq, Debug)]
pub struct Record {
    /// What it registered, without an explicit state of health.
    pub registration: Registration,
    /// What an operator wants of it.
    pub state: AdminState,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// An operator's weight, which wins over the registered one.
    pub weight: Option<Weight>,
}

impl Record {
    /// Of an instance nobody has said anything about but itself.
    pub fn new(registration: Registration) -> Self {
        let registration = Registration { healthy: None, ..registration };
        Self { registration, state: AdminState::default(), reason: None, weight: None }
    }

    /// This record after the instance has registered (again).
    #[must_use]
    pub fn registered(&self, registration: Registration) -> Self {
        let registration = Registration { healthy: None, ..registration.over(&self.registration) };
        Self { registration, ..self.clone() }
    }

    /// What it is about.
    pub fn key(&self) -> Key {
        Key::Instance(self.registration.service.clone(), self.registration.id.clone())
    }
}

/// Which of several documents with the same key is the later one, where a store is shared; 0 when it is not, or when there is none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Version(pub u64);

/// One of several meshes that share a store, as it describes itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Another one each time the program starts.
    pub id: String,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// Of weft.
    pub version: String,
    /// When it started, in milliseconds since the Unix epoch.
    pub started: u64,
}
