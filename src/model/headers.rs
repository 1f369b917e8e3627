//! HTTP header fields and their hygiene: what must never cross the mesh.

use std::fmt;

use super::{Invalid, shown};

/// Header names that carry the trace context of a call; passed through untouched unless traces are made.
pub const TRACE_CONTEXT: [&str; 9] =
    ["traceparent", "tracestate", "baggage", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags"];

/// Fields that belong to one connection (RFC 9110 §7.6.1), never forwarded.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The field in which Dapr clients send their token, which is for the mesh alone.
pub const DAPR_API_TOKEN: &str = "dapr-api-token";

/// Fields only the mesh may set on a request to an instance, or that would say in its name who calls: that is in `x-mesh-caller`.
const OURS: [&str; 10] = [
    "host",
    "content-length",
    "expect",
    "x-request-id",
    "x-service-mesh",
    "x-request-timeout-ms",
    DAPR_API_TOKEN,
    "dapr-caller-app-id",
    "dapr-caller-namespace",
    "x-forwarded-client-cert",
];

/// Header fields that can be looked up, however they are kept.
pub trait Fields {
    /// The first value of `name`, when it is text.
    fn first(&self, name: &str) -> Option<&str>;

    /// Shows every value of `name` in order; of every field, where `name` is empty. First the name, then the value.
    fn each(&self, name: &str, see: &mut dyn FnMut(&str, &[u8]));
}

impl Fields for Headers {
    fn first(&self, name: &str) -> Option<&str> {
        Self::first(self, name)
    }

    fn each(&self, name: &str, see: &mut dyn FnMut(&str, &[u8])) {
        let wanted = |field: &str| name.is_empty() || field.eq_ignore_ascii_case(name);
        self.iter().filter(|(field, _)| wanted(field)).for_each(|(field, value)| see(field, value));
    }
}

/// An ordered list of header fields; names compare without case, duplicates are kept.
///
/// All names lie in one buffer and all values in another, so that a list costs three allocations, not two for each field.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    names: String,
    values: Vec<u8>,
    /// Where each field's name and value end; they begin where the ones before end.
    ends: Vec<(usize, usize)>,
}

impl Headers {
    /// No fields.
    pub const fn new() -> Self {
        Self { names: String::new(), values: Vec::new(), ends: Vec::new() }
    }

    /// No fields, with room for some.
    pub(crate) fn with_room(fields: usize) -> Self {
        let (names, values) = (String::with_capacity(16 * fields), Vec::with_capacity(24 * fields));
        Self { names, values, ends: Vec::with_capacity(fields) }
    }

