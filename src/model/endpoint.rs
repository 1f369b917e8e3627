//! The path and query of a call, checked once so that what is decided on is exactly what is sent.

use std::borrow::Cow;
use std::fmt;

use super::{Invalid, shown};

/// The longest path and query accepted, in bytes.
const MAX: usize = 8 * 1024;

/// A path with an optional query, such as `/api/users/123?full=1`.
///
/// It begins with exactly one `/`, holds only printable ASCII without space, `\`, `#`, `"`, `<`, `>`, `^`, `` ` ``, `{`, `|`, `}`, has no
/// `..` or encoded control character in its path (decoded once), and is at most 8 KiB. An absolute URL cannot be written with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint(String);

impl Endpoint {
    /// Parses a path and query.
    ///
    /// # Errors
    /// [`Invalid`] naming the rule that was broken.
    pub fn new(text: &str) -> Result<Self, Invalid> {
        match Self::fault(text) {
            None => Ok(Self(text.to_owned())),
            Some(why) => Err(Invalid::new("endpoint", format!("{} {why}", shown(text)))),
        }
    }

    fn fault(text: &str) -> Option<&'static str> {
        if text.len() > MAX {
            return Some("is longer than 8 KiB");
        }
        let bytes = text.as_bytes();
        if bytes.first() != Some(&b'/') {
            return Some("must begin with '/': a path, not a URL");
        }
        if bytes.get(1) == Some(&b'/') {
            return Some("must begin with exactly one '/'");
        }
        if bytes.contains(&b'#') {
            return Some("must not have a fragment ('#')");
        }
        if bytes.contains(&b'\\') {
            return Some("must not have a backslash");
        }
        if !bytes.iter().all(|b| b.is_ascii_graphic() && !b"\"<>^`{|}".contains(b)) {
            return Some("has a character that must be percent-encoded");
        }
        Self::path_fault(text.split('?').next().unwrap_or_default())
    }

    /// What two readers might take for different paths.
    fn path_fault(path: &str) -> Option<&'static str> {
        let Some(decoded) = decode_once(path) else {
            return Some("has a '%' that is not followed by two hexadecimal digits");
        };
        if decoded.iter().any(|b| b.is_ascii_control() || *b == b'\\') {
            return Some("has an encoded control character or backslash");
        }
        if decoded.split(|b| *b == b'/').any(|segment| segment == b"..") {
            return Some("must not have a '..' segment");
        }
        None
    }

    /// Judges a path and query that are passed on as they are: as [`Endpoint::new`], but for characters that browsers leave unencoded.
    ///
    /// # Errors
    /// [`Invalid`] naming the rule that was broken.
    #[cfg(feature = "server")]
    pub(crate) fn judge_forwarded(text: &str) -> Result<(), Invalid> {
        let why = Self::path_fault(text.split('?').next().unwrap_or_default());
        why.map_or(Ok(()), |why| Err(Invalid::new("path", format!("{} {why}", shown(text)))))
    }

    /// The path and query as they are sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `text` with each `%XX` replaced by its byte; `None` when one is malformed.
pub(crate) fn decode_once(text: &str) -> Option<Cow<'_, [u8]>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text.as_bytes()));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(Cow::Owned(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries_are_kept_as_they_came() {
        for text in ["/", "/api/users/123", "/a%20b?x=1&y=%2F..", "/a/./b", "/a..b/c", "/%252e%252e/x", "/a?b=/../c"] {
            assert_eq!(Endpoint::new(text).expect(text).as_str(), text);
        }
    }

    #[test]
    fn what_could_mean_another_place_is_refused() {
        let long = format!("/{}", "a".repeat(MAX));
        for text in [
            "",
            "a",
            "@evil/x",
            "//evil/x",
            "http://evil/",
            "/../x",
            "/a/..",
            "/%2e%2e/x",
            "/%2E./x",
            "/a\\b",
            "/a%5cb",
            "/a%0d%0aX:y",
            "/a\r\nX: y",
            "/a\0",
            "/a%00",
            "/é",
            "/a b",
            "/a#b",
            "/%",
            "/%4",
            "/%zz",
            "*",
            &long,
        ] {
            let error = Endpoint::new(text).expect_err(text);
            assert_eq!(error.field, "endpoint");
        }
    }
}
