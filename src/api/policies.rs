//! Settings of single services, changed while the mesh runs.

use serde::Serialize;
use serde_json::Value;

use super::Api;
use crate::contract::answer::{Answer, ApiError, done};
use crate::contract::envelope;
use crate::contract::redact::redacted;
use crate::contract::request::Request;
use crate::contract::router::Scope;
use crate::model::ServiceName;
use crate::policy::Policy;

/// Settings that were accepted although they make no sense together.
#[derive(Serialize)]
struct Warned {
    #[serde(flatten)]
    policy: Policy,
    warnings: Vec<String>,
}

impl Api {
    pub(super) fn policy(&self, service: &str, request: &Request) -> Result<Answer, ApiError> {
        let policy = self.mesh.policy(&named(service)?);
        if request.grant.as_ref().is_none_or(|grant| grant.scopes.contains(Scope::Admin)) {
            return Ok(Answer::pretty(&policy));
        }
        // Who may only look need not see the secrets that checks and routes send.
        Ok(Answer::pretty(&redacted(serde_json::to_value(&policy).unwrap_or_default())))
    }

    pub(super) fn patch_policy(&self, service: &str, request: &Request) -> Result<Answer, ApiError> {
        let name = named(service)?;
        let patch = envelope::policy(&request.body)?;
        copied_to(&patch).try_for_each(|service| request.may_touch(service))?;
        self.mesh.patch_policy(&name, &patch)?;
        let policy = self.mesh.policy(&name);
        let warnings = policy.warnings();
        if warnings.is_empty() {
            return Ok(Answer::pretty(&policy));
        }
        Ok(Answer::pretty(&Warned { policy, warnings }))
    }

    pub(super) fn reset_policy(&self, service: &str, request: &Request) -> Result<Answer, ApiError> {
        self.mesh.reset_policy(&named(service)?)?;
        self.policy(service, request)
    }

    pub(super) fn set_breaker(&self, service: &str, request: &Request) -> Result<Answer, ApiError> {
        let order = envelope::breaker(&request.body)?;
        let name = named(service)?;
        self.mesh.order_breaker(&name, order).map_err(|_| ApiError::NoSuchService(service.to_owned()))?;
        Ok(done())
    }
}

/// The services that calls are copied to by what is put: whoever puts it has to do with them as well.
fn copied_to(patch: &Value) -> impl Iterator<Item = &str> {
    let routes = patch.get("routes").and_then(Value::as_array).into_iter().flatten();
    routes.filter_map(|route| route.get("mirror")?.get("service")?.as_str())
}

fn named(service: &str) -> Result<ServiceName, ApiError> {
    ServiceName::new(service).map_err(|_| ApiError::NoSuchService(service.to_owned()))
}
