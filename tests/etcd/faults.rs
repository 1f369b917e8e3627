//! Members that die, stop, forget or cannot be reached, and what a mesh makes of it.

use std::fs;
use std::time::{Duration, Instant};

use weft::mesh::RegistryError;

use crate::cluster::Cluster;
use crate::support::hole::BlackHole;
use crate::support::{eventually, throughout};
use crate::{becomes_current, config, id, is_stale, known, knows, mesh, mesh_of, register, registration, service};

/// Two meshes over three members, which know of one another.
fn three() -> (Cluster, weft::Mesh, weft::Mesh) {
    let cluster = Cluster::start(3);
    let (a, b) = (mesh(&cluster), mesh(&cluster));
    register(&a, "before", 1);
    eventually("b knows", || knows(&b, "before", 1).then_some(()));
    (cluster, a, b)
}

#[test]
fn when_the_leader_is_killed_the_next_change_is_made_and_known() {
    let (mut cluster, a, b) = three();
    cluster.kill(cluster.leader());
    register(&a, "after", 2);
    eventually("b knows", || knows(&b, "after", 2).then_some(()));
    assert!(knows(&a, "before", 1) && knows(&b, "before", 1));
}

#[test]
fn when_the_leader_stands_still_the_next_change_is_made_and_known() {
    let (cluster, a, b) = three();
    let leader = cluster.leader();
    cluster.signal(leader, "STOP");
    register(&a, "after", 2);
    eventually("b knows", || knows(&b, "after", 2).then_some(()));
    cluster.signal(leader, "CONT");
    register(&b, "later", 3);
    eventually("a knows", || knows(&a, "later", 3).then_some(()));
}

#[test]
fn without_a_majority_calls_go_on_changes_are_refused_in_time_and_all_is_well_again_with_it() {
    let (mut cluster, a, b) = three();
    cluster.kill(0);
    cluster.kill(1);
    let began = Instant::now();
    let refused = a.register(registration("refused", 2));
    assert!(matches!(refused, Err(RegistryError::Unavailable(_))), "{refused:?}");
    // Far from a measurement: etcd itself would take seven seconds.
    assert!(began.elapsed() < Duration::from_secs(4));
    eventually("that is said", || (is_stale(&a) && is_stale(&b)).then_some(()));
    let refused = a.metrics().registry.refused;
    assert!(refused > 0 && a.metrics().registry.why.is_some());
    assert!(knows(&a, "before", 1) && knows(&b, "before", 1));
    cluster.run(0);
    register(&a, "after", 3);
    eventually("b knows", || knows(&b, "after", 3).then_some(()));
    becomes_current(&a);
    becomes_current(&b);
}

#[test]
fn etcd_that_stands_still_is_noticed_by_the_first_change_and_by_those_who_only_listen() {
    let cluster = Cluster::start(1);
    let (a, b) = (mesh(&cluster), mesh(&cluster));
    register(&a, "before", 1);
    eventually("b knows", || knows(&b, "before", 1).then_some(()));
    cluster.signal(0, "STOP");
    assert!(matches!(a.register(registration("refused", 2)), Err(RegistryError::Unavailable(_))));
    eventually("both say so", || (is_stale(&a) && is_stale(&b)).then_some(()));
    throughout(Duration::from_millis(100), "they know what they knew", || knows(&a, "before", 1) && knows(&b, "before", 1));
    cluster.signal(0, "CONT");
    register(&a, "after", 3);
    eventually("b knows", || knows(&b, "after", 3).then_some(()));
}

#[test]
fn what_was_compacted_away_is_read_anew() {
    let mut cluster = Cluster::start(1);
    let (a, b) = (mesh(&cluster), mesh(&cluster));
    for name in ["gone", "stays", "stays-too"] {
        register(&a, name, 1);
    }
    eventually("b knows", || (known(&b).len() == 3).then_some(()));
    let resyncs = b.standing().resyncs;
    cluster.aside(|cluster| {
        cluster.do_ctl(&["del", "/mesh/v1/instances/s/gone"]);
        cluster.do_ctl(&["compact", &cluster.revision().to_string()]);
    });
    register(&a, "after", 2);
    for mesh in [&a, &b] {
        eventually("it is known", || (known(mesh).len() == 3 && knows(mesh, "after", 2)).then_some(()));
        becomes_current(mesh);
    }
    assert!(b.standing().resyncs > resyncs);
    assert_eq!(b.standing().withheld, 0);
}

#[test]
fn compaction_under_an_open_watch_takes_nothing_from_it() {
    let cluster = Cluster::start(1);
    let (a, b) = (mesh(&cluster), mesh(&cluster));
    for n in 1..30 {
        a.register(registration("i", n)).expect("kept");
        if n % 10 == 0 {
            cluster.do_ctl(&["compact", &cluster.revision().to_string()]);
        }
        eventually("b knows", || knows(&b, "i", n).then_some(()));
    }
}

#[test]
fn an_etcd_restored_from_a_backup_takes_back_nothing_that_was_registered_since() {
    let mut cluster = Cluster::start(1);
    let (a, b) = (mesh(&cluster), mesh(&cluster));
    register(&a, "before", 1);
    cluster.copy("m0", "backup");
    register(&a, "since", 2);
    register(&a, "before", 3);
    eventually("b knows", || (knows(&b, "since", 2) && knows(&b, "before", 3)).then_some(()));
    cluster.copy("backup", "m0");
    for mesh in [&a, &b] {
        let expected = [("before".to_owned(), 1), ("since".to_owned(), 2)];
        eventually("what etcd has counts, what it lacks stays, in doubt", || {
            (mesh.standing().withheld == 1 && known(mesh) == expected).then_some(())
        });
    }
    eventually("it is kept again", || {
        // More than once, as instances do: the first may come while it is still taken for kept.
        register(&b, "since", 2);
        (a.standing().withheld == 0 && b.standing().withheld == 0).then_some(())
    });
    register(&b, "before", 4);
    eventually("a knows", || knows(&a, "before", 4).then_some(()));
}

