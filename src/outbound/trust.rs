//! Whom the mesh trusts to be an instance, and as whom it introduces itself: what connections to `https` instances are secured with. Both
//! drivers and the health checks use the same.

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig, ClientConnection, RootCertStore};

use super::certificates::{authorities, chain, key, provider};
use crate::mesh::Mesh;
use crate::model::sync::Published;
use crate::model::{Host, Invalid};
use crate::policy::upstreams;

/// What connections to instances are secured with, shared by all who make them; it can be changed while they do.
#[derive(Clone, Default)]
pub(crate) struct Trust(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Guarded: what the next connection uses; nothing means Mozilla's authorities and no certificate of our own.
    config: Published<Option<Arc<ClientConfig>>>,
    /// How often that has changed.
    changes: AtomicU64,
}

/// What a connection was secured with: it vouches for nobody any more once something else is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Vintage(u64);

/// Settings that have been read from their files and can be put in force.
pub(crate) struct Read(Option<Arc<ClientConfig>>);

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trust")
    }
}

impl Trust {
    /// That of a mesh; the usual one when its transport has none.
    pub(crate) fn of(mesh: &Mesh) -> Self {
        mesh.inner.transport.trust().and_then(|trust| trust.downcast().ok()).map_or_else(Self::default, Self)
    }

    /// As a transport hands it out.
    pub(crate) fn shared(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::clone(&self.0) as _
    }

    /// Reads the files that `config` names.
    ///
    /// # Errors
    /// [`Invalid`] naming the setting whose file does not do.
    pub(crate) fn read(config: &upstreams::Config) -> Result<Read, Invalid> {
        let own = match (config.cert_file.as_str(), config.key_file.as_str()) {
            ("", "") => None,
            (_, "") => return Err(Invalid::new("upstreams.certFile", "needs its key; set keyFile as well")),
            ("", _) => return Err(Invalid::new("upstreams.keyFile", "needs its certificate; set certFile as well")),
            (cert, secret) => Some((chain("upstreams.certFile", cert)?, key("upstreams.keyFile", secret)?)),
        };
        let roots = match config.ca_file.as_str() {
            "" if own.is_none() => return Ok(Read(None)),
            "" => mozilla(),
            path => authorities("upstreams.caFile", path)?,
        };
        let broken = |error: rustls::Error| Invalid::new("upstreams.certFile", format!("cannot be used: {error}"));
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(broken)?;
        let builder = builder.with_root_certificates(roots);
        let made = match own {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(broken)?,
            None => builder.with_no_client_auth(),
        };
        Ok(Read(Some(Arc::new(speaking_http(made)))))
    }

    /// The next connection is secured with this, and none is used again that was secured with something else.
    pub(crate) fn change(&self, Read(config): Read) {
        let is_same = self.0.config.update(|current| {
            // It may be the same authorities as before: files are not compared.
            let is_same = config.is_none() && current.is_none();
            *current = config;
            is_same
        });
        // After it, so that what is secured meanwhile counts as old rather than as new.
        self.0.changes.fetch_add(u64::from(!is_same), Ordering::SeqCst);
    }

    /// Of what is secured from now on. To be asked before it is.
    pub(crate) fn vintage(&self) -> Vintage {
        Vintage(self.0.changes.load(Ordering::SeqCst))
    }

    /// Begins to secure a connection to `host`.
    ///
    /// # Errors
    /// Why that cannot be, for a person.
    pub(crate) fn connect(&self, host: &Host) -> Result<ClientConnection, String> {
        let name = ServerName::try_from(host.to_string().trim_matches(['[', ']']).to_owned()).map_err(|error| error.to_string())?;
        let config = self.0.config.read(Clone::clone).map_or_else(usual, Ok);
        config.and_then(|config| ClientConnection::new(config, name)).map_err(|error| error.to_string())
    }
}

fn mozilla() -> RootCertStore {
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}

/// What is used when nothing is configured, made when it is first needed.
fn usual() -> Result<Arc<ClientConfig>, rustls::Error> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(Arc::clone(config));
    }
    let made = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let made = made.with_root_certificates(mozilla()).with_no_client_auth();
    Ok(Arc::clone(CONFIG.get_or_init(|| Arc::new(speaking_http(made)))))
}

fn speaking_http(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// What rustls has to say in an error of a connection.
pub(crate) fn said(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Why an instance could not be trusted, or did not trust us, for a person.
pub(crate) fn why(error: &rustls::Error) -> String {
    use rustls::Error;
    let text = match error {
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => "its certificate has expired",
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            "its certificate is not valid yet"
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => "its certificate is from an issuer that is not trusted",
        Error::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => {
            "its certificate is for another name"
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => "it wants a certificate of ours",
        Error::AlertReceived(alert) if is_refusal(*alert) => return format!("it refused ours: {alert:?}"),
        Error::InvalidMessage(_) => "what it says is not TLS",
        other => return other.to_string(),
    };
    text.to_owned()
}

/// Whether an instance has refused us, although we held the handshake to be done: since TLS 1.3 that comes after it. Such an instance has
/// looked at no request.
pub(crate) fn refusal(error: &rustls::Error) -> Option<String> {
    match error {
        rustls::Error::AlertReceived(alert) if is_refusal(*alert) => Some(why(error)),
        _ => None,
    }
}

const fn is_refusal(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    matches!(
        alert,
        Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError
            | Alert::HandshakeFailure
    )
}
