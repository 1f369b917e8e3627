//! What was heard last: an etcd that is still the one it was stands by it.
//!
//! One that was restored from a backup counts on from there, and gives revisions that were heard of once already to other changes. Its own
//! revision tells only until as much was written again; what stood under one key at one revision tells for as long as it is there.

use std::time::{Duration, Instant};

use serde_json::json;

use super::client::{Client, Fault};
use super::discovery::Discovery;
use super::wire::{Event, Kind, Pair, Ranged, encoded};
use crate::model::time::{Clock, SystemClock};

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// Code of gRPC that means: nothing can be said of that revision, any more or yet.
const OUT_OF_RANGE: u64 = 11;

/// A key, and what it stood for at the last revision that was heard of: nothing where it was deleted.
#[derive(Clone, Debug)]
pub(super) struct Last {
    key: Vec<u8>,
    pair: Option<Pair>,
}

/// What etcd says of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Word {
    /// So it was.
    Same,
    /// Something else was there, or it has not come that far.
    Other,
    /// That was compacted away.
    Unknown,
}

impl Discovery {
    /// Asks etcd whether it stands by what was heard last. If not, everything is to be read anew.
    pub(super) fn stands_by_what_was_heard(&mut self) -> Result<bool, Fault> {
        let Some(last) = &self.last else { return Ok(true) };
        let word = last.ask(&self.shared.client, self.next.saturating_sub(1), SystemClock.now() + PATIENCE)?;
        self.restored |= word == Word::Other;
        Ok(word == Word::Same)
    }
}

impl Last {
    pub(super) fn put(pair: &Pair) -> Self {
        Self { key: pair.key.clone(), pair: Some(pair.clone()) }
    }

    pub(super) fn changed(event: &Event) -> Self {
        match event.kind {
            Kind::Put => Self::put(&event.kv),
            Kind::Delete => Self { key: event.kv.key.clone(), pair: None },
        }
    }

    /// The revision of the change; 0 where it was deleted.
    pub(super) fn revision(&self) -> u64 {
        self.pair.as_ref().map_or(0, |pair| pair.mod_revision)
    }

    /// Asks what stood there at `revision`, up to which everything was heard.
    fn ask(&self, client: &Client, revision: u64, until: Instant) -> Result<Word, Fault> {
        let ask = json!({"key": encoded(&self.key), "revision": revision.to_string()});
        match client.ask::<Ranged>("/v3/kv/range", &ask, until) {
            Ok(found) if found.kvs.first() == self.pair.as_ref() => Ok(Word::Same),
            Ok(_) => Ok(Word::Other),
            Err(Fault::Refused { code: OUT_OF_RANGE, why }) if why.contains("future revision") => Ok(Word::Other),
            Err(Fault::Refused { code: OUT_OF_RANGE, .. }) => Ok(Word::Unknown),
            Err(fault) => Err(fault),
        }
    }
}
