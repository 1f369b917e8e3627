//! The one judge of where the mesh may connect to. A mesh calls whatever is registered, so without a judge, whoever may register may
//! reach whatever the mesh can reach (server-side request forgery).
//!
//! It judges resolved addresses, never spellings, at registration and at every later resolution; the connection then goes to the very
//! address that was judged.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::Host;
use crate::model::settings::{leaf, settings};

settings! {
    /// Which addresses instances may have, and how those are known that are spoken to over TLS.
    pub struct Config {
        /// Only these may be registered: CIDR blocks ("10.0.0.0/8"), host suffixes (".internal"), each with ":port" if need be. Empty: all.
        allow: Rules = Vec::new();
        /// These may never be registered, whatever is allowed.
        deny: Rules = Vec::new();
        /// Authorities that https instances must be certified by, a PEM file; those of Mozilla are then none. Empty: Mozilla's.
        ca_file: String = String::new();
        /// The certificate by which the mesh introduces itself to https instances, a PEM file with those between it and its authority.
        cert_file: String = String::new();
        /// The private key to it, a PEM file that only its owner may read.
        key_file: String = String::new();
    }
}

/// A list of rules.
pub type Rules = Vec<Rule>;

leaf! { Rules => |_| None }

/// A block of addresses or a host suffix, with or without a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    place: Place,
    port: Option<u16>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    Block { base: IpAddr, bits: u8 },
    Suffix(String),
}

impl Config {
    /// Whether a connection to `ip:port`, found under the name `host`, is allowed.
    ///
    /// # Errors
    /// The reason, for a person.
    pub fn judge(&self, host: &Host, ip: IpAddr, port: u16) -> Result<(), String> {
        let ip = unwrapped(ip);
        if let Some(why) = never(ip) {
            return Err(format!("{ip} is {why}, which is never allowed"));
        }
        let hit = |rules: &Rules| rules.iter().find(|rule| rule.covers(host, ip, port)).map(ToString::to_string);
        if let Some(rule) = hit(&self.deny) {
            return Err(format!("{ip}:{port} is denied by upstreams.deny {rule}"));
        }
        if !self.allow.is_empty() && hit(&self.allow).is_none() {
            return Err(format!("{ip}:{port} is not covered by upstreams.allow"));
        }
        Ok(())
    }
}

/// Addresses on which the mesh itself listens: who registers one as an instance has the mesh call its own API, in its own name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Own(Vec<SocketAddr>);

impl Own {
    /// These are the mesh's own.
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self(addresses.into_iter().collect())
    }

    /// Whether a connection to `ip:port` is one to somebody else. `is_local`: whether an address is one of this machine.
    ///
    /// # Errors
    /// The reason, for a person.
    pub fn judge(&self, ip: IpAddr, port: u16, is_local: impl Fn(IpAddr) -> bool) -> Result<(), String> {
        let ip = unwrapped(ip);
        let is_it = |own: &SocketAddr| {
            let whole = own.ip().is_unspecified();
            own.port() == port && (unwrapped(own.ip()) == ip || whole && is_local(ip))
        };
        if self.0.iter().any(is_it) { Err(format!("{ip}:{port} is where the mesh itself listens")) } else { Ok(()) }
    }
}

/// IPv4 addresses in IPv6 clothes (mapped, compatible, NAT64 of RFC 6052 and RFC 8215, 6to4) as what they are.
fn unwrapped(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let inside = match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, a, b] | [0x64, 0xff9b, 0, 0, 0, 0, a, b] | [0x64, 0xff9b, 1, _, _, _, a, b] | [0x2002, a, b, ..] => (a, b),
        [0, 0, 0, 0, 0, 0, a, b] if a != 0 => (a, b),
        _ => return ip,
    };
    IpAddr::V4(Ipv4Addr::from_bits(u32::from(inside.0) << 16 | u32::from(inside.1)))
}

/// Whether an address is not another one in disguise, which no address that is judged would ever match.
fn is_plain(base: IpAddr) -> Result<(), IpAddr> {
    let plain = unwrapped(base);
    if plain == base { Ok(()) } else { Err(plain) }
}

