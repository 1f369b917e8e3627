//! Reading everything anew: what of it is news, what is missing, and what is kept for a start without etcd.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::client::Fault;
use super::discovery::{Discovery, SHORTEST};
use super::doubt::CONFIRM;
use super::shared::Snapshot;
use super::writing::LOAD;
use crate::mesh::Mesh;
use crate::mesh::learning::Trust;
use crate::mesh::record::{Document, Key, Version};
use crate::model::time::{Clock, SystemClock};

/// How often everything is read anew in any case.
pub(super) const ANEW: Duration = Duration::from_secs(300);

impl Discovery {
    /// Reads everything, and brings what is known to it.
    pub(super) fn read_anew(&mut self) -> Result<(), Fault> {
        // Before it is forgotten what was heard; if that cannot be said any more, the rest of what is read tells.
        self.stands_by_what_was_heard()?;
        let snapshot = self.shared.snapshot(SystemClock.now() + 3 * LOAD)?;
        let Some(mesh) = self.mesh() else { return Ok(()) };
        let header = snapshot.header;
        let known = mesh.known();
        let versions: HashMap<&Key, Version> = known.iter().map(|(key, version)| (key, *version)).collect();
        let is_first = self.cluster == 0;
        // What was acknowledged after this was read has a version beyond it, and is nothing to wonder about.
        let went_back = |key: &Key, now: Version| versions.get(key).is_some_and(|known| *known > now && known.0 <= header.revision);
        let is_other = !is_first
            && (self.restored
                || header.cluster_id != self.cluster
                || header.next() < self.next
                || self.born > 0 && snapshot.born != self.born
                || snapshot.kept.iter().any(|kept| went_back(&kept.document.key(), kept.version)));
        let trust = if is_other { Trust::Anyway } else { Trust::Newer };
        let present: HashSet<Key> = snapshot.kept.iter().map(|kept| kept.document.key()).collect();
        let doubted: HashSet<Key> = self.shared.doubts.with(|doubts| doubts.keys().cloned().collect());
        let cached = if is_first { self.cached() } else { HashSet::new() };
        let was_kept = |key: &Key, version: Version| version > Version::default() || doubted.contains(key) || cached.contains(key);
        let counted: Vec<&(Key, Version)> = known.iter().filter(|(key, version)| was_kept(key, *version)).collect();
        let missing: Vec<Key> = counted
            .iter()
            .filter(|(key, version)| !present.contains(key) && (is_other || version.0 <= header.revision))
            .map(|(key, _)| key.clone())
            .collect();
        let now = SystemClock.now();
        let gone = self.shared.doubts.with(|doubts| doubts.judge(&missing, counted.len(), is_other, now));
        let mut news = 0;
        for kept in &snapshot.kept {
            news += usize::from(mesh.learn(kept.document.clone(), kept.version, trust));
        }
        for key in &gone {
            news += usize::from(mesh.learn_gone(key, Version(header.revision), Trust::Anyway));
        }
        let withheld: Vec<Key> = self.shared.doubts.with(|doubts| doubts.keys().cloned().collect());
        for key in &withheld {
            mesh.learn_unkept(key);
        }
        mesh.learned_until(if is_other { Version(u64::MAX) } else { Version(header.revision) });
        self.shared.state.with(|state| state.nodes.clone_from(&snapshot.nodes));
        self.shared.resyncs.fetch_add(1, Ordering::Relaxed);
        if is_other {
            mesh.tell_of_store(
                true,
                format!("etcd is not the one it was: {} of {} instances and policies are not in it", missing.len(), counted.len()),
            );
        }
        if !withheld.is_empty() {
            mesh.tell_of_store(
                true,
                format!("{} instances are not in etcd any more, too many at once to believe it: they stay for now", withheld.len()),
            );
        }
        if news > 0 {
            log::info!("read anew from etcd: {news} changes");
        }
        self.cache(&snapshot, &mesh);
        (self.next, self.cluster) = (header.next(), header.cluster_id);
        (self.born, self.last, self.restored) = (snapshot.born, snapshot.last, false);
        self.anew_at = SystemClock.now() + if withheld.is_empty() { ANEW } else { CONFIRM + SHORTEST };
        // The one that began anew has to be told when that was.
        self.uneasy |= self.born == 0;
        Ok(())
    }

    /// What the cache has: at a start without etcd, all there is.
    fn cached(&self) -> HashSet<Key> {
        let documents = self.shared.cache.as_ref().and_then(|cache| cache.documents().ok());
        documents.unwrap_or_default().iter().map(Document::key).collect()
    }

    /// Of what is doubtful, what checks find failing is believed to be gone.
    pub(super) fn forget_what_fails(&self) {
        let Some(mesh) = self.mesh() else { return };
        let doubtful: Vec<Key> = self.shared.doubts.with(|doubts| doubts.keys().cloned().collect());
        let failing: HashSet<Key> = doubtful.into_iter().filter(|key| mesh.is_failing(key)).collect();
        if failing.is_empty() {
            return;
        }
        let gone = self.shared.doubts.with(|doubts| doubts.take_failing(|key| failing.contains(key)));
        for key in &gone {
            mesh.learn_gone(key, Version(u64::MAX), Trust::Anyway);
        }
        self.cache_changes(gone.iter().map(|key| (key, None)), &mesh);
    }

    /// Brings the cache to what was read, and to what is known beside it.
    pub(super) fn cache(&self, snapshot: &Snapshot, mesh: &Mesh) {
        let Some(cache) = &self.shared.cache else { return };
        let doubtful: HashSet<Key> = self.shared.doubts.with(|doubts| doubts.keys().cloned().collect());
        let mut wanted: HashMap<Key, &Document> = snapshot.kept.iter().map(|kept| (kept.document.key(), &kept.document)).collect();
        let there = match cache.documents() {
            Ok(there) => there,
            Err(error) => return mesh.tell_of_store(true, format!("the state directory cannot be read: {error}")),
        };
        let mut changes: Vec<(Key, Option<&Document>)> = Vec::new();
        for document in &there {
            let key = document.key();
            match wanted.remove(&key) {
                Some(new) if new == document => {}
                Some(new) => changes.push((key, Some(new))),
                None if doubtful.contains(&key) => {}
                None => changes.push((key, None)),
            }
        }
        changes.extend(wanted.into_iter().map(|(key, document)| (key, Some(document))));
        self.cache_changes(changes.iter().map(|(key, document)| (key, *document)), mesh);
    }

    /// Keeps changes for a start without etcd.
    pub(super) fn cache_changes<'a>(&self, changes: impl Iterator<Item = (&'a Key, Option<&'a Document>)>, mesh: &Mesh) {
        let Some(cache) = &self.shared.cache else { return };
        if let Err(error) = cache.keep_all(changes) {
            mesh.tell_of_store(true, format!("what is known cannot be kept for a start without etcd: {error}"));
        }
    }
}
