//! What stands for securing clients in a build without TLS: a word to whoever asks for it.

use super::config::Config;
use crate::model::Invalid;

/// As in a build with TLS; there is none.
#[derive(Clone, Debug)]
pub enum Acceptor {}

impl Acceptor {
    /// As in a build with TLS.
    ///
    /// # Errors
    /// [`Invalid`] when clients are to be secured.
    pub fn read(config: &Config) -> Result<Option<Self>, Invalid> {
        if config.tls_cert.is_empty() { Ok(None) } else { Err(Invalid::new("tlsCert", "cannot be used: this build has no TLS")) }
    }

    /// As in a build with TLS.
    pub(super) const fn judges_as(&self, _: &Self) -> bool {
        match *self {}
    }
}
