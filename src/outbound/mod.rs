//! Everything that touches the outer world on behalf of the mesh: calls and checks by ureq, whom they trust, host names, the health
//! checker's threads, names whose addresses are instances, copies of calls, spans, the access log, and
//! where the registry is kept: a directory or etcd.
//!
//! [`Mesh::builder`] is here because it is what joins a mesh to this world.

mod access_log;
#[cfg(feature = "tls")]
pub(crate) mod certificates;
pub mod connection;
mod discovery;
pub mod etcd;
#[cfg(any(feature = "tls", feature = "etcd"))]
mod files;
mod health_checker;
mod mirror;
#[cfg(feature = "otlp")]
mod otlp;
pub mod process;
mod resolver;
#[cfg(feature = "tls")]
mod securing;
pub mod store;
#[cfg_attr(not(feature = "tls"), path = "no_trust.rs")]
pub(crate) mod trust;
mod upstream;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use serde_json::Value;

pub use access_log::TARGET as ACCESS_LOG;
pub use resolver::SystemResolver;
pub use upstream::Ureq;

use trust::Trust;

use crate::mesh::ports::{InMemory, Resolver, Store, Transport};
use crate::mesh::{Discovery, Mesh, Parts, RegistryError, Settings};
use crate::model::time::{Clock, Dice, SystemClock, SystemDice};
use crate::model::{Invalid, ServiceName};
use crate::policy::upstreams;
use crate::telemetry::onlookers::{self, LogFormat};

impl Mesh {
    /// Begins a mesh that runs in this process. Without further settings it has the documented defaults, the real time, connections by
    /// ureq, and one thread that schedules health checks.
    pub fn builder() -> Builder {
        Builder {
            parts: Parts {
                clock: Arc::new(SystemClock),
                dice: Arc::new(SystemDice),
                transport: Arc::new(Ureq::default()),
                resolver: Arc::new(SystemResolver::default()),
                store: Arc::new(InMemory),
                settings: Settings::default(),
            },
            background: true,
        }
    }
}

/// A mesh to be. Every part of the outer world can be replaced, so that a whole mesh can run in one test, in virtual time.
#[must_use = "nothing happens before build()"]
pub struct Builder {
    parts: Parts,
    background: bool,
}

impl Builder {
    /// Settings of every service that names none of its own, as in the configuration file.
    pub fn defaults(mut self, policy: Value) -> Self {
        self.parts.settings.defaults = policy;
        self
    }

    /// Settings of one service.
    pub fn service(mut self, name: ServiceName, policy: Value) -> Self {
        self.parts.settings.services.insert(name, policy);
        self
    }

    /// Settings of single services.
    pub fn services(mut self, policies: BTreeMap<ServiceName, Value>) -> Self {
        self.parts.settings.services = policies;
        self
    }

    /// Which addresses instances may have, and how those are known that are spoken to over TLS.
    pub fn upstreams(mut self, upstreams: upstreams::Config) -> Self {
        self.parts.settings.upstreams = upstreams;
        self
    }

    /// How single calls are looked at.
    pub fn telemetry(mut self, telemetry: onlookers::Config) -> Self {
        self.parts.settings.telemetry = telemetry;
        self
    }

    /// Services whose instances are the addresses of a DNS name.
    pub fn discover(mut self, discover: Vec<Discovery>) -> Self {
        self.parts.settings.discover = discover;
        self
    }

    /// How many services, and how many instances of each, there may be.
    pub const fn limits(mut self, services: usize, instances_per_service: usize) -> Self {
        self.parts.settings.max_services = services;
        self.parts.settings.max_instances_per_service = instances_per_service;
        self
    }

    /// Replaces how attempts and checks are sent.
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.parts.transport = Arc::new(transport);
        self
    }

    /// Replaces how host names are resolved.
    pub fn resolver(mut self, resolver: impl Resolver) -> Self {
        self.parts.resolver = Arc::new(resolver);
        self
    }

    /// Replaces where changes are kept.
    pub fn store(mut self, store: impl Store) -> Self {
        self.parts.store = Arc::new(store);
        self
    }

    /// Replaces the clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.parts.clock = clock;
        self
    }

    /// Replaces the dice.
    pub fn dice(mut self, dice: impl Dice) -> Self {
        self.parts.dice = Arc::new(dice);
        self
    }

    /// Whether health is checked and names are looked up by background threads (it is unless switched off). Without them, [`Mesh::check_now`] and [`Mesh::look_up`] do it on demand, and the copies that routes
    /// mirror are dropped.
    pub const fn background(mut self, background: bool) -> Self {
        self.background = background;
        self
    }

    /// Builds the mesh. Its background thread ends when the last handle is dropped.
    ///
    /// # Errors
    /// [`BuildError`] when a setting is not acceptable or a thread cannot be started.
    pub fn build(self) -> Result<Mesh, BuildError> {
        let trust = Trust::read(&self.parts.settings.upstreams).map_err(BuildError::Invalid)?;
        let telemetry = self.parts.settings.telemetry.clone();
        telemetry.check_together().map_err(BuildError::Invalid)?;
        let mesh = Mesh::assemble(self.parts).map_err(|error| match error {
            RegistryError::Invalid(fault) => BuildError::Invalid(fault),
            other => BuildError::Store(other),
        })?;
        Trust::of(&mesh).change(trust);
        if self.background {
            health_checker::start(&mesh).map_err(BuildError::Thread)?;
            mirror::start(&mesh);
            // Once before anybody can call.
            mesh.look_up();
            discovery::start(&mesh);
            if telemetry.access_log != LogFormat::Off {
                access_log::start(&mesh, telemetry.access_log, telemetry.access_log_queue).map_err(BuildError::Thread)?;
            }
            #[cfg(feature = "otlp")]
            if telemetry.tracing && !telemetry.otlp.endpoint.is_empty() {
                otlp::start(&mesh, &telemetry.otlp).map_err(BuildError::Thread)?;
            }
            mesh.follow_store().map_err(BuildError::Thread)?;
        }
        Ok(mesh)
    }
}

/// Why a mesh could not be built.
#[derive(Debug)]
pub enum BuildError {
    /// A setting is not acceptable.
    Invalid(Invalid),
    /// What was kept cannot be read.
    Store(RegistryError),
    /// The system refused a thread.
    Thread(io::Error),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(fault) => fault.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::Thread(error) => write!(f, "cannot start a thread: {error}"),
        }
    }
}

impl std::error::Error for BuildError {}
