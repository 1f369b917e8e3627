//! A real Prometheus scrapes the program, and knows what it has counted.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::client;
use crate::support::eventually;
use crate::support::upstream::Upstream;
use crate::weft::{Folder, Weft};

/// A Prometheus that scrapes one target every second; killed at the end of the test.
struct Prometheus {
    child: Child,
    at: SocketAddr,
    _folder: Folder,
}

impl Prometheus {
    fn scraping(target: SocketAddr, path: &str) -> Self {
        let folder = Folder::new();
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
             scrape_configs: [{{job_name: weft, metrics_path: {path}, static_configs: [{{targets: ['{target}']}}]}}]\n"
        );
        let config = folder.write("prometheus.yml", config);
        // It cannot be told to choose a port by itself and say which.
        let at = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
        let child = Command::new("prometheus")
            .args(["--config.file", &config, "--storage.tsdb.path", &folder.path("data"), "--web.listen-address", &at.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus, of the Debian package of that name");
        Self { child, at, _folder: folder }
    }

    fn ask(&self, target: &str) -> Option<Value> {
        let answer = client::ask(self.at, "GET", target, &[], b"").ok()?;
        serde_json::from_slice(&answer.body).ok()
    }

    /// The first value a query comes to, once it comes to one.
    #[track_caller]
    fn value(&self, query: &str) -> String {
        let find = || self.ask(&format!("/api/v1/query?query={query}"))?["data"]["result"][0]["value"][1].as_str().map(str::to_owned);
        eventually(&format!("{query} has a value; the target is {:?}", self.ask("/api/v1/targets")), find)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_real_prometheus_scrapes_both_formats() {
    let weft = Weft::start(&[]);
    let upstream = Upstream::named("hello");
    weft.register("users", &upstream);
    for _ in 0..3 {
        weft.call("users", "/").with_status(200);
    }
    // Prometheus itself asks for OpenMetrics first; the other path says the same in either format.
    for path in ["/metrics", "/metrics/prometheus"] {
        let prometheus = Prometheus::scraping(weft.at(), path);
        assert_eq!(prometheus.value("up"), "1");
        assert_eq!(prometheus.value("weft_calls_total%7Bservice=%22users%22%7D"), "3");
        assert_eq!(prometheus.value("weft_call_duration_seconds_bucket%7Ble=%22%2BInf%22%7D"), "3");
        assert_eq!(prometheus.value("weft_instance_available"), "1");
        let target = prometheus.ask("/api/v1/targets").expect("targets");
        assert_eq!(target["data"]["activeTargets"][0]["lastError"], "");
    }
}
