//! What an instance is: where it listens, how much of the traffic it takes, how its health is asked.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Endpoint, InstanceId, Invalid, ServiceName, shown, shown_url};

/// What a service tells the mesh about one of its instances. Fields left out keep what they were when the instance is registered again.
#[derive(Clone, PartialEq, Debug)]
pub struct Registration {
    /// The service it belongs to.
    pub service: ServiceName,
    /// Its id within the service.
    pub id: InstanceId,
    /// Where it listens.
    pub host: Host,
    /// The port it listens on.
    pub port: NonZeroU16,
    /// How it is spoken to; `http` when left out.
    pub scheme: Option<Scheme>,
    /// Where its health is asked; no active checks when left out.
    pub health_check: Option<HealthTarget>,
    /// Free-form labels.
    pub metadata: Option<BTreeMap<String, String>>,
    /// An explicit state of health, which stands until the first regular check.
    pub healthy: Option<bool>,
    /// Share of the traffic relative to the others; 1 when left out.
    pub weight: Option<Weight>,
    /// Where it runs, for zone-aware balancing.
    pub zone: Option<String>,
    /// Attempts it may have in flight at once; unlimited when left out.
    pub max_in_flight: Option<u32>,
    /// A lease: without heartbeat or new registration within this time the instance expires.
    pub ttl: Option<Duration>,
    /// Who registered it, where that has been proven.
    pub owner: Option<Arc<str>>,
}

impl Registration {
    /// The least there is to say: who and where.
    ///
    /// # Errors
    /// [`Invalid`] naming the first field that is not acceptable.
    pub fn new(service: &str, id: &str, host: &str, port: u16) -> Result<Self, Invalid> {
        Ok(Self {
            service: ServiceName::new(service)?,
            id: InstanceId::new(id)?,
            host: Host::new(host)?,
            port: NonZeroU16::new(port).ok_or_else(|| Invalid::new("port", "0 is not a port; use 1 to 65535"))?,
            scheme: None,
            health_check: None,
            metadata: None,
            healthy: None,
            weight: None,
            zone: None,
            max_in_flight: None,
            ttl: None,
            owner: None,
        })
    }

    /// This registration, with what it leaves out taken from `before`. The explicit state of health is never inherited.
    #[must_use]
    pub fn over(self, before: &Self) -> Self {
        Self {
            scheme: self.scheme.or(before.scheme),
            health_check: self.health_check.or_else(|| before.health_check.clone()),
            metadata: self.metadata.or_else(|| before.metadata.clone()),
            weight: self.weight.or(before.weight),
            zone: self.zone.or_else(|| before.zone.clone()),
            max_in_flight: self.max_in_flight.or(before.max_in_flight),
            ttl: self.ttl.or(before.ttl),
            owner: self.owner.or_else(|| before.owner.clone()),
            ..self
        }
    }
}

/// A host: an IP address or a DNS name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Host {
    /// A literal address.
    Ip(IpAddr),
    /// A name to resolve.
    Name(Box<str>),
}

impl Host {
    /// Parses a host. Accepts `10.0.0.1`, `::1`, `[::1]` and DNS names; refuses the other spellings of addresses that resolvers
    /// understand (`127.1`, `0x7f000001`, `2130706433`), since nobody means them and they hide where a call would go.
    ///
    /// # Errors
    /// [`Invalid`] naming what is wrong.
    pub fn new(text: &str) -> Result<Self, Invalid> {
        let literal = text.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(text);
        if let Ok(ip) = literal.parse() {
            return Ok(Self::Ip(ip));
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let numeric = |label: &str| label.bytes().all(|b| b.is_ascii_digit()) || label.starts_with("0x") || label.starts_with("0X");
        let labels = || text.split('.');
        if text.len() > 253 || !labels().all(label) {
            return Err(Invalid::new("host", format!("{} is neither an IP address nor a host name", shown(text))));
        }
        if labels().next_back().is_some_and(numeric) {
            return Err(Invalid::new("host", format!("{} looks like a number; write an IP address in full", shown(text))));
        }
        Ok(Self::Name(text.into()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// `host:port` as it stands in a URL or a `Host` header.
pub(crate) fn authority(host: &Host, port: NonZeroU16) -> String {
    match host {
        Host::Ip(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
        host => format!("{host}:{port}"),
    }
}

/// How an instance is spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Plain HTTP/1.1.
    #[default]
    Http,
    /// HTTP/1.1 over TLS.
    Https,
}

impl Scheme {
    /// This scheme, if it is built in.
    ///
    /// # Errors
    /// [`Invalid`] for `https` in a build without TLS.
    pub fn supported(self) -> Result<Self, Invalid> {
        match self {
            Self::Https if !cfg!(feature = "tls") => Err(Invalid::new("scheme", "https is not in this build; build with the feature tls")),
            scheme => Ok(scheme),
        }
    }

    /// `http` or `https`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Where an instance's health is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthTarget {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// The host to ask; usually the instance's own.
    pub host: Host,
    /// The port to ask.
    pub port: NonZeroU16,
    /// The path to ask for.
    pub endpoint: Endpoint,
}

impl HealthTarget {
    /// Parses a URL such as `http://localhost:4001/health`.
    ///
    /// # Errors
    /// [`Invalid`] when it is not an absolute `http` or `https` URL without user, password and fragment.
    pub fn new(url: &str) -> Result<Self, Invalid> {
        let invalid = |why: &str| Invalid::new("healthCheckUrl", format!("{} {why}", shown_url(url)));
        let (scheme, rest) = match url.split_once("://") {
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            _ => return Err(invalid("must begin with http:// or https://")),
        };
        scheme.supported().map_err(|fault| invalid(&format!("cannot be asked: {}", fault.why)))?;
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        if authority.contains('@') {
            return Err(invalid("must not have a user or password"));
        }
        // The last colon separates the port, unless it is inside the brackets of an IPv6 address.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let default = match scheme {
            Scheme::Http => NonZeroU16::new(80),
            Scheme::Https => NonZeroU16::new(443),
        };
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let port = port.map_or(default, |text| text.parse().ok().filter(|_| digits(text)));
        Ok(Self {
            scheme,
            host: Host::new(host).map_err(|fault| invalid(&format!("has a bad host: {}", fault.why)))?,
            port: port.ok_or_else(|| invalid("has a bad port; use 1 to 65535"))?,
            endpoint: Endpoint::new(path).map_err(|fault| invalid(&format!("has a bad path: {}", fault.why)))?,
        })
    }
}

impl fmt::Display for HealthTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.as_str(), authority(&self.host, self.port), self.endpoint)
    }
}

/// Share of the traffic relative to the other instances: 0 (none) to 1000.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Weight(u16);

impl Weight {
    /// The weight of an instance that names none.
    pub const ONE: Self = Self(1);

