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

use observe::text_format;
pub use server::{ApiServer, ask};

use overview::Glance;

use crate::contract::access::{Need, Welcome};
use crate::contract::answer::{Answer, ApiError};
use crate::contract::browser;
use crate::contract::caller::Denied;
use crate::contract::redact::redacted;
use crate::contract::request::Request;
use crate::contract::router::{self, Found, Handler, Route, Scope};
use crate::mesh::Mesh;
use crate::model::sync::{Locked, Published};
use crate::telemetry::doors::DoorCounters;
use crate::telemetry::exposition::Format;

/// What handlers share.
pub struct Api {
    mesh: Mesh,
    /// Whether `/ready` says so.
    ready: AtomicBool,
    /// All doors listen on loopback only.
    loopback: bool,
    /// Who may come in.
    welcome: Welcome,
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
    /// Handlers for `mesh`. `loopback`: all doors listen on loopback only. `welcome`: who may come in. `effective` is what `/config` shows.
    pub fn new(mesh: &Mesh, loopback: bool, welcome: Welcome, effective: Value, doors: Arc<DoorCounters>) -> Self {
        let effective = Published::new(Arc::new(redacted(effective)));
        Self { mesh: mesh.clone(), ready: AtomicBool::new(true), loopback, welcome, effective, doors, glance: Locked::default() }
    }

    /// Replaces what `/config` shows.
    pub fn set_effective(&self, effective: Value) {
        self.effective.update(|current| *current = Arc::new(redacted(effective)));
    }

    /// From now on `/ready` says no.
    pub fn stop_being_ready(&self) {
        self.ready.store(false, Ordering::SeqCst);
    }

    /// Finds what handles a request, and judges whether it may.
    fn route<'r>(&self, request: &'r Request) -> Routed<'r> {
        // The edge has judged it already; what it lets in by mistake still does not come further than this.
        if let Err(why) = self.admit(request) {
            return Routed::Refused(ApiError::Denied(why).into());
        }
        match router::find(&request.method, request.path()) {
            Found::Route(route, captured) => {
                let host = request.headers.first("host").unwrap_or_default();
                let judged = match (route.method, route.scope) {
                    // What is open to everybody is no secret.
                    ("GET", Scope::Open) => Ok(()),
                    ("GET", _) => browser::judge_reading(host, self.loopback),
                    // What has come by TLS, the edge has judged.
                    _ => browser::judge(host, request.headers.first("origin"), self.loopback, false, &self.welcome),
                };
                match judged {
                    Err(why) => Routed::Refused(ApiError::Forbidden(why).into()),
                    Ok(()) => Routed::Here(route, captured),
                }
            }
            Found::WrongMethod(allowed) => Routed::Refused(ApiError::WrongMethod(allowed).into()),
            Found::Nothing => Routed::Refused(nothing_here(request)),
        }
    }

    fn admit(&self, request: &Request) -> Result<(), Denied> {
        let need = Need::of(&request.method, request.path());
        if self.welcome.access.is_none() || need.is_open() {
            return Ok(());
        }
        need.judge(request.grant.as_ref().ok_or(Denied::NoToken)?)
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
            Handler::Metrics => Ok(self.metrics(request)),
            Handler::MetricsText => Ok(self.metrics_text(text_format(request).unwrap_or(Format::Prometheus), request)),
            Handler::Services => self.services(request),
            Handler::Service => self.service(first, request),
            Handler::Explain => self.explain(first),
            Handler::Policy => self.policy(first, request),
            Handler::PatchPolicy => self.patch_policy(first, request),
            Handler::ResetPolicy => self.reset_policy(first, request),
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
        let answer = result.unwrap_or_else(|error| {
            if let Some(limit) = error.limit() {
                self.mesh.inner.counters.refused.add(limit);
            }
            error.into()
        });
        match route.scope {
            // The same for everybody, and what an instance says.
            Scope::Open | Scope::Invoke => answer,
            _ if answer.headers.contains("cache-control") => answer,
            // What one may see, another may not.
            _ => answer.with("cache-control", "no-store"),
        }
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
