//! The thread that listens: everything that is there first, then every change since, for as long as the mesh lives.
//!
//! A watch lasts a few seconds and is then begun anew from where it was: one that has died silently looks like one on which nothing
//! happens, and time alone never moves it on. Everything is read anew when etcd no longer has what came in between, when it is not the one
//! it was, and every few minutes in any case. One that was restored is known by its revision, which has gone back, or, where as much was
//! written again before anybody looked, by what was heard last, which it knows nothing of (`last.rs`).

use std::io;
use std::sync::Arc;
use std::sync::Weak;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::anew::ANEW;
use super::client::Fault;
use super::doubt::CONFIRM;
use super::heard;
use super::keys::{self, Place};
use super::last::Last;
use super::line::LONGEST as LONGEST_LINE;
use super::shared::{Shared, Snapshot};
use super::strays::Strays;
use super::wire::{Decided, Event, Granted, Kind, Line, Ranged, Watched, encoded};
use crate::mesh::learning::Trust;
use crate::mesh::record::{Document, Key, Version};
use crate::mesh::{Inner, Mesh};
use crate::model::time::{Clock, Dice, SystemClock, SystemDice, fraction};

/// How long a watch lasts.
const WATCH: Duration = Duration::from_secs(5);
/// How long the record of this mesh outlives it, in seconds; it is renewed with every watch.
const NODE_SECONDS: u64 = 15;
/// How long small questions may take.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// Waits between attempts to reach etcd.
pub(super) const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(3);
/// What is over before that has come to nothing.
const BRIEF: Duration = Duration::from_secs(1);

/// Starts it; it goes on from what was loaded. It ends when the mesh does.
pub(super) fn start(shared: &Arc<Shared>, mesh: &Mesh, loaded: &Snapshot) -> io::Result<()> {
    let now = SystemClock.now();
    let is_whole = loaded.header.revision > 0;
    let discovery = Discovery {
        shared: Arc::clone(shared),
        mesh: Arc::downgrade(&mesh.inner),
        next: loaded.header.next(),
        cluster: loaded.header.cluster_id,
        born: loaded.born,
        last: loaded.last.clone(),
        restored: false,
        anew_at: if is_whole { now + ANEW } else { now },
        uneasy: true,
        failures: 0,
        strays: Strays::default(),
    };
    if is_whole {
        discovery.cache(loaded, mesh);
    }
    let thread = thread::Builder::new().name("weft-discovery".to_owned()).spawn(move || discovery.run())?;
    shared.state.with(|state| state.thread = Some(thread.thread().clone()));
    Ok(())
}

pub(super) struct Discovery {
    pub(super) shared: Arc<Shared>,
    pub(super) mesh: Weak<Inner>,
    /// The revision to go on from.
    pub(super) next: u64,
    pub(super) cluster: u64,
    /// When the registry began; 0 when that is not known.
    pub(super) born: u64,
    /// What was heard last, at the revision before `next` or earlier.
    pub(super) last: Option<Last>,
    /// It was found not to stand by that.
    pub(super) restored: bool,
    /// When everything is to be read anew.
    pub(super) anew_at: Instant,
    /// Something has broken off since it was last looked whether etcd is the one it was.
    pub(super) uneasy: bool,
    /// Rounds in a row that came to nothing.
    pub(super) failures: u32,
    /// What was changed to something that is not understood.
    strays: Strays,
}

/// How a watch ended.
enum Ended {
    /// In peace.
    Over,
    /// It broke off.
    Broken,
    /// What came in between is no longer to be had, or etcd is not the one it was.
    Lost,
}

impl Discovery {
    fn run(mut self) {
        while !self.shared.is_stopped() {
            let began = SystemClock.now();
            match self.round() {
                Ok(Ended::Broken | Ended::Lost) if SystemClock.now().saturating_duration_since(began) < BRIEF => {
                    // One watch that breaks off is begun anew at once; one after the other is not worth the hurry.
                    if self.failures > 0 {
                        self.pause(self.failures - 1);
                    }
                    self.failures = self.failures.saturating_add(1);
                }
                Ok(_) => self.failures = 0,
                Err(fault) => {
                    self.uneasy = true;
                    self.fell_deaf(fault.why());
                    self.pause(self.failures);
                    self.failures = self.failures.saturating_add(1);
                }
            }
        }
    }

    /// Waits before the next round, after so many others in a row that did.
    fn pause(&self, failures: u32) {
        let wait = (SHORTEST * 2_u32.saturating_pow(failures.min(6))).min(LONGEST);
        let wait = wait.mul_f64(0.75 + 0.25 * fraction(SystemDice.roll()));
        SystemClock.park_until(SystemClock.now() + wait);
    }

    pub(super) fn mesh(&self) -> Option<Mesh> {
        self.mesh.upgrade().map(|inner| Mesh { inner })
    }