/// Metadata services that are not link-local: those of Alibaba Cloud, Azure (the wire server) and Oracle Cloud Classic.
const METADATA_V4: [Ipv4Addr; 3] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];
/// Those of Google Cloud, Oracle Cloud, Scaleway, Linode and Alibaba Cloud. Amazon's, which hands out the identities of pods as well, has the block fd00:ec2::/32.
const METADATA_V6: [Ipv6Addr; 5] = [
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
    Ipv6Addr::new(0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200),
];

/// What no policy can allow: places that are not hosts, and the metadata services of cloud providers.
fn never(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(v4) if v4.is_link_local() => Some("link-local"),
        IpAddr::V4(v4) if v4.octets().first() == Some(&0) => Some("in 0.0.0.0/8"),
        IpAddr::V4(v4) if v4.is_multicast() => Some("multicast"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V4(v4) if METADATA_V4.contains(&v4) => Some("a cloud metadata service"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("link-local"),
        IpAddr::V6(v6) if v6.is_unspecified() => Some("the unspecified address"),
        IpAddr::V6(v6) if v6.is_multicast() => Some("multicast"),
        IpAddr::V6(v6) if matches!(v6.segments(), [0xfd00, 0xec2, ..]) || METADATA_V6.contains(&v6) => Some("a cloud metadata service"),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

impl Rule {
    fn covers(&self, host: &Host, ip: IpAddr, port: u16) -> bool {
        let place = match &self.place {
            Place::Block { base, bits } => {
                prefix(ip, *bits).is_some_and(|p| prefix(*base, *bits) == Some(p)) && ip.is_ipv4() == base.is_ipv4()
            }
            Place::Suffix(suffix) => match host {
                // Whole labels: notinternal is no part of internal.
                Host::Name(name) => {
                    let (name, whole) = (name.to_ascii_lowercase(), suffix.trim_start_matches('.'));
                    name.strip_suffix(whole).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
                }
                Host::Ip(_) => false,
            },
        };
        place && self.port.is_none_or(|p| p == port)
    }
}

/// The first `bits` bits of an address; `None` when it does not have that many.
fn prefix(ip: IpAddr, bits: u8) -> Option<u128> {
    let (value, width) = match ip {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    };
    let drop = u32::from(u8::checked_sub(width, bits)?);
    Some(value.checked_shr(drop).unwrap_or(0))
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fault = || {
            format!(
                "{} is neither a CIDR block (10.0.0.0/8, [fd00::]/8:80) nor a host suffix (.internal, db.internal:5432)",
                crate::model::shown(text)
            )
        };
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(fault);
        if let Some((address, rest)) = text.split_once('/') {
            let base: IpAddr = address.trim_start_matches('[').trim_end_matches(']').parse().map_err(|_| fault())?;
            let (bits, port) = match rest.split_once(':') {
                Some((bits, text)) => (bits, Some(port(text)?)),
                None => (rest, None),
            };
            let bits: u8 = bits.parse().map_err(|_| fault())?;
            prefix(base, bits).ok_or_else(fault)?;
            is_plain(base).map_err(|plain| format!("{} means IPv4 addresses: write them as such ({plain})", crate::model::shown(text)))?;
            return Ok(Self { place: Place::Block { base, bits }, port });
        }
        if let Ok(base) = text.parse::<IpAddr>() {
            let base = unwrapped(base);
            return Ok(Self { place: Place::Block { base, bits: if base.is_ipv4() { 32 } else { 128 } }, port: None });
        }
        let (suffix, port) = match text.split_once(':') {
            Some((suffix, text)) => (suffix, Some(port(text)?)),
            None => (text, None),
        };
        let (bare, suffix) = (suffix.trim_start_matches('.'), suffix.to_ascii_lowercase());
        match Host::new(bare) {
            Ok(Host::Name(_)) => Ok(Self { place: Place::Suffix(suffix), port }),
            Ok(Host::Ip(base)) => Ok(Self { place: Place::Block { base, bits: if base.is_ipv4() { 32 } else { 128 } }, port }),
            Err(_) => Err(fault()),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Block { base, bits } => write!(f, "{base}/{bits}")?,
            Place::Suffix(suffix) => f.write_str(suffix)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(config: &Config, host: &str, ip: &str, port: u16) -> bool {
        config.judge(&Host::new(host).expect(host), ip.parse().expect(ip), port).is_ok()
    }

    fn rules(texts: &[&str]) -> Rules {
        texts.iter().map(|text| text.parse().expect(text)).collect()
    }

    #[test]
    fn the_meshs_own_address_is_nobody_elses_however_it_is_written() {
        let address = |text: &str| text.parse::<SocketAddr>().expect(text);
        let local = |ip: IpAddr| ip.is_loopback();
        let own = Own::new([address("127.0.0.1:3000"), address("0.0.0.0:4000")]);
        for (text, expected) in [
            ("127.0.0.1:3000", false),
            ("[::ffff:127.0.0.1]:3000", false),
            ("127.0.0.1:3001", true),
            ("127.0.0.2:3000", true),
            ("127.0.0.1:4000", false),
            ("127.9.9.9:4000", false),
            ("[::1]:4000", false),
            ("192.0.2.1:4000", true),
        ] {
            let at = address(text);
            assert_eq!(own.judge(at.ip(), at.port(), local).is_ok(), expected, "{text}");
        }
        assert!(Own::default().judge(address("127.0.0.1:1").ip(), 1, local).is_ok());
    }

    #[test]
    fn some_places_are_never_allowed_in_whatever_clothes() {
        let config = Config { allow: rules(&["0.0.0.0/0", "::/0"]), ..Config::default() };
        for ip in [
            "169.254.169.254",
            "169.254.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "fe80::1",
            "::",
            "ff02::1",
            "::ffff:169.254.169.254",
            "::ffff:0.0.0.0",
            "64:ff9b::a9fe:a9fe",
            "::a9fe:a9fe",
            "64:ff9b:1::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "fd00:c1::a9fe:a9fe",
            "fd00:42::42",
            "fd00:a9fe:a9fe::1",
            "fd00:100::100:200",
            "168.63.129.16",
            "::ffff:168.63.129.16",
            "192.0.0.192",
        ] {
            assert!(!judge(&config, "x", ip, 80), "{ip}");
        }
        for ip in ["127.0.0.1", "::1", "10.1.2.3", "8.8.8.8", "2001:db8::1", "168.63.129.17", "fd00:ec3::254", "fd20:ce::253"] {
            assert!(judge(&config, "x", ip, 80), "{ip}");
        }
    }

    #[test]
    fn allow_and_deny_go_by_block_suffix_and_port_and_deny_wins() {
        let config = Config {
            allow: rules(&["10.0.0.0/8", ".internal:8080", "[fd00::]/8:80", "db.example:5432"]),
            deny: rules(&["10.9.0.0/16", "secret.internal"]),
            ..Config::default()
        };
        for (host, ip, port, allowed) in [
            ("10.1.2.3", "10.1.2.3", 1, true),
            ("10.9.2.3", "10.9.2.3", 1, false),
            ("11.0.0.1", "11.0.0.1", 1, false),
            ("a.internal", "1.2.3.4", 8080, true),
            ("a.internal", "1.2.3.4", 8081, false),
            ("A.Internal", "1.2.3.4", 8080, true),
            ("xinternal", "1.2.3.4", 8080, false),
            ("db.example", "1.2.3.4", 5432, true),
            ("x.db.example", "1.2.3.4", 5432, true),
            ("evildb.example", "1.2.3.4", 5432, false),
            ("secret.internal", "1.2.3.4", 8080, false),
            ("::1", "fd00::1", 80, true),
            ("::1", "fd00::1", 81, false),
            ("x", "::ffff:10.1.2.3", 1, true),
        ] {
            assert_eq!(judge(&config, host, ip, port), allowed, "{host} {ip}:{port}");
        }
    }

    #[test]
    fn a_rule_that_cannot_be_read_is_refused() {
        for text in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "a b",
            "10.0.0.0/8:0",
            "x:99999",
            "::/129",
            "http://x",
            "::ffff:10.0.0.0/104",
            "64:ff9b::a00:0/104",
        ] {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
        for text in ["10.0.0.0/8", "::/0", "1.2.3.4/32:80", ".internal", "db.internal:5432"] {
            assert_eq!(text.parse::<Rule>().expect(text).to_string(), text);
        }
    }
}
