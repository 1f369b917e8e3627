//! The one table of paths: method, pattern, who may use it, and what handles it.

/// What a caller needs to be allowed to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Nothing: always open.
    Open,
    /// See what there is.
    Read,
    /// Register and renew instances.
    Register,
    /// Make calls.
    Invoke,
    /// Change how the mesh behaves.
    Admin,
}

impl Scope {
    /// Those that are granted.
    pub const GRANTED: [Self; 4] = [Self::Read, Self::Register, Self::Invoke, Self::Admin];

    /// The word for it in a token file.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Register => "register",
            Self::Invoke => "invoke",
            Self::Admin => "admin",
        }
    }
}

/// What handles a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // Each is the row of the table it stands in.
pub enum Handler {
    Register,
    Deregister,
    DeregisterByPath,
    Heartbeat,
    SetState,
    SetWeight,
    Invoke,
    Metrics,
    MetricsText,
    Services,
    Service,
    Explain,
    Policy,
    PatchPolicy,
    ResetPolicy,
    SetBreaker,
    Events,
    Nodes,
    Overview,
    ServiceOverview,
    Dashboard,
    Traces,
    Tap,
    Config,
    Health,
    Ready,
    DaprReady,
}

/// A row of the table.
#[derive(Debug)]
pub struct Route {
    /// In capitals. `GET` answers `HEAD` too.
    pub method: &'static str,
    /// Segments; one in braces matches anything.
    pub pattern: &'static str,
    /// Who may.
    pub scope: Scope,
    /// What handles it.
    pub handler: Handler,
}

const fn row(method: &'static str, pattern: &'static str, scope: Scope, handler: Handler) -> Route {
    Route { method, pattern, scope, handler }
}

/// All paths of the API.
pub const ROUTES: &[Route] = &[
    row("POST", "/register", Scope::Register, Handler::Register),
    row("POST", "/invoke", Scope::Invoke, Handler::Invoke),
    row("GET", "/metrics", Scope::Read, Handler::Metrics),
    row("GET", "/services", Scope::Read, Handler::Services),
    row("GET", "/health", Scope::Open, Handler::Health),
    row("GET", "/metrics/prometheus", Scope::Read, Handler::MetricsText),
    row("POST", "/deregister", Scope::Register, Handler::Deregister),
    row("GET", "/services/{name}", Scope::Read, Handler::Service),
    row("GET", "/services/{name}/explain", Scope::Read, Handler::Explain),
    row("GET", "/services/{name}/policy", Scope::Read, Handler::Policy),
    row("PUT", "/services/{name}/policy", Scope::Admin, Handler::PatchPolicy),
    row("DELETE", "/services/{name}/policy", Scope::Admin, Handler::ResetPolicy),
    row("PUT", "/services/{name}/breaker", Scope::Admin, Handler::SetBreaker),
    row("DELETE", "/services/{name}/{id}", Scope::Register, Handler::DeregisterByPath),
    row("PUT", "/services/{name}/{id}/heartbeat", Scope::Register, Handler::Heartbeat),
    row("PUT", "/services/{name}/{id}/state", Scope::Admin, Handler::SetState),
    row("PUT", "/services/{name}/{id}/weight", Scope::Admin, Handler::SetWeight),
    row("GET", "/events", Scope::Read, Handler::Events),
    row("GET", "/nodes", Scope::Read, Handler::Nodes),
    row("GET", "/overview", Scope::Read, Handler::Overview),
    row("GET", "/overview/{name}", Scope::Read, Handler::ServiceOverview),
    // The page alone: what it shows it asks for, with its reader's token.
    row("GET", "/dashboard", Scope::Open, Handler::Dashboard),
    row("GET", "/traces", Scope::Read, Handler::Traces),
    row("GET", "/tap", Scope::Read, Handler::Tap),
    row("GET", "/config", Scope::Admin, Handler::Config),
    row("GET", "/ready", Scope::Open, Handler::Ready),
    row("GET", "/v1.0/healthz", Scope::Open, Handler::DaprReady),
    row("GET", "/v1.0/healthz/outbound", Scope::Open, Handler::DaprReady),
];

