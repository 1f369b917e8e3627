//! The mesh one would write in an afternoon: 16 threads on `tiny_http`, a map behind a lock, round robin, ureq as it comes.
//! No time limits, no retries, no breaker, no metrics. `scripts/bench` holds weft against it: what weft adds must cost
//! nothing.
//!
//! Usage: `naive 127.0.0.1:PORT`

use std::collections::HashMap;
use std::sync::RwLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::{error::Error, thread};

use serde_json::{Value, json};
use tiny_http::{Header, Method, Request, Response, Server};

type Answer = Response<std::io::Cursor<Vec<u8>>>;

struct Mesh {
    /// Service name → the authorities (`host:port`) of its instances.
    services: RwLock<HashMap<String, Vec<String>>>,
    turn: AtomicUsize,
    agent: ureq::Agent,
}

impl Mesh {
    fn answer(&self, request: &mut Request) -> Result<Answer, Box<dyn Error>> {
        let mut body = Vec::new();
        request.as_reader().read_to_end(&mut body)?;
        match (request.method(), request.url()) {
            (Method::Post, "/invoke") => self.invoke(&serde_json::from_slice(&body)?),
            (Method::Post, "/register") => self.register(&serde_json::from_slice(&body)?),
            (Method::Get, "/health") => answer(200, "application/json", json!({"status": "healthy"}).to_string()),
            _ => answer(404, "text/plain", "Not Found"),
        }
    }

    fn register(&self, body: &Value) -> Result<Answer, Box<dyn Error>> {
        let authority = format!("{}:{}", text(body, "host")?, body["port"]);
        let mut services = self.services.write().map_err(|e| e.to_string())?;
        services.entry(text(body, "name")?.to_owned()).or_default().push(authority);
        answer(200, "application/json", json!({"success": true, "serviceId": body["id"]}).to_string())
    }

    fn invoke(&self, body: &Value) -> Result<Answer, Box<dyn Error>> {
        let url = format!("http://{}{}", self.pick(text(body, "serviceName")?)?, text(body, "endpoint")?);
        let request = ureq::http::Request::builder().method(text(body, "method")?).uri(url);
        let response = match body["body"].as_str() {
            Some(body) => self.agent.run(request.body(body)?)?,
            None => self.agent.run(request.body(())?)?,
        };
        let (parts, mut body) = response.into_parts();
        let content_type = parts.headers.get("content-type").map_or(Ok("text/plain"), |v| v.to_str())?;
        answer(parts.status.as_u16(), content_type, body.read_to_vec()?)
    }

    fn pick(&self, service: &str) -> Result<String, Box<dyn Error>> {
        let services = self.services.read().map_err(|e| e.to_string())?;
        let instances = services.get(service).ok_or("unknown service")?;
        Ok(instances[self.turn.fetch_add(1, Relaxed) % instances.len()].clone())
    }
}

fn text<'a>(body: &'a Value, field: &str) -> Result<&'a str, String> {
    body[field].as_str().ok_or_else(|| format!("{field} is missing"))
}

fn answer(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Result<Answer, Box<dyn Error>> {
    let header = Header::from_bytes("Content-Type", content_type).map_err(|()| "bad content type")?;
    Ok(Response::from_data(body).with_status_code(status).with_header(header))
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let server = Server::http(std::env::args().nth(1).ok_or("usage: naive ADDRESS:PORT")?)?;
    // Default but for this: an upstream's 404 is an answer to pass on, not an error.
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    let mesh = Mesh { services: RwLock::default(), turn: AtomicUsize::new(0), agent };
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                while let Ok(mut request) = server.recv() {
                    let answer = mesh.answer(&mut request);
                    let failed = |e: Box<dyn Error>| Response::from_string(e.to_string()).with_status_code(503);
                    let _gone = request.respond(answer.unwrap_or_else(failed));
                }
            });
        }
    });
    Ok(())
}
