//! What the thread that listens and those that change share: the cluster, who has which lease, who else is there, and whether it answers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::Config;
use super::client::{Client, Fault};
use super::doubt::Doubts;
use super::keys::{self, Kept, Keys, Place};
use super::last::Last;
use super::leases::Leases;
use super::line::Cord;
use super::strays::Strays;
use super::wire::{Header, Ranged, encoded};
use crate::mesh::ports::StoreError;
use crate::mesh::record::Node;
use crate::model::Invalid;
use crate::model::sync::Locked;
use crate::model::time::{Clock, Dice, SystemClock, SystemDice};
use crate::outbound::store::{Disk, StateError};

/// Keys of one page.
const PAGE: u32 = 2_000;

pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) keys: Keys,
    /// Where what is known is kept for a start without etcd.
    pub(super) cache: Option<Disk>,
    /// Guarded: who has which lease.
    pub(super) leases: Locked<Leases>,
    /// Guarded: what is doubtful.
    pub(super) doubts: Locked<Doubts>,
    /// Guarded: how it stands.
    pub(super) state: Locked<State>,
    pub(super) cord: Arc<Cord>,
    pub(super) stopped: AtomicBool,
    pub(super) resyncs: AtomicU64,
    pub(super) refused: AtomicU64,
}

pub(super) struct State {
    /// This mesh, as others see it.
    pub(super) me: Node,
    /// The others and this one, by id.
    pub(super) nodes: BTreeMap<String, Node>,
    /// Of this mesh's own record; 0 is none.
    pub(super) lease: u64,
    /// The addresses have changed since the record was written.
    pub(super) changed: bool,
    /// When what is known was last known to be right; `None`: never, it is from the cache.
    pub(super) right_at: Option<Instant>,
    /// Why nothing can be heard, while that is so.
    pub(super) deaf: Option<String>,
    /// Why nothing can be changed, while that is so.
    pub(super) down: Option<String>,
    /// What was loaded, for the thread that goes on from there.
    pub(super) loaded: Option<Snapshot>,
    pub(super) thread: Option<Thread>,
    pub(super) opened: Instant,
}

/// Everything there is, at one revision.
#[derive(Default)]
pub(super) struct Snapshot {
    pub(super) header: Header,
    /// In the order in which they were first written.
    pub(super) kept: Vec<Kept>,
    pub(super) nodes: BTreeMap<String, Node>,
    /// The revision at which the registry began; 0 when it has not.
    pub(super) born: u64,
    /// What was changed last of all that is still there.
    pub(super) last: Option<Last>,
}

