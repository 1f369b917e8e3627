//! A sample service for the demonstration: HTTP/1.1 over blocking sockets, a thread per connection, just enough to be called.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::model::time::{Clock, SystemClock};

/// A running sample service.
pub(super) struct Sample {
    /// Which instance it is.
    pub(super) id: &'static str,
    /// Where it listens.
    pub(super) address: SocketAddr,
}

/// One request, as far as the sample looks at it.
struct Asked {
    method: String,
    path: String,
    body: Vec<u8>,
    close: bool,
}

impl Sample {
    /// Starts a service on `port` of loopback, or on a free port when that is taken.
    pub(super) fn start(id: &'static str, port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)))?;
        let address = listener.local_addr()?;
        let served = Arc::new(AtomicU64::new(0));
        thread::Builder::new().name(format!("sample {id}")).spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = Arc::clone(&served);
                // A connection that gets no thread is closed; the mesh will open another.
                let _ = thread::Builder::new().spawn(move || talk(id, stream, &served));
            }
        })?;
        Ok(Self { id, address })
    }
}

/// Answers the requests of one connection until it ends.
fn talk(id: &str, stream: TcpStream, served: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    while let Some(asked) = listen(&mut reader)? {
        let n = served.fetch_add(1, Ordering::Relaxed);
        let (status, body) = answer(id, &asked, n);
        let body = body.to_string();
        let head = format!("HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        writer.write_all((head + &body).as_bytes())?;
        if asked.close {
            break;
        }
    }
    Ok(())
}

/// Reads one request; `None` at the end of the connection.
fn listen(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Asked>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or("/").to_owned());
    let (mut length, mut close) = (0, false);
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "connection" => close = value.trim().eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    Ok(Some(Asked { method, path, body, close }))
}

/// What the sample services answer.
fn answer(id: &str, asked: &Asked, n: u64) -> (u16, Value) {
    let segments: Vec<&str> = asked.path.split(['/', '?']).filter(|segment| !segment.is_empty()).collect();
    match (asked.method.as_str(), segments.as_slice()) {
        ("GET", ["health"]) => (200, json!({"status": "ok"})),
        ("GET", ["api", "users", user]) => (200, json!({"id": user, "name": "Ada", "servedBy": id})),
        ("POST", ["api", "payments"]) => {
            let order: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
            (201, json!({"paid": true, "order": order, "servedBy": id}))
        }
        // Fails every other time.
        (_, ["flaky", ..]) if n.is_multiple_of(2) => (500, json!({"error": "an unlucky moment", "servedBy": id})),
        (_, ["flaky", ..]) => (200, json!({"lucky": true, "servedBy": id})),
        (_, ["slow", ms, ..]) => {
            let wait = Duration::from_millis(ms.parse::<u64>().unwrap_or(1000).min(60_000));
            let until = SystemClock.now() + wait;
            while SystemClock.now() < until {
                SystemClock.park_until(until);
            }
            (200, json!({"waitedMs": wait.as_millis(), "servedBy": id}))
        }
        (_, ["status", status, ..]) => (status.parse().unwrap_or(500), json!({"servedBy": id})),
        _ => (404, json!({"error": "no such path", "servedBy": id})),
    }
}
