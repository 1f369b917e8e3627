//! HTTP/1.1 as bytes (RFC 9112), strict and pure: heads and bodies of both directions, without a socket, a clock or a lock.
//!
//! What two readers might understand differently is refused, not repaired: bare line feeds, folded lines, a length said twice or beside a
//! transfer coding, blanks where none belong. So whatever passes here means the same to whoever reads it next, and no request can hide
//! inside another.

mod body;
mod head;
mod request;
mod response;

pub use body::{Body, Framing, Piece};
pub use head::{Head, Span};
pub use request::RequestHead;
pub use response::ResponseHead;

use crate::contract::answer::ApiError;

/// What is wrong with a message; the sentence is for a person.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It is not acceptable HTTP/1.1.
    Malformed(&'static str),
    /// Its head is larger, or has more fields, than allowed.
    HeadTooLarge,
    /// Its target is longer than allowed.
    TargetTooLong,
    /// It speaks another version of HTTP.
    Version,
}

impl From<Fault> for ApiError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Malformed(why) => Self::Malformed(why),
            Fault::HeadTooLarge => Self::HeadTooLarge,
            Fault::TargetTooLong => Self::TargetTooLong,
            Fault::Version => Self::Version,
        }
    }
}

/// How large a head may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The whole head, in bytes.
    pub head: usize,
    /// The target of a request, in bytes.
    pub target: usize,
}

/// How many fields a head may have.
pub const MAX_FIELDS: usize = 100;
