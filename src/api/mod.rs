//! The API server: tiny_http, a fixed pool of workers, and a handler for each row of the router's table.

mod calls;
mod crew;
mod desk;
mod exchange;
mod instances;
mod listen;
mod observe;
mod policies;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;

pub use listen::{Address, StartError};
pub use server::{Config, Server};

use crate::contract::answer::{Answer, ApiError};
use crate::contract::browser;
use crate::contract::request::Request;
use crate::contract::router::{self, Found, Handler, Route};
use crate::mesh::Mesh;
use crate::model::sync::Published;

/// What handlers share.
pub(crate) struct Api {
    mesh: Mesh,
    /// Whether `/ready` says so.
    ready: AtomicBool,
    /// The door listens on loopback only.
    loopback: bool,
    /// Long polls under way, and how many there may be.
    watchers: AtomicUsize,
    max_watchers: usize,
    /// Guarded: the effective configuration, for `/config`.
    effective: Published<Arc<Value>>,
}

/// What a request comes to before it is handled.
enum Routed<'r> {
    /// A call, which needs a seat at the desk.
    Call,
    /// Anything else.
    Here(&'static Route, Vec<&'r str>),
    /// Nothing: this is the answer.
    Refused(Answer),
}

impl Api {
    /// Finds what handles a request, and judges whether it may.
    fn route<'r>(&self, request: &'r Request) -> Routed<'r> {
        match router::find(&request.method, request.path()) {
            Found::Route(route, captured) => {
                let changes = !matches!(route.method, "GET");
                match browser::judge(request, self.loopback) {
                    Err(why) if changes => Routed::Refused(ApiError::Forbidden(why).into()),
                    _ if route.handler == Handler::Invoke => Routed::Call,
                    _ => Routed::Here(route, captured),
                }
            }
            Found::WrongMethod(allowed) => Routed::Refused(ApiError::WrongMethod(allowed).into()),
            Found::Nothing => Routed::Refused(not_found(request)),
        }
    }

    /// Handles a request that makes no call.
    fn handle(&self, route: &Route, captured: &[&str], request: &Request) -> Answer {
        let first = captured.first().copied().unwrap_or_default();
        let second = captured.get(1).copied().unwrap_or_default();
        let result = match route.handler {
            Handler::Register => self.register(request),
            Handler::Deregister => self.deregister(request),
            Handler::DeregisterByPath => self.deregister_by_path(first, second),
            Handler::Heartbeat => self.heartbeat(first, second),
            Handler::SetState => self.set_state(first, second, request),
            Handler::SetWeight => self.set_weight(first, second, request),
            Handler::Metrics => Ok(self.metrics()),
            Handler::Services => self.services(request),
            Handler::Service => self.service(first, request),
            Handler::Explain => self.explain(first),
            Handler::Policy => self.policy(first),
            Handler::PatchPolicy => self.patch_policy(first, request),
            Handler::ResetPolicy => self.reset_policy(first),
            Handler::SetBreaker => self.set_breaker(first, request),
            Handler::Events => self.events(request),
            Handler::Config => Ok(Answer::pretty(&*self.effective.read(Arc::clone))),
            Handler::Health => Ok(self.health()),
            Handler::Ready => Ok(self.readiness(200)),
            Handler::DaprReady => Ok(self.readiness(204)),
            // Calls are handled at the desk.
            Handler::Invoke => Ok(Answer::empty(500)),
        };
        result.unwrap_or_else(|error| {
            if let Some(limit) = error.limit() {
                self.mesh.inner.counters.refused.add(limit);
            }
            error.into()
        })
    }

    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::SeqCst)
    }
}

/// The documented words for a plain client, JSON for one that asks for it.
fn not_found(request: &Request) -> Answer {
    let reason = crate::model::Reason::NotFound;
    let answer = if request.accepts("application/json") {
        Answer { status: 404, ..Answer::json(&serde_json::json!({"error": "Service Mesh - Not Found", "reason": reason.word()})) }
    } else {
        Answer::new(404, "text/plain; charset=utf-8", "Service Mesh - Not Found")
    };
    answer.with("x-mesh-reason", reason.word())
}
