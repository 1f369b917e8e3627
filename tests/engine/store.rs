//! The store: a change is acknowledged once it is kept, and what cannot be kept has not happened.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use weft::mesh::ports::{Refused, Store, StoreError};
use weft::mesh::record::{Document, Key, Record, Version};
use weft::mesh::{RegistryError, Settings};
use weft::model::{AdminState, Caller, Limit, Reason, Weight};
use weft::policy::health::CheckResult;
use weft::telemetry::events::Kind;
use weft::{Call, Registration};

use super::world::{SERVICE, World, at_port, get, id, ms, ok, service, together};

/// What another mesh has made of something, if it is still there.
type Others = Option<(Document, Version)>;

/// Keeps what it is told, until it fails.
#[derive(Clone, Default)]
struct Ledger {
    broken: Arc<AtomicBool>,
    kept: Arc<Mutex<Vec<String>>>,
    loaded: Vec<(Document, Version)>,
    /// What others have made of it, told instead of keeping.
    conflicts: Arc<Mutex<Vec<Others>>>,
}

impl Store for Ledger {
    fn load(&self) -> Result<Vec<(Document, Version)>, StoreError> {
        self.unless_broken()?;
        Ok(self.loaded.clone())
    }

    fn put(&self, document: &Document, seen: Version) -> Result<Version, Refused> {
        self.unless_broken()?;
        if let Some(conflict) = self.conflicts.lock().expect("no panic inside").pop() {
            return Err(Refused::Conflict(conflict));
        }
        let kept = match document {
            Document::Policy(_, patch) => patch.to_string(),
            Document::Instance(record) => {
                let Record { registration, state, weight, .. } = &**record;
                format!("{} {} {:?}", registration.port, state.as_str(), weight.map(Weight::get))
            }
        };
        self.keep(format!("{} {kept}", document.key()));
        Ok(Version(seen.0 + 1))
    }

    fn delete(&self, key: &Key) -> Result<Version, StoreError> {
        self.unless_broken()?;
        self.keep(format!("{key} gone"));
        Ok(Version::default())
    }

    fn forget(&self, key: &Key) {
        self.keep(format!("{key} forgotten"));
    }
}

impl Ledger {
    fn unless_broken(&self) -> Result<(), StoreError> {
        if self.broken.load(Ordering::SeqCst) { Err(StoreError("the disk is full".to_owned())) } else { Ok(()) }
    }

    fn keep(&self, line: String) {
        self.kept.lock().expect("no panic inside").push(line);
    }

    fn kept(&self) -> Vec<String> {
        self.kept.lock().expect("no panic inside").clone()
    }
}

fn stored() -> (World, Ledger) {
    let ledger = Ledger::default();
    let store = ledger.clone();
    (World::built(move |builder| builder.store(store).limits(1, 2)).with("a", [ok()]), ledger)
}

#[test]
fn every_change_is_kept_before_it_is_acknowledged() {
    let (world, ledger) = stored();
    let retry = serde_json::json!({"retry": {"maxRetries": 1}});
    world.state("a", AdminState::Drain);
    world.weight("a", 3);
    world.mesh.patch_policy(&service(SERVICE), &retry).expect("valid");
    world.mesh.reset_policy(&service(SERVICE)).expect("kept");
    world.mesh.deregister(&service(SERVICE), &id("a")).expect("known");
    assert_eq!(
        ledger.kept(),
        [
            "instances/users/a 4001 ready None",
            "instances/users/a 4001 drain None",
            "instances/users/a 4001 drain Some(3)",
            &format!("policies/users {retry}"),
            "policies/users gone",
            "instances/users/a gone",
        ]
    );
}

#[test]
fn what_the_store_cannot_keep_is_refused_and_nothing_has_changed() {
    let (world, ledger) = stored();
    ledger.broken.store(true, Ordering::SeqCst);
    let name = service(SERVICE);
    let before = (world.mesh.services(), world.mesh.policy(&name), world.mesh.events(0));
    let refused: [Result<(), RegistryError>; 6] = [
        world.mesh.register(at_port("a", 4002)),
        world.mesh.register(at_port("b", 4001)),
        world.mesh.deregister(&name, &id("a")),
        world.mesh.set_state(&name, &id("a"), AdminState::Maint, None),
        world.mesh.set_weight(&name, &id("a"), Weight::ONE),
        world.mesh.patch_policy(&name, &serde_json::json!({"retry": {"maxRetries": 0}})),
    ];
    for refusal in refused {
        assert_eq!(refusal, Err(RegistryError::Unavailable(StoreError("the disk is full".to_owned()))));
    }
    assert_eq!((world.mesh.services(), world.mesh.policy(&name), world.mesh.events(0)), before);
    world.get().expect("calls go on");
    world.mesh.heartbeat(&name, &id("a")).expect("a heartbeat needs no store");
}

