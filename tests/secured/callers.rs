//! Clients that must show who they are: who gets in, and under which name.

use serde_json::json;
use weft::server::Config;

use crate::support::client::{Answer, Client};
use crate::support::papers::{Pair, Papers};
use crate::support::upstream::Upstream;
use crate::talk::{Secured, ask, talk};

fn house() -> Secured {
    let papers = Papers::new();
    let config = Config { tls_client_ca: papers.ca.clone(), ..papers.secured("door", &Config::default()) };
    Secured::with(papers, config)
}

#[test]
fn nobody_gets_in_without_a_certificate_of_the_right_authority() {
    let house = house();
    let strangers = Papers::new();
    let strange = strangers.issue("stranger", "DNS:stranger");
    let expired = house.papers.issue_expired("expired", "DNS:late");
    for (who, shows) in [("nobody", None), ("a stranger", Some(&strange)), ("one whose time is over", Some(&expired))] {
        let refused = ask(house.at, &house.papers.client(shows), "/health").expect_err(who);
        assert!(refused.to_string().contains("ertificate") || refused.to_string().contains("UnknownCA"), "{who}: {refused}");
    }
    let known = house.papers.issue("known", "DNS:known");
    let client = house.papers.client(Some(&known));
    ask(house.at, &client, "/health").expect("answered").with_status(200);
    let doors = ask(house.at, &client, "/metrics").expect("answered").json()["doors"].clone();
    assert_eq!((&doors["failedHandshakes"], &doors["handshakes"]), (&json!(3), &json!(2)), "{doors}");
}

/// How often a caller with that certificate may call a service that lets each caller call once.
fn calls(house: &Secured, shows: &Pair, how: &str) -> Vec<u16> {
    let mut client = Client::of(talk(house.at, &house.papers.client(Some(shows))).expect("a handshake"));
    let body = json!({"serviceName": "s", "endpoint": "/"}).to_string();
    let call = |client: &mut Client| -> Answer {
        match how {
            "/invoke" => client.ask("POST", how, &[], body.as_bytes()).expect("answered"),
            _ => client.ask("GET", how, &[], b"").expect("answered"),
        }
    };
    (0..2).map(|_| call(&mut client).status).collect()
}

#[test]
fn a_caller_goes_by_the_name_in_its_certificate() {
    for how in ["/invoke", "/proxy/s/"] {
        let house = house();
        let upstream = Upstream::named("it");
        let a = house.papers.issue("a", "DNS:a.mesh,URI:spiffe://mesh/ns/default/a");
        // Another certificate of the same caller; its DNS name is not what it goes by.
        let again = house.papers.issue("again", "URI:spiffe://mesh/ns/default/a,DNS:other.mesh");
        let b = house.papers.issue("b", "DNS:b.mesh,DNS:c.mesh");
        let c = house.papers.issue("c", "DNS:c.mesh");
        let mut admin = Client::of(talk(house.at, &house.papers.client(Some(&c))).expect("a handshake"));
        let registration = json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": upstream.port()}).to_string();
        admin.ask("POST", "/register", &[], registration.as_bytes()).expect("answered").with_status(200);
        let policy = json!({"rateLimit": {"perCaller": {"ratePerSecond": 0.001, "burst": 1}}}).to_string();
        admin.ask("PUT", "/services/s/policy", &[], policy.as_bytes()).expect("answered").with_status(200);

        assert_eq!(calls(&house, &a, how), [200, 429], "{how}");
        assert_eq!(calls(&house, &again, how), [429, 429], "{how}: the same caller");
        assert_eq!(calls(&house, &b, how), [200, 429], "{how}: another one from the same address");
        assert_eq!(calls(&house, &c, how), [200, 429], "{how}: the first DNS name counts");
    }
}

#[test]
fn a_resumed_session_keeps_its_name() {
    let house = house();
    let upstream = Upstream::named("it");
    let a = house.papers.issue("a", "DNS:a.mesh");
    let client = house.papers.client(Some(&a));
    let mut admin = Client::of(talk(house.at, &client).expect("a handshake"));
    let registration = json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": upstream.port()}).to_string();
    admin.ask("POST", "/register", &[], registration.as_bytes()).expect("answered").with_status(200);
    let policy = json!({"rateLimit": {"perCaller": {"ratePerSecond": 0.001, "burst": 1}}}).to_string();
    admin.ask("PUT", "/services/s/policy", &[], policy.as_bytes()).expect("answered").with_status(200);
    ask(house.at, &client, "/proxy/s/").expect("answered").with_status(200);
    let again = talk(house.at, &client).expect("a handshake");
    assert_eq!(again.conn.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
    Client::of(again).ask("GET", "/proxy/s/", &[], b"").expect("answered").with_status(429);
}