/// What a path comes to.
#[derive(Debug)]
pub enum Found<'p> {
    /// This row, with what stood in its braces, in order.
    Route(&'static Route, Vec<&'p str>),
    /// The path exists, with these methods.
    WrongMethod(Vec<&'static str>),
    /// No such path.
    Nothing,
}

/// Finds the row for a request.
pub fn find<'p>(method: &str, path: &'p str) -> Found<'p> {
    let wanted = if method == "HEAD" { "GET" } else { method };
    let mut allowed = Vec::new();
    for route in ROUTES {
        if let Some(captured) = matched(route.pattern, path) {
            if route.method == wanted {
                return Found::Route(route, captured);
            }
            if !allowed.contains(&route.method) {
                allowed.push(route.method);
            }
        }
    }
    if allowed.is_empty() {
        return Found::Nothing;
    }
    if allowed.contains(&"GET") {
        allowed.push("HEAD");
    }
    Found::WrongMethod(allowed)
}

fn matched<'p>(pattern: &str, path: &'p str) -> Option<Vec<&'p str>> {
    if pattern == path {
        return Some(Vec::new());
    }
    if !pattern.contains('{') {
        return None;
    }
    let (mut want, mut have) = (pattern.split('/'), path.split('/'));
    let mut captured = Vec::new();
    loop {
        match (want.next(), have.next()) {
            (None, None) => return Some(captured),
            (Some(want), Some(have)) if want.starts_with('{') && !have.is_empty() => captured.push(have),
            (Some(want), Some(have)) if want == have => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handler(method: &str, path: &str) -> Option<(Handler, Vec<String>)> {
        match find(method, path) {
            Found::Route(route, captured) => Some((route.handler, captured.into_iter().map(str::to_owned).collect())),
            Found::WrongMethod(_) | Found::Nothing => None,
        }
    }

    #[test]
    fn paths_find_their_handlers_and_what_stands_in_braces() {
        assert_eq!(handler("POST", "/register"), Some((Handler::Register, vec![])));
        assert_eq!(handler("HEAD", "/health"), Some((Handler::Health, vec![])));
        assert_eq!(handler("PUT", "/services/a/b/state"), Some((Handler::SetState, vec!["a".into(), "b".into()])));
        assert_eq!(handler("DELETE", "/services/a/policy"), Some((Handler::ResetPolicy, vec!["a".into()])));
        assert_eq!(handler("DELETE", "/services/a/b"), Some((Handler::DeregisterByPath, vec!["a".into(), "b".into()])));
        for (method, path) in
            [("GET", "/"), ("GET", "/health/"), ("GET", "/services/"), ("GET", "//health"), ("get", "/health"), ("POST", "/services//b")]
        {
            assert_eq!(handler(method, path), None, "{method} {path}");
        }
    }

    #[test]
    fn a_wrong_method_names_the_right_ones() {
        assert!(matches!(find("GET", "/register"), Found::WrongMethod(allowed) if allowed == ["POST"]));
        assert!(matches!(find("POST", "/services/a/policy"), Found::WrongMethod(allowed) if allowed == ["GET", "PUT", "DELETE", "HEAD"]));
        assert!(matches!(find("POST", "/nowhere"), Found::Nothing));
    }

    #[test]
    fn only_questions_about_the_mesh_itself_and_a_page_without_data_are_open_and_nothing_is_changed_by_get() {
        for route in ROUTES {
            let tells_nothing = matches!(route.handler, Handler::Health | Handler::Ready | Handler::DaprReady | Handler::Dashboard);
            assert_eq!(route.scope == Scope::Open, tells_nothing, "{}", route.pattern);
            let changes = matches!(
                route.handler,
                Handler::Register
                    | Handler::Deregister
                    | Handler::DeregisterByPath
                    | Handler::Heartbeat
                    | Handler::SetState
                    | Handler::SetWeight
                    | Handler::PatchPolicy
                    | Handler::ResetPolicy
                    | Handler::SetBreaker
                    | Handler::Invoke
            );
            assert!(!(changes && route.method == "GET"), "{}", route.pattern);
        }
    }
}
