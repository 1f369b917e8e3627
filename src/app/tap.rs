//! `weft tap`: calls of a running mesh as they happen, a line each.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use lexopt::{Arg, Parser, ValueExt};
use serde_json::Value;

use crate::model::shown;

/// How to use it.
pub(super) const USAGE: &str =
    "usage: weft tap [--url URL] [--token-file FILE] [--service NAME] [--status 5xx] [--slower-than-ms N] [--limit N] [--json]";
/// How long the mesh may take to begin.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest line, in bytes; a mesh sends no longer ones.
const LONGEST: u64 = 256 * 1024;

/// What to show, and of which mesh.
#[derive(PartialEq, Eq, Debug)]
struct Tap {
    url: String,
    token_file: Option<OsString>,
    query: String,
    json: bool,
}

/// Why there is nothing (more) to show.
#[derive(Debug)]
pub(super) enum TapError {
    /// The words are not understood.
    Usage(String),
    /// The mesh is not there, or has refused.
    Mesh(String),
}

/// Shows calls until the mesh ends, as many as may be have been shown, or nobody reads.
pub(super) fn run(words: &[OsString]) -> Result<(), TapError> {
    let tap = Tap::parse(words).map_err(TapError::Usage)?;
    let host = tap.url.strip_prefix("http://").ok_or_else(|| TapError::Usage(format!("{} is not an http:// address", shown(&tap.url))))?;
    let host = host.trim_end_matches('/');
    let mesh = |error: io::Error| TapError::Mesh(format!("no mesh answers at {}: {error}", tap.url));
    let token = match &tap.token_file {
        None => String::new(),
        Some(file) => {
            let unreadable = |error| TapError::Usage(format!("the token file {} cannot be read: {error}", shown(&file.to_string_lossy())));
            format!("authorization: Bearer {}\r\n", std::fs::read_to_string(file).map_err(unreadable)?.trim())
        }
    };
    let mut stream = connect(host).map_err(mesh)?;
    // In HTTP/1.0, so that the answer is lines and nothing else.
    let request =
        format!("GET /tap{} HTTP/1.0\r\nhost: {host}\r\naccept: application/x-ndjson, application/json\r\n{token}\r\n", tap.query);
    stream.write_all(request.as_bytes()).map_err(mesh)?;
    let mut answer = BufReader::new(stream);
    let status = head(&mut answer).map_err(mesh)?;
    if status != 200 {
        let mut why = String::new();
        // What has come of it is enough.
        let _ = answer.take(LONGEST).read_to_string(&mut why);
        let error: Value = serde_json::from_str(&why).unwrap_or_default();
        let why = error.get("error").and_then(Value::as_str).map_or_else(|| format!("status {status}"), str::to_owned);
        return Err(TapError::Mesh(format!("the mesh says: {}", why.escape_debug())));
    }
    answer.get_ref().set_read_timeout(None).map_err(mesh)?;
    let mut line = String::new();
    loop {
        line.clear();
        if answer.by_ref().take(LONGEST).read_line(&mut line).map_err(mesh)? == 0 {
            return Ok(());
        }
        let text = if tap.json { line.trim_end().to_owned() } else { for_a_person(&line) };
        if writeln!(io::stdout(), "{text}").is_err() {
            // Nobody reads any more.
            return Ok(());
        }
    }
}

impl Tap {
    fn parse(words: &[OsString]) -> Result<Self, String> {
        let mut tap = Self { url: "http://localhost:3000".to_owned(), token_file: None, query: String::new(), json: false };
        let mut parser = Parser::from_args(words);
        while let Some(word) = parser.next().map_err(|error| error.to_string())? {
            let name = match word {
                Arg::Long("json") => {
                    tap.json = true;
                    continue;
                }
                Arg::Long("url") => {
                    tap.url = text(&mut parser)?;
                    continue;
                }
                Arg::Long("token-file") => {
                    tap.token_file = Some(parser.value().map_err(|error| error.to_string())?);
                    continue;
                }
                Arg::Long("service") => "service",
                Arg::Long("status") => "status",
                Arg::Long("limit") => "limit",
                Arg::Long("slower-than-ms") => "slowerThanMs",
                _ => return Err(USAGE.to_owned()),
            };
            let value = text(&mut parser)?;
            tap.query.push(if tap.query.is_empty() { '?' } else { '&' });
            tap.query.push_str(name);
            tap.query.push('=');
            tap.query.extend(value.bytes().map(|byte| {
                if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") }
            }));
        }
        Ok(tap)
    }
}

fn text(parser: &mut Parser) -> Result<String, String> {
    parser.value().and_then(|value| value.string()).map_err(|error| error.to_string())
}

fn connect(host: &str) -> io::Result<TcpStream> {
    let with_port =
        if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) { host.to_owned() } else { format!("{host}:80") };
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in with_port.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Reads the head of the answer; its status.
fn head(answer: &mut impl BufRead) -> io::Result<u16> {
    let mut first = String::new();
    answer.take(LONGEST).read_line(&mut first)?;
    let status = first.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if answer.take(LONGEST).read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(status)
}

/// `status method service path time: each attempt, with what came of it`.
fn for_a_person(line: &str) -> String {
    let Ok(call) = serde_json::from_str::<Value>(line) else { return line.trim_end().escape_debug().to_string() };
    let word = |of: &Value, key: &str| of.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
    let number = |of: &Value, key: &str| of.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    let attempt = |attempt: &Value| {
        let came = attempt.get("status").map_or_else(|| word(attempt, "failure"), Value::to_string);
        format!("{} {came} {:.1} ms", word(attempt, "instance"), number(attempt, "durationMs"))
    };
    let none = Vec::new();
    let attempts: Vec<String> = call.get("attempts").and_then(Value::as_array).unwrap_or(&none).iter().map(attempt).collect();
    format!(
        "{} {} {} {} {:.1} ms{}{}",
        number(&call, "status"),
        word(&call, "method"),
        word(&call, "service"),
        word(&call, "path"),
        number(&call, "durationMs"),
        call.get("reason").and_then(Value::as_str).map_or_else(String::new, |reason| format!(" {reason}")),
        if attempts.is_empty() { String::new() } else { format!(": {}", attempts.join(", then ")) },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Tap, String> {
        Tap::parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn words_become_a_query() {
        let tap = parse(&["--service", "a b", "--status=5xx", "--limit", "3", "--json"]).expect("fine");
        assert_eq!((tap.query.as_str(), tap.json), ("?service=a%20b&status=5xx&limit=3", true));
        assert_eq!(parse(&[]).expect("fine").url, "http://localhost:3000");
        for words in [&["--limit"][..], &["--what"], &["what"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn a_call_is_shown_on_one_line() {
        let line = r#"{"service":"s","method":"GET","path":"/x","status":503,"reason":"upstream_status","durationMs":12.34,
            "attempts":[{"instance":"a","status":500,"durationMs":1.2},{"instance":"b","failure":"upstream_connect","durationMs":0.3}]}"#;
        assert_eq!(for_a_person(line), "503 GET s /x 12.3 ms upstream_status: a 500 1.2 ms, then b upstream_connect 0.3 ms");
        assert_eq!(for_a_person("\u{1b}[31m\n"), "\\u{1b}[31m");
    }
}
