//! The only ureq: how an attempt or a health check is sent, and what its errors mean.

use std::any::Any;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;
use ureq::config::Config;
use ureq::http::uri::{Authority, PathAndQuery, Scheme as UriScheme};
use ureq::http::{HeaderName, HeaderValue, Request, Response, Uri};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
#[cfg(feature = "tls")]
use ureq::unversioned::transport::Connector;
use ureq::unversioned::transport::NextTimeout;

use super::connection::{BUFFER, Dialer, carry, made};
#[cfg(feature = "tls")]
use super::securing::Securer;
use super::trust::Trust;
use crate::mesh::Member;
use crate::mesh::call::{Attempt, Connection as How};
use crate::mesh::ports::{Incoming, Outgoing, Probe, Transport};
use crate::model::{ConnectFailure, Failure, Headers, Host, Method, Scheme, authority};
use crate::policy::health::CheckResult;

/// Idle connections kept per instance.
const IDLE_CONNECTIONS: usize = 64;
/// How long a connection is kept idle: less than the keep-alive of common servers, so that they rarely close one under a request.
const IDLE_AGE: Duration = Duration::from_secs(4);

/// Sends attempts by ureq, one agent (and so one pool of connections) per instance.
#[derive(Clone, Default, Debug)]
pub struct Ureq {
    pub(super) trust: Trust,
}

/// What is kept per instance; its connections end with it.
struct Line {
    agent: Agent,
    scheme: UriScheme,
    authority: Option<Authority>,
    /// The times built into the agent: those of an attempt that nothing cuts short. Others cost a configuration of their own.
    usual: Times,
}

impl Transport for Ureq {
    fn send(&self, attempt: &Attempt, request: &Outgoing<'_>) -> Result<Incoming, Failure> {
        let member = &attempt.member;
        let times = Times { connect: attempt.connect, whole: attempt.timeout, fresh: attempt.fresh };
        let line = member.line(|| Line::new(member, times, &self.trust)).ok_or_else(|| malformed("another driver's line"))?;
        let call = request.call;
        let mut uri = ureq::http::uri::Parts::default();
        uri.scheme = Some(line.scheme.clone());
        uri.authority.clone_from(&line.authority);
        uri.path_and_query = Some(PathAndQuery::try_from(attempt.endpoint(call.endpoint.as_str())).map_err(malformed)?);
        let uri = Uri::from_parts(uri).map_err(malformed)?;
        // Of an attempt before this one.
        made();
        let answer = match (&call.body, call.method) {
            // Without a body, ureq would send these chunked.
            (None, Method::Post | Method::Put | Method::Patch) => line.run(uri, call.method, &request.headers, &[][..], times),
            (None, _) => line.run(uri, call.method, &request.headers, (), times),
            (Some(body), _) => line.run(uri, call.method, &request.headers, &**body, times),
        };
        let connection = made().map_or(How::Kept, How::Made);
        Ok(Incoming { connection, ..incoming(answer.map_err(failure_of)?)? })
    }

    fn probe(&self, probe: &Probe) -> CheckResult {
        let result = ask(probe, &self.trust);
        match result {
            Ok(status) => CheckResult::of_status(&probe.config, status),
            Err(Failure::Timeout | Failure::Connect(ConnectFailure::TimedOut)) => CheckResult::TimedOut,
            Err(Failure::Connect(ConnectFailure::NoMeans)) => CheckResult::NotMade,
            Err(_) => CheckResult::Unreachable,
        }
    }

    fn trust(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(self.trust.shared())
    }
}

#[derive(Clone, Copy, PartialEq)]
struct Times {
    connect: Duration,
    whole: Duration,
    /// Use no kept-alive connection.
    fresh: bool,
}

impl Line {
    fn new(member: &Arc<Member>, times: Times, trust: &Trust) -> Self {
        let usual = Times { fresh: false, ..times };
        Self {
            usual,
            agent: agent(Dialer::Member(Arc::downgrade(member)), (member.scheme, &member.host), usual, trust),
            scheme: uri_scheme(member.scheme),
            authority: Authority::try_from(&*member.authority).ok(),
        }
    }

