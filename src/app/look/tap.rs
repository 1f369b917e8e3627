//! `weft tap`: calls of a running mesh as they happen, a line each.

use std::io::{self, BufRead, BufReader, Read, Write};

use serde_json::Value;

use super::Failed;
use super::ask::Mesh;
use super::paper::{harmless, harmless_json};

/// The longest line, in bytes; a mesh sends no longer ones.
const LONGEST: u64 = 256 * 1024;

/// Shows calls until the mesh ends, as many as may be have been shown, or nobody reads. `query` begins with a question mark, or is empty.
pub(super) fn tap(mesh: &Mesh, query: &str, json: bool) -> Result<(), Failed> {
    let mut answer = BufReader::new(mesh.listen(&format!("/tap{query}"))?);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = answer.by_ref().take(LONGEST).read_until(b'\n', &mut line);
        if read.map_err(|error| Failed::Unreachable(harmless(&mesh.url), harmless(&error.to_string())))? == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line);
        let text = if json { harmless_json(text.trim_end()) } else { for_a_person(&text) };
        if writeln!(io::stdout(), "{text}").is_err() {
            // Nobody reads any more.
            return Ok(());
        }
    }
}

/// Adds a condition to a query.
pub(super) fn add(query: &mut String, name: &str, value: &str) {
    query.push(if query.is_empty() { '?' } else { '&' });
    query.push_str(name);
    query.push('=');
    query.extend(value.bytes().map(|byte| {
        if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") }
    }));
}

/// `status method service path time: each attempt, with what came of it`.
fn for_a_person(line: &str) -> String {
    let Ok(call) = serde_json::from_str::<Value>(line) else { return harmless(line.trim_end()) };
    let word = |of: &Value, key: &str| of.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
    let number = |of: &Value, key: &str| of.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    let attempt = |attempt: &Value| {
        let came = attempt.get("status").map_or_else(|| word(attempt, "failure"), Value::to_string);
        format!("{} {came} {:.1} ms", word(attempt, "instance"), number(attempt, "durationMs"))
    };
    let none = Vec::new();
    let attempts: Vec<String> = call.get("attempts").and_then(Value::as_array).unwrap_or(&none).iter().map(attempt).collect();
    harmless(&format!(
        "{} {} {} {} {:.1} ms{}{}",
        number(&call, "status"),
        word(&call, "method"),
        word(&call, "service"),
        word(&call, "path"),
        number(&call, "durationMs"),
        call.get("reason").and_then(Value::as_str).map_or_else(String::new, |reason| format!(" {reason}")),
        if attempts.is_empty() { String::new() } else { format!(": {}", attempts.join(", then ")) },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_become_a_query() {
        let mut query = String::new();
        for (name, value) in [("service", "a b"), ("status", "5xx"), ("limit", "3")] {
            add(&mut query, name, value);
        }
        assert_eq!(query, "?service=a%20b&status=5xx&limit=3");
    }

    #[test]
    fn a_call_is_shown_on_one_line() {
        let line = r#"{"service":"s","method":"GET","path":"/x","status":503,"reason":"upstream_status","durationMs":12.34,
            "attempts":[{"instance":"a","status":500,"durationMs":1.2},{"instance":"b","failure":"upstream_connect","durationMs":0.3}]}"#;
        assert_eq!(for_a_person(line), "503 GET s /x 12.3 ms upstream_status: a 500 1.2 ms, then b upstream_connect 0.3 ms");
        assert_eq!(for_a_person("\u{1b}[31m\n"), "\\u{1b}[31m");
        assert_eq!(for_a_person(r#"{"service":"\u001b[31m"}"#), "0 - \\u{1b}[31m - 0.0 ms");
    }
}
