//! Upstreams that do as they are told: answer, break off, hang, trickle, lie. One thread per connection; all of it ends with the value.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Which connection it came on, from 1.
    pub(crate) connection: usize,
    /// Which request of the upstream it is, from 1.
    pub(crate) nth: usize,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    /// The value of a header field that is there at most once.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
        let first = all.next().map(|(_, value)| value.as_str());
        assert!(all.next().is_none(), "{name} is there twice: {:?}", self.headers);
        first
    }
}

/// What to do about a request.
pub(crate) enum Act {
    /// These bytes; then the next request.
    Say(Vec<u8>),
    /// These bytes, and then this end.
    SayAnd(Vec<u8>, End),
    /// These bytes, once [`Upstream::release`] is called; then the next request.
    Held(Vec<u8>),
    /// The first at once, and then the second byte by byte, with that time between them.
    Trickle(Vec<u8>, Vec<u8>, Duration),
    /// The first, and then the second for ever.
    Pour(Vec<u8>, Vec<u8>),
}

/// How a connection ends.
pub(crate) enum End {
    Close,
    /// By a reset: what is under way is thrown away.
    Reset,
    /// Not at all: it stays open, silent.
    Hang,
}

/// An answer with a length and more header fields.
pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut out = format!("HTTP/1.1 {status} -\r\n");
    for (name, value) in headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    let mut out = out.into_bytes();
    out.extend_from_slice(body);
    out
}

/// `200`, with that text.
pub(crate) fn ok(body: impl AsRef<[u8]>) -> Act {
    Act::Say(answer(200, &[("content-type", "text/plain")], body))
}

/// An answer without a body.
pub(crate) fn status(status: u16) -> Act {
    Act::Say(answer(status, &[], ""))
}

/// A scripted upstream.
pub(crate) struct Upstream {
    pub(crate) at: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    script: Box<dyn Fn(&Asked) -> Act + Send + Sync>,
    asked: Mutex<Vec<Asked>>,
    requests: AtomicUsize,
    connections: AtomicUsize,
    /// Connections that have ended.
    ended: AtomicUsize,
    /// Open connections, to end them by, and their threads.
    open: Mutex<HashMap<usize, TcpStream>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    gate: Mutex<Gate>,
    changed: Condvar,
}

#[derive(Default)]
struct Gate {
    released: bool,
    stopped: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Upstream {
    /// Listens on a free port of loopback and answers by `script`.
    pub(crate) fn start(script: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").expect("a free port"), script)
    }

    /// The same on a listener that is there already.
    pub(crate) fn on(listener: TcpListener, script: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> Self {
        let at = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            script: Box::new(script),
            asked: Mutex::default(),
            requests: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            open: Mutex::default(),
            threads: Mutex::default(),
            gate: Mutex::default(),
            changed: Condvar::new(),
        });
        let here = Arc::clone(&shared);
        let acceptor = thread::spawn(move || accept(&here, &listener));
        Self { at, shared, acceptor: Some(acceptor) }
    }

    /// One that answers 200 with its own name.
    pub(crate) fn named(name: &'static str) -> Self {
        Self::start(move |_| ok(name))
    }

    pub(crate) fn port(&self) -> u16 {
        self.at.port()
    }

