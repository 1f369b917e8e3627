//! What a request at the public door is about, by its path, its host or the field that Dapr clients send: a call, or the API.

use std::time::Duration;

use super::request::duration;
use crate::model::Fields;

/// What a request is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Goal {
    /// A call of the service named in the request, which is passed on as it is.
    Proxy(Proxied),
    /// A call described in JSON.
    Invoke,
    /// Anything else.
    Api,
}

/// Where a request that is passed on says what is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proxied {
    /// In its target: the service lies between the first two numbers, the path behind the second.
    Path(usize, usize),
    /// In its host, before `.mesh`.
    Host,
    /// In the field `dapr-app-id`.
    DaprField,
}

/// The field by which Dapr clients name a service.
pub const DAPR_APP_ID: &str = "dapr-app-id";
/// What follows the service in a host.
const MESH: &str = ".mesh";
/// What stands before the service in a path, and what between it and the path of the call.
const PREFIXES: [(&str, &str); 2] = [("/proxy/", ""), ("/v1.0/invoke/", "/method")];

/// Finds out what a request is about. An explicit host or field wins over a path.
pub fn goal(method: &str, target: &str, authority: &str, fields: &dyn Fields) -> Goal {
    if of_host(authority).is_some() {
        return Goal::Proxy(Proxied::Host);
    }
    if fields.first(DAPR_APP_ID).is_some() {
        // A client may name the service in both ways; then the path has more to say.
        return Goal::Proxy(of_path(target).unwrap_or(Proxied::DaprField));
    }
    if let Some(proxied) = of_path(target) {
        return Goal::Proxy(proxied);
    }
    let path = target.split('?').next().unwrap_or_default();
    if method == "POST" && path == "/invoke" { Goal::Invoke } else { Goal::Api }
}

/// The service and the path of a call that is passed on.
pub fn service_and_path<'r>(proxied: Proxied, target: &'r str, authority: &'r str, fields: &'r dyn Fields) -> (&'r str, &'r str) {
    match proxied {
        Proxied::Path(begin, end) => {
            let path = target.get(end..).unwrap_or_default();
            let between = PREFIXES.iter().find(|(prefix, _)| prefix.len() == begin).map_or("", |(_, between)| *between);
            (target.get(begin..end).unwrap_or_default(), path.strip_prefix(between).unwrap_or(path))
        }
        Proxied::Host => (of_host(authority).unwrap_or_default(), target),
        Proxied::DaprField => (fields.first(DAPR_APP_ID).unwrap_or_default(), target),
    }
}

/// The service in a host such as `users.mesh:3000`.
fn of_host(authority: &str) -> Option<&str> {
    let host = authority.split(':').next().unwrap_or_default();
    let at = host.len().checked_sub(MESH.len()).filter(|at| *at > 0)?;
    host.get(at..).filter(|end| end.eq_ignore_ascii_case(MESH))?;
    host.get(..at)
}

fn of_path(target: &str) -> Option<Proxied> {
    PREFIXES.iter().find_map(|(prefix, between)| {
        let rest = target.strip_prefix(prefix)?;
        let service = rest.split(['/', '?']).next().filter(|service| !service.is_empty())?;
        let after = rest.get(service.len()..).unwrap_or_default();
        let ends = |path: &str| path.is_empty() || path.starts_with(['/', '?']);
        after.strip_prefix(between).filter(|path| ends(path))?;
        Some(Proxied::Path(prefix.len(), prefix.len() + service.len()))
    })
}

/// The service that a long poll watches, the index it has seen, and how long it waits.
pub fn watched(method: &str, target: &str) -> Option<(String, u64, Duration)> {
    if method != "GET" {
        return None;
    }
    let (path, query) = target.split_once('?')?;
    let service = path.strip_prefix("/services/").filter(|service| !service.contains('/'))?;
    let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    // What cannot be read does not wait; the API says what is wrong with it.
    let seen = value("index")?.parse().ok()?;
    let wait = duration(value("wait").unwrap_or("60s")).ok()?;
    Some((service.to_owned(), seen, wait.min(super::request::MAX_WAIT)))
}

/// What a tap asks for.
pub fn tapped(method: &str, target: &str) -> Option<Vec<(String, String)>> {
    let path = target.split('?').next().unwrap_or_default();
    (method == "GET" && path == "/tap").then(|| super::request::parameters(target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Headers;

    fn found(method: &str, target: &'static str, authority: &'static str, dapr: Option<&str>) -> Option<(String, String)> {
        let mut headers = Headers::new();
        if let Some(service) = dapr {
            headers.push("Dapr-App-Id", service);
        }
        match goal(method, target, authority, &headers) {
            Goal::Proxy(proxied) => {
                let (service, path) = service_and_path(proxied, target, authority, &headers);
                Some((service.to_owned(), path.to_owned()))
            }
            Goal::Invoke | Goal::Api => None,
        }
    }

    #[test]
    fn a_service_is_named_by_path_by_host_or_by_the_field_of_dapr_clients() {
        let is = |service: &str, path: &str| Some((service.to_owned(), path.to_owned()));
        assert_eq!(found("GET", "/proxy/users/a/b?c=d", "localhost:3000", None), is("users", "/a/b?c=d"));
        assert_eq!(found("GET", "/proxy/users", "localhost", None), is("users", ""));
        assert_eq!(found("GET", "/proxy/users?x=/y", "localhost", None), is("users", "?x=/y"));
        assert_eq!(found("POST", "/v1.0/invoke/users/method/a/b", "localhost", None), is("users", "/a/b"));
        assert_eq!(found("POST", "/v1.0/invoke/users/method", "localhost", None), is("users", ""));
        assert_eq!(found("GET", "/metrics", "users.mesh", None), is("users", "/metrics"));
        assert_eq!(found("GET", "/x", "Users.MESH:3000", None), is("Users", "/x"));
        assert_eq!(found("POST", "/invoke", "localhost", Some("users")), is("users", "/invoke"));
        assert_eq!(found("POST", "/v1.0/invoke/orders/method/a", "localhost", Some("users")), is("orders", "/a"));
    }

    #[test]
    fn everything_else_is_the_apis() {
        for target in [
            "/",
            "/proxy",
            "/proxy/",
            "/proxy//a",
            "/proxyx/users/a",
            "/v1.0/invoke/users/methods/a",
            "/v1.0/invoke/users",
            "/services/proxy/x",
        ] {
            assert_eq!(found("GET", target, "localhost", None), None, "{target}");
        }
        for authority in [".mesh", "mesh", "users.meshes", ""] {
            assert_eq!(found("GET", "/x", authority, None), None, "{authority}");
        }
        assert_eq!(goal("POST", "/invoke?x", "localhost", &Headers::new()), Goal::Invoke);
        assert_eq!(goal("GET", "/invoke", "localhost", &Headers::new()), Goal::Api);
    }

    #[test]
    fn a_long_poll_says_what_it_has_seen_and_how_long_it_waits() {
        assert_eq!(watched("GET", "/services/users?index=3&wait=5s"), Some(("users".to_owned(), 3, Duration::from_secs(5))));
        assert_eq!(watched("GET", "/services/users?index=3"), Some(("users".to_owned(), 3, Duration::from_secs(60))));
        for target in
            ["/services/users", "/services/users?wait=5s", "/services/users?index=x", "/services/a/b?index=3", "/services/a?index=1&wait=x"]
        {
            assert_eq!(watched("GET", target), None, "{target}");
        }
        assert_eq!(watched("HEAD", "/services/users?index=3"), None);
    }
}
