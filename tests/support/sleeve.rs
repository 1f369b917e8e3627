//! A sleeve over a door that speaks TLS: who connects to the sleeve in the clear is connected to the door by TLS; and the other way round, for
//! instances that do not speak it themselves. What either side does is done to the other: bytes, ends and resets. An end that the side of TLS
//! does not announce, as it should, is a reset on the other.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

/// Listens as long as it lives.
pub(crate) struct Sleeve {
    pub(crate) at: SocketAddr,
    over: Arc<AtomicBool>,
}

/// One connection through it.
struct Through {
    session: Mutex<Connection>,
    /// Held while what a session has to send is being sent, so that it stays in order.
    sending: Mutex<()>,
    secret: TcpStream,
    plain: TcpStream,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sleeve {
    /// Over the door at `door`, which must show a certificate for `localhost`.
    pub(crate) fn over(door: SocketAddr, config: Arc<ClientConfig>) -> Self {
        Self::start(move |plain| {
            let name = ServerName::try_from("localhost").expect("a name");
            let session = ClientConnection::new(Arc::clone(&config), name).expect("a session");
            if let Ok(secret) = TcpStream::connect(door) {
                pass(plain, secret, session.into());
            }
        })
    }

    /// Around an instance at `instance`, which is then spoken to by TLS.
    pub(crate) fn around(instance: SocketAddr, config: Arc<ServerConfig>) -> Self {
        Self::start(move |secret| {
            let session = ServerConnection::new(Arc::clone(&config)).expect("a session");
            if let Ok(plain) = TcpStream::connect(instance) {
                pass(plain, secret, session.into());
            }
        })
    }

    fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let serve = Arc::new(serve);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let at = listener.local_addr().expect("an address");
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(client));
            }
        });
        Self { at, over }
    }
}

impl Drop for Sleeve {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.at);
    }
}

fn pass(plain: TcpStream, secret: TcpStream, mut session: Connection) {
    let _ = (plain.set_nodelay(true), secret.set_nodelay(true));
    // Before that, a session takes no more than it can hold.
    let shaken = session.complete_io(&mut &secret);
    let through = Arc::new(Through { session: Mutex::new(session), sending: Mutex::new(()), secret, plain });
    let other = Arc::clone(&through);
    let inwards = thread::spawn(move || {
        if other.inwards().is_err() {
            other.break_off();
        }
    });
    if shaken.is_err() {
        // Why is said in the last record, which would be lost if the connection ended with anything unread.
        let _ = through.secret.shutdown(Shutdown::Write);
        let _ = io::copy(&mut &through.secret, &mut io::sink());
        through.break_off();
    } else if through.outwards().is_err() {
        through.break_off();
    }
    let _ = inwards.join();
}

impl Through {
    /// From the plain side to the other.
    fn inwards(&self) -> io::Result<()> {
        let mut piece = vec![0; 16 * 1024];
        self.send(|_| Ok(()))?;
        loop {
            let read = (&self.plain).read(&mut piece)?;
            if read == 0 {
                self.send(|session| {
                    session.send_close_notify();
                    Ok(())
                })?;
                return self.secret.shutdown(Shutdown::Write);
            }
            self.send(|session| session.writer().write_all(&piece[..read]))?;
        }
    }

    /// To the plain side from the other.
    fn outwards(&self) -> io::Result<()> {
        let mut piece = vec![0; 32 * 1024];
        // What came with the end of the handshake is here already.
        let (mut read, mut is_over) = (0, false);
        loop {
            let (mut plain, mut rest) = (Vec::new(), &piece[..read]);
            let mut owes = false;
            loop {
                let mut session = locked(&self.session);
                if !rest.is_empty() {
                    session.read_tls(&mut rest)?;
                }
                let state = session.process_new_packets().map_err(io::Error::other)?;
                let so_far = plain.len();
                plain.resize(so_far + state.plaintext_bytes_to_read(), 0);
                session.reader().read_exact(&mut plain[so_far..])?;
                is_over |= state.peer_has_closed();
                owes |= session.wants_write();
                if rest.is_empty() {
                    break;
                }
            }
            if owes {
                self.send(|_| Ok(()))?;
            }
            (&self.plain).write_all(&plain)?;
            if is_over {
                return self.plain.shutdown(Shutdown::Write);
            }
            read = (&self.secret).read(&mut piece)?;
            if read == 0 {
                // Unannounced, it is no end.
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Has the session do something, and sends whatever it then has to send.
    fn send(&self, what: impl FnOnce(&mut Connection) -> io::Result<()>) -> io::Result<()> {
        let _turn = locked(&self.sending);
        let mut bytes = Vec::new();
        {
            let mut session = locked(&self.session);
            what(&mut session)?;
            while session.wants_write() {
                session.write_tls(&mut bytes)?;
            }
        }
        (&self.secret).write_all(&bytes)
    }

    /// Lets both connections end by a reset once nobody holds them.
    fn break_off(&self) {
        for stream in [&self.secret, &self.plain] {
            // It may be broken already.
            let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
            let _ = stream.shutdown(Shutdown::Read);
        }
    }
}
