//! What can go wrong: a bad value, a failed attempt, a failed call, and the one table of reasons callers see.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{InstanceId, Method, RequestId, ServiceName, StaticAnswer, on_one_line};

/// A value that is not what its field allows. `field` is as the user wrote it, `why` completes the sentence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Invalid {
    /// The field, in the spelling of the documentation.
    pub field: Cow<'static, str>,
    /// What is wrong with it, and what is allowed.
    pub why: String,
}

impl Invalid {
    /// A fault in `field`. Both may repeat what a stranger sent, and are made fit for a log.
    pub fn new(field: impl Into<Cow<'static, str>>, why: impl Into<String>) -> Self {
        let (field, why) = (field.into(), why.into());
        let field = match on_one_line(&field, 256) {
            Cow::Owned(changed) => changed.into(),
            Cow::Borrowed(_) => field,
        };
        let why = match on_one_line(&why, 1024) {
            Cow::Owned(changed) => changed,
            Cow::Borrowed(_) => why,
        };
        Self { field, why }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.why)
    }
}

impl std::error::Error for Invalid {}

/// How an attempt failed without an answer. Says in which phase, and whether the instance can have processed the request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// No connection: the instance cannot have seen the request.
    Connect(ConnectFailure),
    /// A kept-alive connection turned out to be closed before one byte of the answer came. Says nothing about the instance's health.
    Stale {
        /// Whether the whole request had been written, so that it may have been processed.
        written: bool,
    },
    /// The connection broke after the request was sent and before the whole answer was there.
    Reset,
    /// The time of this attempt was over.
    Timeout,
    /// The answer was not acceptable HTTP. Says what was wrong.
    Protocol(Cow<'static, str>),
    /// The answer is longer than so many bytes, and must not be where it is collected whole. Says nothing about the instance's health.
    TooLong(usize),
}

/// Why no connection could be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConnectFailure {
    /// The address answered that nobody listens there.
    Refused,
    /// Nothing answered in time.
    TimedOut,
    /// No way to that address.
    Unreachable,
    /// The host name has no address (yet).
    NoAddress,
    /// The address is not allowed by policy.
    NotAllowed,
    /// This machine has nothing left to make a connection with, such as descriptors; says nothing about the instance.
    NoMeans,
    /// The TLS handshake failed. Says how.
    Tls(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(why) => why.fmt(f),
            Self::Stale { .. } => f.write_str("the kept-alive connection had been closed"),
            Self::Reset => f.write_str("connection broken before the whole answer came"),
            Self::Timeout => f.write_str("no whole answer in time"),
            Self::Protocol(what) => write!(f, "unacceptable answer: {what}"),
            Self::TooLong(most) => write!(f, "unacceptable answer: the body is longer than {most} bytes"),
        }
    }
}

impl fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::TimedOut => f.write_str("no connection in time"),
            Self::Unreachable => f.write_str("address unreachable"),
            Self::NoAddress => f.write_str("host name does not resolve"),
            Self::NotAllowed => f.write_str("address not allowed"),
            Self::NoMeans => f.write_str("no descriptor left to connect with"),
            Self::Tls(why) => write!(f, "TLS handshake failed: {}", super::shown(why)),
        }
    }
}

/// A limit that can be full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// `limits.maxQueue`: calls of one service waiting for a slot.
    Queue,
    /// `limits.queueTimeoutMs`: a call waited as long as it may.
    QueueTimeout,
    /// `queue`: requests waiting for a worker of the API server.
    Workers,
    /// `rateLimit.ratePerSecond`: calls of one service.
    Rate,
    /// `rateLimit.perCaller.ratePerSecond`: calls of one caller to one service.
    CallerRate,
    /// `limits.maxInFlightPerCaller`: calls of one caller to one service under way.
    CallerInFlight,
    /// Open files, as the system allows them: there was none left to connect with.
    Files,
    /// Long polls waiting for a change.
    Watchers,
    /// `telemetry.maxTaps`: taps that are open.
    Taps,
    /// `maxBufferedBytes`: requests and answers held in memory.
    Buffers,
    /// `maxServices`.
    Services,
    /// `maxInstancesPerService`.
    Instances,
    /// `maxInstances` of a token: instances that its caller has registered.
    InstancesOfCaller,
}

