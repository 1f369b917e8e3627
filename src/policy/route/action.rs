//! What a route does with the calls it covers.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::happens;
use super::matching::{Match, checked_path};
use crate::model::settings::{Millis, Setting, settings};
use crate::model::time::Chances;
use crate::model::{Headers, Invalid, ServiceName, StaticAnswer, read_alike, shown};

settings! {
    /// A part of the instances, and how much of the traffic it gets.
    pub struct Side {
        /// Its share of the traffic, relative to the other sides.
        weight: u32 = 1, in 0, 1_000_000;
        /// The metadata its instances have; none: all instances.
        subset: BTreeMap<String, String> = BTreeMap::new();
    }
}

/// How many sides a split may have: each instance is compared with each of them by whoever explains it.
const MOST_SIDES: usize = 20;

/// The sides of a split.
pub(super) type Sides = Vec<Side>;

settings! {
    /// Where calls are copied to.
    pub struct Mirror {
        /// The service that gets the copies.
        service: String = String::new();
        /// How many of the calls, by chance.
        percent: f64 = 100.0, in 0, 100;
    }
}

settings! {
    /// Faults to inject, to see how callers take them.
    pub struct Fault {
        /// How long a call is held up before anything else happens; never beyond its deadline.
        delay_ms: Millis = Millis(0), in 0, 60_000;
        /// How many calls are held up, by chance.
        delay_percent: f64 = 100.0, in 0, 100;
        /// The status with which a call fails instead of being sent.
        abort_status: Option<u32> = None, in 400, 599;
        /// How many calls fail so, by chance.
        abort_percent: f64 = 100.0, in 0, 100;
    }
}

settings! {
    /// The answer when a call fails.
    pub struct Fallback {
        /// Its status.
        status: u32 = 200, in 200, 599;
        /// Its header fields.
        headers: BTreeMap<String, String> = BTreeMap::new();
        /// Its body: a text as it is, anything else as JSON.
        body: Value = Value::Null;
    }
}

impl Setting for Sides {
    fn annotate(&self, out: &mut String, indent: usize) {
        out.push('[');
        for (at, side) in self.iter().enumerate() {
            out.push_str(if at == 0 { "" } else { ", " });
            side.annotate(out, indent);
        }
        out.push(']');
    }
}

impl Mirror {
    pub(super) fn target(&self) -> Result<ServiceName, Invalid> {
        ServiceName::new(&self.service).map_err(|fault| Invalid::new("mirror.service", fault.why))
    }
}

impl Fault {
    pub(super) fn delay(&self, chances: &mut Chances) -> Option<Duration> {
        (self.delay_ms.0 > 0 && happens(self.delay_percent, chances)).then(|| self.delay_ms.duration())
    }

    pub(super) fn abort(&self, chances: &mut Chances) -> Option<u16> {
        let status = self.abort_status.and_then(|status| u16::try_from(status).ok())?;
        happens(self.abort_percent, chances).then_some(status)
    }
}

impl Fallback {
    pub(super) fn answer(&self) -> Result<StaticAnswer, Invalid> {
        let named = |fault: Invalid| Invalid::new("fallback.headers", fault.why);
        let mut headers = Headers::new();
        for (name, value) in &self.headers {
            headers.append(name, value).map_err(named)?;
        }
        let asked = headers.len();
        let mut headers = headers.for_downstream();
        if headers.len() < asked {
            return Err(Invalid::new("fallback.headers", "has a field that belongs to the connection or to the mesh"));
        }
        let (content_type, body) = match &self.body {
            Value::Null => (None, Vec::new()),
            Value::String(text) => (Some("text/plain; charset=utf-8"), text.clone().into_bytes()),
            json => (Some("application/json"), json.to_string().into_bytes()),
        };
        if let Some(content_type) = content_type.filter(|_| !headers.contains("content-type")) {
            headers.push("content-type", content_type);
        }
        let status = u16::try_from(self.status).unwrap_or(200);
        Ok(StaticAnswer { status, headers, body })
    }
}

pub(super) fn check_sides(sides: &[Side], faults: &mut Vec<Invalid>) {
    if sides.len() > MOST_SIDES {
        return faults.push(Invalid::new("split", format!("has {} sides; use at most {MOST_SIDES}", sides.len())));
    }
    for (at, side) in sides.iter().enumerate() {
        side.check(&format!("split[{at}]"), faults);
    }
    if !sides.is_empty() && sides.iter().all(|side| side.weight == 0) {
        faults.push(Invalid::new("split", "gives every side the weight 0; use at least one above"));
    }
}

