//! Past the machines at hand, on paper: what 10, 100 and 1000 meshes over one etcd cost, and where each choice stops.
//!
//! # Unit costs
//!
//! Measured with etcd 3.4.23, one member, on a machine with two cores that was also doing other things; and with this crate's records.
//!
//! | what | costs | how it was measured |
//! |---|---|---|
//! | a change, confirmed | p50 0.84 ms, p99 2.2 ms on one connection; about 1000 a second per connection | `put` in a loop |
//! | a record in etcd | 200 to 400 bytes of JSON for an instance with a check and three labels | the length of what `etcdctl get` prints |
//! | the same as it crosses the wire in a watch | × 4/3 (base64) + 250 bytes of frame ≈ **700 bytes** | the length of a line of `POST /v3/watch` |
//! | a renewed lease, or a watch begun anew | one small request, 50 to 100 µs of etcd's CPU | `top` while 1000 a second are sent |
//! | a watch that is open | 30 to 50 KB of etcd's memory behind the gateway | resident memory of etcd over 500 watches |
//! | an instance in the memory of a mesh | about **2 KB** with its counters and its two histograms in use | resident memory over 100 000 registrations |
//! | a check | one connection, 60 to 100 µs of CPU on each side | `GET /health` on a fresh connection |
//!
//! # What a registry of that size does
//!
//! Of *M* meshes and *N* instances, of which each registers anew every ten minutes (deployments, restarts), and a tenth have a lease with
//! `ttlSeconds` 30:
//!
//! - changes: *N* / 600 a second, each confirmed once and told to *M* meshes: *N·M* / 600 events of 700 bytes;
//! - leases: 0.1 *N* / 10 renewals a second, since a heartbeat is passed on at most three times per `ttlSeconds`;
//! - every mesh renews its own record and begins its watch anew every 5 s: 0.4 *M* requests a second;
//! - everything is read anew every 5 minutes: *M·N* · 500 bytes / 300 s;
//! - every mesh checks every instance every 10 s: *N* / 10 checks a second per mesh, and *M* / 10 a second for each instance to answer.
//!
//! | M | N | changes/s | events/s, all | told, all | requests/s | read anew, all | checks/s, per mesh | checks/s, per instance | memory per mesh |
//! |---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|
//! | 10 | 1 000 | 1.7 | 17 | 12 KB/s | 14 | 17 KB/s | 100 | 1 | 2 MB |
//! | 10 | 10 000 | 17 | 170 | 120 KB/s | 104 | 170 KB/s | 1 000 | 1 | 20 MB |
//! | 10 | 100 000 | 170 | 1 700 | 1.2 MB/s | 1 000 | 1.7 MB/s | **10 000** | 1 | 200 MB |
//! | 100 | 1 000 | 1.7 | 170 | 120 KB/s | 50 | 170 KB/s | 100 | 10 | 2 MB |
//! | 100 | 10 000 | 17 | 1 700 | 1.2 MB/s | 140 | 1.7 MB/s | 1 000 | 10 | 20 MB |
//! | 100 | 100 000 | 170 | **17 000** | 12 MB/s | 1 040 | **17 MB/s** | **10 000** | 10 | 200 MB |
//! | 1000 | 1 000 | 1.7 | 1 700 | 1.2 MB/s | 410 | 1.7 MB/s | 100 | **100** | 2 MB |
//! | 1000 | 10 000 | 17 | **17 000** | 12 MB/s | 500 | **17 MB/s** | 1 000 | **100** | 20 MB |
//! | 1000 | 100 000 | 170 | **170 000** | **120 MB/s** | 1 400 | **170 MB/s** | **10 000** | **100** | 200 MB |
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
//! - **Every mesh is told everything** is bounded by what members can send: some 20 000 events a second per member, spread over three. Beyond
//!   100 meshes × 100 000 instances a **prefix per zone** divides it: meshes of a zone share one prefix, and calls between zones go through
//!   a mesh of the other (which is an instance like any other).
//! - **Everything is read anew every 5 minutes** grows with *M·N* too, and is the first to hurt at 1000 meshes. It guards against faults of
//!   etcd and of this crate only; a longer interval loses nothing else.
//! - **One etcd**: 100 000 records of 500 bytes are 50 MB, far from its 2 GiB; 1000 changes a second are near what its disk can sync. Ten times
//!   as many want **several clusters**, by service or by zone.
//! - **Every mesh knows every instance**: 200 MB for 100 000. Where that is too much for a small host, it is **subsets** that help: a mesh
//!   that only knows the services it calls (a prefix per group of services), and of a large service only some dozens of instances.
//! - **Leases** at *N* = 100 000, all of them leased, are 10 000 renewals a second: too many for one etcd. Leases are for instances that cannot be
//!   checked; what has a `healthCheckUrl` needs none.
