//! The only ureq that speaks to etcd: one member, asked for an answer or for a stream.

use std::io::{self, BufRead, BufReader, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;
use ureq::config::Config;

use crate::mesh::ports::Resolver;
use crate::model::sync::Locked;
use crate::model::{Failure, HealthTarget, Invalid, Scheme, authority};
use crate::outbound::SystemResolver;
use crate::outbound::connection::{Ask, BUFFER, Dialer};
use crate::outbound::files::{self, Openness};
use crate::outbound::upstream::Nowhere;

/// How long a connection may take to be made, a look-up of the name included.
pub(super) const CONNECT: Duration = Duration::from_millis(500);
/// The longest answer, and the longest line of a stream: what is longer is cut off one byte beyond, so that it shows. A page of the registry
/// seldom has a megabyte, but others may put up to 1.5 MiB under each key.
pub(super) const LONGEST: u64 = 64 * 1024 * 1024;
/// Connections kept for a member: as many as changes may be under way.
const IDLE_CONNECTIONS: usize = 32;

/// What the mesh shows and trusts when it speaks TLS.
#[derive(Clone, Default)]
pub(super) struct Identity {
    #[cfg(feature = "tls")]
    config: ureq::tls::TlsConfig,
}

impl Identity {
    /// Reads the files that are named.
    pub(super) fn read(config: &super::Config) -> Result<Self, Invalid> {
        #[cfg(feature = "tls")]
        {
            use crate::model::shown;
            use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
            let fault = |key: &str, path: &str, why: &str| Invalid::new(format!("registry.etcd.{key}"), format!("{}: {why}", shown(path)));
            let read = |key: &str, path: &str, openness| files::read(path, openness).map_err(|why| fault(key, path, &why));
            let certificates = |key: &str, path: &str| -> Result<Vec<Certificate<'static>>, Invalid> {
                let pem = read(key, path, Openness::Any)?;
                let found = parse_pem(&pem).filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                });
                let found: Vec<_> = found.collect();
                if found.is_empty() { Err(fault(key, path, "holds no certificate in PEM")) } else { Ok(found) }
            };
            let mut tls = TlsConfig::builder();
            if !config.ca_file.is_empty() {
                tls = tls.root_certs(RootCerts::new_with_certs(&certificates("caFile", &config.ca_file)?));
            }
            if !config.cert_file.is_empty() {
                let pem = read("keyFile", &config.key_file, Openness::OwnerOnly)?;
                // What the parser saw is part of no message: it may be half a key.
                let key = PrivateKey::from_pem(&pem).map_err(|_| fault("keyFile", &config.key_file, "holds no key in PEM"))?;
                tls = tls.client_cert(Some(ClientCert::new_with_certs(&certificates("certFile", &config.cert_file)?, key)));
            }
            Ok(Self { config: tls.build() })
        }
        #[cfg(not(feature = "tls"))]
        if config.ca_file.is_empty() && config.cert_file.is_empty() {
            Ok(Self::default())
        } else {
            Err(Invalid::new("registry.etcd.caFile", "this weft was built without TLS"))
        }
    }
}

