//! Changes: confirmed by etcd before they are acknowledged, within two seconds or refused.
//!
//! A change names the version it was made on top of, and etcd makes it only if that is still the one (a transaction on `mod_revision`). So
//! two meshes never overwrite each other unseen; and a change that was confirmed too late to be heard of is found to be in force already
//! when it is made again. While etcd is known not to answer, changes are refused at once: nothing waits in line.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Config;
use super::client::Fault;
use super::discovery;
use super::keys::{self, Kept};
use super::leases::{Heartbeat, Leases};
use super::shared::Shared;
use super::wire::{Decided, Done, Granted, Line, encoded};
use crate::mesh::Mesh;
use crate::mesh::ports::{Refused, Standing, Store, StoreError};
use crate::mesh::record::{Document, Key, Version};
use crate::model::time::{Clock, SystemClock};
use crate::outbound::store::StateError;

/// How long a change may take.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// How long everything may take to be read.
pub(super) const LOAD: Duration = Duration::from_secs(3);
/// How long it may take to say goodbye.
const GOODBYE: Duration = Duration::from_millis(300);

/// Keeps the registry in etcd, with all other meshes that do.
pub struct Etcd {
    shared: Arc<Shared>,
}

impl Etcd {
    /// Prepares to keep the registry there. With a state directory, what is known is also kept in it, for a start while etcd is away.
    ///
    /// # Errors
    /// [`StateError`] when a setting is not acceptable, or a file or the directory cannot be used.
    pub fn open(config: &Config, state_dir: Option<&Path>) -> Result<Self, StateError> {
        Shared::open(config, state_dir).map(|shared| Self { shared: Arc::new(shared) })
    }

    /// Reads everything that is kept, and neither keeps nor follows it: for whoever moves it elsewhere.
    ///
    /// # Errors
    /// [`StoreError`] when etcd cannot be reached.
    pub fn look(&self) -> Result<Vec<Document>, StoreError> {
        let snapshot = self.shared.snapshot(SystemClock.now() + LOAD).map_err(|fault| StoreError(fault.why().to_owned()))?;
        Ok(snapshot.kept.into_iter().map(|kept| kept.document).collect())
    }

    fn failed(&self, fault: &Fault) -> StoreError {
        if let Fault::Unreachable(why) = fault {
            self.shared.went_down(why);
        }
        self.shared.refusal(fault.why())
    }

    /// The lease to keep a document with; 0 is none.
    fn lease(&self, document: &Document, until: Instant) -> Result<u64, StoreError> {
        let Document::Instance(record) = document else { return Ok(0) };
        let Some(ttl) = record.registration.ttl else { return Ok(0) };
        let key = document.key();
        let now = SystemClock.now();
        // One that lasts as long as it should is renewed; whether it is still there shows with the change.
        let known = self.shared.leases.with(|leases| leases.lasting(&key, ttl));
        if let Some(id) = known {
            return Ok(id);
        }
        let seconds = Leases::seconds(ttl);
        let granted: Granted =
            self.shared.client.ask("/v3/lease/grant", &json!({"TTL": seconds.to_string()}), until).map_err(|fault| self.failed(&fault))?;
        self.shared.leases.with(|leases| leases.granted(&key, granted.id, ttl, now));
        Ok(granted.id)
    }
}

impl Store for Etcd {
    fn load(&self) -> Result<Vec<(Document, Version)>, StoreError> {
        match self.shared.snapshot(SystemClock.now() + LOAD) {
            Ok(snapshot) => {
                let kept = snapshot.kept.iter().map(|kept| (kept.document.clone(), kept.version)).collect();
                let now = SystemClock.now();
                self.shared.state.with(|state| {
                    state.right_at = Some(now);
                    state.nodes.clone_from(&snapshot.nodes);
                    state.loaded = Some(snapshot);
                });
                Ok(kept)
            }
            Err(fault) => {
                let why = fault.why().to_owned();
                let cached = match &self.shared.cache {
                    Some(cache) => cache.load()?,
                    None => Vec::new(),
                };
                if cached.is_empty() {
                    return Err(StoreError(format!("etcd does not answer, and nothing is known from before: {why}")));
                }
                log::warn!("etcd does not answer ({why}): {} documents are in force as they were last known", cached.len());
                self.shared.state.with(|state| (state.down, state.deaf) = (Some(why.clone()), Some(why)));
                Ok(cached)
            }
        }
    }

