//! What stands in a configuration and is nobody's business: taken out of what is shown.

use serde_json::{Map, Value};

use crate::model::is_secret;

/// What is shown instead.
const INSTEAD: &str = "(secret)";
/// Settings that hold header fields, or parameters of a query.
const OF_FIELDS: [&str; 3] = ["headers", "setHeaders", "query"];

/// `json` without the values of fields that carry secrets, and of settings that are called so.
pub fn redacted(mut json: Value) -> Value {
    redact(&mut json, false);
    json
}

fn redact(json: &mut Value, of_fields: bool) {
    match json {
        Value::Object(fields) => redact_fields(fields, of_fields),
        Value::Array(all) => all.iter_mut().for_each(|each| redact(each, of_fields)),
        _ => {}
    }
}

fn redact_fields(fields: &mut Map<String, Value>, of_fields: bool) {
    for (key, value) in fields {
        let lower = key.to_ascii_lowercase();
        if of_fields && is_secret(key.as_bytes()) || ["password", "secret"].iter().any(|word| lower.ends_with(word)) {
            *value = INSTEAD.into();
        } else {
            redact(value, OF_FIELDS.contains(&key.as_str()));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_not_shown_and_everything_else_is() {
        let shown = redacted(json!({
            "tokenFile": "/etc/weft/tokens",
            "etcdPassword": "hunter2",
            "defaults": {"healthCheck": {"headers": {"Authorization": "Bearer hunter2", "accept": "*/*"}}},
            "services": {"s": {"routes": [
                {"setHeaders": {"x-api-key": "hunter2", "x-functions-key": "hunter2", "x-auth": "hunter2"}, "name": "token"},
                {"match": {"headers": {"cookie": {"prefix": "hunter2"}, "x-b": "c"}, "query": {"api_key": "hunter2", "v": "2"}}},
                {"fallback": {"headers": {"x-session": "hunter2"}}},
            ]}},
        }));
        let text = shown.to_string();
        assert!(!text.contains("hunter2"), "{text}");
        for kept in ["/etc/weft/tokens", "*/*", "x-api-key", "\"x-b\":\"c\"", "\"v\":\"2\"", "\"name\":\"token\""] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
    }
}
