//! What a scrape costs: `cargo bench --bench metrics`. 5000 instances in ten services, all of which have been called: taking the picture, and
//! writing it as text. Nothing is locked while it is written.

#![allow(clippy::expect_used)] // A bench that cannot run says why.

use std::time::{Duration, Instant};

use weft::policy::breaker::{Control, Status};
use weft::telemetry::counters::{InstanceCounters, MeshCounters, ServiceCounters};
use weft::telemetry::exposition::Format;
use weft::telemetry::onlookers::OnlookersReport;
use weft::telemetry::picture::{InstanceNow, InstancePicture, MeshPicture, Picture, RegistryNow, ServiceNow, ServicePicture, Standing};
use weft::telemetry::table;
use weft::{Mesh, Registration};

const SERVICES: usize = 10;
const INSTANCES: usize = 500;
const ROUNDS: u32 = 20;

fn main() {
    let mesh = Mesh::builder().background(false).build().expect("a mesh");
    for n in 0..SERVICES * INSTANCES {
        let (service, id) = (format!("service-{}", n / INSTANCES), format!("instance-{n}"));
        mesh.register(Registration::new(&service, &id, "10.0.0.1", 4001).expect("valid")).expect("registered");
    }
    report("a registry that has not been called, picture included", || mesh.metrics_text(Format::OpenMetrics).len());

    let (whole, services) = (MeshCounters::default(), (0..SERVICES).map(|_| ServiceCounters::default()).collect::<Vec<_>>());
    let instances: Vec<InstanceCounters> = (0..SERVICES * INSTANCES).map(|_| InstanceCounters::default()).collect();
    for (n, instance) in (1..).zip(&instances) {
        for us in [90, 400, 3_000, 20_000, 1_000_000] {
            instance.requests.add(1);
            instance.latency.record(Duration::from_micros(us * n % 3_000_000));
        }
    }
    services.iter().for_each(|service| (200..210).for_each(|status| service.delivered(status, Duration::from_millis(3))));
    let names: Vec<String> = (0..SERVICES * INSTANCES).map(|n| format!("instance-{n}")).collect();
    let now = ServiceNow {
        breaker: Status::Closed,
        control: Control::Auto,
        in_flight: 3,
        max_in_flight: 1024,
        queued: 0,
        max_queue: 256,
        retry_budget: 100.0,
        panic: false,
    };
    let seen = InstanceNow { standing: Standing::Available, healthy: true, ejected: false, in_flight: 1, weight: 1, last_check_ms: 1 };
    let parts = services.iter().zip(&names).zip(instances.chunks(INSTANCES).zip(names.chunks(INSTANCES)));
    let services = parts.map(|((counters, name), (instances, names))| {
        let instances = instances.iter().zip(names).map(|(counters, id)| InstancePicture { id, counters, now: seen }).collect();
        ServicePicture { name, counters, now, instances }
    });
    let mesh = MeshPicture {
        counters: &whole,
        events: 0,
        onlookers: OnlookersReport::default(),
        registry: RegistryNow::default(),
        max_services: 1000,
        services: services.collect(),
    };
    let picture = Picture { mesh, doors: None, process: None };
    report("all of which have been called, text alone", || table::render(&picture, Format::OpenMetrics).len());
}

/// The fastest of some rounds: whatever else goes on at the machine only adds to it.
fn report(what: &str, render: impl Fn() -> usize) {
    let mut fastest = Duration::MAX;
    let mut bytes = 0;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        bytes = render();
        fastest = fastest.min(start.elapsed());
    }
    println!("{} instances, {what}: {fastest:?} for {} KiB", SERVICES * INSTANCES, bytes / 1024);
}
