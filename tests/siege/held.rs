//! Connections that are held: by silence, by heads and bodies that trickle or stop, by answers that are hardly read, by bursts that come back.

use crate::arms::{bearer, of};
use crate::support::client::request;

/// What a connection is held for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Nothing is ever sent.
    Silent,
    /// A head comes a few bytes each second.
    SlowHead,
    /// A body does.
    SlowBody,
    /// One byte of a body has come, and no more will.
    OneByte,
    /// All of a large body has come but its last byte.
    Nearly,
    /// A large answer is read a few bytes each second.
    Reader,
    /// Comes together with others, asks once, and again a second later.
    Burst,
    /// Requests pour in, and no answer is read.
    Flood,
}

/// How many of a thousand connections are held for what; the others throw one thing after the other.
const SHARES: [(Role, usize); 8] = [
    (Role::Silent, 60),
    (Role::SlowHead, 60),
    (Role::SlowBody, 60),
    (Role::OneByte, 40),
    (Role::Nearly, 80),
    (Role::Reader, 48),
    (Role::Burst, 64),
    (Role::Flood, 15),
];

/// The roles of so many connections.
pub(crate) fn roles(connections: usize) -> Vec<Role> {
    SHARES.iter().flat_map(|(role, share)| vec![*role; (share * connections / 1000).max(1)]).collect()
}

/// The length of the body that never comes to its end.
pub(crate) const NEARLY: usize = 1_048_576;

impl Role {
    /// What is sent at once by the `n`th of this role.
    pub(crate) fn opening(self, n: usize) -> Vec<u8> {
        let target = ["/invoke", "/register", "/proxy/hit/x"][n % 3];
        let token = bearer("ci");
        let with_length = |length: &str, body: &[u8]| {
            let fields = [("authorization", &*token), ("content-length", length)];
            request("POST", target, &fields, body)
        };
        match self {
            Self::Silent | Self::Flood => Vec::new(),
            Self::SlowHead => format!("POST {target} HTTP/1.1\r\nHost: localhost\r\n").into_bytes(),
            // To an instance as it comes, as a body of unknown length.
            Self::SlowBody if n % 4 == 3 => {
                request("POST", "/proxy/hit/x", &[("authorization", &token), ("transfer-encoding", "chunked")], b"ffff\r\n{")
            }
            Self::SlowBody | Self::OneByte => with_length("2000", b"{"),
            Self::Nearly => {
                let target = ["/invoke", "/register"][n % 2];
                let length = NEARLY.to_string();
                request("POST", target, &[("authorization", &token), ("content-length", &length)], &vec![b' '; NEARLY - 1])
            }
            Self::Reader if n.is_multiple_of(2) => of("ci", "GET", "/proxy/hit/large", ""),
            Self::Reader => of("ci", "GET", ["/metrics", "/services", "/dashboard"][n / 2 % 3], "").repeat(20),
            Self::Burst => of("caller", "GET", "/proxy/hit/x", ""),
        }
    }

    /// What is sent each second after that.
    pub(crate) const fn drip(self) -> Option<&'static [u8]> {
        match self {
            Self::SlowHead => Some(b"X-A: b\r\n"),
            Self::SlowBody => Some(b" "),
            _ => None,
        }
    }

    /// Whether hardly anything is taken that is not read.
    pub(crate) const fn is_narrow(self) -> bool {
        matches!(self, Self::Reader | Self::Flood)
    }

    /// With what it may be ended.
    pub(crate) const fn may_hear(self, status: u16) -> bool {
        match self {
            Self::Burst => status == 200,
            Self::SlowHead | Self::SlowBody | Self::OneByte => status == 408,
            // When as much is in memory as may be.
            Self::Nearly => matches!(status, 408 | 503),
            Self::Silent | Self::Reader | Self::Flood => false,
        }
    }
}
