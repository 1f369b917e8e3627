//! A cluster: whoever of its members answers is asked, with a token where it wants one, until the answer or the deadline is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::Config;
use super::line::{Cord, Identity, LONGEST, Line, Lines, password};
use super::wire::{self, Admitted, Complaint};
use crate::model::sync::Locked;
use crate::model::time::{Clock, SystemClock};
use crate::model::{HealthTarget, Invalid, shown};

/// How long one member may take where there is another one to ask: a leader is lost and found in less than two of these.
const PATIENCE: Duration = Duration::from_millis(600);
/// When all have refused, they are asked again after this.
const PAUSE: Duration = Duration::from_millis(50);
/// Less than this is not worth an attempt.
const LEAST: Duration = Duration::from_millis(5);

/// Codes of gRPC that mean: with a (new) token it may work.
const UNAUTHENTICATED: u64 = 16;
const NO_USER: &str = "user name is empty";
/// That a lease is not there.
const NOT_FOUND: u64 = 5;

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// No member has confirmed it in time. Whether it was done is not known.
    Unreachable(String),
    /// It was refused.
    Refused { code: u64, why: String },
    /// The answer is longer than any that is taken in.
    TooLong,
}

impl Fault {
    /// Whether something that was named is not there.
    pub(super) const fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: NOT_FOUND, .. })
    }

    pub(super) fn why(&self) -> &str {
        match self {
            Self::Unreachable(why) | Self::Refused { why, .. } => why,
            Self::TooLong => "etcd says more at once than is taken in",
        }
    }
}

struct User {
    name: String,
    password_file: String,
}

pub(super) struct Client {
    targets: Vec<HealthTarget>,
    lines: Vec<Line>,
    identity: Identity,
    /// The one that is asked first.
    current: AtomicUsize,
    user: Option<User>,
    /// Guarded: what the user was given last.
    token: Locked<Option<String>>,
}

impl Client {
    pub(super) fn new(config: &Config) -> Result<Self, Invalid> {
        config.check_together()?;
        let (targets, identity) = (config.targets()?, Identity::read(config)?);
        let lines = targets.iter().map(|target| Line::new(target, &identity, None)).collect();
        let user =
            (!config.username.is_empty()).then(|| User { name: config.username.clone(), password_file: config.password_file.clone() });
        Ok(Self { targets, lines, identity, current: AtomicUsize::new(0), user, token: Locked::default() })
    }

    /// How many members there are to ask.
    pub(super) const fn members(&self) -> usize {
        self.lines.len()
    }

