//! What the mesh needs of the outer world, each replaceable: how attempts are sent, how names are resolved, where changes are kept.

use std::fmt;
use std::io::{self, Read};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::call::Attempt;
use super::member::Member;
use crate::model::{AdminState, Call, Failure, Headers, HealthTarget, Host, InstanceId, Registration, ServiceName, Weight};
use crate::policy::health::{self, CheckResult};

/// Sends attempts and checks, blocking.
pub trait Transport: Send + Sync + 'static {
    /// Sends one attempt and waits for the head of its answer, within the attempt's times.
    ///
    /// # Errors
    /// [`Failure`], saying in which phase it failed.
    fn send(&self, attempt: &Attempt, request: &Outgoing<'_>) -> Result<Incoming, Failure>;

    /// Asks an instance for its health, on a connection of its own, within `config.timeoutMs`.
    fn probe(&self, probe: &Probe) -> CheckResult;
}

/// A request as an instance gets it.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// The call it belongs to.
    pub call: &'a Call,
    /// All header fields, those of the mesh included; no `Host` and no framing.
    pub headers: Headers,
}

/// An answer whose head has come.
pub struct Incoming {
    /// Its status.
    pub status: u16,
    /// Its header fields, as they came.
    pub headers: Headers,
    /// Its body. An error of reading it that holds a [`Failure`] says what went wrong.
    pub body: Box<dyn Read + Send>,
}

/// Reads a whole body, at most `limit` bytes, into a buffer with room for `expected`.
pub(super) fn collect(body: Box<dyn Read + Send>, expected: usize, limit: usize) -> Result<Vec<u8>, Failure> {
    // A byte more, so that the end is found without growing.
    let mut bytes = Vec::with_capacity(expected + 1);
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    body.take(most).read_to_end(&mut bytes).map_err(failure_of)?;
    if bytes.len() > limit {
        return Err(Failure::Protocol(format!("the body is longer than {limit} bytes").into()));
    }
    Ok(bytes)
}

/// The failure inside an I/O error, or the one its kind suggests.
fn failure_of(error: io::Error) -> Failure {
    let kind = error.kind();
    let known = error.into_inner().and_then(|inner| inner.downcast::<Failure>().ok());
    known.map_or_else(
        || match kind {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Failure::Timeout,
            io::ErrorKind::InvalidData => Failure::Protocol("malformed body".into()),
            _ => Failure::Reset,
        },
        |failure| *failure,
    )
}

impl std::error::Error for Failure {}

/// One active health check.
pub struct Probe {
    /// Whom it is about.
    pub member: Arc<Member>,
    /// What to ask.
    pub target: HealthTarget,
    /// The judged addresses of the target.
    pub addresses: Vec<IpAddr>,
    /// How.
    pub config: health::Config,
}

/// Resolves host names.
pub trait Resolver: Send + Sync + 'static {
    /// The addresses of `host`, waiting at most `patience`; none when it does not resolve (in time).
    fn resolve(&self, host: &Host, patience: Duration) -> Vec<IpAddr>;
}

/// Keeps changes. A change is acknowledged only after the store has it.
pub trait Store: Send + Sync + 'static {
    /// Keeps a change.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be kept; nothing was changed.
    fn commit(&self, change: &Change<'_>) -> Result<(), StoreError>;
}

/// A change of the registry.
#[derive(Debug)]
#[allow(missing_docs)] // The fields are what the variants say.
pub enum Change<'a> {
    /// An instance was registered.
    Register(&'a Registration),
    /// An instance was removed.
    Remove { service: &'a ServiceName, id: &'a InstanceId },
    /// An operator set an instance's state.
    State { service: &'a ServiceName, id: &'a InstanceId, state: AdminState, reason: Option<&'a str> },
    /// An operator set an instance's weight.
    Weight { service: &'a ServiceName, id: &'a InstanceId, weight: Weight },
    /// A service's policy was changed (or, with `None`, taken back).
    Policy { service: &'a ServiceName, patch: Option<&'a Value> },
}

/// Why a change could not be kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreError(pub String);

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StoreError {}

/// Keeps nothing: changes live as long as the process.
#[derive(Clone, Copy, Default, Debug)]
pub struct InMemory;

impl Store for InMemory {
    fn commit(&self, _: &Change<'_>) -> Result<(), StoreError> {
        Ok(())
    }
}
