//! Both ends of a conversation in the hands of a test: what is sent when, byte by byte, and what has come so far.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::LazyLock;
use std::time::Duration;

use crate::house::House;
use crate::support::{PATIENCE, eventually};

/// One end of a connection.
pub(crate) struct Wire {
    stream: TcpStream,
    /// Read, and not yet taken.
    rest: Vec<u8>,
}

/// Names and values, in order.
pub(crate) type Fields = Vec<(String, String)>;

/// The head of a message: its first line and its fields, exactly as they came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Head {
    pub(crate) first: String,
    pub(crate) fields: Fields,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Whole {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Fields,
}

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    Closed,
    Reset,
}

impl Head {
    fn parse(text: &str) -> Self {
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        Self { first, fields: lines.filter(|line| !line.is_empty()).map(field).collect() }
    }

    /// Every value of a field, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    }

    /// The value of a field that is there at most once.
    #[track_caller]
    pub(crate) fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} is there twice: {:?}", self.fields);
        all.first().copied()
    }

    pub(crate) fn status(&self) -> u16 {
        self.first.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no status: {}", self.first))
    }

    /// Whether the body comes in chunks, or how long it is; neither: until the end.
    fn framing(&self) -> (bool, Option<usize>) {
        let chunked = self.one("transfer-encoding").map(|coding| assert_eq!(coding, "chunked")).is_some();
        let length = self.one("content-length").map(|length| length.parse().unwrap_or_else(|_| panic!("no length: {length}")));
        assert!(!chunked || length.is_none(), "framing is said once: {:?}", self.fields);
        (chunked, length)
    }
}

/// A piece of the pattern that [`Wire::pour`] sends.
fn pattern() -> &'static [u8] {
    static PATTERN: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..1_u32 << 18).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect());
    &PATTERN
}

fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no field: {line:?}"));
    (name.to_owned(), value.trim().to_owned())
}

impl Whole {
    pub(crate) fn status(&self) -> u16 {
        self.head.status()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.one(name)
    }

    /// The word that says why the mesh refused.
    #[track_caller]
    pub(crate) fn reason(&self) -> &str {
        self.header("x-mesh-reason").unwrap_or_else(|| panic!("no reason: {:?} {}", self.head, self.text()))
    }

    /// This answer, which has that status.
    #[track_caller]
    pub(crate) fn with_status(self, status: u16) -> Self {
        assert_eq!(self.status(), status, "{:?} {}", self.head, self.text());
        self
    }
}

