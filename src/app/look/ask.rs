//! Asking a mesh that runs somewhere.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use ureq::http::Response;
use ureq::typestate::WithoutBody;
use ureq::{Agent, Body, RequestBuilder};

use super::Failed;
use super::paper::harmless;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer that is read.
const MOST: u64 = 256 * 1024 * 1024;

/// A mesh somewhere.
pub(super) struct Mesh {
    agent: Agent,
    /// Without a slash at the end.
    pub(super) url: String,
    token: Option<String>,
    token_file: Option<PathBuf>,
}

impl Mesh {
    /// The mesh at `url`; with a file, its token is shown.
    pub(super) fn at(url: &str, token_file: Option<PathBuf>) -> Result<Self, Failed> {
        let bare = url.trim_end_matches('/');
        let is_url = ["http://", "https://"].iter().any(|scheme| bare.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
        if !is_url || !bare.bytes().all(|b| b.is_ascii_graphic()) {
            let why = format!("--url: {} is no URL such as http://localhost:3000", crate::model::shown_url(url));
            return Err(Failed::Usage(why));
        }
        let token = token_file.as_ref().map(|file| {
            let of_file = |why: String| Failed::Usage(format!("--token-file: {}: {why}", harmless(&file.to_string_lossy())));
            let text = fs::read_to_string(file).map_err(|error| of_file(error.to_string()))?;
            let token = text.trim();
            let fits = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
            if fits { Ok(token.to_owned()) } else { Err(of_file("it does not hold one token on one line".to_owned())) }
        });
        let config =
            Agent::config_builder().proxy(None).http_status_as_error(false).max_redirects(0).timeout_global(Some(PATIENCE)).build();
        Ok(Self { agent: config.into(), url: bare.to_owned(), token: token.transpose()?, token_file })
    }

    /// Asks for something that is answered as JSON.
    pub(super) fn ask(&self, path: &str) -> Result<Value, Failed> {
        let answer = self.request(path, "application/json").call().map_err(|error| self.unreachable(&error))?;
        self.judge(path, answer)
    }

    /// Asks for something that is answered bit by bit, for as long as it takes.
    pub(super) fn listen(&self, path: &str) -> Result<impl Read + use<>, Failed> {
        let request = self.request(path, "application/x-ndjson, application/json").config();
        let request = request.timeout_global(None).timeout_connect(Some(PATIENCE)).timeout_recv_response(Some(PATIENCE)).build();
        let answer = request.call().map_err(|error| self.unreachable(&error))?;
        if answer.status() == 200 {
            return Ok(answer.into_body().into_with_config().limit(u64::MAX).reader());
        }
        // Whatever else it says, it is no answer to this.
        Err(self.judge(path, answer).err().unwrap_or_else(|| self.strange(path, 200)))
    }

    fn request(&self, path: &str, accept: &str) -> RequestBuilder<WithoutBody> {
        let request = self.agent.get(format!("{}{path}", self.url)).header("accept", accept);
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    /// Takes in an answer, whole.
    fn judge(&self, path: &str, mut answer: Response<Body>) -> Result<Value, Failed> {
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(MOST).read_to_vec().map_err(|error| self.unreachable(&error))?;
        let json: Option<Value> = serde_json::from_slice(&body).ok();
        let said = json.as_ref().and_then(|json| json["error"].as_str()).map(harmless);
        match (status, json) {
            (200, Some(json)) => Ok(json),
            (401 | 403, _) => Err(Failed::NotAllowed(self.not_allowed(status, said))),
            (_, Some(_)) if said.is_some() => Err(Failed::Refused(said.unwrap_or_default())),
            _ => Err(self.strange(path, status)),
        }
    }

    fn unreachable(&self, error: &ureq::Error) -> Failed {
        Failed::Unreachable(harmless(&self.url), harmless(&plain(error)))
    }

    fn strange(&self, path: &str, status: u16) -> Failed {
        Failed::Refused(format!("{}{path} answered status {status} and no JSON; is that a weft?", harmless(&self.url)))
    }

    fn not_allowed(&self, status: u16, said: Option<String>) -> String {
        let said = said.unwrap_or_else(|| format!("status {status}"));
        match &self.token_file {
            None => format!("{} wants a token: {said}; --token-file FILE shows one", harmless(&self.url)),
            Some(file) => {
                let file = harmless(&file.to_string_lossy());
                let what = if status == 401 { "does not know the token" } else { "does not allow this to the token" };
                format!("{} {what} in {file}: {said}", harmless(&self.url))
            }
        }
    }
}

/// Why there was no answer, in plain words.
fn plain(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        ureq::Error::HostNotFound => "its host name does not resolve".to_owned(),
        ureq::Error::Timeout(_) => "no answer in time".to_owned(),
        other => other.to_string(),
    }
}
