//! What an instance does with one request.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use weft::model::{ConnectFailure, Failure, Headers};

use super::Gate;

/// One act of a script: what happens, how long it takes, and what has to happen first.
#[derive(Clone)]
pub struct Act {
    pub(super) what: What,
    pub(super) after: Duration,
    pub(super) gate: Option<Gate>,
    pub(super) meanwhile: Option<Arc<dyn Fn() + Send + Sync>>,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Answer {
        status: u16,
        headers: Headers,
        body: Vec<u8>,
        ending: Ending,
    },
    Fail(Failure),
    /// No connection comes about before the time for connecting is over.
    Unreachable,
    /// Nothing is answered before the time of the attempt is over.
    Hang,
    Panic,
}

/// How a body ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    Whole,
    CutOff,
    Stalls,
}

impl Act {
    const fn new(what: What) -> Self {
        Self { what, after: Duration::ZERO, gate: None, meanwhile: None }
    }

    /// This takes so many milliseconds.
    pub fn after(mut self, ms: u64) -> Self {
        self.after = Duration::from_millis(ms);
        self
    }

    /// This happens only once the gate lets the request through.
    pub fn behind(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// While the request is under way, this happens too.
    pub fn meanwhile(mut self, other: impl Fn() + Send + Sync + 'static) -> Self {
        self.meanwhile = Some(Arc::new(other));
        self
    }

    /// The answer has this header field.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let What::Answer { headers, .. } = &mut self.what {
            headers.append(name, value).expect("a header field");
        }
        self
    }

    /// The answer has this body.
    pub fn body(mut self, text: &str) -> Self {
        if let What::Answer { body, .. } = &mut self.what {
            *body = text.into();
        }
        self
    }

    /// The connection breaks before the body is whole.
    pub fn cut_off(mut self) -> Self {
        self.ends(Ending::CutOff);
        self
    }

    /// The body never ends.
    pub fn stalls(mut self) -> Self {
        self.ends(Ending::Stalls);
        self
    }

    fn ends(&mut self, how: Ending) {
        if let What::Answer { ending, .. } = &mut self.what {
            *ending = how;
        }
    }

    /// Whether the instance can have processed the request, as a caller who saw this would have to assume.
    pub(super) fn may_be_processed(&self) -> bool {
        match &self.what {
            // "Not now": the instance says itself that it has not.
            What::Answer { status, .. } => !matches!(status, 429 | 503),
            What::Fail(failure) => !matches!(failure, Failure::Connect(_) | Failure::Stale { written: false }),
            What::Hang => true,
            What::Unreachable | What::Panic => false,
        }
    }
}

impl fmt::Debug for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} after {:?}", self.what, self.after)
    }
}

/// Answers with this status.
pub fn answer(status: u16) -> Act {
    Act::new(What::Answer { status, headers: Headers::new(), body: Vec::new(), ending: Ending::Whole })
}

/// Answers 200.
pub fn ok() -> Act {
    answer(200)
}

/// Nobody listens.
pub fn refuse() -> Act {
    Act::new(What::Fail(Failure::Connect(ConnectFailure::Refused)))
}

/// Packets vanish.
pub fn unreachable() -> Act {
    Act::new(What::Unreachable)
}

/// Takes the request and breaks the connection.
pub fn reset() -> Act {
    Act::new(What::Fail(Failure::Reset))
}

/// Takes the request and never answers.
pub fn hang() -> Act {
    Act::new(What::Hang)
}

/// The kept-alive connection had been closed; whether before or after the request was `written` to it.
pub fn stale(written: bool) -> Act {
    Act::new(What::Fail(Failure::Stale { written }))
}

/// Answers what is not HTTP.
pub fn garbage() -> Act {
    Act::new(What::Fail(Failure::Protocol("not HTTP".into())))
}

/// The transport itself has a fault.
pub fn panics() -> Act {
    Act::new(What::Panic)
}
