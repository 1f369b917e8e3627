//! Settings of single services, changed while the mesh runs.

use super::Api;
use crate::contract::answer::{Answer, ApiError, done};
use crate::contract::envelope;
use crate::contract::request::Request;
use crate::model::ServiceName;

impl Api {
    pub(super) fn policy(&self, service: &str) -> Result<Answer, ApiError> {
        Ok(Answer::pretty(&self.mesh.policy(&named(service)?)))
    }

    pub(super) fn patch_policy(&self, service: &str, request: &Request) -> Result<Answer, ApiError> {
        let name = named(service)?;
        self.mesh.patch_policy(&name, &envelope::policy(&request.body)?)?;
        self.policy(service)
    }

    pub(super) fn reset_policy(&self, service: &str) -> Result<Answer, ApiError> {
        self.mesh.reset_policy(&named(service)?)?;
        self.policy(service)
    }

    pub(super) fn set_breaker(&self, service: &str, request: &Request) -> Result<Answer, ApiError> {
        let order = envelope::breaker(&request.body)?;
        let name = named(service)?;
        self.mesh.order_breaker(&name, order).map_err(|_| ApiError::NoSuchService(service.to_owned()))?;
        Ok(done())
    }
}

fn named(service: &str) -> Result<ServiceName, ApiError> {
    ServiceName::new(service).map_err(|_| ApiError::NoSuchService(service.to_owned()))
}
