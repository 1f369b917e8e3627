//! What the event loops share: the mesh, the limits, who may still come in.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::config::Config;
use super::desk::Desk;
use super::http1::Limits;
use super::mail::{Mail, Mailbox};
use super::slots::Key;
use crate::contract::access::Welcome;
use crate::mesh::Mesh;
use crate::model::ServiceName;
use crate::model::sync::Locked;
use crate::outbound::trust::Trust;
use crate::telemetry::doors::{DoorCounters, LoopCounters};

/// Shared by all loops.
pub(super) struct Shared {
    pub(super) mesh: Mesh,
    pub(super) config: Config,
    pub(super) limits: Limits,
    pub(super) max_connections: usize,
    /// Who may come in.
    pub(super) welcome: Welcome,
    /// What connections to instances are secured with.
    pub(super) trust: Trust,
    pub(super) counters: Arc<DoorCounters>,
    /// Answers carry `Connection: close`, and nothing new is accepted.
    pub(super) closing: AtomicBool,
    /// Seats of calls on the workers.
    pub(super) desk: Desk<Waiting>,
    /// Long polls that wait.
    pub(super) watchers: AtomicUsize,
    /// Answers of the API that go out as fast as their clients take them.
    pub(super) paced: AtomicUsize,
    /// A loop has found that the workers no longer answer.
    pub(super) stuck: AtomicBool,
    /// Guarded: open connections by address, where they are limited.
    addresses: Locked<HashMap<IpAddr, usize>>,
    /// Set once, when all loops are there.
    pub(super) mailboxes: OnceLock<Vec<Arc<Mailbox>>>,
}

/// A client of a loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Waiting {
    pub(super) of_loop: usize,
    pub(super) client: Key,
}

impl Shared {
    pub(super) fn new(mesh: &Mesh, config: &Config, max_connections: usize, welcome: &Welcome, counters: Arc<DoorCounters>) -> Self {
        Self {
            mesh: mesh.clone(),
            limits: Limits { head: config.max_head_bytes, target: config.max_target_bytes },
            max_connections,
            welcome: welcome.clone(),
            trust: Trust::of(mesh),
            counters,
            closing: AtomicBool::new(false),
            desk: Desk::new(config.workers.saturating_sub(config.reserved_workers), config.queue),
            watchers: AtomicUsize::new(0),
            paced: AtomicUsize::new(0),
            stuck: AtomicBool::new(false),
            addresses: Locked::default(),
            mailboxes: OnceLock::new(),
            config: config.clone(),
        }
    }

    pub(super) fn send(&self, of_loop: usize, mail: Mail) {
        if let Some(mailbox) = self.mailboxes.get().and_then(|all| all.get(of_loop)) {
            mailbox.send(mail);
        }
    }

    /// Whether so many bytes more may be held in memory. What is small is held in any case ([`ALWAYS`](super::buffers::ALWAYS)).
    pub(super) fn has_room_for(&self, bytes: usize) -> bool {
        self.counters.buffered.load(Ordering::Relaxed).saturating_add(bytes) <= self.config.max_buffered_bytes
    }

    /// Counts a connection from an address, unless there are as many as there may be.
    fn admit(&self, address: Option<IpAddr>) -> Option<Option<IpAddr>> {
        let most = self.config.max_connections_per_address;
        let Some(address) = address.filter(|address| most > 0 && !address.is_loopback()).map(network) else { return Some(None) };
        self.addresses.with(|all| {
            let open = all.entry(address).or_insert(0);
            (*open < most).then(|| {
                *open += 1;
                Some(address)
            })
        })
    }
}

/// What counts as one address: whoever has one of IPv6 has the 2^64 of its network. A local network has many machines, and they are ours.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) if !address.is_unique_local() && !address.is_unicast_link_local() => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        _ => address,
    }
}

/// An open connection, counted until it is dropped.
pub(super) struct Open {
    shared: Arc<Shared>,
    of_loop: usize,
    address: Option<IpAddr>,
}

impl Open {
    /// Counts a connection from `address` that loop `of_loop` will serve; `None` when there are as many from there as there may be.
    pub(super) fn new(shared: &Arc<Shared>, of_loop: usize, address: Option<IpAddr>) -> Option<Self> {
        let address = shared.admit(address)?;
        let open = Self { shared: Arc::clone(shared), of_loop, address };
        if let Some(counters) = open.counters() {
            counters.open.fetch_add(1, Ordering::Relaxed);
        }
        Some(open)
    }

    pub(super) fn counters(&self) -> Option<&LoopCounters> {
        self.shared.counters.loops.get(self.of_loop)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(counters) = self.counters() {
            counters.open.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(address) = self.address {
            self.shared.addresses.with(|all| {
                if let Some(open) = all.get_mut(&address) {
                    *open -= 1;
                    if *open == 0 {
                        all.remove(&address);
                    }
                }
            });
        }
    }
}

/// A seat at the desk, given to the next call when it is dropped.
pub(super) struct Seat {
    shared: Arc<Shared>,
    service: ServiceName,
}

impl Seat {
    /// The seat that the desk has given to a call of `service`.
    pub(super) fn taken(shared: &Arc<Shared>, service: ServiceName) -> Self {
        Self { shared: Arc::clone(shared), service }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some((service, Waiting { of_loop, client })) = self.shared.desk.leave(&self.service) {
            self.shared.send(of_loop, Mail::Seat(client, Self::taken(&self.shared, service)));
        }
    }
}

/// A long poll that waits.
pub(super) struct Watcher(Arc<Shared>);

impl Watcher {
    /// `None` when as many wait as may.
    pub(super) fn new(shared: &Arc<Shared>) -> Option<Self> {
        let watcher = Self(Arc::clone(shared));
        (shared.watchers.fetch_add(1, Ordering::SeqCst) < shared.config.max_watchers).then_some(watcher)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_of_one_network_of_ipv6_are_one_unless_it_is_local() {
        let are_one = |one: &str, other: &str| network(one.parse().expect(one)) == network(other.parse().expect(other));
        assert!(are_one("2001:db8:1:2:3:4:5:6", "2001:db8:1:2:ffff::1"));
        for (one, other) in
            [("2001:db8:1:2::1", "2001:db8:1:3::1"), ("192.0.2.1", "192.0.2.2"), ("fd00::1", "fd00::2"), ("fe80::1", "fe80::2")]
        {
            assert!(!are_one(one, other), "{one} {other}");
        }
    }
}
