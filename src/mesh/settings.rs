//! Settings of the mesh and of its services, changed while it runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::{Discovery, Mesh, RegistryError};
use crate::model::{Invalid, Limit, ServiceName};
use crate::policy::{self, Policy, upstreams};
use crate::telemetry::events::Kind;
use crate::telemetry::onlookers;

/// The longest patch of one service's settings that is kept, in bytes: it is read anew with every change, and gone through with calls.
const MOST_PUT: usize = 64 * 1024;

/// What of the configuration concerns the mesh itself.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Settings of every service that names none of its own, as JSON with every key optional.
    pub defaults: Value,
    /// Settings of single services.
    pub services: BTreeMap<ServiceName, Value>,
    /// Which addresses instances may have.
    pub upstreams: upstreams::Config,
    /// How single calls are looked at.
    pub telemetry: onlookers::Config,
    /// Services that are found by a DNS name.
    pub discover: Vec<Discovery>,
    /// How many services there may be.
    pub max_services: usize,
    /// How many instances a service may have.
    pub max_instances_per_service: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            defaults: Value::Null,
            services: BTreeMap::new(),
            upstreams: upstreams::Config::default(),
            telemetry: onlookers::Config::default(),
            discover: Vec::new(),
            max_services: 1000,
            max_instances_per_service: 1000,
        }
    }
}

impl Mesh {
    /// The settings in force for a service, registered or not.
    pub fn policy(&self, service: &ServiceName) -> Policy {
        // Layers were checked when they were set; the defaults stand in for what cannot happen.
        self.inner.registry.layers().policy(service).unwrap_or_default()
    }

    /// Merges `patch` (RFC 7396) into the settings of a service. Checked as a whole and applied at once to calls that begin from now on.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`] naming the bad key, or the store's refusal; nothing was changed.
    pub fn patch_policy(&self, service: &ServiceName, patch: &Value) -> Result<(), RegistryError> {
        let (registry, layers) = (&self.inner.registry, self.inner.registry.layers());
        // Whoever fills the places of services that are not there takes none from those that are.
        let most = registry.max_services().saturating_mul(if registry.find(service.as_str()).is_some() { 2 } else { 1 });
        if !layers.put.contains_key(service) && layers.put.len() >= most {
            return Err(RegistryError::Full(Limit::Services));
        }
        self.change_policy(service, |before| {
            let mut patched = before.cloned().unwrap_or(Value::Null);
            policy::merge(&mut patched, patch);
            let length = patched.to_string().len();
            if length > MOST_PUT {
                let why = format!("comes to {length} bytes with what was put before; use at most {MOST_PUT}");
                return Err(Invalid::new("policy", why).into());
            }
            Ok(Some(patched))
        })?;
        self.inner.events.publish(Kind::Policy, Some(service), None, "policy changed".to_owned());
        self.warn(Some(service), &self.policy(service));
        Ok(())
    }

    /// Takes back what [`Mesh::patch_policy`] set; the configuration applies again.
    ///
    /// # Errors
    /// The store's refusal.
    pub fn reset_policy(&self, service: &ServiceName) -> Result<(), RegistryError> {
        if self.inner.registry.layers().put.contains_key(service) {
            self.change_policy(service, |_| Ok(None))?;
            self.inner.events.publish(Kind::Policy, Some(service), None, "policy is the configured one again".to_owned());
        }
        Ok(())
    }

    /// Takes over a new configuration; what was set through [`Mesh::patch_policy`] stays on top.
    ///
    /// # Errors
    /// [`Invalid`]; nothing was changed.
    pub fn reconfigure(&self, settings: Settings) -> Result<(), Invalid> {
        self.inner.registry.change_layers(|layers| {
            layers.defaults = Arc::new(settings.defaults);
            layers.configured = Arc::new(settings.services);
        })?;
        self.inner.upstreams.update(|current| *current = Arc::new(settings.upstreams));
        self.judge_again();
        self.discover(settings.discover);
        self.inner.events.publish(Kind::Config, None, None, "configuration reloaded".to_owned());
        self.warn_of_configuration();
        Ok(())
    }

    /// Says what in the configuration is allowed and makes no sense.
    pub(super) fn warn_of_configuration(&self) {
        let layers = self.inner.registry.layers();
        self.warn(None, &layers.policy_of_nobody().unwrap_or_default());
        for service in layers.configured.keys() {
            self.warn(Some(service), &self.policy(service));
        }
    }

    fn warn(&self, service: Option<&ServiceName>, policy: &Policy) {
        for warning in policy.warnings() {
            self.inner.events.publish(Kind::Warning, service, None, warning);
        }
    }
}
