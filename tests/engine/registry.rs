//! The registry: who is there, what lives on, and what a refusal leaves untouched.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use weft::mesh::RegistryError;
use weft::mesh::ports::Resolver;
use weft::model::{AdminState, HealthTarget, Host, Limit, Reason, Weight};
use weft::policy::health::CheckResult;
use weft::telemetry::events::Kind;
use weft::{Call, Registration};

use super::world::{SERVICE, World, answer, at_port, id, ms, ok, refuse, service, together};

fn of(name: &str, instance: &str) -> Registration {
    Registration::new(name, instance, "10.0.0.1", 80).expect("a registration")
}

#[test]
fn the_same_place_keeps_its_counters_and_its_health() {
    let world = World::new().with("a", [answer(500), ok()]).with("b", [ok()]);
    world.register("a", |registration| registration.health_check = HealthTarget::new("http://10.0.0.1/health").ok());
    world.checks("a", [CheckResult::Answered(500)]);
    world.serves(4);
    world.mesh.check_now();
    let before = world.mesh.service(SERVICE);

    world.register("a", |_| ());
    assert_eq!(world.mesh.service(SERVICE), before);
    assert_eq!(world.metrics().instances["a"].requests, u64::try_from(world.sent_to("a")).expect("few"));
    assert_eq!(world.why("a"), "unhealthy: check answered 500");
}

#[test]
fn another_port_is_another_instance_with_counters_of_its_own() {
    let world = World::new().with("a", [ok()]);
    world.serves(3);
    world.register("a", |registration| registration.port = NonZeroU16::new(4002).expect("a port"));
    assert_eq!(world.metrics().instances["a"].requests, 0);
    world.get().expect("an answer");
    assert_eq!(world.deliveries()[3].port, 4002);
    assert_eq!(world.metrics().instances["a"].requests, 1);
    assert_eq!(world.metrics().requests, 4, "the service goes on counting");
}

#[test]
fn an_attempt_at_the_old_place_does_not_count_at_the_new_one() {
    let world = World::new();
    let mover = world.clone();
    let moves = move || mover.register("a", |registration| registration.port = NonZeroU16::new(4002).expect("a port"));
    let world = world.with("a", [refuse().meanwhile(moves), ok()]);
    assert_eq!(world.get().expect("the retry").attempts, 2);
    assert_eq!((world.times(), world.deliveries()[1].port), (vec![0, 0], 4002), "the new place has not been tried");
    assert_eq!((world.metrics().instances["a"].requests, world.metrics().instances["a"].failures), (1, 0));
    world.is_at_rest();
}

#[test]
fn registering_again_keeps_what_it_does_not_name() {
    let world = World::new().with("a", [ok()]);
    world.register("a", |registration| {
        registration.weight = Weight::new(7).ok();
        registration.zone = Some("north".to_owned());
        registration.max_in_flight = Some(9);
        registration.ttl = Some(ms(30_000));
        registration.metadata = Some([("version".to_owned(), "1".to_owned())].into());
        registration.health_check = HealthTarget::new("http://10.0.0.1/health").ok();
    });
    world.state("a", AdminState::Drain);
    let before = world.mesh.service(SERVICE).expect("registered").instances;

    world.register("a", |_| ());
    assert_eq!(world.mesh.service(SERVICE).expect("registered").instances, before);
    world.register("a", |registration| {
        registration.zone = Some("south".to_owned());
        registration.port = NonZeroU16::new(4002).expect("a port");
    });
    let after = &world.mesh.service(SERVICE).expect("registered").instances[0];
    assert_eq!((after.zone.as_deref(), after.port), (Some("south"), 4002));
    assert_eq!((after.weight, after.max_in_flight, after.state, after.metadata["version"].as_str()), (7, Some(9), "drain", "1"));
}

#[test]
fn when_the_last_instance_goes_so_does_the_service() {
    let world = World::new().with("a", [ok()]).with("b", [ok()]);
    world.mesh.deregister(&service(SERVICE), &id("a")).expect("known");
    assert_eq!(world.get().expect("b answers").instance.as_str(), "b");
    world.mesh.deregister(&service(SERVICE), &id("b")).expect("known");
    let error = world.get().expect_err("gone");
    assert_eq!((error.reason(), error.attempts, error.not_sent), (Reason::UnknownService, 0, true));
    assert!(world.mesh.services().is_empty() && world.mesh.explain(SERVICE).is_none());
    assert_eq!(world.events(Kind::Deregistered).len(), 2);

    world.register("a", |_| ());
    world.get().expect("back again");
}