/// A part of the path that is replaced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Rewrite {
    /// How long it is.
    length: usize,
    /// What takes its place: a path.
    new: String,
}

impl Rewrite {
    /// What `endpoint`, a path and query that the route covers, becomes. Two slashes at its beginning would name a host.
    pub(super) fn of(&self, endpoint: &str) -> String {
        let rest = endpoint.get(self.length..).unwrap_or_default();
        match (self.new.trim_end_matches('/'), rest.trim_start_matches('/')) {
            _ if rest.is_empty() || rest.starts_with('?') => format!("{}{rest}", self.new),
            ("", after) => format!("/{after}"),
            (base, _) if rest.starts_with('/') => format!("{base}{rest}"),
            (base, after) => format!("{base}/{after}"),
        }
    }
}

/// What is replaced by what.
pub(super) fn rewrite(rule: &Match, new: Option<&str>) -> Result<Option<Rewrite>, Invalid> {
    let Some(new) = new else { return Ok(None) };
    let Some(length) = rule.matched_length() else {
        return Err(Invalid::new("rewritePrefix", "needs match.pathPrefix or match.pathExact, which it replaces"));
    };
    if new.len() > 1024 {
        return Err(Invalid::new("rewritePrefix", "is longer than 1 KiB"));
    }
    checked_path("rewritePrefix", new)?;
    Ok(Some(Rewrite { length, new: new.to_owned() }))
}

/// What is done to the header fields of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeaderChanges {
    /// Fields to set, in place of those of the same name.
    pub set: Vec<(String, String)>,
    /// Names of fields to remove.
    pub remove: Vec<String>,
}

impl HeaderChanges {
    pub(super) fn new(set: &BTreeMap<String, String>, remove: &[String]) -> Result<Option<Self>, Invalid> {
        if set.is_empty() && remove.is_empty() {
            return Ok(None);
        }
        for (field, name, value) in set
            .iter()
            .map(|(name, value)| ("setHeaders", name, value.as_str()))
            .chain(remove.iter().map(|name| ("removeHeaders", name, "x")))
        {
            let mut one = Headers::new();
            one.append(name, value).map_err(|fault| Invalid::new(field, fault.why))?;
            if one.for_upstream().is_empty() {
                return Err(Invalid::new(field, format!("{} belongs to the connection or to the mesh", shown(name))));
            }
        }
        let set = set.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        Ok(Some(Self { set, remove: remove.to_vec() }))
    }

    /// Whether a field of that name is taken out, to be set anew or not: in each spelling that instances may take for the same.
    pub fn takes_out(&self, name: &str) -> bool {
        self.remove.iter().chain(self.set.iter().map(|(name, _)| name)).any(|other| read_alike(other, name))
    }

    /// Does it.
    pub fn apply(&self, headers: &mut Headers) {
        headers.remove_where(|name| self.takes_out(name));
        for (name, value) in &self.set {
            headers.push(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_replaced_and_slashes_stay_single_where_it_matters() {
        for (endpoint, prefix, new, result) in [
            ("/api/x?y=1", "/api", "/v2", "/v2/x?y=1"),
            ("/api", "/api", "/v2", "/v2"),
            ("/api?y", "/api", "/", "/?y"),
            ("/api/x", "/api", "/", "/x"),
            ("/api//x", "/api", "/", "/x"),
            ("/api/x", "/api/", "/v2/", "/v2/x"),
            ("/api//x", "/api", "/v2", "/v2//x"),
            ("/x", "/", "/v2", "/v2/x"),
            ("", "/", "/v2", "/v2"),
        ] {
            let rewrite = Rewrite { length: prefix.len(), new: new.to_owned() };
            assert_eq!(rewrite.of(endpoint), result, "{endpoint}");
        }
    }

    #[test]
    fn what_is_set_is_taken_out_first() {
        let set = BTreeMap::from([("X-A".to_owned(), "1".to_owned())]);
        let changes = HeaderChanges::new(&set, &["x-b".to_owned()]).expect("valid").expect("some");
        assert_eq!(["x-a", "X-B", "x_a", "x-c"].map(|name| changes.takes_out(name)), [true, true, true, false]);
    }
}
