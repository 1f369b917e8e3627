//! Copies of calls for other services, handed to whoever sends them without anybody waiting.

use super::Mesh;
use super::call::CallMeta;
use crate::model::{Call, ServiceName};

/// Takes a copy to be sent; answers whether there was room for it.
pub(super) type Mirrors = Box<dyn Fn(Call) -> bool + Send + Sync>;

impl Mesh {
    /// Hands over a copy of a call of `from`, which [`Attempt::mirrored`](super::call::Attempt::mirrored) has made: `None` when the driver
    /// could not make one. Never blocks; what cannot be taken is dropped and counted.
    pub fn mirror(&self, from: &ServiceName, copy: Option<Call>) {
        let taken = copy.zip(self.inner.mirrors.get()).is_some_and(|(copy, take)| take(copy));
        if let Some(cluster) = self.inner.registry.find(from.as_str()) {
            if taken { &cluster.counters.mirrored } else { &cluster.counters.mirrors_dropped }.add(1);
        }
    }

    /// Copies go to `take` from now on.
    pub(crate) fn on_mirror(&self, take: impl Fn(Call) -> bool + Send + Sync + 'static) {
        // There is one sender of copies; a second one would be a mistake of this crate's.
        let _ = self.inner.mirrors.set(Box::new(take));
    }

    /// Makes the call that a copy is. Nobody is interested in the answer; it is counted like every call.
    pub(crate) fn send_copy(&self, copy: &Call) {
        let request_id = self.id_of(copy);
        let meta = CallMeta { is_mirror: true, ..CallMeta::of(copy, request_id) };
        drop(self.drive(copy, meta, self.inner.clock.now()));
    }
}