#[test]
fn a_call_under_way_when_its_service_goes_ends_all_the_same() {
    let world = World::new();
    let remover = world.clone();
    let goes = move || remover.mesh.deregister(&service(SERVICE), &id("a")).expect("known");
    let world = world.with("a", [ok().meanwhile(goes)]);
    world.get().expect("it is finished");

    let world = World::new();
    let remover = world.clone();
    let goes = move || remover.mesh.deregister(&service(SERVICE), &id("a")).expect("known");
    let world = world.with("a", [answer(503).meanwhile(goes)]);
    let error = world.get().expect_err("nobody to retry at");
    assert_eq!((error.reason(), error.attempts), (Reason::UpstreamStatus, 1), "what the attempt came to stands");
}

#[test]
fn what_is_not_registered_cannot_be_changed() {
    let world = World::new().with("a", [ok()]);
    for (name, instance) in [("nobody", "a"), (SERVICE, "b")] {
        let (name, instance) = (service(name), id(instance));
        assert_eq!(world.mesh.heartbeat(&name, &instance), Err(RegistryError::NotFound));
        assert_eq!(world.mesh.deregister(&name, &instance), Err(RegistryError::NotFound));
        assert_eq!(world.mesh.set_state(&name, &instance, AdminState::Drain, None), Err(RegistryError::NotFound));
        assert_eq!(world.mesh.set_weight(&name, &instance, Weight::ONE), Err(RegistryError::NotFound));
    }
}

#[test]
fn there_are_no_more_services_and_instances_than_allowed() {
    let world = World::built(|builder| builder.limits(2, 3));
    for registration in [of("one", "a"), of("one", "b"), of("one", "c"), of("two", "a")] {
        world.mesh.register(registration).expect("room");
    }
    assert_eq!(world.mesh.register(of("one", "d")), Err(RegistryError::Full(Limit::Instances)));
    assert_eq!(world.mesh.register(of("three", "a")), Err(RegistryError::Full(Limit::Services)));
    world.mesh.register(of("one", "c")).expect("not a new one");
    assert_eq!(world.mesh.services().iter().map(|service| service.instances.len()).collect::<Vec<_>>(), [3, 1]);

    world.mesh.deregister(&service("two"), &id("a")).expect("known");
    world.mesh.register(of("three", "a")).expect("room again");
    world.mesh.deregister(&service("one"), &id("a")).expect("known");
    world.mesh.register(of("one", "d")).expect("room again");
}

#[test]
fn the_limits_hold_against_sixteen_threads() {
    for _ in 0..20 {
        let world = World::built(|builder| builder.limits(4, 4));
        together(16, |n| drop(world.mesh.register(of(&format!("s{n}"), "a"))));
        assert_eq!(world.mesh.services().len(), 4);
        let name = world.mesh.services()[0].name.clone();
        together(16, |n| drop(world.mesh.register(of(&name, &format!("i{n}")))));
        assert_eq!(world.mesh.service(&name).expect("registered").instances.len(), 4);
    }
}

#[test]
fn an_address_that_is_never_allowed_is_refused() {
    let world = World::new();
    for host in ["169.254.169.254", "0.0.0.0", "224.0.0.1", "::ffff:169.254.169.254", "fe80::1"] {
        let refused = world.mesh.register(Registration::new("s", "a", host, 80).expect("well-formed"));
        assert!(matches!(refused, Err(RegistryError::NotAllowed(_))), "{host}: {refused:?}");
    }
    assert!(world.mesh.services().is_empty());
}

#[test]
fn a_lease_that_nobody_renews_ends_the_registration() {
    let world = World::new().with("a", [ok()]).with("b", [ok()]);
    world.register("a", |registration| registration.ttl = Some(ms(5_000)));
    world.pass(4_000);
    world.mesh.heartbeat(&service(SERVICE), &id("a")).expect("in time");
    world.pass(4_999);
    world.mesh.check_now();
    assert_eq!(world.mesh.service(SERVICE).expect("registered").instances.len(), 2);
    world.pass(1);
    world.mesh.check_now();
    assert_eq!(world.mesh.service(SERVICE).expect("registered").instances.len(), 1);
    assert_eq!(world.events(Kind::Expired).len(), 1);
    assert_eq!(world.mesh.heartbeat(&service(SERVICE), &id("a")), Err(RegistryError::NotFound), "register again");
}

