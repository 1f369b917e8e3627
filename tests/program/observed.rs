//! The dashboard for Grafana and the alert rules for Prometheus: they are valid, they do what they say, and they name nothing that is not there.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use weft::telemetry::exposition::Kind;
use weft::telemetry::table;

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/observe").join(name);
    std::fs::read_to_string(path).expect(name)
}

#[track_caller]
fn promtool(arguments: &[&str]) {
    let ended = Command::new("promtool").args(arguments).output().expect("promtool, of the Debian package prometheus");
    let said = String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}");
}

#[test]
fn the_alert_rules_are_valid_and_fire_when_they_should() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/observe");
    let path = |name: &str| folder.join(name).to_str().expect("UTF-8").to_owned();
    promtool(&["check", "rules", "--lint-fatal", &path("alerts.yml")]);
    promtool(&["test", "rules", &path("alerts-test.yml")]);
}

#[test]
fn every_metric_they_name_exists() {
    let known: BTreeSet<String> = table::all().flat_map(samples).collect();
    let mut named = BTreeSet::new();
    for name in ["alerts.yml", "grafana.json"] {
        let found: Vec<String> = metrics_in(&file(name));
        assert!(found.len() > 10, "{name}: {found:?}");
        named.extend(found);
    }
    let strange: Vec<_> = named.difference(&known).collect();
    assert!(strange.is_empty(), "not in the table of metrics: {strange:?}");
}

#[test]
fn every_query_of_the_dashboard_can_be_read() {
    let dashboard: Value = serde_json::from_str(&file("grafana.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries: Vec<&str> = targets.map(|target| target["expr"].as_str().expect("a query")).collect();
    assert!(queries.len() > 30);
    // As rules they are read by Prometheus itself.
    let rules: Vec<Value> = queries
        .iter()
        .enumerate()
        .map(|(n, query)| serde_json::json!({"record": format!("weft:query{n}"), "expr": query.replace("$__rate_interval", "1m")}))
        .collect();
    let folder = crate::weft::Folder::new();
    let rules = serde_json::json!({"groups": [{"name": "queries", "rules": rules}]});
    promtool(&["check", "rules", &folder.write("queries.yml", rules.to_string())]);
    let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "every panel has an id of its own");
}

/// The names under which a metric has samples.
fn samples(row: &table::Row) -> Vec<String> {
    let ends: &[&str] = if row.kind == Kind::Histogram { &["_bucket", "_sum", "_count"] } else { &[""] };
    ends.iter().map(|end| format!("{}{end}", row.name)).collect()
}

/// Words that look like metrics of this program; recorded rules, with their colons, do not.
fn metrics_in(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let is_metric = |word: &&str| word.starts_with("weft_") || word.starts_with("process_");
    words.filter(is_metric).map(str::to_owned).collect()
}