    /// A weight of 0 to 1000.
    ///
    /// # Errors
    /// [`Invalid`] above 1000.
    pub fn new(weight: u64) -> Result<Self, Invalid> {
        match u16::try_from(weight) {
            Ok(weight @ 0..=1000) => Ok(Self(weight)),
            _ => Err(Invalid::new("weight", format!("{weight} is not a weight; use 0 to 1000"))),
        }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// What an operator wants of an instance. Survives re-registration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdminState {
    /// Takes calls.
    #[default]
    Ready,
    /// Takes no new calls; running ones finish.
    Drain,
    /// Takes no calls and is not checked.
    Maint,
}

impl AdminState {
    /// The word in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_hosts() {
        assert_eq!(Host::new("[::1]").expect("v6"), Host::new("::1").expect("v6"));
        for text in ["10.0.0.1", "localhost", "a-b.example.com", "my_service", "metadata.google.internal", "4host"] {
            assert_eq!(Host::new(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn what_only_looks_like_a_host_is_refused() {
        let long = "a.".repeat(200);
        for text in [
            "",
            "a@b",
            "a/b",
            "a?b",
            "a#b",
            "a b",
            "a\r\nX: y",
            "a:80",
            "b\u{fc}cher.de",
            "a.",
            ".a",
            "a..b",
            "%31",
            "-a",
            "a-",
            "2130706433",
            "0x7f.1",
            "0x7f000001",
            "0177.0.0.1",
            "127.1",
            "1.2.3.4.5",
            "[localhost]",
            "[::1",
            "256.0.0.1",
            &long,
        ] {
            assert_eq!(Host::new(text).expect_err(text).field, "host");
        }
    }

    #[test]
    fn health_urls_are_taken_apart_and_put_together() {
        for url in ["http://localhost:4001/health", "http://[::1]:80/a?b=c", "https://example.com:443/"] {
            assert_eq!(HealthTarget::new(url).expect(url).to_string(), url);
        }
        assert_eq!(HealthTarget::new("http://a/x").expect("default port").port.get(), 80);
        assert_eq!(HealthTarget::new("https://a").expect("default path").to_string(), "https://a:443/");
    }

    #[test]
    fn health_urls_that_could_ask_another_place_are_refused() {
        for url in [
            "",
            "localhost/health",
            "ftp://a/",
            "http://a:99999/",
            "http://a:+80/",
            "http://u@evil/",
            "http://a/../b",
            "http:///x",
            "http://a:/x",
            "http://a#b",
            "http://a?b",
        ] {
            assert_eq!(HealthTarget::new(url).expect_err(url).field, "healthCheckUrl");
        }
    }

    #[test]
    fn registering_again_keeps_what_is_not_named() {
        let mut first = Registration::new("s", "i", "localhost", 1).expect("valid");
        first.weight = Weight::new(5).ok();
        first.healthy = Some(false);
        let again = Registration::new("s", "i", "localhost", 2).expect("valid").over(&first);
        assert_eq!(again.weight.map(Weight::get), Some(5));
        assert_eq!(again.port.get(), 2);
        assert_eq!(again.healthy, None);
    }
}
