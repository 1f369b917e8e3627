//! A mesh over a directory: after a restart it is what it was, whoever changed what at once.

use std::thread;
use std::time::Instant;

use serde_json::json;
use weft::mesh::view::ServiceView;
use weft::model::{AdminState, InstanceId, ServiceName, Weight};
use weft::{Mesh, Registration};

use crate::Folder;

fn mesh(folder: &Folder) -> Mesh {
    Mesh::builder().store(folder.open()).background(false).build().expect("a mesh")
}

fn registration(service: &str, id: &str, port: u16) -> Registration {
    Registration::new(service, id, "127.0.0.1", port).expect("a registration")
}

/// Id, port, weight, state and its reason.
type Lasting = (String, u16, u16, String, Option<String>);

/// What of a service outlives a restart, in an order that does not depend on who came first.
fn lasting(mesh: &Mesh) -> Vec<(String, Vec<Lasting>)> {
    let instances = |service: ServiceView| {
        service.instances.into_iter().map(|i| (i.id, i.port, i.weight, i.state.to_owned(), i.state_reason)).collect()
    };
    mesh.services().into_iter().map(|service| (service.name.clone(), instances(service))).collect()
}

#[test]
fn a_restart_changes_nothing_that_was_acknowledged() {
    let folder = Folder::new();
    let (service, id) = (ServiceName::new("s").expect("a name"), InstanceId::new("a").expect("an id"));
    let before = {
        let mesh = mesh(&folder);
        for (id, port) in [("a", 1), ("b", 2), ("c", 3)] {
            mesh.register(registration("s", id, port)).expect("kept");
        }
        mesh.set_state(&service, &id, AdminState::Maint, Some("disk")).expect("kept");
        mesh.set_weight(&service, &id, Weight::new(7).expect("a weight")).expect("kept");
        mesh.deregister(&service, &InstanceId::new("b").expect("an id")).expect("kept");
        mesh.patch_policy(&service, &json!({"retry": {"maxRetries": 1}})).expect("kept");
        mesh.patch_policy(&service, &json!({"retry": {"baseDelayMs": 5}})).expect("kept");
        mesh.patch_policy(&ServiceName::new("t").expect("a name"), &json!({"retry": {"maxRetries": 0}})).expect("kept");
        mesh.reset_policy(&ServiceName::new("t").expect("a name")).expect("kept");
        lasting(&mesh)
    };
    let again = mesh(&folder);
    assert_eq!(lasting(&again), before);
    assert!(again.services()[0].instances.iter().all(|instance| instance.healthy));
    assert_eq!((again.policy(&service).retry.max_retries, again.policy(&service).retry.base_delay_ms.0), (1, 5));
    assert_eq!(again.policy(&ServiceName::new("t").expect("a name")).retry.max_retries, 3);
}

#[test]
fn however_many_change_the_same_at_once_a_restart_brings_back_what_was_in_force() {
    let folder = Folder::new();
    let service = ServiceName::new("s").expect("a name");
    let ids = ["a", "b", "c"].map(|id| InstanceId::new(id).expect("an id"));
    for round in 0..6_u16 {
        let mesh = mesh(&folder);
        thread::scope(|scope| {
            for thread in 0..12_u16 {
                let (mesh, service, ids) = (&mesh, &service, &ids);
                scope.spawn(move || {
                    for n in 0..30_u16 {
                        let id = &ids[usize::from((thread + n) % 3)];
                        let number = 1 + (round * 12 + thread) * 30 + n;
                        // Those that are not there just now are refused, which is right too.
                        match thread % 4 {
                            0 => drop(mesh.deregister(service, id)),
                            1 => drop(mesh.set_weight(service, id, Weight::new(u64::from(number % 1000)).expect("a weight"))),
                            2 => drop(mesh.set_state(service, id, AdminState::Drain, Some(&number.to_string()))),
                            _ => mesh.register(registration("s", id.as_str(), number)).expect("kept"),
                        }
                        mesh.patch_policy(service, &json!({"retry": {"baseDelayMs": number}})).expect("kept");
                    }
                });
            }
        });
        let (before, delay) = (lasting(&mesh), mesh.policy(&service).retry.base_delay_ms);
        drop(mesh);
        let again = self::mesh(&folder);
        assert_eq!((lasting(&again), again.policy(&service).retry.base_delay_ms), (before, delay), "round {round}");
    }
}

#[test]
fn threads_that_write_at_once_share_syncs() {
    let folder = Folder::new();
    let mesh = mesh(&folder);
    let start = Instant::now();
    thread::scope(|scope| {
        for thread in 0..64 {
            let mesh = &mesh;
            scope.spawn(move || {
                for n in 0..20 {
                    mesh.register(registration(&format!("s{thread}"), &format!("i{n}"), 1)).expect("kept");
                }
            });
        }
    });
    println!("{:.0} durable registrations a second", 1280.0 / start.elapsed().as_secs_f64());
    drop(mesh);
    assert_eq!(self::mesh(&folder).services().iter().map(|service| service.instances.len()).sum::<usize>(), 1280);
}
