//! The head of a request.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::head::Head;
use super::{Fault, Framing, Limits, MAX_FIELDS};

/// The longest method, in bytes: no longer one is registered, and the length of an unfinished first line tells that of its target.
const MAX_METHOD: usize = 32;

/// The head of a request, parsed and judged. Made to be used again.
#[derive(Default, Debug)]
pub struct RequestHead {
    /// Its bytes and fields.
    pub head: Head,
    /// Method, target and authority one after the other: they are asked for more than once, and text is found faster than it is made.
    line: String,
    /// Where the target begins in it.
    target: Range<usize>,
    authority: Range<usize>,
    minor: u8,
    framing: Framing,
    persists: bool,
    expects: bool,
}

impl RequestHead {
    /// Reads a head from the beginning of `input`. Answers how many bytes it takes, or `None` when it is not whole yet.
    ///
    /// # Errors
    /// [`Fault`]; nothing behind it may be read as a request.
    pub fn parse(&mut self, input: &[u8], limits: Limits) -> Result<Option<usize>, Fault> {
        // One empty line before a request is forgiven (RFC 9112 §2.2).
        let skipped = if input.starts_with(b"\r\n") { 2 } else { 0 };
        if input == b"\r" {
            return Ok(None);
        }
        let bytes = input.get(skipped..).unwrap_or_default();
        if matches!(bytes.first(), Some(b'\r' | b'\n')) {
            return Err(Fault::Malformed("more than one empty line before the request"));
        }
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut parsed = httparse::Request::new(&mut []);
        let length = match parsed.parse_with_uninit_headers(bytes, &mut fields) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return unfinished(bytes, limits).map(|()| None),
            // Which version it speaks shows at the end of the line.
            Err(httparse::Error::Version) if !bytes.contains(&b'\n') => return unfinished(bytes, limits).map(|()| None),
            Err(error) => return Err(fault(error, bytes)),
        };
        let target = parsed.path.unwrap_or_default();
        if target.len() > limits.target {
            return Err(Fault::TargetTooLong);
        }
        if length > limits.head {
            return Err(Fault::HeadTooLarge);
        }
        if parsed.method.is_some_and(|method| method.len() > MAX_METHOD) {
            return Err(Fault::Malformed("the method is too long"));
        }
        self.head.take(bytes, length, parsed.headers)?;
        let method = parsed.method.unwrap_or_default();
        let (authority, path) = taken_apart(method, target)?;
        self.line.clear();
        for part in [method, path, authority] {
            self.line.push_str(part);
        }
        self.target = method.len()..method.len() + path.len();
        self.authority = self.target.end..self.line.len();
        self.minor = parsed.version.unwrap_or(1);
        self.judge()?;
        Ok(Some(skipped + length))
    }

    /// Everything that must hold of fields together.
    fn judge(&mut self) -> Result<(), Fault> {
        let mut hosts = self.head.all("host");
        match (hosts.next(), hosts.next()) {
            (_, Some(_)) => return Err(Fault::Malformed("Host is there twice")),
            (None, _) if self.minor > 0 => return Err(Fault::Malformed("Host is missing")),
            (Some(host), None) if !is_host(host) => return Err(Fault::Malformed("Host is not a host")),
            (Some(host), None) if self.authority.is_empty() => {
                self.line.push_str(std::str::from_utf8(host).unwrap_or_default());
                self.authority.end = self.line.len();
            }
            _ => {}
        }
        drop(hosts);
        self.persists = self.head.persists(self.minor);
        self.framing = self.head.framing()?.unwrap_or(Framing::None);
        if self.minor == 0 && self.framing == Framing::Chunked {
            return Err(Fault::Malformed("Transfer-Encoding in HTTP/1.0"));
        }
        self.expects = false;
        for value in self.head.all("expect") {
            if !value.eq_ignore_ascii_case(b"100-continue") {
                return Err(Fault::Malformed("Expect is not 100-continue"));
            }
            self.expects = self.minor > 0;
        }
        Ok(())
    }

    /// The method, as it came.
    pub fn method(&self) -> &str {
        self.line.get(..self.target.start).unwrap_or_default()
    }

    /// Path and query; `*` for the server as a whole.
    pub fn target(&self) -> &str {
        self.line.get(self.target.clone()).unwrap_or_default()
    }

    /// The host the request is for: of the target, else of the `Host` field.
    pub fn authority(&self) -> &str {
        self.line.get(self.authority.clone()).unwrap_or_default()
    }

    /// Whether it came by HTTP/1.0.
    pub const fn is_1_0(&self) -> bool {
        self.minor == 0
    }

    /// Whether there is no body to come.
    pub const fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the client wants to use the connection again.
    pub const fn persists(&self) -> bool {
        self.persists
    }

    /// Whether the client waits for word before it sends the body.
    pub const fn expects_continue(&self) -> bool {
        self.expects
    }
}

