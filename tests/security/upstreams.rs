//! Addresses that must not be reached: whatever is registered, whatever a name comes to mean, no packet goes there. A listener on the
//! forbidden address is the witness.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use weft::mesh::Settings;
use weft::mesh::ports::{Refused, Resolver, Store, StoreError};
use weft::mesh::record::{Document, Key, Version};
use weft::model::Host;
use weft::policy::upstreams::Config as Upstreams;
use weft::server::{Config, InvokeOn};
use weft::{Builder, Call, Mesh, Registration};

use crate::callers::{Guarded, at, line};
use crate::house::{House, call};
use crate::inputs::{DENIED_HOSTS, MALFORMED_HOSTS, bad_ports};
use crate::support::eventually;
use crate::support::upstream::Act;
use crate::support::upstream::{Upstream, answer, ok};

/// What must not be reached, in these tests.
const FORBIDDEN: &str = "127.0.0.66";

fn denied() -> Upstreams {
    serde_json::from_value(json!({"deny": ["127.0.0.66/32"]})).expect("valid")
}

/// A forbidden place and an allowed one, at the same port.
fn places() -> (Upstream, Upstream) {
    loop {
        let allowed = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = allowed.local_addr().expect("an address").port();
        if let Ok(forbidden) = TcpListener::bind((FORBIDDEN, port)) {
            let say = |name: &'static str| move |_: &crate::support::upstream::Asked| ok(name);
            return (Upstream::on(forbidden, say("forbidden")), Upstream::on(allowed, say("allowed")));
        }
    }
}

/// A resolver whose answers can be changed.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<HashMap<String, Vec<IpAddr>>>>);

impl Names {
    fn mean(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().expect("an address")).collect();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), addresses);
    }
}

impl Resolver for Names {
    fn resolve(&self, host: &Host, _: Duration) -> Vec<IpAddr> {
        match host {
            Host::Ip(ip) => vec![*ip],
            Host::Name(name) => self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&**name).cloned().unwrap_or_default(),
        }
    }
}

fn builder(names: &Names) -> Builder {
    Mesh::builder().upstreams(denied()).resolver(names.clone())
}

fn register(house: &House, service: &str, host: &str, port: u16) -> crate::support::client::Answer {
    house.post("/register", &json!({"name": service, "id": "i", "host": host, "port": port}))
}

#[test]
fn no_spelling_of_a_forbidden_address_can_be_registered_and_nothing_is_sent_there() {
    let (forbidden, allowed) = places();
    let (names, port) = (Names::default(), forbidden.port());
    names.mean("rebound.test", &[FORBIDDEN]);
    names.mean("half.test", &["127.0.0.1", FORBIDDEN]);
    names.mean("mapped.test", &["::ffff:127.0.0.66"]);
    names.mean("metadata.google.internal", &["169.254.169.254"]);
    let house = House::of(builder(&names), Config::default());
    let refused = [
        "127.0.0.66",
        "::ffff:127.0.0.66",
        "[::ffff:7f00:42]",
        "::127.0.0.66",
        "64:ff9b::7f00:42",
        "rebound.test",
        "half.test",
        "mapped.test",
        "metadata.google.internal",
    ];
    for host in refused.iter().chain(DENIED_HOSTS) {
        assert_eq!(register(&house, "s", host, port).with_status(403).reason(), "upstream_not_allowed", "{host}");
    }
    let long = "a.".repeat(150);
    for host in MALFORMED_HOSTS.iter().copied().chain([long.as_str()]) {
        assert_eq!(register(&house, "s", host, port).with_status(400).json()["field"], "host", "{host:?}");
    }
    for url in [format!("http://127.0.0.66:{port}/"), format!("http://rebound.test:{port}/"), format!("http://[::ffff:127.0.0.66]:{port}/")]
    {
        let registration = json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": allowed.port(), "healthCheckUrl": url});
        assert_eq!(house.post("/register", &registration).with_status(403).reason(), "upstream_not_allowed", "{url}");
    }
    for port in bad_ports() {
        let registration = json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": port});
        house.post("/register", &registration).with_status(400);
    }
    house.mesh.check_now();
    assert_eq!(house.call("s", "/").with_status(503).reason(), "unknown_service");
    assert_eq!(forbidden.connections(), 0);
}

