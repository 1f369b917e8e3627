//! The JSON bodies of the API, read into words of the model.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use super::fields::{Entries, Fields, Unambiguous};
use super::request::Request;
use crate::model::{
    AdminState, Call, Endpoint, Headers, HealthTarget, InstanceId, Invalid, Method, Registration, Scheme, ServiceName, TRACE_CONTEXT,
    Weight, shown,
};
use crate::policy::breaker::Order;

/// `POST /register`.
///
/// # Errors
/// [`Invalid`] naming the field.
pub fn registration(body: &[u8]) -> Result<Registration, Invalid> {
    let fields = Fields::parse(body)?;
    let service: String = fields.required("name")?;
    let id: String = fields.required("id")?;
    let host: String = fields.required("host")?;
    let mut registration = Registration::new(&service, &id, &host, fields.required("port")?)?;
    registration.scheme = fields.optional::<Scheme>("scheme")?.map(Scheme::supported).transpose()?;
    registration.health_check = fields.parsed("healthCheckUrl", HealthTarget::new)?;
    registration.metadata = fields.optional("metadata")?.map(metadata).transpose()?;
    registration.healthy = fields.optional("healthy")?;
    registration.weight = fields.optional("weight")?.map(Weight::new).transpose()?;
    registration.zone = fields.parsed("zone", |text| ServiceName::new(text).map(|_| text.to_owned()))?;
    registration.max_in_flight = at_least_one(fields.optional("maxInFlight")?, "maxInFlight")?;
    let ttl = at_least_one(fields.optional::<u32>("ttlSeconds")?, "ttlSeconds")?;
    registration.ttl = ttl.map(|seconds| Duration::from_secs(u64::from(seconds)));
    Ok(registration)
}

fn at_least_one(number: Option<u32>, field: &'static str) -> Result<Option<u32>, Invalid> {
    match number {
        Some(0) => Err(Invalid::new(field, "0 is too small; use 1 or more, or leave it out")),
        number => Ok(number),
    }
}

