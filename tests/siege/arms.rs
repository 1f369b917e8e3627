//! What is thrown at the mesh, one request at a time, and what may be answered to it: lengths nobody sends, every bad request with a good one
//! behind it, tokens, hosts, paths, bodies and origins that must be refused. The lists are those of `tests/door` and `tests/security`.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::bad::{self, Vector};
use crate::callers::{at, line};
use crate::inputs;
use crate::mutate::Dice;
use crate::support::client::request;

/// One request, or what looks like one.
pub(crate) struct Shot {
    pub(crate) name: String,
    pub(crate) bytes: Bytes,
    /// With what it may be answered.
    pub(crate) answers: Vec<u16>,
    pub(crate) manner: Manner,
}

pub(crate) enum Bytes {
    Same(Arc<[u8]>),
    /// Different ones each time.
    Numbered(Box<dyn Fn(u64) -> Vec<u8> + Send + Sync>),
}

/// How it is thrown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// One answer must come, and nothing after it; where the answer says so, the end of the connection.
    Asks,
    /// Whoever has sent it closes, without a look at what is answered.
    Leaves,
    /// Whoever has sent it resets the connection at once.
    Resets,
    /// So many requests at once on a connection on which nobody reads.
    Pours(usize),
}

/// The tokens there are: of the client that behaves, and of those that do not. Each is the name and `-token`.
pub(crate) fn token_lines() -> Vec<String> {
    let all = "read,register,invoke,admin";
    vec![
        line("root", all, json!({})),
        line("guest", "invoke", json!({})),
        line("ci", all, json!({})),
        line("caller", "invoke", json!({})),
        line("reader", "read", json!({})),
        line("keeper", "register", json!({"maxInstances": QUOTA})),
        line("pay", all, json!({"servicePrefix": "pay-"})),
    ]
}

/// How many instances the most greedy caller may register.
pub(crate) const QUOTA: usize = 100;

/// The field by which a caller shows its token.
pub(crate) fn bearer(name: &str) -> String {
    format!("Bearer {name}-token")
}

/// A request of a caller, who may be nobody.
pub(crate) fn of(name: &str, method: &str, target: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let bearer = bearer(name);
    let field = [("authorization", &*bearer)];
    request(method, target, if name.is_empty() { &[] } else { &field }, body.as_ref())
}

fn call(fields: &Value) -> Vec<u8> {
    let mut call = json!({"serviceName": "hit", "endpoint": "/"});
    call.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    of("caller", "POST", "/invoke", call.to_string())
}

/// What ordinary clients of the service `users` send.
pub(crate) fn ordinary(service: &str, token: &str) -> [Vec<u8>; 2] {
    let call = json!({"serviceName": service, "endpoint": "/users/1", "method": "GET"}).to_string();
    [of(token, "GET", &format!("/proxy/{service}/users/1"), ""), of(token, "POST", "/invoke", call)]
}

/// The same as shots; `closing`: each asks for the end of its connection.
pub(crate) fn ordinary_shots(closing: bool) -> Vec<Shot> {
    let add = |bytes: &Vec<u8>| {
        let text = String::from_utf8(bytes.clone()).expect("text");
        if closing { text.replacen("\r\n", "\r\nconnection: close\r\n", 1).into_bytes() } else { text.into_bytes() }
    };
    ordinary("users", "guest").iter().map(|bytes| shot("an ordinary request", add(bytes), &[200])).collect()
}

fn shot(name: impl Into<String>, bytes: Vec<u8>, answers: &[u16]) -> Shot {
    let mut answers = answers.to_vec();
    if bytes.len() > 16 * 1024 {
        // When as much is in memory as may be.
        answers.push(503);
    }
    Shot { name: name.into(), bytes: Bytes::Same(bytes.into()), answers, manner: Manner::Asks }
}

/// Everything there is to throw, in an order of this seed.
pub(crate) fn all(seed: u64) -> Vec<Shot> {
    let mut all = bad_requests();
    all.extend(wasteful());
    all.extend(strangers());
    all.extend(bad_words());
    all.extend(pages());
    let mut dice = Dice::seeded(seed);
    for n in (1..all.len()).rev() {
        all.swap(n, dice.below(n + 1));
    }
    all
}

