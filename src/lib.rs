//! A service mesh as a library: services are registered, and every call between them is balanced, retried, broken off, timed and measured on
//! the way — with OS threads, without an async runtime, without a control plane.
//!
//! ```no_run
//! use std::time::Duration;
//! use weft::{Call, Mesh, Registration};
//!
//! let mesh = Mesh::builder().build()?;
//! mesh.register(Registration::new("user-service", "user-service-1", "localhost", 4001)?)?;
//!
//! match mesh.invoke(&Call::get("user-service", "/api/users/123")?.timeout(Duration::from_secs(2))) {
//!     Ok(reply) => println!("{} from {}: {}", reply.status, reply.instance, String::from_utf8_lossy(&reply.body)),
//!     Err(error) => eprintln!("{}: {error}", error.reason().word()),
//! }
//! mesh.shutdown(Duration::from_secs(10));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The map
//!
//! What comes in: registrations, calls, operators' words. What goes out: attempts at instances, health checks, answers, numbers.
//!
//! The floors, from the ground up; each uses its own and those below:
//!
//! | floor | what lives there |
//! |---|---|
//! | [`model`] | the words: names, instances, calls, errors, time and chance |
//! | [`policy`] and [`telemetry`] | pure decisions; counters, histograms, events, trace context, what is shown of single calls |
//! | [`mesh`] | shared state, every lock on it, and the call machine ([`mesh::call`] is the life of a call on one page) |
//! | [`outbound`] | what touches the outer world: ureq, whom it trusts, host names, health checks, copies of calls, spans, the access log, the registry on disk |
//! | [`contract`] | what the HTTP API promises: paths and scopes, bodies, errors as answers |
//! | [`api`] and [`edge`] | the two doors: tiny_http with its workers and handlers; the event loops that own the public port, and run calls |
//! | [`server`] | both doors together: start, drain, watch |
//! | [`config`] and [`app`] | flags, environment and file to one configuration; start, wait for a signal, stop |
//!
//! # The life of a call
//!
//! bytes → [`edge::http1`] → [`contract::paths`] → [`contract::envelope`] → [`Call`] → [`mesh::call::CallMachine`]: route, rate, slot, breaker
//! permit, instance → attempt → head of the answer → [`policy::classify`] → ejection, latency → another attempt? → [`Reply`] or
//! [`CallError`] → [`contract::answer`]. Two drivers run the machine: the event loops of [`edge`], and the blocking one in `mesh/invoke.rs`.
//!
//! # What is not there
//!
//! - Nothing under [`policy`] reads a clock, rolls dice, takes a lock, logs or does I/O. Nor does the call machine: `now` and `roll` come in.
//! - No lock is held across I/O, a callback, a log line or another lock.
//! - No request reaches tiny_http that the edge has not framed and bounded; no event loop waits: for no name, file, lock across I/O, or sleep.
//! - No name look-up on the path of a call: instances carry resolved, judged addresses.
//! - No proxy from the environment is honoured; no redirect is followed.
//! - No series, log line or buffer grows with what a stranger sends.
//! - No panic leaves a request unanswered or a slot taken.
//! - No global state, no signal handler, no thread that outlives the last handle.
//!
//! `tests/tidy.rs` holds the house to this.
//!
//! # The words
//!
//! *Service*: a group of interchangeable *instances*. *Call*: one logical invocation; it ends in exactly one result. *Attempt*: one request to
//! one instance. *Outcome*: what an attempt or call says about health: success, failure, or excluded (nothing). *Circuit breaker*: per
//! service, fed by calls. *Ejection*: per instance, fed by attempts. *Available*: healthy, not ejected, state `ready`, weight above 0, lease
//! alive. *Permit*, *slot*: taken before a call or attempt, given back by a guard. *Retry budget*: bounds retries to a share of calls.
//! *Deadline*: when the whole call is over. *Policy*: all settings of one service. *Upstream*, *downstream*: the instance's side, the caller's.

#![forbid(unsafe_code)]

pub mod model;

pub mod policy;
pub mod telemetry;

pub mod mesh;

pub mod outbound;

pub mod contract;

#[cfg(feature = "server")]
pub mod api;

#[cfg(feature = "server")]
pub mod edge;

#[cfg(feature = "server")]
pub mod server;

#[cfg(feature = "server")]
pub mod config;

#[cfg(feature = "server")]
pub mod app;

#[cfg(feature = "server")]
pub use config::Config;
pub use mesh::Mesh;
pub use model::{Call, CallError, Cause, Invalid, Method, Registration, Reply};
pub use outbound::Builder;
#[cfg(feature = "server")]
pub use server::Server;

/// The examples of the README are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
