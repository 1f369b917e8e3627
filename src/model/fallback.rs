//! An answer that is known beforehand.

use super::Headers;

/// What a caller gets instead of a failure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StaticAnswer {
    /// The status.
    pub status: u16,
    /// Header fields, without framing.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
}
