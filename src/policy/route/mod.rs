//! Traffic policies: what is special about some calls of a service. The first route that covers a call is the only one that counts.
//!
//! A route can send its calls to subsets of the instances, copy them to another service, delay or fail them, change what is sent, give them
//! times and retries of their own, and answer for them when they fail. Words and order are those of Istio's `VirtualService`.

mod action;
mod matching;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

pub use action::{Fallback, Fault, HeaderChanges, Mirror, Side};
pub use matching::{HeaderRule, Match, Methods, Seen};

use super::{retry, timeout};
use crate::model::settings::{Setting, settings};
use crate::model::time::{Chances, fraction};
use crate::model::{Invalid, ServiceName, StaticAnswer, on_one_line};
use crate::policy::hash::{hash, pair};

/// How many routes a service may have.
const MOST: usize = 100;
/// The longest name that is shown, in characters.
const LONGEST_NAME: usize = 64;

settings! {
    /// A route, as it is written.
    pub struct Written {
        /// What it is called where it is shown; its number where it has no name.
        name: Option<String> = None;
        /// Which calls it covers; all when left out.
        r#match: Match = Match::default();
        /// Subsets of the instances, by metadata, and how much of the traffic each gets. None: all instances.
        split: action::Sides = Vec::new();
        /// Header whose value keeps a caller on one side of the split, where the call names no hashKey.
        sticky_header: Option<String> = None;
        /// A copy of the call goes to another service; its answer is ignored.
        mirror: Option<Mirror> = None;
        /// Faults to inject.
        fault: Option<Fault> = None;
        /// What takes the place of the matched pathPrefix or pathExact.
        rewrite_prefix: Option<String> = None;
        /// Header fields to set, whatever the caller says.
        set_headers: BTreeMap<String, String> = BTreeMap::new();
        /// Header fields to remove.
        remove_headers: Vec<String> = Vec::new();
        /// What of the service's "timeouts" is different.
        timeouts: Value = Value::Null;
        /// What of the service's "retry" is different; the budget is always the service's.
        retry: Value = Value::Null;
        /// The answer that is given when the call fails.
        fallback: Option<Fallback> = None;
    }
}

/// A route, checked, with all that can be worked out beforehand.
#[derive(Clone, PartialEq, Debug)]
pub struct Route {
    /// Its name or its number.
    pub name: String,
    written: Written,
    /// The times of its calls, where they differ.
    pub timeouts: Option<timeout::Config>,
    /// The retries of its calls, where they differ.
    pub retry: Option<retry::Config>,
    /// To which service calls are copied.
    mirror: Option<ServiceName>,
    rewrite: Option<action::Rewrite>,
    /// What is done to the header fields of its calls, if anything.
    pub changes: Option<Arc<HeaderChanges>>,
    /// The answer when a call fails.
    pub fallback: Option<Arc<StaticAnswer>>,
}

/// What a route does about one call.
#[derive(Clone, Default, Debug)]
pub struct Decision {
    /// The route.
    pub route: Option<Arc<Route>>,
    /// Which side of its split.
    side: Option<usize>,
    /// To which service the call is copied.
    pub mirror: Option<ServiceName>,
    /// What is asked for instead.
    pub endpoint: Option<Arc<str>>,
    /// How long the call is held up first.
    pub delay: Option<Duration>,
    /// The status it then fails with.
    pub abort: Option<u16>,
}

impl Decision {
    /// The labels its instance must have, if any.
    pub fn subset(&self) -> Option<&BTreeMap<String, String>> {
        let subset = &self.route.as_ref()?.written.split.get(self.side?)?.subset;
        Some(subset).filter(|subset| !subset.is_empty())
    }
}

/// Whether something that happens to `percent` of the calls happens now. Chance is only asked where it matters.
pub(super) fn happens(percent: f64, chances: &mut Chances) -> bool {
    percent >= 100.0 || (percent > 0.0 && fraction(chances.next()) * 100.0 < percent)
}