impl Shared {
    pub(super) fn open(config: &Config, state_dir: Option<&Path>) -> Result<Self, StateError> {
        let client = Client::new(config).map_err(|fault: Invalid| StateError(fault.to_string()))?;
        let cache = state_dir.map(open_cache).transpose()?;
        let me = Node {
            id: format!("{:016x}", SystemDice.roll()),
            addresses: Vec::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: SystemClock.wall_ms(),
        };
        let state = State {
            me,
            nodes: BTreeMap::new(),
            lease: 0,
            changed: false,
            right_at: None,
            deaf: None,
            down: None,
            loaded: None,
            thread: None,
            opened: SystemClock.now(),
        };
        Ok(Self {
            client,
            keys: Keys::new(config.prefix.clone()),
            cache,
            leases: Locked::default(),
            doubts: Locked::default(),
            state: Locked::new(state),
            cord: Arc::default(),
            stopped: AtomicBool::new(false),
            resyncs: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// Everything there is, as a majority of the members has it, page by page of the same revision. What others have put there is looked at and
    /// left alone, whatever it is, however much and under whatever key.
    pub(super) fn snapshot(&self, until: Instant) -> Result<Snapshot, Fault> {
        let (start, end) = self.keys.all();
        let (mut start, mut limit) = (start.into_bytes(), PAGE);
        let mut snapshot = Snapshot::default();
        let (mut kept, mut strays) = (Vec::new(), Strays::default());
        loop {
            let mut ask = json!({"key": encoded(&start), "range_end": encoded(&end), "limit": limit.to_string()});
            if snapshot.header.revision > 0
                && let Some(fields) = ask.as_object_mut()
            {
                fields.insert("revision".to_owned(), snapshot.header.revision.to_string().into());
            }
            let page: Ranged = match self.client.ask("/v3/kv/range", &ask, until) {
                // A single one always fits.
                Err(Fault::TooLong) if limit > 1 => {
                    limit /= 2;
                    continue;
                }
                page => page?,
            };
            if snapshot.header.revision == 0 {
                snapshot.header = page.header;
            }
            let mut last = None;
            for pair in page.kvs {
                if snapshot.last.as_ref().is_none_or(|last| last.revision() < pair.mod_revision) {
                    snapshot.last = Some(Last::put(&pair));
                }
                match self.keys.place(&pair.key) {
                    Some(Place::Document(key)) => match keys::kept(&key, &pair) {
                        Ok(document) => kept.push((pair.create_revision, document)),
                        Err(fault) => strays.add(&key, &fault),
                    },
                    Some(Place::Node(id)) => drop(keys::node(&id, &pair).map(|node| snapshot.nodes.insert(id, node))),
                    Some(Place::Born) => snapshot.born = pair.create_revision,
                    None => {}
                }
                last = Some(pair.key);
            }
            // The next key after one is that one with a zero byte.
            let Some(mut next) = last.filter(|_| page.more) else { break };
            next.push(0);
            if next <= start {
                return Err(Fault::Unreachable("the pages of etcd do not go on".to_owned()));
            }
            start = next;
        }
        strays.tell();
        kept.sort_by_key(|(created, _)| *created);
        snapshot.kept = kept.into_iter().map(|(_, kept)| kept).collect();
        self.leases.with(|leases| snapshot.kept.iter().for_each(|kept| leases.note(&kept.document.key(), kept.lease)));
        Ok(snapshot)
    }

    /// The registry does not answer, as this change has found: whoever comes next is told so at once, until it does.
    pub(super) fn went_down(&self, why: &str) {
        let was_up = self.state.with(|state| state.down.replace(why.to_owned()).is_none());
        if was_up {
            // What is listened to may be just as dead.
            self.cord.cut();
            self.wake();
        }
    }

    /// Wakes the thread that listens.
    pub(super) fn wake(&self) {
        if let Some(thread) = self.state.with(|state| state.thread.clone()) {
            thread.unpark();
        }
    }

    /// Whether it is not known to be down.
    pub(super) fn check_up(&self) -> Result<(), StoreError> {
        match self.state.with(|state| state.down.clone()) {
            None => Ok(()),
            Some(why) => Err(self.refusal(&why)),
        }
    }

    pub(super) fn refusal(&self, why: &str) -> StoreError {
        self.refused.fetch_add(1, Ordering::Relaxed);
        StoreError(format!("the shared registry does not confirm it: {why}"))
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// For how long what is known may have been out of date, and why.
    pub(super) fn stale(&self) -> Option<(Duration, String)> {
        let now = SystemClock.now();
        self.state.with(|state| {
            let why = state.deaf.clone().or_else(|| state.right_at.is_none().then(|| "not reached yet".to_owned()))?;
            Some((now.saturating_duration_since(state.right_at.unwrap_or(state.opened)), why))
        })
    }
}

/// The cache is a state directory in the state directory, so that one that was used without etcd is left as it is.
fn open_cache(state_dir: &Path) -> Result<Disk, StateError> {
    let path = state_dir.join("etcd");
    match std::fs::create_dir(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(StateError(format!("{} cannot be made: {error}", path.display())))
        }
        _ => Disk::open(&path),
    }
}
