//! What a driver tells the call machine of a call; the request itself stays with the driver.

use std::time::Duration;

use crate::model::time::Chances;
use crate::model::{Call, Caller, Fields, Method, RequestId, ServiceName};
use crate::policy::Policy;
use crate::policy::hash::hash;
use crate::policy::route::{Decision, Seen};
use crate::telemetry::context::Context;

/// How a driver hands the answer on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Whole, so that a broken answer can still be retried or refused. A failing status is an error.
    Collect,
    /// As it comes. The last answer is passed on whatever its status.
    Stream,
}

/// What the machine needs to know of a call; the request itself is its driver's.
#[derive(Clone)]
pub struct CallMeta<'a> {
    /// The service to call.
    pub service: &'a ServiceName,
    /// The method, for the sentence about a retry that was left out.
    pub method: Method,
    /// Repeating the request is harmless.
    pub idempotent: bool,
    /// As [`Call::timeout`].
    pub timeout: Option<Duration>,
    /// As [`Call::max_retries`].
    pub max_retries: Option<u32>,
    /// As [`Call::hops`].
    pub hops: u32,
    /// As [`Call::is_retry`].
    pub is_retry: bool,
    /// The id of the call.
    pub request_id: RequestId,
    /// How its answer is handed on.
    pub mode: Mode,
    /// As [`Call::hash_key`].
    pub hash_key: Option<&'a str>,
    /// Path and query.
    pub endpoint: &'a str,
    /// It is a copy that a route made; it is marked, and not copied again.
    pub is_mirror: bool,
    /// The trace it belongs to, where traces are made; the mesh fills it in.
    pub trace: Option<Context>,
    /// The header fields of the request.
    pub headers: &'a dyn Fields,
    /// As [`Call::caller`].
    pub caller: &'a Caller,
}

impl<'a> CallMeta<'a> {
    /// Of a call whose answer is collected.
    pub fn of(call: &'a Call, request_id: RequestId) -> Self {
        Self {
            service: &call.service,
            method: call.method,
            idempotent: call.is_idempotent(),
            timeout: call.timeout,
            max_retries: call.max_retries,
            hops: call.hops,
            is_retry: call.is_retry,
            request_id,
            mode: Mode::Collect,
            hash_key: call.hash_key.as_deref(),
            endpoint: call.endpoint.as_str(),
            is_mirror: false,
            trace: None,
            headers: &call.headers,
            caller: &call.caller,
        }
    }

    /// The hash of what a call goes by where the same should go to the same.
    pub(super) fn key(&self, policy: &Policy) -> Option<u64> {
        let header = || policy.load_balancing.hash_header.as_ref().and_then(|name| self.headers.first(name));
        self.hash_key.or_else(header).map(|key| hash(key.as_bytes()))
    }

    /// The hash by which its caller is told apart, where that matters.
    pub(super) fn caller_key(&self, policy: &Policy) -> u64 {
        if policy.rate_limit.is_per_caller() { self.caller.told_apart_by(hash) } else { 0 }
    }

    /// What the routes decide about it.
    pub(super) fn decide(&self, policy: &Policy, key: Option<u64>, chances: &mut Chances) -> Decision {
        let seen = Seen { method: self.method, endpoint: self.endpoint, headers: self.headers, key };
        let mut decision = policy.routes.decide(&seen, chances);
        if self.is_mirror {
            decision.mirror = None;
        }
        decision
    }
}
