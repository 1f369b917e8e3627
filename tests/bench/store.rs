//! What the registry on disk costs: `cargo bench --bench store`. Durable registrations by many threads, and the time to load what is kept.

#![allow(clippy::expect_used)] // A bench that cannot run says why.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use weft::mesh::ports::Store;
use weft::mesh::record::{Document, Record, Version};
use weft::outbound::store::Disk;
use weft::{Mesh, Registration};

fn registration(service: usize, n: usize) -> Registration {
    let mut one = Registration::new(&format!("service-{service}"), &format!("instance-{n}"), "10.0.0.1", 4001).expect("valid");
    one.metadata = Some([("version", "1.0.0"), ("region", "us-east-1")].map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    one.health_check = weft::model::HealthTarget::new("http://10.0.0.1:4001/health").ok();
    one
}

fn main() {
    let directory = env::temp_dir().join(format!("weft-bench-{}", std::process::id()));
    for threads in [1, 8, 64] {
        fs::create_dir_all(&directory).expect("a directory");
        let disk = Disk::open(&directory).expect("a state directory");
        let mesh = Mesh::builder().store(disk).background(false).build().expect("a mesh");
        let (count, start) = (AtomicUsize::new(0), Instant::now());
        thread::scope(|scope| {
            for thread in 0..threads {
                let (mesh, count) = (&mesh, &count);
                scope.spawn(move || {
                    let mut n = 0;
                    while start.elapsed() < Duration::from_secs(3) {
                        mesh.register(registration(thread * 100 + n / 500, n)).expect("kept");
                        n += 1;
                    }
                    count.fetch_add(n, Ordering::SeqCst);
                });
            }
        });
        let rate = count.load(Ordering::SeqCst) as f64 / start.elapsed().as_secs_f64();
        println!("{threads:3} threads: {rate:.0} durable registrations/s");
        drop(mesh);
        fs::remove_dir_all(&directory).expect("gone");
    }
    fs::create_dir_all(&directory).expect("a directory");
    let disk = Disk::open(&directory).expect("a state directory");
    thread::scope(|scope| {
        for thread in 0..64 {
            let disk = &disk;
            scope.spawn(move || {
                for n in (thread..100_000).step_by(64) {
                    let record = Record::new(registration(n / 500, n));
                    disk.put(&Document::Instance(Box::new(record)), Version::default()).expect("kept");
                }
            });
        }
    });
    drop(disk);
    let start = Instant::now();
    let disk = Disk::open(&directory).expect("a state directory");
    let read = start.elapsed();
    let mesh = Mesh::builder().store(disk).background(false).build().expect("a mesh");
    let whole = start.elapsed();
    let count: usize = mesh.services().iter().map(|service| service.instances.len()).sum();
    println!("{count} instances: read in {read:?}, in force after {whole:?}");
    fs::remove_dir_all(&directory).expect("gone");
}