    /// Asks one member after another until one has an answer that counts, or until `until`.
    pub(super) fn ask<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize, until: Instant) -> Result<T, Fault> {
        let body = serde_json::to_vec(body).map_err(|error| Fault::Unreachable(error.to_string()))?;
        let mut last = "there was no time to ask".to_owned();
        let mut renewed = false;
        for tried in 1_usize.. {
            let left = until.saturating_duration_since(SystemClock.now());
            if left < LEAST {
                break;
            }
            let at = self.current.load(Ordering::Relaxed);
            let Some(line) = self.lines.get(at % self.lines.len().max(1)) else { break };
            let within = if self.lines.len() > 1 { left.min(PATIENCE) } else { left };
            match self.ask_one(line, path, &body, within) {
                Ok(answer) => {
                    // What makes no sense may be repeated, and that be long.
                    let no_sense = |error: serde_json::Error| format!("{} makes no sense: {}", line.name(), shown(&error.to_string()));
                    return serde_json::from_slice(&answer).map_err(|error| Fault::Unreachable(no_sense(error)));
                }
                Err(Fault::Refused { code, why }) if !renewed && self.user.is_some() && wants_token(code, &why) => {
                    renewed = true;
                    self.token.with(|token| *token = None);
                }
                Err(Fault::Unreachable(why)) => {
                    last = format!("{} {why}", line.name());
                    self.pass_on(at);
                    if tried % self.lines.len() == 0 {
                        SystemClock.park_until((SystemClock.now() + PAUSE).min(until));
                    }
                }
                Err(fault) => return Err(fault),
            }
        }
        Err(Fault::Unreachable(last))
    }

    /// The next member is asked first, unless somebody has passed on from this one already.
    pub(super) fn pass_on(&self, at: usize) {
        // That somebody has is as good.
        let _ = self.current.compare_exchange(at, at.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The one that is asked first.
    pub(super) fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// Opens a stream at one member, on a connection of its own that `cord` can cut, for `within` at most.
    pub(super) fn stream(&self, at: usize, path: &str, body: &impl Serialize, within: Duration, cord: &Arc<Cord>) -> Result<Lines, Fault> {
        let unreachable = |why: String| Fault::Unreachable(why);
        let Some(target) = self.targets.get(at % self.targets.len().max(1)) else { return Err(unreachable("nobody to ask".to_owned())) };
        let line = Line::new(target, &self.identity, Some(Arc::clone(cord)));
        let body = serde_json::to_vec(body).map_err(|error| unreachable(error.to_string()))?;
        let token = self.token(&line, PATIENCE)?;
        let named = |why: String| unreachable(format!("{} {why}", line.name()));
        let (status, mut lines) = line.stream(path, &body, token.as_deref(), within).map_err(named)?;
        if status == 200 {
            return Ok(lines);
        }
        let text = lines.next().unwrap_or_default();
        Err(named(format!("answers {status}: {}", shown(&complaint(&text).message))))
    }

    /// Forgets the token; another one is asked for when one is needed.
    pub(super) fn forget_token(&self) {
        self.token.with(|token| *token = None);
    }

    fn ask_one(&self, line: &Line, path: &str, body: &[u8], within: Duration) -> Result<Vec<u8>, Fault> {
        let token = self.token(line, within)?;
        let (status, answer) = line.ask(path, body, token.as_deref(), within).map_err(Fault::Unreachable)?;
        if answer.len() as u64 > LONGEST {
            return Err(Fault::TooLong);
        }
        if status == 200 {
            return Ok(answer);
        }
        let Complaint { message, code } = complaint(&answer);
        match status {
            400 | 401 | 403 | 404 | 409 | 412 | 429 => Err(Fault::Refused { code, why: format!("etcd says: {}", shown(&message)) }),
            _ => Err(Fault::Unreachable(format!("answers {status}: {}", shown(&message)))),
        }
    }

    /// The token to show, asked for if need be; none where etcd wants none.
    fn token(&self, line: &Line, within: Duration) -> Result<Option<String>, Fault> {
        let Some(user) = &self.user else { return Ok(None) };
        if let Some(token) = self.token.with(|token| token.clone()) {
            return Ok(Some(token));
        }
        let refused = |why: String| Fault::Refused { code: UNAUTHENTICATED, why };
        let password = password(&user.password_file).map_err(|why| refused(format!("{} {why}", shown(&user.password_file))))?;
        let body = json!({"name": user.name, "password": password}).to_string();
        let (status, answer) = line.ask("/v3/auth/authenticate", body.as_bytes(), None, within).map_err(Fault::Unreachable)?;
        match status {
            200 => {
                let Admitted { token } = serde_json::from_slice(&answer).unwrap_or_default();
                self.token.with(|known| *known = Some(token.clone()));
                Ok(Some(token))
            }
            400 | 401 | 403 => {
                let why = complaint(&answer).message;
                // A cluster whose gates are still open wants nobody's name.
                if why.contains("authentication is not enabled") { Ok(None) } else { Err(refused(format!("etcd says: {}", shown(&why)))) }
            }
            _ => Err(Fault::Unreachable(format!("answers {status}: {}", shown(&complaint(&answer).message)))),
        }
    }
}

fn wants_token(code: u64, why: &str) -> bool {
    code == UNAUTHENTICATED || why.contains(NO_USER) || why.contains("invalid auth token")
}

/// What stands in a refusal, whole or as the line of a stream.
fn complaint(answer: &[u8]) -> Complaint {
    let line = serde_json::from_slice::<wire::Line<wire::Done>>(answer).ok().and_then(|line| line.error);
    line.or_else(|| serde_json::from_slice(answer).ok())
        .unwrap_or_else(|| Complaint { message: String::from_utf8_lossy(answer).into_owned(), code: 0 })
}