/// A password as it stands in its file, without the newline at its end.
pub(super) fn password(path: &str) -> Result<String, String> {
    let text = String::from_utf8(files::read(path, Openness::OwnerOnly)?).map_err(|_| "is no text".to_owned())?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// The connection of a stream, to be cut from outside.
#[derive(Default)]
pub(super) struct Cord {
    /// Guarded: the connection, while there is one.
    stream: Locked<Option<TcpStream>>,
}

impl Cord {
    /// Ends the stream at once; whoever reads it finds its end.
    pub(super) fn cut(&self) {
        if let Some(stream) = self.stream.with(Option::take) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// A member of the cluster.
pub(super) struct Line {
    agent: Agent,
    base: String,
}

/// Where a member is.
struct Place {
    target: HealthTarget,
    resolver: SystemResolver,
    cord: Option<Arc<Cord>>,
}

impl Ask for Place {
    fn addresses(&self) -> Vec<SocketAddr> {
        let port = self.target.port.get();
        self.resolver.resolve(&self.target.host, CONNECT).into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
    }

    fn connected(&self, stream: &TcpStream) {
        if let Some(cord) = &self.cord {
            let own = stream.try_clone().ok();
            cord.stream.with(|stream| *stream = own);
        }
    }
}

/// An answer: its status, and what it holds.
pub(super) type Answer<B> = (u16, B);

impl Line {
    /// A line to a member. Its streams can be cut by `cord`.
    pub(super) fn new(target: &HealthTarget, identity: &Identity, cord: Option<Arc<Cord>>) -> Self {
        let scheme = match target.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        let base = format!("{scheme}://{}", authority(&target.host, target.port));
        let config = Config::builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .accept_encoding("")
            .input_buffer_size(BUFFER)
            .output_buffer_size(BUFFER)
            .max_response_header_size(BUFFER)
            .max_idle_connections(IDLE_CONNECTIONS)
            .max_idle_connections_per_host(IDLE_CONNECTIONS)
            .timeout_connect(Some(CONNECT));
        #[cfg(feature = "tls")]
        let config = config.tls_config(identity.config.clone());
        #[cfg(not(feature = "tls"))]
        let _ = identity;
        let dialer = Dialer::Asking(Arc::new(Place { target: target.clone(), resolver: SystemResolver::default(), cord }));
        let agent = match target.scheme {
            #[cfg(feature = "tls")]
            Scheme::Https => {
                use ureq::unversioned::transport::{Connector, RustlsConnector};
                Agent::with_parts(config.build(), dialer.chain(RustlsConnector::default()), Nowhere)
            }
            _ => Agent::with_parts(config.build(), dialer, Nowhere),
        };
        Self { agent, base }
    }

    /// Who it is, for a person.
    pub(super) fn name(&self) -> &str {
        &self.base
    }

    /// Asks, and waits for the whole answer. An error is a sentence.
    pub(super) fn ask(&self, path: &str, body: &[u8], token: Option<&str>, within: Duration) -> Result<Answer<Vec<u8>>, String> {
        let (status, reader) = self.begin(path, body, token, within)?;
        let mut bytes = Vec::new();
        reader.take(LONGEST + 1).read_to_end(&mut bytes).map_err(|error| why(&error))?;
        Ok((status, bytes))
    }

    /// Asks for a stream of lines, which ends after `within` at the latest.
    pub(super) fn stream(&self, path: &str, body: &[u8], token: Option<&str>, within: Duration) -> Result<Answer<Lines>, String> {
        let (status, reader) = self.begin(path, body, token, within)?;
        Ok((status, Lines(BufReader::new(Box::new(reader)))))
    }

    fn begin(&self, path: &str, body: &[u8], token: Option<&str>, within: Duration) -> Result<Answer<impl Read + Send + use<>>, String> {
        let request = self.agent.post(format!("{}{path}", self.base)).header("content-type", "application/json");
        // A watch at a member that has lost the others then ends, instead of being silent.
        let request = request.header("grpc-metadata-hasleader", "true");
        let request = match token {
            Some(token) => request.header("authorization", token),
            None => request,
        };
        let answer = request.config().timeout_global(Some(within)).build().send(body).map_err(|error| match error {
            ureq::Error::Io(error) => why(&error),
            ureq::Error::Timeout(_) => "does not answer in time".to_owned(),
            other => other.to_string(),
        })?;
        Ok((answer.status().as_u16(), answer.into_body().into_reader()))
    }
}

/// The lines of a stream.
pub(super) struct Lines(BufReader<Box<dyn Read + Send>>);

impl Lines {
    /// The next line; `None` at the end, whatever ended it.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        match (&mut self.0).take(LONGEST + 1).read_until(b'\n', &mut line) {
            Ok(_) if line.ends_with(b"\n") => Some(line),
            // A refusal comes without one.
            Ok(read) if read > 0 => Some(line),
            _ => None,
        }
    }
}

/// What an error means, in a few words.
fn why(error: &io::Error) -> String {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Failure>()).map_or_else(|| error.to_string(), ToString::to_string)
}
