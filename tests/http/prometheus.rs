//! Metrics as Prometheus scrapes them: in the form that is asked for, complete, valid, and gone with what they are about.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;
use weft::Mesh;
use weft::server::Config;
use weft::telemetry::counters::{InstanceCounters, MeshCounters, ServiceCounters};
use weft::telemetry::exposition::Format;
use weft::telemetry::onlookers::OnlookersReport;
use weft::telemetry::picture::{InstanceNow, InstancePicture, MeshPicture, Picture, RegistryNow, ServiceNow, ServicePicture, Standing};
use weft::telemetry::table;

use crate::house::House;
use crate::support::upstream::{Upstream, ok, status};

const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[test]
fn each_client_gets_the_form_it_asks_for() {
    let house = House::new();
    for (target, accept, form) in [
        ("/metrics", None, "application/json"),
        ("/metrics", Some("*/*"), "application/json"),
        ("/metrics", Some("application/json, text/plain, */*"), "application/json"),
        ("/metrics", Some("text/plain"), PLAIN),
        ("/metrics", Some("application/openmetrics-text;version=1.0.0,text/plain;q=0.5"), OPEN),
        ("/metrics/prometheus", None, PLAIN),
        ("/metrics/prometheus", Some("application/json"), PLAIN),
        ("/metrics/prometheus", Some("application/openmetrics-text"), OPEN),
    ] {
        let headers: Vec<_> = accept.map(|accept| ("accept", accept)).into_iter().collect();
        let answer = house.ask("GET", target, &headers, b"").with_status(200);
        assert_eq!(answer.header("content-type"), Some(form), "{target} {accept:?}");
        assert_eq!(answer.text().ends_with("\n# EOF\n"), form == OPEN, "{target} {accept:?}");
        let head = house.ask("HEAD", target, &headers, b"").with_status(200);
        assert_eq!((head.header("content-type"), head.body.len()), (Some(form), 0), "{target} {accept:?}");
    }
    house.ask("POST", "/metrics/prometheus", &[], b"").with_status(405);
}

