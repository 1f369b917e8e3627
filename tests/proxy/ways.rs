//! The three ways of a call through the mesh, so that what holds of all is tested of all.

use std::io;

use serde_json::{Value, json};
use weft::Mesh;
use weft::server::{Config, InvokeOn};

use crate::house::House;
use crate::support::client::request;
use crate::wire::{Whole, Wire};

/// How a call comes in and who makes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// `/proxy`: passed on in an event loop.
    Proxy,
    /// `/invoke` in an event loop.
    Invoke,
    /// `/invoke` on the workers.
    Workers,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Proxy, Self::Invoke, Self::Workers];

    /// A house that goes this way, with these settings for every service.
    pub(crate) fn house(self, defaults: Value) -> House {
        let invoke_on = if self == Self::Workers { InvokeOn::Workers } else { InvokeOn::Edge };
        House::of(Mesh::builder().defaults(defaults), Config { invoke_on, ..Config::default() })
    }

    /// Begins a call on a connection of its own.
    pub(crate) fn begin(self, house: &House, method: &str, service: &str, path: &str) -> Wire {
        let mut wire = Wire::to(house);
        wire.send(self.request(method, service, path));
        wire
    }

    /// A call as bytes.
    pub(crate) fn request(self, method: &str, service: &str, path: &str) -> Vec<u8> {
        match self {
            Self::Proxy => request(method, &format!("/proxy/{service}{path}"), &[], b""),
            Self::Invoke | Self::Workers => {
                let call = json!({"serviceName": service, "endpoint": path, "method": method}).to_string();
                request("POST", "/invoke", &[], call.as_bytes())
            }
        }
    }

    pub(crate) fn try_call(self, house: &House, method: &str, service: &str, path: &str) -> io::Result<Whole> {
        self.begin(house, method, service, path).try_answer(false)
    }

    #[track_caller]
    pub(crate) fn call(self, house: &House, method: &str, service: &str, path: &str) -> Whole {
        self.try_call(house, method, service, path).unwrap_or_else(|error| panic!("{self:?}: {method} {path}: {error}"))
    }

    /// The status that goes with a reason.
    pub(crate) fn status(self, reason: &str) -> u16 {
        match reason {
            "upstream_timeout" | "deadline_exceeded" => 504,
            "upstream_reset" | "upstream_protocol" if self == Self::Proxy => 502,
            _ => 503,
        }
    }

    /// Makes a call that is refused or fails with that reason, and with the status that goes with it.
    #[track_caller]
    pub(crate) fn fails(self, house: &House, method: &str, service: &str, reason: &str) -> Whole {
        let answer = self.call(house, method, service, "/").with_status(self.status(reason));
        assert_eq!(answer.reason(), reason, "{self:?}: {}", answer.text());
        answer
    }
}
