//! What holds of every body, path and file: nothing panics, a refusal is one short line, and what is accepted, written out anew, is read as
//! the same and means the same to everybody.

use serde_json::Value;
use weft::config::Config;
use weft::contract::paths::{Goal, goal, service_and_path, watched};
use weft::contract::request::Request;
use weft::contract::tokens::{Entry, Tokens};
use weft::contract::{envelope, router};
use weft::mesh::record::{Document, Record};
use weft::model::{Endpoint, Headers, Invalid, Method, RequestId};
use weft::outbound::store::{export, import};
use weft::policy::Policy;

/// Bodies of the API.
pub fn bodies(input: &[u8]) {
    if let Some(registration) = judged(envelope::registration(input)) {
        let documents = [Document::Instance(Box::new(Record::new(registration)))];
        let written = export(&documents);
        assert_eq!(import(&written).as_deref(), Ok(&documents[..]), "{written}");
    }
    let (method, target) = ("POST".into(), "/invoke".to_owned());
    let (body, id) = (input.to_vec(), RequestId::from_roll(1, 2));
    let waited = std::time::Duration::ZERO;
    let request = Request { method, target, headers: Headers::new(), body, peer: None, id, waited, grant: None };
    if let Some(call) = judged(envelope::call(&request)) {
        endpoint(call.endpoint.as_str().as_bytes());
        for (name, value) in call.headers.iter() {
            assert!(!name.contains(['\r', '\n', ':']) && !value.contains(&b'\r') && !value.contains(&b'\n'));
        }
    }
    judged(envelope::instance(input));
    judged(envelope::state(input));
    judged(envelope::weight(input));
    judged(envelope::breaker(input));
    if let Some(patch) = judged(envelope::policy(input))
        && let Some(policy) = judged(Policy::from_json(&patch))
    {
        let whole = serde_json::to_value(&policy).expect("JSON");
        assert_eq!(Policy::from_json(&whole).as_ref(), Ok(&policy), "{whole}");
    }
}

/// Paths, of calls and of the API.
pub fn endpoint(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    // What the API makes of any path.
    let _ = router::find("GET", text);
    let _ = watched("GET", text);
    let none = Headers::new();
    if let Goal::Proxy(proxied) = goal("GET", text, "localhost", &none) {
        let (service, path) = service_and_path(proxied, text, "localhost", &none);
        assert!(text.contains(service) && text.ends_with(path));
    }
    let Some(endpoint) = judged(Endpoint::new(text)) else { return };
    assert_eq!(endpoint.as_str(), text, "it is sent as it came");
    assert!(text.starts_with('/') && !text.starts_with("//") && text.bytes().all(|b| b.is_ascii_graphic()));
    let once = decoded(text.split('?').next().unwrap_or_default());
    assert!(!once.contains(|c: char| c.is_ascii_control() || c == '\\') && once.split('/').all(|segment| segment != ".."), "{text}");
    let decoded = decoded(&once);
    let rules =
        Policy::from_json(&serde_json::json!({"allow": [{"pathPrefixes": ["/admin"], "action": "deny"}, {}]})).expect("valid").allow;
    if rules.judge(None, Method::Get, text) == weft::policy::allow::Action::Allow {
        // However often it is decoded, and whatever is left out of it, it does not lead there.
        let mut segments: Vec<&str> = Vec::new();
        for segment in decoded.split(['/', ';']).filter(|segment| !segment.is_empty() && *segment != ".") {
            if segment != ".." {
                segments.push(segment);
            } else {
                segments.pop();
            }
        }
        assert_ne!(segments.first(), Some(&"admin"), "{text}");
    }
}

/// The configuration.
pub fn config(input: &[u8]) {
    let Ok(json) = serde_json::from_slice::<Value>(input) else { return };
    let Some(config) = judged(Config::from_json(&json)) else { return };
    let whole = config.effective();
    let again = Config::from_json(&whole).unwrap_or_else(|fault| panic!("{fault}: {whole}"));
    assert_eq!(again.effective(), whole);
}

/// Token files.
pub fn tokens(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    judged(Tokens::parse(text));
    for line in text.lines() {
        if let Some(entry) = judged(Entry::parse(line)) {
            assert_eq!(Entry::parse(&entry.line()).as_ref(), Ok(&entry));
            assert!(
                entry.name.bytes().all(|b| b.is_ascii_graphic() && !b"\"*,;".contains(&b))
                    && !entry.scopes.is_empty()
                    && entry.digests.len() <= 2
            );
        }
    }
}

/// What is kept of the registry.
pub fn state(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Some(documents) = judged(import(text)) {
        let written = export(&documents);
        assert_eq!(import(&written).as_ref(), Ok(&documents), "{written}");
    }
}

/// What was accepted; what was refused was refused in one short line.
fn judged<T>(result: Result<T, Invalid>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(fault) => {
            let said = fault.to_string();
            assert!(!fault.why.is_empty(), "{said}");
            assert!(said.len() < 2048, "{said}");
            assert!(!said.contains(|c: char| c.is_control()), "{said:?}");
            None
        }
    }
}

/// As a lenient reader would decode it.
fn decoded(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let digits =
            after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (first, digits) {
            (b'%', Some(byte)) => {
                out.push(byte);
                rest = &after[2..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
