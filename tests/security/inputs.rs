//! What comes from strangers and must be refused: hosts, ports, paths, methods, names, bodies and origins. Data alone, for whoever tries them.

use serde_json::{Value, json};

/// Addresses that may never be reached, whatever is configured, in several spellings.
pub(crate) const DENIED_HOSTS: &[&str] = &[
    "169.254.169.254",
    "[fe80::1]",
    "::ffff:169.254.169.254",
    "0.0.0.0",
    "[::]",
    "224.0.0.1",
    "ff02::1",
    "255.255.255.255",
    "100.100.100.200",
    "fd00:ec2::254",
];

/// What some readers take for an address, or for more than a host.
pub(crate) const MALFORMED_HOSTS: &[&str] = &[
    "2130706498",
    "0x7f.0.0.66",
    "0177.0.0.66",
    "127.66",
    "127.0.66",
    "0x7f000042",
    "a@127.0.0.66",
    "127.0.0.66/",
    "127.0.0.66:80",
    "a b",
    "a\r\nx",
    "a?b",
    "a#b",
    "",
    "%31",
    "127.0.0.66.",
    "caf\u{e9}.test",
];

/// What is no port.
pub(crate) fn bad_ports() -> [Value; 7] {
    [json!(0), json!(-1), json!(65_536), json!(99_999), json!("80"), json!(80.5), Value::Null]
}

/// Paths that lead elsewhere, or that two readers take for different ones.
pub(crate) const BAD_ENDPOINTS: &[&str] = &[
    "/../x",
    "/%2e%2e/x",
    "/x/%2E./y",
    "/..%2fx",
    "/x/%2e%2e%2Fy",
    "/a\\b",
    "/a%5cb",
    "/a%0d%0aX:y",
    "/a\r\nX: y",
    "/a\0b",
    "/a%00b",
    "/a%0ab",
    "/a%0Db",
    "/a%7fb",
    "/\u{e9}",
    "/a b",
    "/a#b",
    "/%zz",
    "",
    "x",
];

/// Methods that no call may have.
pub(crate) const BAD_METHODS: &[&str] = &["GET\r\nX: y", "TRACE", "CONNECT", "PRI", ""];

/// Names of services and instances that are none: what would get into logs, metrics or other paths.
pub(crate) const BAD_NAMES: &[&str] =
    &["x\"} 1\nup 0", "\u{1b}[31mred", "\n{\"level\":\"info\"}", "a\0b", "a b", "-a", "", "x/y", "..", "%31"];

/// Header fields that would be more than one, or none.
pub(crate) const BAD_FIELDS: &[(&str, &str)] =
    &[("x\r\ny", "z"), ("x", "y\r\nz: a"), ("x", "y\nz"), ("x", "y\0"), ("x y", "z"), ("", "z"), ("x:", "z")];

/// Bodies of `POST /invoke` that are too deep, or not quite JSON, or not quite a call.
pub(crate) fn bad_calls() -> Vec<Vec<u8>> {
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let with_body = |body: &str| format!(r#"{{"serviceName":"s","endpoint":"/","method":"POST","body":{body}}}"#);
    let mut bodies: Vec<Vec<u8>> = [129, 1_000, 100_000].iter().map(|n| with_body(&deep(*n)).into_bytes()).collect();
    for text in [
        "",
        "null",
        "[]",
        "[\"s\",\"/\"]",
        "\"x\"",
        "{",
        "{}x",
        "{\"serviceName\":\"s\",\"serviceName\":\"t\",\"endpoint\":\"/\"}",
        "\u{feff}{\"serviceName\":\"s\",\"endpoint\":\"/\"}",
        "{\"serviceName\":\"\\ud800\",\"endpoint\":\"/\"}",
        "{\"serviceName\":\"s\\u0000\",\"endpoint\":\"/\"}",
        "{\"serviceName\":\"s\",\"endpoint\":\"/\",\"timeoutMs\":NaN}",
        "{\"serviceName\":\"s\",\"endpoint\":\"/\",\"timeoutMs\":1e999}",
        "{\"serviceName\":\"s\",\"endpoint\":\"/\",\"timeoutMs\":-1}",
    ] {
        bodies.push(text.as_bytes().to_vec());
    }
    bodies.push(b"{\"serviceName\":\"\xff\",\"endpoint\":\"/\"}".to_vec());
    bodies
}

/// Origins of pages that nobody has named.
pub(crate) const FOREIGN_ORIGINS: &[&str] = &["http://evil.test", "null", "http://localhost.evil.test"];

/// Names that have been made to point at loopback.
pub(crate) const FOREIGN_HOSTS: &[&str] = &["evil.test", "evil.test:80", "localhost.evil.test", "127.0.0.1.evil.test", "169.254.169.254"];

/// Values of `Authorization` that begin as they should and hold another token than `ci-token`.
pub(crate) const WRONG_TOKENS: &[&str] =
    &["Bearer wrong", "Bearer c", "Bearer ci-toke", "Bearer ci-token2", "Bearer i-token", "Bearer Ci-token", "Bearer ci-token ci-token"];

/// Values of `Authorization` that hold none.
pub(crate) const NO_TOKENS: &[&str] = &["Basic ci-token", "ci-token", "Bearer", "Bearerci-token", ""];
