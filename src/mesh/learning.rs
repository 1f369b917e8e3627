//! What others change in a store that is shared, and how it comes into force here.
//!
//! What is told may be late: this mesh itself may have changed the same thing since. So everything that is told takes the turn of its key,
//! as every change does, and counts only if it is newer than what is known; what was removed here is remembered (buried) until everything
//! older has been told.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use super::Mesh;
use super::instances::RegistryError;
use super::keeping::Said;
use super::ports::{Standing, StoreError};
use super::record::{Document, Key, Record, Version};
use super::registry::Put;
use crate::model::{Host, InstanceId};
use crate::telemetry::events::Kind;

/// How much what is told counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trust {
    /// More than what is older.
    Newer,
    /// More than anything: versions were begun anew.
    Anyway,
}

impl Mesh {
    /// Takes over what is kept in a shared store, unless something newer is known. Answers whether it is news.
    pub fn learn(&self, document: Document, version: Version, trust: Trust) -> bool {
        let key = document.key();
        let _turn = self.inner.turns.take(key.clone());
        let buried = self.inner.buried.with(|buried| buried.get(&key).copied());
        if trust == Trust::Newer && self.known_version(&key).max(buried).is_some_and(|known| known >= version) {
            return false;
        }
        match document {
            Document::Instance(record) => self.learn_instance(&record, version),
            Document::Policy(service, patch) => {
                let put = Put { patch: Arc::new(patch), version, in_part: false };
                let (kind, detail) = match self.inner.registry.put_kept(&service, &put) {
                    None => (Kind::Policy, "policy was changed at another mesh".to_owned()),
                    Some(fault) => {
                        let why = "is not in force but for its rules, it does not go with the configuration";
                        (Kind::Warning, format!("a policy from another mesh {why}: {fault}"))
                    }
                };
                self.inner.events.publish(kind, Some(&service), None, detail);
            }
        }
        true
    }

    /// Takes over that something is no longer kept in a shared store, unless something newer is known. Answers whether it is news.
    pub fn learn_gone(&self, key: &Key, version: Version, trust: Trust) -> bool {
        let _turn = self.inner.turns.take(key.clone());
        let Some(known) = self.known_version(key) else { return false };
        if trust == Trust::Newer && known >= version {
            return false;
        }
        match key {
            Key::Instance(service, id) => self.remove(service, id, None, Kind::Deregistered, "gone from the shared registry"),
            Key::Policy(service) => {
                // What is valid with a layer is valid without it: the configuration was checked by itself.
                let gone = self.inner.registry.put(service, None).is_ok();
                self.inner.events.publish(Kind::Policy, Some(service), None, "policy was taken back at another mesh".to_owned());
                gone
            }
        }
    }

    /// All that is known with the version it had in a shared store: 0 is not kept there.
    pub fn known(&self) -> Vec<(Key, Version)> {
        let mut all: Vec<(Key, Version)> = Vec::new();
        for cluster in self.inner.registry.all() {
            let key = |id: &InstanceId| Key::Instance(cluster.name.clone(), id.clone());
            all.extend(cluster.look(|state| state.seats.iter().map(|seat| (key(&seat.member.id), seat.version)).collect::<Vec<_>>()));
        }
        all.extend(self.inner.registry.layers().put.iter().map(|(service, put)| (Key::Policy(service.clone()), put.version)));
        all
    }

    /// A shared store does not keep an instance any more that goes on being known: registering it again will keep it again.
    pub fn learn_unkept(&self, key: &Key) {
        let _turn = self.inner.turns.take(key.clone());
        if let Key::Instance(service, id) = key
            && let Some(cluster) = self.inner.registry.find(service.as_str())
        {
            cluster.look(|state| {
                if let Some(seat) = state.seats.iter_mut().find(|seat| seat.member.id == *id) {
                    seat.version = Version::default();
                }
            });
        }
    }

    /// Everything up to `version` has been told.
    pub fn learned_until(&self, version: Version) {
        self.inner.buried.with(|buried| buried.retain(|_, end| *end > version));
    }

    /// Whether checks say that an instance is not healthy, or it is not there at all.
    pub fn is_failing(&self, key: &Key) -> bool {
        let Key::Instance(service, id) = key else { return false };
        let Some(cluster) = self.inner.registry.find(service.as_str()) else { return true };
        cluster.look(|state| state.seats.iter().find(|seat| seat.member.id == *id).is_none_or(|seat| !seat.health.is_healthy()))
    }

    /// Has the store tell from now on what others change in it.
    ///
    /// # Errors
    /// The system refused a thread.
    pub(crate) fn follow_store(&self) -> io::Result<()> {
        self.inner.store.follow(self)
    }

    /// How it is with the store.
    pub fn standing(&self) -> Standing {
        self.inner.store.standing()
    }

    /// Tells the store where this mesh listens.
    pub fn announce_at(&self, addresses: Vec<String>) {
        self.inner.store.announce(addresses);
    }

    /// Tells the store that this mesh is about to end.
    pub fn leave_store(&self) {
        self.inner.store.leave();
    }

    /// Something about the shared store itself has happened.
    pub fn tell_of_store(&self, is_trouble: bool, detail: String) {
        self.inner.events.publish(if is_trouble { Kind::Warning } else { Kind::Restored }, None, None, detail);
    }

    /// Deletes from the store, and remembers it until what others tell has come past that. The caller has the turn of the key.
    pub(super) fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let end = self.inner.store.delete(key)?;
        if end > Version::default() {
            self.inner.buried.with(|buried| buried.insert(key.clone(), end));
        }
        Ok(())
    }

    /// Whether the store keeps a record that is as before, its lease included, which is renewed when the instance was heard of.
    pub(super) fn is_kept(&self, record: &Record, seen: Version, renews: bool) -> Result<bool, RegistryError> {
        let store = &self.inner.store;
        if !self.has_version(seen) {
            return Ok(false);
        }
        match record.registration.ttl.filter(|_| renews && store.is_shared()) {
            Some(ttl) => Ok(store.renew(&record.key(), ttl)?),
            None => Ok(true),
        }
    }

    /// Whether something with that version is kept. In a shared store something may be known that is not: from the configuration, from a
    /// time before the store was last reached, or since the store has lost it.
    pub(super) fn has_version(&self, seen: Version) -> bool {
        seen > Version::default() || !self.inner.store.is_shared()
    }

    /// The version of what is known; `None` when nothing is.
    fn known_version(&self, key: &Key) -> Option<Version> {
        match key {
            Key::Instance(service, id) => {
                let cluster = self.inner.registry.find(service.as_str())?;
                cluster.look(|state| state.seats.iter().find(|seat| seat.member.id == *id).map(|seat| seat.version))
            }
            Key::Policy(service) => self.inner.registry.layers().put.get(service).map(|put| put.version),
        }
    }

    fn learn_instance(&self, record: &Record, version: Version) {
        // A name is resolved by the health checker, at once: whoever tells must not wait for it.
        let addresses: Vec<IpAddr> = match &record.registration.host {
            Host::Ip(ip) => self.judged(&record.registration.host, vec![*ip], record.registration.port.get()),
            Host::Name(_) => Vec::new(),
        };
        let said = Said { addresses: Some(addresses), is_settled: true, ..Said::default() };
        // Without limits there is nothing that could refuse it.
        let _ = self.seat(record, version, said);
    }
}