/// Two meshes that know of one instance, and their etcd, of which as much is set aside as `backup`.
fn backed_up() -> (Cluster, weft::Mesh, weft::Mesh) {
    let mut cluster = Cluster::start(1);
    let (a, b) = (mesh(&cluster), mesh(&cluster));
    register(&a, "before", 1);
    eventually("b knows", || knows(&b, "before", 1).then_some(()));
    cluster.copy("m0", "backup");
    (cluster, a, b)
}

/// Restores what was set aside as `backup`, and has it come further than it was before anybody hears of it.
fn restore_further(cluster: &mut Cluster) {
    let far = cluster.revision();
    cluster.aside(|cluster| {
        cluster.copy("backup", "m0");
        let other = r#"{"id":"other","name":"s","host":"127.0.0.1","port":9}"#;
        while cluster.revision() <= far {
            cluster.do_ctl(&["put", "/mesh/v1/instances/s/other", other]);
        }
    });
}

#[test]
fn a_restored_etcd_that_has_come_further_again_is_known_by_what_it_does_not_know() {
    let (mut cluster, a, b) = backed_up();
    register(&a, "since", 2);
    register(&b, "before", 3);
    eventually("both have heard of it", || (knows(&a, "before", 3) && knows(&b, "since", 2)).then_some(()));
    restore_further(&mut cluster);
    for mesh in [&a, &b] {
        let expected = [("before", 1), ("other", 9), ("since", 2)].map(|(id, port)| (id.to_owned(), port));
        eventually("what etcd has counts, what it lacks stays, in doubt", || {
            (mesh.standing().withheld == 1 && known(mesh) == expected).then_some(())
        });
    }
    eventually("it is kept again", || {
        // More than once, as instances do: the first may come while it is still taken for kept.
        register(&b, "since", 2);
        (a.standing().withheld == 0 && b.standing().withheld == 0).then_some(())
    });
}

#[test]
fn a_restored_etcd_that_has_come_further_again_is_known_by_what_is_no_longer_deleted() {
    let (mut cluster, a, b) = backed_up();
    // Refused until the mesh has found that etcd is back.
    eventually("it is gone", || b.deregister(&service(), &id("before")).ok());
    eventually("a has heard of it", || known(&a).is_empty().then_some(()));
    restore_further(&mut cluster);
    eventually("it is there again", || (knows(&a, "before", 1) && knows(&a, "other", 9)).then_some(()));
    becomes_current(&a);
    assert_eq!(a.standing().withheld, 0);
}

#[test]
fn a_wiped_etcd_empties_no_mesh_and_what_is_registered_then_is_known() {
    let mut cluster = Cluster::start(1);
    let (a, b) = (mesh(&cluster), mesh(&cluster));
    for n in 1..4 {
        register(&a, &format!("i{n}"), n);
    }
    eventually("b knows", || (known(&b).len() == 3).then_some(()));
    cluster.wipe(0);
    cluster.run(0);
    for mesh in [&a, &b] {
        eventually("they are doubted", || (mesh.standing().withheld == 3).then_some(()));
        assert_eq!(known(mesh).len(), 3);
    }
    register(&a, "new", 9);
    register(&b, "i1", 1);
    eventually("b knows", || knows(&b, "new", 9).then_some(()));
    eventually("what registers again is kept again", || (a.standing().withheld == 2).then_some(()));
    let later = mesh(&cluster);
    assert_eq!(known(&later), [("i1".to_owned(), 1), ("new".to_owned(), 9)]);
}

#[test]
fn a_mesh_that_is_cut_off_from_etcd_alone_goes_on_with_what_it_knows() {
    let cluster = Cluster::start(1);
    let a = mesh(&cluster);
    register(&a, "before", 1);
    let state = cluster.folder().join("state");
    fs::create_dir(&state).expect("a directory");
    {
        let cached = mesh_of(&config(&cluster), Some(&state));
        assert!(knows(&cached, "before", 1));
        register(&cached, "cached", 2);
        eventually("the cache has it", || {
            let (documents, _) = weft::outbound::store::Disk::look(&state.join("etcd")).expect("readable");
            (documents.len() == 2).then_some(())
        });
    }
    let hole = BlackHole::new();
    let nowhere = weft::outbound::etcd::Config { endpoints: vec![format!("http://{}", hole.at)], ..config(&cluster) };
    let etcd = weft::outbound::etcd::Etcd::open(&nowhere, None).expect("settings");
    let nothing = weft::Mesh::builder().store(etcd).build();
    assert!(nothing.is_err(), "it cannot begin with nothing");
    let open = || weft::outbound::etcd::Etcd::open(&nowhere, Some(&state));
    // The one before lets go of the directory when its thread has noticed.
    let etcd = eventually("the directory is free", || open().ok());
    let off = weft::Mesh::builder().store(etcd).build().expect("a mesh");
    assert_eq!(known(&off).len(), 2);
    assert!(is_stale(&off) && off.metrics().registry.stale_seconds >= 0.0);
    assert!(matches!(off.register(registration("refused", 3)), Err(RegistryError::Unavailable(_))));
    assert_eq!(known(&a).len(), 2, "all others are well");
}
