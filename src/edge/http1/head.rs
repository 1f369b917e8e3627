//! What heads of requests and answers have in common: a first line, and fields, kept as places in one buffer.

use super::{Fault, Framing, MAX_FIELDS};
use crate::model::Fields;

/// A place in the bytes of a head.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Span {
    at: u32,
    end: u32,
}

impl Span {
    /// Where `part`, which is a slice of `whole`, lies in it.
    pub(super) fn of(part: &[u8], whole: &[u8]) -> Self {
        // Heads are a few KiB, and a part of one begins not before it.
        let at = u32::try_from((part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize)).unwrap_or(0);
        Self { at, end: at.saturating_add(u32::try_from(part.len()).unwrap_or(0)) }
    }
}

/// The bytes of a head and where its parts lie in them. Made to be used again and again.
#[derive(Default, Debug)]
pub struct Head {
    pub(super) bytes: Vec<u8>,
    pub(super) fields: Vec<(Span, Span)>,
}

impl Head {
    /// The bytes at a place.
    pub fn at(&self, span: Span) -> &[u8] {
        self.bytes.get(span.at as usize..span.end as usize).unwrap_or_default()
    }

    /// How many bytes it has.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// All fields in order.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|(name, value)| (self.at(*name), self.at(*value)))
    }

    /// Every value of a field.
    pub fn all<'h, 'n>(&'h self, name: &'n str) -> impl Iterator<Item = &'h [u8]> + use<'h, 'n> {
        self.fields.iter().filter(move |(field, _)| self.is(*field, name)).map(|(_, value)| self.at(*value))
    }

    /// Whether at a place there is that name. Most differ in length, which costs nothing to see.
    fn is(&self, place: Span, name: &str) -> bool {
        (place.end - place.at) as usize == name.len() && self.at(place).eq_ignore_ascii_case(name.as_bytes())
    }

    /// Whether there is a field of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// Whether a comma-separated field has that member, compared without case.
    pub fn lists(&self, name: &str, member: impl AsRef<[u8]>) -> bool {
        let member = member.as_ref();
        self.all(name).any(|value| members(value).any(|each| each.eq_ignore_ascii_case(member)))
    }

    /// Takes over the head that `parsed` found at the beginning of `input`, after refusing line ends that are not CRLF.
    pub(super) fn take(&mut self, input: &[u8], length: usize, parsed: &[httparse::Header<'_>]) -> Result<(), Fault> {
        let bytes = input.get(..length).unwrap_or_default();
        // The parser has seen to it that line feeds are nowhere but at the ends of lines: before each field, and before the empty line.
        let ends_in_crlf = |field: &httparse::Header<'_>| {
            let begin = Span::of(field.name.as_bytes(), bytes).at as usize;
            bytes.get(..begin).is_some_and(|before| before.ends_with(b"\r\n"))
        };
        if !bytes.ends_with(b"\r\n\r\n") || !parsed.iter().all(ends_in_crlf) {
            return Err(Fault::Malformed("a line does not end in CRLF"));
        }
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
        self.fields.clear();
        self.fields.extend(parsed.iter().map(|field| (Span::of(field.name.as_bytes(), bytes), Span::of(field.value, bytes))));
        Ok(())
    }

    /// How the body is framed by what the fields say; `None` when they say nothing.
    pub(super) fn framing(&self) -> Result<Option<Framing>, Fault> {
        let mut length = None;
        let mut chunked = false;
        // Each field is looked for among these when it is passed on.
        let mut named = 0;
        for &(name, value) in &self.fields {
            if self.is(name, "content-length") {
                let number = decimal(self.at(value)).ok_or(Fault::Malformed("Content-Length is not one number"))?;
                if length.replace(number).is_some() {
                    return Err(Fault::Malformed("Content-Length is there twice"));
                }
            } else if self.is(name, "transfer-encoding") {
                if chunked || !self.at(value).eq_ignore_ascii_case(b"chunked") {
                    return Err(Fault::Malformed("Transfer-Encoding is not chunked alone"));
                }
                chunked = true;
            } else if self.is(name, "connection") {
                named += members(self.at(value)).count();
                if named > MAX_FIELDS {
                    return Err(Fault::Malformed("Connection names more fields than there may be"));
                }
            }
        }
        match (length, chunked) {
            (Some(_), true) => Err(Fault::Malformed("both Content-Length and Transfer-Encoding")),
            (Some(length), false) => Ok(Some(Framing::Length(length))),
            (None, true) => Ok(Some(Framing::Chunked)),
            (None, false) => Ok(None),
        }
    }

    /// Whether the connection stays open after the message, as far as it says; `minor` is its version.
    pub(super) fn persists(&self, minor: u8) -> bool {
        let mut persists = minor > 0;
        for value in self.all("connection") {
            for option in members(value) {
                if option.eq_ignore_ascii_case(b"close") {
                    return false;
                }
                persists |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        persists
    }
}

impl Fields for Head {
    fn first(&self, name: &str) -> Option<&str> {
        self.all(name).next().and_then(|value| std::str::from_utf8(value).ok())
    }

    fn each(&self, name: &str, see: &mut dyn FnMut(&str, &[u8])) {
        for (field, value) in self.fields() {
            // The parser lets only tokens be names.
            let field = std::str::from_utf8(field).unwrap_or_default();
            if name.is_empty() || field.eq_ignore_ascii_case(name) {
                see(field, value);
            }
        }
    }
}

/// The members of a comma-separated list.
pub(super) fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii)
}

/// A number of decimal digits and nothing else, below 2^63.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    let number = digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.wrapping_sub(b'0');
        (digit < 10).then(|| number.checked_mul(10)?.checked_add(u64::from(digit))).flatten()
    })?;
    (number < 1 << 63).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_digits_and_nothing_else() {
        assert_eq!(decimal(b"0"), Some(0));
        assert_eq!(decimal(b"9223372036854775807"), Some((1 << 63) - 1));
        for text in [
            "",
            "+3",
            "-1",
            "0x3",
            "3,3",
            "3, 30",
            "35x",
            " 3",
            "3 ",
            "9223372036854775808",
            "18446744073709551616",
            "99999999999999999999",
        ] {
            assert_eq!(decimal(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn lists_are_taken_apart_at_commas() {
        let all: Vec<&[u8]> = members(b"close,  X-Hop ,TE").collect();
        assert_eq!(all, [&b"close"[..], b"X-Hop", b"TE"]);
    }
}
