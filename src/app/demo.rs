//! `weft demo`: a mesh with a few sample services, registered through the real API, and the documented commands with their answers.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::sample::Sample;
use crate::model::time::{Clock, SystemClock};
use crate::server::{Address, Server};

/// Time between two calls of `--traffic`.
const PACE: Duration = Duration::from_millis(50);

/// A documented command: what it shows, the method, the path, the body.
struct Shown {
    why: &'static str,
    method: &'static str,
    path: &'static str,
    body: Option<&'static str>,
}

/// Starts the sample services, registers them with `server`, and shows what can be done. With `traffic`, calls keep flowing.
pub(super) fn start(server: &Server, traffic: bool) -> io::Result<()> {
    let api = server.addresses().into_iter().find_map(|address| match address {
        Address::Tcp(address) => Some(address),
        Address::Unix(_) => None,
    });
    let api = api.ok_or_else(|| io::Error::other("the demonstration needs a TCP address to listen on"))?;
    say!();
    for (service, id, port) in
        [("user-service", "user-service-1", 4001), ("payment-service", "payment-service-1", 4002), ("user-service", "user-service-2", 4003)]
    {
        let sample = Sample::start(id, port)?;
        register(api, service, &sample)?;
    }
    show(api)?;
    if traffic {
        thread::Builder::new().name("weft-traffic".to_owned()).spawn(move || keep_calling(api))?;
        say!("Calls are flowing: watch `curl http://{api}/metrics`.");
    }
    say!("Press Ctrl-C to stop.");
    Ok(())
}

fn register(api: SocketAddr, service: &str, sample: &Sample) -> io::Result<()> {
    let address = sample.address;
    let registration = json!({
        "id": sample.id, "name": service, "host": "localhost", "port": address.port(),
        "healthCheckUrl": format!("http://localhost:{}/health", address.port()),
        "metadata": {"version": "1.0.0", "region": "us-east-1"},
    });
    let answer = ask(api, "POST", "/register", Some(&registration.to_string()))?;
    say!("{} runs on {address} and is registered: {answer}", sample.id);
    Ok(())
}

/// The documented commands, ready to paste, each with the answer it gave just now.
fn show(api: SocketAddr) -> io::Result<()> {
    let call = |why, body| Shown { why, method: "POST", path: "/invoke", body: Some(body) };
    let look = |why, path| Shown { why, method: "GET", path, body: None };
    let all = [
        call("Call a service; the instances take turns", r#"{"serviceName":"user-service","endpoint":"/api/users/123","method":"GET"}"#),
        call("Send a body", r#"{"serviceName":"payment-service","endpoint":"/api/payments","method":"POST","body":{"amount":12.50}}"#),
        call(
            "An instance that fails every other time: the call is retried",
            r#"{"serviceName":"payment-service","endpoint":"/flaky","method":"GET"}"#,
        ),
        call("A slow instance and little patience", r#"{"serviceName":"user-service","endpoint":"/slow/5000","timeoutMs":300}"#),
        look("Who is there", "/services?name=payment-service"),
        look("Why an instance can or cannot be picked", "/services/user-service/explain"),
        look("What was counted", "/metrics"),
        look("Is the mesh itself well", "/health"),
    ];
    for Shown { why, method, path, body } in all {
        say!("\n# {why}");
        match body {
            Some(body) => {
                say!("curl -X {method} http://localhost:{}{path} -H 'Content-Type: application/json' -d '{body}'", api.port());
            }
            None => say!("curl 'http://localhost:{}{path}'", api.port()),
        }
        say!("{}", ask(api, method, path, body)?.trim_end());
    }
    say!();
    Ok(())
}

fn keep_calling(api: SocketAddr) {
    let endpoints = ["/api/users/1", "/api/users/2", "/api/users/3", "/flaky", "/slow/120"];
    for (n, endpoint) in endpoints.iter().cycle().enumerate() {
        let service = if n % 3 == 0 { "payment-service" } else { "user-service" };
        let body = json!({"serviceName": service, "endpoint": endpoint}).to_string();
        if ask(api, "POST", "/invoke", Some(&body)).is_err() {
            // The mesh has stopped.
            return;
        }
        SystemClock.park_until(SystemClock.now() + PACE);
    }
}

/// Sends one request on a connection of its own and gives the body of the answer.
fn ask(api: SocketAddr, method: &str, path: &str, body: Option<&str>) -> io::Result<String> {
    let body = body.unwrap_or_default();
    let mut stream = TcpStream::connect(api)?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {api}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
}