    /// Adds a field after checking it.
    ///
    /// # Errors
    /// [`Invalid`] when the name is not a token or the value holds a control character (RFC 9110 §5).
    pub fn append(&mut self, name: &str, value: &str) -> Result<(), Invalid> {
        if !is_token(name) {
            return Err(Invalid::new("headers", format!("{} is not a header name", shown(name))));
        }
        if value.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
            return Err(Invalid::new("headers", format!("the value of {name} has a control character")));
        }
        self.push(name, value.as_bytes());
        Ok(())
    }

    /// Adds a field that an HTTP parser or this crate has already checked.
    pub(crate) fn push(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.names.push_str(name);
        self.values.extend_from_slice(value.as_ref());
        self.ends.push((self.names.len(), self.values.len()));
    }

    /// Adds a field with a number, without detours.
    pub(crate) fn push_number(&mut self, name: &str, number: u64) {
        self.names.push_str(name);
        push_decimal(&mut self.values, number);
        self.ends.push((self.names.len(), self.values.len()));
    }

    /// The first value of `name`, when it is text.
    pub fn first(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).and_then(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// Whether there is a field of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.iter().any(|(n, _)| n.eq_ignore_ascii_case(name))
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All fields in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let begins = std::iter::once((0, 0)).chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|((name, value), (name_end, value_end))| {
            // Ends only grow, and names end where whole names do.
            (self.names.get(name..*name_end).unwrap_or_default(), self.values.get(value..*value_end).unwrap_or_default())
        })
    }

    /// These fields without those that must not be passed on to an instance: hop-by-hop fields (also those named in `Connection`),
    /// framing, `Host`, and every field whose meaning belongs to the mesh (`x-mesh-…`, `x-weft-…`).
    pub fn for_upstream(&self) -> Self {
        let stays = self.end_to_end(|name| is_only_ours(name.as_bytes()) || is_of_mesh(name.as_bytes()));
        let mut kept = Self::with_room(self.len() + ROOM_FOR_OURS);
        for ((name, value), stays) in self.iter().zip(stays) {
            if stays {
                kept.push(name, value);
            }
        }
        kept
    }

    /// These fields without those that end at the mesh on the way back: hop-by-hop fields, framing, and what only the mesh may say (the
    /// request id included: the answer carries the mesh's own).
    #[must_use]
    pub fn for_downstream(mut self) -> Self {
        let ours = |name: &str| {
            ["content-length", "x-request-id"].iter().any(|ours| name.eq_ignore_ascii_case(ours)) || is_of_mesh(name.as_bytes())
        };
        let stays: Vec<bool> = self.end_to_end(ours).collect();
        // From the end, so that what is still to be looked at stays where it is.
        for (at, _) in stays.iter().enumerate().rev().filter(|(_, stays)| !**stays) {
            self.remove(at);
        }
        self
    }

    /// Removes every field of that name.
    pub fn remove_all(&mut self, name: &str) {
        self.remove_where(|field| field.eq_ignore_ascii_case(name));
    }

    /// Removes every field whose name `goes`.
    pub(crate) fn remove_where(&mut self, goes: impl Fn(&str) -> bool) {
        let named: Vec<usize> = self.iter().enumerate().filter(|(_, (name, _))| goes(name)).map(|(at, _)| at).collect();
        for at in named.into_iter().rev() {
            self.remove(at);
        }
    }

    fn remove(&mut self, at: usize) {
        let (name, value) = at.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or((0, 0));
        let (name_end, value_end) = self.ends.remove(at);
        self.names.drain(name..name_end);
        self.values.drain(value..value_end);
        for (later_name, later_value) in self.ends.iter_mut().skip(at) {
            *later_name -= name_end - name;
            *later_value -= value_end - value;
        }
    }

    /// For each field, whether it is passed on: neither hop-by-hop nor `excluded`.
    fn end_to_end(&self, excluded: impl Fn(&str) -> bool) -> impl Iterator<Item = bool> {
        let connection = || self.iter().filter(|(name, _)| name.eq_ignore_ascii_case("connection"));
        let names_hops = connection().any(|(_, value)| !value.eq_ignore_ascii_case(b"keep-alive") && !value.eq_ignore_ascii_case(b"close"));
        let named = move |name: &str| {
            let mut options = connection().flat_map(|(_, value)| value.split(|b| *b == b','));
            options.any(|option| option.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
        };
        self.iter().map(move |(name, _)| {
            let hop_by_hop = is_hop_by_hop(name.as_bytes()) || (names_hops && named(name));
            !hop_by_hop && !excluded(name)
        })
    }
}

/// Writes a number in decimal digits, without the machinery of formatting.
pub(crate) fn push_decimal(out: &mut Vec<u8>, number: u64) {
    if number < 10 {
        // Most numbers that are written are counts of a few.
        return out.push(b'0' + u8::try_from(number).unwrap_or(0));
    }
    let mut digits = [0; 20];
    let mut begin = digits.len();
    let mut rest = number;
    for (at, digit) in digits.iter_mut().enumerate().rev() {
        // A remainder of ten is a digit.
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        begin = at;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(begin..).unwrap_or_default());
}

/// How many fields are usually added after others have been removed.
const ROOM_FOR_OURS: usize = 6;

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |name: &str, value| if is_secret(name.as_bytes()) { "(secret)".into() } else { String::from_utf8_lossy(value) };
        f.debug_map().entries(self.iter().map(|(name, value)| (name, shown(name, value)))).finish()
    }
}

/// Whether a field belongs to one connection, whatever `Connection` names.
pub(crate) fn is_hop_by_hop(name: &[u8]) -> bool {
    HOP_BY_HOP.iter().any(|hop| reads_as(name, hop.as_bytes()))
}

/// Whether only the mesh may set a field on a request to an instance.
pub(crate) fn is_only_ours(name: &[u8]) -> bool {
    OURS.iter().any(|ours| reads_as(name, ours.as_bytes()))
}

/// Whether a field carries what only its sender and its reader may know. Rather one too many.
pub(crate) fn is_secret(name: &[u8]) -> bool {
    const PARTS: [&[u8]; 16] = [
        b"auth",
        b"cookie",
        b"token",
        b"secret",
        b"password",
        b"passwd",
        b"passphrase",
        b"credential",
        b"key",
        b"session",
        b"signature",
        b"jwt",
        b"bearer",
        b"assertion",
        b"saml",
        b"oidc",
    ];
    PARTS.iter().any(|part| name.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part)))
}

