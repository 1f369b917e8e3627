//! One call as its caller describes it, and the answer it gets.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Endpoint, Headers, InstanceId, Invalid, ServiceName, shown};

/// A logical invocation of a service: what to ask, and how much patience there is.
///
/// ```
/// use std::time::Duration;
/// use weft::Call;
///
/// let call = Call::get("user-service", "/api/users/123")?.timeout(Duration::from_secs(2)).header("Accept", "application/json")?;
/// # let _ = call;
/// # Ok::<(), weft::Invalid>(())
/// ```
#[derive(Clone, Debug)]
pub struct Call {
    /// The service to call.
    pub service: ServiceName,
    /// The method.
    pub method: Method,
    /// Path and query.
    pub endpoint: Endpoint,
    /// Header fields for the instance; what must not be forwarded is removed before they are sent.
    pub headers: Headers,
    /// The body, the same on every attempt.
    pub body: Option<Arc<[u8]>>,
    /// Whole time for the call, retries and waits included; can only shorten the policy's `totalMs`.
    pub timeout: Option<Duration>,
    /// Upper bound on retries; can only lower the policy's `maxRetries`.
    pub max_retries: Option<u32>,
    /// Repeating the request is harmless, whatever its method says.
    pub idempotent: bool,
    /// What consistent hashing and sticky splits go by.
    pub hash_key: Option<String>,
    /// The id of the call; a new one is rolled when there is none.
    pub request_id: Option<RequestId>,
    /// Who calls.
    pub caller: Caller,
    /// How many meshes the call has already passed through.
    pub hops: u32,
    /// The call is itself a retry of another mesh, which does the retrying: one attempt only.
    pub is_retry: bool,
}

impl Call {
    /// A call of `method` on `service`.
    ///
    /// # Errors
    /// [`Invalid`] when the name or the endpoint is not acceptable.
    pub fn new(service: &str, method: Method, endpoint: &str) -> Result<Self, Invalid> {
        Ok(Self {
            service: ServiceName::new(service).map_err(|fault| Invalid::new("serviceName", fault.why))?,
            method,
            endpoint: Endpoint::new(endpoint)?,
            headers: Headers::new(),
            body: None,
            timeout: None,
            max_retries: None,
            idempotent: false,
            hash_key: None,
            request_id: None,
            caller: Caller::default(),
            hops: 0,
            is_retry: false,
        })
    }

    /// A `GET`.
    ///
    /// # Errors
    /// As [`Call::new`].
    pub fn get(service: &str, endpoint: &str) -> Result<Self, Invalid> {
        Self::new(service, Method::Get, endpoint)
    }

    /// A `POST` of `body`.
    ///
    /// # Errors
    /// As [`Call::new`].
    pub fn post(service: &str, endpoint: &str, body: impl Into<Arc<[u8]>>) -> Result<Self, Invalid> {
        let mut call = Self::new(service, Method::Post, endpoint)?;
        call.body = Some(body.into());
        Ok(call)
    }

    /// Adds a header field.
    ///
    /// # Errors
    /// [`Invalid`] when the name or value is not acceptable.
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, Invalid> {
        self.headers.append(name, value)?;
        Ok(self)
    }

    /// Bounds the whole call.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Says that repeating the request is harmless, so that it may be retried whatever its method.
    #[must_use]
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// Whether the request may be sent again although it may have been processed (RFC 9110 §9.2.2).
    pub(crate) fn is_idempotent(&self) -> bool {
        self.idempotent || self.method.is_idempotent() || self.headers.contains("idempotency-key")
    }
}

/// The answer to a call.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The instance's status.
    pub status: u16,
    /// The instance's end-to-end header fields.
    pub headers: Headers,
    /// The whole body.
    pub body: Vec<u8>,
    /// Which instance answered.
    pub instance: InstanceId,
    /// How many attempts it took.
    pub attempts: u32,
    /// Time from sending the answered attempt to the end of its answer.
    pub upstream: Duration,
    /// The id of the call.
    pub request_id: RequestId,
}

/// A request method the mesh forwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The names say it: RFC 9110 §9.3.
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
    /// Any other method, which only /proxy forwards, as it came.
    Other,
}

impl Method {
    /// All that a call can name, in the order of the documentation.
    pub const ALL: [Self; 7] = [Self::Get, Self::Head, Self::Post, Self::Put, Self::Patch, Self::Delete, Self::Options];