#[test]
fn a_name_that_comes_to_mean_a_forbidden_address_is_not_followed_by_calls_checks_or_copies() {
    for invoke_on in [InvokeOn::Edge, InvokeOn::Workers] {
        let (forbidden, allowed) = places();
        let (names, port) = (Names::default(), forbidden.port());
        names.mean("rebinds.test", &["127.0.0.1"]);
        let house = House::of(builder(&names), Config { invoke_on, ..Config::default() });
        for service in ["s", "copies"] {
            let url = format!("http://rebinds.test:{port}/health");
            let registration =
                json!({"name": service, "id": "i", "host": "rebinds.test", "port": port, "healthCheckUrl": url, "healthy": true});
            house.post("/register", &registration).with_status(200);
        }
        register(&house, "front", "127.0.0.1", port).with_status(200);
        house.policy("front", &json!({"routes": [{"name": "copy", "mirror": {"service": "copies", "percent": 100}}]}));
        assert_eq!(house.call("s", "/").with_status(200).text(), "allowed");

        names.mean("rebinds.test", &[FORBIDDEN]);
        house.mesh.check_now();
        for _ in 0..3 {
            assert_eq!(house.call("s", "/").with_status(503).reason(), "no_healthy_instance");
            assert_eq!(house.get("/proxy/s/").with_status(503).reason(), "no_healthy_instance");
            house.call("front", "/").with_status(200);
        }
        eventually("the copies have failed", || (house.metrics()["services"]["copies"]["failures"].as_u64() >= Some(3)).then_some(()));
        assert_eq!(forbidden.connections(), 0);

        // Half of an answer is worth that half.
        names.mean("rebinds.test", &[FORBIDDEN, "127.0.0.1"]);
        house.mesh.check_now();
        assert_eq!(house.call("s", "/").with_status(200).text(), "allowed");
        assert_eq!((forbidden.connections(), allowed.connections() > 0), (0, true));
    }
}

#[test]
fn what_is_denied_while_the_mesh_runs_is_left_alone_from_then_on_kept_connections_included() {
    for invoke_on in [InvokeOn::Edge, InvokeOn::Workers] {
        let (forbidden, _allowed) = places();
        let names = Names::default();
        names.mean("somewhere.test", &[FORBIDDEN]);
        let config = Config { invoke_on, loops: 1, ..Config::default() };
        let house = House::of(Mesh::builder().resolver(names.clone()), config);
        for (service, host) in [("a", FORBIDDEN), ("b", "somewhere.test")] {
            register(&house, service, host, forbidden.port()).with_status(200);
            assert_eq!(house.call(service, "/").with_status(200).text(), "forbidden");
            house.get(&format!("/proxy/{service}/")).with_status(200);
        }
        let before = forbidden.requests();
        house.mesh.reconfigure(Settings { upstreams: denied(), ..Settings::default() }).expect("valid");
        for service in ["a", "b"] {
            assert_eq!(house.call(service, "/").with_status(503).reason(), "no_healthy_instance");
            house.get(&format!("/proxy/{service}/")).with_status(503);
        }
        assert_eq!(forbidden.requests(), before);
        // And back, for an address; a name is looked up again with its next check.
        house.mesh.reconfigure(Settings::default()).expect("valid");
        assert_eq!(house.call("a", "/").with_status(200).text(), "forbidden");
        house.mesh.check_now();
        assert_eq!(house.call("b", "/").with_status(200).text(), "forbidden");
    }
}

#[test]
fn a_kept_connection_is_not_used_when_its_name_has_come_to_mean_another_place() {
    for invoke_on in [InvokeOn::Edge, InvokeOn::Workers] {
        let (before, after) = places();
        let names = Names::default();
        names.mean("moves.test", &[FORBIDDEN]);
        let house = House::of(Mesh::builder().resolver(names.clone()), Config { invoke_on, loops: 1, ..Config::default() });
        register(&house, "s", "moves.test", before.port()).with_status(200);
        assert_eq!(house.call("s", "/").with_status(200).text(), "forbidden");
        names.mean("moves.test", &["127.0.0.1"]);
        house.mesh.check_now();
        assert_eq!(house.call("s", "/").with_status(200).text(), "allowed");
        assert_eq!((before.requests(), after.requests()), (1, 1));
    }
}

