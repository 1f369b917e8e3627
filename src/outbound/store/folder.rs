//! The state directory: whose it is, what files there are, and how a whole file comes to be there at once.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::line::{Entry, Header, Kind, write};
use super::{Kept, StateError};

/// A state directory.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
}

/// While it lives, no other process can write to the directory.
#[derive(Debug)]
pub(super) struct Lock(#[allow(dead_code)] File); // Held, not read.

/// A file of the directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Name {
    pub(super) generation: u64,
    pub(super) kind: Kind,
}

impl Folder {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    pub(super) fn file(&self, name: Name) -> PathBuf {
        self.path.join(format!("{}-{:08}", name.kind.word(), name.generation))
    }

    pub(super) fn fault(&self, what: &str, error: &io::Error) -> StateError {
        StateError(format!("state directory {}: {what}: {error}", self.path.display()))
    }

    /// Takes the directory for this process.
    pub(super) fn lock(&self) -> Result<Lock, StateError> {
        let shown = self.path.display();
        match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StateError(format!("state directory {shown} does not exist: create it, writable for this user")));
            }
            Err(error) => return Err(self.fault("cannot be looked at", &error)),
            Ok(found) if !found.is_dir() => return Err(StateError(format!("state directory {shown} is not a directory"))),
            Ok(found) if found.mode() & 0o002 != 0 => {
                log::warn!("everybody may write to the state directory {shown}, and so change what is registered; chmod o-w it");
            }
            Ok(_) => {}
        }
        let path = self.path.join("lock");
        let opened = ours().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = opened.map_err(|error| self.fault("cannot be written", &error))?;
        if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(self.fault("cannot be locked", &error.into()));
            }
            let mut holder = String::new();
            // Only to say who it is.
            let _ = file.read_to_string(&mut holder);
            let holder = holder.trim();
            let who =
                if holder.is_empty() { String::new() } else { format!(" (process {})", crate::model::shown(holder).trim_matches('"')) };
            return Err(StateError(format!("state directory {shown} is in use by another weft{who}")));
        }
        // Who it is, for the message above; without it the lock is as good.
        let _ = file.set_len(0).and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
        Ok(Lock(file))
    }

    /// All snapshots and logs, oldest first; a snapshot before the log of the same generation.
    pub(super) fn names(&self) -> Result<Vec<Name>, StateError> {
        let entries = fs::read_dir(&self.path).map_err(|error| self.fault("cannot be read", &error))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| self.fault("cannot be read", &error))?;
            let text = entry.file_name();
            let kinds = [Kind::Snapshot, Kind::Log];
            names.extend(kinds.into_iter().filter_map(|kind| {
                let digits = text.to_str()?.strip_prefix(kind.word())?.strip_prefix('-')?;
                let name = Name { generation: digits.parse().ok()?, kind };
                // Another one that means the same number is not what would be read.
                (self.file(name) == entry.path()).then_some(name)
            }));
        }
        names.sort_unstable();
        Ok(names)
    }

    pub(super) fn read(&self, name: Name) -> Result<Vec<u8>, StateError> {
        let path = self.file(name);
        let fault = |error: io::Error| {
            let is_link = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
            let error = if is_link { io::Error::other("it is a symbolic link") } else { error };
            self.fault(&format!("{} cannot be read", path.display()), &error)
        };
        let read = || {
            let mut file = ours().read(true).open(&path)?;
            if !file.metadata()?.is_file() {
                return Err(io::Error::other("it is no file"));
            }
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map(|_| bytes)
        };
        read().map_err(fault)
    }

    /// Closes to everybody what a careless copy has left open: what is put of policies may be secret.
    pub(super) fn close_to_others(&self) {
        for name in self.names().unwrap_or_default() {
            let path = self.file(name);
            // One that cannot be opened is spoken of when it is read.
            let Ok(file) = ours().read(true).open(&path) else { continue };
            let mode = file.metadata().map_or(0, |found| found.mode() & 0o777);
            if mode & 0o007 != 0 {
                let closed = file.set_permissions(Permissions::from_mode(mode & 0o770));
                let now = closed.map_or_else(|error| format!("and that cannot be changed: {error}"), |()| "which is over".to_owned());
                log::warn!("everybody could open {} (mode {mode:o}), {now}", path.display());
            }
        }
    }

    /// Makes what was created, renamed or removed in the directory last.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// Begins a log.
    pub(super) fn begin_log(&self, generation: u64) -> io::Result<(File, u64)> {
        let path = self.file(Name { generation, kind: Kind::Log });
        let mut header = Vec::new();
        write(&Entry::Weft(Header::new(Kind::Log, generation)), &mut header);
        let mut file = fresh(&path)?;
        let begun = file.write_all(&header).and_then(|()| file.sync_all()).and_then(|()| self.sync());
        if let Err(error) = begun {
            // What is there holds nothing yet.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok((file, length(&header)))
    }

    /// Writes a snapshot: it is there whole, or not at all. Answers its length.
    pub(super) fn write_snapshot(&self, generation: u64, kept: &Kept) -> io::Result<u64> {
        let name = Name { generation, kind: Kind::Snapshot };
        let temporary = self.file(name).with_extension("tmp");
        let mut text = Vec::new();
        write(&Entry::Weft(Header::new(Kind::Snapshot, generation)), &mut text);
        let mut count = 0;
        for document in kept.documents() {
            super::write_document(document, &mut text);
            count += 1;
        }
        write(&Entry::End(count), &mut text);
        let written = fresh(&temporary).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&temporary, self.file(name))?;
            self.sync()
        });
        if written.is_err() {
            // It may be what has filled the disk.
            let _ = fs::remove_file(&temporary);
        }
        written.map(|()| length(&text))
    }

    /// Puts a damaged file where it is not read again.
    pub(super) fn set_aside(&self, name: Name) -> io::Result<PathBuf> {
        let mut path = self.file(name).with_extension("corrupt");
        let mut n = 1;
        while path.exists() {
            n += 1;
            path = self.file(name).with_extension(format!("corrupt-{n}"));
        }
        fs::rename(self.file(name), &path)?;
        self.sync()?;
        Ok(path)
    }

    /// Removes all files of generations before `first`.
    pub(super) fn remove_before(&self, first: u64) {
        for name in self.names().unwrap_or_default().into_iter().filter(|name| name.generation < first) {
            // One that stays is tried again next time.
            let _ = fs::remove_file(self.file(name));
        }
    }

    /// Goes on with a log.
    pub(super) fn go_on(&self, generation: u64) -> io::Result<File> {
        ours().append(true).open(self.file(Name { generation, kind: Kind::Log }))
    }

    /// Removes what a process that ended suddenly has left half written.
    pub(super) fn tidy(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let is_half = |name: &str| name.starts_with(Kind::Snapshot.word()) && name.ends_with(".tmp");
            if entry.file_name().to_str().is_some_and(is_half) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// How files of the directory are opened: never through a link, which would lead out of it, and never waiting for the other end of a pipe.
fn ours() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits().cast_signed());
    options
}

/// A file that nobody else has open or may read, in the place of whatever was there.
fn fresh(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    ours().append(true).create_new(true).open(path)
}

pub(super) fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
