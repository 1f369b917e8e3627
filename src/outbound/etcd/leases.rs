//! Which instance has which lease in etcd, and when it was last renewed from here.
//!
//! An instance promises a heartbeat every `ttl`; its lease is a third longer. A heartbeat that comes within a third of `ttl` after one that
//! was passed on need not be: the lease then ends no sooner than `ttl` after the last heartbeat, and etcd hears of each instance at most
//! three times per `ttl`, however often it calls.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::mesh::record::Key;

/// The part of `ttl` that a lease is longer, and within which a heartbeat need not be passed on.
const PART: u32 = 3;

#[derive(Debug, Default)]
pub(super) struct Leases {
    known: HashMap<Key, Lease>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Lease {
    id: u64,
    /// When it was last renewed from here, and what was promised then.
    renewed: Option<(Instant, Duration)>,
}

/// What a heartbeat comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Heartbeat {
    /// It need not be passed on.
    Fresh,
    /// This lease is to be renewed.
    Renew(u64),
    /// There is no lease to renew.
    Nothing,
}

impl Leases {
    /// How long the lease of an instance lasts, in whole seconds as etcd counts them.
    pub(super) fn seconds(ttl: Duration) -> u64 {
        let whole = ttl + ttl / PART;
        whole.as_secs() + u64::from(whole.subsec_nanos() > 0)
    }

    /// An instance has that lease; 0 is none.
    pub(super) fn note(&mut self, key: &Key, id: u64) {
        match self.known.get(key) {
            Some(lease) if lease.id == id => {}
            _ if id == 0 => drop(self.known.remove(key)),
            _ => drop(self.known.insert(key.clone(), Lease { id, renewed: None })),
        }
    }

    pub(super) fn forget(&mut self, key: &Key) {
        self.known.remove(key);
    }

    /// The lease has been renewed, or has just begun, for an instance that promises a heartbeat every `ttl`.
    pub(super) fn granted(&mut self, key: &Key, id: u64, ttl: Duration, now: Instant) {
        self.known.insert(key.clone(), Lease { id, renewed: Some((now, ttl)) });
    }

    /// The lease of an instance, if it is known to last as long as one for `ttl` should.
    pub(super) fn lasting(&self, key: &Key, ttl: Duration) -> Option<u64> {
        let lease = self.known.get(key)?;
        lease.renewed.filter(|(_, promised)| *promised == ttl).map(|_| lease.id)
    }

    /// An instance that promised a heartbeat every `ttl` has been heard of.
    pub(super) fn heartbeat(&self, key: &Key, ttl: Duration, now: Instant) -> Heartbeat {
        match self.known.get(key) {
            None => Heartbeat::Nothing,
            Some(Lease { renewed: Some((at, _)), .. }) if now.saturating_duration_since(*at) < ttl / PART => Heartbeat::Fresh,
            Some(lease) => Heartbeat::Renew(lease.id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{InstanceId, ServiceName};

    #[test]
    fn a_heartbeat_is_passed_on_at_most_three_times_per_ttl_and_a_lease_never_ends_early() {
        let key = Key::Instance(ServiceName::new("s").expect("valid"), InstanceId::new("i").expect("valid"));
        let (ttl, start) = (Duration::from_secs(9), Instant::now());
        let mut leases = Leases::default();
        assert_eq!(leases.heartbeat(&key, ttl, start), Heartbeat::Nothing);
        leases.note(&key, 5);
        assert_eq!(leases.heartbeat(&key, ttl, start), Heartbeat::Renew(5), "nobody here has renewed it yet");
        let (mut passed_on, mut ends) = (0, start);
        for tenth in 0..900 {
            let now = start + Duration::from_millis(100 * tenth);
            if leases.heartbeat(&key, ttl, now) == Heartbeat::Renew(5) {
                leases.granted(&key, 5, ttl, now);
                passed_on += 1;
                ends = now + Duration::from_secs(Leases::seconds(ttl));
                assert_eq!((leases.lasting(&key, ttl), leases.lasting(&key, 2 * ttl)), (Some(5), None));
            }
            assert!(ends >= now + ttl, "at {tenth}");
        }
        assert_eq!(passed_on, 30);
        leases.note(&key, 5);
        assert_eq!(leases.heartbeat(&key, ttl, start), Heartbeat::Fresh, "the same lease was told again");
        leases.note(&key, 6);
        assert_eq!(leases.heartbeat(&key, ttl, start), Heartbeat::Renew(6), "it has another one");
        leases.note(&key, 0);
        assert_eq!(leases.heartbeat(&key, ttl, start), Heartbeat::Nothing);
        assert_eq!((Leases::seconds(Duration::from_millis(1)), Leases::seconds(Duration::from_secs(3))), (1, 4));
    }
}
