//! A node that etcd can no longer be reached from, while everything else can.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::rolling::Weft;
use crate::support::client::{self, Answer};
use crate::support::upstream::Upstream;
use crate::support::{eventually, throughout};

/// A way to a server on which, while it is cut, nothing gets through and nobody is told: connections stand, and new ones are taken.
struct Way {
    at: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    cut: AtomicBool,
    over: AtomicBool,
}

impl Way {
    fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("an address");
        let state: Arc<State> = Arc::default();
        let here = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if here.over.load(Ordering::SeqCst) {
                    return;
                }
                let state = Arc::clone(&here);
                thread::spawn(move || connect(&state, client, server));
            }
        });
        Self { at, state }
    }

    fn cut(&self, cut: bool) {
        self.state.cut.store(cut, Ordering::SeqCst);
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::SeqCst);
        self.cut(false);
        // Wakes the listener for it to see.
        let _ = TcpStream::connect(self.at);
    }
}

impl State {
    fn wait_while_cut(&self) {
        while self.cut.load(Ordering::SeqCst) {
            thread::park_timeout(Duration::from_millis(2));
        }
    }
}

fn connect(state: &Arc<State>, client: TcpStream, server: SocketAddr) {
    state.wait_while_cut();
    let Ok(server) = TcpStream::connect(server) else { return };
    let (back, there) = (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
    let here = Arc::clone(state);
    thread::spawn(move || carry(&here, server, back));
    carry(state, client, there);
}

fn carry(state: &State, mut from: TcpStream, mut to: TcpStream) {
    let mut piece = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut piece) {
        state.wait_while_cut();
        if to.write_all(&piece[..read]).is_err() {
            break;
        }
    }
    state.wait_while_cut();
    // The other side may have ended by itself.
    let _ = to.shutdown(Shutdown::Write);
}

fn ask(weft: &Weft, method: &str, target: &str, body: &Value) -> Answer {
    client::ask(weft.at, method, target, &[], body.to_string().as_bytes()).expect("answered")
}

fn get(weft: &Weft, target: &str) -> Answer {
    client::ask(weft.at, "GET", target, &[], b"").expect("answered")
}

#[test]
fn a_node_cut_off_from_etcd_goes_on_serving_says_that_it_is_stale_and_catches_up() {
    let cluster = Cluster::start(1);
    let etcd = cluster.endpoints()[0].trim_start_matches("http://").parse().expect("an address");
    let way = Way::to(etcd);
    let (off, on) = (Weft::start_at(&[format!("http://{}", way.at)]), Weft::start_at(&cluster.endpoints()));
    let upstream = Upstream::named("hello");
    let instance = |id: &str| json!({"name": "s", "id": id, "host": "127.0.0.1", "port": upstream.port()});
    ask(&off, "POST", "/register", &instance("before")).with_status(200);
    let knows = |weft: &Weft, id: &str| get(weft, "/services").with_status(200).text().contains(&format!("\"{id}\""));
    eventually("the other knows", || knows(&on, "before").then_some(()));
    let registry = |weft: &Weft| get(weft, "/metrics").with_status(200).json()["registry"].clone();
    assert_eq!(registry(&off)["state"], "current");
    assert_eq!(get(&off, "/overview").json()["registry"], json!({"backend": "etcd"}));

    way.cut(true);
    let refused = ask(&off, "POST", "/register", &instance("refused")).with_status(503);
    assert_eq!(refused.reason(), "registry_unavailable");
    eventually("it says so", || (registry(&off)["state"] == "stale").then_some(()));
    ask(&on, "POST", "/register", &instance("meanwhile")).with_status(200);
    let calls = || ask(&off, "POST", "/invoke", &json!({"serviceName": "s", "endpoint": "/"})).with_status(200).text() == "hello";
    throughout(Duration::from_millis(300), "calls and instances go on", || calls() && knows(&off, "before"));
    assert!(!knows(&off, "meanwhile") && !knows(&off, "refused"));
    assert_eq!(get(&off, "/health").with_status(200).json()["status"], "healthy");
    let glance = get(&off, "/overview").json()["registry"].clone();
    assert!(glance["staleMs"].as_u64().is_some_and(|age| age > 0) && glance["why"].is_string(), "{glance}");
    let text = get(&off, "/metrics/prometheus").with_status(200).text();
    for line in ["weft_registry_state{state=\"stale\"} 1", "weft_registry_state{state=\"current\"} 0"] {
        assert!(text.lines().any(|other| other == line), "{line} is not there");
    }
    let value = |name: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        found.unwrap_or_else(|| panic!("no {name}"))
    };
    assert!(value("weft_registry_stale_seconds ") > 0.0 && value("weft_registry_changes_refused_total ") >= 1.0);
    assert_eq!(registry(&on)["state"], "current", "the other node is well");

    way.cut(false);
    eventually("it is current again", || (registry(&off)["state"] == "current").then_some(()));
    eventually("it knows what has happened", || knows(&off, "meanwhile").then_some(()));
    ask(&off, "POST", "/register", &instance("after")).with_status(200);
    eventually("the other knows", || knows(&on, "after").then_some(()));
    assert!(calls());
}
