//! Instances: registering, renewing, removing, and what operators want of them.

use serde::Serialize;

use super::Api;
use crate::contract::answer::{Answer, ApiError, done};
use crate::contract::envelope;
use crate::contract::request::Request;
use crate::mesh::RegistryError;
use crate::model::{InstanceId, ServiceName};

/// The documented answer to a registration.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Registered<'a> {
    success: bool,
    service_id: &'a str,
}

impl Api {
    pub(super) fn register(&self, request: &Request) -> Result<Answer, ApiError> {
        let mut registration = envelope::registration(&request.body)?;
        request.may_touch(registration.service.as_str())?;
        let id = registration.id.clone();
        let grant = request.grant.as_ref();
        registration.owner = grant.map(|grant| std::sync::Arc::clone(&grant.identity.name));
        self.mesh.register_within(registration, grant.and_then(|grant| grant.max_instances))?;
        Ok(Answer::json(&Registered { success: true, service_id: id.as_str() }))
    }

    pub(super) fn deregister(&self, request: &Request) -> Result<Answer, ApiError> {
        let (service, id) = envelope::instance(&request.body)?;
        request.may_touch(service.as_str())?;
        self.mesh.deregister(&service, &id)?;
        Ok(done())
    }

    pub(super) fn deregister_by_path(&self, service: &str, id: &str) -> Result<Answer, ApiError> {
        let (service, id) = named(service, id)?;
        self.mesh.deregister(&service, &id)?;
        Ok(done())
    }

    pub(super) fn heartbeat(&self, service: &str, id: &str) -> Result<Answer, ApiError> {
        let (service, id) = named(service, id)?;
        self.mesh.heartbeat(&service, &id)?;
        Ok(done())
    }

    pub(super) fn set_state(&self, service: &str, id: &str, request: &Request) -> Result<Answer, ApiError> {
        let (service, id) = named(service, id)?;
        let (state, reason) = envelope::state(&request.body)?;
        self.mesh.set_state(&service, &id, state, reason.as_deref())?;
        Ok(done())
    }

    pub(super) fn set_weight(&self, service: &str, id: &str, request: &Request) -> Result<Answer, ApiError> {
        let (service, id) = named(service, id)?;
        self.mesh.set_weight(&service, &id, envelope::weight(&request.body)?)?;
        Ok(done())
    }
}

/// An instance named in a path; one that cannot be a name is not registered.
fn named(service: &str, id: &str) -> Result<(ServiceName, InstanceId), ApiError> {
    let not_found = |_| ApiError::Registry(RegistryError::NotFound);
    Ok((ServiceName::new(service).map_err(not_found)?, InstanceId::new(id).map_err(not_found)?))
}
