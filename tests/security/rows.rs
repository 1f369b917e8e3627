//! Inputs that must be refused or do no harm: which test sends which, and those that no other sends.
//!
//! | what comes | what is answered | sent by |
//! |---|---|---|
//! | no token; a wrong one; a byte less, more or other; a beginning; one in the URL or a cookie; no `Bearer` before it | 401 with a challenge | `security::tokens::only_the_whole_token_where_it_belongs_lets_in`, on every path `security::tokens::every_row_of_the_table_asks_for_its_scope_and_nothing_is_open_but_health` |
//! | `bearer` in any case; two `Authorization`; a token of 1 MB | it counts; 400; 431 | the first of these |
//! | 10 000 wrong tokens of each kind | no time tells them apart | `siege::timing::how_long_a_token_is_refused_tells_nothing_about_it` |
//! | a token without the scope; one for other services | 403 | the second of these; `security::tokens::a_token_is_for_services_that_begin_as_it_says_and_shows_no_others` |
//! | hosts: `169.254.169.254`, `[fe80::1]`, `0.0.0.0`, `[::]`, multicast, broadcast, clouds' metadata, each in IPv6 clothes too | 403, nothing is sent | `http::places::addresses_that_no_instance_may_have_are_refused_as_not_allowed`, `security::upstreams::no_spelling_of_a_forbidden_address_can_be_registered_and_nothing_is_sent_there`, `policy::upstreams::some_places_are_never_allowed_in_whatever_clothes` |
//! | the mesh's own address | 403 | `security::upstreams::the_mesh_does_not_call_itself_where_that_would_be_in_its_own_name` |
//! | `localhost` | 200; 403 where loopback is denied | `http::places::what_the_operator_denies_is_refused_and_no_packet_leaves` |
//! | `metadata.google.internal`; names whose meaning changes | 403; left alone | `http::places::names_are_judged_by_what_they_resolve_to_at_registration_and_ever_after`, `security::upstreams::a_name_that_comes_to_mean_a_forbidden_address_is_not_followed_by_calls_checks_or_copies` |
//! | `2130706433`, `0x7f.1`, `0177.0.0.1`, `127.1`; `a@b`, `a/b`, `a?b`, `a#b`, `a b`, a line end, `a:80`, none, 300 letters, `bücher.de`, `a.`, `%31` | 400 | `http::places::other_spellings_of_addresses_and_what_is_no_host_are_bad_requests` |
//! | ports 0, -1, 65536, 99999, "80", 80.5, 1e3, null | 400 | `http::inputs::a_port_is_a_whole_number_from_1_to_65535` |
//! | paths of calls: `@evil/x`, `//evil/x`, `http://evil/`, `/../x`, `/%2e%2e/x`, `/a\b`, line ends and zero bytes, encoded or not, `/é`, 10 KiB, none | 400, nobody is asked | `http::places::an_endpoint_that_could_mean_another_place_is_refused_and_no_packet_leaves`, `security::hygiene::an_endpoint_that_leads_elsewhere_is_refused_and_nobody_is_asked` |
//! | the same as paths of health checks, and through `/proxy` | 400; what leads nowhere else is passed on | `security::rows::the_path_of_a_health_check_is_judged_as_every_path_is`, `http::places::a_health_url_that_could_ask_another_place_is_refused`, `security::rows::a_path_to_be_passed_on_leads_to_its_instance_or_nowhere`, `proxy::requests::what_cannot_be_passed_on_safely_is_refused_with_a_reason` |
//! | `/%252e` | decoded once it is a name: passed on as it came | `http::places::an_endpoint_that_could_mean_another_place_is_refused_and_no_packet_leaves`, and the first of these |
//! | methods: `GET` and a line end, `TRACE`, `CONNECT`, `PRI`, none, 1 KiB | 400 (`get` is GET) | `http::inputs::only_the_seven_methods_are_methods`; as a request `door::vectors::a_bad_request_for_nothing_in_particular_is_refused` |
//! | header fields with line ends, or of the mesh | 400; left out | `http::inputs::a_header_cannot_smuggle_another`, `security::tokens::the_instance_learns_who_calls_from_the_mesh_alone_and_never_sees_the_token`, `proxy::requests::what_only_the_mesh_may_say_is_never_taken_from_outside` |
//! | an instance answers 302 to a forbidden place | it is passed on | `security::upstreams::a_redirect_to_a_forbidden_address_is_data` |
//! | an instance answers 101, a length and chunks, a head of 1 MiB, a body without end | 503 `upstream_protocol`, 502 through `/proxy`, which streams bodies; memory stays flat | `http::faults::every_fault_of_an_upstream_gets_its_answer_in_time`, `proxy::faults::every_fault_of_an_instance_gets_its_answer_through_proxy`, `security::rows::an_answer_without_end_is_given_up_at_its_limit_and_memory_stays_flat`, `proxy::memory::a_long_body_costs_no_more_memory_than_a_short_one` |
//! | `HTTP_PROXY` in the environment | ignored | `program::running::a_proxy_in_the_environment_is_ignored_by_calls_and_checks` |
//! | a body of 1 MiB and a byte, by length and in chunks | 413 | `http::inputs::a_body_of_1_mib_is_read_and_one_byte_more_is_too_large_however_it_is_framed` |
//! | 100 MB packed by gzip | 400 as JSON, passed on as it is, never unpacked | `security::rows::what_is_packed_is_passed_on_and_never_unpacked` |
//! | JSON 129 to 100 000 levels deep | 400 | `http::inputs::deep_nesting_is_refused_at_any_depth_and_in_any_place` |
//! | a key twice, a list for an object, more behind it, a mark of byte order, half a surrogate, NaN, 1e999, `\u0000` in a name, a million digits | 400 at each path that takes a body | `security::rows::every_body_of_the_api_is_one_json_object_and_says_nothing_twice`, `http::inputs::whatever_is_not_one_json_object_is_a_bad_request`, inside `security::rows::what_is_said_twice_inside_is_refused_and_labels_are_kept_as_they_came` |
//! | unknown keys | ignored; in settings 400 | `http::instances::bodies_may_be_written_in_snake_case_and_strange_fields_are_ignored`; `http::services::a_bad_setting_is_named_and_changes_nothing` |
//! | numbers in what is passed on | byte for byte | `http::sent::a_million_digits_are_not_rewritten` |
//! | `text/plain`, a form, no type | 200: JSON is what can be read as JSON | `http::inputs::the_content_type_of_a_request_does_not_matter` |
//! | the same from pages of other origins; rebound names | 403 | `security::rows::a_form_of_another_origin_is_refused_in_whatever_type_and_curl_needs_none`, `security::hygiene::pages_of_other_origins_and_rebound_names_get_nothing`, `http::places::browsers_cannot_be_made_to_change_anything` |
//! | 100 000 unknown services | 503 `unknown_service`, no series | `security::rows::however_many_unknown_services_are_called_metrics_and_memory_stay_as_they_were`, `http::prometheus::strangers_make_no_series` |
//! | 100 000 registrations | 503 `overloaded` at the limits, memory is bounded | `security::rows::however_many_instances_are_registered_there_are_no_more_than_the_limits_allow`, of one caller `security::limits::one_caller_cannot_fill_the_registry` |
//! | names that would end a label, colour a terminal or begin a line of the log | 400, nothing is logged | `http::inputs::names_and_ids_are_short_and_plain`, `security::hygiene::strange_names_do_not_get_into_logs_metrics_or_series`, `http::prometheus::names_that_could_never_be_registered_would_do_no_harm` |
//! | looks at everything that shows anything, and panics | no token, file, body | `security::rows::neither_files_nor_tokens_nor_bodies_are_told_to_anybody`, `security::hygiene::no_token_comes_out_again`, `http::faults::nothing_of_a_bad_answer_leaks_into_metrics_services_or_errors`, `http::workers::a_panic_is_answered_and_takes_no_worker_no_seat_and_no_slot_with_it` |
//! | a token file that is a link or that others may read | no start | `security::token_file::a_file_that_others_can_read_or_that_is_a_link_is_refused` |
//! | a snapshot or log that is a link; one that everybody may read | no start; closed, with a warning | `store::directory::a_file_that_is_a_link_is_not_read`, `store::directory::what_everybody_could_read_is_closed_and_counts_all_the_same` |
//! | an address beyond loopback, without tokens | no start | `program::running::listening_beyond_loopback_has_to_be_meant` |
//! | HTTP that two readers might take for different requests, a good one behind it | one answer, the end; the good one is never executed | `door::vectors::a_bad_request_to_the_api_is_refused_and_nothing_behind_it_is_executed`, `door::vectors::a_bad_call_is_refused_and_nothing_behind_it_is_executed`, `door::vectors::a_bad_request_to_be_passed_on_is_refused_and_nothing_behind_it_is_executed` |

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::callers::{at, line, write};
use crate::fuzzed::asked_for;
use crate::house::House;
use crate::inputs::{BAD_ENDPOINTS, FOREIGN_ORIGINS};
use crate::support::client::{self, Client, request};
use crate::support::eventually;
use crate::support::upstream::{Act, Upstream, answer, ok};
use crate::weft::{Folder, Weft};

