//! The mesh at a glance: who is fine, what is the matter and since when, and what was counted lately.

use serde_json::json;
use weft::mesh::overview::{Detail, ServiceOverview, Sort};
use weft::model::{AdminState, HealthTarget};
use weft::policy::health::CheckResult;
use weft::telemetry::verdict::Level;

use super::world::{SERVICE, World, answer, id, ok, service};

impl World {
    fn glance(&self) -> ServiceOverview {
        self.mesh.overview().services.into_iter().next().expect("a service")
    }

    fn detail(&self, sort: Sort) -> Detail {
        self.mesh.detail(SERVICE, sort, 0, 100).expect("a service")
    }

    fn in_order(&self, sort: Sort) -> Vec<String> {
        self.detail(sort).instances.into_iter().map(|one| one.view.id).collect()
    }

    fn words(&self) -> Vec<String> {
        self.glance().troubles.into_iter().map(|trouble| trouble.what).collect()
    }

    /// Calls each 100 ms, and a step of the history each 5 s.
    fn live(&self, steps: usize) {
        for _ in 0..steps {
            for _ in 0..50 {
                let _ = self.get();
                self.pass(100);
            }
            self.mesh.remember();
        }
    }
}

#[test]
fn what_is_not_fine_says_since_when() {
    let world = World::new().with("a", [ok()]).with("b", [ok()]);
    assert_eq!((world.glance().level, world.glance().since, world.words()), (Level::Fine, None, vec![]));
    world.pass(7_000);
    world.checks("b", [CheckResult::Unreachable]);
    world.register("b", |registration| registration.health_check = HealthTarget::new("http://10.0.0.1:4001/health").ok());
    world.mesh.check_now();
    let seen = world.glance();
    assert_eq!((seen.level, seen.since, world.words()), (Level::Degraded, Some(7_000), vec!["1 of 2 instances is unhealthy".to_owned()]));
    world.pass(3_000);
    world.state("a", AdminState::Maint);
    assert_eq!((world.glance().level, world.glance().since), (Level::Down, Some(7_000)), "it has not been fine since");
    world.state("a", AdminState::Ready);
    world.checks("b", [CheckResult::Passed]);
    world.mesh.check_now();
    assert_eq!((world.glance().level, world.glance().since), (Level::Fine, None));
}

#[test]
fn the_worst_off_come_first() {
    let world = World::new().with("a", [ok()]);
    for (name, weight) in [("aa", 1), ("zz", 0)] {
        let mut registration = weft::Registration::new(name, "i", "10.0.0.1", 80).expect("valid");
        registration.weight = Some(weft::model::Weight::new(weight).expect("valid"));
        world.mesh.register(registration).expect("registered");
    }
    let overview = world.mesh.overview();
    let names: Vec<&str> = overview.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!((names, overview.level, overview.services_total), (vec!["zz", "aa", SERVICE], Level::Down, 3));
    assert_eq!((overview.heads.total, overview.heads.available, overview.heads.paused), (3, 2, 1));
}

#[test]
fn the_last_quarter_of_an_hour_is_there_for_who_comes_late() {
    let world = World::new().with("a", [ok().after(10)]);
    world.live(3);
    let (times, points) = world.mesh.points(0);
    assert_eq!((points.calls.as_slice(), points.failures.as_slice()), (&[50, 50, 50][..], &[0, 0, 0][..]));
    assert!(points.p50.iter().chain(&points.p99).all(|ms| (9.8..=10.2).contains(ms)), "{points:?}");
    assert_eq!(times.len(), 3);
    assert_eq!(world.mesh.points_of(SERVICE, 2, 3).calls, [50], "only what is new");
    assert_eq!(world.mesh.points_of(SERVICE, 3, 3).calls, [0_u32; 0]);
    assert_eq!(world.mesh.points_of("nobody", 0, 3).calls, [0_u32; 0]);
    world.live(200);
    assert_eq!(world.mesh.points(0).1.calls.len(), 180);
    world.mesh.deregister(&service(SERVICE), &id("a")).expect("known");
    world.mesh.remember();
    assert_eq!(world.mesh.points(0).1.calls.last(), Some(&0), "the whole remembers what has gone");
}

#[test]
fn the_last_minute_is_about_the_last_minute() {
    let world = World::new().policy(json!({"circuitBreaker": {"failureThreshold": 1000}, "retry": {"maxRetries": 0}}));
    let world = world.with("a", [answer(500)]);
    world.live(12);
    assert_eq!((world.glance().level, world.words()), (Level::Down, vec!["100.0 % of the calls of the last minute failed".to_owned()]));
    world.script("a", [ok()]);
    world.live(13);
    let seen = world.glance();
    assert_eq!((seen.level, seen.failures, seen.recent.failures), (Level::Fine, 600, 0));
    assert!((40.0..=65.0).contains(&seen.recent.seconds), "{}", seen.recent.seconds);
}

#[test]
fn an_instance_that_is_much_slower_than_the_others_is_named() {
    let world = World::new().with("a", [ok().after(5)]).with("b", [ok().after(250)]).with("c", [ok().after(6)]);
    world.live(2);
    assert_eq!(world.words(), ["b is much slower than the others"]);
    assert_eq!(world.in_order(Sort::Latency)[0], "b");
    let slow: Vec<bool> = world.detail(Sort::Id).instances.iter().map(|one| one.slow).collect();
    assert_eq!(slow, [false, true, false]);
    world.script("b", [ok().after(5)]);
    world.live(13);
    assert_eq!(world.words(), [""; 0]);
}

#[test]
fn instances_are_shown_page_by_page_in_the_order_that_was_asked_for() {
    let world = World::new().with("a", [ok()]).with("b", [ok()]).with("c", [ok()]).with("d", [ok()]);
    world.weight("c", 3);
    world.state("d", AdminState::Drain);
    world.live(1);
    assert_eq!(world.in_order(Sort::Level), ["d", "a", "b", "c"]);
    assert_eq!(world.in_order(Sort::Calls)[0], "c");
    assert_eq!(world.in_order(Sort::Id), ["a", "b", "c", "d"]);
    let shares: Vec<f64> = world.detail(Sort::Id).instances.iter().map(|one| one.share_percent).collect();
    assert_eq!(shares, [20.0, 20.0, 60.0, 0.0]);
    let page = world.mesh.detail(SERVICE, Sort::Id, 1, 2).expect("a service");
    assert_eq!(page.instances.iter().map(|one| one.view.id.as_str()).collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!((page.service.heads.total, page.instances[0].why.as_str()), (4, "available"));
    let drained = &world.detail(Sort::Level).instances[0];
    assert_eq!((drained.level, drained.available, drained.why.as_str()), (Level::Paused, false, "state is drain"));
    assert!(world.mesh.detail("nobody", Sort::Id, 0, 9).is_none());
}
