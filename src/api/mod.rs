//! The API server: tiny_http, a fixed pool of workers, and a handler for each row of the router's table.

mod calls;
mod dashboard;
mod exchange;
mod instances;
mod observe;
mod overview;
mod policies;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

pub use server::{ApiServer, ask};

use overview::Glance;

use crate::contract::answer::{Answer, ApiError};
use crate::contract::browser;
use crate::contract::request::Request;
use crate::contract::router::{self, Found, Handler, Route};
use crate::mesh::Mesh;
use crate::model::sync::{Locked, Published};
use crate::telemetry::doors::DoorCounters;

/// What handlers share.
pub struct Api {
    mesh: Mesh,
    /// Whether `/ready` says so.
    ready: AtomicBool,
    /// The door listens on loopback only.
    loopback: bool,
    /// Guarded: the effective configuration, for `/config`.
    effective: Published<Arc<Value>>,
    /// What the edge counts.
    doors: Arc<DoorCounters>,
    /// Guarded: the last overview that was made, for those who ask within a moment of one another.
    glance: Locked<Option<Glance>>,
}

/// What a request comes to before it is handled.
enum Routed<'r> {
    /// A handler.
    Here(&'static Route, Vec<&'r str>),
    /// Nothing: this is the answer.
    Refused(Answer),
}

impl Api {
    /// Handlers for `mesh`. `loopback`: the door listens on loopback only. `effective` is what `/config` shows.
    pub fn new(mesh: &Mesh, loopback: bool, effective: Value, doors: Arc<DoorCounters>) -> Self {
        let effective = Published::new(Arc::new(effective));
        Self { mesh: mesh.clone(), ready: AtomicBool::new(true), loopback, effective, doors, glance: Locked::default() }
    }

    /// Replaces what `/config` shows.
    pub fn set_effective(&self, effective: Value) {
        self.effective.update(|current| *current = Arc::new(effective));
    }

    /// From now on `/ready` says no.
    pub fn stop_being_ready(&self) {
        self.ready.store(false, Ordering::SeqCst);
    }

    /// Finds what handles a request, and judges whether it may.
    fn route<'r>(&self, request: &'r Request) -> Routed<'r> {
        match router::find(&request.method, request.path()) {
            Found::Route(route, captured) => {
                let changes = !matches!(route.method, "GET");
                match browser::judge(request.headers.first("host").unwrap_or_default(), request.headers.first("origin"), self.loopback) {
                    Err(why) if changes => Routed::Refused(ApiError::Forbidden(why).into()),
                    _ => Routed::Here(route, captured),
                }
            }
            Found::WrongMethod(allowed) => Routed::Refused(ApiError::WrongMethod(allowed).into()),
            Found::Nothing => Routed::Refused(nothing_here(request)),
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
            Handler::Nodes => Ok(self.nodes()),
            Handler::Overview => self.overview(request),
            Handler::ServiceOverview => self.service_overview(first, request),
            Handler::Dashboard => Ok(dashboard::page(request)),
            Handler::Traces => self.traces(request),
            // What streams is held by the edge; only HEAD comes here.
            Handler::Tap => Ok(Answer::new(200, "application/x-ndjson", "")),
            Handler::Config => Ok(Answer::pretty(&*self.effective.read(Arc::clone))),
            Handler::Health => Ok(self.health()),
            Handler::Ready => Ok(self.readiness(200)),
            Handler::DaprReady => Ok(self.readiness(204)),
            Handler::Invoke => Ok(self.invoke(request)),
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

/// The dashboard for a browser that comes in by the front, else the documented words.
fn nothing_here(request: &Request) -> Answer {
    if request.path() == "/" && matches!(&*request.method, "GET" | "HEAD") && request.accepts("text/html") {
        return Answer::empty(302).with("location", "/dashboard").with("cache-control", "no-store");
    }
    Answer::nothing_here(request.accepts("application/json"))
}