#[test]
fn the_path_of_a_health_check_is_judged_as_every_path_is() {
    let house = House::new();
    let (upstream, elsewhere) = (Upstream::named("here"), Upstream::named("elsewhere"));
    let with = |path: &str| {
        let url = format!("http://{}{path}", upstream.at);
        house.post("/register", &json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": upstream.port(), "healthCheckUrl": url}))
    };
    let (long, led_away) = (format!("/{}", "x".repeat(10_240)), [format!("//{}/x", elsewhere.at), format!("@{}/x", elsewhere.at)]);
    let bad = BAD_ENDPOINTS.iter().copied().filter(|path| path.starts_with('/'));
    for path in bad.chain([long.as_str()]).chain(led_away.iter().map(String::as_str)) {
        assert_eq!(with(path).with_status(400).json()["field"], "healthCheckUrl", "{path:?}");
    }
    house.mesh.check_now();
    assert_eq!((upstream.connections(), elsewhere.connections()), (0, 0));
    // Decoded once it is no more than a name, and it is asked for as it was written.
    with("/%252e%252e").with_status(200);
    house.mesh.check_now();
    let asked = upstream.asked();
    assert!(!asked.is_empty() && asked.iter().all(|asked| asked.target == "/%252e%252e"), "{asked:?}");
}

#[test]
fn a_path_to_be_passed_on_leads_to_its_instance_or_nowhere() {
    let house = House::new();
    let (upstream, elsewhere) = (Upstream::start(|asked| ok(asked.target.clone())), Upstream::named("elsewhere"));
    house.register("s", "i", &upstream);
    let fits_a_line = |path: &&str| path.starts_with('/') && !path.contains([' ', '\r', '\n', '\0']);
    for path in BAD_ENDPOINTS.iter().copied().filter(fits_a_line) {
        house.get(&format!("/proxy/s{path}")).with_status(400);
    }
    house.get(&format!("/proxy/s/{}", "x".repeat(10_240))).with_status(414);
    assert_eq!(upstream.connections(), 0);
    let at = elsewhere.at;
    for path in [format!("//{at}/x"), format!("/@{at}/x"), format!("/http://{at}/"), "/%252e%252e/x".to_owned()] {
        assert_eq!(house.get(&format!("/proxy/s{path}")).with_status(200).text(), path, "to its instance, as it came");
    }
    // A target that names another place, as a proxy would be asked.
    house.get(&format!("http://evil.test:{}/services", at.port())).with_status(403);
    house.get(&format!("http://{at}/x")).with_status(404);
    assert_eq!(elsewhere.connections(), 0);
}

/// A good body made bad, in every way that some readers of JSON forgive.
fn twisted(good: &Value) -> Vec<(String, Vec<u8>)> {
    let (text, fields) = (good.to_string(), good.as_object().expect("an object"));
    let (key, value) = fields.iter().next().expect("a field");
    let (first, rest) = key.split_at(1);
    let escaped = format!("\\u{:04x}{rest}", u32::from(first.as_bytes()[0]));
    let inside = &text[1..text.len() - 1];
    let deep = |n: usize| format!("{{{inside},\"x\":{}{}}}", "[".repeat(n), "]".repeat(n));
    let mut all: Vec<(String, Vec<u8>)> = [
        ("nothing", String::new()),
        ("a key twice", format!("{{\"{key}\":{value},{inside}}}")),
        ("a key twice, once escaped", format!("{{\"{escaped}\":{value},{inside}}}")),
        ("its values in their order", Value::from_iter(fields.values().cloned()).to_string()),
        ("an object in a list", format!("[{text}]")),
        ("an object in quotes", json!(text).to_string()),
        ("something behind it", format!("{text}x")),
        ("another behind it", text.repeat(2)),
        ("a mark of byte order", format!("\u{feff}{text}")),
        ("no end", format!("{{{inside}")),
        ("a comma too many", format!("{{{inside},}}")),
        ("single quotes", text.replace('"', "'")),
        ("a comment", format!("{{/**/{inside}}}")),
        ("128 levels in it", deep(128)),
        ("100 000 levels in it", deep(100_000)),
    ]
    .map(|(what, text)| (what.to_owned(), text.into_bytes()))
    .into();
    all.push(("UTF-16".to_owned(), text.encode_utf16().flat_map(u16::to_le_bytes).collect()));
    all.push(("a byte that is none".to_owned(), [b"{\"\xff\":1,", inside.as_bytes(), b"}"].concat()));
    let million = "9".repeat(1_000_000);
    for (key, value) in fields {
        let bad: &[&str] = match value {
            // What is said of why is anybody's choice.
            Value::String(_) if key == "reason" => &["\"\\ud800\"", "5"],
            Value::String(_) => &["\"\\ud800\"", "\"a\\u0000\"", "5", "[]"],
            Value::Number(_) => &["NaN", "Infinity", "1e999", "-1", "1.5", "01", "\"5\"", &million],
            _ => &["5", "[]", "NaN"],
        };
        let others = fields.iter().filter(|(other, _)| *other != key).map(|(other, value)| format!("\"{other}\":{value},"));
        let others: String = others.collect();
        all.extend(bad.iter().map(|bad| (format!("{key}: {bad:.20}"), format!("{{{others}\"{key}\":{bad}}}").into_bytes())));
    }
    all
}

#[test]
fn every_body_of_the_api_is_one_json_object_and_says_nothing_twice() {
    let house = House::new();
    let upstream = Upstream::named("x");
    house.register("s", "i", &upstream);
    let before = (house.get("/services").json(), house.get("/services/s/policy").json());
    let (name, port) = (json!("s"), json!(upstream.port()));
    for (method, target, good) in [
        ("POST", "/register", json!({"name": name, "id": "j", "host": "127.0.0.1", "port": port})),
        ("POST", "/deregister", json!({"name": name, "id": "i"})),
        ("POST", "/invoke", json!({"serviceName": name, "endpoint": "/", "timeoutMs": 5000})),
        ("PUT", "/services/s/i/state", json!({"state": "drain", "reason": "r"})),
        ("PUT", "/services/s/i/weight", json!({"weight": 5})),
        ("PUT", "/services/s/breaker", json!({"state": "forced_open"})),
        ("PUT", "/services/s/policy", json!({"retry": {"maxRetries": 1}, "loadBalancing": {"strategy": "random"}})),
    ] {
        for (what, body) in twisted(&good) {
            let refused = house.ask(method, target, &[], &body);
            let shown = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
            assert_eq!((refused.status, refused.reason().as_str()), (400, "bad_request"), "{target}: {what}: {shown}: {}", refused.text());
            assert!(refused.text().len() < 1024 && !refused.text().contains(char::is_control), "{target}: {what}: {}", refused.text());
        }
    }
    assert_eq!((house.get("/services").json(), house.get("/services/s/policy").json()), before, "nothing has changed");
    assert_eq!(house.metrics()["circuitBreakers"]["s"]["status"], "CLOSED");
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn what_is_said_twice_inside_is_refused_and_labels_are_kept_as_they_came() {
    let house = House::new();
    for (target, body) in [
        ("/register", r#"{"name":"s","id":"i","host":"127.0.0.1","port":9,"metadata":{"a":"1","a":"2"}}"#),
        ("/invoke", r#"{"serviceName":"s","endpoint":"/","headers":{"x-a":"1","x-a":"2"}}"#),
    ] {
        house.ask("POST", target, &[], body.as_bytes()).with_status(400);
    }
    house.ask("PUT", "/services/s/policy", &[], br#"{"retry":{"maxRetries":1,"maxRetries":2}}"#).with_status(400);
    let labels = br#"{"name":"s","id":"i","host":"127.0.0.1","port":9,"metadata":{"n":123456789012345678901234567890,"v":1.10}}"#;
    house.ask("POST", "/register", &[], labels).with_status(200);
    assert_eq!(house.instance("s", "i")["metadata"], json!({"n": "123456789012345678901234567890", "v": "1.10"}));
}

#[test]
fn a_form_of_another_origin_is_refused_in_whatever_type_and_curl_needs_none() {
    let house = House::new();
    let upstream = Upstream::named("hello");
    house.register("s", "i", &upstream);
    let call = br#"{"serviceName":"s","endpoint":"/"}"#;
    let types = [None, Some("application/x-www-form-urlencoded"), Some("multipart/form-data; boundary=x"), Some("text/plain")];
    for kind in types {
        let kind = kind.map(|kind| ("content-type", kind));
        for origin in FOREIGN_ORIGINS {
            let fields: Vec<_> = kind.into_iter().chain([("origin", *origin)]).collect();
            for target in ["/register", "/invoke", "/deregister", "/proxy/s/"] {
                assert_eq!(house.ask("POST", target, &fields, call).with_status(403).reason(), "forbidden", "{kind:?} {origin} {target}");
            }
        }
        let fields: Vec<_> = kind.into_iter().collect();
        house.ask("POST", "/invoke", &fields, call).with_status(200);
    }
    assert_eq!(upstream.requests(), types.len());
}

/// Of a gzip file with so many zeros, nearly (RFC 1951 §3.2.6: the fixed codes; 258 zeros in 13 bits).
fn bomb(zeros: usize) -> Vec<u8> {
    let bits = ["110", "00110000", &"1100010100000".repeat(zeros / 258), "0000000"].concat();
    let byte = |bits: &[u8]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | (bit - b'0'));
    [&b"\x1f\x8b\x08\0\0\0\0\0\x02\x03"[..], &bits.as_bytes().chunks(8).map(byte).collect::<Vec<u8>>()].concat()
}

/// How much more memory the program had at most since it had `before`, in KiB.
fn grown(weft: &Weft, before: u64) -> u64 {
    weft.status("VmHWM").saturating_sub(before)
}

#[test]
fn what_is_packed_is_passed_on_and_never_unpacked() {
    let packed = bomb(100_000_000);
    assert!(packed.len() < 700_000);
    let upstream = Upstream::start({
        let packed = packed.clone();
        move |_| Act::Say(answer(200, &[("content-encoding", "gzip")], &packed))
    });
    let weft = Weft::start(&[]);
    weft.register("s", &upstream);
    let ask = |target: &str, body: &[u8]| {
        client::ask(weft.at(), "POST", target, &[("content-encoding", "gzip"), ("accept-encoding", "gzip")], body).expect("answered")
    };
    let before = weft.status("VmHWM");
    for target in ["/invoke", "/register"] {
        assert_eq!(ask(target, &packed).with_status(400).reason(), "bad_request");
    }
    let call = json!({"serviceName": "s", "endpoint": "/"}).to_string();
    for passed in [ask("/proxy/s/", &packed), ask("/invoke", call.as_bytes())] {
        assert_eq!(passed.clone().with_status(200).header("content-encoding"), Some("gzip"));
        assert!(passed.body == packed, "byte for byte");
    }
    assert!(upstream.asked()[0].body == packed, "byte for byte");
    assert!(grown(&weft, before) < 16 * 1024, "{} KiB", grown(&weft, before));
}

#[test]
fn an_answer_without_end_is_given_up_at_its_limit_and_memory_stays_flat() {
    let upstream = Upstream::start(|_| Act::Pour(b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 1 << 16]));
    let weft = Weft::start(&[]);
    weft.register("s", &upstream);
    let call = json!({"serviceName": "s", "endpoint": "/", "maxRetries": 0});
    let before = weft.status("VmHWM");
    for n in 0..4 {
        assert_eq!(weft.post("/invoke", &call).with_status(503).reason(), "upstream_protocol", "{n}");
    }
    assert!(grown(&weft, before) < 32 * 1024, "10 MiB may be collected: {} KiB", grown(&weft, before));
}

/// Sends requests, many at a time, and counts what they are answered by status and limit.
fn asked_in_a_row(at: SocketAddr, requests: impl Iterator<Item = Vec<u8>>) -> BTreeMap<(u16, String), usize> {
    let (mut client, mut counts) = (Client::connect(at).expect("a connection"), BTreeMap::new());
    let mut requests = requests.peekable();
    while requests.peek().is_some() {
        let some: Vec<Vec<u8>> = requests.by_ref().take(100).collect();
        client.send(&some.concat()).expect("sent");
        for _ in &some {
            let answer = client.receive(false).expect("answered");
            let limit = if answer.status == 200 { Value::Null } else { answer.json()["limit"].clone() };
            *counts.entry((answer.status, limit.as_str().unwrap_or_default().to_owned())).or_default() += 1;
        }
    }
    counts
}

/// How many of each; `scripts/soak many` sends 100 000.
fn many() -> usize {
    usize::try_from(asked_for("WEFT_MANY", 6_000)).expect("a number")
}

#[test]
fn however_many_unknown_services_are_called_metrics_and_memory_stay_as_they_were() {
    let weft = Weft::start(&[]);
    let unknown = |n: usize| {
        let call = json!({"serviceName": format!("nobody-{n}"), "endpoint": "/"});
        request("POST", "/invoke", &[], call.to_string().as_bytes())
    };
    asked_in_a_row(weft.at(), (0..2_000).map(unknown));
    let lines = || ["/metrics", "/metrics/prometheus"].map(|target| weft.get(target).text().lines().count());
    let (before, memory) = (lines(), weft.status("VmHWM"));
    let counts = asked_in_a_row(weft.at(), (0..many()).map(unknown));
    assert_eq!(counts, BTreeMap::from([((503, String::new()), many())]));
    assert_eq!(lines(), before);
    assert_eq!(weft.get("/metrics").json()["unknownServiceRequests"], 2_000 + many());
    assert!(grown(&weft, memory) < 4 * 1024, "{} KiB", grown(&weft, memory));
}

#[test]
fn however_many_instances_are_registered_there_are_no_more_than_the_limits_allow() {
    let weft = Weft::start(&["--log", "error"]);
    let before = weft.status("VmHWM");
    let register = |service: String, id: String| request("POST", "/register", &[], at(&service, &id, 9).to_string().as_bytes());
    let half = many() / 2;
    let counted = |taken: usize, limit: &str| BTreeMap::from([((200, String::new()), taken), ((503, limit.to_owned()), half - taken)]);
    let services = asked_in_a_row(weft.at(), (0..half).map(|n| register(format!("s-{n}"), "i".to_owned())));
    assert_eq!(services, counted(1_000, "maxServices"));
    // One of it is there already.
    let instances = asked_in_a_row(weft.at(), (0..half).map(|n| register("s-0".to_owned(), format!("i-{n}"))));
    assert_eq!(instances, counted(999, "maxInstancesPerService"));
    assert!(grown(&weft, before) < 32 * 1024, "{} KiB", grown(&weft, before));
    weft.get("/health").with_status(200);
}

#[test]
fn neither_files_nor_tokens_nor_bodies_are_told_to_anybody() {
    let folder = Folder::new();
    let (tokens, state) = (folder.path("tokens"), folder.path("state"));
    fs::create_dir(&state).expect("a directory");
    write(&tokens, &[line("root", "read,register,invoke,admin", json!({}))].join("\n"));
    let config = folder.write("weft.json", json!({"log": "debug", "telemetry": {"accessLog": "json"}}).to_string());
    let weft = Weft::start(&["--token-file", &tokens, "--state-dir", &state, "--config", &config]);
    let upstream = Upstream::start(|asked| Act::Say(answer(if asked.target == "/500" { 500 } else { 200 }, &[], "secret-answer")));
    let ask = |token: &str, method: &str, target: &str, body: &str| {
        let bearer = format!("Bearer {token}");
        client::ask(weft.at(), method, target, &[("authorization", &bearer)], body.as_bytes()).expect("answered")
    };
    let root = |method: &str, target: &str, body: &str| ask("root-token", method, target, body);
    root("POST", "/register", &json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": upstream.port()}).to_string()).with_status(200);
    let call = |path: &str| json!({"serviceName": "s", "endpoint": path, "method": "POST", "body": "secret-body"}).to_string();
    root("POST", "/invoke", &call("/?token=secret-query")).with_status(200);
    root("POST", "/proxy/s/", "secret-body").with_status(200);
    let mut shown = root("POST", "/invoke", &call("/500")).with_status(503).text();
    for body in [&call("//secret-body"), "secret-body", "{\"serviceName\":\"secret-body"] {
        root("POST", "/invoke", body).with_status(400);
    }
    ask("wrong-token", "GET", "/services", "").with_status(401);
    for target in [
        "/metrics",
        "/metrics/prometheus",
        "/services",
        "/services/s",
        "/services/s/explain",
        "/services/s/policy",
        "/overview",
        "/overview/s",
        "/events",
        "/traces",
        "/health",
        "/ready",
        "/dashboard",
        "/nowhere",
    ] {
        shown.push_str(&root("GET", target, "").text());
    }
    let logged = eventually("the last call is logged", || Some(weft.err()).filter(|text| text.contains("upstream_status")));
    let files = folder.path("");
    for secret in ["root-token", "wrong-token", "secret-body", "secret-answer", "secret-query", files.as_str()] {
        assert!(!shown.contains(secret), "{secret}: {shown}");
        assert!(secret == files || !logged.contains(secret) && !weft.out().contains(secret), "{secret}: {logged}");
    }
}
