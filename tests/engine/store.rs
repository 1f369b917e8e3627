//! The store: a change is acknowledged once it is kept, and what cannot be kept has not happened.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use weft::Registration;
use weft::mesh::RegistryError;
use weft::mesh::ports::{Change, Store, StoreError};
use weft::model::{AdminState, Limit, Weight};

use super::world::{SERVICE, World, at_port, id, ok, service};

/// Keeps what it is told, until it fails.
#[derive(Clone, Default)]
struct Ledger {
    broken: Arc<AtomicBool>,
    kept: Arc<Mutex<Vec<String>>>,
}

impl Store for Ledger {
    fn commit(&self, change: &Change<'_>) -> Result<(), StoreError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(StoreError("the disk is full".to_owned()));
        }
        let kept = match change {
            Change::Register(registration) => format!("register {}", registration.id),
            Change::Remove { id, .. } => format!("remove {id}"),
            Change::State { id, state, .. } => format!("{} {id}", state.as_str()),
            Change::Weight { id, weight, .. } => format!("weight {id} {}", weight.get()),
            Change::Policy { service, patch } => format!("policy {service} {}", patch.map_or("none".to_owned(), ToString::to_string)),
        };
        self.kept.lock().expect("no panic inside").push(kept);
        Ok(())
    }
}

impl Ledger {
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
    let policy = format!("policy users {retry}");
    assert_eq!(ledger.kept(), ["register a", "drain a", "weight a 3", &policy, "policy users none", "remove a"]);
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
    assert_eq!(ledger.kept(), ["register a", "register b"]);
}
