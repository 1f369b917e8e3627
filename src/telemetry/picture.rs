//! The mesh at one moment, as the table of metrics reads it: counters by reference, and everything else as it was when it was looked at.

use super::counters::{InstanceCounters, MeshCounters, ServiceCounters};
use super::doors::DoorCounters;
use super::onlookers::OnlookersReport;
use crate::policy::breaker::{Control, Status};

/// Everything a metric can be about. A part of the program that is not there leaves out its metrics.
#[derive(Clone, Debug)]
pub struct Picture<'p> {
    /// The mesh.
    pub mesh: MeshPicture<'p>,
    /// The doors, where there is a server.
    pub doors: Option<&'p DoorCounters>,
    /// The process, where the system tells of it.
    pub process: Option<Process>,
}

/// The mesh.
#[derive(Clone, Debug)]
pub struct MeshPicture<'p> {
    /// What was counted.
    pub counters: &'p MeshCounters,
    /// How many events there have been.
    pub events: u64,
    /// What became of what was to be shown.
    pub onlookers: OnlookersReport,
    /// How many services there may be.
    pub max_services: usize,
    /// Where registrations are kept.
    pub registry: RegistryNow,
    /// The services, sorted by name.
    pub services: Vec<ServicePicture<'p>>,
}

/// How it is with the place where registrations are kept.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct RegistryNow {
    /// For how long what is known may have been out of date; `None`: it is current.
    pub stale_seconds: Option<f64>,
    /// Instances that are kept although a shared registry does not name them any more.
    pub withheld: usize,
    /// How often everything was read anew.
    pub resyncs: u64,
    /// Changes that were refused because the registry did not answer.
    pub refused: u64,
    /// Files that were found damaged and set aside.
    pub damaged_files: u64,
}

/// A service.
#[derive(Clone, Debug)]
pub struct ServicePicture<'p> {
    /// Its name.
    pub name: &'p str,
    /// What was counted.
    pub counters: &'p ServiceCounters,
    /// How it was.
    pub now: ServiceNow,
    /// Its instances in order of registration.
    pub instances: Vec<InstancePicture<'p>>,
}

/// How a service is.
#[derive(Clone, Copy, PartialEq, Debug)]
#[allow(missing_docs)] // The words are those of the lexicon.
pub struct ServiceNow {
    pub breaker: Status,
    pub control: Control,
    pub in_flight: u32,
    pub max_in_flight: u32,
    pub queued: usize,
    pub max_queue: u32,
    pub retry_budget: f64,
    pub panic: bool,
}

/// An instance.
#[derive(Clone, Debug)]
pub struct InstancePicture<'p> {
    /// Its id.
    pub id: &'p str,
    /// What was counted.
    pub counters: &'p InstanceCounters,
    /// How it was.
    pub now: InstanceNow,
}

/// How an instance is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The words are those of the lexicon.
pub struct InstanceNow {
    pub standing: Standing,
    pub healthy: bool,
    pub ejected: bool,
    pub in_flight: u32,
    pub weight: u16,
    /// In milliseconds since the Unix epoch; 0 means never.
    pub last_check_ms: u64,
}

/// Whether an instance is available, and if not, why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The words are those of the lexicon.
pub enum Standing {
    Available,
    Unhealthy,
    Ejected,
    Drain,
    Maint,
    WeightZero,
    LeaseOver,
    NoAddress,
}

impl Standing {
    /// All there are, with their words.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::Available, "available"),
        (Self::Unhealthy, "unhealthy"),
        (Self::Ejected, "ejected"),
        (Self::Drain, "drain"),
        (Self::Maint, "maint"),
        (Self::WeightZero, "weight_zero"),
        (Self::LeaseOver, "lease_over"),
        (Self::NoAddress, "no_address"),
    ];
}

/// What the system tells of this process.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Process {
    /// Processor time used.
    pub cpu_seconds: f64,
    /// When it started, since the Unix epoch.
    pub start_seconds: f64,
    /// Address space.
    pub virtual_bytes: u64,
    /// Memory in use.
    pub resident_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Open descriptors.
    pub open_fds: u64,
    /// How many there may be.
    pub max_fds: u64,
}
