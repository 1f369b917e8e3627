//! Somebody who says that it is etcd and lies, and others who put whatever they like where the registry stands.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft::mesh::ports::Store;
use weft::model::ServiceName;
use weft::outbound::etcd::{Config, Etcd, heard};
use weft::policy::upstreams;
use weft::{Call, Mesh};

use crate::support::eventually;
use crate::support::upstream::{Act, Asked, End, Upstream, answer, ok};
use crate::{known, knows};

/// Base64 (RFC 4648 §4).
fn encoded(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        let letter = |at: usize| if at <= three.len() { LETTERS[(bits >> (18 - 6 * at)) as usize & 63] as char } else { '=' };
        out.extend((0..4).map(letter));
    }
    out
}

fn decoded(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap_or_default();
    let place = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut out = Vec::new();
    for four in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = four.iter().fold(0, |bits, c| bits << 6 | u32::from(place(*c))) << (6 * (4 - four.len()));
        out.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
    }
    out
}

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

fn said(json: &Value) -> Act {
    Act::Say(answer(200, &[("content-type", "application/json")], json.to_string()))
}

fn header(revision: &str) -> Value {
    json!({"cluster_id": "1", "revision": revision})
}

/// What etcd would say that has these pairs, and is at that revision.
fn honest(asked: &Asked, pairs: &Pairs, revision: &str) -> Act {
    let header = header(revision);
    match asked.target.as_str() {
        "/v3/kv/range" => {
            let ask: Value = serde_json::from_slice(&asked.body).expect("JSON");
            let begin = decoded(&ask["key"]);
            let end = if ask["range_end"].is_null() { [&begin[..], b"\0"].concat() } else { decoded(&ask["range_end"]) };
            let limit = ask["limit"].as_str().map_or(usize::MAX, |limit| limit.parse().expect("a number"));
            let all: Vec<_> = pairs.range((Bound::Included(begin), Bound::Excluded(end))).collect();
            let pair = |(key, value): &(&Vec<u8>, &Vec<u8>)| json!({"key": encoded(key), "value": encoded(value), "create_revision": "2", "mod_revision": "2"});
            said(&json!({"header": header, "kvs": all.iter().take(limit).map(pair).collect::<Vec<_>>(), "more": all.len() > limit}))
        }
        "/v3/kv/txn" => said(&json!({"header": header, "succeeded": true})),
        "/v3/lease/grant" => said(&json!({"header": header, "ID": "7", "TTL": "15"})),
        "/v3/lease/keepalive" => said(&json!({"result": {"ID": "7", "TTL": "15"}})),
        "/v3/watch" => watch(&[json!({"result": {"header": header, "created": true}})], End::Hang),
        _ => said(&json!({"header": header})),
    }
}

/// A watch that says this, and then ends so.
fn watch(lines: &[Value], end: End) -> Act {
    let mut out = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for line in lines {
        let line = format!("{line}\n");
        out.extend_from_slice(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes());
    }
    Act::SayAnd(out, end)
}

