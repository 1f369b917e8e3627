//! Small files that settings name: certificates, and secrets that nobody but their owner may read.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;

/// No file of certificates is longer; Mozilla's whole list is a quarter of it.
const MOST: u64 = 1_048_576;

/// Who may read a file.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Openness {
    #[cfg(feature = "tls")]
    Any,
    /// Nobody but its owner (and our group, if it is root's).
    OwnerOnly,
}

/// Reads a file.
///
/// # Errors
/// What is wrong with it, to go on from its name with.
pub(crate) fn read(path: &str, openness: Openness) -> Result<Vec<u8>, String> {
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    let file = File::open(path).map_err(unreadable)?;
    let about = file.metadata().map_err(unreadable)?;
    let mode = about.mode() & 0o777;
    // What is root's to give is given by group, as by systemd's LoadCredential= and secrets of Kubernetes.
    let is_lent = about.uid() == 0 && !rustix::process::geteuid().is_root();
    if openness == Openness::OwnerOnly && mode & if is_lent { 0o037 } else { 0o077 } != 0 {
        return Err(format!("can be read by others than its owner (mode {mode:04o}); chmod 600 it"));
    }
    let mut text = Vec::new();
    file.take(MOST + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MOST { Err("is longer than 1 MiB".to_owned()) } else { Ok(text) }
}
