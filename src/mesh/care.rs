//! What the health checker does to members: resolve them, check them, take in what came of it, remove those whose lease is over.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::cluster::Cluster;
use super::member::Member;
use super::ports::Probe;
use super::record::Key;
use super::{Mesh, Newcomer};
use crate::model::{AdminState, HealthTarget, Host};
use crate::policy::health::{self, CheckResult};
#[cfg(feature = "server")]
use crate::policy::upstreams;
use crate::telemetry::events::Kind;

impl Mesh {
    /// Tells `announce` of every member there is, and of every one that is registered from now on.
    pub(crate) fn on_newcomer(&self, announce: impl Fn(&Arc<Member>, Newcomer) + Send + Sync + 'static) {
        // There is one health checker; a second one would be a mistake of this crate's.
        let _ = self.inner.newcomers.set(Box::new(announce));
        let Some(announce) = self.inner.newcomers.get() else { return };
        for cluster in self.inner.registry.all() {
            for member in cluster.look(|state| state.seats.iter().map(|seat| Arc::clone(&seat.member)).collect::<Vec<_>>()) {
                announce(&member, Newcomer::CheckSoon);
            }
        }
    }

    /// What is due for a member: `None` when it is no longer registered.
    pub(crate) fn care(&self, member: &Arc<Member>) -> Option<Care> {
        let cluster = self.inner.registry.find(member.service.as_str())?;
        cluster.look(|state| {
            let config = state.policy.health_check.clone();
            let seat = state.seats.iter().find(|seat| Arc::ptr_eq(&seat.member, member))?;
            let target = seat.registration.health_check.clone().filter(|_| seat.admin != AdminState::Maint);
            Some(Care { target, config, lease_until: seat.lease_until, last: seat.health.last() })
        })
    }

    /// Resolves a member's host name again, and judges what it now means.
    pub(crate) fn resolve_again(&self, member: &Arc<Member>, patience: Duration) {
        if matches!(member.host, Host::Ip(_)) {
            return;
        }
        let addresses = self.resolve_judged(&member.host, member.port.get(), patience);
        // A resolver that fails does not take away what is known; one that answers with forbidden addresses does.
        if let (Some(addresses), Some(cluster)) = (addresses, self.inner.registry.find(member.service.as_str())) {
            cluster.resolved(member, &addresses);
            self.judge_once_more(&cluster, member);
        }
    }

    /// The allowed addresses of `host`; `None` when it does not resolve.
    pub(super) fn resolve_judged(&self, host: &Host, port: u16, patience: Duration) -> Option<Vec<IpAddr>> {
        let all = self.inner.resolver.resolve(host, patience);
        (!all.is_empty()).then(|| self.judged(host, all, port))
    }

    /// Those addresses of `host` that are allowed.
    pub(super) fn judged(&self, host: &Host, all: Vec<IpAddr>, port: u16) -> Vec<IpAddr> {
        all.into_iter().filter(|ip| self.judge(host, *ip, port).is_ok()).collect()
    }

    /// Whether a connection to `ip:port`, found under the name `host`, is allowed.
    pub(super) fn judge(&self, host: &Host, ip: IpAddr, port: u16) -> Result<(), String> {
        self.inner.upstreams.read(Arc::clone).judge(host, ip, port)?;
        self.inner.own.read(Arc::clone).judge(ip, port, |ip| self.inner.resolver.is_local(ip))
    }

    /// From now on nobody may be called where the mesh itself listens.
    #[cfg(feature = "server")]
    pub(crate) fn refuse_own(&self, addresses: impl IntoIterator<Item = std::net::SocketAddr>) {
        let own = Arc::new(upstreams::Own::new(addresses));
        self.inner.own.update(|current| *current = own);
        self.judge_again();
    }

    /// Judges the addresses that are in use by what is allowed now. Names are resolved anew with their next check.
    pub(super) fn judge_again(&self) {
        for cluster in self.inner.registry.all() {
            for member in cluster.look(|state| state.seats.iter().map(|seat| Arc::clone(&seat.member)).collect::<Vec<_>>()) {
                self.judge_once_more(&cluster, &member);
            }
        }
    }

    /// Judges the addresses of a member by what is allowed now: that may have changed between their being judged and being in use.
    pub(super) fn judge_once_more(&self, cluster: &Cluster, member: &Arc<Member>) {
        let known = match &member.host {
            Host::Ip(ip) => vec![*ip],
            Host::Name(_) => member.addresses().iter().map(std::net::SocketAddr::ip).collect(),
        };
        cluster.resolved(member, &self.judged(&member.host, known, member.port.get()));
    }

    /// Runs one active check of a member in this thread, and takes in its result. Answers the time to the next one; `None` when the member
    /// is gone.
    pub(crate) fn check(&self, member: &Arc<Member>) -> Option<Duration> {
        let care = self.care(member)?;
        let timeout = care.config.timeout_ms.duration();
        self.resolve_again(member, timeout);
        let Some(target) = care.target else { return Some(care.config.interval_ms.duration()) };
        let addresses = if target.host == member.host {
            // It has just been resolved; and while nobody says where that is, it is asked where it was found last.
            let known = member.addresses().iter().map(std::net::SocketAddr::ip).collect();
            self.judged(&target.host, known, target.port.get())
        } else {
            self.resolve_judged(&target.host, target.port.get(), timeout).unwrap_or_default()
        };
        let result = if addresses.is_empty() {
            CheckResult::Unreachable
        } else {
            self.inner.transport.probe(&Probe { member: Arc::clone(member), target, addresses, config: care.config })
        };
        member.last_check_ms.store(self.inner.clock.wall_ms(), Ordering::Relaxed);
        let cluster = self.inner.registry.find(member.service.as_str())?;
        cluster.counters.checked(result);
        cluster.checked(member, result, self.inner.clock.now(), self.inner.dice.roll())
    }

    /// Runs every active check once, in this thread, and removes what has expired: for embedders that want no background threads.
    pub fn check_now(&self) {
        for cluster in self.inner.registry.all() {
            for member in cluster.look(|state| state.seats.iter().map(|seat| Arc::clone(&seat.member)).collect::<Vec<_>>()) {
                self.expire(&member);
                self.check(&member);
            }
        }
    }

    /// Removes a member whose lease is over. Answers `false` when somebody is changing something about it just now: ask again soon.
    pub(crate) fn expire(&self, member: &Arc<Member>) -> bool {
        let key = Key::Instance(member.service.clone(), member.id.clone());
        let Some(_turn) = self.inner.turns.try_take(key.clone()) else { return false };
        let now = Some(self.inner.clock.now());
        if self.remove(&member.service, &member.id, now, Kind::Expired, "lease expired: no heartbeat in time") {
            // Nobody waits for it, and should it be there again after a restart, it expires again.
            self.inner.store.forget(&key);
        }
        true
    }
}

/// What the health checker needs to know about a member.
pub(crate) struct Care {
    /// What to ask, unless it is not to be asked.
    pub(crate) target: Option<HealthTarget>,
    pub(crate) config: health::Config,
    pub(crate) lease_until: Option<Instant>,
    /// The last result.
    pub(crate) last: Option<CheckResult>,
}
