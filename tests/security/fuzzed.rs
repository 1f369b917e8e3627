//! Random calls of the API, good and bad, against a server, with a model of what must be there beside it: no fault of the mesh from bad
//! input, no panic, counters that add up, and nothing taken that is not given back. `scripts/soak api` does the same for longer.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use serde_json::{Value, json};
use weft::Mesh;
use weft::server::Config;

use crate::callers::{Guarded, line};
use crate::mutate::{Dice, mutate};
use crate::support::client::{self, Answer, request};
use crate::support::eventually;
use crate::support::upstream::{Act, End, Upstream, answer};

const SERVICES: [&str; 4] = ["a-1", "a-2", "b-1", "nobody"];
const IDS: [&str; 3] = ["i", "j", "k"];
/// Callers: one may do everything, one only with services that begin with `a-`, one only look, and one is nobody.
const CALLERS: [&str; 4] = ["root", "a", "reader", ""];
/// So many instances the second may register.
const QUOTA: usize = 4;

/// A number that whoever runs this has chosen, or the usual one.
pub(crate) fn asked_for(name: &str, usual: u64) -> u64 {
    env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

struct Run {
    mesh: Guarded,
    upstream: Upstream,
    dice: Dice,
    /// Which instances must be there, and who has registered them.
    there: BTreeMap<&'static str, BTreeMap<&'static str, &'static str>>,
    /// So many calls have been made of services that are there.
    calls: u64,
    /// As many as that, and those of each service, when the metrics were last looked at.
    counted: (u64, BTreeMap<String, u64>),
    /// Of which services the circuit was half open, with nothing under way, when the metrics were last looked at.
    half_open: BTreeSet<String>,
}

/// What is asked for, by whom.
#[derive(Clone, Debug)]
struct Asked {
    caller: &'static str,
    method: &'static str,
    target: String,
    body: Vec<u8>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let all = "read,register,invoke,admin";
        let lines = [
            line("root", all, json!({})),
            line("a", all, json!({"servicePrefix": "a-", "maxInstances": QUOTA})),
            line("reader", "read", json!({})),
        ];
        let upstream = Upstream::start(|asked| match asked.target.as_str() {
            "/500" => Act::Say(answer(500, &[], "broken")),
            "/404" => Act::Say(answer(404, &[], "no such thing")),
            "/429" => Act::Say(answer(429, &[], "not now")),
            "/slow" => Act::Trickle(Vec::new(), answer(200, &[("x", &"x".repeat(10_000))], ""), Duration::from_millis(20)),
            "/reset" => Act::SayAnd(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec(), End::Reset),
            "/cut" => Act::SayAnd(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort".to_vec(), End::Close),
            "/garbage" => Act::SayAnd(b"SSH-2.0-OpenSSH\r\n".to_vec(), End::Close),
            _ => Act::Say(answer(200, &[], "fine")),
        });
        // Without long waits between attempts.
        let builder = Mesh::builder().defaults(json!({"retry": {"baseDelayMs": 1}}));
        let mesh = Guarded::of(&lines, builder, Config::default());
        Self {
            mesh,
            upstream,
            dice: Dice::seeded(seed),
            there: BTreeMap::new(),
            calls: 0,
            counted: <_>::default(),
            half_open: BTreeSet::new(),
        }
    }

    /// Something to ask for, mostly sensible.
    fn roll(&mut self) -> (Asked, Option<(&'static str, &'static str, bool)>) {
        let all = usize::from(self.dice.below(8) == 0);
        let service = SERVICES[self.dice.below(3 + all)];
        // Trials are few, and most interesting where nothing comes of them.
        let on_trial = SERVICES.into_iter().find(|service| self.half_open.contains(*service)).filter(|_| self.dice.below(2) == 0);
        let service = on_trial.unwrap_or(service);
        let id = IDS[self.dice.below(IDS.len())];
        let caller = CALLERS[[0, 0, 0, 1, 1, 2, 3][self.dice.below(7)]];
        let path = ["/", "/404", "/429", "/500", "/reset", "/cut", "/garbage", "/x?y=z"][self.dice.below(8)];
        let path = on_trial.filter(|_| self.dice.below(2) == 0).map_or(path, |_| "/429");
        let quick = json!({"retry": {"baseDelayMs": 1, "maxRetries": 1}, "circuitBreaker": {"timeoutMs": 1}});
        let policies = [
            quick,
            json!({"limits": {"maxInFlightPerCaller": 1}}),
            json!({"allow": [{"callers": ["root"]}, {"action": "audit"}]}),
            json!({"allow": null}),
            json!({"rateLimit": {"ratePerSecond": 1000}}),
            json!({"retry": {"maxRetries": -1}}),
            json!({"retires": 1}),
            json!([]),
            json!({"timeouts": {"totalMs": "x"}}),
        ];
        let instance = format!("/services/{service}/{id}");
        let mut change = None;
        let (method, target, body) = match self.dice.below(16) {
            0 | 1 => {
                change = Some((service, id, true));
                ("POST", "/register".to_owned(), json!({"name": service, "id": id, "host": "127.0.0.1", "port": self.upstream.port()}))
            }
            2 => {
                change = Some((service, id, false));
                ("DELETE", instance, Value::Null)
            }
            3 => ("PUT", format!("{instance}/heartbeat"), Value::Null),
            4 => ("PUT", format!("{instance}/state"), json!({"state": (["ready", "drain", "maint", "gone"][self.dice.below(4)])})),
            5 => (
                "PUT",
                format!("{instance}/weight"),
                json!({"weight": ([json!(0), json!(1), json!(1001), json!("x")][self.dice.below(4)])}),
            ),
            6 => ("PUT", format!("/services/{service}/policy"), policies[self.dice.below(policies.len())].clone()),
            7 => (
                "PUT",
                format!("/services/{service}/breaker"),
                json!({"state": (["auto", "reset", "forced_open", "x"][self.dice.below(4)])}),
            ),
            8 => {
                let targets = [
                    "/services",
                    "/metrics",
                    "/events",
                    "/config",
                    "/health",
                    "/ready",
                    "/nowhere",
                    "/register",
                    "/services?limit=0",
                    "/events?since=x",
                ];
                (["GET", "HEAD", "PUT"][self.dice.below(3)], targets[self.dice.below(targets.len())].to_owned(), Value::Null)
            }
            9 => ("GET", format!("/services/{service}/{}", ["explain", "policy"][self.dice.below(2)]), Value::Null),
            10..=12 => (["GET", "POST"][self.dice.below(2)], format!("/proxy/{service}{path}"), Value::Null),
            _ => ("POST", "/invoke".to_owned(), json!({"serviceName": service, "endpoint": path, "method": "GET", "timeoutMs": 2000})),
        };
        let mut body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        // Not every time: a registration that is changed may still be one, of something else.
        if !body.is_empty() && change.is_none() && self.dice.below(4) == 0 {
            mutate(&mut body, &mut self.dice, 3);
        }
        (Asked { caller, method, target, body }, change)
    }

    /// Nothing when the answer broke off, as one does that was cut off on its way through.
    fn try_to_ask(&self, asked: &Asked) -> Option<Answer> {
        let bearer = format!("Bearer {}-token", asked.caller);
        let headers: &[(&str, &str)] = if asked.caller.is_empty() { &[] } else { &[("authorization", &bearer)] };
        let answer = client::ask(self.mesh.house.at, asked.method, &asked.target, headers, &asked.body);
        assert!(answer.is_ok() || asked.target.starts_with("/proxy/") && asked.target.ends_with("/cut"), "{asked:?}: {answer:?}");
        answer.ok()
    }

    fn ask(&self, asked: &Asked) -> Answer {
        self.try_to_ask(asked).expect("a whole answer")
    }

    fn step(&mut self) {
        if self.dice.below(24) == 0 {
            return self.leave();
        }
        let (asked, change) = self.roll();
        let Some(answer) = self.try_to_ask(&asked) else {
            self.calls += 1;
            return self.holds(&asked);
        };
        let said = || format!("{asked:?} {} {}", answer.status, answer.text());
        if answer.status >= 400 && asked.method != "HEAD" && answer.header("x-mesh-instance").is_none() {
            let reason = answer.header("x-mesh-reason").unwrap_or_else(|| panic!("no reason: {}", said()));
            assert_ne!(reason, "internal", "{}", said());
            assert!(answer.status < 500 || matches!(answer.status, 502..=504), "{}", said());
            // With nothing under way, a place that is not to be had has been lost.
            let is_half_open = |body: &Value| body["service"].as_str().is_some_and(|service| self.half_open.contains(service));
            assert!(reason != "circuit_open" || !is_half_open(&answer.json()), "a trial is lost: {}", said());
            let is_lost = reason == "overloaded" && answer.json()["limit"] != "maxInstances of the token";
            assert!(!is_lost, "a place is lost: {}", said());
        }
        let open = matches!(asked.target.as_str(), "/health" | "/ready") && asked.method != "PUT";
        if asked.caller.is_empty() && !open {
            assert_eq!(answer.status, 401, "{}", said());
        }
        if let Some((service, id, true)) = change.filter(|_| asked.caller == "a" && matches!(answer.status, 200 | 503)) {
            let others = self.there.iter().flat_map(|(name, ids)| ids.iter().map(move |(of, owner)| (*name, *of, *owner)));
            let others = others.filter(|(name, of, owner)| *owner == "a" && (*name, *of) != (service, id)).count();
            assert_eq!(answer.status == 503, others >= QUOTA, "with {others} others: {}", said());
        }
        if let Some((service, id, comes)) = change.filter(|_| answer.status == 200) {
            assert!(asked.caller == "root" || asked.caller == "a" && service.starts_with("a-"), "{}", said());
            let ids = self.there.entry(service).or_default();
            if comes {
                ids.insert(id, asked.caller)
            } else {
                ids.remove(id)
            };
            if ids.is_empty() {
                self.there.remove(service);
            }
        }
        if asked.target == "/invoke" || asked.target.starts_with("/proxy/") {
            let is_refused = match answer.header("x-mesh-reason") {
                Some("forbidden") => answer.header("www-authenticate").is_some(),
                Some(reason) => matches!(reason, "bad_request" | "unauthorized" | "unknown_service"),
                None => false,
            };
            self.calls += u64::from(!is_refused);
        }
        self.holds(&asked);
    }

    /// Asks for what takes long, and leaves as soon as it is under way.
    fn leave(&mut self) {
        let service = SERVICES[self.dice.below(SERVICES.len())];
        let bearer = [("authorization", "Bearer root-token")];
        let call = json!({"serviceName": service, "endpoint": "/slow"}).to_string();
        let asked = match self.dice.below(2) {
            0 => request("GET", &format!("/proxy/{service}/slow"), &bearer, b""),
            _ => request("POST", "/invoke", &bearer, call.as_bytes()),
        };
        let before = self.upstream.requests();
        let mut stream = TcpStream::connect(self.mesh.house.at).expect("a connection");
        stream.write_all(&asked).expect("sent");
        stream.set_nonblocking(true).expect("a setting");
        eventually("it is refused or under way", || (self.upstream.requests() > before || stream.peek(&mut [0]).is_ok()).then_some(()));
        // By a reset: who only says that it has no more to say may still listen.
        set_socket_linger(&stream, Some(Duration::ZERO)).expect("linger");
        drop(stream);
        let metrics = eventually("everything is given back", || {
            let metrics = self.look("/metrics");
            let services = metrics["services"].as_object().expect("services").values().all(|service| service["inFlight"] == 0);
            services.then_some(metrics)
        });
        // Whether it was one is a matter of who was quicker.
        let calls = metrics["totalRequests"].as_u64().expect("a number");
        assert!((self.calls..=self.calls + 1).contains(&calls), "{calls}, not {}: {metrics}", self.calls);
        self.calls = calls;
        self.holds(&Asked { caller: "root", method: "GET", target: format!("/{service}/slow, left"), body: Vec::new() });
    }

    fn look(&self, target: &str) -> Value {
        let asked = Asked { caller: "root", method: "GET", target: target.to_owned(), body: Vec::new() };
        self.ask(&asked).with_status(200).json()
    }

    /// What must be true after each step.
    fn holds(&mut self, after: &Asked) {
        let services = self.look("/services");
        let there: BTreeMap<&str, BTreeSet<&str>> = services
            .as_array()
            .expect("a list")
            .iter()
            .map(|service| {
                let ids = service["instances"].as_array().expect("a list").iter().map(|instance| instance["id"].as_str().expect("an id"));
                (service["name"].as_str().expect("a name"), ids.collect())
            })
            .collect();
        let expected = self.there.iter().map(|(name, ids)| (*name, ids.keys().copied().collect())).collect();
        assert_eq!(there, expected, "after {after:?}");
        let metrics = self.look("/metrics");
        let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value}"));
        assert_eq!(number(&metrics["totalRequests"]), number(&metrics["successfulRequests"]) + number(&metrics["failedRequests"]));
        for (name, service) in metrics["services"].as_object().expect("services") {
            let what = || format!("{name} after {after:?}: {service}");
            assert_eq!(number(&service["requests"]), number(&service["successes"]) + number(&service["failures"]), "{}", what());
            assert!(number(&service["requests"]) <= number(&metrics["totalRequests"]), "{}", what());
            assert_eq!((number(&service["inFlight"]), number(&service["queued"])), (0, 0), "a place is lost: {}", what());
            for instance in service["instances"].as_object().expect("instances").values() {
                assert_eq!(number(&instance["inFlight"]), 0, "a place is lost: {}", what());
                assert!(number(&instance["failures"]) <= number(&instance["requests"]), "{}", what());
            }
        }
        assert_eq!(number(&metrics["totalRequests"]), self.calls, "after {after:?}: {metrics}");
        let of_services = metrics["services"].as_object().expect("services").iter();
        let of_services: BTreeMap<String, u64> = of_services.map(|(name, service)| (name.clone(), number(&service["requests"]))).collect();
        let new = of_services.iter().map(|(name, requests)| requests - self.counted.1.get(name).copied().unwrap_or(0)).sum::<u64>();
        assert_eq!(new, self.calls - self.counted.0, "after {after:?}: {metrics}");
        self.counted = (self.calls, of_services);
        assert_eq!(metrics["doors"]["workerRestarts"], 0);
        let breakers = metrics["circuitBreakers"].as_object().expect("circuit breakers").iter();
        self.half_open = breakers.filter(|(_, breaker)| breaker["status"] == "HALF_OPEN").map(|(name, _)| name.clone()).collect();
    }
}

#[test]
fn random_calls_of_the_api_leave_everything_as_it_should_be() {
    let (steps, seed) = (asked_for("WEFT_STEPS", 400), asked_for("WEFT_SEED", 1));
    let mut run = Run::new(seed);
    for step in 0..steps {
        let stepped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.step()));
        assert!(stepped.is_ok(), "step {step} of seed {seed}");
    }
    // Every place is there to be taken.
    let root = |method: &'static str, target: &str, body: Value| {
        run.ask(&Asked { caller: "root", method, target: target.to_owned(), body: body.to_string().into_bytes() })
    };
    root("DELETE", "/services/a-1/policy", Value::Null).with_status(200);
    let registration = json!({"name": "a-1", "id": "last", "host": "127.0.0.1", "port": run.upstream.port()});
    root("POST", "/register", registration).with_status(200);
    root("PUT", "/services/a-1/breaker", json!({"state": "reset"})).with_status(200);
    root("GET", "/proxy/a-1/", Value::Null).with_status(200);
}
