//! Services that are found by a DNS name: each of its addresses is an instance, and the name is looked up again at a fixed interval.
//!
//! Only an answer changes anything: while a name does not resolve, or resolves to nothing that is allowed, what was found before stays. An
//! instance that was found bears the name in its metadata, so that nothing else is remembered of an answer, and what is gone is told from
//! what others have registered. When to look is a driver's business; whoever calls [`Mesh::look_up`] waits for the resolver.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::instances::RegistryError;
use super::record::{Key, Version};
use super::{Cluster, Mesh};
use crate::model::{AdminState, Host, InstanceId, Registration};
use crate::telemetry::events::Kind;

/// How long one name may take to resolve, and after how long no further one is begun.
const PATIENCE: Duration = Duration::from_secs(2);
/// The label of an instance that was found by a name.
const LABEL: &str = "foundBy";

/// A service and the name whose addresses are its instances.
#[derive(Clone, PartialEq, Debug)]
pub struct Discovery {
    /// The name.
    pub name: Host,
    /// From one look-up to the next.
    pub every: Duration,
    /// What is registered for each address: id and host are made from the address, and so is the host of the health check where it is the
    /// name.
    pub pattern: Registration,
}

impl Discovery {
    /// Whether both find the same instances, whatever they say about them.
    pub fn is_same(&self, other: &Self) -> bool {
        let of = |one: &Self| (one.pattern.service.clone(), one.name.clone(), one.pattern.port);
        of(self) == of(other)
    }

    /// The instance at one address.
    fn instance(&self, ip: IpAddr) -> Result<Registration, RegistryError> {
        let host = Host::Ip(ip);
        let mut found = Registration { id: self.id(ip)?, host: host.clone(), ..self.pattern.clone() };
        found.metadata.get_or_insert_default().insert(LABEL.to_owned(), self.name.to_string());
        if let Some(target) = found.health_check.as_mut().filter(|target| target.host == self.name) {
            target.host = host;
        }
        Ok(found)
    }

    /// An id holds no colons: `10.0.0.1-8080`, `fd00-0-0-0-0-0-0-1-8080`.
    fn id(&self, ip: IpAddr) -> Result<InstanceId, RegistryError> {
        let place = match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => ip.segments().map(|part| format!("{part:x}")).join("-"),
        };
        Ok(InstanceId::new(&format!("{place}-{}", self.pattern.port))?)
    }

    /// Whether an instance was found by this name.
    fn has_found(&self, registration: &Registration) -> bool {
        let label = registration.metadata.as_ref().and_then(|metadata| metadata.get(LABEL));
        registration.port == self.pattern.port && label.is_some_and(|label| *label == self.name.to_string())
    }
}

/// What is looked up, and when next.
#[derive(Default)]
pub(super) struct Lookups {
    all: Vec<Lookup>,
    /// What is no longer looked up, until its instances have gone.
    gone: Vec<Discovery>,
}

struct Lookup {
    what: Discovery,
    due: Instant,
    /// What is said of its instances has changed.
    anew: bool,
    /// What was wrong last time.
    trouble: Option<String>,
}

impl Lookups {
    /// Looks up these from now on; those that were looked up before keep their time.
    pub(super) fn replace(&mut self, list: Vec<Discovery>, now: Instant) {
        let before = std::mem::take(&mut self.all);
        let is_over = |old: &&Lookup| !list.iter().any(|new| new.is_same(&old.what));
        self.gone.extend(before.iter().filter(is_over).map(|old| old.what.clone()));
        self.gone.retain(|gone| !list.iter().any(|new| new.is_same(gone)));
        let mut before: Vec<Option<Lookup>> = before.into_iter().map(Some).collect();
        self.all = list
            .into_iter()
            .map(|what| {
                let same = before.iter_mut().find(|old| old.as_ref().is_some_and(|old| old.what == what)).and_then(Option::take);
                same.unwrap_or(Lookup { what, due: now, anew: true, trouble: None })
            })
            .collect();
    }

    /// The one that has been due longest, and whether what is said of its instances has changed. It is due again after its interval.
    fn take_due(&mut self, now: Instant) -> Option<(Discovery, bool)> {
        let next = self.all.iter_mut().filter(|lookup| lookup.due <= now).min_by_key(|lookup| lookup.due)?;
        next.due = now + next.what.every;
        Some((next.what.clone(), next.anew))
    }

    /// Remembers what was wrong, and whether there was an answer all the same; answers whether what was wrong is news.
    fn note(&mut self, what: &Discovery, answered: bool, trouble: Option<&String>) -> bool {
        let Some(lookup) = self.all.iter_mut().find(|lookup| lookup.what == *what) else { return false };
        lookup.anew &= !answered;
        let news = lookup.trouble.as_ref() != trouble;
        lookup.trouble = trouble.cloned();
        news
    }

    /// How many names there is something wrong with.
    pub(super) fn failing(&self) -> usize {
        self.all.iter().filter(|lookup| lookup.trouble.is_some()).count()
    }
}