    fn round(&mut self) -> Result<Ended, Fault> {
        let is_down = self.shared.state.with(|state| state.down.is_some());
        if self.uneasy || is_down {
            self.look_whether_it_is_the_same()?;
            self.uneasy = false;
        }
        if SystemClock.now() >= self.anew_at {
            self.read_anew()?;
        }
        self.show_this_node()?;
        self.forget_what_fails();
        let ended = self.watch();
        self.strays.tell();
        let ended = ended?;
        match ended {
            Ended::Over => {}
            Ended::Broken => self.uneasy = true,
            Ended::Lost => self.anew_at = SystemClock.now(),
        }
        Ok(ended)
    }

    /// Reads when the registry began, from a majority of the members: that they answer at all says that changes can be made.
    fn look_whether_it_is_the_same(&mut self) -> Result<(), Fault> {
        let key = encoded(self.shared.keys.born());
        let until = SystemClock.now() + PATIENCE;
        let ask = json!({
            "compare": [{"key": key, "target": "CREATE", "result": "EQUAL", "create_revision": "0"}],
            "success": [{"requestPut": {"key": key, "value": encoded(SystemClock.wall_ms().to_string())}}],
            "failure": [{"requestRange": {"key": key}}],
        });
        let found: Ranged = self.shared.client.ask("/v3/kv/range", &json!({"key": key}), until)?;
        let born = match found.kvs.first() {
            Some(pair) => pair.create_revision,
            None => {
                let decided: Decided = self.shared.client.ask("/v3/kv/txn", &ask, until)?;
                let there = decided.responses.iter().flat_map(|part| &part.response_range.kvs).next();
                there.map_or(decided.header.revision, |pair| pair.create_revision)
            }
        };
        let header = found.header;
        if self.born > 0 && born != self.born || self.cluster > 0 && header.cluster_id != self.cluster || header.next() < self.next {
            self.anew_at = SystemClock.now();
        } else {
            self.born = born;
        }
        let was_down = self.shared.state.with(|state| state.down.take().is_some());
        if was_down {
            log::info!("etcd confirms changes again");
        }
        Ok(())
    }

    /// Keeps the record of this mesh alive.
    fn show_this_node(&self) -> Result<(), Fault> {
        let until = SystemClock.now() + PATIENCE;
        let (me, lease, changed) = self.shared.state.with(|state| (state.me.clone(), state.lease, std::mem::take(&mut state.changed)));
        let alive = if lease == 0 {
            false
        } else {
            let kept: Line<Granted> = self.shared.client.ask("/v3/lease/keepalive", &json!({"ID": lease.to_string()}), until)?;
            kept.result.seconds > 0
        };
        if alive && !changed {
            return Ok(());
        }
        let id = if alive {
            lease
        } else {
            self.shared.client.ask::<Granted>("/v3/lease/grant", &json!({"TTL": NODE_SECONDS.to_string()}), until)?.id
        };
        let value = serde_json::to_string(&me).unwrap_or_default();
        let put = json!({"key": encoded(self.shared.keys.node(&me.id)), "value": encoded(value), "lease": id.to_string()});
        self.shared.client.ask::<super::wire::Done>("/v3/kv/put", &put, until)?;
        self.shared.state.with(|state| {
            state.lease = id;
            state.nodes.insert(me.id.clone(), me);
        });
        Ok(())
    }

    /// Listens for a while, at the first member that lets us.
    fn watch(&mut self) -> Result<Ended, Fault> {
        let (start, end) = self.shared.keys.all();
        // From the last revision that was heard, not the one after: of a history that was compacted right up to where a watch begins, etcd
        // leaves out the last deletions without a word. From one earlier, it says that something is missing.
        let from = self.next.saturating_sub(1).max(1);
        let ask = json!({"create_request": {"key": encoded(start), "range_end": encoded(end), "start_revision": from.to_string()}});
        let mut last = None;
        for _ in 0..self.shared.client.members() {
            let at = self.shared.client.current();
            let begun = self.shared.client.stream(at, "/v3/watch", &ask, WATCH, &self.shared.cord);
            let first = begun.and_then(|mut lines| {
                let line = lines.next().ok_or_else(|| Fault::Unreachable("the watch ended before it began".to_owned()))?;
                heard::read(&line).map(|watched| (lines, watched))
            });
            match first {
                Ok((mut lines, first)) => {
                    if self.shared.is_stopped() {
                        return Ok(Ended::Over);
                    }
                    // Asked while the watch is open: should another etcd come in its place from here on, it breaks off.
                    if first.created && !first.canceled && !self.stands_by_what_was_heard()? {
                        return Ok(Ended::Lost);
                    }
                    let ended = self.listen(&first, || lines.next());
                    if matches!(ended, Ended::Broken) {
                        self.shared.client.pass_on(at);
                    }
                    return Ok(ended);
                }
                Err(fault) => {
                    self.shared.client.pass_on(at);
                    last = Some(fault);
                }
            }
        }
        Err(last.unwrap_or_else(|| Fault::Unreachable("nobody to ask".to_owned())))
    }

