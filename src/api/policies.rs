//! Settings of single services, changed while the mesh runs.

use super::Api;
use crate::contract::answer::{Answer, ApiError};
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
}

fn named(service: &str) -> Result<ServiceName, ApiError> {
    ServiceName::new(service).map_err(|_| ApiError::NoSuchService(service.to_owned()))
}
