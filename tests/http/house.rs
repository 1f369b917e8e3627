//! A mesh with its server, as a test uses it.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use weft::contract::answer::ApiError;
use weft::contract::envelope;
use weft::contract::request::Request;
use weft::model::{Headers, RequestId};
use weft::server::{Address, Config, InvokeOn};
use weft::{Builder, Mesh, Server};

use crate::support::client::{self, Answer, Client};
#[cfg(feature = "tls")]
use crate::support::papers::Papers;
#[cfg(feature = "tls")]
use crate::support::sleeve::Sleeve;
use crate::support::upstream::Upstream;

/// A mesh and its server on a free port of loopback.
pub(crate) struct House {
    pub(crate) server: Server,
    pub(crate) mesh: Mesh,
    pub(crate) at: SocketAddr,
    /// Where the door itself is, whatever stands before it.
    pub(crate) door: SocketAddr,
    /// What stands before a door that speaks TLS.
    #[cfg(feature = "tls")]
    _sleeve: Option<(Sleeve, Papers)>,
}

impl Drop for House {
    fn drop(&mut self) {
        // Waits between attempts end, so that the workers can go home.
        self.mesh.hurry();
    }
}

impl House {
    /// With the documented defaults.
    pub(crate) fn new() -> Self {
        Self::with(json!({}))
    }

    /// With these settings for every service.
    pub(crate) fn with(defaults: Value) -> Self {
        Self::of(Mesh::builder().defaults(defaults), Config::default())
    }

    /// With one event loop, which uses its connections again whoever asks.
    pub(crate) fn on_one_loop(defaults: Value) -> Self {
        Self::of(Mesh::builder().defaults(defaults), Config { loops: 1, ..Config::default() })
    }

    /// Of these parts; where it listens is decided here.
    pub(crate) fn of(builder: Builder, config: Config) -> Self {
        #[cfg(feature = "tls")]
        let papers = crate::SECURED.then(Papers::new);
        #[cfg(feature = "tls")]
        let config = papers.as_ref().map_or_else(|| config.clone(), |papers| papers.secured("door", &config));
        let mesh = builder.build().expect("a mesh");
        let invoke_on = if config.invoke_on == InvokeOn::Workers { config.invoke_on } else { crate::INVOKE_ON };
        let config = Config { listen: "127.0.0.1:0".to_owned(), invoke_on, ..config };
        let server = Server::start(&mesh, &config, json!({"listen": config.listen})).expect("a server");
        let door = match server.addresses().as_slice() {
            [Address::Tcp(at)] => *at,
            other => panic!("one TCP address, not {other:?}"),
        };
        #[cfg(feature = "tls")]
        {
            let sleeve = papers.map(|papers| (Sleeve::over(door, papers.client(None)), papers));
            let at = sleeve.as_ref().map_or(door, |(sleeve, _)| sleeve.at);
            Self { server, mesh, at, door, _sleeve: sleeve }
        }
        #[cfg(not(feature = "tls"))]
        {
            // Only a build with TLS has a program that wants it.
            let _ = crate::SECURED;
            Self { server, mesh, at: door, door }
        }
    }

    /// A connection of its own, kept open. It has been answered once, so it is certain to be served whatever else goes on.
    pub(crate) fn client(&self) -> Client {
        let mut client = Client::connect(self.at).expect("a connection");
        client.ask("GET", "/health", &[], b"").expect("answered").with_status(200);
        client
    }

    #[track_caller]
    pub(crate) fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        // How a body is framed, and how long it may be, is a matter of the API.
        let of_api = body.len() > 1_048_576 || headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("transfer-encoding"));
        if crate::EMBEDDED && !of_api && (method, target) == ("POST", "/invoke") {
            return self.embedded(headers, body);
        }
        client::ask(self.at, method, target, headers, body).unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }

    /// Makes the call that a request describes by `Mesh::invoke`, as a program would that embeds the mesh, and says the result as the API does.
    fn embedded(&self, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut fields = Headers::new();
        for (name, value) in headers {
            fields.append(name, value).expect("a field");
        }
        let given = fields.first("x-request-id").and_then(RequestId::from_caller);
        let id = given.unwrap_or_else(|| RequestId::from_roll(1, 2));
        let (method, target) = ("POST".into(), "/invoke".to_owned());
        let (body, id_of) = (body.to_vec(), id.clone());
        let request = Request { method, target, headers: fields, body, peer: None, id: id_of, waited: Duration::ZERO };
        let said: weft::contract::answer::Answer = match envelope::call(&request) {
            Err(fault) => ApiError::Bad(fault).into(),
            Ok(call) => match self.mesh.invoke(&call) {
                Ok(reply) => reply.into(),
                Err(error) => ApiError::Call(Box::new(error)).into(),
            },
        };
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let mut headers: Vec<(String, String)> = said.headers.iter().map(|(name, value)| (name.to_owned(), text(value))).collect();
        headers.push(("x-request-id".to_owned(), id.as_str().to_owned()));
        headers.push(("content-length".to_owned(), said.body.len().to_string()));
        Answer { status: said.status, headers, body: said.body }
    }

    #[track_caller]
    pub(crate) fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[], b"")
    }

    #[track_caller]
    pub(crate) fn send(&self, method: &str, target: &str, body: &Value) -> Answer {
        self.ask(method, target, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    #[track_caller]
    pub(crate) fn post(&self, target: &str, body: &Value) -> Answer {
        self.send("POST", target, body)
    }

    #[track_caller]
    pub(crate) fn put(&self, target: &str, body: &Value) -> Answer {
        self.send("PUT", target, body)
    }

    /// Registers an instance at an upstream, without health checks.
    #[track_caller]
    pub(crate) fn register(&self, service: &str, id: &str, upstream: &Upstream) {
        self.register_at(service, id, upstream.port());
    }

    #[track_caller]
    pub(crate) fn register_at(&self, service: &str, id: &str, port: u16) {
        self.post("/register", &json!({"name": service, "id": id, "host": "127.0.0.1", "port": port})).with_status(200);
    }

    /// Changes settings of a service.
    #[track_caller]
    pub(crate) fn policy(&self, service: &str, patch: &Value) {
        self.put(&format!("/services/{service}/policy"), patch).with_status(200);
    }

    #[track_caller]
    pub(crate) fn invoke(&self, call: &Value) -> Answer {
        self.post("/invoke", call)
    }

    /// A plain GET through the mesh.
    #[track_caller]
    pub(crate) fn call(&self, service: &str, endpoint: &str) -> Answer {
        self.invoke(&json!({"serviceName": service, "endpoint": endpoint}))
    }

    #[track_caller]
    pub(crate) fn metrics(&self) -> Value {
        self.get("/metrics").with_status(200).json()
    }

    /// One instance as `GET /services/{name}` shows it.
    #[track_caller]
    pub(crate) fn instance(&self, service: &str, id: &str) -> Value {
        let view = self.get(&format!("/services/{service}")).with_status(200).json();
        let instances = view["instances"].as_array().expect("instances");
        instances.iter().find(|instance| instance["id"] == id).cloned().unwrap_or_else(|| panic!("no {id} in {view}"))
    }
}

/// The body of a plain GET through the mesh.
pub(crate) fn call(service: &str, endpoint: &str) -> Vec<u8> {
    json!({"serviceName": service, "endpoint": endpoint}).to_string().into_bytes()
}

/// The keys of an object, in order.
#[track_caller]
pub(crate) fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap_or_else(|| panic!("not an object: {value}")).keys().map(String::as_str).collect()
}