    fn run(
        &self,
        uri: Uri,
        method: Method,
        headers: &Headers,
        body: impl ureq::AsSendBody,
        times: Times,
    ) -> Result<Response<ureq::Body>, ureq::Error> {
        let mut request = Request::new(body);
        *request.method_mut() = http_method(method);
        *request.uri_mut() = uri;
        request.headers_mut().reserve(headers.len() + 2);
        for (name, value) in headers.iter() {
            let (name, value) = (header_name(name), header_value(value));
            request.headers_mut().append(name.map_err(ureq::http::Error::from)?, value.map_err(ureq::http::Error::from)?);
        }
        if times == self.usual {
            return self.agent.run(request);
        }
        let mut config = self.agent.configure_request(request).timeout_connect(Some(times.connect)).timeout_global(Some(times.whole));
        if times.fresh {
            config = config.max_idle_age(Duration::ZERO);
        }
        self.agent.run(config.build())
    }
}

/// A header name; those of the mesh, which every attempt carries, without an allocation.
fn header_name(name: &str) -> Result<HeaderName, ureq::http::header::InvalidHeaderName> {
    static OURS: [HeaderName; 5] = [
        HeaderName::from_static("x-request-id"),
        HeaderName::from_static("x-service-mesh"),
        HeaderName::from_static("x-mesh-hops"),
        HeaderName::from_static("x-mesh-attempt"),
        HeaderName::from_static("x-request-timeout-ms"),
    ];
    match OURS.iter().find(|ours| ours.as_str() == name) {
        Some(ours) => Ok(ours.clone()),
        None => HeaderName::from_bytes(name.as_bytes()),
    }
}

/// A header value; the most common ones without an allocation.
fn header_value(value: &[u8]) -> Result<HeaderValue, ureq::http::header::InvalidHeaderValue> {
    match value {
        b"true" => Ok(HeaderValue::from_static("true")),
        b"1" => Ok(HeaderValue::from_static("1")),
        _ => HeaderValue::from_bytes(value),
    }
}

/// The one way an agent is made: no proxy from the environment, no redirect, no name look-up, no spare headers, small buffers.
#[cfg_attr(not(feature = "tls"), allow(unused_variables))] // Whom to trust matters where there is something to be secured.
fn agent(dialer: Dialer, (scheme, host): (Scheme, &Host), times: Times, trust: &Trust) -> Agent {
    let config = Config::builder()
        .proxy(None)
        .http_status_as_error(false)
        .max_redirects(0)
        .user_agent("")
        .accept("")
        .accept_encoding("")
        .input_buffer_size(BUFFER)
        .output_buffer_size(BUFFER)
        .max_response_header_size(BUFFER)
        .max_idle_connections(IDLE_CONNECTIONS)
        .max_idle_connections_per_host(IDLE_CONNECTIONS)
        .max_idle_age(IDLE_AGE)
        .timeout_connect(Some(times.connect))
        .timeout_global(Some(times.whole))
        .build();
    match scheme {
        Scheme::Http => Agent::with_parts(config, dialer, Nowhere),
        #[cfg(feature = "tls")]
        Scheme::Https => Agent::with_parts(config, dialer.chain(Securer { trust: trust.clone(), host: host.clone() }), Nowhere),
        // Registration refuses https where it is not built in.
        #[cfg(not(feature = "tls"))]
        Scheme::Https => Agent::with_parts(config, Dialer::Fixed(Vec::new()), Nowhere),
    }
}

/// Answers every name with nothing in particular: where a connection goes is the dialer's business.
#[derive(Debug)]
pub(super) struct Nowhere;

impl Resolver for Nowhere {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        addresses.push(SocketAddr::from(([0, 0, 0, 0], 0)));
        Ok(addresses)
    }
}