/// Whether a field's meaning belongs to the mesh.
pub(crate) fn is_of_mesh(name: &[u8]) -> bool {
    [b"x-mesh-", b"x-weft-"].iter().any(|prefix| name.get(..prefix.len()).is_some_and(|head| reads_as(head, *prefix)))
}

/// Whether an instance might take a field for `known`, which is in small letters: many see only variables such as `HTTP_X_MESH_CALLER`
/// (CGI, RFC 3875 §4.1.18; WSGI, PHP, Rack), in which `x_mesh_caller` is the same.
pub(crate) fn reads_as(name: &[u8], known: &[u8]) -> bool {
    let same = |(a, b): (&u8, &u8)| a.to_ascii_lowercase() == *b || *a == b'_' && *b == b'-';
    name.len() == known.len() && name.iter().zip(known).all(same)
}

/// Whether an instance might take two fields for the same, as with [`reads_as`].
pub(crate) fn read_alike(one: &str, other: &str) -> bool {
    let read = |b: u8| if b == b'_' { b'-' } else { b.to_ascii_lowercase() };
    one.len() == other.len() && one.bytes().map(read).eq(other.bytes().map(read))
}

/// Whether `text` is a token (RFC 9110 §5.6.2), as header names and methods are.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.len() <= 256 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in fields {
            headers.append(name, value).expect(name);
        }
        headers
    }

    fn names(headers: &Headers) -> Vec<&str> {
        headers.iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn duplicates_case_and_order_are_kept() {
        let all = headers(&[("Set-Cookie", "a"), ("X", "1"), ("set-cookie", "b")]);
        assert_eq!(names(&all.clone().for_downstream()), ["Set-Cookie", "X", "set-cookie"]);
        assert_eq!(all.first("SET-COOKIE"), Some("a"));
    }

    #[test]
    fn what_belongs_to_one_connection_or_to_the_mesh_is_not_sent_upstream() {
        let all = headers(&[
            ("Connection", "close, X-Secret-Hop"),
            ("x-secret-hop", "1"),
            ("TE", "trailers"),
            ("Transfer-Encoding", "chunked"),
            ("Host", "evil"),
            ("Content-Length", "5"),
            ("Expect", "100-continue"),
            ("X-Mesh-Attempt", "9"),
            ("x-weft-identity", "root"),
            ("X_Mesh-Caller", "root"),
            ("x_weft_identity", "root"),
            ("Transfer_Encoding", "chunked"),
            ("x_request_id", "forged"),
            ("X-Request-ID", "forged"),
            ("Accept", "*/*"),
            ("Authorization", "Bearer t"),
        ]);
        assert_eq!(names(&all.for_upstream()), ["Accept", "Authorization"]);
    }

    #[test]
    fn what_only_the_mesh_may_say_does_not_come_back() {
        let all = headers(&[("Content-Type", "a/b"), ("Content-Length", "5"), ("x-mesh-reason", "forged"), ("Keep-Alive", "timeout=5")]);
        assert_eq!(names(&all.for_downstream()), ["Content-Type"]);
    }

    #[test]
    fn secrets_are_not_printed() {
        let all = headers(&[("Authorization", "Bearer hunter2"), ("Set-Cookie", "hunter2"), ("X-Api-Key", "hunter2"), ("Accept", "*/*")]);
        let printed = format!("{all:?}");
        assert!(!printed.contains("hunter2") && printed.contains("*/*"), "{printed}");
    }

    #[test]
    fn numbers_are_written_in_full() {
        let mut headers = Headers::new();
        for number in [0, 7, 10, 1_234_567_890, u64::MAX] {
            headers.push_number("n", number);
        }
        let written: Vec<String> = headers.iter().map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect();
        assert_eq!(written, ["0", "7", "10", "1234567890", "18446744073709551615"]);
    }

    #[test]
    fn a_header_cannot_smuggle_another() {
        let mut headers = Headers::new();
        for (name, value) in [("X", "a\r\nY: b"), ("X\r\nY", "a"), ("", "a"), ("X", "a\0"), ("X Y", "a"), ("X:", "a")] {
            assert!(headers.append(name, value).is_err(), "{name:?}: {value:?}");
        }
        assert!(headers.append("X", "caf\u{e9}\ttab").is_ok());
    }
}
