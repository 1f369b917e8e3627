//! The documented endpoints, with the documented bodies, byte for byte where the documentation has bytes.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::house::{House, keys};
use crate::support::client::Answer;
use crate::support::upstream::{Act, Asked};
use crate::support::upstream::{Upstream, answer, ok, status};

/// The registration of the documentation, as it stands there.
const REGISTRATION: &str = r#"{"id":"user-service-1","name":"user-service","host":"localhost","port":4001,
 "healthCheckUrl":"http://localhost:4001/health","metadata":{"version":"1.0.0","region":"us-east-1"},
 "healthy":true,"failureCount":0,"requestCount":0,"avgResponseTime":0,"lastHealthCheck":0}"#;

/// The call of the documentation, as it stands there.
const CALL: &str = r#"{"serviceName":"user-service","endpoint":"/api/users/123","method":"GET"}"#;

fn post(house: &House, target: &str, body: &str) -> Answer {
    house.ask("POST", target, &[("content-type", "application/json")], body.as_bytes())
}

fn user_123(_: &Asked) -> Act {
    Act::Say(answer(200, &[("content-type", "application/json; charset=utf-8")], r#"{"id": 123,  "name":"Ada"}"#))
}

/// The documented registration, with the port of an upstream.
fn registered(house: &House, upstream: &Upstream) {
    let body = REGISTRATION.replace("4001", &upstream.port().to_string());
    post(house, "/register", &body).with_status(200);
}

#[test]
fn the_documented_registration_is_answered_as_documented() {
    let house = House::new();
    for time in ["once", "again, which is idempotent"] {
        let answer = post(&house, "/register", REGISTRATION).with_status(200);
        assert_eq!(answer.text(), r#"{"success":true,"serviceId":"user-service-1"}"#, "{time}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    assert_eq!(house.get("/services").json().as_array().map(Vec::len), Some(1));
}

#[test]
fn the_documented_call_is_passed_through_as_it_is() {
    let house = House::new();
    let upstream = Upstream::start(user_123);
    registered(&house, &upstream);
    let answer = post(&house, "/invoke", CALL).with_status(200);
    assert_eq!(answer.text(), r#"{"id": 123,  "name":"Ada"}"#);
    assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(answer.header("x-mesh-instance"), Some("user-service-1"));
    assert_eq!(answer.header("x-mesh-attempts"), Some("1"));
    assert!(answer.header("x-mesh-upstream-ms").is_some_and(|ms| ms.parse::<u64>().is_ok()), "{:?}", answer.headers);
    let asked = upstream.asked_once();
    assert_eq!((&*asked.method, &*asked.target), ("GET", "/api/users/123"));
}

#[test]
fn a_failed_call_says_what_is_documented() {
    let house = House::with(json!({"retry": {"baseDelayMs": 1}}));
    let upstream = Upstream::start(|_| status(500));
    registered(&house, &upstream);
    let answer = post(&house, "/invoke", CALL).with_status(503);
    let body = answer.json();
    assert_eq!(body["error"], "Failed to call user-service after 4 attempts: service returned status 500");
    assert_eq!(body["reason"], "upstream_status");
    assert_eq!(answer.header("x-mesh-reason"), Some("upstream_status"));
    assert_eq!((&body["service"], &body["attempts"], &body["upstreamStatus"]), (&json!("user-service"), &json!(4), &json!(500)));
    assert_eq!(body["requestId"].as_str(), answer.header("x-request-id"));
    assert_eq!(answer.header("x-mesh-not-sent"), None, "four attempts have been processed");
    assert_eq!(upstream.requests(), 4);
    assert!(answer.text().starts_with(r#"{"error":"Failed to call"#), "the sentence comes first: {}", answer.text());
}

#[test]
fn five_failed_calls_open_the_circuit_and_the_sixth_is_refused_in_the_documented_words() {
    let house = House::with(json!({"retry": {"maxRetries": 0}}));
    let upstream = Upstream::start(|_| status(500));
    registered(&house, &upstream);
    for _ in 0..5 {
        assert_eq!(post(&house, "/invoke", CALL).with_status(503).reason(), "upstream_status");
    }
    let refused = post(&house, "/invoke", CALL).with_status(503);
    assert_eq!(refused.reason(), "circuit_open");
    assert_eq!(refused.json()["error"], "circuit breaker is OPEN for user-service");
    assert!(matches!(refused.header("retry-after"), Some("60" | "59")), "{:?}", refused.headers);
    assert_eq!(refused.header("x-mesh-not-sent"), Some("true"));
    assert_eq!(upstream.requests(), 5);
    let breaker = &house.metrics()["circuitBreakers"]["user-service"];
    assert_eq!(*breaker, json!({"status": "OPEN", "failureCount": 5, "successCount": 0}), "exactly the documented keys");
}

#[test]
fn an_unknown_service_and_one_without_a_healthy_instance_are_told_apart() {
    let house = House::new();
    let unknown = post(&house, "/invoke", CALL).with_status(503);
    assert_eq!(unknown.reason(), "unknown_service");
    assert_eq!(unknown.header("x-mesh-not-sent"), Some("true"));
    post(&house, "/register", &REGISTRATION.replace(r#""healthy":true"#, r#""healthy":false"#)).with_status(200);
    let nobody = post(&house, "/invoke", CALL).with_status(503);
    assert_eq!(nobody.reason(), "no_healthy_instance");
    assert_eq!(nobody.json()["error"], "no healthy instance available for service: user-service");
    assert_eq!(nobody.header("x-mesh-not-sent"), Some("true"));
    let metrics = house.metrics();
    assert_eq!((&metrics["totalRequests"], &metrics["failedRequests"]), (&json!(1), &json!(1)), "the unknown one is in neither total");
}

#[test]
fn metrics_have_the_documented_keys_and_formats() {
    let house = House::with(json!({"retry": {"maxRetries": 0}}));
    let fresh = house.metrics();
    assert_eq!((&fresh["totalRequests"], &fresh["successRate"], &fresh["averageLatency"]), (&json!(0), &json!("0%"), &json!("0ms")));
    assert_eq!((&fresh["circuitBreakers"], &fresh["serviceHealth"]), (&json!({}), &json!({})));

    let upstream = Upstream::start(|asked| if asked.target == "/bad" { status(500) } else { ok("fine") });
    registered(&house, &upstream);
    let before = house.metrics();
    assert_eq!(before["circuitBreakers"]["user-service"], json!({"status": "CLOSED", "failureCount": 0, "successCount": 0}));
    assert_eq!(before["serviceHealth"], json!({"user-service:user-service-1": true}), "from registration on");

    house.call("user-service", "/a").with_status(200);
    house.call("user-service", "/b").with_status(200);
    house.call("user-service", "/bad").with_status(503);
    house.invoke(&json!({"serviceName": "user-service"})).with_status(400);
    house.call("nobody", "/").with_status(503);

    let answer = house.get("/metrics").with_status(200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let text = answer.text();
    assert!(text.starts_with("{\n  \"totalRequests\": 3,\n  \"successfulRequests\": 2,\n  \"failedRequests\": 1,\n"), "pretty: {text}");
    let metrics = answer.json();
    assert_eq!(metrics["successRate"], "66.67%");
    let latency = metrics["averageLatency"].as_str().expect("text");
    assert!(latency.strip_suffix("ms").is_some_and(|ms| ms.parse::<u32>().is_ok()), "{latency}");
    assert_eq!(metrics["circuitBreakers"]["user-service"], json!({"status": "CLOSED", "failureCount": 1, "successCount": 0}));
    assert!(metrics["uptimeSeconds"].is_u64());
    assert!(metrics["version"].as_str().is_some_and(|version| version.split('.').count() == 3));

    let service = &metrics["services"]["user-service"];
    for (key, value) in [("requests", 3), ("successes", 2), ("failures", 1), ("retries", 0), ("inFlight", 0), ("queued", 0)] {
        assert_eq!(service[key], value, "{key}");
    }
    let instance = &service["instances"]["user-service-1"];
    for (key, value) in [("requests", json!(3)), ("failures", json!(1)), ("inFlight", json!(0)), ("sharePercent", json!(100.0))] {
        assert_eq!(instance[key], value, "{key}");
    }
    assert_eq!((&instance["state"], &instance["ejected"]), (&json!("ready"), &json!(false)));
    for latency in [&service["latencyMs"], &instance["latencyMs"]] {
        for quantile in ["p50", "p95", "p99", "max"] {
            assert!(latency[quantile].as_f64().is_some_and(|ms| ms >= 0.0), "{quantile}: {latency}");
        }
    }
}

#[test]
fn a_plain_curl_a_browser_and_a_json_client_get_the_metrics_as_json() {
    let house = House::new();
    for accept in ["*/*", "text/html,application/xhtml+xml,*/*;q=0.8", "application/json", "application/json, text/plain, */*"] {
        let answer = house.ask("GET", "/metrics", &[("accept", accept)], b"").with_status(200);
        assert_eq!(answer.header("content-type"), Some("application/json"), "{accept}");
    }
}

#[test]
fn services_are_listed_as_documented() {
    let house = House::new();
    let upstream = Upstream::start(user_123);
    post(&house, "/register", &REGISTRATION.replace("user-service", "b-service")).with_status(200);
    registered(&house, &upstream);
    post(&house, "/invoke", CALL).with_status(200);
    let answer = house.get("/services").with_status(200);
    assert!(answer.text().starts_with("[\n  {\n    \"name\": \"b-service\",\n    \"instances\": [\n      {\n"), "{}", answer.text());
    let all = answer.json();
    assert_eq!(keys(&all[1]), ["instances", "name"]);
    let instance = &all[1]["instances"][0];
    for (key, value) in [
        ("id", json!("user-service-1")),
        ("host", json!("localhost")),
        ("port", json!(upstream.port())),
        ("healthy", json!(true)),
        ("requestCount", json!(1)),
        ("metadata", json!({"version": "1.0.0", "region": "us-east-1"})),
        ("weight", json!(1)),
        ("state", json!("ready")),
        ("inFlight", json!(0)),
        ("failureCount", json!(0)),
        ("lastHealthCheck", json!(0)),
        ("healthCheckUrl", json!(format!("http://localhost:{}/health", upstream.port()))),
        ("ejected", json!(false)),
    ] {
        assert_eq!(instance[key], value, "{key}");
    }
    let time = instance["avgResponseTime"].as_str().expect("text");
    assert!(time.strip_suffix("ms").is_some_and(|ms| ms.parse::<u32>().is_ok()), "{time}");
}

#[test]
fn services_can_be_filtered_and_paged() {
    let house = House::new();
    for (name, id, healthy, region) in
        [("a", "1", true, "eu"), ("a", "2", false, "us"), ("b", "1", true, "us"), ("c", "2", true, "us"), ("c", "1", true, "eu")]
    {
        let registration = json!({"name": name, "id": id, "host": "127.0.0.1", "port": 9, "healthy": healthy, "metadata": {"region": region, "tier": "x y"}});
        house.post("/register", &registration).with_status(200);
    }
    let list = |query: &str| -> Vec<String> {
        let all = house.get(&format!("/services{query}")).with_status(200).json();
        let names = |service: &Value| {
            let instances = service["instances"].as_array().expect("instances").iter();
            let ids: Vec<&str> = instances.map(|instance| instance["id"].as_str().expect("id")).collect();
            format!("{}:{}", service["name"].as_str().expect("name"), ids.join(","))
        };
        all.as_array().expect("a list").iter().map(names).collect()
    };
    assert_eq!(list(""), ["a:1,2", "b:1", "c:1,2"], "sorted by name and id");
    assert_eq!(list("?name=b"), ["b:1"]);
    assert_eq!(list("?name=nobody"), [""; 0]);
    assert_eq!(list("?healthy=true"), ["a:1", "b:1", "c:1,2"]);
    assert_eq!(list("?healthy=false"), ["a:2"]);
    assert_eq!(list("?metadata.region=us"), ["a:2", "b:1", "c:2"]);
    assert_eq!(list("?metadata.region=us&metadata.tier=x%20y&healthy=true"), ["b:1", "c:2"], "several are ANDed");
    assert_eq!(list("?metadata.region=us&metadata.tier=z"), [""; 0]);
    assert_eq!(list("?limit=2"), ["a:1,2", "b:1"]);
    assert_eq!(list("?limit=2&after=b"), ["c:1,2"]);
    for (query, field) in [("?limit=0", "limit"), ("?limit=x", "limit"), ("?limit=-1", "limit"), ("?healthy=maybe", "healthy")] {
        let refused = house.get(&format!("/services{query}")).with_status(400);
        assert_eq!((refused.reason().as_str(), refused.json()["field"].as_str()), ("bad_request", Some(field)), "{query}");
    }
}

#[test]
fn health_has_exactly_two_keys() {
    let house = House::new();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    let before = now();
    let answer = house.get("/health").with_status(200);
    let body = answer.json();
    assert_eq!(keys(&body), ["status", "timestamp"]);
    assert_eq!(body["status"], "healthy");
    let timestamp = u128::from(body["timestamp"].as_u64().expect("a number"));
    assert!((before..=now()).contains(&timestamp), "{timestamp}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

#[test]
fn an_unknown_path_gets_the_documented_words() {
    let house = House::new();
    for (method, target) in [
        ("GET", "/"),
        ("GET", "/nowhere"),
        ("POST", "/nowhere"),
        ("GET", "/health/"),
        ("GET", "//health"),
        ("GET", "/Health"),
        ("GET", "/services/"),
        ("GET", "/services/../../health/x/y"),
        ("GET", "/%68ealth"),
    ] {
        let answer = house.ask(method, target, &[], b"").with_status(404);
        assert_eq!(answer.text(), "Service Mesh - Not Found", "{method} {target}");
        assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")), "{:?}", answer.headers);
        assert_eq!(answer.header("x-mesh-reason"), Some("not_found"));
    }
    let json = house.ask("GET", "/nowhere", &[("accept", "application/json")], b"").with_status(404);
    assert_eq!(json.reason(), "not_found");
}

#[test]
fn a_wrong_method_names_the_right_ones_and_nothing_is_changed_by_get() {
    let house = House::new();
    for (method, target, allowed) in [
        ("GET", "/register", "POST"),
        ("GET", "/register?id=a&name=b&host=c&port=1", "POST"),
        ("HEAD", "/register", "POST"),
        ("PUT", "/register", "POST"),
        ("GET", "/invoke", "POST"),
        ("DELETE", "/invoke", "POST"),
        ("GET", "/deregister", "POST"),
        ("POST", "/metrics", "GET, HEAD"),
        ("DELETE", "/services", "GET, HEAD"),
        ("PUT", "/health", "GET, HEAD"),
        ("OPTIONS", "/health", "GET, HEAD"),
        ("TRACE", "/health", "GET, HEAD"),
        ("POST", "/services/a/policy", "GET, PUT, DELETE, HEAD"),
        ("GET", "/services/a/b", "DELETE"),
        ("GET", "/services/a/b/heartbeat", "PUT"),
        ("POST", "/services/a/b/state", "PUT"),
        ("GET", "/services/a/b/weight", "PUT"),
    ] {
        let answer = house.ask(method, target, &[], b"").with_status(405);
        assert_eq!(answer.header("allow"), Some(allowed), "{method} {target}");
        if method != "HEAD" {
            assert_eq!(answer.reason(), "method_not_allowed");
        }
    }
    assert_eq!(house.get("/services").json(), json!([]));
}

#[test]
fn head_works_wherever_get_does_and_sends_no_body() {
    let house = House::new();
    house.register_at("s", "i", 9);
    let mut client = house.client();
    for (target, status) in [
        ("/health", 200),
        ("/metrics", 200),
        ("/services", 200),
        ("/services/s", 200),
        ("/services/nobody", 404),
        ("/services/s/explain", 200),
        ("/services/s/policy", 200),
        ("/events", 200),
        ("/config", 200),
        ("/ready", 200),
        ("/v1.0/healthz", 204),
        ("/v1.0/healthz/outbound", 204),
        ("/nowhere", 404),
    ] {
        // Both on one connection: a body after HEAD would be taken for the next answer.
        let head = client.ask("HEAD", target, &[], b"").expect(target).with_status(status);
        let get = client.ask("GET", target, &[], b"").expect(target).with_status(status);
        assert_eq!(head.header("content-type"), get.header("content-type"), "{target}");
        assert_eq!(head.header("content-length").is_some(), status != 204, "{target}");
        assert_eq!(get.body.is_empty(), status == 204, "{target}");
    }
}

#[test]
fn a_request_id_is_echoed_when_it_is_valid_and_made_when_it_is_not() {
    let house = House::new();
    for valid in ["abc-123", "A.b_c:d/e+f=g", &"x".repeat(128)] {
        for target in ["/health", "/nowhere", "/register"] {
            let answer = house.ask("GET", target, &[("X-Request-ID", valid)], b"");
            assert_eq!(answer.all("x-request-id"), [valid], "{target}");
        }
    }
    let mut seen = Vec::new();
    for invalid in
        [&[][..], &[("x-request-id", "")], &[("x-request-id", "a b")], &[("x-request-id", "a\"b")], &[("x-request-id", &"x".repeat(129))]]
    {
        let answer = house.ask("GET", "/health", invalid, b"");
        let id = answer.header("x-request-id").expect("an id").to_owned();
        let parts: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12], "a UUID: {id}");
        assert_eq!(id.as_bytes()[14], b'4', "of version 4: {id}");
        assert!(!seen.contains(&id));
        seen.push(id);
    }
}
