//! How clients are secured: the certificate that the mesh shows them, and whose certificates it asks of them.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring::Ticketer;
use rustls::pki_types::TrustAnchor;
use rustls::server::WebPkiClientVerifier;

use super::config::Config;
use crate::model::Invalid;
use crate::outbound::certificates::{authorities, chain, key, provider};

/// What a client's handshake is answered with.
#[derive(Clone, Debug)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    /// By whom clients must be certified.
    authorities: Arc<[TrustAnchor<'static>]>,
}

impl Acceptor {
    /// Reads the files that `config` names; `None` when clients are not to be secured.
    ///
    /// Each reading begins with new keys for tickets: a session that was resumed would not be asked for its certificate again, by whatever
    /// authorities it was judged.
    ///
    /// # Errors
    /// [`Invalid`] naming the setting whose file does not do.
    pub fn read(config: &Config) -> Result<Option<Self>, Invalid> {
        if config.tls_cert.is_empty() {
            return Ok(None);
        }
        let (chain, key) = (chain("tlsCert", &config.tls_cert)?, key("tlsKey", &config.tls_key)?);
        let provider = provider();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().map_err(broken)?;
        let mut anchors = Vec::new();
        let builder = if config.tls_client_ca.is_empty() {
            builder.with_no_client_auth()
        } else {
            let roots = authorities("tlsClientCa", &config.tls_client_ca)?;
            anchors.clone_from(&roots.roots);
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| Invalid::new("tlsClientCa", format!("cannot be used: {error}")))?)
        };
        let mut made = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => Invalid::new("tlsKey", "is not the key to tlsCert"),
            other => broken(other),
        })?;
        made.alpn_protocols = vec![b"http/1.1".to_vec()];
        made.ticketer = Ticketer::new().map_err(broken)?;
        Ok(Some(Self { config: Arc::new(made), authorities: anchors.into() }))
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Whether clients must be certified by the same authorities as by `other`.
    pub(super) fn judges_as(&self, other: &Self) -> bool {
        self.authorities == other.authorities
    }
}

#[allow(clippy::needless_pass_by_value)] // Used where errors are mapped.
fn broken(error: rustls::Error) -> Invalid {
    Invalid::new("tlsCert", format!("cannot be used: {error}"))
}
