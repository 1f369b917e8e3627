//! A collector as strict as the specification of OTLP lets one be: it takes nothing that a real one might refuse.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::support::upstream::Asked;

/// A span with what is needed of it.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: Option<String>,
    pub(crate) name: String,
    pub(crate) kind: u64,
    pub(crate) begin: u64,
    pub(crate) end: u64,
    pub(crate) is_error: bool,
    pub(crate) attributes: Map<String, Value>,
    pub(crate) events: Vec<String>,
    pub(crate) state: String,
    pub(crate) flags: u64,
}

/// The spans of a request, which is as the specification demands.
#[track_caller]
pub(crate) fn spans(asked: &Asked) -> Vec<Span> {
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/v1/traces"));
    assert_eq!(asked.header("content-type"), Some("application/json"));
    let body: Value = serde_json::from_slice(&asked.body).expect("JSON");
    let mut all = Vec::new();
    only(&body, &["resourceSpans"]);
    for resource_spans in list(&body["resourceSpans"]) {
        only(resource_spans, &["resource", "scopeSpans", "schemaUrl"]);
        only(&resource_spans["resource"], &["attributes", "droppedAttributesCount"]);
        let resource = attributes(&resource_spans["resource"]["attributes"]);
        assert_eq!(resource["service.name"]["stringValue"], "weft");
        for scope_spans in list(&resource_spans["scopeSpans"]) {
            only(scope_spans, &["scope", "spans", "schemaUrl"]);
            only(&scope_spans["scope"], &["name", "version", "attributes", "droppedAttributesCount"]);
            all.extend(list(&scope_spans["spans"]).iter().map(span));
        }
    }
    let ids: HashSet<_> = all.iter().map(|span| (&span.trace, &span.id)).collect();
    assert_eq!(ids.len(), all.len(), "span ids are unique in their trace");
    all
}

#[track_caller]
fn span(json: &Value) -> Span {
    only(
        json,
        &[
            "traceId",
            "spanId",
            "traceState",
            "parentSpanId",
            "flags",
            "name",
            "kind",
            "startTimeUnixNano",
            "endTimeUnixNano",
            "attributes",
            "droppedAttributesCount",
            "events",
            "droppedEventsCount",
            "links",
            "droppedLinksCount",
            "status",
        ],
    );
    let (begin, end) = (nanos(&json["startTimeUnixNano"]), nanos(&json["endTimeUnixNano"]));
    assert!(begin > 1_600_000_000_000_000_000 && begin <= end, "{json}");
    let name = text(&json["name"]);
    assert!(!name.is_empty());
    let kind = json["kind"].as_u64().expect("enumerations are numbers");
    assert!(kind <= 5, "{kind}");
    let events = list(&json["events"]).iter().map(|event| {
        only(event, &["timeUnixNano", "name", "attributes", "droppedAttributesCount"]);
        let at = nanos(&event["timeUnixNano"]);
        assert!((begin..=end).contains(&at), "an event lies within its span: {json}");
        attributes(&event["attributes"]);
        text(&event["name"])
    });
    only(&json["status"], &["code", "message"]);
    let code = json["status"].get("code").map_or(0, |code| code.as_u64().expect("enumerations are numbers"));
    assert!(code <= 2);
    Span {
        trace: id(&json["traceId"], 32),
        id: id(&json["spanId"], 16),
        parent: json.get("parentSpanId").map(|parent| id(parent, 16)),
        name,
        kind,
        begin,
        end,
        is_error: code == 2,
        attributes: attributes(&json["attributes"]),
        events: events.collect(),
        state: json.get("traceState").map(text).unwrap_or_default(),
        flags: json["flags"].as_u64().filter(|flags| *flags <= u64::from(u32::MAX)).expect("32 bits are a number"),
    }
}

#[track_caller]
fn only(json: &Value, known: &[&str]) {
    let object = json.as_object().unwrap_or_else(|| panic!("not an object: {json}"));
    for key in object.keys() {
        assert!(known.contains(&key.as_str()), "{key} is no field of this message; known are {known:?}");
    }
}

#[track_caller]
fn list(json: &Value) -> &Vec<Value> {
    json.as_array().unwrap_or_else(|| panic!("not a list: {json}"))
}

#[track_caller]
fn text(json: &Value) -> String {
    json.as_str().unwrap_or_else(|| panic!("not a text: {json}")).to_owned()
}

/// Ids are hexadecimal, not base64, and never 0.
#[track_caller]
fn id(json: &Value, digits: usize) -> String {
    let id = text(json);
    assert!(id.len() == digits && id.bytes().all(|byte| byte.is_ascii_hexdigit()) && id.bytes().any(|byte| byte != b'0'), "{id}");
    id
}

/// 64-bit numbers are texts.
#[track_caller]
fn nanos(json: &Value) -> u64 {
    text(json).parse().expect("a number")
}

#[track_caller]
fn attributes(json: &Value) -> Map<String, Value> {
    let mut all = Map::new();
    for attribute in list(json) {
        only(attribute, &["key", "value"]);
        let value = attribute["value"].as_object().expect("a value");
        let (kind, inner) = value.iter().next().expect("one kind of value");
        assert_eq!(value.len(), 1, "one kind of value: {attribute}");
        match kind.as_str() {
            "stringValue" => assert!(inner.is_string(), "{attribute}"),
            "boolValue" => assert!(inner.is_boolean(), "{attribute}"),
            "intValue" => assert!(inner.as_str().is_some_and(|text| text.parse::<i64>().is_ok()), "{attribute}"),
            "doubleValue" => assert!(inner.is_number(), "{attribute}"),
            other => panic!("{other} is not used here"),
        }
        assert!(all.insert(text(&attribute["key"]), attribute["value"].clone()).is_none(), "keys are unique: {json}");
    }
    all
}