    fn listen(&mut self, first: &Watched, mut next_line: impl FnMut() -> Option<Vec<u8>>) -> Ended {
        let began = SystemClock.now();
        if !first.created || first.canceled {
            return self.canceled(first);
        }
        if first.header.next() < self.next || first.header.cluster_id != self.cluster {
            return Ended::Lost;
        }
        self.hears_again();
        if self.shared.state.with(|state| state.changed) {
            return Ended::Over;
        }
        loop {
            let Some(line) = next_line() else {
                // A watch that has lasted its time has ended in peace.
                let lasted = SystemClock.now().saturating_duration_since(began) + SHORTEST >= WATCH;
                return if lasted { Ended::Over } else { Ended::Broken };
            };
            let watched = match heard::read(&line) {
                Ok(watched) if !watched.canceled => watched,
                Ok(canceled) => return self.canceled(&canceled),
                // Too much to be taken in at once: what it says is read anew.
                Err(_) if line.len() as u64 > LONGEST_LINE => return Ended::Lost,
                Err(_) => return Ended::Broken,
            };
            let Some(mesh) = self.mesh() else { return Ended::Over };
            self.apply(&watched.events, &mesh);
            drop(mesh);
            let now = SystemClock.now();
            self.shared.state.with(|state| state.right_at = Some(now));
            if now.saturating_duration_since(began) >= WATCH {
                return Ended::Over;
            }
        }
    }

    fn canceled(&self, watched: &Watched) -> Ended {
        if watched.compact_revision > 0 {
            return Ended::Lost;
        }
        log::warn!("etcd refuses to be watched: {}", crate::model::shown(&watched.cancel_reason));
        self.shared.client.forget_token();
        Ended::Broken
    }

    /// Makes changes, in their order.
    fn apply(&mut self, events: &[Event], mesh: &Mesh) {
        let mut changes: Vec<(Key, Option<Document>)> = Vec::new();
        for together in events.chunk_by(|a, b| a.kv.mod_revision == b.kv.mod_revision) {
            let mut deleted: Vec<Key> = Vec::new();
            let revision = together.first().map_or(0, |event| event.kv.mod_revision);
            if revision < self.next {
                continue;
            }
            for event in together {
                match (self.shared.keys.place(&event.kv.key), event.kind) {
                    (Some(Place::Document(key)), Kind::Delete) => deleted.push(key),
                    (Some(Place::Document(key)), Kind::Put) => match keys::kept(&key, &event.kv) {
                        Ok(kept) => {
                            self.shared.leases.with(|leases| leases.note(&key, kept.lease));
                            self.shared.doubts.with(|doubts| doubts.settle(&key));
                            mesh.learn(kept.document.clone(), kept.version, Trust::Newer);
                            changes.push((key, Some(kept.document)));
                        }
                        Err(fault) => self.strays.add(&key, &fault),
                    },
                    (Some(Place::Node(id)), Kind::Put) => {
                        if let Some(node) = keys::node(&id, &event.kv) {
                            self.shared.state.with(|state| state.nodes.insert(id, node));
                        }
                    }
                    (Some(Place::Node(id)), Kind::Delete) => drop(self.shared.state.with(|state| state.nodes.remove(&id))),
                    (Some(Place::Born), Kind::Delete) => self.born = 0,
                    (Some(Place::Born), Kind::Put) => self.born = event.kv.create_revision,
                    (None, _) => {}
                }
            }
            let (swept, now) = (deleted.clone(), SystemClock.now());
            let known = if swept.len() < 2 { 0 } else { mesh.known().len() };
            let gone = self.shared.doubts.with(|doubts| doubts.judge_sweep(deleted, known, now));
            if gone.is_empty() && !swept.is_empty() {
                swept.iter().for_each(|key| mesh.learn_unkept(key));
                self.anew_at = now + CONFIRM + SHORTEST;
                mesh.tell_of_store(
                    true,
                    format!("{} of {known} instances and policies were deleted at once: they stay for now", swept.len()),
                );
            }
            for key in gone {
                self.shared.leases.with(|leases| leases.forget(&key));
                self.shared.doubts.with(|doubts| doubts.settle(&key));
                mesh.learn_gone(&key, Version(revision), Trust::Newer);
                changes.push((key, None));
            }
            mesh.learned_until(Version(revision));
            self.next = self.next.max(revision.saturating_add(1));
            self.last = together.last().map(Last::changed);
        }
        self.cache_changes(changes.iter().map(|(key, document)| (key, document.as_ref())), mesh);
    }

    fn hears_again(&self) {
        let now = SystemClock.now();
        let was = self.shared.state.with(|state| {
            let was = state.deaf.take().map(|_| now.saturating_duration_since(state.right_at.unwrap_or(state.opened)));
            state.right_at = Some(now);
            was
        });
        if let (Some(time), Some(mesh)) = (was, self.mesh()) {
            mesh.tell_of_store(false, format!("the shared registry is followed again, after {:.1} s", time.as_secs_f64()));
        }
    }

    fn fell_deaf(&self, why: &str) {
        let is_new = self.shared.state.with(|state| {
            state.down = Some(why.to_owned());
            state.deaf.replace(why.to_owned()).is_none()
        });
        if let (true, Some(mesh)) = (is_new, self.mesh()) {
            mesh.tell_of_store(
                true,
                format!("the shared registry does not answer ({why}): calls go on with what is known, changes are refused"),
            );
        }
    }
}