impl Limit {
    /// Those that refuse calls.
    pub const OF_CALLS: [Self; 7] =
        [Self::Queue, Self::QueueTimeout, Self::Workers, Self::Rate, Self::CallerRate, Self::CallerInFlight, Self::Files];
    /// Those that refuse other requests.
    pub const OF_THE_MESH: [Self; 5] = [Self::Watchers, Self::Taps, Self::Services, Self::Instances, Self::InstancesOfCaller];

    /// The name of the setting that bounds it.
    pub const fn setting(self) -> &'static str {
        match self {
            Self::Queue => "maxQueue",
            Self::QueueTimeout => "queueTimeoutMs",
            Self::Workers => "queue",
            Self::Rate => "rateLimit.ratePerSecond",
            Self::CallerRate => "rateLimit.perCaller.ratePerSecond",
            Self::CallerInFlight => "limits.maxInFlightPerCaller",
            Self::Files => "open files",
            Self::Watchers => "maxWatchers",
            Self::Taps => "telemetry.maxTaps",
            Self::Buffers => "maxBufferedBytes",
            Self::Services => "maxServices",
            Self::Instances => "maxInstancesPerService",
            Self::InstancesOfCaller => "maxInstances of the token",
        }
    }
}

/// Why a call failed: the cause of its last attempt, or what kept it from making one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cause {
    /// No such service is registered.
    UnknownService,
    /// Instances are registered, but none is available.
    NoHealthyInstance,
    /// The service's circuit breaker is open.
    CircuitOpen {
        /// Until a trial is let through.
        retry_after: Duration,
    },
    /// A limit is full.
    Overloaded(Limit),
    /// It is called too often.
    RateLimited {
        /// By which limit.
        limit: Limit,
        /// Until the next call may come.
        retry_after: Duration,
    },
    /// The last attempt got no connection.
    Connect(ConnectFailure),
    /// The last attempt's connection broke.
    Reset,
    /// The last attempt's answer was not acceptable HTTP.
    Protocol(Cow<'static, str>),
    /// The last attempt answered with a failing status.
    Status(u16),
    /// The last attempt's time was over.
    Timeout,
    /// The time of the whole call was over.
    DeadlineExceeded,
    /// The call passed through too many meshes.
    LoopDetected,
    /// The service's rules do not let this caller in.
    NotAllowed,
    /// A route was told to fail it with this status.
    FaultInjected(u16),
    /// The mesh is shutting down.
    Draining,
}

impl Cause {
    /// The word callers see.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::UnknownService => Reason::UnknownService,
            Self::NoHealthyInstance => Reason::NoHealthyInstance,
            Self::CircuitOpen { .. } => Reason::CircuitOpen,
            Self::Overloaded(_) => Reason::Overloaded,
            Self::RateLimited { .. } => Reason::RateLimited,
            Self::Connect(_) => Reason::UpstreamConnect,
            Self::Reset => Reason::UpstreamReset,
            Self::Protocol(_) => Reason::UpstreamProtocol,
            Self::Status(_) => Reason::UpstreamStatus,
            Self::Timeout => Reason::UpstreamTimeout,
            Self::DeadlineExceeded => Reason::DeadlineExceeded,
            Self::LoopDetected => Reason::LoopDetected,
            Self::NotAllowed => Reason::Forbidden,
            Self::FaultInjected(_) => Reason::FaultInjected,
            Self::Draining => Reason::Draining,
        }
    }

    /// The status of an HTTP answer that says so.
    pub const fn status(&self) -> u16 {
        match self {
            Self::FaultInjected(status) => *status,
            _ => self.reason().status(),
        }
    }
}

