//! An instance that answers at once on one thread, however many speak to it, and trusts nobody: it reads as strictly as can be, and remembers
//! what it could not accept.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::strict::{self, Reading};

/// How long the answer to a request for something large is.
pub(crate) const LARGE: usize = 1 << 20;

pub(crate) struct Origin {
    pub(crate) at: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    complaints: Mutex<Vec<String>>,
    stopped: AtomicBool,
}

struct Line {
    stream: TcpStream,
    came: Vec<u8>,
    owed: Vec<u8>,
}

const LISTENER: Token = Token(usize::MAX);

impl Origin {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a listener that does not wait");
        let (at, shared) = (listener.local_addr().expect("an address"), Arc::<Shared>::default());
        let here = Arc::clone(&shared);
        Self {
            at,
            shared,
            thread: Some(thread::Builder::new().name("origin".to_owned()).spawn(move || here.serve(&listener)).expect("a thread")),
        }
    }

    /// Ends all connections; what came that is no request.
    pub(crate) fn stop(&mut self) -> Vec<String> {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.thread.take().map(JoinHandle::join).expect("a thread").expect("no panic");
        std::mem::take(&mut self.shared.complaints.lock().expect("no panic inside"))
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn serve(&self, listener: &TcpListener) {
        let mut poll = Poll::new().expect("a poll");
        let mut events = Events::with_capacity(1024);
        poll.registry().register(&mut SourceFd(&listener.as_raw_fd()), LISTENER, Interest::READABLE).expect("registered");
        let mut lines: Vec<Option<Line>> = Vec::new();
        while !self.stopped.load(Ordering::SeqCst) {
            // Interrupted, there are no events.
            let _ = poll.poll(&mut events, Some(Duration::from_millis(100)));
            for event in &events {
                if event.token() == LISTENER {
                    while let Ok((stream, _)) = listener.accept() {
                        let place = lines.iter().position(Option::is_none).unwrap_or(lines.len());
                        stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)).expect("a connection that does not wait");
                        let both = Interest::READABLE | Interest::WRITABLE;
                        poll.registry().register(&mut SourceFd(&stream.as_raw_fd()), Token(place), both).expect("registered");
                        let line = Some(Line { stream, came: Vec::new(), owed: Vec::new() });
                        if place == lines.len() { lines.push(line) } else { lines[place] = line }
                    }
                    continue;
                }
                let place = &mut lines[event.token().0];
                if place.as_mut().is_some_and(|line| !self.attend(line)) {
                    *place = None;
                }
            }
        }
    }

    /// Does all that can be done on a connection. Answers whether it goes on.
    fn attend(&self, line: &mut Line) -> bool {
        let mut piece = [0; 64 * 1024];
        loop {
            while !line.owed.is_empty() {
                match line.stream.write(&line.owed) {
                    Ok(sent) => drop(line.owed.drain(..sent)),
                    Err(error) => return error.kind() == ErrorKind::WouldBlock,
                }
            }
            match strict::read(&line.came) {
                Reading::Request { length, .. } => {
                    let is_large = line.came[..length.min(64)].windows(6).any(|six| six == b"/large");
                    line.came.drain(..length);
                    let body = if is_large { LARGE } else { 2 };
                    line.owed.extend(format!("HTTP/1.1 200 OK\r\ncontent-length: {body}\r\n\r\n").bytes());
                    line.owed.resize(line.owed.len() + body, b'x');
                }
                Reading::Unfinished => match line.stream.read(&mut piece) {
                    Ok(read @ 1..) => line.came.extend_from_slice(&piece[..read]),
                    Ok(_) => return false,
                    Err(error) => return error.kind() == ErrorKind::WouldBlock,
                },
                Reading::Bad(what) => {
                    let text = format!("{what} of {:?}", String::from_utf8_lossy(&line.came[..line.came.len().min(500)]));
                    self.complaints.lock().expect("no panic inside").push(text);
                    return false;
                }
            }
        }
    }
}
