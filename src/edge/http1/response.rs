//! The head of an answer.

use std::mem::MaybeUninit;
use std::time::Duration;

use super::head::{Head, Span, members};
use super::{Fault, Framing, MAX_FIELDS};

/// The largest head of an answer, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// What our own server may add to the largest head that it passes on, in bytes and in fields.
const ADDED: (usize, usize) = (1024, 28);

/// The head of an answer, parsed and judged. Made to be used again.
#[derive(Default, Debug)]
pub struct ResponseHead {
    /// Its bytes and fields.
    pub head: Head,
    /// The status, 100 to 599.
    pub status: u16,
    phrase: Span,
    framing: Framing,
    persists: bool,
}

impl ResponseHead {
    /// Reads a head from the beginning of `input`. `to_head`: it answers a HEAD request, so that no body comes whatever it says. Answers
    /// how many bytes it takes, or `None` when it is not whole yet.
    ///
    /// # Errors
    /// [`Fault`]; the connection is of no further use.
    pub fn parse(&mut self, input: &[u8], to_head: bool) -> Result<Option<usize>, Fault> {
        self.parse_within(input, to_head, MAX_HEAD, MAX_FIELDS)
    }

    /// The same of an answer of our own server, which passes on what instances say and has something to say itself.
    ///
    /// # Errors
    /// As [`ResponseHead::parse`].
    pub fn parse_own(&mut self, input: &[u8], to_head: bool) -> Result<Option<usize>, Fault> {
        self.parse_within(input, to_head, MAX_HEAD + ADDED.0, MAX_FIELDS + ADDED.1)
    }

    fn parse_within(&mut self, input: &[u8], to_head: bool, most: usize, most_fields: usize) -> Result<Option<usize>, Fault> {
        if matches!(input.first(), Some(b'\r' | b'\n')) {
            return Err(Fault::Malformed("an empty line before the answer"));
        }
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS + ADDED.1];
        let fields = fields.get_mut(..most_fields).unwrap_or_default();
        let mut parsed = httparse::Response::new(&mut []);
        let parser = httparse::ParserConfig::default();
        let length = match parser.parse_response_with_uninit_headers(&mut parsed, input, fields) {
            Ok(httparse::Status::Complete(length)) if length <= most => length,
            Ok(httparse::Status::Partial) if input.len() <= most => return Ok(None),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(Fault::HeadTooLarge),
            Err(_) => return Err(Fault::Malformed("not an answer of HTTP/1.1")),
        };
        self.head.take(input, length, parsed.headers)?;
        self.status = parsed.code.unwrap_or(0);
        self.phrase = Span::of(parsed.reason.unwrap_or_default().as_bytes(), input);
        if !(100..=599).contains(&self.status) {
            return Err(Fault::Malformed("a status outside 100 to 599"));
        }
        let minor = parsed.version.unwrap_or(0);
        let said = self.head.framing()?;
        if minor == 0 && said == Some(Framing::Chunked) {
            return Err(Fault::Malformed("Transfer-Encoding in HTTP/1.0"));
        }
        let bodiless = to_head || matches!(self.status, 100..=199 | 204 | 304);
        self.framing = if bodiless { Framing::None } else { said.unwrap_or(Framing::UntilClose) };
        self.persists = self.head.persists(minor) && self.framing != Framing::UntilClose;
        Ok(Some(length))
    }

    /// The phrase beside the status.
    pub fn phrase(&self) -> &[u8] {
        self.head.at(self.phrase)
    }

    /// How the body that follows is framed.
    pub const fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the connection can be used again after the body.
    pub const fn persists(&self) -> bool {
        self.persists
    }

    /// For how long the other side says it keeps an idle connection.
    pub fn keeps_alive(&self) -> Option<Duration> {
        let said = self.head.all("keep-alive").flat_map(members).find_map(|member| member.strip_prefix(b"timeout="))?;
        std::str::from_utf8(said).ok()?.parse().ok().map(Duration::from_secs)
    }

    /// Whether more heads follow before the answer itself.
    pub const fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }
}