impl From<Failure> for Cause {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Connect(ConnectFailure::NoMeans) => Self::Overloaded(Limit::Files),
            Failure::Connect(why) => Self::Connect(why),
            Failure::Stale { .. } | Failure::Reset => Self::Reset,
            Failure::Timeout => Self::Timeout,
            Failure::Protocol(what) => Self::Protocol(what),
            Failure::TooLong(most) => Self::Protocol(format!("the body is longer than {most} bytes").into()),
        }
    }
}

/// A failed call, with all an operator needs to know why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CallError {
    /// The service that was called.
    pub service: ServiceName,
    /// What went wrong last.
    pub cause: Cause,
    /// How many attempts were made.
    pub attempts: u32,
    /// The instance of the last attempt.
    pub instance: Option<InstanceId>,
    /// The id of the call.
    pub request_id: RequestId,
    /// A retry was left out because the request may have been processed and this method must not be repeated unasked.
    pub retry_skipped: Option<Method>,
    /// A retry was left out because the service's retry budget is empty.
    pub budget_exhausted: bool,
    /// No attempt can have been processed by an instance.
    pub not_sent: bool,
    /// What the caller is to be answered instead, if the policy says so.
    pub fallback: Option<Arc<StaticAnswer>>,
}

impl CallError {
    /// The word for why, as the HTTP API says it.
    pub const fn reason(&self) -> Reason {
        self.cause.reason()
    }

    /// The status of an HTTP answer that says so.
    pub const fn status(&self) -> u16 {
        self.cause.status()
    }

    /// The status of the last answer, when the cause is one.
    pub const fn upstream_status(&self) -> Option<u16> {
        match self.cause {
            Cause::Status(status) => Some(status),
            _ => None,
        }
    }

    /// The limit that was full or too low, when the cause is one.
    pub const fn limit(&self) -> Option<Limit> {
        match self.cause {
            Cause::Overloaded(limit) | Cause::RateLimited { limit, .. } => Some(limit),
            _ => None,
        }
    }

    /// When it makes sense to call again.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self.cause {
            Cause::CircuitOpen { retry_after } | Cause::RateLimited { retry_after, .. } => Some(retry_after),
            Cause::Overloaded(_) => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = &self.service;
        if self.attempts > 0 {
            let plural = if self.attempts == 1 { "" } else { "s" };
            write!(f, "Failed to call {service} after {} attempt{plural}: ", self.attempts)?;
        }
        match &self.cause {
            Cause::UnknownService => write!(f, "no such service is registered: {service}"),
            Cause::NoHealthyInstance => write!(f, "no healthy instance available for service: {service}"),
            Cause::CircuitOpen { .. } => write!(f, "circuit breaker is OPEN for {service}"),
            Cause::Overloaded(limit) => write!(f, "{service} is overloaded: the limit {} is reached", limit.setting()),
            Cause::RateLimited { limit, .. } => write!(f, "{service} is called too often: the limit {} is reached", limit.setting()),
            Cause::Connect(why) => why.fmt(f),
            Cause::Reset => Failure::Reset.fmt(f),
            Cause::Protocol(what) => write!(f, "unacceptable answer: {what}"),
            Cause::Status(status) => write!(f, "service returned status {status}"),
            Cause::Timeout => write!(f, "no whole answer within the time of one attempt"),
            Cause::DeadlineExceeded => f.write_str("the deadline of the call has passed"),
            Cause::LoopDetected => write!(f, "the call to {service} has passed through too many meshes"),
            Cause::NotAllowed => write!(f, "the rules of {service} do not let this caller make this call"),
            Cause::FaultInjected(status) => write!(f, "a fault was injected: the route says to answer {status}"),
            Cause::Draining => f.write_str("the mesh is shutting down"),
        }
    }
}

