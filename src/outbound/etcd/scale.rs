//! Past the machines at hand, on paper: what 10, 100 and 1000 meshes over one etcd cost, and where each choice stops.
//!
//! # Unit costs
//!
//! Measured by `scripts/soak costs` (a debug build, etcd 3.4.23 with one member, two busy cores; the script says how each is taken). Only
//! the last one is an estimate, from what a call costs this mesh.
//!
//! | what | costs |
//! |---|---|
//! | a change, confirmed | p50 0.94 ms on one connection, p99 21 ms beside other work on the disk |
//! | the record of an instance with three labels | 193 bytes |
//! | the same as a line of a watch | 552 bytes |
//! | a watch that is open | 89 KB of etcd's memory, the gateway's included |
//! | an event, told to one watch | 87 µs of etcd's CPU, the gateway's included |
//! | a lease renewed, or any other small request | 455 µs of etcd's CPU |
//! | an instance in the memory of a mesh | 2.2 KB |
//! | a check | 60 to 100 µs of CPU on each side |
//!
//! # What a registry of that size does
//!
//! Of *M* meshes and *N* instances, of which each registers anew every ten minutes (deployments, restarts), and a tenth have a lease with
//! `ttlSeconds` 30:
//!
//! - changes: *N* / 600 a second, each confirmed once and told to *M* meshes: *N·M* / 600 events of 550 bytes;
//! - leases: 0.1 *N* / 10 renewals a second, since a heartbeat is passed on at most three times per `ttlSeconds`;
//! - every mesh renews its own record, begins its watch anew and asks whether etcd is the one it was every 5 s: 0.6 *M* requests a second;
//! - everything is read anew every 5 minutes: *M·N* · 500 bytes (base64 and frame included) / 300 s;
//! - every mesh checks every instance every 10 s: *N* / 10 checks a second per mesh, and *M* / 10 a second for each instance to answer.
//!
//! | M | N | changes/s | events/s | told | requests/s | read anew | cores of etcd | checks/s per mesh | checks/s per instance | memory per mesh |
//! |---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|
//! | 10 | 1 000 | 1.7 | 17 | 9 KB/s | 18 | 17 KB/s | 0.01 | 100 | 1.0 | 2.2 MB |
//! | 10 | 10 000 | 17 | 167 | 92 KB/s | 123 | 167 KB/s | 0.07 | 1 000 | 1.0 | 22 MB |
//! | 10 | 100 000 | 167 | 1 667 | 917 KB/s | 1 173 | 1.7 MB/s | 0.68 | 10 000 | 1.0 | 220 MB |
//! | 100 | 1 000 | 1.7 | 167 | 92 KB/s | 72 | 167 KB/s | 0.05 | 100 | 10 | 2.2 MB |
//! | 100 | 10 000 | 17 | 1 667 | 917 KB/s | 177 | 1.7 MB/s | 0.23 | 1 000 | 10 | 22 MB |
//! | 100 | 100 000 | 167 | 16 667 | 9.2 MB/s | 1 227 | 16.7 MB/s | 2.01 | 10 000 | 10 | 220 MB |
//! | 1 000 | 1 000 | 1.7 | 1 667 | 917 KB/s | 612 | 1.7 MB/s | 0.42 | 100 | 100 | 2.2 MB |
//! | 1 000 | 10 000 | 17 | 16 667 | 9.2 MB/s | 717 | 16.7 MB/s | 1.78 | 1 000 | 100 | 22 MB |
//! | 1 000 | 100 000 | 167 | 166 667 | 91.7 MB/s | 1 767 | 166.7 MB/s | 15.30 | 10 000 | 100 | 220 MB |
//!
//! A change is routable elsewhere after one confirmed write and one line on an open watch: a few milliseconds, as long as the events of a
//! second take a member much less than one. After a leader is lost it is the election (`--election-timeout`, 1 s by default) and one attempt
//! of 600 ms at most; members that stand still without being dead are noticed by the first change, or when the watch ends after 5 s.
//!
//! # Where each choice stops, and what then
//!
//! - **Every mesh checks everything** is right as long as an instance can spare the answers: up to about 100 meshes, or 1000 with
//!   `healthCheck.intervalMs` 60000 and passive ejection in between. A mesh itself can make a few thousand checks a second per core, so
//!   beyond 10 000 instances checks want to be split: by rendezvous hashing of the instance over the live records under `nodes/`, two checkers
//!   each, a verdict written only when it changes, and a mesh that hears nothing fresh checks for itself.
//! - **Every mesh is told everything** is bounded by what members can send: some 11 000 events a second and core, spread over three members. Beyond
//!   100 meshes × 100 000 instances a **prefix per zone** divides it: meshes of a zone share one prefix, and calls between zones go through
//!   a mesh of the other (which is an instance like any other).
//! - **Everything is read anew every 5 minutes** grows with *M·N* too, and is the first to hurt at 1000 meshes. It guards against faults of
//!   etcd and of this crate only; a longer interval loses nothing else.
//! - **One etcd**: 100 000 records of 500 bytes are 50 MB, far from its 2 GiB; 1000 changes a second are near what one connection, and many a disk, can confirm. Ten times
//!   as many want **several clusters**, by service or by zone.
//! - **Every mesh knows every instance**: 200 MB for 100 000. Where that is too much for a small host, it is **subsets** that help: a mesh
//!   that only knows the services it calls (a prefix per group of services), and of a large service only some dozens of instances.
//! - **Leases** at *N* = 100 000, all of them leased, are 10 000 renewals a second, four to five cores: too many for one etcd. Leases are for instances that cannot be
//!   checked; what has a `healthCheckUrl` needs none.
