//! Certificates for one test: an authority and whom it certifies, made by the openssl command and gone with the value.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use weft::server::Config;

/// An authority in a folder of its own.
pub(crate) struct Papers {
    folder: PathBuf,
    /// The authority's own certificate.
    pub(crate) ca: String,
}

/// A certificate and its key, as the paths of their files.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) cert: String,
    pub(crate) key: String,
}

const P256: &[&str] = &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
const RSA: &[&str] = &["-newkey", "rsa:2048"];

fn openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output().expect("the openssl command");
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Papers {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("weft-papers-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        let folder = env::temp_dir().join(&name);
        fs::create_dir_all(&folder).expect("a folder");
        let path = |name: &str| folder.join(name).to_str().expect("UTF-8").to_owned();
        let (ca, key) = (path("ca.pem"), path("ca.key"));
        let subject = format!("/CN={name}");
        let mut arguments = vec!["req", "-x509", "-nodes", "-days", "2", "-subj", &subject, "-keyout", &key, "-out", &ca];
        arguments.extend(["-addext", "basicConstraints=critical,CA:TRUE"]);
        arguments.extend(P256);
        openssl(&arguments);
        Self { ca, folder }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().expect("UTF-8").to_owned()
    }

    /// Certifies somebody with an elliptic key; `names` as openssl has them, such as `DNS:localhost,IP:127.0.0.1`.
    pub(crate) fn issue(&self, file: &str, names: &str) -> Pair {
        self.issue_with(file, names, P256)
    }

    /// The same with an RSA key.
    pub(crate) fn issue_rsa(&self, file: &str, names: &str) -> Pair {
        self.issue_with(file, names, RSA)
    }

    fn issue_with(&self, file: &str, names: &str, kind: &[&str]) -> Pair {
        let (pair, authority) = (self.pair(file), self.path("ca.key"));
        let names = format!("subjectAltName={names}");
        let mut arguments = vec!["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=somebody", "-CA", &self.ca, "-CAkey", &authority];
        arguments.extend(["-keyout", &pair.key, "-out", &pair.cert, "-addext", &names, "-addext", "basicConstraints=critical,CA:FALSE"]);
        arguments.extend(kind);
        openssl(&arguments);
        pair
    }

    /// Certifies somebody for a time that is over.
    pub(crate) fn issue_expired(&self, file: &str, names: &str) -> Pair {
        let (pair, authority, request) = (self.pair(file), self.path("ca.key"), self.path("request"));
        let names = format!("subjectAltName={names}");
        let mut arguments = vec!["req", "-nodes", "-subj", "/CN=somebody", "-keyout", &pair.key, "-out", &request, "-addext", &names];
        arguments.extend(P256);
        openssl(&arguments);
        let paths = ["x509", "-req", "-in", &request, "-CA", &self.ca, "-CAkey", &authority, "-out", &pair.cert];
        openssl(&[&paths[..], &["-days", "-1", "-copy_extensions", "copy"]].concat());
        pair
    }

    /// A configuration that secures clients.
    pub(crate) fn secured(&self, file: &str, config: &Config) -> Config {
        let pair = self.issue(file, "DNS:localhost,IP:127.0.0.1");
        Config { tls_cert: pair.cert, tls_key: pair.key, ..config.clone() }
    }

    /// An instance that shows a certificate, and asks for one of this authority if it `asks`.
    pub(crate) fn instance(&self, shows: &Pair, asks: bool) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().expect("versions");
        let builder = if asks {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()), provider).build();
            builder.with_client_cert_verifier(verifier.expect("a verifier"))
        } else {
            builder.with_no_client_auth()
        };
        let chain = vec![CertificateDer::from_pem_file(&shows.cert).expect("PEM")];
        Arc::new(builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(&shows.key).expect("PEM")).expect("a pair"))
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.ca).expect("PEM")).expect("an authority");
        roots
    }

    /// A client that trusts this authority, and shows a certificate.
    pub(crate) fn client(&self, shows: Option<&Pair>) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
        let builder = builder.with_root_certificates(self.roots());
        Arc::new(match shows {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = vec![CertificateDer::from_pem_file(&pair.cert).expect("PEM")];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&pair.key).expect("PEM")).expect("a pair")
            }
        })
    }

    fn pair(&self, file: &str) -> Pair {
        Pair { cert: self.path(&format!("{file}.pem")), key: self.path(&format!("{file}.key")) }
    }
}

impl Drop for Papers {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}
