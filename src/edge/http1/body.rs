//! Bodies as they come in pieces: by length, in chunks with trailers, until the connection closes.

use std::ops::Range;

use super::Fault;
use crate::model::{is_hop_by_hop, is_of_mesh, is_only_ours, reads_as};

/// How a body is framed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Framing {
    /// There is none.
    #[default]
    None,
    /// So many bytes.
    Length(u64),
    /// In chunks (RFC 9112 §7.1).
    Chunked,
    /// Whatever comes before the connection closes.
    UntilClose,
}

/// The longest chunk extension and the longest set of trailers, in bytes.
const MAX_EXTENSION: usize = 1024;
const MAX_TRAILERS: usize = 8 * 1024;

/// Finds the end of a body, piece by piece, and refuses what is not one.
#[derive(Default, Debug)]
pub struct Body {
    state: State,
    /// The name in the trailers that is coming, where it matters.
    name: Option<Name>,
}

/// The longest name that is told from others.
const MAX_NAME: usize = 32;

/// A name of which bytes come one by one; of one that is longer, its beginning.
#[derive(Clone, Copy, Default, Debug)]
struct Name {
    bytes: [u8; MAX_NAME],
    len: usize,
}

impl Name {
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
        }
        self.len = self.len.saturating_add(1);
    }

    /// Whether a receiver that takes trailers for fields would be led astray by such a one: about framing, the connection, who is asking.
    fn misleads(&self) -> bool {
        let begin = self.bytes.get(..self.len.min(MAX_NAME)).unwrap_or_default();
        let is_whole = self.len <= MAX_NAME;
        is_of_mesh(begin)
            || is_whole && (is_hop_by_hop(begin) || is_only_ours(begin) || NEVER_LAST.iter().any(|name| reads_as(begin, name)))
    }
}

/// Fields that decide about a request before its body is read, beside those that are ours.
const NEVER_LAST: [&[u8]; 4] = [b"authorization", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"];

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum State {
    #[default]
    Done,
    Length(u64),
    UntilClose,
    /// In the size of a chunk, of which so many digits have come.
    Size(u64, u8),
    /// In an extension of so many bytes.
    Extension(u64, usize),
    /// The line of the size ends with the next byte.
    SizeEnd(u64),
    Data(u64),
    DataEnd,
    DataEndLf,
    /// In the trailers, of which so many bytes have come.
    Trailers(Line, usize),
}

/// Where in a line of the trailers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Line {
    Begin,
    Name,
    Value,
    End,
    /// The last, empty line ends with the next byte.
    Last,
}

/// What the beginning of some input is to a body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// How many bytes belong to it, framing included.
    pub taken: usize,
    /// Which of these are data; at the end of what was taken.
    pub data: Range<usize>,
}

