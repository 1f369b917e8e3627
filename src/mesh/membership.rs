//! Who sits in a service: registrations, operators' words, checks, and those who watch for changes of it all.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::cluster::{Cluster, State};
use super::member::{MOST_ADDRESSES, Member};
use super::queue::Wake;
use super::record::{Record, Version};
use super::seat::{Arrival, News, Seat};
use crate::model::InstanceId;
use crate::policy::Policy;
use crate::policy::health::CheckResult;
use crate::telemetry::events::Kind;

/// What came of a record.
pub(super) enum Upsert {
    /// The instance has a seat, and this is new about it.
    Seated(Arc<Member>, News),
    /// The service has as many as it may have.
    Full,
}

impl Cluster {
    /// Adds or replaces an instance, if there are then at most `most`; `None` when this cluster has been closed.
    pub(super) fn upsert(&self, arrival: Arrival<'_>, most: usize, now: Instant) -> Option<Upsert> {
        self.change(|state| {
            if state.closed {
                return (None, false);
            }
            let id = &arrival.record.registration.id;
            let at = state.seats.iter().position(|seat| seat.member.id == *id);
            let there = state.seats.len();
            let (result, changed) = match at.and_then(|at| state.seats.get_mut(at)) {
                Some(seat) => {
                    let news = seat.take_over(arrival, now);
                    (Upsert::Seated(Arc::clone(&seat.member), news), news.any)
                }
                None if there >= most => (Upsert::Full, false),
                None => {
                    let seat = Seat::new(arrival, now);
                    let member = Arc::clone(&seat.member);
                    state.seats.push(seat);
                    (Upsert::Seated(member, News { place: true, any: true, ..News::default() }), true)
                }
            };
            (Some(result), changed)
        })
    }