impl Mesh {
    /// Looks up the names that are due, waiting for the resolver for a few seconds at most, and answers when the next is due; `None`: no
    /// name is ever looked up. Background threads do this by themselves, unless they are switched off.
    pub fn look_up(&self) -> Option<Instant> {
        let inner = &self.inner;
        for gone in inner.lookups.with(|lookups| std::mem::take(&mut lookups.gone)) {
            self.retire(&gone, &[]);
        }
        let until = inner.clock.now() + PATIENCE;
        loop {
            let now = inner.clock.now();
            let due = if now < until { inner.lookups.with(|lookups| lookups.take_due(now)) } else { None };
            let Some((what, anew)) = due else { break };
            let addresses = inner.resolver.resolve(&what.name, PATIENCE);
            self.found(&what, &addresses, anew);
        }
        inner.lookups.with(|lookups| lookups.all.iter().map(|lookup| lookup.due).min())
    }

    /// Makes the addresses of a name the instances of its service.
    fn found(&self, what: &Discovery, addresses: &[IpAddr], anew: bool) {
        let inner = &self.inner;
        let (service, port) = (&what.pattern.service, what.pattern.port.get());
        inner.counters.resolutions.add(1);
        let mut trouble = addresses.is_empty().then(|| "does not resolve".to_owned());
        let mut there = Vec::new();
        for ip in addresses {
            let seated =
                self.judge(&Host::Ip(*ip), *ip, port).map_err(RegistryError::NotAllowed).and_then(|()| self.seat_found(what, *ip, anew));
            match seated {
                Ok(id) => there.push(id),
                Err(why) => trouble = trouble.or_else(|| Some(format!("has the address {ip}: {why}"))),
            }
        }
        if !there.is_empty() {
            self.retire(what, &there);
        }
        if trouble.is_some() {
            inner.counters.failed_resolutions.add(1);
        }
        if inner.lookups.with(|lookups| lookups.note(what, !there.is_empty(), trouble.as_ref())) {
            let stays = if there.is_empty() { "; what was found before stays" } else { "" };
            match trouble {
                Some(why) => inner.events.publish(Kind::Warning, Some(service), None, format!("{} {why}{stays}", what.name)),
                None => inner.events.publish(Kind::Addresses, Some(service), None, format!("{} resolves again", what.name)),
            }
        }
    }

    /// Registers the instance at one address, unless it is there. One that has registered itself under the same id is left alone.
    fn seat_found(&self, what: &Discovery, ip: IpAddr, anew: bool) -> Result<InstanceId, RegistryError> {
        let id = what.id(ip)?;
        let cluster = self.inner.registry.find(what.pattern.service.as_str());
        let ours = cluster.and_then(|cluster| cluster.kept(&id)).map(|(record, _)| what.has_found(&record.registration));
        if ours.is_none_or(|ours| ours && anew) {
            self.register_listed(what.instance(ip)?)?;
        }
        Ok(id)
    }

    /// Removes those that were found and are not `there` any more.
    fn retire(&self, what: &Discovery, there: &[InstanceId]) {
        let service = &what.pattern.service;
        let Some(cluster) = self.inner.registry.find(service.as_str()) else { return };
        for id in found_in(&cluster, what) {
            if there.contains(&id) {
                continue;
            }
            let key = Key::Instance(service.clone(), id.clone());
            let _turn = self.inner.turns.take(key.clone());
            let Some((record, version)) = cluster.kept(&id).filter(|(record, _)| what.has_found(&record.registration)) else { continue };
            // It is kept only where an operator has said something about it.
            if version > Version::default() || record.state != AdminState::Ready || record.weight.is_some() {
                self.inner.store.forget(&key);
            }
            self.remove(service, &id, None, Kind::Deregistered, &format!("no longer an address of {}", what.name));
        }
    }

    /// Looks up these names from now on.
    pub(super) fn discover(&self, list: Vec<Discovery>) {
        let now = self.inner.clock.now();
        self.inner.lookups.with(|lookups| lookups.replace(list, now));
        if let Some(wake) = self.inner.seeker.get() {
            wake();
        }
    }

    /// Has `wake` called whenever other names are to be looked up: now, and with each new configuration.
    pub(crate) fn on_discovery(&self, wake: impl Fn() + Send + Sync + 'static) {
        // There is one thread that looks names up; a second one would be a mistake of this crate's.
        let _ = self.inner.seeker.set(Box::new(wake));
        if let Some(wake) = self.inner.seeker.get().filter(|_| self.inner.lookups.with(|lookups| !lookups.all.is_empty())) {
            wake();
        }
    }
}

fn found_in(cluster: &Cluster, what: &Discovery) -> Vec<InstanceId> {
    cluster.look(|state| {
        let found = state.seats.iter().filter(|seat| what.has_found(&seat.registration));
        found.map(|seat| seat.member.id.clone()).collect()
    })
}