/// Asks for health on a connection of its own.
fn ask(probe: &Probe, trust: &Trust) -> Result<u16, Failure> {
    let target = &probe.target;
    let addresses = probe.addresses.iter().map(|ip| SocketAddr::new(*ip, target.port.get())).collect();
    let uri = Uri::builder()
        .scheme(uri_scheme(target.scheme))
        .authority(authority(&target.host, target.port))
        .path_and_query(target.endpoint.as_str())
        .build()
        .map_err(malformed)?;
    let mut headers = Headers::new();
    headers.push("user-agent", concat!("weft/", env!("CARGO_PKG_VERSION"), " (health check)"));
    for (name, value) in &probe.config.headers {
        // Checked when the policy was set.
        headers.append(name, value).map_err(malformed)?;
    }
    headers.push("connection", "close");
    let method = Method::new(&probe.config.method).unwrap_or(Method::Get);
    let whole = probe.config.timeout_ms.duration();
    let usual = Times { connect: whole, whole, fresh: false };
    let agent = agent(Dialer::Fixed(addresses), (target.scheme, &target.host), usual, trust);
    let line = Line { agent, scheme: uri_scheme(target.scheme), authority: None, usual };
    let answer = line.run(uri, method, &headers, (), usual).map_err(failure_of)?;
    Ok(answer.status().as_u16())
}

/// How many fields the head of an answer may have.
const MAX_FIELDS: usize = 100;

/// An answer, after the checks that ureq leaves to us.
fn incoming(answer: Response<ureq::Body>) -> Result<Incoming, Failure> {
    let (head, body) = answer.into_parts();
    let status = head.status.as_u16();
    if !(200..=599).contains(&status) {
        return Err(Failure::Protocol(format!("status {status}").into()));
    }
    if head.headers.contains_key("content-length") && head.headers.contains_key("transfer-encoding") {
        return Err(Failure::Protocol("both Content-Length and Transfer-Encoding".into()));
    }
    if head.headers.len() > MAX_FIELDS {
        return Err(Failure::Protocol(format!("the head has more than {MAX_FIELDS} fields").into()));
    }
    let mut headers = Headers::with_room(head.headers.len());
    for (name, value) in &head.headers {
        headers.push(name.as_str(), value.as_bytes());
    }
    Ok(Incoming { status, headers, connection: How::Unknown, body: Box::new(Body(body.into_reader())) })
}

/// A body whose errors say what went wrong.
struct Body(ureq::BodyReader<'static>);

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| carry(failure_of(error.into())))
    }
}

/// What an error of ureq means.
fn failure_of(error: ureq::Error) -> Failure {
    match error {
        ureq::Error::Io(error) => failure_of_io(error),
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => Failure::Connect(ConnectFailure::TimedOut),
        ureq::Error::Timeout(_) => Failure::Timeout,
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => Failure::Connect(ConnectFailure::Unreachable),
        ureq::Error::LargeResponseHeader(..) => Failure::Protocol("the head is larger than 16 KiB".into()),
        other => malformed(other),
    }
}

pub(super) fn failure_of_io(error: io::Error) -> Failure {
    let kind = error.kind();
    match error.into_inner().map(|inner| inner.downcast::<Failure>()) {
        Some(Ok(failure)) => *failure,
        _ => match kind {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Failure::Timeout,
            _ => Failure::Reset,
        },
    }
}

#[allow(clippy::needless_pass_by_value)] // Used where errors are mapped.
fn malformed(why: impl ToString) -> Failure {
    Failure::Protocol(why.to_string().into())
}

const fn http_method(method: Method) -> ureq::http::Method {
    match method {
        Method::Get => ureq::http::Method::GET,
        Method::Head => ureq::http::Method::HEAD,
        Method::Post => ureq::http::Method::POST,
        Method::Put => ureq::http::Method::PUT,
        Method::Patch => ureq::http::Method::PATCH,
        Method::Delete => ureq::http::Method::DELETE,
        Method::Options => ureq::http::Method::OPTIONS,
        // A call cannot name it.
        Method::Other => ureq::http::Method::TRACE,
    }
}

const fn uri_scheme(scheme: Scheme) -> UriScheme {
    match scheme {
        Scheme::Http => UriScheme::HTTP,
        Scheme::Https => UriScheme::HTTPS,
    }
}
