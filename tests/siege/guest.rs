//! The well-behaved client: a few connections that are kept, on each one request after the other, and every answer looked at.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

/// Connections of the client.
const CONNECTIONS: usize = 8;

pub(crate) struct Guest {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    asked: AtomicUsize,
    stopped: AtomicBool,
}

/// What a client has seen for a while.
#[derive(Default)]
pub(crate) struct Seen {
    /// Microseconds that each request took.
    pub(crate) took: Vec<u32>,
    /// What was not as it should be.
    pub(crate) faults: Vec<String>,
}

impl Seen {
    /// The quantile of so many thousandths, in milliseconds.
    pub(crate) fn quantile(&mut self, thousandths: usize) -> f64 {
        self.took.sort_unstable();
        let at = (self.took.len() * thousandths / 1000).min(self.took.len().saturating_sub(1));
        self.took.get(at).map_or(f64::INFINITY, |took| f64::from(*took) / 1000.0)
    }
}

struct Line {
    stream: TcpStream,
    came: Vec<u8>,
    began: Instant,
    /// Which of the requests it asks next.
    next: usize,
}

impl Guest {
    /// Begins to ask these requests in turn, each of which is answered `ok`, or in so many bytes.
    pub(crate) fn start(at: SocketAddr, requests: Vec<Vec<u8>>) -> Self {
        let shared = Arc::<Shared>::default();
        let here = Arc::clone(&shared);
        Self {
            shared,
            thread: Some(thread::Builder::new().name("guest".to_owned()).spawn(move || here.ask(at, &requests)).expect("a thread")),
        }
    }

    /// What it has seen since the last time.
    pub(crate) fn seen(&self) -> Seen {
        std::mem::take(&mut self.shared.seen.lock().expect("no panic inside"))
    }

    /// Lets it finish what it has begun; how much it has asked in all.
    pub(crate) fn stop(mut self) -> usize {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.thread.take().map(JoinHandle::join).expect("a thread").expect("no panic");
        assert_eq!(self.seen().faults, [""; 0]);
        self.shared.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn ask(&self, at: SocketAddr, requests: &[Vec<u8>]) {
        let mut poll = Poll::new().expect("a poll");
        let mut events = Events::with_capacity(CONNECTIONS);
        let mut lines: Vec<Line> = (0..CONNECTIONS).map(|n| connect(&poll, at, n)).collect();
        let mut under_way = 0;
        for line in &mut lines {
            under_way += usize::from(self.send(line, requests));
        }
        while under_way > 0 {
            // Interrupted, there are no events.
            let _ = poll.poll(&mut events, Some(Duration::from_secs(1)));
            for event in &events {
                let line = &mut lines[event.token().0];
                match read(line) {
                    Ok(false) => {}
                    Ok(true) => {
                        under_way -= 1;
                        let took = u32::try_from(line.began.elapsed().as_micros()).unwrap_or(u32::MAX);
                        let good = line.came.starts_with(b"HTTP/1.1 200 OK\r\n") && line.came.ends_with(b"\r\n\r\nxx");
                        let fault = (!good).then(|| String::from_utf8_lossy(&line.came).into_owned());
                        line.came.clear();
                        self.saw(took, fault);
                        under_way += usize::from(self.send(line, requests));
                    }
                    Err(error) => {
                        under_way -= 1;
                        self.saw(0, Some(format!("the connection ended: {error}")));
                        *line = connect(&poll, at, event.token().0);
                        under_way += usize::from(self.send(line, requests));
                    }
                }
            }
            let slowest = lines.iter().map(|line| line.began.elapsed()).max().unwrap_or_default();
            assert!(slowest < crate::support::PATIENCE, "a request has not been answered for {slowest:?}");
        }
    }

    fn saw(&self, took: u32, fault: Option<String>) {
        let mut seen = self.seen.lock().expect("no panic inside");
        seen.took.push(took);
        seen.faults.extend(fault);
    }

    /// Sends the next request, unless it is over.
    fn send(&self, line: &mut Line, requests: &[Vec<u8>]) -> bool {
        line.began = Instant::now();
        if self.stopped.load(Ordering::SeqCst) {
            return false;
        }
        self.asked.fetch_add(1, Ordering::SeqCst);
        line.next = (line.next + 1) % requests.len();
        // A request fits whole; what is lost is found out by reading.
        let _ = line.stream.write_all(&requests[line.next]);
        true
    }
}

fn connect(poll: &Poll, at: SocketAddr, n: usize) -> Line {
    let stream = TcpStream::connect_timeout(&at, crate::support::PATIENCE).expect("a connection");
    stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true)).expect("a connection that does not wait");
    poll.registry().register(&mut SourceFd(&stream.as_raw_fd()), Token(n), Interest::READABLE).expect("registered");
    Line { stream, came: Vec::new(), began: Instant::now(), next: n }
}

/// Reads what there is. Answers whether an answer has come whole.
fn read(line: &mut Line) -> std::io::Result<bool> {
    let mut piece = [0; 4096];
    loop {
        match line.stream.read(&mut piece) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => line.came.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        if is_whole(&line.came) {
            return Ok(true);
        }
    }
}

fn is_whole(came: &[u8]) -> bool {
    let Some(end) = came.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = &came[..end];
    let name = b"\r\ncontent-length: ";
    let length = head.windows(name.len()).position(|field| field == name).map_or(0, |at| {
        let digits = head[at + name.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0'))
    });
    came.len() >= end + 4 + length
}
