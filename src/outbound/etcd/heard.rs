//! What a line of a watch says. Pure, so that whatever etcd, or somebody in its place, may send can be tried.

use super::client::Fault;
use super::keys::{self, Keys, Place};
use super::wire::{Event, Kind, Line, Watched};
use crate::mesh::record::{Document, Key};
use crate::model::shown;

/// What a line of a watch under `prefix` changes, in its order; no document means that what there was is gone. What is not the registry's, and
/// what cannot be understood, is left out.
///
/// # Errors
/// Why it is no such line, or what etcd complains of.
pub fn heard(prefix: &str, line: &[u8]) -> Result<Vec<(Key, Option<Document>)>, String> {
    let keys = Keys::new(prefix.to_owned());
    let watched = read(line).map_err(|fault| fault.why().to_owned())?;
    let change = |event: &Event| match (keys.place(&event.kv.key)?, event.kind) {
        (Place::Document(key), Kind::Delete) => Some((key, None)),
        (Place::Document(key), Kind::Put) => keys::kept(&key, &event.kv).ok().map(|kept| (key, Some(kept.document))),
        (Place::Node(_) | Place::Born, _) => None,
    };
    Ok(watched.events.iter().filter_map(change).collect())
}

pub(super) fn read(line: &[u8]) -> Result<Watched, Fault> {
    // Either may repeat what came.
    let no_sense = |error: serde_json::Error| Fault::Unreachable(format!("the watch makes no sense: {}", shown(&error.to_string())));
    let line: Line<Watched> = serde_json::from_slice(line).map_err(no_sense)?;
    match line.error {
        Some(error) => Err(Fault::Unreachable(shown(&error.message))),
        None => Ok(line.result),
    }
}
