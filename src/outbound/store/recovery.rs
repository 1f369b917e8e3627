//! Reading a state directory: whatever a crash, a bad disk or a careless hand has done to it, the most that is provably right.
//!
//! A snapshot is everything there was when the log of its generation began; the last two are kept, with all logs since the older one. So a
//! damaged snapshot costs nothing: the one before it and the logs since lead to the same. Of a damaged log every line with a right checksum
//! counts, since each says the whole of what it is about. What an end of a log without a newline means is known: a process was killed, or
//! the machine lost power, before that line was acknowledged.

use std::collections::HashMap;

use super::folder::{Folder, Name, length};
use super::line::{self, Entry, Header, Kind, VERSION};
use super::{Kept, StateError, document};
use crate::mesh::record::Document;

/// What was found in a directory.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) kept: Kept,
    /// The newest log and how much of it is whole; `None` in an empty directory.
    pub(super) log: Option<(u64, u64)>,
    /// The length of the newest good snapshot.
    pub(super) snapshot: u64,
    /// The generation of that snapshot; 0 when there is none.
    pub(super) start: u64,
    /// The generation after all there are.
    pub(super) next: u64,
    /// Bytes at the end of the newest log that were never acknowledged.
    pub(super) torn: u64,
    /// Files that are not as they were written, and what is wrong with them.
    pub(super) damaged: Vec<(Name, String)>,
}

/// Reads the files of generations below `end`.
pub(super) fn recover(folder: &Folder, end: u64) -> Result<Recovered, StateError> {
    let names: Vec<Name> = folder.names()?.into_iter().filter(|name| name.generation < end).collect();
    let newest_log = names.iter().rev().find(|name| name.kind == Kind::Log).copied();
    let next = names.last().map_or(0, |name| name.generation) + 1;
    let mut found = Recovered { next, ..Recovered::default() };
    let mut files: HashMap<Name, Parsed> = HashMap::new();
    // The newest snapshot that is whole; damaged ones are kept at hand.
    for name in names.iter().rev().filter(|name| name.kind == Kind::Snapshot) {
        let bytes = folder.read(*name)?;
        let parsed = parse(*name, &bytes, false, folder)?;
        let damage = parsed.damage.clone();
        let is_whole = damage.is_none();
        found.damaged.extend(damage.map(|why| (*name, why)));
        files.insert(*name, parsed);
        if is_whole {
            (found.start, found.snapshot) = (name.generation, length(&bytes));
            break;
        }
    }
    for name in names.into_iter().filter(|name| name.generation >= found.start) {
        let parsed = match files.remove(&name) {
            Some(parsed) => parsed,
            None => parse(name, &folder.read(name)?, Some(name) == newest_log, folder)?,
        };
        if Some(name) == newest_log {
            found.log = Some((name.generation, parsed.whole));
            found.torn = parsed.torn;
        }
        if name.kind == Kind::Log {
            found.damaged.extend(parsed.damage.map(|why| (name, why)));
        }
        for step in parsed.steps {
            match step {
                Step::Put(document) => found.kept.put(document),
                Step::Gone(key) => found.kept.delete(&key),
            }
        }
    }
    Ok(found)
}

enum Step {
    Put(Document),
    Gone(crate::mesh::record::Key),
}

/// A file, as far as it can be read.
struct Parsed {
    steps: Vec<Step>,
    /// Up to here it is whole.
    whole: u64,
    /// So many bytes after that were never acknowledged.
    torn: u64,
    damage: Option<String>,
}

/// As many zeros in a row as no line has and a torn one may.
const ZEROS: [u8; 16] = [0; 16];

/// Reads a file. Only of a log that was being written (`open`) the end may be missing.
fn parse(name: Name, bytes: &[u8], open: bool, folder: &Folder) -> Result<Parsed, StateError> {
    let mut parsed = Parsed { steps: Vec::new(), whole: 0, torn: 0, damage: None };
    let (mut at, mut bad, mut lines, mut ended) = (0, Vec::new(), 0_u64, false);
    for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let is_cut = !line.ends_with(b"\n");
        let text = line.split_last().map_or(line, |(_, text)| text);
        // Of the last line, the newline itself may be what was damaged.
        let entry = line::read(text);
        if let Some(Entry::Weft(header)) = &entry
            && header.version > VERSION
        {
            let path = folder.file(name);
            return Err(StateError(format!("{} was written by a newer weft; use that, or move it away", path.display())));
        }
        let is_right = !ended
            && match entry {
                Some(Entry::Weft(header)) => index == 0 && header == Header::new(name.kind, name.generation),
                Some(_) if index == 0 => false,
                Some(Entry::Instance(flat)) => {
                    flat.record().map(|record| parsed.steps.push(Step::Put(Document::Instance(Box::new(record))))).is_ok()
                }
                Some(Entry::Policy(flat)) => flat.document().map(|document| parsed.steps.push(Step::Put(document))).is_ok(),
                Some(Entry::Gone(key)) => document::key(&key).map(|key| parsed.steps.push(Step::Gone(key))).is_ok(),
                Some(Entry::End(count)) => {
                    ended = true;
                    name.kind == Kind::Snapshot && count.checked_add(1) == Some(lines)
                }
                None => false,
            };
        lines += 1;
        at += length(line);
        if is_right && !is_cut {
            parsed.whole = at;
        } else {
            bad.push((lines, !is_right && (is_cut || line.windows(ZEROS.len()).any(|window| window == ZEROS))));
        }
    }
    // A crash leaves a line without its end, or a stretch of zeros where the disk had no time to put anything.
    let is_tail = bad.iter().rev().zip((1..=lines).rev()).all(|((line, _), expected)| *line == expected);
    let is_torn = open && is_tail && bad.iter().all(|(_, torn)| *torn);
    if is_torn {
        parsed.torn = at - parsed.whole;
    } else if let Some((line, _)) = bad.first() {
        parsed.damage = Some(format!("{} of {lines} lines are not as they were written, the first is line {line}", bad.len()));
    } else if name.kind == Kind::Snapshot && !ended {
        parsed.damage = Some(format!("it ends after {lines} lines, before its last"));
    } else if lines == 0 && !open {
        parsed.damage = Some("it is empty".to_owned());
    }
    Ok(parsed)
}
