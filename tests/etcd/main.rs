//! The registry in a real etcd, one member or three, and everything that can happen to them.

// In a test, to panic is to say what is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod cluster;
mod cut_off;
mod faults;
mod gates;
mod hostile;
mod model;
mod rolling;
mod sharing;
#[path = "../support/mod.rs"]
#[allow(dead_code)] // Shared with tests that use more of it.
mod support;

use std::path::Path;

use weft::mesh::RegistryError;
use weft::model::{InstanceId, ServiceName};
use weft::outbound::etcd::{Config, Etcd};
use weft::{Mesh, Registration};

use crate::cluster::Cluster;
use crate::support::eventually;

pub(crate) fn service() -> ServiceName {
    ServiceName::new("s").expect("a name")
}

pub(crate) fn id(id: &str) -> InstanceId {
    InstanceId::new(id).expect("an id")
}

pub(crate) fn registration(id: &str, port: u16) -> Registration {
    Registration::new("s", id, "127.0.0.1", port).expect("a registration")
}

pub(crate) fn config(cluster: &Cluster) -> Config {
    Config { endpoints: cluster.endpoints(), ..Config::default() }
}

pub(crate) fn mesh_of(config: &Config, state: Option<&Path>) -> Mesh {
    let etcd = Etcd::open(config, state).expect("settings");
    Mesh::builder().store(etcd).build().expect("a mesh")
}

pub(crate) fn mesh(cluster: &Cluster) -> Mesh {
    mesh_of(&config(cluster), None)
}

/// Ids and ports of the instances that a mesh knows, sorted.
pub(crate) fn known(mesh: &Mesh) -> Vec<(String, u16)> {
    let all = mesh.service("s").map(|service| service.instances).unwrap_or_default();
    let mut all: Vec<_> = all.into_iter().map(|instance| (instance.id, instance.port)).collect();
    all.sort();
    all
}

pub(crate) fn knows(mesh: &Mesh, id: &str, port: u16) -> bool {
    known(mesh).contains(&(id.to_owned(), port))
}

/// Registers until it is acknowledged.
#[track_caller]
pub(crate) fn register(mesh: &Mesh, id: &str, port: u16) {
    eventually("it is acknowledged", || match mesh.register(registration(id, port)) {
        Ok(()) => Some(()),
        Err(RegistryError::Unavailable(_)) => None,
        Err(other) => panic!("{other}"),
    });
}

pub(crate) fn is_stale(mesh: &Mesh) -> bool {
    mesh.metrics().registry.state == "stale"
}

#[track_caller]
pub(crate) fn becomes_current(mesh: &Mesh) {
    eventually("it is current again", || (!is_stale(mesh)).then_some(()));
}
