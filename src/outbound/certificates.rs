//! Certificates and keys from files in PEM. What is wrong with one is said with the setting that names it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::model::{Invalid, shown};

/// No file of certificates is longer; Mozilla's whole list is a quarter of it.
const MOST: u64 = 1_048_576;

/// Who does the cryptography: ring.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The certificates in the file that `setting` names: at least one, the owner's first.
///
/// # Errors
/// [`Invalid`] naming the setting.
pub(crate) fn chain(setting: &'static str, path: &str) -> Result<Vec<CertificateDer<'static>>, Invalid> {
    let text = read(setting, path, Openness::Any)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(fault(setting, path, "has no certificate in it; PEM is expected")),
        Err(error) => Err(fault(setting, path, &format!("is not PEM: {error}"))),
    }
}

/// The authorities whose certificates are in the file that `setting` names.
///
/// # Errors
/// [`Invalid`] naming the setting.
pub(crate) fn authorities(setting: &'static str, path: &str) -> Result<RootCertStore, Invalid> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(setting, path)? {
        roots.add(certificate).map_err(|error| fault(setting, path, &format!("has a certificate that no authority can have: {error}")))?;
    }
    Ok(roots)
}

/// The private key in the file that `setting` names, which nobody but its owner may read (and our group, if it is root's).
///
/// # Errors
/// [`Invalid`] naming the setting.
pub(crate) fn key(setting: &'static str, path: &str) -> Result<PrivateKeyDer<'static>, Invalid> {
    let text = read(setting, path, Openness::OwnerOnly)?;
    // What the parser saw is part of no message: it may be half a key.
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| fault(setting, path, "has no private key in it; PEM is expected, without a password"))
}

#[derive(Clone, Copy, PartialEq)]
enum Openness {
    Any,
    OwnerOnly,
}

fn read(setting: &'static str, path: &str, openness: Openness) -> Result<Vec<u8>, Invalid> {
    let unreadable = |error: std::io::Error| fault(setting, path, &format!("cannot be read: {error}"));
    let file = File::open(path).map_err(unreadable)?;
    let about = file.metadata().map_err(unreadable)?;
    let mode = about.mode() & 0o777;
    // What is root's to give is given by group, as by systemd's LoadCredential= and secrets of Kubernetes.
    let is_lent = about.uid() == 0 && !rustix::process::geteuid().is_root();
    if openness == Openness::OwnerOnly && mode & if is_lent { 0o037 } else { 0o077 } != 0 {
        return Err(fault(setting, path, &format!("can be read by others than its owner (mode {mode:04o}); chmod 600 it")));
    }
    let mut text = Vec::new();
    file.take(MOST + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MOST {
        return Err(fault(setting, path, "is longer than 1 MiB"));
    }
    Ok(text)
}

fn fault(setting: &'static str, path: &str, why: &str) -> Invalid {
    Invalid::new(setting, format!("{} {why}", shown(path)))
}
