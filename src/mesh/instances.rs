//! Registering instances, renewing and removing them, and what operators want of them. A change is acknowledged only after the store has it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::Mesh;
use super::cluster::Cluster;
use super::keeping::Said;
use super::ports::StoreError;
use super::record::{Key, Record, Version};
use crate::model::{AdminState, Host, InstanceId, Invalid, Limit, Registration, ServiceName, Weight};
use crate::telemetry::events::Kind;

/// How long a registration waits for its host name to resolve,
const RESOLVE_PATIENCE: Duration = Duration::from_secs(2);
/// and how long while another one does: names that never resolve must not hold everybody who serves registrations.
const RESOLVE_HASTE: Duration = Duration::from_millis(250);

/// Why a change of the registry was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RegistryError {
    /// A value is not acceptable.
    Invalid(Invalid),
    /// The address is refused by policy; says why.
    NotAllowed(String),
    /// A limit is full.
    Full(Limit),
    /// No such service or instance.
    NotFound,
    /// The store could not keep the change; nothing was changed.
    Unavailable(StoreError),
}

impl std::fmt::Display for RegistryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invalid(fault) => fault.fmt(f),
            Self::NotAllowed(why) => f.write_str(why),
            Self::Full(limit) => write!(f, "the limit {} is reached", limit.setting()),
            Self::NotFound => f.write_str("no such instance is registered"),
            Self::Unavailable(why) => write!(f, "the registry cannot keep the change: {why}"),
        }
    }
}

impl std::error::Error for RegistryError {}

impl From<Invalid> for RegistryError {
    fn from(fault: Invalid) -> Self {
        Self::Invalid(fault)
    }
}

impl From<StoreError> for RegistryError {
    fn from(why: StoreError) -> Self {
        Self::Unavailable(why)
    }
}

impl Mesh {
    /// Registers an instance, or registers it again. Waits at most 2 s for its host name to resolve, and only a moment while another
    /// registration waits; one that does not resolve by then is accepted and stays unavailable until it does.
    ///
    /// # Errors
    /// [`RegistryError`]; nothing was changed.
    pub fn register(&self, registration: Registration) -> Result<(), RegistryError> {
        self.register_within(registration, None)
    }

    /// As [`Mesh::register`], if the owner of the instance then has at most `most` of them.
    ///
    /// # Errors
    /// [`RegistryError`]; nothing was changed.
    #[allow(clippy::needless_pass_by_value)] // A registration is made to be handed over.
    pub fn register_within(&self, registration: Registration, most: Option<usize>) -> Result<(), RegistryError> {
        let _claim = self.claim(&registration, most)?;
        let addresses = self.judged_addresses(&registration)?;
        let (service, id) = (registration.service.clone(), registration.id.clone());
        let said = Said { addresses: Some(addresses), healthy: registration.healthy, renews: true, ..Said::default() };
        self.change_instance(&service, &id, said, |before| match before {
            Some(before) => Ok(before.registered(registration.clone())),
            None => {
                // Looked at again when it is added; but what is refused now need not be kept.
                self.room_for(&registration)?;
                Ok(Record::new(registration.clone()))
            }
        })
    }

    /// Registers an instance that is listed in a configuration: as [`Mesh::register`], but the store does not keep it, since it is listed.
    ///
    /// # Errors
    /// [`RegistryError`]; nothing was changed.
    #[allow(clippy::needless_pass_by_value)] // A registration is made to be handed over.
    pub fn register_listed(&self, registration: Registration) -> Result<(), RegistryError> {
        let addresses = self.judged_addresses(&registration)?;
        let _turn = self.inner.turns.take(Key::Instance(registration.service.clone(), registration.id.clone()));
        let cluster = self.inner.registry.find(registration.service.as_str());
        let kept = cluster.and_then(|cluster| cluster.kept(&registration.id));
        let said = Said { addresses: Some(addresses), healthy: registration.healthy, renews: true, ..Said::default() };
        if let Some((before, version)) = kept {
            return self.seat(&before.registered(registration), version, said);
        }
        self.room_for(&registration)?;
        self.seat(&Record::new(registration), Version::default(), said)
    }

    /// What the host of a registration resolves to, if all that it names is allowed.
    fn judged_addresses(&self, registration: &Registration) -> Result<Vec<IpAddr>, RegistryError> {
        let resolver = &self.inner.resolver;
        let hosts = [Some(&registration.host), registration.health_check.as_ref().map(|target| &target.host)];
        let has_names = hosts.into_iter().flatten().any(|host| matches!(host, Host::Name(_)));
        let turn = Resolving::begin(&self.inner.resolving, has_names);
        let addresses = resolver.resolve(&registration.host, turn.patience());
        self.judge_all(&registration.host, &addresses, registration.port.get())?;
        if let Some(target) = registration.health_check.as_ref().filter(|target| target.host != registration.host) {
            self.judge_all(&target.host, &resolver.resolve(&target.host, turn.patience()), target.port.get())?;
        } else if let Some(target) = &registration.health_check {
            self.judge_all(&target.host, &addresses, target.port.get())?;
        }
        Ok(addresses)
    }

