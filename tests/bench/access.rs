//! What it costs to know who calls: with 1000 tokens, a token that the connection has shown before, one that is new to it, one that is not
//! valid, and the rules of a service about its callers. `cargo bench --bench access` prints nanoseconds per request.

#![allow(clippy::expect_used, clippy::indexing_slicing)] // A measurement may fail loudly.

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde_json::json;
use weft::contract::access::{Access, Need, Remembered, token};
use weft::contract::router::Scope;
use weft::contract::tokens::{Entry, Tokens, digest};
use weft::model::Method;
use weft::policy::Policy;

const TOKENS: usize = 1000;
const ROUNDS: usize = 9;
const TIMES: u32 = 100_000;

fn main() {
    let of = |n: usize| format!("weft_{n:043}");
    let line = |n: usize| {
        let (name, scopes) = (format!("caller-{n}"), vec![Scope::Read, Scope::Invoke]);
        Entry { name, scopes, service_prefix: Some("service-".to_owned()), max_instances: None, digests: vec![digest(of(n).as_bytes())] }
            .line()
    };
    let lines: Vec<String> = (0..TOKENS).map(line).collect();
    let access = Access::new(Tokens::parse(&lines.join("\n")).expect("valid"));
    let values: Vec<String> = (0..=TOKENS).map(|n| format!("Bearer {}", of(n))).collect();
    let fields = |n: usize| {
        let authorization = values[n].as_bytes();
        [("host", &b"localhost:3000"[..]), ("user-agent", b"curl/8"), ("accept", b"*/*"), ("authorization", authorization)]
            .map(|(name, value)| (name.as_bytes(), value))
    };
    let judge = |n: usize, remembered: &mut Remembered| {
        let (token, _) = token(fields(n).into_iter()).ok()?;
        let grant = access.of_token(token, remembered).ok()?;
        grant.may(Scope::Invoke, Some("service-7")).ok()
    };
    let mut remembered = Remembered::default();
    measure("no new token on the connection", |_| judge(7, &mut remembered));
    let mut remembered = Remembered::default();
    measure("another token with each request", |n| judge(n % TOKENS, &mut remembered));
    let mut remembered = Remembered::default();
    measure("a token that is not valid", |_| judge(TOKENS, &mut remembered));
    measure("what a path of the API needs", |_| Some(Need::of("GET", "/services/service-7/policy")));

    let rule = |n: usize| json!({"callers": [format!("caller-{n}")], "methods": ["GET", "POST"], "pathPrefixes": ["/api/v1", "/api/v2"]});
    let rules = Policy::from_json(&json!({"allow": (0..20).map(rule).collect::<Vec<_>>()})).expect("valid").allow;
    measure("twenty rules, the last one covers it", |_| Some(rules.judge(Some("caller-19"), Method::Get, "/api/v2/users/123?full=1")));
    let none = Policy::default().allow;
    measure("no rules", |_| Some(none.judge(Some("caller-19"), Method::Get, "/api/v2/users/123?full=1")));
}

fn measure<T>(what: &str, mut work: impl FnMut(usize) -> Option<T>) {
    let mut rounds: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            (0..TIMES).for_each(|n| drop(black_box(work(black_box(n as usize)))));
            start.elapsed() / TIMES
        })
        .collect();
    rounds.sort_unstable();
    println!("{:>6} ns (fastest round {:>5})  {what}", rounds[ROUNDS / 2].as_nanos(), rounds[0].as_nanos());
}
