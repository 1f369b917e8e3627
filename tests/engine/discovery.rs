//! Instances that are the addresses of a name: they come and go with its records, and nothing but an answer takes one away.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use weft::mesh::ports::Resolver;
use weft::mesh::{Discovery, Settings};
use weft::model::{AdminState, HealthTarget, Host, Weight};
use weft::telemetry::events::Kind;

use super::world::{SERVICE, World, at_port, id, ms, ok, service};

/// Resolves every name to what was last said.
#[derive(Clone, Default)]
pub struct Records(Arc<Mutex<Vec<IpAddr>>>);

impl Records {
    pub fn are(&self, addresses: &[&str]) {
        *self.0.lock().expect("no panic inside") = addresses.iter().map(|ip| ip.parse().expect("an address")).collect();
    }
}

impl Resolver for Records {
    fn resolve(&self, host: &Host, _: Duration) -> Vec<IpAddr> {
        match host {
            Host::Ip(ip) => vec![*ip],
            Host::Name(_) => self.0.lock().expect("no panic inside").clone(),
        }
    }
}

fn users() -> Discovery {
    Discovery { name: Host::new("users.internal").expect("a name"), every: ms(5_000), pattern: at_port("found", 8080) }
}

/// A world in which the name has these records, and was looked up once.
fn world(addresses: &[&str]) -> (World, Records) {
    world_of(addresses, vec![users()])
}

fn world_of(addresses: &[&str], discover: Vec<Discovery>) -> (World, Records) {
    let records = Records::default();
    records.are(addresses);
    let resolver = records.clone();
    let world = World::built(move |builder| builder.resolver(resolver).discover(discover).limits(10, 3));
    world.mesh.look_up();
    (world, records)
}

fn ids(world: &World) -> Vec<String> {
    let mut all: Vec<String> =
        world.mesh.service(SERVICE).map(|service| service.instances).unwrap_or_default().into_iter().map(|instance| instance.id).collect();
    all.sort();
    all
}

/// Its interval passes, and the name is looked up again.
fn again(world: &World) {
    world.pass(5_000);
    world.mesh.look_up();
}

#[test]
fn every_address_is_an_instance_and_they_come_and_go_with_the_records() {
    let (world, records) = world(&["10.0.0.1", "fd00::1", "10.0.0.1"]);
    assert_eq!(ids(&world), ["10.0.0.1-8080", "fd00-0-0-0-0-0-0-1-8080"]);
    world.script("10.0.0.1-8080", [ok()]);
    world.script("fd00-0-0-0-0-0-0-1-8080", [ok()]);
    world.serves(4);
    assert_eq!((world.sent_to("10.0.0.1-8080"), world.sent_to("fd00-0-0-0-0-0-0-1-8080")), (2, 2));
    records.are(&["10.0.0.2", "10.0.0.1"]);
    again(&world);
    assert_eq!(ids(&world), ["10.0.0.1-8080", "10.0.0.2-8080"]);
    assert_eq!(world.metrics().instances["10.0.0.1-8080"].requests, 2, "what is known of one that stays lives on");
    let gone = world.events(Kind::Deregistered);
    assert_eq!(gone.iter().map(|event| &*event.detail).collect::<Vec<_>>(), ["no longer an address of users.internal"]);
    assert_eq!(world.events(Kind::Registered).len(), 3);
}

#[test]
fn a_name_is_looked_up_at_its_interval_and_not_before() {
    let (world, records) = world(&["10.0.0.1"]);
    records.are(&["10.0.0.2"]);
    world.pass(4_999);
    let next = world.mesh.look_up().expect("a time");
    assert_eq!((next - world.now(), ids(&world)), (ms(1), vec!["10.0.0.1-8080".to_owned()]));
    world.pass(1);
    assert_eq!(world.mesh.look_up().expect("a time") - world.now(), ms(5_000));
    assert_eq!(ids(&world), ["10.0.0.2-8080"]);
    assert_eq!(world.mesh.metrics().discovery.resolutions, 2);
    assert!(World::new().mesh.look_up().is_none(), "nothing is ever due where no name is given");
}

#[test]
fn a_name_that_no_longer_resolves_takes_nothing_away_and_says_so_once() {
    let (world, records) = world(&["10.0.0.1", "10.0.0.2"]);
    records.are(&[]);
    for _ in 0..3 {
        again(&world);
        assert_eq!(ids(&world).len(), 2);
    }
    let counted = world.mesh.metrics().discovery;
    assert_eq!((counted.resolutions, counted.failures, counted.failing), (4, 3, 1));
    let told = world.events(Kind::Warning);
    assert_eq!((told.len(), &*told[0].detail), (1, "users.internal does not resolve; what was found before stays"));
    records.are(&["10.0.0.2"]);
    again(&world);
    assert_eq!(ids(&world), ["10.0.0.2-8080"]);
    assert_eq!(world.events(Kind::Addresses)[0].detail, "users.internal resolves again");
    assert_eq!(world.mesh.metrics().discovery.failing, 0);
}