    fn put(&self, document: &Document, seen: Version) -> Result<Version, Refused> {
        self.shared.check_up()?;
        let until = SystemClock.now() + PATIENCE;
        let key = document.key();
        let name = encoded(self.shared.keys.of(&key));
        loop {
            let lease = self.lease(document, until)?;
            let mut put = json!({"key": name, "value": encoded(keys::value(document))});
            if lease > 0
                && let Some(fields) = put.as_object_mut()
            {
                fields.insert("lease".to_owned(), Value::String(lease.to_string()));
            }
            let ask = json!({
                "compare": [{"key": name, "target": "MOD", "result": "EQUAL", "mod_revision": seen.0.to_string()}],
                "success": [{"requestPut": put}],
                "failure": [{"requestRange": {"key": name}}],
            });
            let decided: Decided = match self.shared.client.ask("/v3/kv/txn", &ask, until) {
                Ok(decided) => decided,
                Err(fault) if lease > 0 && fault.is_not_found() => {
                    self.shared.leases.with(|leases| leases.forget(&key));
                    continue;
                }
                Err(fault) => return Err(self.failed(&fault).into()),
            };
            if decided.succeeded {
                self.shared.leases.with(|leases| leases.note(&key, lease));
                return Ok(Version(decided.header.revision));
            }
            let pair = decided.responses.into_iter().flat_map(|part| part.response_range.kvs).next();
            let Some(pair) = pair else { return Err(Refused::Conflict(None)) };
            let Kept { document: other, version, lease: others } = keys::kept(&key, &pair)
                .map_err(|fault| self.shared.refusal(&format!("what stands there was not written by weft, {fault}")))?;
            self.shared.leases.with(|leases| leases.note(&key, others));
            // It was made before, and only the answer was lost.
            return if other == *document && (others > 0) == (lease > 0) {
                Ok(version)
            } else {
                Err(Refused::Conflict(Some((other, version))))
            };
        }
    }

    fn delete(&self, key: &Key) -> Result<Version, StoreError> {
        self.shared.check_up()?;
        let ask = json!({"key": encoded(self.shared.keys.of(key))});
        let done: Done =
            self.shared.client.ask("/v3/kv/deleterange", &ask, SystemClock.now() + PATIENCE).map_err(|fault| self.failed(&fault))?;
        self.shared.leases.with(|leases| leases.forget(key));
        Ok(Version(done.header.revision))
    }

    fn forget(&self, _: &Key) {
        // Leases end in etcd: the mesh has nothing to forget by itself.
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn renew(&self, key: &Key, ttl: Duration) -> Result<bool, StoreError> {
        let now = SystemClock.now();
        let id = match self.shared.leases.with(|leases| leases.heartbeat(key, ttl, now)) {
            Heartbeat::Fresh => return Ok(true),
            Heartbeat::Nothing => return Ok(false),
            Heartbeat::Renew(id) => id,
        };
        self.shared.check_up()?;
        let ask = json!({"ID": id.to_string()});
        let kept: Line<Granted> =
            self.shared.client.ask("/v3/lease/keepalive", &ask, now + PATIENCE).map_err(|fault| self.failed(&fault))?;
        let is_there = kept.result.seconds > 0;
        self.shared.leases.with(|leases| if is_there { leases.granted(key, id, ttl, now) } else { leases.forget(key) });
        Ok(is_there)
    }

    fn follow(&self, mesh: &Mesh) -> io::Result<()> {
        let loaded = self.shared.state.with(|state| state.loaded.take());
        discovery::start(&self.shared, mesh, &loaded.unwrap_or_default())
    }

    fn standing(&self) -> Standing {
        let nodes = self.shared.state.with(|state| state.nodes.values().cloned().collect());
        Standing {
            backend: "etcd",
            stale: self.shared.stale(),
            withheld: self.shared.doubts.with(|doubts| doubts.len()),
            resyncs: self.shared.resyncs.load(Ordering::Relaxed),
            refused: self.shared.refused.load(Ordering::Relaxed),
            damaged_files: self.shared.cache.as_ref().map_or(0, |cache| cache.standing().damaged_files),
            nodes,
        }
    }

    fn announce(&self, addresses: Vec<String>) {
        self.shared.state.with(|state| {
            state.me.addresses = addresses;
            state.changed = true;
        });
        self.shared.cord.cut();
        self.shared.wake();
    }

    fn leave(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let (lease, is_up) = self.shared.state.with(|state| (state.lease, state.down.is_none()));
        if lease > 0 && is_up {
            let ask = json!({"ID": lease.to_string()});
            // It ends by itself soon.
            let _ = self.shared.client.ask::<Done>("/v3/lease/revoke", &ask, SystemClock.now() + GOODBYE);
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.shared.cord.cut();
        self.shared.wake();
    }
}