/// The authority and the path of a target. `http://host/path`, as clients send it to a proxy, means the same as `/path`.
fn taken_apart<'t>(method: &str, target: &'t str) -> Result<(&'t str, &'t str), Fault> {
    if !target.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Err(Fault::Malformed("the target has a character that must be percent-encoded"));
    }
    if target.starts_with('/') || target == "*" && method == "OPTIONS" {
        return Ok(("", target));
    }
    if method == "CONNECT" {
        return Ok((target, ""));
    }
    let scheme = ["http://", "https://"]
        .into_iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme)));
    let Some(scheme) = scheme else { return Err(Fault::Malformed("the target is neither a path nor a URL")) };
    let rest = target.get(scheme.len()..).unwrap_or_default();
    let path = rest.find('/').ok_or(Fault::Malformed("the target has no path"))?;
    let (authority, path) = rest.split_at(path);
    if authority.is_empty() || !is_host(authority.as_bytes()) {
        return Err(Fault::Malformed("the target has no host, or more than a host"));
    }
    Ok((authority, path))
}

/// Whether it can be a host and its port: no user, no list, nothing that would have to be taken apart.
fn is_host(text: &[u8]) -> bool {
    text.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~:[]%".contains(b))
}

/// Whether a head that is not whole yet may still become acceptable.
fn unfinished(bytes: &[u8], limits: Limits) -> Result<(), Fault> {
    let line = bytes.iter().position(|b| *b == b'\n');
    // The method, the version and the blanks between them.
    if line.is_none() && bytes.len() > limits.target + MAX_METHOD + " HTTP/1.1\r ".len() {
        return Err(Fault::TargetTooLong);
    }
    if bytes.len() > limits.head { Err(Fault::HeadTooLarge) } else { Ok(()) }
}

fn fault(error: httparse::Error, bytes: &[u8]) -> Fault {
    match error {
        httparse::Error::TooManyHeaders => Fault::HeadTooLarge,
        httparse::Error::HeaderName => Fault::Malformed("a field has a malformed name, or none"),
        httparse::Error::HeaderValue => Fault::Malformed("a field has a control character in its value"),
        httparse::Error::NewLine => Fault::Malformed("a line does not end in CRLF"),
        httparse::Error::Version if speaks_http(bytes) => Fault::Version,
        _ => Fault::Malformed("the request line is malformed"),
    }
}

/// Whether the third word of the first line is some version of HTTP and the last one.
fn speaks_http(bytes: &[u8]) -> bool {
    let line = bytes.split(|b| matches!(b, b'\r' | b'\n')).next().unwrap_or_default();
    let mut words = line.split(|b| *b == b' ').skip(2);
    matches!((words.next(), words.next()), (Some(version), None) if matches!(version, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9']))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a head that comes in two pieces, the first so long.
    fn read(text: &str, first: usize) -> Result<Option<usize>, Fault> {
        let limits = Limits { head: 16 * 1024, target: 8 * 1024 };
        let mut head = RequestHead::default();
        match head.parse(&text.as_bytes()[..first], limits) {
            Ok(None) => head.parse(text.as_bytes(), limits),
            decided => decided,
        }
    }

    #[test]
    fn the_empty_line_before_a_request_is_forgiven_in_whatever_pieces_it_comes() {
        let text = "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for first in 0..text.len() {
            assert_eq!(read(text, first), Ok(Some(text.len())), "{first}");
        }
    }

    #[test]
    fn another_version_is_told_from_another_protocol_in_whatever_pieces_it_comes() {
        let not_http = Err(Fault::Malformed("the request line is malformed"));
        for (version, expected) in [("HTTP/2.0", Err(Fault::Version)), ("HTTP/1.9", Err(Fault::Version)), ("HTCPCP/1.1", not_http)] {
            let text = format!("GET / {version}\r\nHost: a\r\n\r\n");
            for first in 0..text.len() {
                assert_eq!(read(&text, first), expected, "{version} {first}");
            }
        }
    }

    #[test]
    fn a_long_first_line_is_refused_or_not_whatever_pieces_it_comes_in() {
        let line = |method: usize, target: usize| format!("{} /{} HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(method), "x".repeat(target - 1));
        let first_and_whole = |text: &str| [0, 40, 8000, 8210, 8230, text.len() - 10, text.len() - 1].map(|first| read(text, first));
        let longest = line(MAX_METHOD, 8 * 1024);
        assert_eq!(first_and_whole(&longest), [Ok(Some(longest.len())); 7]);
        assert_eq!(first_and_whole(&line(4, 8 * 1024 + 100)), [Err(Fault::TargetTooLong); 7]);
        assert!(first_and_whole(&line(MAX_METHOD + 1, 8 * 1024)).iter().all(Result::is_err));
        assert_eq!(read(&line(4, 20 * 1024), 0), Err(Fault::TargetTooLong));
    }
}