#[test]
fn the_last_lease_takes_the_service_with_it() {
    let world = World::new().with("a", [ok()]);
    world.register("a", |registration| registration.ttl = Some(ms(5_000)));
    world.pass(5_000);
    assert_eq!(world.get().expect_err("its lease is over").reason(), Reason::NoHealthyInstance);
    world.mesh.check_now();
    assert_eq!(world.get().expect_err("gone").reason(), Reason::UnknownService);
}

#[test]
fn a_lease_of_any_length_can_be_registered() {
    let world = World::new();
    world.register("a", |registration| registration.ttl = Some(std::time::Duration::MAX));
    world.pass(1_000);
    assert_eq!(world.why("a"), "available");
}

#[test]
fn a_registration_is_not_lost_while_others_come_and_go() {
    for _ in 0..20 {
        let world = World::new();
        together(8, |n| {
            let instance = format!("i{n}");
            for _ in 0..50 {
                world.mesh.register(at_port(&instance, 4001)).expect("registered");
                let shown = world.mesh.service(SERVICE).expect("one is there");
                assert!(shown.instances.iter().any(|other| other.id == instance), "{instance} was acknowledged");
                world.mesh.deregister(&service(SERVICE), &id(&instance)).expect("it is there");
            }
        });
        assert!(world.mesh.services().is_empty());
    }
}

#[test]
fn calls_go_on_while_instances_come_and_go() {
    let world = World::of_threads().with("steady", [ok()]).with("fleeting", [ok()]);
    together(8, |n| {
        for _ in 0..100 {
            if n == 0 {
                world.mesh.deregister(&service(SERVICE), &id("fleeting")).expect("it is there");
                world.register("fleeting", |_| ());
            } else {
                world.mesh.invoke(&Call::get(SERVICE, "/").expect("a call")).expect("an answer");
            }
        }
    });
    world.is_at_rest();
}

/// While this name is looked up, something else happens.
#[derive(Clone, Default)]
struct Meanwhile(Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>);

impl Resolver for Meanwhile {
    fn resolve(&self, host: &Host, _: Duration) -> Vec<IpAddr> {
        if let (Host::Name(_), Some(happens)) = (host, self.0.get()) {
            happens();
        }
        vec![IpAddr::from([10, 0, 0, 1])]
    }
}

#[test]
fn whoever_has_as_many_instances_as_allowed_may_register_them_again_at_once_and_no_others() {
    let meanwhile = Meanwhile::default();
    let resolver = meanwhile.clone();
    let world = World::built(|builder| builder.resolver(resolver));
    let owned = |instance: &str, host: &str| {
        let registration = Registration::new(SERVICE, instance, host, 80).expect("a registration");
        Registration { owner: Some("ci".into()), ..registration }
    };
    let register = {
        let world = world.clone();
        move |registration: Registration| world.mesh.register_within(registration, Some(2))
    };
    for instance in ["a", "b"] {
        register(owned(instance, "10.0.0.1")).expect("there is room");
    }
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (results, again, other) = (Arc::clone(&seen), register.clone(), world.clone());
    let happens = move || {
        let mut all = results.lock().expect("no panic");
        all.push(again(owned("b", "10.0.0.1")));
        other.mesh.deregister(&service(SERVICE), &id("a")).expect("known");
        all.push(again(owned("c", "10.0.0.1")));
    };
    assert!(meanwhile.0.set(Box::new(happens)).is_ok());
    register(owned("a", "slow.test")).expect("it was there before");
    let full = Err(RegistryError::Full(Limit::InstancesOfCaller));
    assert_eq!(*seen.lock().expect("no panic"), [Ok(()), full.clone()]);
    assert_eq!(register(owned("c", "10.0.0.1")), full);
    world.mesh.deregister(&service(SERVICE), &id("a")).expect("known");
    register(owned("c", "10.0.0.1")).expect("there is room again");
}
