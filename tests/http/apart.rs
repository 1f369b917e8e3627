//! The API at a place of its own: what is answered at which of the two, and that neither can be used for the other.

use std::net::SocketAddr;

use serde_json::json;
use weft::Mesh;
use weft::server::{Address, Config};

use crate::house::House;
use crate::support::client::{Answer, Client, ask};
use crate::support::upstream::{Act, Upstream, answer};

/// A house that has them apart, and where the API is.
fn apart() -> (House, SocketAddr) {
    let house = House::of(Mesh::builder(), Config { admin_listen: "127.0.0.1:0".to_owned(), ..Config::default() });
    match house.server.admin_addresses().as_slice() {
        [Address::Tcp(at)] => (house, *at),
        other => panic!("one TCP address, not {other:?}"),
    }
}

fn send(at: SocketAddr, method: &str, target: &str, body: &str) -> Answer {
    ask(at, method, target, &[("accept", "application/json")], body.as_bytes()).unwrap_or_else(|error| panic!("{method} {target}: {error}"))
}

#[test]
fn calls_are_at_one_place_everything_else_at_the_other_and_health_at_both() {
    let (house, api) = apart();
    let upstream = Upstream::start(|_| Act::Say(answer(200, &[("content-type", "text/html")], "<p>a page")));
    let registration = json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": upstream.port()}).to_string();
    let call = json!({"serviceName": "s", "endpoint": "/"}).to_string();
    let here = |method, target, body| assert!(send(house.at, method, target, body).status < 300, "{method} {target}");
    let not_here = |at, method, target, body| {
        assert_eq!(send(at, method, target, body).with_status(404).reason(), "not_found", "{method} {target}");
    };

    not_here(house.at, "POST", "/register", &registration);
    assert_eq!(house.mesh.services().len(), 0, "nothing has happened");
    send(api, "POST", "/register", &registration).with_status(200);

    here("POST", "/invoke", &*call);
    here("GET", "/proxy/s/", "");
    here("GET", "/v1.0/invoke/s/method/x", "");
    here("GET", "/health", "");
    for (method, target) in [
        ("GET", "/metrics"),
        ("GET", "/services"),
        ("GET", "/services/s"),
        ("DELETE", "/services/s/i"),
        ("PUT", "/services/s/i/state"),
        ("GET", "/config"),
        ("GET", "/ready"),
        ("GET", "/nothing"),
        ("GET", "/invoke"),
    ] {
        not_here(house.at, method, target, "");
    }
    not_here(api, "POST", "/invoke", &call);
    not_here(api, "GET", "/proxy/s/", "");
    not_here(api, "GET", "/v1.0/invoke/s/method/x", "");
    for target in ["/metrics", "/services", "/config", "/ready", "/health", "/v1.0/healthz"] {
        assert!(send(api, "GET", target, "").status < 300, "{target}");
    }
    let by_host = ask(api, "GET", "/", &[("host", "s.mesh")], b"").expect("answered");
    assert_eq!((by_host.status, by_host.text().as_str()), (404, "Service Mesh - Not Found"));
}

#[test]
fn a_page_that_passes_through_shares_no_origin_with_the_api_when_they_are_apart() {
    let upstream = Upstream::start(|_| Act::Say(answer(200, &[("content-type", "text/html")], "<p>a page")));
    let registration = json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": upstream.port()}).to_string();
    let (house, api) = apart();
    send(api, "POST", "/register", &registration).with_status(200);
    assert_eq!(send(house.at, "GET", "/proxy/s/", "").with_status(200).header("content-security-policy"), None);
    let together = House::new();
    together.register("s", "i", &upstream);
    assert_eq!(together.get("/proxy/s/").with_status(200).header("content-security-policy"), Some("sandbox"));
}

#[test]
fn a_page_of_another_origin_changes_nothing_at_either() {
    let (house, api) = apart();
    let registration = json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": 1}).to_string();
    for field in [("origin", "http://evil.example"), ("host", "evil.example")] {
        let refused = ask(api, "POST", "/register", &[field], registration.as_bytes()).expect("answered").with_status(403);
        assert_eq!(refused.reason(), "forbidden", "{field:?}");
        let refused = ask(house.at, "POST", "/invoke", &[field], b"{}").expect("answered").with_status(403);
        assert_eq!(refused.reason(), "forbidden", "{field:?}");
    }
    assert_eq!(house.mesh.services().len(), 0);
}

#[test]
fn the_api_may_be_on_a_unix_socket() {
    let path = std::env::temp_dir().join(format!("weft-apart-{}-{}", std::process::id(), std::line!()));
    let path = format!("{}-{:?}", path.display(), crate::INVOKE_ON);
    let config = Config { admin_listen: format!("unix:{path}"), ..Config::default() };
    let house = House::of(Mesh::builder(), config);
    let mut client = Client::connect_unix(path.as_ref()).expect("a connection");
    client.ask("GET", "/metrics", &[], b"").expect("answered").with_status(200);
    assert_eq!(house.get("/metrics").status, 404);
    drop(house);
    std::fs::remove_file(path).expect("it was there");
}

#[test]
fn the_api_lets_somebody_in_when_all_other_places_are_taken() {
    let config = Config { admin_listen: "127.0.0.1:0".to_owned(), max_connections: 2, ..Config::default() };
    let house = House::of(Mesh::builder(), config);
    let Some(Address::Tcp(api)) = house.server.admin_addresses().first().cloned() else { panic!("a TCP address") };
    let held: Vec<Client> = (0..2).map(|_| house.client()).collect();
    assert_eq!(house.get("/health").with_status(503).json()["limit"], "maxConnections");
    assert_eq!(send(api, "GET", "/metrics", "").with_status(200).json()["doors"]["refusedConnections"], 1);
    drop(held);
}