/// Bad requests, from somebody who may do everything, and behind each a good one that must not be executed.
fn bad_requests() -> Vec<Shot> {
    let hidden = of("ci", "POST", "/register", at("smuggled", "i", 9).to_string());
    let lines = ["POST /deregister", "POST /invoke", "POST /proxy/hit/x"];
    let of_lines = lines.into_iter().flat_map(|line| bad::heads(line).into_iter().chain(bad::bodies(line)));
    of_lines
        .chain(bad::everywhere())
        .map(|Vector { name, bytes, status }| {
            let token: &[u8] = b"Host: localhost\r\nAuthorization: Bearer ci-token\r\n";
            let host = b"Host: localhost\r\n";
            let at = bytes.windows(host.len()).position(|window| window == host);
            let bytes = at.map_or_else(|| bytes.clone(), |at| [&bytes[..at], token, &bytes[at + host.len()..]].concat());
            // A host of its own has no place for a token in this.
            let answers = if at.is_none() { vec![status, 401] } else { vec![status] };
            shot(name, [bytes, hidden.clone()].concat(), &answers)
        })
        .collect()
}

/// Lengths nobody sends, heads without an end, versions that are none, resets, and floods of requests whose answers nobody reads.
fn wasteful() -> Vec<Shot> {
    let mut all = Vec::new();
    for (name, length) in [("a length of 2^63 - 1, and gone", "9223372036854775807"), ("a length of 1e9, and gone", "1000000000")] {
        for target in ["/invoke", "/register", "/services", "/health", "/proxy/hit/x"] {
            let bytes = request("POST", target, &[("authorization", &bearer("ci")), ("content-length", length)], b"");
            all.push(Shot { manner: Manner::Leaves, ..shot(name, bytes, &[]) });
        }
    }
    for _ in 0..10 {
        let bytes = b"GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_vec();
        all.push(Shot { manner: Manner::Leaves, ..shot("another version, and gone", bytes, &[]) });
    }
    for n in 0..20 {
        let bytes = if n % 2 == 0 { of("reader", "GET", "/services", "") } else { Vec::new() };
        all.push(Shot { manner: Manner::Resets, ..shot("a reset before anything is accepted", bytes, &[]) });
    }
    let endless = |beginning: &str, piece: &[u8]| [beginning.as_bytes(), &piece.repeat(256 * 1024 / piece.len())].concat();
    for (beginning, piece, answers) in [
        ("", &b"x"[..], &[400, 414, 431][..]),
        ("GET /", b"x", &[414]),
        ("GET / HTTP/1.1\r\nHost: a\r\nX-A: ", b"x", &[431]),
        ("GET / HTTP/1.1\r\nHost: a\r\n", b"X-A: b\r\n", &[431]),
    ] {
        all.push(shot("a head without an end", endless(beginning, piece), answers));
    }
    for _ in 0..3 {
        for target in ["/metrics", "/health", "/nowhere", "/proxy/hit/x", "/services"] {
            let bytes = of("ci", "GET", target, "").repeat(10);
            all.push(Shot { manner: Manner::Pours(10), ..shot("a flood whose answers nobody reads", bytes, &[]) });
        }
    }
    all
}

/// Tokens that are missing, wrong, cut, too many or for something else.
fn strangers() -> Vec<Shot> {
    let services = |fields: &[(&str, &str)]| request("GET", "/services", fields, b"");
    let mut all = vec![shot("no token", services(&[]), &[401])];
    for value in inputs::WRONG_TOKENS.iter().chain(inputs::NO_TOKENS) {
        all.push(shot("a wrong token", services(&[("authorization", value)]), &[401]));
        let call = json!({"serviceName": "hit", "endpoint": "/"}).to_string();
        all.push(shot("a call with a wrong token", request("POST", "/invoke", &[("authorization", value)], call.as_bytes()), &[401]));
        all.push(shot("a wrong token and a request", request("GET", "/proxy/hit/x", &[("authorization", value)], b""), &[401]));
    }
    let twice = [("authorization", "Bearer ci-token"), ("authorization", "Bearer ci-token")];
    all.push(shot("two tokens", services(&twice), &[400]));
    all.push(shot("a token of 1 MB", services(&[("authorization", &format!("Bearer {}", "x".repeat(1_000_000)))]), &[431]));
    all.push(shot("a token in the URL", request("GET", "/services?token=ci-token", &[], b""), &[401]));
    all.push(shot("a caller that names itself", services(&[("x-weft-caller", "root"), ("x-mesh-caller", "root")]), &[401]));
    for (name, method, target) in [
        ("caller", "POST", "/register"),
        ("caller", "GET", "/services"),
        ("reader", "POST", "/invoke"),
        ("reader", "GET", "/proxy/hit/x"),
        ("keeper", "PUT", "/services/hit/policy"),
        ("pay", "DELETE", "/services/users/i"),
        ("pay", "GET", "/proxy/users/x"),
        ("pay", "GET", "/services/users/explain"),
        ("pay", "GET", "/config"),
    ] {
        all.push(shot("a token for something else", of(name, method, target, ""), &[403]));
    }
    all.push(shot("a token of other services", of("pay", "POST", "/register", at("users", "j", 9).to_string()), &[403]));
    all
}

