//! `POST /invoke`: a call as JSON.

use std::time::Instant;

use super::Api;
use crate::contract::answer::{Answer, ApiError};
use crate::contract::envelope;
use crate::contract::request::Request;
use crate::model::Call;

impl Api {
    /// Reads a call; an answer when it cannot be one.
    pub(super) fn call_of(&self, request: &Request) -> Result<Call, Answer> {
        envelope::call(request).map_err(|fault| ApiError::Bad(fault).into())
    }

    /// Makes a call that came in at `start`.
    pub(super) fn invoke(&self, call: &Call, start: Instant) -> Answer {
        match self.mesh.invoke_since(call, start) {
            Ok(reply) => reply.into(),
            Err(error) => ApiError::Call(Box::new(error)).into(),
        }
    }
}