impl Body {
    /// A body that is about to begin.
    pub const fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size(0, 0),
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, name: None }
    }

    /// The body of a request, whose trailers may not say what only its head may.
    pub fn of_request(framing: Framing) -> Self {
        Self { name: Some(Name::default()), ..Self::new(framing) }
    }

    /// Whether it is over.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the end of the connection is its proper end.
    pub fn may_end_here(&self) -> bool {
        matches!(self.state, State::Done | State::UntilClose)
    }

    /// So many bytes of data are bound to come: the rest of the body, or of the chunk that has begun.
    pub fn announced(&self) -> u64 {
        match self.state {
            State::Length(left) | State::Data(left) => left,
            _ => 0,
        }
    }

    /// So many bytes of data will come, if that is known.
    pub fn left(&self) -> Option<u64> {
        match self.state {
            State::Done => Some(0),
            State::Length(left) => Some(left),
            _ => None,
        }
    }

    /// Takes what belongs to the body from the beginning of `input`, up to the end of the next data or of the body.
    ///
    /// # Errors
    /// [`Fault`] when the chunks are malformed.
    pub fn take(&mut self, input: &[u8]) -> Result<Piece, Fault> {
        let mut at = 0;
        loop {
            match self.state {
                State::Done => return Ok(Piece { taken: at, data: at..at }),
                State::UntilClose => return Ok(Piece { taken: input.len(), data: at..input.len() }),
                State::Length(left) => {
                    let (data, left) = some_of(left, at, input.len());
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                    return Ok(Piece { taken: data.end, data });
                }
                State::Data(left) if at < input.len() => {
                    let (data, left) = some_of(left, at, input.len());
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    return Ok(Piece { taken: data.end, data });
                }
                state => {
                    let Some(byte) = input.get(at) else { return Ok(Piece { taken: at, data: at..at }) };
                    self.state = framing_byte(state, *byte)?;
                    self.judge(*byte)?;
                    at += 1;
                }
            }
        }
    }

    /// Looks at the names in the trailers.
    fn judge(&mut self, byte: u8) -> Result<(), Fault> {
        match (&mut self.name, self.state) {
            (Some(name), State::Trailers(Line::Name, _)) => name.push(byte),
            (Some(name), State::Trailers(Line::Value, _)) if byte == b':' && name.len > 0 => {
                if name.misleads() {
                    return Err(Fault::Malformed("a field in the trailers that may not be there"));
                }
                *name = Name::default();
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes all of `input` that belongs to the body, framing and all, to be passed on as it is. Answers how many bytes that is.
    ///
    /// # Errors
    /// As [`Body::take`].
    pub fn pass(&mut self, input: &[u8]) -> Result<usize, Fault> {
        let mut at = 0;
        while !self.is_done() && at < input.len() {
            at += self.take(input.get(at..).unwrap_or_default())?.taken;
        }
        Ok(at)
    }
}

/// Of `left` bytes, those that are in `at..end`, and how many are still to come.
fn some_of(left: u64, at: usize, end: usize) -> (Range<usize>, u64) {
    let there = end - at;
    match usize::try_from(left) {
        Ok(left) if left <= there => (at..at + left, 0),
        _ => (at..end, left - there as u64),
    }
}

fn framing_byte(state: State, byte: u8) -> Result<State, Fault> {
    const BAD_SIZE: Fault = Fault::Malformed("a malformed chunk size");
    const BAD_END: Fault = Fault::Malformed("a chunk does not end in CRLF");
    Ok(match (state, byte) {
        (State::Size(_, 0), b'\r' | b';') => return Err(BAD_SIZE),
        (State::Size(size, _), b'\r') => State::SizeEnd(size),
        (State::Size(size, _), b';') => State::Extension(size, 0),
        (State::Size(size, digits), digit) => {
            let digit = char::from(digit).to_digit(16).ok_or(BAD_SIZE)?;
            // Fifteen digits are more than anybody sends, and cannot overflow.
            if digits == 15 {
                return Err(BAD_SIZE);
            }
            State::Size(size << 4 | u64::from(digit), digits + 1)
        }
        (State::Extension(size, _), b'\r') => State::SizeEnd(size),
        (State::Extension(size, length), byte) if length < MAX_EXTENSION && is_text(byte) => State::Extension(size, length + 1),
        (State::Extension(..), _) => return Err(Fault::Malformed("a malformed or overlong chunk extension")),
        (State::SizeEnd(0), b'\n') => State::Trailers(Line::Begin, 0),
        (State::SizeEnd(size), b'\n') => State::Data(size),
        (State::SizeEnd(_), _) => return Err(BAD_SIZE),
        (State::DataEnd, b'\r') => State::DataEndLf,
        (State::DataEndLf, b'\n') => State::Size(0, 0),
        (State::DataEnd | State::DataEndLf, _) => return Err(BAD_END),
        (State::Trailers(Line::Last, _), b'\n') => State::Done,
        (State::Trailers(line, length), byte) if length < MAX_TRAILERS => State::Trailers(trailer_byte(line, byte)?, length + 1),
        (State::Trailers(..), _) => return Err(Fault::HeadTooLarge),
        (state @ (State::Done | State::Length(_) | State::UntilClose | State::Data(_)), _) => state,
    })
}

fn trailer_byte(line: Line, byte: u8) -> Result<Line, Fault> {
    match (line, byte) {
        (Line::Begin, b'\r') => Ok(Line::Last),
        (Line::Begin | Line::Name, byte) if is_token(byte) => Ok(Line::Name),
        (Line::Name, b':') => Ok(Line::Value),
        (Line::Value, b'\r') => Ok(Line::End),
        (Line::Value, byte) if is_text(byte) => Ok(Line::Value),
        (Line::End, b'\n') => Ok(Line::Begin),
        _ => Err(Fault::Malformed("malformed trailers")),
    }
}

/// What may stand in a field's value or a chunk extension.
const fn is_text(byte: u8) -> bool {
    byte == b'\t' || byte >= b' ' && byte != 0x7f
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data of a body given in pieces of `step` bytes, and how much of the input was taken.
    fn read(framing: Framing, input: &[u8], step: usize) -> Result<(Vec<u8>, usize, bool), Fault> {
        let (mut body, mut data, mut taken) = (Body::new(framing), Vec::new(), 0);
        for part in input.chunks(step) {
            let mut rest = part;
            while !body.is_done() && !rest.is_empty() {
                let piece = body.take(rest)?;
                data.extend_from_slice(&rest[piece.data.clone()]);
                assert!(piece.taken > 0, "it goes on");
                taken += piece.taken;
                rest = &rest[piece.taken..];
            }
        }
        Ok((data, taken, body.is_done()))
    }

    #[test]
    fn a_body_is_the_same_in_whatever_pieces_it_comes() {
        let chunked = b"5\r\nhello\r\n6;name=\"v\"\r\n world\r\n0\r\nX-Trailer: yes\r\nY:\r\n\r\n";
        for step in 1..=chunked.len() + 4 {
            let more = [&chunked[..], b"GET "].concat();
            assert_eq!(read(Framing::Chunked, &more, step), Ok((b"hello world".to_vec(), chunked.len(), true)), "{step}");
            assert_eq!(read(Framing::Length(5), b"hello world", step), Ok((b"hello".to_vec(), 5, true)), "{step}");
            assert_eq!(read(Framing::UntilClose, b"hello", step), Ok((b"hello".to_vec(), 5, false)), "{step}");
        }
        assert_eq!(read(Framing::None, b"GET", 1), Ok((vec![], 0, true)));
        assert_eq!(read(Framing::Length(9), b"hello", 2), Ok((b"hello".to_vec(), 5, false)));
    }

    #[test]
    fn what_is_bound_to_come_is_known_before_it_comes() {
        let mut body = Body::new(Framing::Chunked);
        for (input, announced) in [(&b"1"[..], 0), (b"0\r", 0), (b"\n", 16), (b"hello", 11), (b" world, now", 0), (b"\r\n0\r\n", 0)] {
            assert_eq!((body.take(input).map(|piece| piece.taken), body.announced()), (Ok(input.len()), announced), "{input:?}");
        }
        let body = Body::new(Framing::Length(5));
        assert_eq!((body.announced(), body.left()), (5, Some(5)));
        assert_eq!((Body::new(Framing::Chunked).left(), Body::new(Framing::None).left()), (None, Some(0)));
    }

    #[test]
    fn trailers_of_a_request_say_nothing_that_only_its_head_may() {
        let read = |name: &str, step: usize| {
            let text = format!("0\r\nX-A: b:c\r\n{name}: d\r\nX-E:\r\n\r\n");
            let mut body = Body::of_request(Framing::Chunked);
            text.as_bytes().chunks(step).try_for_each(|part| body.pass(part).map(|_| ())).map(|()| body.is_done())
        };
        for step in [1, 3, 100] {
            for name in [
                "Content-Length",
                "transfer-encoding",
                "Host",
                "Connection",
                "X-Mesh-Caller",
                "x_mesh_caller",
                "x-weft-id",
                "X-Request-ID",
                "Authorization",
                "X-Forwarded-For",
            ] {
                assert!(read(name, step).is_err(), "{name} by {step}");
            }
            for name in ["X-Checksum", "Grpc-Status", "Hosts", "Content-Lengths", "X-Meshes", &"x".repeat(100)] {
                assert_eq!(read(name, step), Ok(true), "{name} by {step}");
            }
        }
    }

    #[test]
    fn what_is_passed_on_is_passed_on_with_its_framing() {
        let chunked = b"5\r\nhello\r\n0\r\n\r\n";
        let mut body = Body::new(Framing::Chunked);
        assert_eq!(body.pass(&[&chunked[..], b"rest"].concat()), Ok(chunked.len()));
        assert!(body.is_done() && body.may_end_here());
        assert!(!Body::new(Framing::Length(1)).may_end_here());
    }

    #[test]
    fn malformed_chunks_are_refused_in_whatever_pieces_they_come() {
        for input in [
            &b"0x3\r\nabc\r\n0\r\n\r\n"[..],
            b"-1\r\nabc",
            b"+3\r\nabc",
            b" 3\r\nabc",
            b"3 \r\nabc",
            b"\r\nabc",
            b";x\r\n",
            b"3\nabc\r\n0\r\n\r\n",
            b"3\rXabc",
            b"ffffffffffffffff\r\n",
            b"10000000000000000\r\n",
            b"3\r\nabcX\r\n0\r\n\r\n",
            b"3\r\nabc\n0\r\n\r\n",
            b"3;\x00\r\nabc",
            b"3;a\nb\r\nabc",
            b"0\r\nX : y\r\n\r\n",
            b"0\r\n folded\r\n\r\n",
            b"0\r\nno-colon\r\n\r\n",
            b"0\r\nX: a\nY: b\r\n\r\n",
            b"0\r\n\rX",
            b"0\r\n: x\r\n\r\n",
        ] {
            for step in [1, 2, 3, input.len()] {
                assert!(read(Framing::Chunked, input, step).is_err(), "{:?} by {step}", String::from_utf8_lossy(input));
            }
        }
        let long = [b"3;".to_vec(), vec![b'a'; 2000], b"\r\n".to_vec()].concat();
        assert!(read(Framing::Chunked, &long, 100).is_err());
        let trailers = [b"0\r\n".to_vec(), b"a: b\r\n".repeat(2000)].concat();
        assert_eq!(read(Framing::Chunked, &trailers, 100), Err(Fault::HeadTooLarge));
    }
}