/// Hosts, ports, paths, methods, names and bodies that must be refused; names that nobody has; and registrations without an end.
fn bad_words() -> Vec<Shot> {
    let register = |registration: &Value| of("ci", "POST", "/register", registration.to_string());
    let placed = |host: &str, port: Value| json!({"name": "kept", "id": "i", "host": host, "port": port});
    let mut all = Vec::new();
    all.extend(inputs::DENIED_HOSTS.iter().map(|host| shot("a denied host", register(&placed(host, json!(80))), &[403])));
    all.extend(inputs::MALFORMED_HOSTS.iter().map(|host| shot("a malformed host", register(&placed(host, json!(80))), &[400])));
    all.extend(inputs::bad_ports().into_iter().map(|port| shot("a bad port", register(&placed("127.0.0.1", port)), &[400])));
    let long = format!("/{}", "x".repeat(10_000));
    for endpoint in inputs::BAD_ENDPOINTS.iter().copied().chain([&*long, "@127.0.0.1:1/x", "//127.0.0.1:1/", "http://127.0.0.1:1/"]) {
        all.push(shot("a bad endpoint", call(&json!({"endpoint": endpoint})), &[400]));
    }
    for method in inputs::BAD_METHODS.iter().copied().chain([&*"G".repeat(1000)]) {
        all.push(shot("a bad method", call(&json!({"method": method})), &[400]));
    }
    for name in inputs::BAD_NAMES {
        all.push(shot("a bad name", call(&json!({"serviceName": name})), &[400]));
        all.push(shot("a bad name", register(&json!({"name": name, "id": "i", "host": "127.0.0.1", "port": 9})), &[400]));
    }
    for (name, value) in inputs::BAD_FIELDS {
        all.push(shot("a bad header field", call(&json!({"headers": {*name: value}})), &[400]));
    }
    all.extend(inputs::bad_calls().iter().map(|body| shot("a body that is no call", of("caller", "POST", "/invoke", body), &[400])));
    let keys: String = (0..70_000).map(|n| format!("\"k{n}\":0,")).collect();
    all.push(shot("a body of 70 000 keys", of("caller", "POST", "/invoke", format!("{{{keys}\"k\":0}}")), &[400]));
    all.push(shot("a body of 1 MiB and a byte", of("caller", "POST", "/invoke", vec![b' '; 1_048_577]), &[413]));
    let chunk = format!("100001\r\n{}\r\n0\r\n\r\n", " ".repeat(1_048_577));
    let fields = [("authorization", &*bearer("caller")), ("transfer-encoding", "chunked")];
    all.push(shot("a chunk of 1 MiB and a byte", request("POST", "/invoke", &fields, chunk.as_bytes()), &[413]));
    for _ in 0..20 {
        let unknown = |n: u64| call(&json!({"serviceName": format!("nobody-{n}")}));
        all.push(Shot { bytes: Bytes::Numbered(Box::new(unknown)), ..shot("a service that nobody knows", Vec::new(), &[503]) });
        let more = |n: u64| of("keeper", "POST", "/register", at("kept", &format!("i{n}"), 9).to_string());
        all.push(Shot { bytes: Bytes::Numbered(Box::new(more)), ..shot("one more instance", Vec::new(), &[200, 503]) });
    }
    all
}

/// What pages of other origins send, and what comes under names made to point here.
fn pages() -> Vec<Shot> {
    let mut all = Vec::new();
    let (token, form) = (bearer("ci"), "application/x-www-form-urlencoded");
    for origin in inputs::FOREIGN_ORIGINS {
        let fields = [("origin", *origin), ("authorization", &token), ("content-type", form)];
        for target in ["/register", "/invoke", "/proxy/hit/x"] {
            all.push(shot("a form of another origin", request("POST", target, &fields, b"serviceName=hit"), &[403]));
        }
        let fields = [("origin", *origin), ("access-control-request-method", "POST"), ("authorization", &token)];
        all.push(shot("a question before it", request("OPTIONS", "/register", &fields, b""), &[405]));
    }
    for host in inputs::FOREIGN_HOSTS {
        for target in ["/services", "/metrics", "/config", "/proxy/hit/x"] {
            let fields = [("host", *host), ("authorization", &*token)];
            all.push(shot("a foreign name", request("GET", target, &fields, b""), &[403]));
        }
    }
    all
}
