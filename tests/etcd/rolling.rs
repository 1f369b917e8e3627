//! The real program, three times over one etcd.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::json;

use crate::cluster::Cluster;
use crate::support::upstream::Upstream;
use crate::support::{client, eventually};

pub(crate) struct Weft {
    child: Child,
    pub(crate) at: SocketAddr,
}

impl Weft {
    fn start(cluster: &Cluster) -> Self {
        Self::start_at(&cluster.endpoints())
    }

    pub(crate) fn start_at(etcd: &[String]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_weft"))
            .args(["--listen", "127.0.0.1:0", "--log", "off", "--etcd", &etcd.join(",")])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let at = line.trim().rsplit("http://").next().and_then(|at| at.parse().ok()).unwrap_or_else(|| panic!("{line}"));
        Self { child, at }
    }

    fn stop(&mut self) {
        let done = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(done.expect("kill").success());
        assert!(self.child.wait().expect("a child").success(), "it stops in order");
    }
}

impl Drop for Weft {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn three_are_restarted_one_after_the_other_and_no_call_fails() {
    let cluster = Cluster::start(1);
    let upstream = Upstream::named("hello");
    let mut all: Vec<Weft> = (0..3).map(|_| Weft::start(&cluster)).collect();
    let body = json!({"name": "s", "id": "i", "host": "127.0.0.1", "port": upstream.port()}).to_string();
    client::ask(all[0].at, "POST", "/register", &[], body.as_bytes()).expect("answered").with_status(200);
    let call = json!({"serviceName": "s", "endpoint": "/"}).to_string();
    let ask = |at: SocketAddr| client::ask(at, "POST", "/invoke", &[], call.as_bytes());
    for weft in &all {
        eventually("it is routed everywhere", || ask(weft.at).ok().filter(|answer| answer.status == 200));
    }
    let places: Vec<AtomicUsize> = all.iter().map(|weft| AtomicUsize::new(usize::from(weft.at.port()))).collect();
    let (over, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for n in 0..3 {
            let (places, over, calls, ask) = (&places, &over, &calls, &ask);
            scope.spawn(move || {
                for turn in n.. {
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                    // Whoever is refused a connection goes to the next, as any balancer in front does.
                    let answer = (0..3).find_map(|next| {
                        let port = places[(turn + next) % 3].load(Ordering::SeqCst);
                        ask(SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).expect("a port")))).ok()
                    });
                    answer.expect("somebody answers").with_status(200);
                    calls.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for n in 0..3 {
            all[n].stop();
            all[n] = Weft::start(&cluster);
            places[n].store(usize::from(all[n].at.port()), Ordering::SeqCst);
            let before = calls.load(Ordering::SeqCst);
            eventually("calls go on", || (calls.load(Ordering::SeqCst) > before + 20).then_some(()));
        }
        over.store(true, Ordering::SeqCst);
    });
    let nodes = client::ask(all[0].at, "GET", "/nodes", &[], b"").expect("answered").with_status(200).json();
    assert_eq!((&nodes["registry"]["backend"], &nodes["registry"]["state"]), (&json!("etcd"), &json!("current")));
    assert!(nodes["nodes"].as_array().is_some_and(|nodes| !nodes.is_empty()), "{nodes}");
}
