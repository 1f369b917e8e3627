//! Which calls a route covers.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::happens;
use crate::model::settings::{leaf, settings};
use crate::model::time::Chances;
use crate::model::{Endpoint, Fields, Invalid, Method};

settings! {
    /// What must be true of a call; all of it.
    pub struct Match {
        /// The method, or several; none: any.
        method: Methods = Methods::default();
        /// What the path begins with, in whole segments: "/api" covers "/api" and "/api/x", not "/apis".
        path_prefix: Option<String> = None;
        /// What the path is.
        path_exact: Option<String> = None;
        /// What header fields are: "text", {"exact": "text"}, {"prefix": "text"} or {"present": true}.
        headers: HeaderRules = BTreeMap::new();
        /// What parameters of the query are, as they are written.
        query: BTreeMap<String, String> = BTreeMap::new();
        /// How many of these calls, by chance.
        percent: f64 = 100.0, in 0, 100;
    }
}

/// What [`Match::headers`] holds.
type HeaderRules = BTreeMap<String, HeaderRule>;

/// What a route sees of a call.
pub struct Seen<'a> {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub endpoint: &'a str,
    /// The header fields.
    pub headers: &'a dyn Fields,
    /// The hash of what the call goes by, where the same should go to the same.
    pub key: Option<u64>,
}

impl Match {
    /// Whether it covers a call. Chance is asked last.
    pub(super) fn covers(&self, seen: &Seen<'_>, chances: &mut Chances) -> bool {
        let (path, query) = seen.endpoint.split_once('?').unwrap_or((seen.endpoint, ""));
        let path = if path.is_empty() { "/" } else { path };
        let parameter = |name: &str, value: &str| query.split('&').any(|pair| pair.split_once('=').unwrap_or((pair, "")) == (name, value));
        (self.method.0.is_empty() || self.method.0.contains(&seen.method))
            && self.path_exact.as_ref().is_none_or(|exact| path == exact)
            && self.path_prefix.as_ref().is_none_or(|prefix| begins_with(path, prefix))
            && self.query.iter().all(|(name, value)| parameter(name, value))
            && self.headers.iter().all(|(name, rule)| rule.covers(seen.headers.first(name)))
            && happens(self.percent, chances)
    }

    /// Refuses what contradicts itself or could never match.
    pub(super) fn check_together(&self, faults: &mut Vec<Invalid>) {
        if self.path_exact.is_some() && self.path_prefix.is_some() {
            faults.push(Invalid::new("match.pathExact", "stands beside match.pathPrefix; use one of them"));
        }
        for (field, path) in [("match.pathExact", &self.path_exact), ("match.pathPrefix", &self.path_prefix)] {
            faults.extend(path.as_ref().and_then(|path| checked_path(field, path).err()));
        }
    }

    /// The length of what it says the path is or begins with.
    pub(super) fn matched_length(&self) -> Option<usize> {
        self.path_exact.as_ref().or(self.path_prefix.as_ref()).map(String::len)
    }
}

/// A path without a query.
pub(super) fn checked_path(field: &'static str, path: &str) -> Result<(), Invalid> {
    Endpoint::new(path).map_err(|fault| Invalid::new(field, fault.why))?;
    if path.contains('?') {
        return Err(Invalid::new(field, "has a '?'; use match.query for parameters"));
    }
    Ok(())
}

fn begins_with(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
}

/// What a header field must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HeaderRule {
    /// This text.
    Exact(String),
    /// Text that begins so.
    Prefix(String),
    /// There, or not there.
    Present(bool),
}

impl HeaderRule {
    fn covers(&self, value: Option<&str>) -> bool {
        match self {
            Self::Exact(text) => value == Some(text),
            Self::Prefix(prefix) => value.is_some_and(|value| value.starts_with(prefix)),
            Self::Present(present) => value.is_some() == *present,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WrittenRule {
    Exact(String),
    Prefix(String),
    Present(bool),
}

impl Serialize for HeaderRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.clone() {
            Self::Exact(text) => WrittenRule::Exact(text),
            Self::Prefix(text) => WrittenRule::Prefix(text),
            Self::Present(present) => WrittenRule::Present(present),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for HeaderRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Rule(WrittenRule),
        }
        let allowed = || serde::de::Error::custom("use a text, {\"exact\": text}, {\"prefix\": text} or {\"present\": true}");
        Ok(match Either::deserialize(deserializer).map_err(|_| allowed())? {
            Either::Text(text) | Either::Rule(WrittenRule::Exact(text)) => Self::Exact(text),
            Either::Rule(WrittenRule::Prefix(text)) => Self::Prefix(text),
            Either::Rule(WrittenRule::Present(present)) => Self::Present(present),
        })
    }
}

/// Methods, written as one or as a list.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Methods(pub Vec<Method>);

impl Serialize for Methods {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|method| method.as_str()))
    }
}

impl<'de> Deserialize<'de> for Methods {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            One(String),
            Many(Vec<String>),
        }
        let many = match Written::deserialize(deserializer).map_err(|_| serde::de::Error::custom("use a method or a list of methods"))? {
            Written::One(one) => vec![one],
            Written::Many(many) => many,
        };
        let all = many.iter().map(|text| Method::new(text)).collect::<Result<_, _>>();
        all.map(Self).map_err(|fault| serde::de::Error::custom(fault.why))
    }
}

leaf! {
    HeaderRules => |_| None,
    Methods => |_| None,
}
