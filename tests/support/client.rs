//! An HTTP client that sends exactly the bytes it is given and keeps every header field of an answer.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use super::PATIENCE;

/// An answer, its body read whole.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The first value of a header field.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// Every value of a header field, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }

    /// This answer, which has that status.
    #[track_caller]
    pub(crate) fn with_status(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?} {}", self.headers, self.text());
        self
    }

    /// The word in `reason`; the header says the same.
    #[track_caller]
    pub(crate) fn reason(&self) -> String {
        let body = self.json();
        let word = body["reason"].as_str().unwrap_or_else(|| panic!("no reason: {body}")).to_owned();
        assert_eq!(self.header("x-mesh-reason"), Some(&*word), "the header says what the body says");
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert!(body["error"].as_str().is_some_and(|sentence| sentence.len() > 5), "{body}");
        word
    }
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A connection.
pub(crate) struct Client {
    stream: Box<dyn Stream>,
    /// What has been read beyond the last answer.
    rest: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(at: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: Box::new(stream), rest: Vec::new() })
    }

    /// On a connection that is there.
    pub(crate) fn of(stream: impl Read + Write + Send + 'static) -> Self {
        Self { stream: Box::new(stream), rest: Vec::new() }
    }

    pub(crate) fn connect_unix(at: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(at)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: Box::new(stream), rest: Vec::new() })
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads one answer. `to_head`: of a HEAD request, so without a body.
    pub(crate) fn receive(&mut self, to_head: bool) -> io::Result<Answer> {
        let end = loop {
            if let Some(at) = self.rest.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at;
            }
            self.more()?;
        };
        let head = String::from_utf8_lossy(&self.rest[..end]).into_owned();
        self.rest.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no status: {first}")))?;
        let headers: Vec<(String, String)> =
            lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
        let mut answer = Answer { status, headers, body: Vec::new() };
        let lengths = answer.all("content-length");
        assert!(lengths.len() <= 1 && answer.all("transfer-encoding").is_empty(), "framing is said once: {head}");
        let length = lengths.first().and_then(|length| length.parse::<usize>().ok());
        let bodiless = to_head || matches!(status, 204 | 304);
        let length = if bodiless { 0 } else { length.ok_or_else(|| io::Error::other(format!("no length: {head}")))? };
        while self.rest.len() < length {
            self.more()?;
        }
        answer.body = self.rest.drain(..length).collect();
        Ok(answer)
    }

    fn more(&mut self) -> io::Result<()> {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.rest.extend_from_slice(&piece[..read]);
                Ok(())
            }
        }
    }

    /// Whether the other side has closed the connection without a further word.
    pub(crate) fn is_at_end(&mut self) -> bool {
        self.rest.is_empty() && matches!(self.stream.read(&mut [0]), Ok(0))
    }

    /// Sends a request and reads its answer. `Host` and framing are added.
    pub(crate) fn ask(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Answer> {
        // Whoever is refused while it still sends finds the answer all the same, as with curl.
        let sent = self.send(&request(method, target, headers, body));
        self.receive(method == "HEAD").or_else(|error| sent.and(Err(error)))
    }
}

/// A request as bytes. `Host` is loopback unless `headers` has one; the length is added unless `headers` says how the body is framed.
pub(crate) fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let has = |name: &str| headers.iter().any(|(field, _)| field.eq_ignore_ascii_case(name));
    let mut out = format!("{method} {target} HTTP/1.1\r\n");
    if !has("host") {
        out.push_str("host: localhost\r\n");
    }
    for (name, value) in headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() && !has("transfer-encoding") && !has("content-length") {
        out.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    out.push_str("\r\n");
    let mut out = out.into_bytes();
    out.extend_from_slice(body);
    out
}

/// One request on a connection of its own.
pub(crate) fn ask(at: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Answer> {
    let mut client = Client::connect(at)?;
    let mut all = vec![("connection", "close")];
    all.extend_from_slice(headers);
    client.ask(method, target, &all, body)
}