    /// Parses a method in any case.
    ///
    /// # Errors
    /// [`Invalid`] listing what is allowed.
    pub fn new(text: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|method| method.as_str().eq_ignore_ascii_case(text)).ok_or_else(|| {
            let all = Self::ALL.map(Self::as_str).join(", ");
            Invalid::new("method", format!("{} is not one of {all}", shown(text)))
        })
    }

    /// In capitals.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Other => "the request",
        }
    }

    /// Whether sending it twice means the same as once (RFC 9110 §9.2.2).
    pub const fn is_idempotent(self) -> bool {
        match self {
            Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options => true,
            Self::Post | Self::Patch | Self::Other => false,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who calls. Part of every call, so that limits and rules can go by it.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Caller {
    /// A proven name; `None` for an anonymous caller.
    pub name: Option<Arc<str>>,
    /// The address the call came from; `None` for a call from within the process.
    pub address: Option<IpAddr>,
}

impl Caller {
    /// Runs `work` on the bytes by which callers are told apart: the name, else the address, of IPv6 the /64 that one host may fill. Calls
    /// from within the process are one caller. Nobody without a name is one who has it: addresses begin with a byte that no text has.
    pub(crate) fn told_apart_by<R>(&self, work: impl FnOnce(&[u8]) -> R) -> R {
        const ADDRESS: u8 = 0xff;
        match (&self.name, self.address) {
            (Some(name), _) => work(name.as_bytes()),
            (None, Some(IpAddr::V4(ip))) => {
                let [a, b, c, d] = ip.octets();
                work(&[ADDRESS, a, b, c, d])
            }
            (None, Some(IpAddr::V6(ip))) => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                work(&[ADDRESS, a, b, c, d, e, f, g, h])
            }
            (None, None) => work(&[ADDRESS]),
        }
    }
}

/// The id of a call or an API request: the caller's own, or a random UUID (RFC 9562 §5.4).
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId(Id);

/// An id of a caller may be long; one of ours costs no allocation.
#[derive(Clone, PartialEq, Eq)]
enum Id {
    Ours([u8; 36]),
    Callers(Arc<str>),
}

impl RequestId {
    /// Takes over a caller's id when it is safe to repeat in headers and logs: 1 to 128 of `[A-Za-z0-9._:/+=-]`.
    pub fn from_caller(text: &str) -> Option<Self> {
        let safe = |b: u8| b.is_ascii_alphanumeric() || b"._:/+=-".contains(&b);
        ((1..=128).contains(&text.len()) && text.bytes().all(safe)).then(|| Self(Id::Callers(text.into())))
    }

    /// A version 4 UUID made of two rolls.
    pub fn from_roll(high: u64, low: u64) -> Self {
        let high = high & !0xf000 | 0x4000;
        let low = low & !(0b11 << 62) | 0b10 << 62;
        let mut text = [b'-'; 36];
        let mut put = |at: usize, digits: [u8; 8]| {
            // Four at a time: no dash is within four.
            let (front, back) = digits.split_at(4);
            let second = at + 4 + usize::from(matches!(at, 9 | 19));
            for (at, part) in [(at, front), (second, back)] {
                if let Some(place) = text.get_mut(at..at + 4) {
                    place.copy_from_slice(part);
                }
            }
        };
        let halves = |both: u64| [both >> 32, both & 0xffff_ffff].map(hex_digits);
        let [a, b] = halves(high);
        let [c, d] = halves(low);
        put(0, a);
        put(9, b);
        put(19, c);
        put(28, d);
        Self(Id::Ours(text))
    }

    /// The id as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Id::Ours(text) => text,
            Id::Callers(text) => text.as_bytes(),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            // Digits and dashes are text.
            Id::Ours(text) => std::str::from_utf8(text).unwrap_or_default(),
            Id::Callers(text) => text,
        }
    }
}

/// Eight digits at once: the half bytes of a number below 2^32 are spread over the bytes of another, and each becomes a digit by addition.
const fn hex_digits(number: u64) -> [u8; 8] {
    let wide = (number & 0xffff_0000) << 16 | number & 0xffff;
    let wide = (wide & 0x0000_ff00_0000_ff00) << 8 | wide & 0x0000_00ff_0000_00ff;
    let wide = (wide & 0x00f0_00f0_00f0_00f0) << 4 | wide & 0x000f_000f_000f_000f;
    // Ten and more carry into the next half byte when six is added.
    let letters = (wide + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
    (wide + 0x3030_3030_3030_3030 + letters * (b'a' - b'0' - 10) as u64).to_be_bytes()
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_accepted_in_any_case_and_only_those() {
        assert_eq!(Method::new("get"), Ok(Method::Get));
        assert_eq!(Method::new("Post"), Ok(Method::Post));
        for text in ["", "TRACE", "CONNECT", "PRI", "GET\r\nX: y", &"G".repeat(1000)] {
            assert!(Method::new(text).is_err(), "{text}");
        }
    }

    #[test]
    fn callers_without_a_name_are_told_apart_from_those_who_are_called_like_their_address() {
        let named = |name: &str| Caller { name: Some(name.into()), address: None };
        let from = |address: &str| Caller { name: None, address: address.parse().ok() };
        let bytes = |caller: &Caller| caller.told_apart_by(<[u8]>::to_vec);
        for (address, name) in [("97.112.112.49", "app1"), ("3132:3334:3536:3738::1", "12345678")] {
            assert_ne!(bytes(&from(address)), bytes(&named(name)), "{address}");
        }
        assert_eq!(bytes(&from("2001:db8:1:2::3")), bytes(&from("2001:db8:1:2:ffff::")), "one host may fill a /64");
        assert_ne!(bytes(&from("2001:db8:1:2::3")), bytes(&from("2001:db8:1:3::3")));
        assert_ne!(bytes(&Caller::default()), bytes(&named("")));
    }

    #[test]
    fn a_rolled_id_is_a_version_4_uuid() {
        let id = RequestId::from_roll(u64::MAX, 0).to_string();
        assert_eq!(id, "ffffffff-ffff-4fff-8000-000000000000");
        assert_eq!(RequestId::from_roll(0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210).to_string(), "01234567-89ab-4def-bedc-ba9876543210");
    }

    #[test]
    fn a_callers_id_is_taken_over_only_when_it_is_harmless() {
        assert!(RequestId::from_caller("abc-123").is_some());
        for text in ["", "a b", "a\r\nb", "\"", &"x".repeat(129)] {
            assert!(RequestId::from_caller(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_key_or_the_callers_word_makes_a_post_idempotent() {
        let post = Call::post("s", "/", *b"x").expect("valid");
        assert!(!post.is_idempotent());
        assert!(post.clone().idempotent().is_idempotent());
        assert!(post.header("Idempotency-Key", "k").expect("valid").is_idempotent());
    }
}