impl Route {
    fn build(at: usize, json: &Value, timeouts: &timeout::Config, retry: &retry::Config) -> Result<Self, Invalid> {
        let written: Written = super::read(json, &Written::default())?;
        let mut faults = Vec::new();
        written.check("", &mut faults);
        written.r#match.check_together(&mut faults);
        action::check_sides(&written.split, &mut faults);
        let own_timeouts = own(&written.timeouts, timeouts, "timeouts", &mut faults);
        let own_retry = own(&written.retry, retry, "retry", &mut faults);
        if let Some(own) = &own_timeouts {
            own.check_order(&mut faults);
        }
        let mirror = written.mirror.as_ref().map(|mirror| mirror.target()).transpose();
        let rewrite = action::rewrite(&written.r#match, written.rewrite_prefix.as_deref());
        let changes = HeaderChanges::new(&written.set_headers, &written.remove_headers);
        let fallback = written.fallback.as_ref().map(Fallback::answer).transpose();
        match faults.into_iter().next() {
            Some(fault) => Err(fault),
            None => Ok(Self {
                name: written.name.as_deref().map_or_else(|| at.to_string(), |name| on_one_line(name, LONGEST_NAME).into_owned()),
                timeouts: own_timeouts,
                retry: own_retry,
                mirror: mirror?,
                rewrite: rewrite?,
                changes: changes?.map(Arc::new),
                fallback: fallback?.map(Arc::new),
                written,
            }),
        }
    }

    /// The sides of its split.
    pub fn sides(&self) -> &[Side] {
        &self.written.split
    }

    /// Whether it covers every call.
    pub fn covers_all(&self) -> bool {
        self.written.r#match == Match::default()
    }

    fn decide(self: &Arc<Self>, seen: &Seen<'_>, chances: &mut Chances) -> Decision {
        let fault = self.written.fault.as_ref();
        let copied = |mirror: &&Mirror, chances: &mut Chances| happens(mirror.percent, chances);
        Decision {
            side: self.side(seen, chances),
            mirror: self.written.mirror.as_ref().filter(|mirror| copied(mirror, chances)).and_then(|_| self.mirror.clone()),
            endpoint: self.rewrite.as_ref().map(|rewrite| rewrite.of(seen.endpoint).into()),
            delay: fault.and_then(|fault| fault.delay(chances)),
            abort: fault.and_then(|fault| fault.abort(chances)),
            route: Some(Arc::clone(self)),
        }
    }

    /// The side of the split: by the call's key where it has one, else by chance. A side that grows takes keys, and none are exchanged.
    fn side(&self, seen: &Seen<'_>, chances: &mut Chances) -> Option<usize> {
        let total: f64 = self.sides().iter().map(|side| f64::from(side.weight)).sum();
        if self.sides().is_empty() {
            return None;
        }
        let header = || self.written.sticky_header.as_ref().and_then(|name| seen.headers.first(name)).map(|key| hash(key.as_bytes()));
        // Mixed, so that a side is not a range of what consistent hashing goes by.
        let place = seen.key.or_else(header).map_or_else(|| chances.next(), |key| pair(key, 1));
        let mut left = fraction(place) * total;
        let within = |side: &Side| {
            left -= f64::from(side.weight);
            left < 0.0
        };
        let last = self.sides().len() - 1;
        Some(self.sides().iter().position(within).unwrap_or(last))
    }
}

/// Settings of a group in which a route differs, if it differs.
fn own<T: Setting + Serialize + serde::de::DeserializeOwned>(json: &Value, whole: &T, group: &str, faults: &mut Vec<Invalid>) -> Option<T> {
    if json.is_null() {
        return None;
    }
    let nested = |fault: Invalid| Invalid::new(join(group, &fault.field), fault.why);
    match super::read(json, whole) {
        Ok(own) => {
            own.check(group, faults);
            Some(own)
        }
        Err(fault) => {
            faults.push(nested(fault));
            None
        }
    }
}

fn join(group: &str, field: &str) -> String {
    // A value of the wrong type altogether is named by its group.
    if field.is_empty() || field == "policy" { group.to_owned() } else { format!("{group}.{field}") }
}

/// All routes of a service, in order.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Table {
    written: Vec<Value>,
    routes: Vec<Arc<Route>>,
}