    /// All requests so far, in order.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        locked(&self.shared.asked).clone()
    }

    /// The only request so far.
    #[track_caller]
    pub(crate) fn asked_once(&self) -> Asked {
        let all = self.asked();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].clone()
    }

    /// How many requests there have been.
    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// How many connections there have been.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Waits until every connection so far has ended on this side.
    #[track_caller]
    pub(crate) fn hung_up(&self) {
        super::eventually("the upstream hangs up", || (self.shared.ended.load(Ordering::SeqCst) >= self.connections()).then_some(()));
    }

    /// Lets go of what is held, now and from now on.
    pub(crate) fn release(&self) {
        locked(&self.shared.gate).released = true;
        self.shared.changed.notify_all();
    }

    /// Closes every open connection; new ones are accepted.
    pub(crate) fn close_connections(&self) {
        for stream in locked(&self.shared.open).values() {
            // One that has ended by itself needs no ending.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        locked(&self.shared.gate).stopped = true;
        self.shared.changed.notify_all();
        // So that the acceptor looks up.
        let _ = TcpStream::connect(self.at);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        self.close_connections();
        for thread in std::mem::take(&mut *locked(&self.shared.threads)) {
            let _ = thread.join();
        }
    }
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    for stream in listener.incoming() {
        if locked(&shared.gate).stopped {
            return;
        }
        let Ok(stream) = stream else { continue };
        let number = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
        locked(&shared.open).extend(stream.try_clone().ok().map(|copy| (number, copy)));
        let here = Arc::clone(shared);
        let thread = thread::spawn(move || {
            // A connection that breaks is what many scripts are about.
            let end = here.talk(number, &stream).unwrap_or(End::Close);
            let copy = locked(&here.open).remove(&number);
            drop(copy);
            match end {
                // One that has ended by itself needs no ending.
                End::Close => drop(stream.shutdown(Shutdown::Both)),
                End::Reset => rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("linger"),
                End::Hang => here.until_stopped(),
            }
            drop(stream);
            here.ended.fetch_add(1, Ordering::SeqCst);
        });
        locked(&shared.threads).push(thread);
    }
}

impl Shared {
    fn talk(&self, connection: usize, stream: &TcpStream) -> io::Result<End> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        let mut writer = stream;
        loop {
            let Some(asked) = self.listen(connection, &mut reader)? else { return Ok(End::Close) };
            match (self.script)(&asked) {
                Act::Say(bytes) => writer.write_all(&bytes)?,
                Act::SayAnd(bytes, end) => {
                    writer.write_all(&bytes)?;
                    return Ok(end);
                }
                Act::Held(bytes) => {
                    let gate = locked(&self.gate);
                    drop(self.changed.wait_while(gate, |gate| !gate.released && !gate.stopped));
                    writer.write_all(&bytes)?;
                }
                Act::Trickle(head, bytes, pause) => {
                    writer.write_all(&head)?;
                    for byte in bytes {
                        writer.write_all(&[byte])?;
                        let gate = locked(&self.gate);
                        drop(self.changed.wait_timeout_while(gate, pause, |gate| !gate.stopped));
                    }
                }
                Act::Pour(head, piece) => {
                    writer.write_all(&head)?;
                    loop {
                        writer.write_all(&piece)?;
                    }
                }
            }
        }
    }

    /// Reads one request; `None` at the end of the connection.
    fn listen(&self, connection: usize, reader: &mut impl BufRead) -> io::Result<Option<Asked>> {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.trim_end().splitn(3, ' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut headers = Vec::new();
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_owned(), value.trim_start().to_owned()));
        }
        let mut asked = Asked { connection, nth: 0, method, target, headers, body: Vec::new() };
        if let Some(length) = asked.header("content-length") {
            let length = length.parse().map_err(io::Error::other)?;
            reader.take(length).read_to_end(&mut asked.body)?;
        } else if asked.header("transfer-encoding").is_some() {
            read_chunks(reader, &mut asked.body)?;
        }
        // Counted once it is here whole.
        let mut all = locked(&self.asked);
        asked.nth = self.requests.fetch_add(1, Ordering::SeqCst) + 1;
        all.push(asked.clone());
        Ok(Some(asked))
    }

    fn until_stopped(&self) {
        let gate = locked(&self.gate);
        drop(self.changed.wait_while(gate, |gate| !gate.stopped));
    }
}

/// Reads a body in chunks; its trailers are thrown away.
fn read_chunks(reader: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    let mut line = String::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim_end(), 16).map_err(io::Error::other)?;
        reader.take(size).read_to_end(body)?;
        line.clear();
        if size > 0 {
            reader.read_line(&mut line)?;
            continue;
        }
        while reader.read_line(&mut line)? > 2 {
            line.clear();
        }
        return Ok(());
    }
}
