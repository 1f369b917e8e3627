//! What is known and not (any longer) found in etcd, and when that is believed: one answer never empties the registry.
//!
//! When an answer lacks more than half of what is known, something has probably happened to etcd and not to the instances. Such an absence
//! is believed only once a second answer, half a minute later, says the same; and where etcd is not the one it was (wiped, or restored from
//! a backup), only of instances that checks find failing.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::mesh::record::Key;

/// How much later a second answer has to say the same.
pub(super) const CONFIRM: Duration = Duration::from_secs(30);

/// What is doubtful.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    missing: HashMap<Key, Doubt>,
}

#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// When it was first missing.
    since: Instant,
    /// It is not the etcd that kept it.
    replaced: bool,
}

impl Doubts {
    /// Takes in an answer that is whole, of which `missing` are not part although they are known, as are `known` in all. Answers which of
    /// them are gone.
    pub(super) fn judge(&mut self, missing: &[Key], known: usize, replaced: bool, now: Instant) -> Vec<Key> {
        let absent: HashSet<&Key> = missing.iter().collect();
        self.missing.retain(|key, _| absent.contains(key));
        let new = missing.iter().filter(|key| !self.missing.contains_key(*key)).count();
        let is_sudden = replaced || 2 * new > known;
        let mut gone = Vec::new();
        for key in missing {
            match self.missing.get_mut(key) {
                Some(doubt) if doubt.replaced || replaced => doubt.replaced = true,
                Some(doubt) if now.saturating_duration_since(doubt.since) < CONFIRM => {}
                None if is_sudden => drop(self.missing.insert(key.clone(), Doubt { since: now, replaced })),
                Some(_) | None => {
                    self.missing.remove(key);
                    gone.push(key.clone());
                }
            }
        }
        gone
    }

    /// Takes in that all these have gone at once, out of `known`: which nothing of ours ever does. Answers which of them are gone.
    pub(super) fn judge_sweep(&mut self, swept: Vec<Key>, known: usize, now: Instant) -> Vec<Key> {
        if swept.len() < 2 || 2 * swept.len() <= known {
            return swept;
        }
        self.missing.extend(swept.into_iter().map(|key| (key, Doubt { since: now, replaced: false })));
        Vec::new()
    }

    /// It is there after all, or known to be gone.
    pub(super) fn settle(&mut self, key: &Key) {
        self.missing.remove(key);
    }

    /// Takes out those that are `failing`.
    pub(super) fn take_failing(&mut self, failing: impl Fn(&Key) -> bool) -> Vec<Key> {
        let gone: Vec<Key> = self.missing.keys().filter(|key| failing(key)).cloned().collect();
        for key in &gone {
            self.missing.remove(key);
        }
        gone
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.missing.keys()
    }

    pub(super) fn len(&self) -> usize {
        self.missing.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{InstanceId, ServiceName};

    fn keys(ids: std::ops::Range<u32>) -> Vec<Key> {
        let service = ServiceName::new("s").expect("valid");
        ids.map(|id| Key::Instance(service.clone(), InstanceId::new(&format!("i{id}")).expect("valid"))).collect()
    }

    #[test]
    fn less_than_half_is_believed_at_once_and_more_only_when_it_is_said_again_later() {
        let (mut doubts, now) = (Doubts::default(), Instant::now());
        assert_eq!(doubts.judge(&keys(0..5), 10, false, now), keys(0..5));
        assert_eq!(doubts.judge(&keys(0..5), 9, false, now), []);
        assert_eq!(doubts.judge(&keys(0..5), 9, false, now + CONFIRM / 2), []);
        assert_eq!(doubts.len(), 5);
        assert_eq!(doubts.judge(&keys(0..4), 9, false, now + CONFIRM), keys(0..4), "one of them has come back");
        assert_eq!(doubts.len(), 0);
        assert_eq!(doubts.judge(&keys(0..1), 1, false, now), [], "the only one there is");
    }

    #[test]
    fn of_another_etcd_nothing_is_believed_but_what_checks_say() {
        let (mut doubts, now) = (Doubts::default(), Instant::now());
        assert_eq!(doubts.judge(&keys(0..1), 10, true, now), []);
        assert_eq!(doubts.judge(&keys(0..1), 10, false, now + 10 * CONFIRM), []);
        assert_eq!(doubts.take_failing(|_| false), []);
        assert_eq!(doubts.take_failing(|key| keys(0..1).contains(key)), keys(0..1));
        assert_eq!(doubts.len(), 0);
    }

    #[test]
    fn a_sweep_is_doubted_and_one_that_goes_by_itself_is_not() {
        let (mut doubts, now) = (Doubts::default(), Instant::now());
        assert_eq!(doubts.judge_sweep(keys(0..1), 1, now), keys(0..1));
        assert_eq!(doubts.judge_sweep(keys(0..2), 4, now), keys(0..2));
        assert_eq!(doubts.judge_sweep(keys(0..3), 5, now), []);
        doubts.settle(&keys(0..1)[0]);
        assert_eq!(doubts.keys().count(), 2);
        assert_eq!(doubts.judge(&keys(1..3), 5, false, now + CONFIRM), keys(1..3));
    }
}
