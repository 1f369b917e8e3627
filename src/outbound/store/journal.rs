//! The log that is being written: appending, what becomes of a write that fails, and the change to a new log with a new snapshot.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use super::folder::{Folder, length};
use super::recovery::{Recovered, recover};
use super::{Kept, StateError, refused};
use crate::mesh::ports::StoreError;

/// A log is not worth a snapshot below this length.
const SMALL: u64 = 1024 * 1024;

/// The log of a directory. Whoever has it writes; see [`super::Disk`].
#[derive(Debug)]
pub(super) struct Journal {
    folder: Arc<Folder>,
    file: File,
    generation: u64,
    /// Up to here it is whole and on the disk.
    whole: u64,
    /// There may be something after that.
    is_torn: bool,
    /// The last write failed.
    is_failing: bool,
    /// A new log is begun when this one is longer.
    long: u64,
    /// The length of the last snapshot.
    snapshot: Arc<AtomicU64>,
    /// Makes the next snapshot, or has made the last one.
    snapshots: Option<JoinHandle<()>>,
    /// What was found at the start, until it is asked for.
    loaded: Kept,
}

/// Nobody writes to the directory once it is given up.
impl Drop for Journal {
    fn drop(&mut self) {
        if let Some(thread) = self.snapshots.take() {
            // One that has panicked has written nothing.
            let _ = thread.join();
        }
    }
}

impl Journal {
    /// Goes on with what was found; with a new snapshot and a new log when something was damaged.
    pub(super) fn open(folder: Arc<Folder>, mut found: Recovered) -> Result<Self, StateError> {
        let cannot = |error: &io::Error| folder.fault("cannot be written", error);
        let next = found.next;
        if !found.damaged.is_empty() {
            found.snapshot = folder.write_snapshot(next, &found.kept).map_err(|error| cannot(&error))?;
            found.log = None;
        }
        let (file, generation, whole) = match found.log {
            Some((generation, whole)) if whole > 0 => {
                let file = folder.go_on(generation).map_err(|error| cannot(&error))?;
                (file, generation, whole)
            }
            // Nothing in it, not even its first line.
            Some((generation, _)) => {
                let (file, whole) = folder.begin_log(generation).map_err(|error| cannot(&error))?;
                (file, generation, whole)
            }
            None => {
                let (file, whole) = folder.begin_log(next).map_err(|error| cannot(&error))?;
                (file, next, whole)
            }
        };
        if found.torn > 0 {
            file.set_len(whole).and_then(|()| file.sync_all()).map_err(|error| cannot(&error))?;
            log::warn!("the last {} bytes of the log were of a change that was never acknowledged: left out", found.torn);
        }
        for (name, why) in &found.damaged {
            let aside = folder.set_aside(*name).map_err(|error| cannot(&error))?;
            log::error!(
                "{} is DAMAGED: {why}; set aside as {}; what could be read is in force",
                folder.file(*name).display(),
                aside.display()
            );
        }
        let snapshot = Arc::new(AtomicU64::new(found.snapshot));
        let long = SMALL.max(found.snapshot);
        Ok(Self { folder, file, generation, whole, is_torn: false, is_failing: false, long, snapshot, snapshots: None, loaded: found.kept })
    }

    pub(super) fn take_loaded(&mut self) -> Kept {
        std::mem::take(&mut self.loaded)
    }

    /// Puts whole lines on the disk, all of them or, with an error, none.
    pub(super) fn append(&mut self, lines: &[u8]) -> Result<(), StoreError> {
        match self.write(lines) {
            Ok(()) => {
                self.whole += length(lines);
                if std::mem::take(&mut self.is_failing) {
                    log::info!("the state directory can be written again");
                }
                if self.whole > self.long {
                    self.begin_next();
                }
                Ok(())
            }
            Err(error) => {
                // What was written of it must not be taken for a change. If that fails too, it is done before the next write.
                self.is_torn = true;
                let _ = self.mend();
                if !std::mem::replace(&mut self.is_failing, true) {
                    log::error!("the state directory cannot be written, changes are refused until it can: {error}");
                }
                Err(refused(&error))
            }
        }
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.mend()?;
        self.file.write_all(lines)?;
        self.file.sync_data()
    }

    /// Cuts off what a failed write has left.
    fn mend(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.file.set_len(self.whole)?;
            self.is_torn = false;
        }
        Ok(())
    }

    /// Begins a new log, and has a snapshot made of everything before it.
    fn begin_next(&mut self) {
        if self.snapshots.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let next = self.generation + 1;
        match self.folder.begin_log(next) {
            Ok((file, whole)) => {
                (self.file, self.generation, self.whole) = (file, next, whole);
                self.long = SMALL.max(self.snapshot.load(Ordering::SeqCst));
                let (folder, length) = (Arc::clone(&self.folder), Arc::clone(&self.snapshot));
                let make = move || make_snapshot(&folder, next, &length);
                match thread::Builder::new().name("weft-snapshot".to_owned()).spawn(make) {
                    Ok(thread) => self.snapshots = Some(thread),
                    Err(error) => log::warn!("no snapshot, the system refuses a thread: {error}"),
                }
            }
            Err(error) => {
                log::warn!("no new log, the old one goes on: {error}");
                self.long = self.whole.saturating_mul(2);
            }
        }
    }
}

/// Makes the snapshot of everything before the log `next`, and removes what is then no longer needed.
fn make_snapshot(folder: &Folder, next: u64, length: &AtomicU64) {
    let found = match recover(folder, next) {
        Ok(found) if found.damaged.is_empty() => found,
        // It is dealt with at the next start, when nothing is being written.
        Ok(found) => return log::error!("no snapshot: {} files are damaged; restart to have them set aside", found.damaged.len()),
        Err(error) => return log::error!("no snapshot: {error}"),
    };
    match folder.write_snapshot(next, &found.kept) {
        Ok(written) => {
            length.store(written, Ordering::SeqCst);
            folder.remove_before(found.start);
        }
        Err(error) => log::warn!("no snapshot, the logs go on: {error}"),
    }
}