#[test]
fn a_registration_that_a_limit_refuses_is_not_kept_either() {
    let (world, ledger) = stored();
    world.register("b", |_| ());
    assert_eq!(world.mesh.register(at_port("c", 4001)), Err(RegistryError::Full(Limit::Instances)));
    assert_eq!(
        world.mesh.register(Registration::new("another", "a", "10.0.0.1", 80).expect("a registration")),
        Err(RegistryError::Full(Limit::Services))
    );
    assert_eq!(ledger.kept(), ["instances/users/a 4001 ready None", "instances/users/b 4001 ready None"]);
}

#[test]
fn what_is_as_before_is_not_kept_again() {
    let (world, ledger) = stored();
    world.register("a", |_| ());
    world.register("a", |registration| registration.healthy = Some(true));
    world.state("a", AdminState::Ready);
    assert_eq!(ledger.kept().len(), 1);
}

#[test]
fn an_expired_instance_is_forgotten_without_waiting() {
    let (world, ledger) = stored();
    world.register("a", |registration| registration.ttl = Some(ms(1_000)));
    ledger.broken.store(true, Ordering::SeqCst);
    world.pass(1_000);
    world.mesh.check_now();
    assert_eq!(ledger.kept().last().map(String::as_str), Some("instances/users/a forgotten"));
    assert!(world.mesh.service(SERVICE).is_none());
}

#[test]
fn a_change_that_conflicts_with_another_is_made_on_top_of_it() {
    let (world, ledger) = stored();
    let others = Record { state: AdminState::Drain, ..Record::new(at_port("a", 5000)) };
    let conflict = || Some((Document::Instance(Box::new(others.clone())), Version(7)));
    ledger.conflicts.lock().expect("no panic inside").push(conflict());
    world.weight("a", 9);
    assert_eq!(ledger.kept().last().map(String::as_str), Some("instances/users/a 5000 drain Some(9)"));
    let instance = &world.mesh.service(SERVICE).expect("registered").instances[0];
    assert_eq!((instance.port, instance.state, instance.weight), (5000, "drain", 9));
    // It has been removed elsewhere.
    ledger.conflicts.lock().expect("no panic inside").push(None);
    assert_eq!(world.mesh.set_weight(&service(SERVICE), &id("a"), Weight::ONE), Err(RegistryError::NotFound));
    // Somebody never stops.
    ledger.conflicts.lock().expect("no panic inside").extend((0..100).map(|_| conflict()));
    assert!(matches!(world.mesh.set_weight(&service(SERVICE), &id("a"), Weight::ONE), Err(RegistryError::Unavailable(_))));
}

#[test]
fn what_was_kept_is_there_again_healthy_and_with_a_new_lease() {
    let mut leased = at_port("a", 4001);
    (leased.ttl, leased.weight) = (Some(ms(5_000)), Weight::new(3).ok());
    let first = Record { state: AdminState::Maint, reason: Some("disk".to_owned()), weight: Weight::new(9).ok(), ..Record::new(leased) };
    let patch = serde_json::json!({"retry": {"maxRetries": 1}});
    let ledger = Ledger {
        loaded: vec![
            (Document::Instance(Box::new(first)), Version(1)),
            (Document::Policy(service(SERVICE), patch), Version(2)),
            (Document::Policy(service("other"), serde_json::json!({"retry": {"maxRetries": "many"}})), Version(3)),
            (Document::Instance(Box::new(Record::new(at_port("b", 4002)))), Version(4)),
        ],
        ..Ledger::default()
    };
    let store = ledger.clone();
    // Limits are for what is new.
    let world = World::built(move |builder| builder.store(store).limits(1, 1));
    let instances = world.mesh.service(SERVICE).expect("there").instances;
    let seen: Vec<_> = instances.iter().map(|instance| (&*instance.id, instance.healthy, instance.state, instance.weight)).collect();
    assert_eq!(seen, [("a", true, "maint", 9), ("b", true, "ready", 1)]);
    assert_eq!((instances[0].state_reason.as_deref(), instances[0].expires_in_seconds), (Some("disk"), Some(5)));
    assert_eq!(world.mesh.policy(&service(SERVICE)).retry.max_retries, 1);
    let told = world.events(Kind::Warning);
    assert!(told[0].detail.contains("is not in force but for its rules") && told[0].detail.contains("maxRetries"), "{told:?}");
    world.script("b", [ok()]);
    world.serves(3);
    assert_eq!(world.sent_to("b"), 3);
    assert_eq!(ledger.kept(), [""; 0], "nothing was changed");
    assert_eq!(world.mesh.register(at_port("c", 1)), Err(RegistryError::Full(Limit::Instances)));
    world.checks("b", [CheckResult::Passed]);
    world.register("b", |registration| registration.zone = Some("north".to_owned()));
    assert_eq!(ledger.kept().len(), 1, "what is there may change");
}

