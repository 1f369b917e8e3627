//! The words everything else is written in: names and instances, messages, time and chance, errors.
//!
//! Everything here is parsed once, by a checked constructor, and not checked again afterwards. Nothing here does I/O; the one place
//! that reads a clock, rolls dice or parks a thread is [`time`].

mod call;
mod endpoint;
mod error;
mod fallback;
mod headers;
mod instance;
mod name;
#[cfg(feature = "server")]
mod secret;
pub mod settings;
pub(crate) mod sync;
mod text;
pub mod time;

pub use call::{Call, Caller, Method, Reply, RequestId};
pub use endpoint::Endpoint;
pub(crate) use endpoint::decode_once;
pub use error::{CallError, Cause, ConnectFailure, Failure, Invalid, Limit, Reason};
pub use fallback::StaticAnswer;
pub use headers::{DAPR_API_TOKEN, Fields, Headers, TRACE_CONTEXT};
#[cfg(feature = "server")]
pub(crate) use headers::{is_hop_by_hop, is_of_mesh, is_only_ours, push_decimal, reads_as};
pub(crate) use headers::{is_secret, read_alike};
pub(crate) use instance::authority;
pub use instance::{AdminState, HealthTarget, Host, Registration, Scheme, Weight};
pub use name::{InstanceId, ServiceName};
#[cfg(feature = "server")]
pub use secret::Secret;
#[cfg(weft_measure_locks)]
pub use sync::measure::listen as listen_to_locks;
pub(crate) use text::on_one_line;
pub use text::{closest, is_unseen, shown};
