//! Watching: who waits for a change of a service is woken by it, and by nothing else.

use weft::model::{AdminState, HealthTarget};
use weft::policy::health::CheckResult;

use super::world::{SERVICE, World, id, ms, ok, service, together, until};

#[test]
fn a_watcher_is_told_of_every_change_and_of_nothing_else() {
    let world = World::new().with("a", [ok()]);
    world.register("a", |registration| registration.health_check = HealthTarget::new("http://10.0.0.1/health").ok());
    world.checks("a", [CheckResult::Passed, CheckResult::Unreachable]);
    let index = || world.mesh.watch(SERVICE, 0, world.now()).expect("registered");
    let changes: [(&str, &dyn Fn(), u64); 9] = [
        ("the same again", &|| world.register("a", |_| ()), 0),
        ("a call", &|| drop(world.get()), 0),
        ("a heartbeat", &|| world.mesh.heartbeat(&service(SERVICE), &id("a")).expect("known"), 0),
        ("a passed check", &|| world.mesh.check_now(), 0),
        ("a new one", &|| world.register("b", |_| ()), 1),
        ("a state", &|| world.state("b", AdminState::Drain), 1),
        ("a weight", &|| world.weight("b", 5), 1),
        ("a zone", &|| world.register("b", |registration| registration.zone = Some("north".to_owned())), 1),
        ("one less", &|| world.mesh.deregister(&service(SERVICE), &id("b")).expect("known"), 1),
    ];
    for (name, change, steps) in changes {
        let before = index();
        change();
        assert_eq!(index(), before + steps, "{name}");
    }
}

#[test]
fn a_watch_ends_with_its_time_when_nothing_changes() {
    let world = World::new().with("a", [ok()]);
    let index = world.mesh.watch(SERVICE, 0, world.now()).expect("registered");
    assert_eq!(world.mesh.watch(SERVICE, index, world.now() + ms(30_000)), Some(index));
    assert_eq!(world.elapsed(), 30_000);
    assert_eq!(world.mesh.watch("nobody", 1, world.now() + ms(30_000)), None);
}

#[test]
fn a_change_wakes_all_who_watch() {
    let world = World::of_threads().with("a", [ok()]);
    let changes: [&(dyn Fn() + Sync); 4] = [
        &|| world.register("b", |_| ()),
        &|| world.state("a", AdminState::Drain),
        &|| world.mesh.deregister(&service(SERVICE), &id("b")).expect("known"),
        &|| world.mesh.deregister(&service(SERVICE), &id("a")).expect("known"),
    ];
    for change in changes {
        let index = world.mesh.watch(SERVICE, 0, world.now()).expect("registered");
        let asleep = world.sleeps();
        let seen = together(9, |n| {
            if n == 8 {
                until(|| world.sleeps() == asleep + 8);
                change();
                return None;
            }
            world.mesh.watch(SERVICE, index, world.now() + ms(30_000))
        });
        assert!(seen.iter().all(|now| *now != Some(index)), "{seen:?}");
    }
    assert_eq!(world.elapsed(), 0);
}

#[test]
fn an_index_is_never_seen_twice_for_different_things() {
    let world = World::new().with("a", [ok()]);
    let seen = world.mesh.watch(SERVICE, 0, world.now()).expect("registered");
    world.mesh.deregister(&service(SERVICE), &id("a")).expect("known");
    world.register("b", |_| ());
    let now = world.mesh.watch(SERVICE, seen, world.now() + ms(30_000)).expect("registered");
    assert!(now > seen, "{now} after {seen}");
    assert_eq!(world.elapsed(), 0, "it need not be waited for");
}