#[test]
fn what_happens_is_counted_under_registered_names_only() {
    let house = House::with(json!({"retry": {"maxRetries": 0}}));
    let upstream = Upstream::start(|request| if request.target == "/bad" { status(500) } else { ok("yes") });
    house.register("users", "a", &upstream);
    for endpoint in ["/", "/", "/bad"] {
        house.call("users", endpoint);
    }
    house.call("nobody", "/").with_status(503);
    house.call("somebody-else", "/").with_status(503);
    let text = metrics(&house);
    for line in [
        "weft_calls_total{service=\"users\",code=\"200\"} 2",
        "weft_calls_total{service=\"users\",code=\"503\"} 1",
        "weft_calls_total{service=\"_unknown\",code=\"503\"} 2",
        "weft_call_failures_total{service=\"users\",reason=\"upstream_status\"} 1",
        "weft_call_failures_total{service=\"_unknown\",reason=\"unknown_service\"} 2",
        "weft_call_duration_seconds_count{service=\"users\"} 3",
        "weft_call_duration_seconds_bucket{service=\"users\",le=\"+Inf\"} 3",
        "weft_attempts_total{service=\"users\",instance=\"a\"} 3",
        "weft_attempt_failures_total{service=\"users\",instance=\"a\"} 1",
        "weft_circuit_breaker_state{service=\"users\",state=\"closed\"} 1",
        "weft_circuit_breaker_state{service=\"users\",state=\"open\"} 0",
        "weft_instances{service=\"users\",state=\"available\"} 1",
        "weft_instance_available{service=\"users\",instance=\"a\"} 1",
        "weft_services 1",
        "weft_calls_not_allowed_total{service=\"users\"} 0",
        "weft_health_checks_total{service=\"users\",result=\"passed\"} 0",
        "weft_registry_stale_seconds 0",
        "weft_traces_kept_total 3",
        "weft_taps_open 0",
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\n{text}");
    }
    for name in [
        "weft_build_info{version=",
        "weft_door_accepted_total ",
        "weft_event_loop_turn_seconds_count{loop=\"0\"} ",
        "weft_connections_open ",
    ] {
        assert!(text.lines().any(|have| have.starts_with(name)), "{name}\n{text}");
    }
    assert!(!text.contains("nobody") && !text.contains("somebody"), "{text}");
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_is_there_too() {
    let text = metrics(&House::new());
    for name in ["process_cpu_seconds_total ", "process_resident_memory_bytes ", "process_open_fds ", "process_start_time_seconds "] {
        assert!(text.lines().any(|have| have.starts_with(name)), "{name}\n{text}");
    }
}

#[test]
fn series_vanish_with_their_instance_and_their_service() {
    let house = House::new();
    let upstream = Upstream::named("a");
    for id in ["a", "b"] {
        house.register("users", id, &upstream);
        house.call("users", "/").with_status(200);
    }
    assert!(metrics(&house).contains("instance=\"b\""));
    house.ask("DELETE", "/services/users/b", &[], b"").with_status(200);
    let text = metrics(&house);
    assert!(text.contains("instance=\"a\"") && !text.contains("instance=\"b\""), "{text}");
    house.ask("DELETE", "/services/users/a", &[], b"").with_status(200);
    let text = metrics(&house);
    assert!(!text.contains("users") && text.contains("weft_services 0"), "{text}");
}

#[test]
fn strangers_make_no_series() {
    let house = House::new();
    house.call("nobody", "/");
    let before = metrics(&house);
    for n in 0..50 {
        house.call(&format!("stranger-{n}"), &format!("/{n}"));
        house.ask("GET", &format!("/proxy/stranger-{n}/x"), &[("x-stranger", &n.to_string())], b"");
    }
    let after = metrics(&house);
    assert_eq!(series(&after), series(&before));
}

#[test]
fn every_row_has_a_name_of_its_own_in_both_formats_and_promtool_finds_no_fault() {
    let names: BTreeSet<&str> = table::all().map(|row| row.name).collect();
    assert_eq!(names.len(), table::all().count());
    let families: BTreeSet<&str> = names.iter().map(|name| name.trim_end_matches("_total").trim_end_matches("_info")).collect();
    assert_eq!(families.len(), names.len());

    let house = House::with(json!({"retry": {"baseDelayMs": 1}}));
    let upstream = Upstream::start(|_| status(503));
    house.register("users", "a", &upstream);
    house.call("users", "/").with_status(503);
    house.call("nobody", "/").with_status(503);
    check(&metrics(&house));
}

#[test]
fn names_that_could_never_be_registered_would_do_no_harm() {
    let names = ["a\"} 1\nweft_evil 1", "back\\slash\\", "\u{1b}[31mred", "\u{e4}\u{f6} \u{202e}", "<img src=x onerror=alert(1)>", ""];
    let (mesh, service, instance) = (MeshCounters::default(), ServiceCounters::default(), InstanceCounters::default());
    service.delivered(200, std::time::Duration::from_millis(7));
    instance.latency.record(std::time::Duration::from_millis(7));
    let long = "x".repeat(64 * 1024);
    let now = ServiceNow {
        breaker: weft::policy::breaker::Status::HalfOpen,
        control: weft::policy::breaker::Control::Auto,
        in_flight: 1,
        max_in_flight: 2,
        queued: 3,
        max_queue: 4,
        retry_budget: 5.5,
        panic: true,
    };
    let seen = InstanceNow { standing: Standing::Ejected, healthy: false, ejected: true, in_flight: 0, weight: 1, last_check_ms: 1 };
    let services = names.iter().copied().chain([long.as_str()]).map(|name| {
        let instances = names.iter().map(|id| InstancePicture { id, counters: &instance, now: seen }).collect();
        ServicePicture { name, counters: &service, now, instances }
    });
    let services = services.collect();
    let picture = Picture {
        mesh: MeshPicture {
            counters: &mesh,
            events: 0,
            onlookers: OnlookersReport::default(),
            registry: RegistryNow::default(),
            max_services: 1,
            services,
        },
        doors: None,
        process: None,
    };
    let text = table::render(&picture, Format::Prometheus);
    assert!(text.lines().all(|line| !line.starts_with("weft_evil")), "a label ended early");
    check(&text);
    assert!(table::render(&picture, Format::OpenMetrics).ends_with("# EOF\n"));
}

#[test]
fn thousands_of_instances_are_all_there() {
    let mesh = Mesh::builder().background(false);
    let house = House::of(mesh, Config::default());
    for n in 0..1_500 {
        let registration = weft::Registration::new(&format!("service-{}", n / 500), &format!("i-{n}"), "127.0.0.1", 9).expect("valid");
        house.mesh.register(registration).expect("registered");
    }
    let text = metrics(&house);
    assert_eq!(text.lines().filter(|line| line.starts_with("weft_instance_weight{")).count(), 1_500);
}

fn metrics(house: &House) -> String {
    house.ask("GET", "/metrics/prometheus", &[], b"").with_status(200).text()
}

/// The samples without their numbers, but for those of event loops: which loop serves whom is chance.
fn series(text: &str) -> BTreeSet<&str> {
    let samples = text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("weft_event_loop"));
    samples.filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series).collect()
}

/// Has `promtool` look for faults.
#[track_caller]
fn check(text: &str) {
    let mut promtool = Command::new("promtool");
    let mut child = promtool
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of the Debian package prometheus");
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("written");
    let ended = child.wait_with_output().expect("ended");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned() + &String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && said.trim().is_empty(), "{said}");
}
