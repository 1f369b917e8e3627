//! The registry in etcd, shared by all meshes that name the same cluster and prefix.
//!
//! Spoken to through etcd's v3 JSON gateway, which every member serves by default. Under the prefix stand `instances/<service>/<id>`,
//! `policies/<service>` and `nodes/<id>`; what stands there is JSON, that of an instance readable by anything that reads kratos' registry.
//! An instance with `ttlSeconds` has a lease of its own and ends with it; all others stay until somebody removes them, whatever happens to
//! the mesh they were registered with. Health, ejection, breakers and load are never shared: every mesh sees for itself.
//!
//! A change is acknowledged once etcd has confirmed it, and is refused within two seconds where it cannot (`writing.rs`). What others change
//! is heard by one thread (`discovery.rs`), which also says when nothing can be heard: calls then go on with what is known. What is known is
//! kept in a directory too, if there is one, so that a mesh can start while etcd is away.
//!
//! How far this goes is worked out in [`scale`].

mod config;

#[cfg(feature = "etcd")]
mod anew;
#[cfg(feature = "etcd")]
mod client;
#[cfg(feature = "etcd")]
mod discovery;
#[cfg(feature = "etcd")]
mod doubt;
#[cfg(feature = "etcd")]
mod heard;
#[cfg(feature = "etcd")]
mod keys;
#[cfg(feature = "etcd")]
mod last;
#[cfg(feature = "etcd")]
mod leases;
#[cfg(feature = "etcd")]
mod line;
pub mod scale;
#[cfg(feature = "etcd")]
mod shared;
#[cfg(feature = "etcd")]
mod strays;
#[cfg(feature = "etcd")]
mod wire;
#[cfg(feature = "etcd")]
mod writing;

pub use config::Config;
#[cfg(feature = "etcd")]
pub use heard::heard;
#[cfg(feature = "etcd")]
pub use writing::Etcd;
