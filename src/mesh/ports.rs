//! What the mesh needs of the outer world, each replaceable: how attempts are sent, how names are resolved, where changes are kept.

use std::any::Any;
use std::fmt;
use std::io::{self, Read};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Mesh;
use super::call::{Attempt, Connection};
use super::member::Member;
use super::record::{Document, Key, Node, Version};
use crate::model::{Call, Failure, Headers, HealthTarget, Host};
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

    /// What it secures connections with, for another driver to use as well; each knows its own kind.
    fn trust(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
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
    /// What is known of the connection it came on.
    pub connection: Connection,
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
        return Err(Failure::TooLong(limit));
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

    /// Whether `ip` is an address of this machine, so that whoever listens on all of them listens there.
    fn is_local(&self, ip: IpAddr) -> bool {
        ip.is_loopback()
    }
}

/// Keeps the registry. A change is acknowledged only after the store has it, and made in memory only then.
///
/// The mesh never changes two things about the same key at once, so a store sees the changes of one key in the order in which they are made.
pub trait Store: Send + Sync + 'static {
    /// Everything that is kept, instances in the order of their first registration. Asked once, before the first change.
    ///
    /// # Errors
    /// [`StoreError`] when there is no telling what is kept.
    fn load(&self) -> Result<Vec<(Document, Version)>, StoreError>;

    /// Keeps a document in place of the one with the same key that has version `seen`, and answers its version.
    ///
    /// # Errors
    /// [`Refused`]; nothing was changed.
    fn put(&self, document: &Document, seen: Version) -> Result<Version, Refused>;

    /// No longer keeps what is kept under `key`, if anything is; answers the version of its end, where there are versions.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was changed.
    fn delete(&self, key: &Key) -> Result<Version, StoreError>;

    /// As [`Store::delete`], some time, for what would be forgotten anyway: without waiting and without a promise.
    fn forget(&self, key: &Key);

    /// Whether others change it too. It then ends leases itself and is told of heartbeats, and all that it keeps has a version above 0.
    fn is_shared(&self) -> bool {
        false
    }

    /// Renews the lease of an instance that has promised a heartbeat every `ttl`; answers whether it was still there.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be asked.
    fn renew(&self, _key: &Key, _ttl: Duration) -> Result<bool, StoreError> {
        Ok(true)
    }

    /// Called once, after everything that is kept has been loaded: a store that others change too tells the mesh from now on, on a thread
    /// of its own, until the mesh is gone.
    ///
    /// # Errors
    /// The system refused a thread.
    fn follow(&self, _mesh: &Mesh) -> io::Result<()> {
        Ok(())
    }

    /// How it is with the store right now.
    fn standing(&self) -> Standing {
        Standing::default()
    }

    /// The mesh listens there, for whoever wants to know.
    fn announce(&self, _addresses: Vec<String>) {}

    /// The mesh is about to end.
    fn leave(&self) {}
}

/// How it is with a store, for people.
#[derive(Clone, PartialEq, Debug)]
pub struct Standing {
    /// What it is, in a word.
    pub backend: &'static str,
    /// Since when, and why, what is known of a shared store may be out of date.
    pub stale: Option<(Duration, String)>,
    /// Instances that a shared store does not name any more, and that are kept because too many would have gone at once.
    pub withheld: usize,
    /// How often everything was read anew.
    pub resyncs: u64,
    /// Changes that were refused because the store could not be reached.
    pub refused: u64,
    /// Files that were found damaged and set aside.
    pub damaged_files: u64,
    /// The meshes that share the store.
    pub nodes: Vec<Node>,
}

impl Default for Standing {
    fn default() -> Self {
        Self { backend: "memory", stale: None, withheld: 0, resyncs: 0, refused: 0, damaged_files: 0, nodes: Vec::new() }
    }
}

/// Why a document was not kept.
#[derive(Clone, PartialEq, Debug)]
pub enum Refused {
    /// Somebody else has changed it meanwhile; this is how it is now, if it is still there.
    Conflict(Option<(Document, Version)>),
    /// It cannot be kept.
    Unavailable(StoreError),
}

impl From<StoreError> for Refused {
    fn from(why: StoreError) -> Self {
        Self::Unavailable(why)
    }
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
    fn load(&self) -> Result<Vec<(Document, Version)>, StoreError> {
        Ok(Vec::new())
    }

    fn put(&self, _: &Document, _: Version) -> Result<Version, Refused> {
        Ok(Version::default())
    }

    fn delete(&self, _: &Key) -> Result<Version, StoreError> {
        Ok(Version::default())
    }

    fn forget(&self, _: &Key) {}
}