    /// Seats many instances at once, none of which is there yet.
    pub(super) fn seat_all<'a>(&self, arrivals: impl Iterator<Item = Arrival<'a>>, now: Instant) {
        self.change(|state| (state.seats.extend(arrivals.map(|arrival| Seat::new(arrival, now))), true));
    }

    /// What is kept of an instance.
    pub(super) fn kept(&self, id: &InstanceId) -> Option<(Record, Version)> {
        self.look(|state| state.seats.iter().find(|seat| seat.member.id == *id).map(|seat| (seat.record(), seat.version)))
    }

    /// Removes an instance (with `expired_at`, only if its lease is over). Answers whether it went and whether it was the last one.
    pub(super) fn remove(&self, id: &InstanceId, expired_at: Option<Instant>) -> (bool, bool) {
        self.change(|state| {
            let before = state.seats.len();
            state.seats.retain(|seat| seat.member.id != *id || expired_at.is_some_and(|now| !seat.lease_is_over(now)));
            let went = state.seats.len() < before;
            state.closed = state.seats.is_empty();
            ((went, state.closed), went)
        })
    }

    /// Renews a lease; answers whether there is such an instance.
    pub(super) fn heartbeat(&self, id: &InstanceId, now: Instant) -> bool {
        self.look(|state| state.seats.iter_mut().find(|seat| seat.member.id == *id).map(|seat| seat.renew_lease(now)).is_some())
    }

    /// New settings for calls that begin from now on, unless newer ones are in force.
    pub(super) fn set_policy(&self, policy: Arc<Policy>, version: u64) {
        let (next, aside) = self.state.with(|state| {
            if version >= state.policy_version {
                (state.policy, state.policy_version) = (policy, version);
            }
            (state.queue.head(), state.queue.aside())
        });
        aside.iter().for_each(Wake::wake);
        // There may be more room now.
        self.after(next, None, Vec::new());
    }

    /// The result of an active check. Publishes what changed; answers the time to the next check, `None` when the member has gone.
    pub(super) fn checked(&self, member: &Arc<Member>, result: CheckResult, now: Instant, roll: u64) -> Option<Duration> {
        let mut told: Vec<(Kind, String)> = Vec::new();
        let next = self.change(|state| {
            let config = &state.policy.health_check;
            let Some(seat) = state.seats.iter_mut().find(|seat| Arc::ptr_eq(&seat.member, member)) else { return (None, false) };
            let changed = seat.checked(config, result, now);
            if changed {
                let kind = if seat.health.is_healthy() { Kind::Healthy } else { Kind::Unhealthy };
                told.push((kind, result.describe()));
            }
            if result == CheckResult::Passed && seat.outlier.check_passed(now) {
                seat.warm_since = Some(now);
                told.push((Kind::Returned, "ejection ended early: a check passed".to_owned()));
            }
            (Some(seat.health.next_check(config, roll)), !told.is_empty())
        });
        for (kind, detail) in told {
            self.events.publish(kind, Some(&self.name), Some(&member.id), detail);
        }
        next
    }

    /// The addresses a host name resolved to.
    pub(super) fn resolved(&self, member: &Arc<Member>, addresses: &[IpAddr]) {
        if member.set_addresses(addresses) {
            self.change(|_| ((), true));
            let used = member.addresses();
            let list = used.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>().join(", ");
            let cut = if addresses.len() > MOST_ADDRESSES { format!(" (of {})", addresses.len()) } else { String::new() };
            let detail = if list.is_empty() { "no usable address".to_owned() } else { format!("addresses are now {list}{cut}") };
            self.events.publish(Kind::Addresses, Some(&self.name), Some(&member.id), detail);
        }
    }

    // --- watching ---

    /// The current index; when it is still `seen`, `wake` is kept for the next change.
    pub(super) fn watch(&self, seen: u64, wake: &Wake) -> u64 {
        self.state.with(|state| {
            if state.index == seen && !state.closed && !state.watchers.iter().any(|other| other.is_same(wake)) {
                state.watchers.push(wake.clone());
            }
            state.index
        })
    }

    /// `wake` no longer wants to know.
    pub(super) fn unwatch(&self, wake: &Wake) {
        self.state.with(|state| state.watchers.retain(|other| !other.is_same(wake)));
    }

    /// Runs `change`; when it says that something visible changed, the index grows and watchers and waiting calls are woken.
    fn change<R>(&self, change: impl FnOnce(&mut State) -> (R, bool)) -> R {
        let (result, wakes) = self.state.with(|state| {
            let (result, changed) = change(state);
            let mut wakes = Vec::new();
            if changed {
                state.index = next_index(&self.indices);
                wakes = std::mem::take(&mut state.watchers);
                wakes.extend(state.queue.head());
                wakes.extend(state.queue.aside());
            }
            (result, wakes)
        });
        for wake in wakes {
            wake.wake();
        }
        result
    }
}

pub(super) fn next_index(indices: &AtomicU64) -> u64 {
    indices.fetch_add(1, Ordering::Relaxed) + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ServiceName;
    use crate::model::time::ManualClock;
    use crate::telemetry::events::Events;

    #[test]
    fn a_watch_that_ends_leaves_nothing_behind() {
        let (events, policy) = (Events::new(Arc::new(ManualClock::default())), Arc::new(Policy::default()));
        let name = ServiceName::new("s").expect("valid");
        let cluster = Cluster::new(name, (policy, 0), Arc::new(events), Arc::default(), Instant::now());
        let wakes = [Wake::Thread(std::thread::current()), Wake::Call(Arc::new(|_| ()), 0)];
        for wake in &wakes {
            for _ in 0..1000 {
                assert_eq!(cluster.watch(1, wake), 1);
            }
        }
        assert_eq!(cluster.look(|state| state.watchers.len()), 2, "waking once is enough");
        wakes.iter().for_each(|wake| cluster.unwatch(wake));
        assert_eq!(cluster.look(|state| state.watchers.len()), 0);
    }
}