#[test]
fn addresses_are_judged_like_all_others_and_forbidden_ones_alone_take_nothing_away() {
    let (world, records) = world(&["10.0.0.1", "169.254.169.254"]);
    assert_eq!(ids(&world), ["10.0.0.1-8080"]);
    assert!(world.events(Kind::Warning)[0].detail.starts_with("users.internal has the address 169.254.169.254: "));
    records.are(&["169.254.169.254", "0.0.0.0"]);
    again(&world);
    assert_eq!(ids(&world), ["10.0.0.1-8080"]);
    assert_eq!(world.mesh.metrics().discovery.failures, 2);
}

#[test]
fn what_does_not_fit_under_a_limit_is_said_and_taken_in_when_there_is_room() {
    let (world, records) = world(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]);
    assert_eq!(ids(&world).len(), 3);
    assert!(world.events(Kind::Warning)[0].detail.contains("maxInstancesPerService"));
    records.are(&["10.0.0.2", "10.0.0.3", "10.0.0.4"]);
    again(&world);
    again(&world);
    assert_eq!(ids(&world), ["10.0.0.2-8080", "10.0.0.3-8080", "10.0.0.4-8080"]);
}

#[test]
fn an_instance_that_registers_itself_is_no_business_of_the_names() {
    let (world, records) = world(&["10.0.0.1"]);
    world.register("own", |_| ());
    world.register("10.0.0.2-8080", |_| ());
    records.are(&["10.0.0.2"]);
    again(&world);
    records.are(&["10.0.0.3"]);
    again(&world);
    assert_eq!(ids(&world), ["10.0.0.2-8080", "10.0.0.3-8080", "own"]);
}

#[test]
fn what_an_operator_says_of_one_holds_for_as_long_as_it_is_there() {
    let (world, records) = world(&["10.0.0.1", "10.0.0.2"]);
    world.state("10.0.0.1-8080", AdminState::Drain);
    again(&world);
    let state = || world.mesh.service(SERVICE).expect("there").instances[0].state;
    assert_eq!(state(), "drain");
    records.are(&["10.0.0.2"]);
    again(&world);
    records.are(&["10.0.0.2", "10.0.0.1"]);
    again(&world);
    assert!(world.mesh.service(SERVICE).expect("there").instances.iter().all(|instance| instance.state == "ready"));
}

#[test]
fn another_configuration_changes_what_is_said_of_them_and_without_the_name_they_go() {
    let target = HealthTarget::new("http://users.internal:8080/health").expect("a target");
    let (world, records) = world_of(&["10.0.0.1"], vec![users()]);
    let mut heavier = users();
    (heavier.pattern.weight, heavier.pattern.health_check) = (Weight::new(7).ok(), Some(target));
    let with = |discover| Settings { discover, ..Settings::default() };
    world.mesh.reconfigure(with(vec![heavier])).expect("valid");
    records.are(&[]);
    world.mesh.look_up();
    records.are(&["10.0.0.1"]);
    again(&world);
    let instance = world.mesh.service(SERVICE).expect("there").instances.remove(0);
    assert_eq!(instance.weight, 7, "an answer that fails in between loses no change");
    let asked = serde_json::to_value(&instance).expect("JSON")["healthCheckUrl"].clone();
    assert_eq!(asked, json!("http://10.0.0.1:8080/health"), "each address is asked by itself");
    world.mesh.reconfigure(with(Vec::new())).expect("valid");
    assert!(world.mesh.look_up().is_none());
    assert!(world.mesh.service(SERVICE).is_none());
}

#[test]
fn two_names_of_one_service_do_not_take_each_others_instances() {
    let mut other = users();
    other.name = Host::new("more.internal").expect("a name");
    other.pattern.port = 9090.try_into().expect("a port");
    let (world, records) = world_of(&["10.0.0.1"], vec![users(), other]);
    records.are(&["10.0.0.2"]);
    again(&world);
    assert_eq!(ids(&world), ["10.0.0.2-8080", "10.0.0.2-9090"]);
    world.mesh.deregister(&service(SERVICE), &id("10.0.0.2-9090")).expect("known");
    again(&world);
    assert_eq!(ids(&world).len(), 2, "one that is still an address comes back");
}
