//! Certificates and keys from files in PEM. What is wrong with one is said with the setting that names it.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::files::{self, Openness};
use crate::model::{Invalid, shown};

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

fn read(setting: &'static str, path: &str, openness: Openness) -> Result<Vec<u8>, Invalid> {
    files::read(path, openness).map_err(|why| fault(setting, path, &why))
}

fn fault(setting: &'static str, path: &str, why: &str) -> Invalid {
    Invalid::new(setting, format!("{} {why}", shown(path)))
}