impl std::error::Error for CallError {}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $word:literal, $status:literal;)*) => {
        /// Why the mesh refused or failed something: one word for machines and the HTTP status that goes with it.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word in `"reason"` and `x-mesh-reason`.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The HTTP status of an answer with this reason.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }
        }
    };
}

reasons! {
    /// Malformed JSON, or a missing or invalid field.
    BadRequest = "bad_request", 400;
    /// There was no token, or no valid one.
    Unauthorized = "unauthorized", 401;
    /// The token is for something else, a rule of the service lets this caller not in, or a browser was made to send the request.
    Forbidden = "forbidden", 403;
    /// The address is refused by policy.
    UpstreamNotAllowed = "upstream_not_allowed", 403;
    /// No such path, service or instance.
    NotFound = "not_found", 404;
    /// The path exists, but not with this method.
    MethodNotAllowed = "method_not_allowed", 405;
    /// The body is larger than allowed.
    PayloadTooLarge = "payload_too_large", 413;
    /// The head of the request is larger than allowed.
    HeadersTooLarge = "headers_too_large", 431;
    /// The path and query are longer than allowed.
    UriTooLong = "uri_too_long", 414;
    /// The request did not come in time.
    RequestTimeout = "request_timeout", 408;
    /// A version of HTTP that is not spoken here.
    VersionNotSupported = "version_not_supported", 505;
    /// Something the mesh does not do, such as an upgrade to anything but a WebSocket.
    NotImplemented = "not_implemented", 501;
    /// It is called too often.
    RateLimited = "rate_limited", 429;
    /// No such service is registered.
    UnknownService = "unknown_service", 503;
    /// Registered, but no instance is available.
    NoHealthyInstance = "no_healthy_instance", 503;
    /// The circuit breaker is open.
    CircuitOpen = "circuit_open", 503;
    /// A limit is full.
    Overloaded = "overloaded", 503;
    /// The last attempt got no connection.
    UpstreamConnect = "upstream_connect", 503;
    /// The last attempt's connection broke.
    UpstreamReset = "upstream_reset", 503;
    /// The last attempt's answer was not acceptable HTTP.
    UpstreamProtocol = "upstream_protocol", 503;
    /// The last attempt answered with a failing status.
    UpstreamStatus = "upstream_status", 503;
    /// The last attempt's time was over, and no retry was allowed.
    UpstreamTimeout = "upstream_timeout", 504;
    /// The deadline of the call cut something short.
    DeadlineExceeded = "deadline_exceeded", 504;
    /// The call passed through too many meshes.
    LoopDetected = "loop_detected", 508;
    /// A route was told to fail the call; the status is the route's.
    FaultInjected = "fault_injected", 503;
    /// The mesh is shutting down.
    Draining = "draining", 503;
    /// The registry cannot confirm a write; nothing was changed.
    RegistryUnavailable = "registry_unavailable", 503;
    /// A fault in the mesh itself.
    Internal = "internal", 500;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(cause: Cause, attempts: u32) -> CallError {
        CallError {
            service: ServiceName::new("user-service").expect("valid"),
            cause,
            attempts,
            instance: None,
            request_id: RequestId::from_roll(1, 2),
            retry_skipped: None,
            budget_exhausted: false,
            not_sent: false,
            fallback: None,
        }
    }

    #[test]
    fn the_documented_sentences_are_said() {
        assert_eq!(error(Cause::Status(500), 4).to_string(), "Failed to call user-service after 4 attempts: service returned status 500");
        let open = Cause::CircuitOpen { retry_after: Duration::from_secs(1) };
        assert_eq!(error(open, 0).to_string(), "circuit breaker is OPEN for user-service");
        assert_eq!(error(Cause::NoHealthyInstance, 0).to_string(), "no healthy instance available for service: user-service");
    }

    #[test]
    fn every_reason_has_its_own_word() {
        for (i, a) in Reason::ALL.iter().enumerate() {
            assert!(Reason::ALL.iter().skip(i + 1).all(|b| a.word() != b.word()), "{}", a.word());
        }
    }
}
