//! Pure decisions, one file per concept, each with its settings: whether to let a call in, where to send it, whether to try again.
//!
//! Nothing here reads a clock, rolls dice, takes a lock, logs or does I/O: `now` and `roll` are arguments, and a decision is a value that
//! the caller acts on. That is why each policy can be tested as a table.
//!
//! What each event means (the one function is [`classify::classify`], and a test walks this table):
//!
//! | event | circuit breaker | ejection | retry | reason when it is the last |
//! |---|---|---|---|---|
//! | 2xx, 3xx, 4xx (429 apart) | success | success | no | delivered as it is |
//! | 429 | excluded | excluded | any method | delivered as it is |
//! | 501, 505 | success | success | no | delivered as it is |
//! | 500, 502, 504 | failure | failure | idempotent only | `upstream_status` |
//! | 503 | failure | failure | any method | `upstream_status` |
//! | 503 of another mesh (`x-mesh-reason`) without `x-mesh-not-sent: true` | failure | failure | idempotent only | `upstream_status` |
//! | any other 5xx | failure | failure | no | `upstream_status` |
//! | no connection | failure | failure | any method, at once if an untried instance is available | `upstream_connect` |
//! | no descriptor left to connect with | excluded | excluded | any method | `overloaded` |
//! | connection broken | failure | failure | idempotent only | `upstream_reset` |
//! | attempt timed out | failure | failure | idempotent only | `upstream_timeout` |
//! | attempt cut short by the caller's own limit | excluded | excluded | no time left | `deadline_exceeded` |
//! | kept-alive connection was closed, request not fully written | excluded | excluded | any method, at once, once | `upstream_reset` |
//! | kept-alive connection was closed, request written | excluded | excluded | idempotent only, at once, once | `upstream_reset` |
//! | not HTTP | failure | failure | no | `upstream_protocol` |
//! | body longer than is collected | excluded | excluded | no | `upstream_protocol` |
//!
//! What is refused or failed before an attempt (a rule about callers, a limit, a rate, an open circuit, an injected fault) is excluded everywhere and not retried.

pub mod allow;
pub mod balance;
pub mod breaker;
pub mod classify;
pub mod hash;
pub mod health;
pub mod limit;
pub mod outlier;
pub mod rate;
pub mod retry;
pub mod route;
pub mod timeout;
pub mod upstreams;
mod warnings;
pub mod window;

use serde_json::Value;

use crate::model::Invalid;
use crate::model::settings::{Setting, settings};

settings! {
    /// All settings of one service.
    pub struct Policy {
        /// How an instance is chosen.
        load_balancing: balance::Config = balance::Config::default();
        /// When calls to the whole service are broken off.
        circuit_breaker: breaker::Config = breaker::Config::default();
        /// When one instance is left out because its attempts fail.
        outlier: outlier::Config = outlier::Config::default();
        /// When a failed attempt is repeated.
        retry: retry::Config = retry::Config::default();
        /// How long things may take.
        timeouts: timeout::Config = timeout::Config::default();
        /// How the health of instances is asked.
        health_check: health::Config = health::Config::default();
        /// How much may run and wait at once.
        limits: limit::Config = limit::Config::default();
        /// How often it may be called.
        rate_limit: rate::Config = rate::Config::default();
        /// Which callers may call what: rules, the first that covers a call decides, and what none covers is refused; without rules, everybody
        /// may call everything. A rule: {"callers": ["web", "pay-*"], "methods": ["GET"], "pathPrefixes": ["/api"], "action": "allow|deny|audit"}.
        allow: allow::Rules = allow::Rules::default();
        /// What is special about some calls: the first route whose "match" covers a call decides. A route and all it may have:
        routes: route::Table = route::Table::default();
    }
}

impl Policy {
    /// Reads a policy from JSON in which every key is optional, and checks it as a whole.
    ///
    /// # Errors
    /// [`Invalid`] naming the first key that is unknown, has the wrong type, or is out of range.
    pub fn from_json(json: &Value) -> Result<Self, Invalid> {
        let mut policy: Self = crate::policy::read(json, &Self::default())?;
        let mut faults = Vec::new();
        policy.check("", &mut faults);
        policy.timeouts.check_order(&mut faults);
        policy.allow.check_rules(&mut faults);
        policy.health_check.check_request(&mut faults);
        if let Err(fault) = policy.routes.build(&policy.timeouts, &policy.retry) {
            faults.push(fault);
        }
        match faults.into_iter().next() {
            None => Ok(policy),
            Some(fault) => Err(fault),
        }
    }
}

mod json;
pub use json::{merge, read};