#[test]
fn the_mesh_does_not_call_itself_where_that_would_be_in_its_own_name() {
    let mesh = Guarded::new(&[line("root", "read,register,invoke,admin", json!({}))]);
    let own = mesh.house.at.port();
    for host in ["127.0.0.1", "localhost", "::ffff:127.0.0.1"] {
        let registration = json!({"name": "me", "id": "i", "host": host, "port": own});
        assert_eq!(mesh.ask("root", "POST", "/register", &registration).with_status(403).reason(), "upstream_not_allowed", "{host}");
    }
    let health =
        json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": 9, "healthCheckUrl": format!("http://127.0.0.1:{own}/health")});
    mesh.ask("root", "POST", "/register", &health).with_status(403);
    mesh.ask("root", "POST", "/register", &at("s", "i", 9)).with_status(200);
}

#[test]
fn a_mesh_that_is_open_on_loopback_may_call_itself_since_circles_end_by_themselves() {
    let house = House::new();
    let at: SocketAddr = house.at;
    register(&house, "me", "127.0.0.1", at.port()).with_status(200);
    house.call("me", "/health").with_status(200);
    assert_eq!(house.ask("GET", "/proxy/me/proxy/me/health", &[], b"").status, 200);
}

#[test]
fn a_redirect_to_a_forbidden_address_is_data() {
    let (forbidden, _allowed) = places();
    let to = format!("http://{FORBIDDEN}:{}/", forbidden.port());
    let upstream = Upstream::start(move |_| Act::Say(answer(302, &[("location", &to)], "")));
    let house = House::of(builder(&Names::default()), Config::default());
    house.register("s", "i", &upstream);
    for answer in [house.ask("POST", "/invoke", &[], &call("s", "/")), house.get("/proxy/s/")] {
        assert!(answer.with_status(302).header("location").is_some_and(|to| to.contains(FORBIDDEN)));
    }
    assert_eq!(forbidden.connections(), 0);
}

/// Keeps nothing, and does what a test says while it is asked to.
#[derive(Clone, Default)]
struct Meanwhile(Arc<Mutex<Option<Deed>>>);

type Deed = Box<dyn FnOnce() + Send>;

impl Store for Meanwhile {
    fn load(&self) -> Result<Vec<(Document, Version)>, StoreError> {
        Ok(Vec::new())
    }

    fn put(&self, _: &Document, _: Version) -> Result<Version, Refused> {
        let act = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        act.into_iter().for_each(|act| act());
        Ok(Version::default())
    }

    fn delete(&self, _: &Key) -> Result<Version, StoreError> {
        Ok(Version::default())
    }

    fn forget(&self, _: &Key) {}
}

#[test]
fn what_is_denied_while_it_is_being_registered_is_not_called_either() {
    let (forbidden, _allowed) = places();
    let meanwhile = Meanwhile::default();
    let mesh = Mesh::builder().store(meanwhile.clone()).background(false).build().expect("a mesh");
    for (id, round) in ["first", "again", "again"].into_iter().zip(0..) {
        let deny = mesh.clone();
        *meanwhile.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(move || {
            deny.reconfigure(Settings { upstreams: denied(), ..Settings::default() }).expect("valid");
        }));
        // Before, it is allowed.
        mesh.reconfigure(Settings::default()).expect("valid");
        let mut registration = Registration::new("s", id, FORBIDDEN, forbidden.port()).expect("valid");
        // Something new each time, so that it is kept anew.
        registration.zone = Some(format!("{round}"));
        mesh.register(registration).expect("judged before");
        let error = mesh.invoke(&Call::get("s", "/").expect("valid")).expect_err("nowhere to go");
        assert_eq!(error.reason().word(), "no_healthy_instance", "{id}");
    }
    assert_eq!(forbidden.connections(), 0);
}
