//! Reading settings from JSON so that a mistake is named by its key: unknown keys with the nearest known one, wrong types by their path.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::model::{Invalid, closest, shown};

/// Reads `json` over `defaults`. Keys left out keep their default.
///
/// # Errors
/// [`Invalid`] whose field is the path of the key that is unknown or of the wrong type.
pub fn read<T: Serialize + DeserializeOwned>(json: &Value, defaults: &T) -> Result<T, Invalid> {
    let fault = |error: serde_json::Error| Invalid::new("policy", error.to_string());
    let known = serde_json::to_value(defaults).map_err(fault)?;
    known_keys(json, &known, "")?;
    let mut whole = known.clone();
    merge(&mut whole, json);
    match serde_json::from_value(whole) {
        Ok(value) => match serde_json::to_value(&value).ok().and_then(|read| list_for_object(json, &read, "")) {
            None => Ok(value),
            Some(path) => Err(Invalid::new(path, "is a list; a JSON object is expected")),
        },
        Err(error) => Err(locate::<T>(json, &known, &mut Vec::new()).unwrap_or_else(|| fault(error))),
    }
}

/// JSON Merge Patch (RFC 7396): objects merge, `null` removes, everything else replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let Value::Object(target) = target {
        for (key, value) in patch {
            if value.is_null() {
                target.remove(key);
            } else {
                merge(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }
}

/// Refuses the first key of `json` that `known` does not have. An empty object or a non-object in `known` is free-form.
fn known_keys(json: &Value, known: &Value, path: &str) -> Result<(), Invalid> {
    let (Value::Object(json), Value::Object(known)) = (json, known) else { return Ok(()) };
    if known.is_empty() {
        return Ok(());
    }
    for (key, value) in json {
        let path = join(path, key);
        match known.get(key) {
            Some(known) => known_keys(value, known, &path)?,
            None => {
                let hint = closest(key, known.keys().map(String::as_str)).map_or(String::new(), |near| format!("; did you mean {near}?"));
                return Err(Invalid::new(path, format!("{} is not a setting{hint}", shown(key))));
            }
        }
    }
    Ok(())
}

/// The path of the first list that was `read` as an object: serde takes one for the fields in their order, past all that is known of their names.
fn list_for_object(json: &Value, read: &Value, path: &str) -> Option<String> {
    match (json, read) {
        (Value::Array(_), Value::Object(_)) => Some(path.to_owned()),
        (Value::Array(json), Value::Array(read)) => {
            json.iter().zip(read).enumerate().find_map(|(n, (json, read))| list_for_object(json, read, &format!("{path}[{n}]")))
        }
        (Value::Object(json), Value::Object(read)) => {
            json.iter().find_map(|(key, json)| list_for_object(json, read.get(key)?, &join(path, key)))
        }
        _ => None,
    }
}

/// Finds the key that does not fit its type, by setting a part of `json` at a time.
fn locate<T: DeserializeOwned>(json: &Value, known: &Value, path: &mut Vec<String>) -> Option<Invalid> {
    let error = fault_of::<T>(json.clone(), known, path)?;
    if let Value::Object(fields) = json
        && !fields.is_empty()
    {
        // The shortest beginning that does not fit ends with the field that is to blame.
        let (mut fits, mut fails) = (0, fields.len());
        while fails - fits > 1 {
            let middle = fits.midpoint(fails);
            let begin = fields.iter().take(middle).map(|(key, value)| (key.clone(), value.clone())).collect();
            let is_fit = fault_of::<T>(Value::Object(begin), known, path).is_none();
            *(if is_fit { &mut fits } else { &mut fails }) = middle;
        }
        let (key, value) = fields.iter().nth(fits)?;
        path.push(key.clone());
        return locate::<T>(value, known, path);
    }
    // What is sent in header fields or a query may be a secret, and faults are logged.
    let why = if path.iter().any(|key| matches!(key.as_str(), "headers" | "setHeaders" | "query")) {
        error.rsplit_once("expected ").map_or_else(|| "does not fit".to_owned(), |(_, wanted)| format!("is not {wanted}"))
    } else {
        format!("{} does not fit: {error}", shown(&json.to_string()))
    };
    Some(Invalid::new(path.join("."), why))
}

/// What is wrong with `part`, set at `path` alone.
fn fault_of<T: DeserializeOwned>(part: Value, known: &Value, path: &[String]) -> Option<String> {
    let alone = path.iter().rev().fold(part, |part, key| Value::Object(Map::from_iter([(key.clone(), part)])));
    let mut whole = known.clone();
    merge(&mut whole, &alone);
    serde_json::from_value::<T>(whole).err().map(|error| error.to_string())
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::Policy;

    #[test]
    fn a_list_is_not_taken_for_the_fields_of_an_object_in_their_order() {
        for (json, field) in [
            (json!({"retry": [1, 2]}), "retry"),
            (json!({"rateLimit": {"perCaller": [1.0, 2]}}), "rateLimit.perCaller"),
            (json!({"allow": [{}, [["web"], [], [], "allow"]]}), "allow[1]"),
            (json!({"routes": [["name"]]}), "routes[0]"),
            (json!({"routes": [{"mirror": ["users", 100.0]}]}), "routes[0].mirror"),
            (json!({"routes": [{"split": [[1, {"a": "b"}]]}]}), "routes[0].split[0]"),
        ] {
            let fault = Policy::from_json(&json).expect_err("a list");
            assert_eq!((fault.field.as_ref(), fault.why.as_str()), (field, "is a list; a JSON object is expected"), "{json}");
        }
        assert!(Policy::from_json(&json!([])).is_err());
    }

    #[test]
    fn the_one_field_of_many_that_does_not_fit_is_named() {
        for wrong in [0, 1, 499, 998, 999] {
            let mut headers: Map<String, Value> = (0..1000).map(|n| (format!("h{n:03}"), "x".into())).collect();
            headers.insert(format!("h{wrong:03}"), 5.into());
            let fault = Policy::from_json(&json!({"healthCheck": {"headers": headers}, "retry": {"maxRetries": 1}})).expect_err("a number");
            assert_eq!(fault.field, format!("healthCheck.headers.h{wrong:03}"));
        }
        assert_eq!(Policy::from_json(&json!({"timeouts": {"totalMs": {}}})).expect_err("no number").field, "timeouts.totalMs");
    }

    #[test]
    fn a_fault_in_header_fields_repeats_nothing_of_them() {
        for json in [
            json!({"healthCheck": {"headers": "authorization: hunter2"}}),
            json!({"healthCheck": {"headers": {"authorization": ["hunter2"]}}}),
            json!({"routes": [{"setHeaders": "authorization: hunter2"}]}),
            json!({"routes": [{"setHeaders": {"x-api-key": ["hunter2"]}}]}),
            json!({"routes": [{"fallback": {"headers": "authorization: hunter2"}}]}),
            json!({"routes": [{"match": {"query": "api_key=hunter2"}}]}),
            json!({"routes": [{"match": {"query": {"api_key": ["hunter2"]}}}]}),
        ] {
            let fault = Policy::from_json(&json).expect_err("a fault").to_string();
            let is_named = fault.contains("eaders") || fault.contains("query");
            assert!(!fault.contains("hunter2") && is_named && fault.contains(" is not a"), "{fault}");
        }
    }

    #[test]
    fn what_is_left_out_keeps_its_default() {
        let policy = Policy::from_json(&json!({"retry": {"maxRetries": 1}})).expect("valid");
        assert_eq!(policy.retry.max_retries, 1);
        assert_eq!(policy.retry.base_delay_ms.0, 100);
    }

    #[test]
    fn a_mistake_is_named_by_its_path() {
        let fault = |json| Policy::from_json(&json).expect_err("invalid").to_string();
        assert_eq!(
            fault(json!({"retry": {"maxRetires": 1}})),
            "retry.maxRetires: \"maxRetires\" is not a setting; did you mean maxRetries?"
        );
        let wrong = fault(json!({"timeouts": {"totalMs": "5s"}}));
        assert!(wrong.starts_with("timeouts.totalMs: "), "{wrong}");
        let nested = fault(json!({"retry": 5}));
        assert!(nested.starts_with("retry: "), "{nested}");
        let range = fault(json!({"circuitBreaker": {"failureThreshold": 0}}));
        assert!(range.starts_with("circuitBreaker.failureThreshold: 0 is out of range"), "{range}");
    }

    #[test]
    fn merging_follows_the_examples_of_the_standard() {
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut merged = target.clone();
            merge(&mut merged, &patch);
            assert_eq!(merged, result, "{target} + {patch}");
        }
    }
}
