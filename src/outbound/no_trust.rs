//! What stands for the trust in `https` instances in a build without TLS: nothing, and a word to whoever asks for more.

use std::any::Any;
use std::sync::Arc;

use crate::mesh::Mesh;
use crate::model::Invalid;
use crate::policy::upstreams;

/// As in a build with TLS.
#[derive(Clone, Default, Debug)]
pub(crate) struct Trust;

/// As in a build with TLS.
pub(crate) struct Read;

impl Trust {
    pub(crate) const fn of(_: &Mesh) -> Self {
        Self
    }

    pub(crate) fn shared(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::new(())
    }

    pub(crate) fn read(config: &upstreams::Config) -> Result<Read, Invalid> {
        let set = [("caFile", &config.ca_file), ("certFile", &config.cert_file), ("keyFile", &config.key_file)];
        match set.into_iter().find(|(_, path)| !path.is_empty()) {
            Some((name, _)) => Err(Invalid::new(format!("upstreams.{name}"), "cannot be used: this build has no TLS")),
            None => Ok(Read),
        }
    }

    #[allow(clippy::needless_pass_by_value)] // As in a build with TLS.
    pub(crate) const fn change(&self, _: Read) {}
}
