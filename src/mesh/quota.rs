//! How much one caller may take: calls of one service under way at once, and instances registered.

use std::collections::HashSet;
use std::sync::Arc;

use super::Mesh;
use super::cluster::Cluster;
use super::instances::RegistryError;
use super::record::Key;
use super::seat::Seat;
use crate::model::{Limit, Registration};

/// A caller's call under way, counted until it is dropped.
#[must_use = "dropping it ends the count"]
pub(super) struct Share {
    cluster: Arc<Cluster>,
    caller: u64,
}

impl Share {
    /// One call more of `caller` (a hash), if there are then at most `most`.
    pub(super) fn take(cluster: &Arc<Cluster>, caller: u64, most: u32) -> Option<Self> {
        cluster.look(|state| {
            let running = state.callers.entry(caller).or_insert(0);
            (*running < most).then(|| {
                *running += 1;
                Self { cluster: Arc::clone(cluster), caller }
            })
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.cluster.look(|state| {
            if let Some(running) = state.callers.get_mut(&self.caller) {
                *running = running.saturating_sub(1);
                if *running == 0 {
                    state.callers.remove(&self.caller);
                }
            }
        });
    }
}

/// A registration under way, counted for its owner until it is dropped.
#[must_use = "dropping it ends the count"]
pub(super) struct Claim<'a> {
    mesh: &'a Mesh,
    owner: Arc<str>,
    key: Key,
}

impl Mesh {
    /// Claims a place for an instance, if its owner then has at most `most`. Two claims at once may refuse each other the last place, and never
    /// both take it. An instance that is claimed counts once, whether it is there or not: who registers again takes no place, and who goes
    /// meanwhile leaves none.
    pub(super) fn claim(&self, registration: &Registration, most: Option<usize>) -> Result<Option<Claim<'_>>, RegistryError> {
        let Some((owner, most)) = registration.owner.clone().zip(most) else { return Ok(None) };
        let key = Key::Instance(registration.service.clone(), registration.id.clone());
        let claimed: HashSet<Key> = self.inner.claims.with(|claims| {
            let claimed = claims.entry(Arc::clone(&owner)).or_default();
            claimed.push(key.clone());
            claimed.iter().cloned().collect()
        });
        let claim = Claim { mesh: self, owner, key };
        let of_owner = |other: &Registration| other.owner.as_ref() == Some(&claim.owner);
        let is_claimed = |other: &Registration| claimed.contains(&Key::Instance(other.service.clone(), other.id.clone()));
        let is_counted = |seat: &&Seat| of_owner(&seat.registration) && !is_claimed(&seat.registration);
        let count = |cluster: Arc<Cluster>| cluster.look(|state| state.seats.iter().filter(is_counted).count());
        let there: usize = self.inner.registry.all().into_iter().map(count).sum();
        if there + claimed.len() > most { Err(RegistryError::Full(Limit::InstancesOfCaller)) } else { Ok(Some(claim)) }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.mesh.inner.claims.with(|claims| {
            let Some(claimed) = claims.get_mut(&self.owner) else { return };
            if let Some(at) = claimed.iter().position(|key| *key == self.key) {
                claimed.swap_remove(at);
            }
            if claimed.is_empty() {
                claims.remove(&self.owner);
            }
        });
    }
}
