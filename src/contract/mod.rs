//! What both doors promise, written down once: which paths there are and who may use them, how a request is read, how a result is said.

#[cfg(feature = "server")]
pub mod access;
pub mod answer;
#[cfg(feature = "server")]
pub mod browser;
pub mod caller;
pub mod envelope;
mod fields;
pub mod handover;
pub mod negotiation;
pub mod paths;
#[cfg(feature = "server")]
pub mod redact;
pub mod request;
pub mod router;
#[cfg(feature = "server")]
pub mod threats;
#[cfg(feature = "server")]
pub mod tokens;
#[cfg(feature = "server")]
pub mod wire;
