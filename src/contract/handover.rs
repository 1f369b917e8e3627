//! What the edge tells the API server about a request beside the request itself, and which of its fields it passes on.
//!
//! tiny_http closes a connection on values that are not ASCII and on fields that it takes for its own, so only what the API reads goes through.

/// The id of the request.
pub const ID: &str = "x-weft-id";
/// The address of the client.
pub const PEER: &str = "x-weft-peer";
/// The proven name of the caller.
pub const CALLER: &str = "x-weft-caller";
/// For how many microseconds the request has waited for a worker.
pub const WAITED_US: &str = "x-weft-waited-us";

/// Fields that handlers read.
const READ: [&str; 8] =
    ["accept", "content-type", "idempotency-key", "origin", "x-mesh-attempt", "x-mesh-hops", "x-request-timeout-ms", "if-none-match"];

/// Whether a field of a client's request is passed on to the API server. `Host` and framing are written anew.
pub fn is_passed_on(name: &[u8], value: &[u8]) -> bool {
    let read = READ.iter().chain(&crate::model::TRACE_CONTEXT).any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
    read && value.iter().all(|b| (b' '..=b'~').contains(b) || *b == b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_api_reads_goes_through_and_only_as_plain_text() {
        assert!(is_passed_on(b"Accept", b"application/json") && is_passed_on(b"traceparent", b"00-1-2-01"));
        for name in [
            "x-weft-id",
            "x-weft-peer",
            "x-weft-caller",
            "authorization",
            "dapr-api-token",
            "connection",
            "expect",
            "transfer-encoding",
            "content-length",
            "host",
            "cookie",
        ] {
            assert!(!is_passed_on(name.as_bytes(), b"x"), "{name}");
        }
        assert!(!is_passed_on(b"accept", "caf\u{e9}".as_bytes()));
    }
}