impl Wire {
    pub(crate) fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
        Self { stream, rest: Vec::new() }
    }

    /// A connection to a house.
    pub(crate) fn to(house: &House) -> Self {
        Self::connect(house.at)
    }

    pub(crate) fn connect(at: SocketAddr) -> Self {
        Self::of(TcpStream::connect_timeout(&at, PATIENCE).expect("a connection"))
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("sent");
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).expect("finished");
    }

    /// Ends the connection by a reset.
    pub(crate) fn reset(self) {
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).expect("linger");
    }

    /// Sends what fits at once of the pattern that [`Wire::pour`] sends, from the byte `from` on. Says how much that was.
    pub(crate) fn pour_what_fits(&mut self, from: usize) -> usize {
        let piece = pattern();
        self.stream.set_nonblocking(true).expect("a socket");
        let sent = match self.stream.write(&piece[from % piece.len()..]) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => panic!("not sent: {error}"),
        };
        self.stream.set_nonblocking(false).expect("a socket");
        sent
    }

    fn more(&mut self) -> io::Result<()> {
        let mut piece = [0; 64 * 1024];
        match self.stream.read(&mut piece)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.rest.extend_from_slice(&piece[..read]);
                Ok(())
            }
        }
    }

    /// Takes everything up to and with `end`.
    fn through(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        let mut from = 0;
        loop {
            let found = self.rest[from..].windows(end.len()).position(|bytes| bytes == end);
            if let Some(at) = found {
                return Ok(self.rest.drain(..from + at + end.len()).collect());
            }
            from = self.rest.len().saturating_sub(end.len() - 1);
            self.more()?;
        }
    }

    /// Takes so many bytes.
    pub(crate) fn try_take(&mut self, bytes: usize) -> io::Result<Vec<u8>> {
        while self.rest.len() < bytes {
            self.more()?;
        }
        Ok(self.rest.drain(..bytes).collect())
    }

    #[track_caller]
    pub(crate) fn take(&mut self, bytes: usize) -> Vec<u8> {
        self.try_take(bytes).expect("received")
    }

    /// Takes bytes, which are these.
    #[track_caller]
    pub(crate) fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let came = self.take(bytes.len());
        assert_eq!(String::from_utf8_lossy(&came), String::from_utf8_lossy(bytes));
    }

    pub(crate) fn try_head(&mut self) -> io::Result<Head> {
        let head = self.through(b"\r\n\r\n")?;
        assert!(!head.windows(2).any(|two| two[1] == b'\n' && two[0] != b'\r'), "a bare line feed: {:?}", String::from_utf8_lossy(&head));
        Ok(Head::parse(&String::from_utf8_lossy(&head)))
    }

    #[track_caller]
    pub(crate) fn head(&mut self) -> Head {
        self.try_head().expect("a head")
    }

    /// One chunk; none is the last.
    pub(crate) fn try_chunk(&mut self) -> io::Result<Vec<u8>> {
        let line = self.through(b"\r\n")?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let digits = line.trim_end().split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("no size of a chunk: {line:?}"));
        if size == 0 {
            return Ok(Vec::new());
        }
        let mut data = self.try_take(size + 2)?;
        assert!(data.ends_with(b"\r\n"), "a chunk ends in CRLF");
        data.truncate(size);
        Ok(data)
    }

    #[track_caller]
    pub(crate) fn chunk(&mut self) -> String {
        String::from_utf8_lossy(&self.try_chunk().expect("a chunk")).into_owned()
    }

    /// The body that follows a head, and its trailers.
    pub(crate) fn try_body(&mut self, head: &Head, to_head: bool) -> io::Result<(Vec<u8>, Fields)> {
        let (chunked, length) = head.framing();
        if to_head || head.first.starts_with("HTTP/") && matches!(head.status(), 100..=199 | 204 | 304) {
            return Ok(Default::default());
        }
        if chunked {
            let mut body = Vec::new();
            loop {
                match self.try_chunk()? {
                    data if data.is_empty() => break,
                    data => body.extend(data),
                }
            }
            let mut trailers = Vec::new();
            loop {
                match self.through(b"\r\n")? {
                    line if line == b"\r\n" => return Ok((body, trailers)),
                    line => trailers.push(field(String::from_utf8_lossy(&line).trim_end())),
                }
            }
        }
        if let Some(length) = length {
            return Ok((self.try_take(length)?, Vec::new()));
        }
        if !head.first.starts_with("HTTP/") {
            return Ok(Default::default());
        }
        loop {
            match self.more() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok((std::mem::take(&mut self.rest), Vec::new())),
                Err(error) => return Err(error),
            }
        }
    }

    /// A whole answer. `to_head`: to a HEAD request.
    pub(crate) fn try_answer(&mut self, to_head: bool) -> io::Result<Whole> {
        let head = self.try_head()?;
        let (body, trailers) = self.try_body(&head, to_head)?;
        Ok(Whole { head, body, trailers })
    }

    #[track_caller]
    pub(crate) fn answer(&mut self) -> Whole {
        self.try_answer(false).expect("an answer")
    }

    /// A whole request: its head and its body.
    #[track_caller]
    pub(crate) fn request(&mut self) -> (Head, Vec<u8>) {
        let head = self.head();
        let (body, _) = self.try_body(&head, false).expect("a body");
        (head, body)
    }

    /// Sends the bytes `from..to` of an endless pattern.
    pub(crate) fn pour(&mut self, mut from: usize, to: usize) {
        let piece = pattern();
        while from < to {
            let at = from % piece.len();
            let end = piece.len().min(at + to - from);
            self.send(&piece[at..end]);
            from += end - at;
        }
    }

    /// Takes so many bytes of that pattern, and holds none of them.
    #[track_caller]
    pub(crate) fn drain(&mut self, bytes: usize) {
        let whole = pattern();
        let (mut so_far, mut piece) = (0, vec![0; whole.len()]);
        while so_far < bytes {
            let at = so_far % whole.len();
            let room = (whole.len() - at).min(bytes - so_far);
            let read = if self.rest.is_empty() {
                self.stream.read(&mut piece[..room]).expect("received")
            } else {
                let read = self.rest.len().min(room);
                piece[..read].copy_from_slice(&self.rest[..read]);
                self.rest.drain(..read);
                read
            };
            assert!(read > 0 && piece[..read] == whole[at..at + read], "the pattern ends or changes after {so_far} bytes");
            so_far += read;
        }
    }

    /// Waits for the end of the connection: how it ends, and how much came before.
    #[track_caller]
    pub(crate) fn end(&mut self) -> (Ended, usize) {
        let mut so_far = self.rest.len();
        let mut piece = [0; 64 * 1024];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return (Ended::Closed, so_far),
                Ok(read) => so_far += read,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return (Ended::Reset, so_far),
                Err(error) => panic!("no end: {error}"),
            }
        }
    }

    /// Whether nothing has come for now.
    pub(crate) fn is_silent(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("a socket");
        let silent = self.rest.is_empty() && self.more().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        self.stream.set_nonblocking(false).expect("a socket");
        silent
    }
}

/// An instance that a test plays itself.
pub(crate) struct Stage {
    listener: TcpListener,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a listener");
        Self { listener }
    }

    /// One that is the only instance of the service `s`.
    pub(crate) fn of(house: &House) -> Self {
        let stage = Self::new();
        house.register_at("s", "i", stage.port());
        stage
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().expect("an address").port()
    }

    /// The next connection.
    #[track_caller]
    pub(crate) fn accept(&self) -> Wire {
        eventually("a connection comes", || self.try_accept())
    }

    /// The next connection, if there is one.
    pub(crate) fn try_accept(&self) -> Option<Wire> {
        let (stream, _) = self.listener.accept().ok()?;
        stream.set_nonblocking(false).expect("a socket");
        Some(Wire::of(stream))
    }
}

/// A request line and fields, then an empty line. `Host` is loopback.
pub(crate) fn head(line: &str, fields: &[&str]) -> String {
    let mut out = format!("{line} HTTP/1.1\r\nHost: localhost\r\n");
    for field in fields {
        out.push_str(field);
        out.push_str("\r\n");
    }
    out + "\r\n"
}
