//! What is registered with one mesh is known to all, and so is everything else that is shared.

use std::time::{Duration, Instant};

use serde_json::json;
use weft::mesh::RegistryError;
use weft::model::{AdminState, Weight};

use crate::cluster::Cluster;
use crate::support::{eventually, throughout};
use crate::{id, known, knows, mesh, register, registration, service};

#[test]
fn what_one_mesh_is_told_all_know() {
    let cluster = Cluster::start(1);
    let (a, b) = (mesh(&cluster), mesh(&cluster));
    a.register(registration("i", 4001)).expect("kept");
    eventually("b knows", || knows(&b, "i", 4001).then_some(()));
    b.set_state(&service(), &id("i"), AdminState::Drain, Some("deploy")).expect("kept");
    b.set_weight(&service(), &id("i"), Weight::new(7).expect("a weight")).expect("kept");
    a.patch_policy(&service(), &json!({"retry": {"maxRetries": 0}})).expect("kept");
    let seen = || a.service("s").map(|service| (service.instances[0].state, service.instances[0].weight));
    eventually("a knows what was said to b", || (seen() == Some(("drain", 7))).then_some(()));
    eventually("b has the policy", || (b.policy(&service()).retry.max_retries == 0).then_some(()));
    b.reset_policy(&service()).expect("kept");
    eventually("a has it no more", || (a.policy(&service()).retry.max_retries == 3).then_some(()));
    b.deregister(&service(), &id("i")).expect("kept");
    eventually("a knows it is gone", || known(&a).is_empty().then_some(()));
    register(&a, "later", 1);
    assert!(knows(&mesh(&cluster), "later", 1), "one that comes later knows at once");
}

#[test]
fn two_meshes_that_change_the_same_never_overwrite_each_other_unseen() {
    let cluster = Cluster::start(1);
    let (a, b) = (mesh(&cluster), mesh(&cluster));
    register(&a, "i", 1);
    eventually("b knows", || knows(&b, "i", 1).then_some(()));
    std::thread::scope(|scope| {
        scope.spawn(|| (1..40_u64).for_each(|n| a.set_weight(&service(), &id("i"), Weight::new(n).expect("a weight")).expect("kept")));
        scope.spawn(|| {
            for n in 0..40 {
                b.patch_policy(&service(), &json!({"retry": {"baseDelayMs": 100 + n}})).expect("kept");
                b.set_state(&service(), &id("i"), if n % 2 == 0 { AdminState::Drain } else { AdminState::Maint }, None).expect("kept");
            }
        });
    });
    let seen = |mesh: &weft::Mesh| mesh.service("s").map(|service| (service.instances[0].state, service.instances[0].weight));
    for mesh in [&a, &b] {
        eventually("both words stand", || (seen(mesh) == Some(("maint", 39))).then_some(()));
    }
}

#[test]
fn a_lease_ends_in_etcd_for_all_unless_it_is_renewed_anywhere() {
    let cluster = Cluster::start(1);
    let (a, b) = (mesh(&cluster), mesh(&cluster));
    for name in ["kept", "lost"] {
        let mut leased = registration(name, 1);
        leased.ttl = Some(Duration::from_secs(1));
        a.register(leased).expect("kept");
    }
    eventually("b knows", || (known(&b).len() == 2).then_some(()));
    let mut beaten = Instant::now();
    eventually("the one that is silent ends", || {
        if beaten.elapsed() > Duration::from_millis(200) {
            beaten = Instant::now();
            b.heartbeat(&service(), &id("kept")).expect("renewed");
        }
        (known(&a) == [("kept".to_owned(), 1)] && known(&b).len() == 1).then_some(())
    });
    assert_eq!(a.heartbeat(&service(), &id("lost")), Err(RegistryError::NotFound), "register again");
    let mut again = registration("lost", 2);
    again.ttl = Some(Duration::from_secs(30));
    a.register(again).expect("kept");
    eventually("b knows it again", || knows(&b, "lost", 2).then_some(()));
}

#[test]
fn the_meshes_are_shown_and_one_that_leaves_is_not_for_long() {
    let cluster = Cluster::start(1);
    let (a, b) = (mesh(&cluster), mesh(&cluster));
    b.announce_at(vec!["http://127.0.0.1:3000".to_owned()]);
    let shown = || a.standing().nodes.iter().filter(|node| node.version == env!("CARGO_PKG_VERSION")).count();
    eventually("both are shown", || (shown() == 2).then_some(()));
    eventually("with what was announced", || a.standing().nodes.iter().any(|node| !node.addresses.is_empty()).then_some(()));
    b.leave_store();
    eventually("it is shown no more", || (shown() == 1).then_some(()));
}

#[test]
fn what_another_program_writes_is_known_and_nonsense_is_left_alone() {
    let cluster = Cluster::start(1);
    let a = mesh(&cluster);
    register(&a, "i", 1);
    cluster.do_ctl(&["put", "/mesh/v1/instances/s/nonsense", "{"]);
    cluster.do_ctl(&["put", "/mesh/v1/instances/s/i", "{"]);
    cluster.do_ctl(&["put", "/mesh/v1/instances/s/kratos", r#"{"id":"kratos","name":"s","endpoints":["http://127.0.0.1:8000"]}"#]);
    eventually("it is known", || knows(&a, "kratos", 8000).then_some(()));
    assert!(knows(&a, "i", 1), "what was known stays");
    assert_eq!(known(&mesh(&cluster)), [("kratos".to_owned(), 8000)]);
}

#[test]
fn a_sweep_is_not_believed_at_once() {
    let cluster = Cluster::start(1);
    let a = mesh(&cluster);
    for n in 1..5 {
        register(&a, &format!("i{n}"), n);
    }
    eventually("it has heard of them", || {
        cluster.do_ctl(&["get", "--prefix", "--keys-only", "/mesh/v1/nodes/"]).contains("nodes").then_some(())
    });
    cluster.do_ctl(&["del", "--prefix", "/mesh/v1/instances/"]);
    eventually("it has heard of it", || (a.standing().withheld == 4).then_some(()));
    throughout(Duration::from_millis(300), "they stay", || known(&a).len() == 4);
    // Registering again keeps one again.
    a.register(registration("i1", 1)).expect("kept");
    assert!(cluster.do_ctl(&["get", "--prefix", "--keys-only", "/mesh/v1/instances/"]).contains("i1"));
    eventually("and it is not doubted any more", || (a.standing().withheld == 3).then_some(()));
}
