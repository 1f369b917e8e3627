//! A connection as an attacker uses it: any bytes in any pieces, ends of every kind, and all that comes back taken apart strictly.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::support::PATIENCE;
use crate::support::client::Answer;

/// A connection, and what has come on it.
pub(crate) struct Wire {
    stream: TcpStream,
    came: Vec<u8>,
}

/// How the other side ended a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// In order.
    Closed,
    /// By a reset.
    Reset,
}

impl Wire {
    pub(crate) fn to(at: SocketAddr) -> Self {
        Self::of(TcpStream::connect_timeout(&at, PATIENCE).expect("a connection"))
    }

    /// One that takes hardly anything before it is read.
    pub(crate) fn narrow(at: SocketAddr) -> Self {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        sockopt::set_socket_recv_buffer_size(&socket, 4096).expect("a small buffer");
        rustix::net::connect(&socket, &at).expect("a connection");
        Self::of(TcpStream::from(socket))
    }

    fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("no delay");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        stream.set_write_timeout(Some(PATIENCE)).expect("a time limit");
        Self { stream, came: Vec::new() }
    }

    /// Sends bytes as they are. Answers whether the other side still took them.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Sends until nothing is taken for `time`; how many bytes were.
    pub(crate) fn flood(&mut self, piece: &[u8], most: usize, time: Duration) -> usize {
        self.stream.set_write_timeout(Some(time)).expect("a time limit");
        let mut sent = 0;
        while sent < most {
            match self.stream.write(piece) {
                Ok(more) => sent += more,
                Err(_) => break,
            }
        }
        sent
    }

    /// Says that nothing more will come.
    pub(crate) fn finish(&mut self) {
        // The other side may have ended it already.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Lets the connection end by a reset when it is dropped.
    pub(crate) fn reset_on_drop(&self) {
        sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).expect("linger");
    }

    /// Reads what there is, once; `None` at the end.
    fn more(&mut self) -> Option<Ending> {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => Some(Ending::Closed),
            Ok(read) => {
                self.came.extend_from_slice(&piece[..read]);
                None
            }
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Some(Ending::Reset),
            Err(error) => panic!("neither more nor an end came: {error}; {:?} has come", String::from_utf8_lossy(&self.came)),
        }
    }

    /// The next answer.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    /// The next answer, which is to a request of that method.
    #[track_caller]
    pub(crate) fn answer_to(&mut self, method: &str) -> Answer {
        loop {
            if let Some((answer, taken)) = take_answer(&self.came, method == "HEAD") {
                self.came.drain(..taken);
                return answer;
            }
            if let Some(ending) = self.more() {
                panic!("no answer, but {ending:?} after {:?}", String::from_utf8_lossy(&self.came));
            }
        }
    }

    /// All answers until the connection ends, and how it does. Every byte belongs to one of them.
    #[track_caller]
    pub(crate) fn answers(&mut self) -> (Vec<Answer>, Ending) {
        let (answers, rest, ending) = self.answers_and_rest();
        assert!(rest.is_empty(), "more than answers: {:?}", String::from_utf8_lossy(&rest));
        (answers, ending)
    }

    /// All answers until the connection ends, what came of one more, and how it ended.
    pub(crate) fn answers_and_rest(&mut self) -> (Vec<Answer>, Vec<u8>, Ending) {
        let ending = loop {
            if let Some(ending) = self.more() {
                break ending;
            }
        };
        let mut answers = Vec::new();
        while let Some((answer, taken)) = take_answer(&self.came, false) {
            self.came.drain(..taken);
            answers.push(answer);
        }
        (answers, std::mem::take(&mut self.came), ending)
    }

    /// Sends these bytes again and again, one after the other with that time between them, until something comes back.
    pub(crate) fn drip(&mut self, bytes: &str, pause: Duration) {
        self.stream.set_read_timeout(Some(pause)).expect("a time limit");
        let end = Instant::now() + PATIENCE;
        for byte in bytes.bytes().cycle() {
            // What is no longer taken is answered all the same.
            let _ = self.stream.write(&[byte]);
            match self.stream.peek(&mut [0]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => assert!(Instant::now() < end, "nothing comes back"),
                _ => break,
            }
        }
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    }

    /// Head and body of the only answer, which ends with the connection.
    pub(crate) fn text_to_the_end(&mut self) -> (String, String) {
        while self.more().is_none() {}
        let text = String::from_utf8_lossy(&self.came).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text}"));
        (head.to_owned(), body.to_owned())
    }

    /// Whether it ends, whatever comes before that, before nothing comes for `time`.
    pub(crate) fn has_ended_within(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).expect("a time limit");
        let ended = loop {
            match self.stream.read(&mut [0; 1024]) {
                Ok(1..) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break false,
                Ok(0) | Err(_) => break true,
            }
        };
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        ended
    }

    /// Waits for the end of the connection, whatever comes before it.
    pub(crate) fn end(&mut self) -> Ending {
        loop {
            if let Some(ending) = self.more() {
                return ending;
            }
            self.came.clear();
        }
    }
}

/// The answer at the beginning of some bytes, if it is whole, and its length.
#[track_caller]
pub(crate) fn take_answer(bytes: &[u8], to_head: bool) -> Option<(Answer, usize)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).expect("heads of ours are text");
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.unwrap_or_else(|| panic!("not an answer: {head}"));
    let fields = lines.map(|line| line.split_once(": ").unwrap_or_else(|| panic!("not a field: {line}")));
    let headers = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let mut answer = Answer { status, headers, body: Vec::new() };
    let lengths = answer.all("content-length");
    let bodiless = to_head || matches!(status, 100..=199 | 204 | 304);
    let length = match lengths.as_slice() {
        _ if bodiless => 0,
        [one] => one.parse().unwrap_or_else(|_| panic!("not a length: {head}")),
        _ => panic!("one length, once: {head}"),
    };
    answer.body = bytes.get(end + 4..end + 4 + length)?.to_vec();
    Some((answer, end + 4 + length))
}
