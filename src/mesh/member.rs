//! What is shared about one instance by everyone who deals with it: where it is, what was counted, and what a driver keeps for it.

use std::any::Any;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::model::sync::{Locked, Published};
use crate::model::{Host, InstanceId, Registration, Scheme, ServiceName};
use crate::telemetry::counters::InstanceCounters;
use crate::telemetry::history::Recent;

/// Addresses of one instance that are used: each call goes through them, and an answer of a resolver may name thousands.
pub(super) const MOST_ADDRESSES: usize = 32;

/// One instance at one place. A registration under the same id with another host or port makes a new one.
pub struct Member {
    /// The service it belongs to.
    pub service: ServiceName,
    /// Its id within the service.
    pub id: InstanceId,
    /// Where it listens.
    pub host: Host,
    /// The port it listens on.
    pub port: NonZeroU16,
    /// How it is spoken to.
    pub scheme: Scheme,
    /// `host:port`, as it stands in a `Host` header.
    pub authority: Arc<str>,
    /// What was counted.
    pub counters: InstanceCounters,
    /// Guarded: what it was asked lately; no call ever enters here.
    pub(super) recent: Locked<Recent>,
    /// When it was last checked, in milliseconds since the Unix epoch; 0 means never.
    pub(super) last_check_ms: AtomicU64,
    /// Guarded: the resolved and judged addresses.
    addresses: Published<Arc<[SocketAddr]>>,
    /// Whether there are any, so that availability needs no lock.
    reachable: AtomicBool,
    /// The address that last worked.
    preferred: AtomicUsize,
    /// What a driver keeps for this instance, such as its connections; dropped with it.
    line: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl Member {
    pub(super) fn new(registration: &Registration, addresses: &[IpAddr]) -> Self {
        let scheme = registration.scheme.unwrap_or_default();
        Self {
            service: registration.service.clone(),
            id: registration.id.clone(),
            host: registration.host.clone(),
            port: registration.port,
            scheme,
            authority: crate::model::authority(&registration.host, registration.port).into(),
            counters: InstanceCounters::default(),
            recent: Locked::default(),
            last_check_ms: AtomicU64::new(0),
            addresses: Published::new(places(addresses, registration.port)),
            reachable: AtomicBool::new(!addresses.is_empty()),
            preferred: AtomicUsize::new(0),
            line: OnceLock::new(),
        }
    }

    /// Whether `registration` describes the same place, so that what is known about it lives on.
    pub(super) fn is_at(&self, registration: &Registration) -> bool {
        self.host == registration.host && self.port == registration.port && self.scheme == registration.scheme.unwrap_or_default()
    }

    /// The addresses to try, the one that last worked first.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let mut all = self.addresses.read(|all| all.to_vec());
        let preferred = self.preferred.load(Ordering::Relaxed);
        if preferred < all.len() {
            all.swap(0, preferred);
        }
        all
    }

    /// Whether `address` is one of them: a connection to another was made when it still was, and must not be used again.
    pub fn is_reached_at(&self, address: SocketAddr) -> bool {
        self.addresses.read(|all| all.contains(&address))
    }

    /// Remembers that `address` worked.
    pub fn prefer(&self, address: SocketAddr) {
        if let Some(at) = self.addresses.read(|all| all.iter().position(|a| *a == address)) {
            self.preferred.store(at, Ordering::Relaxed);
        }
    }

    /// Replaces the addresses; answers whether they changed.
    pub(super) fn set_addresses(&self, addresses: &[IpAddr]) -> bool {
        let new = places(addresses, self.port);
        let changed = self.addresses.update(|old| {
            let same = old.len() == new.len() && new.iter().all(|address| old.contains(address));
            if !same {
                *old = new;
            }
            !same
        });
        if changed {
            self.reachable.store(!addresses.is_empty(), Ordering::Relaxed);
            self.preferred.store(0, Ordering::Relaxed);
        }
        changed
    }

    /// Whether it has an address at all.
    pub(super) fn has_address(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }

    /// What the driver keeps for this instance, made on first use.
    pub fn line<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Option<&T> {
        self.line.get_or_init(|| Box::new(make())).downcast_ref()
    }
}

/// The places to try: each address once, and of very many always the same ones, in whatever order they are named.
fn places(addresses: &[IpAddr], port: NonZeroU16) -> Arc<[SocketAddr]> {
    let mut known = HashSet::new();
    let mut all: Vec<IpAddr> = addresses.iter().copied().filter(|ip| known.insert(*ip)).collect();
    if all.len() > MOST_ADDRESSES {
        all.sort_unstable();
        all.truncate(MOST_ADDRESSES);
    }
    all.into_iter().map(|ip| SocketAddr::new(ip, port.get())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_very_many_addresses_some_are_used_and_always_the_same() {
        let ip = |n: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 | n));
        let member = Member::new(&Registration::new("s", "i", "many.test", 80).expect("valid"), &[]);
        let many: Vec<IpAddr> = (0..5000).map(ip).collect();
        assert!(member.set_addresses(&many));
        assert_eq!(member.addresses().len(), MOST_ADDRESSES);
        assert!(!member.set_addresses(&many.iter().rev().copied().collect::<Vec<_>>()), "in another order they are as before");
    }

    #[test]
    fn an_address_that_is_named_twice_does_not_stand_for_one_that_is_named_no_more() {
        let [one, other] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        let member = Member::new(&Registration::new("s", "i", "twice.test", 80).expect("valid"), &[one, other]);
        assert!(member.set_addresses(&[one, one]));
        assert_eq!(member.addresses(), [SocketAddr::new(one, 80)]);
    }
}