impl Table {
    /// Checks what is written and works out what can be worked out beforehand.
    pub(super) fn build(&mut self, timeouts: &timeout::Config, retry: &retry::Config) -> Result<(), Invalid> {
        if self.written.len() > MOST {
            return Err(Invalid::new("routes", format!("has {} entries; use at most {MOST}", self.written.len())));
        }
        let route = |(at, json)| {
            let named = |fault: Invalid| Invalid::new(join(&format!("routes[{at}]"), &fault.field), fault.why);
            Route::build(at, json, timeouts, retry).map(Arc::new).map_err(named)
        };
        self.routes = self.written.iter().enumerate().map(route).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// The routes in order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter()
    }

    /// What the first route that covers a call does about it.
    pub(crate) fn decide(&self, seen: &Seen<'_>, chances: &mut Chances) -> Decision {
        let found = self.routes.iter().find(|route| route.written.r#match.covers(seen, chances));
        found.map_or_else(Decision::default, |route| route.decide(seen, chances))
    }
}

impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { written: Vec::deserialize(deserializer)?, routes: Vec::new() })
    }
}

impl Setting for Table {
    /// As it is written; where there is no route, one that says what there is to say, as a comment.
    fn annotate(&self, out: &mut String, indent: usize) {
        if !self.written.is_empty() {
            out.push_str(&serde_json::to_string(&self.written).unwrap_or_default());
            return;
        }
        let example = Written {
            split: vec![Side::default()],
            mirror: Some(Mirror::default()),
            fault: Some(Fault::default()),
            fallback: Some(Fallback::default()),
            ..Written::default()
        };
        let (mut text, pad) = (String::new(), "  ".repeat(indent));
        example.annotate(&mut text, 0);
        out.push_str("[\n");
        for line in text.lines() {
            out.push_str(&format!("{pad}  // {line}\n"));
        }
        out.push_str(&pad);
        out.push(']');
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::time::{Dice, SeededDice};
    use crate::model::{Headers, Method};
    use crate::policy::Policy;

    #[allow(clippy::needless_pass_by_value)] // It reads better where it is used.
    fn table(routes: Value) -> Table {
        Policy::from_json(&json!({ "routes": routes })).expect("valid").routes
    }

    #[allow(clippy::needless_pass_by_value)]
    fn fault(routes: Value) -> String {
        Policy::from_json(&json!({ "routes": routes })).expect_err("invalid").to_string()
    }

    struct Asked {
        method: Method,
        endpoint: &'static str,
        headers: Headers,
    }

    const fn get(path: &'static str) -> Asked {
        Asked { method: Method::Get, endpoint: path, headers: Headers::new() }
    }

    impl Asked {
        fn header(mut self, name: &str, value: &str) -> Self {
            self.headers.append(name, value).expect("valid");
            self
        }

        fn decided(&self, table: &Table, key: Option<&str>, roll: u64) -> Decision {
            let key = key.map(|key| hash(key.as_bytes()));
            let seen = Seen { method: self.method, endpoint: self.endpoint, headers: &self.headers, key };
            table.decide(&seen, &mut Chances::of(roll))
        }

        fn route(&self, table: &Table) -> Option<String> {
            self.decided(table, None, 1).route.map(|route| route.name.clone())
        }
    }

    #[test]
    fn the_first_route_that_covers_a_call_counts_and_all_of_its_match_must_be_true() {
        let table = table(json!([
            {"name": "exact", "match": {"pathExact": "/a"}},
            {"name": "prefix", "match": {"pathPrefix": "/a", "method": ["GET", "HEAD"]}},
            {"name": "folder", "match": {"pathPrefix": "/b/"}},
            {"name": "text", "match": {"headers": {"x-user": "anna"}, "query": {"v": "2"}}},
            {"name": "begins", "match": {"headers": {"x-user": {"prefix": "b"}}}},
            {"name": "there", "match": {"headers": {"x-debug": {"present": true}}}},
            {"match": {"headers": {"x-user": {"present": false}}, "method": "POST"}},
        ]));
        for (asked, name) in [
            (get("/a"), Some("exact")),
            (get("/a?b"), Some("exact")),
            (get("/a/b"), Some("prefix")),
            (get("/ab"), None),
            (get("/b/c"), Some("folder")),
            (get("/b"), None),
            (get("/?v=2").header("X-User", "anna"), Some("text")),
            (get("/?v=22").header("X-User", "anna"), None),
            (get("/?v=1").header("x-user", "bert"), Some("begins")),
            (get("/").header("x-debug", ""), Some("there")),
            (Asked { method: Method::Post, ..get("/a/b") }, Some("6")),
            (Asked { method: Method::Other, ..get("/a/b") }, None),
        ] {
            assert_eq!(asked.route(&table).as_deref(), name, "{}", asked.endpoint);
        }
    }

    #[test]
    fn a_percentage_is_kept_within_four_standard_deviations() {
        let (table, dice) = (table(json!([{"match": {"percent": 12.5}}])), SeededDice::new(1));
        let covered = (0..40_000).filter(|_| get("/").decided(&table, None, dice.roll()).route.is_some()).count();
        assert!((4_735..=5_265).contains(&covered), "{covered}");
    }

    #[test]
    fn a_split_keeps_its_shares_and_each_key_its_side() {
        let routes = |canary: u32| {
            table(json!([{"split": [{"weight": 100 - canary, "subset": {"v": "1"}}, {"weight": canary, "subset": {"v": "2"}}],
                          "stickyHeader": "x-user"}]))
        };
        let side = |table: &Table, asked: &Asked, key: Option<&str>, roll| asked.decided(table, key, roll).side.expect("a split");
        let (ten, dice) = (routes(10), SeededDice::new(2));
        let by_chance: usize = (0..20_000).map(|_| side(&ten, &get("/"), None, dice.roll())).sum();
        assert!((1_830..=2_170).contains(&by_chance), "{by_chance}");
        let (mut on_new, mut moved_back) = (0, 0);
        for user in 0..5_000 {
            let user = format!("user-{user}");
            let before = side(&ten, &get("/").header("x-user", &user), None, dice.roll());
            assert_eq!(side(&ten, &get("/").header("x-user", &user), None, dice.roll()), before);
            assert_eq!(side(&ten, &get("/"), Some(&user), dice.roll()), before, "hashKey and header agree");
            on_new += before;
            moved_back += usize::from(before == 1 && side(&routes(30), &get("/"), Some(&user), 0) == 0);
        }
        assert!((415..=585).contains(&on_new), "{on_new}");
        assert_eq!(moved_back, 0, "whoever is on the new side stays there while it grows");
        let subset = get("/").decided(&routes(100), None, 5).subset().cloned();
        assert_eq!(subset, Some(BTreeMap::from([("v".to_owned(), "2".to_owned())])));
    }

    #[test]
    fn what_a_route_changes_is_worked_out_beforehand() {
        let table = table(json!([{
            "match": {"pathPrefix": "/api"}, "rewritePrefix": "/v2", "setHeaders": {"x-a": "1"}, "removeHeaders": ["x-b"],
            "timeouts": {"attemptMs": 50}, "retry": {"maxRetries": 0}, "mirror": {"service": "shadow"},
            "fault": {"delayMs": 20, "abortStatus": 418}, "fallback": {"status": 203, "body": {"a": 1.5}},
        }]));
        let decision = get("/api/x?y").decided(&table, None, 1);
        assert_eq!(decision.endpoint.as_deref(), Some("/v2/x?y"));
        assert_eq!((decision.delay, decision.abort), (Some(Duration::from_millis(20)), Some(418)));
        assert_eq!(decision.mirror.expect("copied").as_str(), "shadow");
        let route = decision.route.expect("covered");
        let times = route.timeouts.as_ref().expect("its own");
        assert_eq!((times.attempt_ms.0, times.total_ms.0), (50, 30_000));
        assert_eq!(route.retry.as_ref().expect("its own").max_retries, 0);
        let mut headers = get("/").header("X-B", "gone").header("x-a", "old").header("x-c", "stays").headers;
        route.changes.as_ref().expect("some").apply(&mut headers);
        assert_eq!(["x-a", "x-b", "x-c"].map(|name| headers.first(name)), [Some("1"), None, Some("stays")]);
        assert_eq!(headers.len(), 2);
        let fallback = route.fallback.as_ref().expect("some");
        assert_eq!((fallback.status, fallback.body.as_slice()), (203, &b"{\"a\":1.5}"[..]));
        assert_eq!(fallback.headers.first("content-type"), Some("application/json"));
    }

    #[test]
    fn a_strange_name_is_shown_on_one_line_and_cut() {
        let name = |name: &str| table(json!([{"name": name}])).iter().next().map(|route| route.name.clone());
        assert_eq!(name("a\n\u{9b}b").as_deref(), Some("a\\n\\u{9b}b"));
        assert_eq!(name(&"x".repeat(1_000_000)).map(|name| name.chars().count()), Some(LONGEST_NAME + 1));
    }

    #[test]
    fn each_mistake_is_named_with_its_place() {
        for (routes, named) in [
            (json!([{}, {"mtch": {}}]), "routes[1].mtch: \"mtch\" is not a setting; did you mean match?"),
            (json!([{"match": {"pathPrefx": "/"}}]), "routes[0].match.pathPrefx: \"pathPrefx\" is not a setting; did you mean pathPrefix?"),
            (json!([{"match": {"pathPrefix": "a"}}]), "routes[0].match.pathPrefix: \"a\" must begin with '/'"),
            (json!([{"match": {"pathPrefix": "/a", "pathExact": "/a"}}]), "routes[0].match.pathExact: stands beside match.pathPrefix"),
            (json!([{"match": {"method": "BREW"}}]), "routes[0].match.method: "),
            (json!([{"match": {"percent": 101}}]), "routes[0].match.percent: 101 is out of range; use 0 to 100"),
            (json!([{"match": {"headers": {"x": 5}}}]), "routes[0].match.headers.x: "),
            (json!([{"split": [{"weight": 0}]}]), "routes[0].split: gives every side the weight 0"),
            (json!([{"split": [{"weight": 1}, {"weight": 9_000_000}]}]), "routes[0].split[1].weight: 9000000 is out of range"),
            (json!([{"split": vec![json!({}); 21]}]), "routes[0].split: has 21 sides; use at most 20"),
            (json!([{"mirror": {}}]), "routes[0].mirror.service: \"\" is not 1 to 63 characters"),
            (json!([{"fault": {"delayMs": 100_000}}]), "routes[0].fault.delayMs: 100000 is out of range"),
            (json!([{"fault": {"abortStatus": 200}}]), "routes[0].fault.abortStatus: 200 is out of range"),
            (json!([{"rewritePrefix": "/x"}]), "routes[0].rewritePrefix: needs match.pathPrefix"),
            (json!([{"match": {"pathPrefix": "/"}, "rewritePrefix": "//x"}]), "routes[0].rewritePrefix: "),
            (json!([{"setHeaders": {"host": "evil"}}]), "routes[0].setHeaders: \"host\" belongs to the connection or to the mesh"),
            (json!([{"setHeaders": {"a": "b\r\nc: d"}}]), "routes[0].setHeaders: "),
            (json!([{"removeHeaders": ["x-mesh-hops"]}]), "routes[0].removeHeaders: \"x-mesh-hops\" belongs"),
            (json!([{"timeouts": {"totalMs": 100}}]), "routes[0].timeouts.attemptMs: 10000 is above"),
            (json!([{"timeouts": 5}]), "routes[0].timeouts: "),
            (json!([{"retry": {"maxRetires": 1}}]), "routes[0].retry.maxRetires: "),
            (json!([{"retry": {"maxRetries": 1000}}]), "routes[0].retry.maxRetries: 1000 is out of range"),
            (json!([{"fallback": {"headers": {"connection": "close"}}}]), "routes[0].fallback.headers: "),
            (json!([5]), "routes[0]: "),
            (json!({"a": 1}), "routes.a: "),
            (json!(vec![json!({}); 101]), "routes: has 101 entries; use at most 100"),
        ] {
            let fault = fault(routes.clone());
            assert!(fault.starts_with(named), "{routes}: {fault}");
        }
    }

    #[test]
    fn routes_are_shown_as_they_were_written() {
        let written = json!([{"match": {"method": "GET"}, "fault": {"delayMs": 5}}]);
        assert_eq!(serde_json::to_value(table(written.clone())).expect("JSON"), written);
    }
}
