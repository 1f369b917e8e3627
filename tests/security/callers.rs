//! A token file, its tokens, and a mesh that goes by it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use weft::contract::tokens::{Entry, digest};
use weft::server::{Config, InvokeOn};
use weft::{Builder, Mesh};

use crate::house::House;
use crate::support::client::Answer;
use crate::weft::Folder;

/// The line of a caller whose token is its name and `-token`.
pub(crate) fn line(name: &str, scopes: &str, rest: Value) -> String {
    let digest: String = digest(format!("{name}-token").as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut line = json!({"name": name, "scopes": scopes.split(',').collect::<Vec<_>>(), "sha256": digest});
    line.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    Entry::parse(&line.to_string()).expect("a valid line");
    line.to_string()
}

/// Writes a file that only we may read.
pub(crate) fn write(path: &str, text: &str) {
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("a file of ours");
}

/// A mesh that only these callers may use.
pub(crate) struct Guarded {
    pub(crate) house: House,
    folder: Folder,
}

impl Guarded {
    pub(crate) fn new(lines: &[String]) -> Self {
        Self::of(lines, Mesh::builder(), Config::default())
    }

    pub(crate) fn on(lines: &[String], invoke_on: InvokeOn) -> Self {
        Self::of(lines, Mesh::builder(), Config { invoke_on, ..Config::default() })
    }

    pub(crate) fn of(lines: &[String], builder: Builder, config: Config) -> Self {
        let folder = Folder::new();
        let file = folder.path("tokens");
        write(&file, &lines.join("\n"));
        let house = House::of(builder, Config { token_file: file, ..config });
        Self { house, folder }
    }

    /// From now on these callers may use it.
    pub(crate) fn is_for(&self, lines: &[String]) {
        write(&self.folder.path("tokens"), &lines.join("\n"));
        assert_eq!(self.house.server.reload_tokens(), Ok(Some(lines.len())));
    }

    /// Asks as `name`; nobody in particular when it is empty.
    #[track_caller]
    pub(crate) fn ask(&self, name: &str, method: &str, target: &str, body: &Value) -> Answer {
        let bearer = format!("Bearer {name}-token");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let headers: &[(&str, &str)] = if name.is_empty() { &[] } else { &[("authorization", &bearer)] };
        self.house.ask(method, target, headers, body.as_bytes())
    }

    #[track_caller]
    pub(crate) fn get(&self, name: &str, target: &str) -> Answer {
        self.ask(name, "GET", target, &Value::Null)
    }
}

/// A registration on loopback.
pub(crate) fn at(service: &str, id: &str, port: u16) -> Value {
    json!({"name": service, "id": id, "host": "127.0.0.1", "port": port})
}
