//! `POST /invoke` on the workers: a call as JSON, made in this thread.

use super::Api;
use crate::contract::answer::{Answer, ApiError};
use crate::contract::envelope;
use crate::contract::request::Request;

impl Api {
    /// Reads a call and makes it. The wait for a worker counts towards its deadline.
    pub(super) fn invoke(&self, request: &Request) -> Answer {
        let call = match envelope::call(request) {
            Ok(call) => call,
            Err(fault) => return ApiError::Bad(fault).into(),
        };
        // While it waited for a worker, its token may have come to be for other services.
        if let Err(why) = request.may_touch(call.service.as_str()) {
            return ApiError::Denied(why).into();
        }
        let now = self.mesh.inner.clock.now();
        match self.mesh.invoke_since(&call, now.checked_sub(request.waited).unwrap_or(now)) {
            Ok(mut reply) => {
                // What a page may see of an answer of the API, the edge says.
                if request.headers.first("origin").is_some_and(|origin| self.welcome.allows(origin)) {
                    reply.headers.remove_where(|name| name.get(..15).is_some_and(|begin| begin.eq_ignore_ascii_case("access-control-")));
                }
                reply.into()
            }
            Err(error) => ApiError::Call(Box::new(error)).into(),
        }
    }
}