    /// Removes an instance. Calls it is answering finish.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], or the store's refusal.
    pub fn deregister(&self, service: &ServiceName, id: &InstanceId) -> Result<(), RegistryError> {
        let key = Key::Instance(service.clone(), id.clone());
        let _turn = self.inner.turns.take(key.clone());
        self.find(service)?.kept(id).ok_or(RegistryError::NotFound)?;
        self.delete(&key)?;
        if self.remove(service, id, None, Kind::Deregistered, "deregistered") { Ok(()) } else { Err(RegistryError::NotFound) }
    }

    /// Renews the lease of an instance.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`]: register again. Where the store ends leases, also that it cannot be reached.
    pub fn heartbeat(&self, service: &ServiceName, id: &InstanceId) -> Result<(), RegistryError> {
        let cluster = self.find(service)?;
        if !cluster.heartbeat(id, self.inner.clock.now()) {
            return Err(RegistryError::NotFound);
        }
        let store = &self.inner.store;
        let ttl = if store.is_shared() { cluster.kept(id).and_then(|(record, _)| record.registration.ttl) } else { None };
        match ttl {
            Some(ttl) if !store.renew(&Key::Instance(service.clone(), id.clone()), ttl)? => Err(RegistryError::NotFound),
            _ => Ok(()),
        }
    }

    /// Sets what an operator wants of an instance.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], or the store's refusal.
    pub fn set_state(&self, service: &ServiceName, id: &InstanceId, state: AdminState, reason: Option<&str>) -> Result<(), RegistryError> {
        let reason = reason.map(str::to_owned);
        self.change_instance(service, id, Said::default(), |before| {
            let before = before.ok_or(RegistryError::NotFound)?.clone();
            Ok(Record { state, reason: reason.clone(), ..before })
        })
    }

    /// Sets an instance's share of the traffic, whatever it registers.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], or the store's refusal.
    pub fn set_weight(&self, service: &ServiceName, id: &InstanceId, weight: Weight) -> Result<(), RegistryError> {
        self.change_instance(service, id, Said::default(), |before| {
            let before = before.ok_or(RegistryError::NotFound)?.clone();
            Ok(Record { weight: Some(weight), ..before })
        })
    }

    pub(super) fn remove(&self, service: &ServiceName, id: &InstanceId, expired_at: Option<Instant>, kind: Kind, why: &str) -> bool {
        let Some(cluster) = self.inner.registry.find(service.as_str()) else { return false };
        let (went, closed) = cluster.remove(id, expired_at);
        if went {
            self.inner.events.publish(kind, Some(service), Some(id), why.to_owned());
        }
        if closed {
            self.inner.registry.forget(&cluster);
        }
        went
    }

    fn find(&self, service: &ServiceName) -> Result<Arc<Cluster>, RegistryError> {
        self.inner.registry.find(service.as_str()).ok_or(RegistryError::NotFound)
    }

    fn room_for(&self, registration: &Registration) -> Result<(), RegistryError> {
        let Some(cluster) = self.inner.registry.find(registration.service.as_str()) else {
            return if self.inner.registry.is_full() { Err(RegistryError::Full(Limit::Services)) } else { Ok(()) };
        };
        if cluster.look(|state| state.seats.len() < self.inner.max_instances) { Ok(()) } else { Err(RegistryError::Full(Limit::Instances)) }
    }

    fn judge_all(&self, host: &Host, addresses: &[IpAddr], port: u16) -> Result<(), RegistryError> {
        addresses.iter().try_for_each(|ip| self.judge(host, *ip, port)).map_err(RegistryError::NotAllowed)
    }
}

/// A registration whose names are being resolved, counted until it is dropped.
#[must_use = "dropping it ends the count"]
struct Resolving<'a> {
    count: &'a AtomicUsize,
    has_names: usize,
    is_only: bool,
}

impl<'a> Resolving<'a> {
    fn begin(count: &'a AtomicUsize, has_names: bool) -> Self {
        // Addresses need no resolver.
        let has_names = usize::from(has_names);
        Self { count, has_names, is_only: count.fetch_add(has_names, Ordering::SeqCst) == 0 }
    }

    const fn patience(&self) -> Duration {
        if self.is_only { RESOLVE_PATIENCE } else { RESOLVE_HASTE }
    }
}

impl Drop for Resolving<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(self.has_names, Ordering::SeqCst);
    }
}
