//! The registry on disk, in a directory of its own: a log that every change is appended to, and snapshots of what the logs came to.
//!
//! A change is acknowledged once it is on the disk (written and `fdatasync`ed). Changes that come while one is being synced share the next
//! sync, so the disk's rate of syncs does not bound the rate of changes. When the log has outgrown the last snapshot, a new log is begun and
//! a thread makes a new snapshot of all that came before it; nobody waits for that.
//!
//! ```text
//! lock                 held by the process that writes here
//! snapshot-00000006    the previous snapshot, in case the next one is damaged
//! log-00000006
//! snapshot-00000007    everything before log 7 began
//! log-00000007         what has changed since
//! ```
//!
//! What a line is, is said in `line.rs`; what is made of a damaged directory, in `recovery.rs`.

pub(super) mod document;
mod folder;
mod journal;
mod line;
mod recovery;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use document::{export, import};

use crate::mesh::ports::{Refused, Standing, Store, StoreError};
use crate::mesh::record::{Document, Key, Version};
use crate::model::sync::Convoy;
use folder::{Folder, Lock};
use journal::Journal;
use line::Entry;

/// Keeps the registry in a directory of this machine.
#[derive(Debug)]
pub struct Disk {
    convoy: Convoy<Journal, Vec<u8>, Result<(), StoreError>>,
    #[cfg(feature = "etcd")]
    path: std::path::PathBuf,
    /// Files that were set aside when it was opened.
    damaged: u64,
    _lock: Lock,
}

/// Why a state directory cannot be used: a sentence for a person that names the directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateError(pub(crate) String);

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StateError {}

impl Disk {
    /// Takes a directory for this process and reads what is kept there. Damaged files are set aside with a line in the log.
    ///
    /// # Errors
    /// [`StateError`] when it is missing, cannot be read or written, is in use by another process, or was written by a newer version.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let folder = Arc::new(Folder::new(path));
        let lock = folder.lock()?;
        folder.tidy();
        folder.close_to_others();
        let found = recovery::recover(&folder, u64::MAX)?;
        let damaged = u64::try_from(found.damaged.len()).unwrap_or(u64::MAX);
        let journal = Journal::open(folder, found)?;
        Ok(Self {
            convoy: Convoy::new(journal),
            #[cfg(feature = "etcd")]
            path: path.to_owned(),
            damaged,
            _lock: lock,
        })
    }

    /// Reads what is kept in a directory, whether a mesh is using it or not, and changes nothing. Also answers what is wrong with it.
    ///
    /// # Errors
    /// [`StateError`] when it is missing, cannot be read, or was written by a newer version.
    pub fn look(path: &Path) -> Result<(Vec<Document>, Vec<String>), StateError> {
        let folder = Folder::new(path);
        let found = recovery::recover(&folder, u64::MAX)?;
        let mut faults: Vec<String> = found.damaged.iter().map(|(name, why)| format!("{}: {why}", folder.file(*name).display())).collect();
        if found.torn > 0 {
            faults.push(format!("the last {} bytes of the log are of a change that was never acknowledged", found.torn));
        }
        Ok((found.kept.into_documents().collect(), faults))
    }

    /// Keeps many changes at once, with one sync; no document means that what there was is gone.
    #[cfg(feature = "etcd")]
    pub(super) fn keep_all<'a>(&self, changes: impl Iterator<Item = (&'a Key, Option<&'a Document>)>) -> Result<(), StoreError> {
        let mut lines = Vec::new();
        for (key, document) in changes {
            match document {
                Some(document) => write_document(document, &mut lines),
                None => lines.extend_from_slice(&gone(key)),
            }
        }
        if lines.is_empty() { Ok(()) } else { self.append(&lines) }
    }

    /// Everything that is kept, read anew.
    #[cfg(feature = "etcd")]
    pub(super) fn documents(&self) -> Result<Vec<Document>, StateError> {
        Self::look(&self.path).map(|(documents, _)| documents)
    }

    fn append(&self, line: &[u8]) -> Result<(), StoreError> {
        let done = self.convoy.join(|batch| batch.extend_from_slice(line), |journal, batch| journal.append(&batch));
        done.unwrap_or_else(|| Err(StoreError("a fault in the mesh; its log says more".to_owned())))
    }
}

impl Store for Disk {
    fn load(&self) -> Result<Vec<(Document, Version)>, StoreError> {
        let kept = self.convoy.at_rest(|journal, _| journal.take_loaded()).unwrap_or_default();
        Ok(kept.into_documents().map(|document| (document, Version::default())).collect())
    }

    fn put(&self, document: &Document, _: Version) -> Result<Version, Refused> {
        let mut line = Vec::with_capacity(512);
        write_document(document, &mut line);
        self.append(&line)?;
        Ok(Version::default())
    }

    fn delete(&self, key: &Key) -> Result<Version, StoreError> {
        self.append(&gone(key)).map(|()| Version::default())
    }

    fn forget(&self, key: &Key) {
        self.convoy.leave(|batch| batch.extend_from_slice(&gone(key)));
    }

    fn standing(&self) -> Standing {
        Standing { backend: "disk", damaged_files: self.damaged, ..Standing::default() }
    }
}

fn gone(key: &Key) -> Vec<u8> {
    let mut line = Vec::new();
    line::write(&Entry::Gone(key.to_string()), &mut line);
    line
}

fn write_document(document: &Document, out: &mut Vec<u8>) {
    match document {
        Document::Instance(record) => line::write(&Entry::Instance(document::Flat::of(record)), out),
        Document::Policy(service, patch) => line::write(&Entry::Policy(document::FlatPolicy::of(service, patch)), out),
    }
}

/// Why a change cannot be kept, in the words of the system.
fn refused(error: &io::Error) -> StoreError {
    StoreError(format!("the state directory cannot be written: {error}"))
}

/// What is kept, in the order in which it first came.
#[derive(Debug, Default)]
struct Kept {
    places: HashMap<Key, usize>,
    documents: Vec<Option<Document>>,
}

impl Kept {
    fn put(&mut self, document: Document) {
        let place = *self.places.entry(document.key()).or_insert(self.documents.len());
        match self.documents.get_mut(place) {
            Some(there) => *there = Some(document),
            None => self.documents.push(Some(document)),
        }
    }

    fn delete(&mut self, key: &Key) {
        if let Some(place) = self.places.remove(key)
            && let Some(there) = self.documents.get_mut(place)
        {
            *there = None;
        }
    }

    fn documents(&self) -> impl Iterator<Item = &Document> {
        self.documents.iter().flatten()
    }

    fn into_documents(self) -> impl Iterator<Item = Document> {
        self.documents.into_iter().flatten()
    }
}
