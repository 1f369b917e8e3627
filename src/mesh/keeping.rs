//! How the registry is changed: take the turn of the key, keep the change, make it in memory, give the turn back. And how what was kept comes
//! back when the mesh starts.
//!
//! The turn is held while the store works, which is I/O; that is what it is for. Two changes of the same key would otherwise be kept in one
//! order and made in the other, and a restart would bring the wrong one back. Changes of different keys do not wait for each other, and
//! neither calls nor those who only look ever take a turn.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::instances::RegistryError;
use super::membership::Upsert;
use super::ports::{Refused, StoreError};
use super::record::{Document, Key, Record, Version};
use super::registry::Put;
use super::seat::{Arrival, News};
use super::{Member, Mesh, Newcomer};
use crate::model::{Host, InstanceId, Limit, ServiceName, authority, shown};
use crate::telemetry::events::Kind;

/// How often a change is made anew because somebody else has changed the same thing meanwhile.
const MOST_CONFLICTS: usize = 64;
/// How long all host names together may take to resolve when the mesh starts; the health checker resolves the rest.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(2);

/// What comes with a change of an instance and is not kept.
#[derive(Default)]
pub(super) struct Said {
    /// What its host resolves to, where that is known.
    pub(super) addresses: Option<Vec<IpAddr>>,
    /// How it says that it is.
    pub(super) healthy: Option<bool>,
    /// Whether the instance itself says so, which renews its lease.
    pub(super) renews: bool,
    /// Whether others have registered it, so that the limits of this mesh do not apply.
    pub(super) is_settled: bool,
}

impl Mesh {
    /// Makes of the record of an instance what `change` makes of it, on disk first and then in memory. What is as before is not kept again.
    pub(super) fn change_instance(
        &self,
        service: &ServiceName,
        id: &InstanceId,
        said: Said,
        change: impl Fn(Option<&Record>) -> Result<Record, RegistryError>,
    ) -> Result<(), RegistryError> {
        let _turn = self.inner.turns.take(Key::Instance(service.clone(), id.clone()));
        let known = self.inner.registry.find(service.as_str()).and_then(|cluster| cluster.kept(id));
        let (mut before, mut seen) = known.map_or_else(|| (None, Version::default()), |(record, version)| (Some(record), version));
        for _ in 0..MOST_CONFLICTS {
            let record = change(before.as_ref())?;
            if before.as_ref() == Some(&record) && self.is_kept(&record, seen, said.renews)? {
                return self.seat(&record, seen, said);
            }
            match self.inner.store.put(&Document::Instance(Box::new(record.clone())), seen) {
                Ok(version) => return self.seat(&record, version, said),
                Err(Refused::Conflict(Some((Document::Instance(other), version)))) => (before, seen) = (Some(*other), version),
                Err(Refused::Conflict(_)) => (before, seen) = (None, Version::default()),
                Err(Refused::Unavailable(why)) => return Err(why.into()),
            }
        }
        Err(too_many_conflicts())
    }