/// Labels: text, numbers and booleans, few and short.
fn metadata(Entries(values): Entries<Box<RawValue>>) -> Result<BTreeMap<String, String>, Invalid> {
    let fault = |why: String| Err(Invalid::new("metadata", why));
    if values.len() > 64 {
        return fault(format!("has {} entries; use at most 64", values.len()));
    }
    let mut labels = BTreeMap::new();
    for (key, value) in values {
        let text = match serde_json::from_str(value.get()) {
            Ok(serde_json::Value::String(text)) => text,
            // As it came: 1.10 is not 1.1 to whoever means a version.
            Ok(serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => value.get().to_owned(),
            Ok(_) => return fault(format!("{} is not text, a number or a boolean", shown(&key))),
            Err(_) => return fault(format!("{} is {}, which cannot be read", shown(&key), shown(value.get()))),
        };
        if key.len() > 128 || text.len() > 1024 {
            return fault(format!("{} is too long; use at most 128 bytes for a key and 1024 for a value", shown(&key)));
        }
        labels.insert(key, text);
    }
    Ok(labels)
}

/// `POST /invoke`. Ids, hops and trace context of the request itself become those of the call.
///
/// # Errors
/// [`Invalid`] naming the field.
pub fn call(request: &Request) -> Result<Call, Invalid> {
    let fields = Fields::parse(&request.body)?;
    let service = fields.required_parsed("serviceName", ServiceName::new)?;
    let mut headers = fields.optional("headers")?.map_or_else(|| Ok(Headers::new()), |Entries(wanted)| headers_of(&wanted))?;
    let of_call = headers.len();
    let is_trace_context = |name: &str| TRACE_CONTEXT.iter().any(|known| name.eq_ignore_ascii_case(known));
    for (name, value) in request.headers.iter().filter(|(name, _)| is_trace_context(name)) {
        // What the call names itself wins.
        if of_call == 0 || !headers.contains(name) {
            headers.push(name, value);
        }
    }
    let milliseconds = |field| Ok::<_, Invalid>(fields.optional::<u64>(field)?.map(Duration::from_millis));
    let of_request = request.headers.first("x-request-timeout-ms").and_then(|text| text.parse().ok()).map(Duration::from_millis);
    Ok(Call {
        service,
        method: fields.parsed("method", Method::new)?.unwrap_or(Method::Get),
        endpoint: fields.required_parsed("endpoint", Endpoint::new)?,
        headers,
        body: body(&fields)?,
        timeout: milliseconds("timeoutMs")?.into_iter().chain(of_request).min(),
        max_retries: fields.optional("maxRetries")?,
        idempotent: fields.optional("idempotent")?.unwrap_or(false) || request.headers.contains("idempotency-key"),
        hash_key: fields.optional("hashKey")?,
        request_id: Some(request.id.clone()),
        caller: request.caller(),
        hops: number(request, "x-mesh-hops"),
        is_retry: number(request, "x-mesh-attempt") > 1,
    })
}

/// Header fields, as many and as long as the head of a request may have: each is looked for among those that `Connection` names.
fn headers_of(wanted: &BTreeMap<String, String>) -> Result<Headers, Invalid> {
    let fault = |why: String| Err(Invalid::new("headers", why));
    if wanted.len() > MOST_FIELDS {
        return fault(format!("has {} entries; use at most {MOST_FIELDS}", wanted.len()));
    }
    if wanted.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MOST_BYTES {
        return fault(format!("is longer than {MOST_BYTES} bytes"));
    }
    let of_connection = wanted.iter().filter(|(name, _)| name.eq_ignore_ascii_case("connection"));
    if of_connection.map(|(_, value)| value.split(',').count()).sum::<usize>() > MOST_FIELDS {
        return fault(format!("names more than {MOST_FIELDS} fields in Connection"));
    }
    let mut headers = Headers::with_room(wanted.len());
    for (name, value) in wanted {
        headers.append(name, value)?;
    }
    Ok(headers)
}

/// How many header fields a call may have, and how many of them `Connection` may name.
const MOST_FIELDS: usize = 100;
/// How long they may be together.
const MOST_BYTES: usize = 64 * 1024;

/// A string is sent as it is; any other value as JSON, byte for byte.
fn body(fields: &Fields<'_>) -> Result<Option<Arc<[u8]>>, Invalid> {
    let Some(raw) = fields.raw("body") else { return Ok(None) };
    if raw.get().starts_with('"') {
        let text: String = fields.required("body")?;
        return Ok(Some(text.into_bytes().into()));
    }
    Ok(Some(raw.get().as_bytes().into()))
}

fn number(request: &Request, header: &str) -> u32 {
    request.headers.first(header).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// `POST /deregister`.
///
/// # Errors
/// [`Invalid`] naming the field.
pub fn instance(body: &[u8]) -> Result<(ServiceName, InstanceId), Invalid> {
    let fields = Fields::parse(body)?;
    Ok((fields.required_parsed("name", ServiceName::new)?, fields.required_parsed("id", InstanceId::new)?))
}

/// `PUT /services/{name}/{id}/state`.
///
/// # Errors
/// [`Invalid`] naming the field.
pub fn state(body: &[u8]) -> Result<(AdminState, Option<String>), Invalid> {
    let fields = Fields::parse(body)?;
    let reason: Option<String> = fields.optional("reason")?;
    if reason.as_ref().is_some_and(|reason| reason.len() > 256) {
        return Err(Invalid::new("reason", "is longer than 256 bytes"));
    }
    Ok((fields.required("state")?, reason))
}

/// `PUT /services/{name}/{id}/weight`.
///
/// # Errors
/// [`Invalid`] naming the field.
pub fn weight(body: &[u8]) -> Result<Weight, Invalid> {
    Weight::new(Fields::parse(body)?.required("weight")?)
}

/// `PUT /services/{name}/breaker`.
///
/// # Errors
/// [`Invalid`] naming the field.
pub fn breaker(body: &[u8]) -> Result<Order, Invalid> {
    Fields::parse(body)?.required("state")
}

/// `PUT /services/{name}/policy`: any JSON object.
///
/// # Errors
/// [`Invalid`] when it is not one.
pub fn policy(body: &[u8]) -> Result<serde_json::Value, Invalid> {
    Fields::parse(body)?;
    let fault = |error: serde_json::Error| Invalid::new("body", format!("is not valid JSON: {error}"));
    // Of a key that is there twice, whoever reads the request another way believes the other.
    serde_json::from_slice::<Unambiguous>(body).map_err(fault)?;
    serde_json::from_slice(body).map_err(fault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RequestId;

    fn request(body: &str, headers: &[(&str, &str)]) -> Request {
        let mut fields = Headers::new();
        for (name, value) in headers {
            fields.push(name, value);
        }
        let (method, target) = ("POST".into(), "/invoke".to_owned());
        let body = body.as_bytes().to_vec();
        Request { method, target, headers: fields, body, peer: None, id: RequestId::from_roll(1, 2), waited: Duration::ZERO, grant: None }
    }

    #[test]
    fn the_documented_registration_is_read() {
        let body = br#"{"id":"user-service-1","name":"user-service","host":"localhost","port":4001,
            "healthCheckUrl":"http://localhost:4001/health","metadata":{"version":"1.0.0","region":"us-east-1","n":5,"b":true},
            "healthy":true,"failureCount":0,"requestCount":0,"avgResponseTime":0,"lastHealthCheck":0}"#;
        let read = registration(body).expect("valid");
        assert_eq!((read.service.as_str(), read.id.as_str(), read.port.get()), ("user-service", "user-service-1", 4001));
        assert_eq!(read.healthy, Some(true));
        let metadata = read.metadata.expect("there");
        assert_eq!((&*metadata["region"], &*metadata["n"], &*metadata["b"]), ("us-east-1", "5", "true"));
    }

    #[test]
    fn every_bad_field_of_a_registration_is_named() {
        for (change, field) in [
            (r#""id":"""#, "id"),
            (r#""id":5"#, "id"),
            (r#""id":"a\u0000""#, "id"),
            (r#""name":"a b""#, "name"),
            (r#""host":"a@b""#, "host"),
            (r#""host":null"#, "host"),
            (r#""port":0"#, "port"),
            (r#""port":-1"#, "port"),
            (r#""port":65536"#, "port"),
            (r#""port":99999"#, "port"),
            (r#""port":"80""#, "port"),
            (r#""port":80.5"#, "port"),
            (r#""port":1e3"#, "port"),
            (r#""port":null"#, "port"),
            (r#""healthCheckUrl":"ftp://x""#, "healthCheckUrl"),
            (r#""metadata":[]"#, "metadata"),
            (r#""metadata":{"a":{}}"#, "metadata"),
            (r#""weight":1001"#, "weight"),
            (r#""weight":-1"#, "weight"),
            (r#""ttlSeconds":0"#, "ttlSeconds"),
            (r#""maxInFlight":0"#, "maxInFlight"),
            (r#""healthy":"yes""#, "healthy"),
            (r#""scheme":"ftp""#, "scheme"),
        ] {
            let name = change.split('"').nth(1).expect("a name");
            let mut fields = vec![r#""id":"i""#, r#""name":"s""#, r#""host":"h""#, r#""port":1"#];
            fields.retain(|other| other.split('"').nth(1) != Some(name));
            fields.push(change);
            let error = registration(format!("{{{}}}", fields.join(",")).as_bytes()).expect_err(change);
            assert_eq!(error.field, field, "{change}: {error}");
        }
        for missing in ["id", "name", "host", "port"] {
            let all = [(r#""id":"i""#, "id"), (r#""name":"s""#, "name"), (r#""host":"h""#, "host"), (r#""port":1"#, "port")];
            let rest: Vec<&str> = all.iter().filter(|(_, name)| *name != missing).map(|(field, _)| *field).collect();
            let error = registration(format!("{{{}}}", rest.join(",")).as_bytes()).expect_err(missing);
            assert_eq!(error, Invalid::new(missing, "is required"));
        }
    }

    #[test]
    fn labels_are_kept_as_they_came() {
        let labels = |metadata: &str| {
            let body = format!(r#"{{"id":"i","name":"s","host":"h","port":1,"metadata":{metadata}}}"#);
            registration(body.as_bytes()).map(|read| read.metadata.expect("there"))
        };
        let read = labels(r#"{"a":1.10,"b":123456789012345678901234567890,"c":1e2,"d":"\u0031","e":true}"#).expect("valid");
        let read: Vec<&str> = read.values().map(String::as_str).collect();
        assert_eq!(read, ["1.10", "123456789012345678901234567890", "1e2", "1", "true"]);
        for bad in
            [r#"{"a":"1","a":"1"}"#, r#"{"a":"1","\u0061":"2"}"#, r#"{"a":1e999}"#, r#"{"a":"\ud800"}"#, r#"{"a":[]}"#, r#"{"a":null}"#]
        {
            assert_eq!(labels(bad).expect_err(bad).field, "metadata", "{bad}");
        }
    }

    #[test]
    fn no_key_is_there_twice_in_whatever_is_read() {
        let headers = |headers: &str| call(&request(&format!(r#"{{"serviceName":"s","endpoint":"/","headers":{headers}}}"#), &[]));
        assert_eq!(headers(r#"{"a":"b","a":"c"}"#).expect_err("twice").field, "headers");
        assert!(headers(r#"{"a":"b","A":"c"}"#).is_ok(), "two fields");
        for twice in [r#"{"retry":{},"retry":{}}"#, r#"{"retry":{"a":1,"a":2}}"#, r#"{"routes":[{"match":{"x":[{"b":1,"b":1}]}}]}"#] {
            assert!(policy(twice.as_bytes()).expect_err(twice).why.contains("twice"), "{twice}");
        }
        assert!(policy(br#"{"retry":{"a":[1,-1,1.5,"x",true,null,{}]},"b":{"a":1}}"#).is_ok());
    }

    #[test]
    fn a_body_is_sent_byte_for_byte_and_a_string_as_it_is() {
        let sent = |body: &str| {
            call(&request(&format!(r#"{{"serviceName":"s","endpoint":"/","method":"POST","body":{body}}}"#), &[])).expect(body).body
        };
        assert_eq!(sent(r#"{"a": 1.50,  "b":1e999}"#).as_deref(), Some(&br#"{"a": 1.50,  "b":1e999}"#[..]));
        assert_eq!(sent(r#""a\nb""#).as_deref(), Some(&b"a\nb"[..]));
        assert_eq!(sent("0.10").as_deref(), Some(&b"0.10"[..]));
        assert_eq!(sent("null"), None);
    }

    #[test]
    fn what_the_request_says_about_itself_becomes_the_calls() {
        let headers = [
            ("traceparent", "00-a-b-01"),
            ("x-mesh-hops", "3"),
            ("x-mesh-attempt", "2"),
            ("Idempotency-Key", "k"),
            ("x-request-timeout-ms", "700"),
        ];
        let read = call(&request(r#"{"service_name":"s","endpoint":"/x","timeoutMs":900}"#, &headers)).expect("valid");
        assert_eq!((read.hops, read.is_retry, read.idempotent), (3, true, true));
        assert_eq!(read.timeout, Some(Duration::from_millis(700)));
        assert_eq!(read.headers.first("traceparent"), Some("00-a-b-01"));
        assert_eq!(read.method, Method::Get);
    }

    #[test]
    fn header_fields_are_as_many_and_as_long_as_a_head_may_have() {
        let read = |fields: Vec<(String, String)>| {
            let headers = fields.into_iter().collect::<BTreeMap<_, _>>();
            call(&request(&serde_json::json!({"serviceName": "s", "endpoint": "/", "headers": headers}).to_string(), &[]))
        };
        let many = |n: usize| (0..n).map(|n| (format!("h{n}"), String::new())).collect();
        let named = |n: usize| vec![("connection".to_owned(), "a,".repeat(n / 2)), ("Connection".to_owned(), "a,".repeat(n / 2))];
        assert_eq!(read(many(100)).expect("as many as may be").headers.len(), 100);
        assert!(read(vec![("h".to_owned(), "x".repeat(MOST_BYTES - 1))]).is_ok() && read(named(98)).is_ok());
        for fields in [many(101), vec![("h".to_owned(), "x".repeat(MOST_BYTES))], named(100)] {
            assert_eq!(read(fields).expect_err("too much").field, "headers");
        }
    }

    #[test]
    fn bad_calls_are_refused_by_field() {
        for (body, field) in [
            (r#"{"endpoint":"/"}"#, "serviceName"),
            (r#"{"serviceName":"s"}"#, "endpoint"),
            (r#"{"serviceName":"x\"} 1\nup 0","endpoint":"/"}"#, "serviceName"),
            (r#"{"serviceName":"s","endpoint":"http://evil/"}"#, "endpoint"),
            (r#"{"serviceName":"s","endpoint":"/","method":"TRACE"}"#, "method"),
            (r#"{"serviceName":"s","endpoint":"/","timeoutMs":-1}"#, "timeoutMs"),
            (r#"{"serviceName":"s","endpoint":"/","headers":{"a\r\nb":"c"}}"#, "headers"),
            (r#"{"serviceName":"s","endpoint":"/","headers":[1]}"#, "headers"),
        ] {
            assert_eq!(call(&request(body, &[])).expect_err(body).field, field, "{body}");
        }
    }

    #[test]
    fn a_fault_in_what_is_sent_on_repeats_nothing_of_it() {
        for (sent, fault) in [
            (r#""headers":"authorization: hunter2""#, "headers: is not an object"),
            (r#""headers":["hunter2"]"#, "headers: is not an object"),
            (r#""headers":{"authorization":["hunter2"]}"#, "headers: is not a string"),
            (r#""headers":{"authorization":"hunter2\n"}"#, "headers: the value of authorization has a control character"),
            (r#""headers":{"authorization":"hunter2","authorization":"hunter3"}"#, r#"headers: "authorization" is given twice"#),
            (r#""body":"hunter2 \ud800""#, "body: does not fit"),
        ] {
            let error = call(&request(&format!(r#"{{"serviceName":"s","endpoint":"/",{sent}}}"#), &[])).expect_err(sent);
            assert_eq!(error.to_string(), fault, "{sent}");
        }
    }

    #[test]
    fn states_and_weights_are_read() {
        assert_eq!(state(br#"{"state":"drain","reason":"deploy"}"#).expect("valid"), (AdminState::Drain, Some("deploy".to_owned())));
        assert_eq!(state(br#"{"state":"gone"}"#).expect_err("unknown").field, "state");
        assert_eq!(breaker(br#"{"state":"forced_open"}"#), Ok(Order::ForcedOpen));
        let unknown = breaker(br#"{"state":"open"}"#).expect_err("unknown");
        assert!(unknown.field == "state" && unknown.why.contains("`forced_open`, `disabled`, `auto`, `reset`"), "{unknown}");
        assert_eq!(weight(br#"{"weight":7}"#).expect("valid").get(), 7);
    }
}
