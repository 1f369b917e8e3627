//! TLS to instances, without waiting: rustls between a socket that never blocks and the plain bytes of a line.

use std::io::{self, Read, Write};
use std::sync::{Arc, OnceLock};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::socket::{Moved, Socket};
use crate::model::Host;

/// The TLS side of a connection.
pub(super) struct Secured(Box<ClientConnection>);

/// One configuration for all: Mozilla's roots, by way of ring.
fn config() -> Result<Arc<ClientConfig>, rustls::Error> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(Arc::clone(config));
    }
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let made = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let made = made.with_root_certificates(roots).with_no_client_auth();
    Ok(Arc::clone(CONFIG.get_or_init(|| Arc::new(made))))
}

impl Secured {
    /// Begins a handshake with `host`.
    pub(super) fn new(host: &Host) -> Result<Self, String> {
        let name = ServerName::try_from(host.to_string().trim_matches(['[', ']']).to_owned()).map_err(|error| error.to_string())?;
        let connection = config().and_then(|config| ClientConnection::new(config, name)).map_err(|error| error.to_string())?;
        Ok(Self(Box::new(connection)))
    }

    /// Goes on with the handshake as far as it goes. Answers whether it is done.
    pub(super) fn shake(&mut self, socket: &Socket) -> Result<bool, String> {
        while self.0.is_handshaking() {
            self.send(socket).map_err(|error| error.to_string())?;
            if !self.0.is_handshaking() {
                break;
            }
            match self.receive(socket) {
                Ok(true) => {}
                Ok(false) => return Err("closed in the middle of it".to_owned()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => {
                    // So that the other side learns why.
                    let _ = self.send(socket);
                    return Err(error.to_string());
                }
            }
        }
        self.send(socket).map_err(|error| error.to_string())?;
        Ok(true)
    }

    /// Reads plain bytes into the room a buffer has. Says whether there may be more.
    pub(super) fn read_into(&mut self, socket: &Socket, buffer: &mut Vec<u8>) -> (Moved, bool) {
        let so_far = buffer.len();
        buffer.resize(buffer.capacity(), 0);
        let moved = self.read(socket, buffer.get_mut(so_far..).unwrap_or_default());
        let read = if let Moved::Bytes(read) = moved { read } else { 0 };
        buffer.truncate(so_far + read);
        (moved, read > 0)
    }

    fn read(&mut self, socket: &Socket, into: &mut [u8]) -> Moved {
        loop {
            match self.0.reader().read(into) {
                Ok(read) => return Moved::Bytes(read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The connection ended without saying so: what came may not be all.
                Err(_) => return Moved::Broken,
            }
            match self.receive(socket) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Moved::Blocked,
                Err(_) => return Moved::Broken,
            }
        }
    }

    /// Takes plain bytes to be sent, as many as there is room for.
    pub(super) fn write(&mut self, socket: &Socket, bytes: &[u8]) -> Moved {
        if self.send(socket).is_err() {
            return Moved::Broken;
        }
        if self.0.wants_write() {
            return Moved::Blocked;
        }
        match self.0.writer().write(bytes) {
            Ok(written) if self.send(socket).is_ok() => Moved::Bytes(written),
            _ => Moved::Broken,
        }
    }

    /// Says that nothing more will be written.
    pub(super) fn finish(&mut self, socket: &Socket) {
        self.0.send_close_notify();
        // A connection that is broken is finished as well.
        let _ = self.send(socket);
    }

    /// Sends what is ready to be sent, as far as the socket takes it.
    pub(super) fn send(&mut self, socket: &Socket) -> io::Result<()> {
        while self.0.wants_write() {
            match self.0.write_tls(&mut &*socket) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes in what has come. Answers whether the connection goes on.
    fn receive(&mut self, socket: &Socket) -> io::Result<bool> {
        let read = self.0.read_tls(&mut &*socket)?;
        self.0.process_new_packets().map_err(io::Error::other)?;
        Ok(read > 0)
    }
}
