//! A cluster of real etcd members on loopback, whose members can be killed, stopped, wiped and started again.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs};

use crate::support::eventually;

pub(crate) struct Cluster {
    folder: PathBuf,
    /// Client and peer port of each member.
    ports: Vec<(u16, u16)>,
    members: Vec<Option<Child>>,
    /// More words for each member.
    options: Vec<String>,
    scheme: &'static str,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

impl Cluster {
    /// Starts that many members and waits until they serve.
    pub(crate) fn start(members: usize) -> Self {
        eventually("a cluster", || {
            let mut cluster = Self::start_with(members, "http", |_| Vec::new());
            let serves = eventually("it serves, or a port was taken meanwhile", || {
                let is_there = cluster.is_there();
                // After that: who answers may be somebody else who has taken the port.
                let has_ended = |child: &mut Child| child.try_wait().expect("a child").is_some();
                let is_over = cluster.members.iter_mut().flatten().any(has_ended);
                (is_over || is_there).then_some(!is_over)
            });
            serves.then_some(cluster)
        })
    }

    pub(crate) fn start_with(members: usize, scheme: &'static str, options: impl Fn(&PathBuf) -> Vec<String>) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let folder = env::temp_dir().join(format!("weft-etcd-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst)));
        fs::create_dir_all(&folder).expect("a directory");
        let ports = (0..members).map(|_| (free_port(), free_port())).collect();
        let options = options(&folder);
        let mut cluster = Self { folder, ports, members: (0..members).map(|_| None).collect(), options, scheme };
        (0..members).for_each(|member| cluster.run(member));
        cluster
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.ports.iter().map(|(client, _)| format!("{}://127.0.0.1:{client}", self.scheme)).collect()
    }

    pub(crate) fn folder(&self) -> &PathBuf {
        &self.folder
    }

    /// Starts a member (again).
    pub(crate) fn run(&mut self, member: usize) {
        let (client, peer) = self.ports[member];
        let all: Vec<String> = self.ports.iter().enumerate().map(|(n, (_, peer))| format!("m{n}=http://127.0.0.1:{peer}")).collect();
        let client = format!("{}://127.0.0.1:{client}", self.scheme);
        let log = fs::File::create(self.folder.join(format!("m{member}.log"))).expect("a file");
        let child = Command::new("etcd")
            .args(["--name", &format!("m{member}"), "--data-dir"])
            .arg(self.folder.join(format!("m{member}")))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &format!("http://127.0.0.1:{peer}")])
            .args(["--initial-advertise-peer-urls", &format!("http://127.0.0.1:{peer}")])
            .args(["--initial-cluster", &all.join(","), "--heartbeat-interval", "50", "--election-timeout", "500"])
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("etcd: scripts/test installs it");
        self.members[member] = Some(child);
    }

    /// Lets a single member do something where nobody who knows it hears of it.
    pub(crate) fn aside(&mut self, work: impl FnOnce(&mut Self)) {
        self.kill(0);
        let (known, _) = self.ports[0];
        self.ports[0].0 = free_port();
        self.run(0);
        self.serves();
        work(self);
        self.kill(0);
        self.ports[0].0 = known;
        self.run(0);
    }

    /// What a member that does not run has kept, set aside or brought back.
    pub(crate) fn copy(&mut self, from: &str, to: &str) {
        self.kill(0);
        let _ = fs::remove_dir_all(self.folder.join(to));
        let done = Command::new("cp").arg("-r").args([self.folder.join(from), self.folder.join(to)]).status();
        assert!(done.expect("cp").success());
        self.run(0);
        self.serves();
    }

    /// Waits until a majority answers.
    pub(crate) fn serves(&self) {
        eventually("etcd serves", || self.is_there().then_some(()));
    }

    fn is_there(&self) -> bool {
        self.ctl(&["get", "/"]).status.success()
    }

    pub(crate) fn ctl(&self, words: &[&str]) -> Output {
        let endpoints = self.endpoints().join(",");
        let ctl =
            Command::new("etcdctl").env("ETCDCTL_API", "3").args(["--endpoints", &endpoints, "--command-timeout=1s"]).args(words).output();
        ctl.expect("etcdctl: scripts/test installs it")
    }

    #[track_caller]
    pub(crate) fn do_ctl(&self, words: &[&str]) -> String {
        let done = self.ctl(words);
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// The revision that it has come to.
    #[track_caller]
    pub(crate) fn revision(&self) -> u64 {
        let status = self.do_ctl(&["endpoint", "status", "-w", "json"]);
        let revision = status.split("\"revision\":").nth(1).and_then(|rest| rest.split([',', '}']).next()?.parse().ok());
        revision.unwrap_or_else(|| panic!("no revision: {status}"))
    }

    pub(crate) fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.members[member].take() {
            child.kill().expect("a child");
            child.wait().expect("a child");
        }
    }

    /// Kills a member and takes away all it knows.
    pub(crate) fn wipe(&mut self, member: usize) {
        self.kill(member);
        fs::remove_dir_all(self.folder.join(format!("m{member}"))).expect("its data");
    }

    pub(crate) fn signal(&self, member: usize, signal: &str) {
        let Some(child) = &self.members[member] else { return };
        let done = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        assert!(done.expect("kill").success());
    }

    /// The member that leads.
    pub(crate) fn leader(&self) -> usize {
        let leads = |endpoint: &str| {
            let done = Command::new("etcdctl").env("ETCDCTL_API", "3").args(["--endpoints", endpoint, "endpoint", "status"]).output();
            // Endpoint, id, version, size, whether it leads, …
            String::from_utf8_lossy(&done.expect("etcdctl").stdout).split(", ").nth(4) == Some("true")
        };
        eventually("a leader", || self.endpoints().iter().position(|endpoint| leads(endpoint)))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in 0..self.members.len() {
            self.kill(member);
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