    /// Gives an instance its seat, or takes over what is new about it. The caller has the turn of its key.
    pub(super) fn seat(&self, record: &Record, version: Version, said: Said) -> Result<(), RegistryError> {
        let inner = &self.inner;
        let asked = record;
        let (service, key) = (record.registration.service.clone(), record.key());
        let place = authority(&record.registration.host, record.registration.port);
        let addresses = said.addresses.unwrap_or_else(|| self.addresses_if_new(record));
        let full = |limit| {
            // It was kept, and there is no room for it after all: two registrations at once have taken the last place.
            self.delete(&key).err().map_or(RegistryError::Full(limit), RegistryError::Unavailable)
        };
        let (max_services, max_instances) =
            if said.is_settled { (usize::MAX, usize::MAX) } else { (inner.registry.max_services(), inner.max_instances) };
        let ends_here = !inner.store.is_shared();
        loop {
            let now = inner.clock.now();
            let cluster = inner.registry.find_or_make(&service, max_services, &inner.events, now).map_err(full)?;
            let (record, healthy, renews) = (record.clone(), said.healthy, said.renews);
            let arrival = Arrival { record, version, addresses: &addresses, healthy, renews, ends_here };
            match cluster.upsert(arrival, max_instances, now) {
                // The last instance went between finding the service and adding to it.
                None => inner.registry.forget(&cluster),
                Some(Upsert::Full) => return Err(full(Limit::Instances)),
                Some(Upsert::Seated(member, news)) => {
                    if !news.place && !addresses.is_empty() {
                        cluster.resolved(&member, &addresses);
                    }
                    if !addresses.is_empty() {
                        self.judge_once_more(&cluster, &member);
                    }
                    self.tell(asked, &member, news, &place);
                    if news.place || said.renews {
                        let newcomer = if said.healthy.is_some() { Newcomer::CheckLater } else { Newcomer::CheckNow };
                        self.announce(&member, newcomer);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Where a record's instance can be reached, unless it sits at that place already.
    fn addresses_if_new(&self, record: &Record) -> Vec<IpAddr> {
        let registration = &record.registration;
        let cluster = self.inner.registry.find(registration.service.as_str());
        let member = cluster.and_then(|cluster| cluster.look(|state| state.member(&registration.id)));
        if member.is_some_and(|member| member.is_at(registration)) {
            return Vec::new();
        }
        self.resolve_judged(&registration.host, registration.port.get(), RESOLVE_PATIENCE).unwrap_or_default()
    }

    fn tell(&self, record: &Record, member: &Arc<Member>, news: News, place: &str) {
        let publish = |kind, detail| self.inner.events.publish(kind, Some(&member.service), Some(&member.id), detail);
        if news.place {
            publish(Kind::Registered, format!("registered at {place}"));
        }
        match news.health {
            Some(true) => publish(Kind::Healthy, "registered as healthy".to_owned()),
            Some(false) => publish(Kind::Unhealthy, "registered as unhealthy".to_owned()),
            None if news.registered && !news.place => publish(Kind::Changed, "registered again, with changes".to_owned()),
            None => {}
        }
        if news.state {
            let why = record.reason.as_ref().map_or(String::new(), |reason| format!(": {}", shown(reason)));
            publish(Kind::State, format!("state is now {}{why}", record.state.as_str()));
        }
        if let Some(weight) = record.weight.filter(|_| news.weight) {
            publish(Kind::Weight, format!("weight is now {}", weight.get()));
        }
    }

    fn announce(&self, member: &Arc<Member>, newcomer: Newcomer) {
        if let Some(announce) = self.inner.newcomers.get() {
            announce(member, newcomer);
        }
    }

    /// Makes of what was put on top of a service's configuration what `change` makes of it, if all settings are then still valid.
    pub(super) fn change_policy(
        &self,
        service: &ServiceName,
        change: impl Fn(Option<&Value>) -> Result<Option<Value>, RegistryError>,
    ) -> Result<(), RegistryError> {
        let (store, registry) = (&self.inner.store, &self.inner.registry);
        let _turn = self.inner.turns.take(Key::Policy(service.clone()));
        let known = registry.layers().put.get(service).cloned();
        let (mut before, mut seen) = known.map_or_else(|| (None, Version::default()), |put| (Some(put.patch), put.version));
        for _ in 0..MOST_CONFLICTS {
            let patch = change(before.as_deref())?.map(Arc::new);
            let keep = |patch: Option<&Arc<Value>>, seen| match patch {
                Some(patch) => store.put(&Document::Policy(service.clone(), Value::clone(patch)), seen),
                None => Ok(self.delete(&Key::Policy(service.clone())).map(|()| Version::default())?),
            };
            let tried = patch.clone().map(|patch| Put { patch, version: seen, in_part: false });
            registry.layers().policy_under(service, tried.as_ref())?;
            match if patch == before && self.has_version(seen) { Ok(seen) } else { keep(patch.as_ref(), seen) } {
                Ok(version) => {
                    let made = registry.put(service, patch.map(|patch| Put { patch, version, in_part: false }));
                    // The configuration was reloaded meanwhile, and the two do not go together: as if it had not been tried.
                    return made.map_err(|fault| keep(before.as_ref(), version).err().map_or(RegistryError::Invalid(fault), unavailable));
                }
                Err(Refused::Conflict(Some((Document::Policy(_, other), version)))) => (before, seen) = (Some(Arc::new(other)), version),
                Err(Refused::Conflict(_)) => (before, seen) = (None, Version::default()),
                Err(Refused::Unavailable(why)) => return Err(why.into()),
            }
        }
        Err(too_many_conflicts())
    }

    /// Brings back what the store has kept. Instances count as healthy and their leases begin anew.
    pub(super) fn restore(&self) -> Result<(), RegistryError> {
        let kept = self.inner.store.load()?;
        let mut services: Vec<(ServiceName, Vec<(Record, Version)>)> = Vec::new();
        let mut places: HashMap<ServiceName, usize> = HashMap::new();
        let (mut policies, mut instances) = (Vec::new(), 0_usize);
        for (document, version) in kept {
            match document {
                Document::Policy(service, patch) => policies.push((service, Put { patch: Arc::new(patch), version, in_part: false })),
                Document::Instance(record) => {
                    let service = &record.registration.service;
                    let place = *places.entry(service.clone()).or_insert_with(|| {
                        services.push((service.clone(), Vec::new()));
                        services.len() - 1
                    });
                    if let Some((_, records)) = services.get_mut(place) {
                        records.push((*record, version));
                        instances += 1;
                    }
                }
            }
        }
        self.restore_policies(policies);
        let mut resolved = Resolved { mesh: self, until: self.inner.clock.now() + RESOLVE_PATIENCE, known: HashMap::new() };
        let ends_here = !self.inner.store.is_shared();
        for (service, records) in services {
            let now = self.inner.clock.now();
            // Limits are for what is new; nothing that was acknowledged is refused now.
            let made = self.inner.registry.find_or_make(&service, usize::MAX, &self.inner.events, now);
            let cluster = made.map_err(RegistryError::Full)?;
            let addresses: Vec<Vec<IpAddr>> = records.iter().map(|(record, _)| resolved.of(record)).collect();
            let arrivals = records.into_iter().zip(&addresses).map(|((record, version), addresses)| Arrival {
                record,
                version,
                addresses,
                healthy: None,
                renews: true,
                ends_here,
            });
            cluster.seat_all(arrivals, now);
        }
        if instances > 0 {
            self.inner.events.publish(Kind::Restored, None, None, format!("{instances} instances are back as they were kept"));
        }
        Ok(())
    }

    fn restore_policies(&self, policies: Vec<(ServiceName, Put)>) {
        for (service, put) in policies {
            if let Some(fault) = self.inner.registry.put_kept(&service, &put) {
                let detail =
                    format!("the policy that was put is not in force but for its rules, it does not go with the configuration: {fault}");
                self.inner.events.publish(Kind::Warning, Some(&service), None, detail);
            }
        }
    }
}

/// Host names that were resolved at the start, each once.
struct Resolved<'a> {
    mesh: &'a Mesh,
    until: std::time::Instant,
    known: HashMap<Host, Vec<IpAddr>>,
}

impl Resolved<'_> {
    fn of(&mut self, record: &Record) -> Vec<IpAddr> {
        let inner = &self.mesh.inner;
        let (host, port) = (&record.registration.host, record.registration.port.get());
        let all = match host {
            Host::Ip(ip) => vec![*ip],
            host => self
                .known
                .entry(host.clone())
                .or_insert_with(|| {
                    let patience = self.until.saturating_duration_since(inner.clock.now());
                    if patience.is_zero() { Vec::new() } else { inner.resolver.resolve(host, patience) }
                })
                .clone(),
        };
        all.into_iter().filter(|ip| self.mesh.judge(host, *ip, port).is_ok()).collect()
    }
}

fn too_many_conflicts() -> RegistryError {
    StoreError("others keep changing the same thing".to_owned()).into()
}

fn unavailable(refused: Refused) -> RegistryError {
    match refused {
        Refused::Unavailable(why) => why.into(),
        Refused::Conflict(_) => too_many_conflicts(),
    }
}