fn pairs<const N: usize>(all: [(&str, &str); N]) -> Pairs {
    all.into_iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

fn at(etcd: &Upstream) -> Etcd {
    let config = Config { endpoints: vec![format!("http://{}", etcd.at)], ..Config::default() };
    Etcd::open(&config, None).expect("settings")
}

fn mesh(etcd: &Upstream) -> Mesh {
    Mesh::builder().store(at(etcd)).build().expect("a mesh")
}

const INSTANCE: &str = r#"{"name":"s","id":"i","host":"127.0.0.1","port":1}"#;

#[test]
fn no_number_is_too_large_to_go_on_from() {
    const LARGEST: &str = "18446744073709551615";
    let put = json!({"kv": {"key": encoded(b"/mesh/v1/instances/s/i"), "value": encoded(INSTANCE.as_bytes()), "create_revision": LARGEST,
        "mod_revision": LARGEST, "lease": LARGEST}});
    let lines =
        [json!({"result": {"header": header(LARGEST), "created": true}}), json!({"result": {"header": header(LARGEST), "events": [put]}})];
    let etcd = Upstream::start(move |asked| match asked.target.as_str() {
        "/v3/watch" => watch(&lines, End::Hang),
        _ => honest(asked, &Pairs::new(), LARGEST),
    });
    let mesh = mesh(&etcd);
    eventually("it hears what it is told", || knows(&mesh, "i", 1).then_some(()));
    mesh.register(crate::registration("j", 2)).expect("kept");
}

#[test]
fn watches_that_come_to_nothing_are_not_begun_anew_in_a_hurry() {
    let canceled = |more: &Value| {
        let mut watched = json!({"header": header("5"), "created": true, "canceled": true});
        watched.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        json!({"result": watched})
    };
    let rows = [
        vec![json!({"result": {"header": header("5"), "created": true}})],
        vec![canceled(&json!({"cancel_reason": "no"}))],
        vec![canceled(&json!({"compact_revision": "9"}))],
        vec![json!({"result": {"header": header("1"), "created": true}})],
    ];
    for row in rows {
        let shown = format!("{row:?}");
        let etcd = Upstream::start(move |asked| match asked.target.as_str() {
            "/v3/watch" => watch(&row, End::Close),
            _ => honest(asked, &Pairs::new(), "5"),
        });
        let began = Instant::now();
        let mesh = mesh(&etcd);
        let watches = || etcd.asked().iter().filter(|asked| asked.target == "/v3/watch").count();
        eventually("it goes on trying", || (watches() >= 4).then_some(()));
        // The first two come one after the other; before the others it waits, and longer each time.
        assert!(began.elapsed() >= Duration::from_millis(75 + 150), "{shown}: {:?}", began.elapsed());
        drop(mesh);
    }
}

#[test]
fn keys_that_are_no_text_hide_none_of_ours() {
    let mut all = pairs([("/mesh/v1/instances/s/i", INSTANCE)]);
    // More than a page of them.
    for n in 0..2_100_u16 {
        all.insert([b"/mesh/v1/\xff".as_slice(), &n.to_be_bytes()].concat(), b"x".to_vec());
        all.insert([b"/mesh/v1/instances/s/\xfe".as_slice(), &n.to_be_bytes()].concat(), b"x".to_vec());
    }
    let etcd = Upstream::start(move |asked| honest(asked, &all, "5"));
    assert_eq!(known(&mesh(&etcd)), [("i".to_owned(), 1)]);
}

#[test]
fn very_many_policies_of_which_one_is_nonsense_hold_up_no_start() {
    // All of them would be looked at for each of them, if each were not looked at alone: for minutes.
    let name = |n: usize| format!("s{n}");
    let policy = |n: usize| json!({"name": name(n), "patch": {"retry": {"maxRetries": if n == 7 { -1 } else { 9 }}}}).to_string();
    let all = (0..4_000).map(|n| (format!("/mesh/v1/policies/{}", name(n)).into_bytes(), policy(n).into_bytes())).collect();
    let etcd = Upstream::start(move |asked| honest(asked, &all, "5"));
    let mesh = mesh(&etcd);
    let retries = |n: usize| mesh.policy(&ServiceName::new(&name(n)).expect("a name")).retry.max_retries;
    assert_eq!((retries(6), retries(7), retries(3_999)), (9, 3, 9));
}

#[test]
fn pages_that_go_round_in_circles_are_left() {
    let etcd = Upstream::start(|asked| match asked.target.as_str() {
        "/v3/kv/range" => {
            said(&json!({"header": header("5"), "more": true, "kvs": [{"key": encoded(b"/mesh/v1/instances/s/i"), "value": ""}]}))
        }
        _ => honest(asked, &Pairs::new(), "5"),
    });
    let refused = at(&etcd).load().expect_err("no end");
    assert!(refused.to_string().contains("do not go on"), "{refused}");
    assert_eq!(etcd.requests(), 2);
}

#[test]
fn nonsense_is_not_repeated_at_length() {
    for nonsense in [format!("\"{}\"", "x".repeat(1 << 20)), format!("{{\"kvs\":\"{}\"}}", "\u{7f}".repeat(1 << 20))] {
        let etcd = Upstream::start(move |_| Act::Say(answer(200, &[("content-type", "application/json")], nonsense.clone())));
        let refused = at(&etcd).load().expect_err("nonsense").to_string();
        assert!(refused.contains("makes no sense") && refused.len() < 1_000, "{} bytes", refused.len());
        assert!(!refused.contains(char::is_control), "{refused}");
    }
}

#[test]
fn lists_that_are_longer_than_any_of_etcd_are_not_taken_in() {
    // Of three bytes for each, and of dozens once they are read.
    let (few, many) = (["{}"; 100_000].join(","), ["{}"; 300_000].join(","));
    let line = |events: &str| heard("/mesh/v1", format!("{{\"result\":{{\"events\":[{events}]}}}}").as_bytes());
    assert_eq!(line(&few), Ok(Vec::new()));
    let refused = line(&many).expect_err("too many");
    assert!(refused.contains("more than 200000"), "{refused}");
    let etcd = Upstream::start(move |_| Act::Say(answer(200, &[], format!("{{\"kvs\":[{many}]}}"))));
    let refused = at(&etcd).load().expect_err("too many").to_string();
    assert!(refused.contains("more than 200000"), "{refused}");
}

#[test]
fn what_is_too_much_at_once_is_asked_for_in_smaller_pages() {
    let all = pairs([("/mesh/v1/instances/s/i", INSTANCE), ("/mesh/v1/instances/s/j", r#"{"name":"s","id":"j","host":"h","port":2}"#)]);
    let etcd = Upstream::start(move |asked| {
        let ask: Value = serde_json::from_slice(&asked.body).expect("JSON");
        let limit: u32 = ask["limit"].as_str().map_or(1, |limit| limit.parse().expect("a number"));
        if limit > 1_000 {
            return Act::Pour(b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b' '; 1 << 20]);
        }
        honest(asked, &all, "5")
    });
    assert_eq!(at(&etcd).look().expect("all of it").len(), 2);
}

#[test]
fn only_what_a_node_says_of_itself_is_shown() {
    let node = |id: &str, version: &str| json!({"id": id, "addresses": [], "version": version, "started": 1}).to_string();
    let (long, fine, forged) = (node("c", &"x".repeat(5_000)), node("a", "1"), node("a", "2"));
    let all = pairs([
        ("/mesh/v1/nodes/a", fine.as_str()),
        ("/mesh/v1/nodes/b", forged.as_str()),
        ("/mesh/v1/nodes/c", long.as_str()),
        ("/mesh/v1/nodes/d", "[]"),
        ("/mesh/v1/nodes/\u{1b}[2J", fine.as_str()),
    ]);
    let etcd = Upstream::start(move |asked| honest(asked, &all, "5"));
    let store = at(&etcd);
    store.load().expect("all of it");
    let nodes: Vec<_> = store.standing().nodes.into_iter().map(|node| (node.id, node.version)).collect();
    assert_eq!(nodes, [("a".to_owned(), "1".to_owned())]);
}

#[test]
fn what_others_have_registered_is_judged_as_what_is_registered_here() {
    let forbidden = Upstream::on(std::net::TcpListener::bind("127.0.0.66:0").expect("a port"), |_| ok("forbidden"));
    let (place, port) = (forbidden.at, forbidden.port());
    let record = |id: &str, host: &str, health: &str| json!({"name": "s", "id": id, "host": host, "port": port, "healthCheckUrl": health});
    let (instance, health, mapped) = (
        record("i", "127.0.0.66", "http://127.0.0.1:1/").to_string(),
        record("h", "127.0.0.1", &format!("http://{place}/")).to_string(),
        record("m", "::ffff:127.0.0.66", &format!("http://[::ffff:127.0.0.66]:{port}/")).to_string(),
    );
    let all = pairs([("/mesh/v1/instances/s/h", health.as_str()), ("/mesh/v1/instances/s/m", mapped.as_str())]);
    let put = json!({"kv": {"key": encoded(b"/mesh/v1/instances/s/i"), "value": encoded(instance.as_bytes()), "mod_revision": "6"}});
    let lines = [json!({"result": {"header": header("5"), "created": true}}), json!({"result": {"header": header("6"), "events": [put]}})];
    let etcd = Upstream::start(move |asked| match asked.target.as_str() {
        "/v3/watch" => watch(&lines, End::Hang),
        _ => honest(asked, &all, "5"),
    });
    let upstreams: upstreams::Config = serde_json::from_value(json!({"deny": ["127.0.0.66/32"]})).expect("valid");
    let mesh = Mesh::builder().upstreams(upstreams).store(at(&etcd)).build().expect("a mesh");
    eventually("all are known", || (known(&mesh).len() == 3).then_some(()));
    mesh.check_now();
    for _ in 0..4 {
        let _ = mesh.invoke(&Call::get("s", "/").expect("a call"));
    }
    assert_eq!(forbidden.connections(), 0);
}

#[test]
fn what_was_written_by_hand_is_read_as_far_as_it_goes() {
    let rows = [
        r#"{"name":"s","id":"i","host":"127.0.0.1","port":1,"ttlMs":18446744073709551615}"#,
        r#"{"name":"s","id":"i","host":"127.0.0.1","port":1,"ttlMs":0}"#,
        r#"{"name":"s","id":"i","host":"127.0.0.1","port":1,"maxInFlight":0,"weight":1000,"operatorWeight":0,"reason":"\u001b[2J\n"}"#,
        r#"{"name":"s","id":"i","host":"127.0.0.1","port":1,"scheme":"\u001b[2J"}"#,
        r#"{"name":"s","id":"i","host":"127.0.0.1","port":65536}"#,
        r#"{"name":"s","id":"i","endpoints":["http://169.254.169.254","http://127.0.0.1:1@x"]}"#,
        r#"{"name":"s","id":"i","endpoints":[]}"#,
    ];
    for row in rows {
        let all = pairs([
            ("/mesh/v1/instances/s/i", row),
            ("/mesh/v1/policies/s", r#"{"name":"s","patch":[[[]]]}"#),
            ("/mesh/v1/policies/t", "1"),
        ]);
        let etcd = Upstream::start(move |asked| honest(asked, &all, "5"));
        let mesh = Mesh::builder().defaults(json!({"retry": {"maxRetries": 0}})).store(at(&etcd)).build().expect("a mesh");
        mesh.check_now();
        let _ = (mesh.services(), mesh.metrics(), mesh.invoke(&Call::get("s", "/").expect("a call")));
        let _ = mesh.register(crate::registration("j", 2));
    }
}
