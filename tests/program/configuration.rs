//! One configuration out of defaults, a file, the environment and flags; printed, checked, explained.

use serde_json::{Value, json};

use crate::weft::{Ended, Folder, run, run_in};

fn effective(ended: &Ended) -> Value {
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
    serde_json::from_str(&ended.out).expect("JSON")
}

#[test]
fn the_effective_configuration_is_printed_as_json() {
    let config = effective(&run(&["config"]));
    for (key, value) in [
        ("listen", json!("localhost:3000")),
        ("workers", json!(16)),
        ("reservedWorkers", json!(2)),
        ("queue", json!(1024)),
        ("maxBodyBytes", json!(1_048_576)),
        ("insecure", json!(false)),
        ("drainDelayMs", json!(0)),
        ("drainTimeoutMs", json!(10_000)),
        ("maxServices", json!(1000)),
        ("maxInstancesPerService", json!(1000)),
        ("log", json!("info")),
        ("services", json!({})),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
    let defaults = &config["defaults"];
    for (group, key, value) in [
        ("circuitBreaker", "failureThreshold", json!(5)),
        ("circuitBreaker", "successThreshold", json!(2)),
        ("circuitBreaker", "timeoutMs", json!(60_000)),
        ("retry", "maxRetries", json!(3)),
        ("retry", "baseDelayMs", json!(100)),
        ("healthCheck", "intervalMs", json!(10_000)),
        ("timeouts", "totalMs", json!(30_000)),
        ("loadBalancing", "strategy", json!("round_robin")),
    ] {
        assert_eq!(defaults[group][key], value, "{group}.{key}");
    }
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_the_defaults() {
    let folder = Folder::new();
    let file = folder.write(
        "weft.json",
        r#"{
  // a comment
  "workers": 4, "queue": 5, "maxServices": 6,
  "defaults": {"retry": {"maxRetries": 1}},
  "services": {"a": {"retry": {"maxRetries": 2}}}
}"#,
    );
    let by_flag = ["config", "--config", &file, "--workers", "8"];
    let config = effective(&run_in(&by_flag, &[("WEFT_WORKERS", "7"), ("WEFT_QUEUE", "9"), ("UNRELATED", "x")]));
    assert_eq!((&config["workers"], &config["queue"], &config["maxServices"]), (&json!(8), &json!(9), &json!(6)));
    assert_eq!(config["drainTimeoutMs"], 10_000);
    assert_eq!((&config["defaults"]["retry"]["maxRetries"], &config["defaults"]["retry"]["baseDelayMs"]), (&json!(1), &json!(100)));
    assert_eq!(config["services"]["a"]["retry"]["maxRetries"], 2);

    let by_variable = effective(&run_in(&["config"], &[("WEFT_CONFIG", &file)]));
    assert_eq!(by_variable["workers"], 4);
    let other = folder.write("other.json", r#"{"workers": 5}"#);
    let flag_wins = effective(&run_in(&["config", "--config", &other], &[("WEFT_CONFIG", &file)]));
    assert_eq!((&flag_wins["workers"], &flag_wins["queue"]), (&json!(5), &json!(1024)), "one file, not two");
}

#[test]
fn a_mistake_is_named_with_its_key_and_its_source() {
    let folder = Folder::new();
    let file = folder.write("bad.json", r#"{"defaults": {"retry": {"maxRetires": 1}}}"#);
    let in_file = run(&["config", "--config", &file]);
    assert_eq!(in_file.code, Some(2));
    assert_eq!(
        in_file.err,
        format!("weft: {file}: defaults.retry.maxRetires: \"maxRetires\" is not a setting; did you mean maxRetries?\n")
    );
    for (environment, words) in [
        (("WEFT_WORKRES", "4"), "environment variable WEFT_WORKRES: workres: is not a setting; did you mean WEFT_WORKERS?"),
        (("WEFT_WORKERS", "many"), "environment variable WEFT_WORKERS: workers: "),
        (("WEFT_CONFIG", "/does/not/exist.json"), "/does/not/exist.json: file: cannot be read"),
    ] {
        let ended = run_in(&["serve"], &[environment]);
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{environment:?}");
        assert!(ended.err.contains(words), "{}", ended.err);
    }
}

#[test]
fn a_password_in_an_address_is_refused_and_not_repeated() {
    let folder = Folder::new();
    for address in ["http://weft:hunter2@collector:4318", "https://weft:hunter2@collector:4318", "weft:hunter2@collector:4318"] {
        let otlp = json!({"telemetry": {"otlp": {"endpoint": address}}}).to_string();
        let (file, endpoints) = (folder.write("weft.json", otlp), format!("http://other:2379,{address}"));
        for arguments in
            [&["check", &file][..], &["config", "--etcd", &endpoints], &["services", "--url", &address.replace("http", "gopher")]]
        {
            let ended = run(arguments);
            assert_eq!(ended.code, Some(2), "{arguments:?}");
            assert!(ended.err.contains("…@collector:4318") && !ended.err.contains("hunter2"), "{}", ended.err);
        }
    }
}

#[test]
fn a_file_is_checked_without_being_used() {
    let folder = Folder::new();
    let good = folder.write("good.json", r#"{"workers": 4, "services": {"a": {"timeouts": {"totalMs": 100, "attemptMs": 50}}}}"#);
    let ended = run(&["check", &good]);
    assert_eq!((ended.code, ended.out, ended.err.as_str()), (Some(0), format!("{good}: valid\n"), ""));
    for (text, words) in [
        ("{\n  \"workers\": 4,\n}", "line 3 column 1"),
        ("", "is not valid JSON"),
        ("[]", "is not a JSON object"),
        (r#"{"workres": 4}"#, "did you mean workers?"),
        (r#"{"workers": "4"}"#, "workers: "),
        (r#"{"workers": 1}"#, "workers: 1 is out of range"),
        (r#"{"workers": 4, "reservedWorkers": 9}"#, "reservedWorkers: 9 leaves no worker"),
        (r#"{"services": {"a b": {}}}"#, "services.name: "),
        (r#"{"services": {"a": {"retry": {"jitter": 2}}}}"#, "services.a.retry.jitter: 2 is out of range; use 0 to 1"),
        (r#"{"defaults": {"timeouts": {"attemptMs": 40000}}}"#, "timeouts.attemptMs"),
        (r#"{"upstreams": {"deny": ["10.0.0.0/33"]}}"#, "upstreams.deny"),
        (r#"{"listen": "nowhere"}"#, "listen: "),
    ] {
        let bad = folder.write("bad.json", text);
        let ended = run(&["check", &bad]);
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{text}");
        assert!(ended.err.starts_with(&format!("weft: {bad}: ")) && ended.err.contains(words), "{text}: {}", ended.err);
    }
    let missing = run(&["check", &folder.path("missing.json")]);
    assert_eq!(missing.code, Some(2));
    assert!(missing.err.contains("cannot be read"), "{}", missing.err);
}

#[test]
fn what_does_not_go_together_is_found_whatever_layer_it_comes_from() {
    let folder = Folder::new();
    // Right by itself, wrong on top of the defaults of the same file.
    let file = folder.write(
        "weft.json",
        r#"{"defaults": {"timeouts": {"totalMs": 1000, "attemptMs": 500}}, "services": {"a": {"timeouts": {"attemptMs": 2000}}}}"#,
    );
    for arguments in
        [["check", &*file].as_slice(), &["config", "--config", &file], &["serve", "--listen", "127.0.0.1:0", "--config", &file]]
    {
        let ended = run(arguments);
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(ended.err.contains("services.a.timeouts.attemptMs: 2000 is above timeouts.totalMs 1000"), "{arguments:?}: {}", ended.err);
    }
}

/// What `weft config --annotated` printed when it was last looked at.
const ANNOTATED: &str = include_str!("annotated.json");

#[test]
fn the_annotated_configuration_is_what_was_reviewed() {
    let ended = run(&["config", "--annotated"]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    let first = ended.out.lines().zip(ANNOTATED.lines()).position(|(now, then)| now != then);
    assert!(
        ended.out == ANNOTATED,
        "a setting, its default or its sentence has changed, first in line {}. If that is meant: \
         cargo run -- config --annotated > tests/program/annotated.json",
        first.unwrap_or_else(|| ended.out.lines().count().min(ANNOTATED.lines().count())) + 1
    );
}

#[test]
fn the_annotated_configuration_is_a_valid_file_that_changes_nothing() {
    let folder = Folder::new();
    let file = folder.write("annotated.json", ANNOTATED);
    let checked = run(&["check", &file]);
    assert_eq!(checked.code, Some(0), "{}", checked.err);
    assert_eq!(effective(&run(&["config", "--config", &file])), effective(&run(&["config"])));
}