#[test]
fn who_was_kept_out_stays_out_when_the_rest_of_a_policy_does_not_go_with_the_configuration() {
    let web = Call { caller: Caller { name: Some("web".into()), address: None }, ..get() };
    for (rules, lets_web_in) in [(json!([{"callers": ["web"]}]), true), (json!([{"callers": [""]}]), false)] {
        let patch = json!({"allow": rules, "timeouts": {"attemptMs": 25_000}});
        let loaded = vec![
            (Document::Instance(Box::new(Record::new(at_port("a", 4001)))), Version(1)),
            (Document::Policy(service(SERVICE), patch), Version(2)),
        ];
        let ledger = Ledger { loaded, ..Ledger::default() };
        let world = World::built(move |builder| builder.store(ledger).defaults(json!({"timeouts": {"totalMs": 20_000}})));
        world.script("a", [ok()]);
        let told = world.events(Kind::Warning);
        assert!(told[0].detail.contains("not in force but for its rules"), "{told:?}");
        assert_eq!(world.get().expect_err("nobody in particular").reason(), Reason::Forbidden, "{rules}");
        assert_eq!(world.invoke(&web).is_ok(), lets_web_in, "{rules}");
        let put = |patch: Value| world.mesh.patch_policy(&service(SERVICE), &patch);
        assert!(matches!(put(json!({"retry": {"maxRetries": 1}})), Err(RegistryError::Invalid(_))), "it still does not go with it");
        let settings = Settings { defaults: json!({"timeouts": {"totalMs": 60_000}}), ..Settings::default() };
        world.mesh.reconfigure(settings).expect("valid");
        assert_eq!(world.mesh.policy(&service(SERVICE)).timeouts.attempt_ms.0, if lets_web_in { 25_000 } else { 10_000 });
        assert_eq!(put(json!({"allow": null})), Ok(()));
        assert!(world.get().is_ok());
    }
}

#[test]
fn a_store_that_cannot_be_read_lets_no_mesh_begin() {
    let ledger = Ledger::default();
    ledger.broken.store(true, Ordering::SeqCst);
    let error = weft::Mesh::builder().store(ledger).background(false).build().err().expect("refused");
    assert_eq!(error.to_string(), "the registry cannot keep the change: the disk is full");
}

#[test]
fn the_store_hears_of_changes_of_one_instance_in_the_order_in_which_they_are_made() {
    let (world, ledger) = stored();
    for round in 0..50 {
        together(8, |thread| {
            let n = u16::try_from(round * 8 + thread).expect("few");
            match thread {
                0 => drop(world.mesh.deregister(&service(SERVICE), &id("a"))),
                1..4 => drop(world.mesh.set_weight(&service(SERVICE), &id("a"), Weight::new(u64::from(n)).expect("a weight"))),
                _ => drop(world.mesh.register(at_port("a", 5000 + n))),
            }
        });
        let last = ledger.kept().pop().expect("something");
        let now = world.mesh.service(SERVICE).map(|service| service.instances[0].clone());
        match now {
            None => assert_eq!(last, "instances/users/a gone"),
            Some(instance) => {
                assert!(last.starts_with(&format!("instances/users/a {} ", instance.port)), "{last}, but {instance:?}");
                assert!(!last.ends_with("Some(0)") || instance.weight == 0, "{last}, but {instance:?}");
            }
        }
    }
}
