//! The token file on disk: read only if it is its owner's alone, written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::contract::tokens::Tokens;
use crate::model::{Invalid, shown};

/// More than any such file needs.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// Reads the callers that a file names.
///
/// # Errors
/// [`Invalid`] when the file cannot be read, somebody else could read or change it, or a line is not as it should be.
pub fn read(path: &Path) -> Result<Tokens, Invalid> {
    let fault = |why: String| Invalid::new("tokenFile", format!("{} {why}", shown(&path.display().to_string())));
    let text = text(path).map_err(|error| fault(format!("cannot be read: {error}")))?;
    Tokens::parse(&text).map_err(|why| fault(format!("is not a token file: {why}")))
}

/// The text of a token file, which is an error when it cannot be read, is no plain file, or is not its owner's alone.
fn text(path: &Path) -> io::Result<String> {
    // A link would lead to a file whose owner nobody has looked at, and a pipe would never end.
    let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
    let file = File::from(opened.map_err(|error| match error {
        rustix::io::Errno::LOOP => io::Error::other("it is a symbolic link"),
        error => error.into(),
    })?);
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    judge(about.mode(), about.uid(), rustix::process::geteuid().as_raw()).map_err(io::Error::other)?;
    let mut text = String::new();
    file.take(MOST_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// Whether a file of that mode and owner is for `us` alone.
fn judge(mode: u32, owner: u32, us: u32) -> Result<(), String> {
    // What is root's to give is given by group, as by systemd's LoadCredential=.
    let is_lent = owner == 0 && us != 0;
    if mode & if is_lent { 0o037 } else { 0o077 } != 0 {
        return Err(format!("others may read or change it (mode {:o}); use chmod 600", mode & 0o777));
    }
    if owner == us || is_lent { Ok(()) } else { Err("it belongs to somebody else".to_owned()) }
}

/// Changes a token file, at once and for good, into what `change` makes of its text; of none where it is not there yet. Nobody else changes it
/// meanwhile: who comes second is refused.
///
/// # Errors
/// What `change` says, or when the file cannot be read or written; it is then as it was.
pub fn change<E: From<io::Error>>(path: &Path, change: impl FnOnce(&str) -> Result<String, E>) -> Result<(), E> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    // Before anything is read, since it keeps others out.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            let beside = shown(&Path::new(&beside).display().to_string());
            io::Error::other(format!("{beside} is there: somebody is writing it just now, or was interrupted; then remove it"))
        }
        _ => error,
    })?;
    let written = || -> Result<(), E> {
        let before = match text(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            before => before?,
        };
        file.write_all(change(&before)?.as_bytes())?;
        file.sync_all()?;
        Ok(fs::rename(&beside, path)?)
    };
    if let Err(error) = written() {
        // Whatever is left of it is worth nothing.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    Ok(File::open(folder)?.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::judge;

    #[test]
    fn a_file_is_its_owners_alone_or_lent_by_root() {
        for (mode, owner, us) in
            [(0o600, 1000, 1000), (0o400, 1000, 1000), (0o600, 0, 0), (0o440, 0, 1000), (0o640, 0, 1000), (0o400, 0, 1000)]
        {
            assert_eq!(judge(0o100_000 | mode, owner, us), Ok(()), "{mode:o} {owner} {us}");
        }
        for (mode, owner, us) in [
            (0o640, 1000, 1000),
            (0o604, 1000, 1000),
            (0o440, 0, 0),
            (0o600, 1001, 1000),
            (0o600, 1000, 0),
            (0o444, 0, 1000),
            (0o460, 0, 1000),
            (0o640, 1001, 1000),
        ] {
            assert!(judge(0o100_000 | mode, owner, us).is_err(), "{mode:o} {owner} {us}");
        }
    }
}
