//! One configuration out of four sources: defaults, then a JSON file, then `WEFT_…` variables, then flags. A later one wins.
//!
//! Here settings are only gathered; each is declared beside what it governs. Every mistake is named with its key and its source.

mod discovery;
mod file;
mod flags;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

pub use flags::{Arguments, Command, NewToken, StateCommand, usage};

use crate::contract::envelope;
use crate::mesh::{Discovery, Settings};
use crate::model::settings::{Setting, leaf, settings};
use crate::model::{Invalid, Registration, ServiceName, closest, shown};
use crate::outbound::etcd;
use crate::policy::{self, Policy, upstreams};
use crate::server;
use crate::telemetry::onlookers;

settings! {
    /// What concerns the program as a whole.
    pub struct General {
        /// How much is logged to stderr: off, error, warn, info or debug.
        log: LogLevel = LogLevel::Info;
        /// The directory in which the registry outlives a restart; it must be there. Empty: in memory only. systemd's StateDirectory= is
        /// honoured.
        state_dir: String = String::new();
        /// Services that may be registered.
        max_services: usize = 1_000, in 1, 1_000_000;
        /// Instances that one service may have.
        max_instances_per_service: usize = 1_000, in 1, 1_000_000;
    }
}

settings! {
    /// Where the registry is kept.
    pub struct Registry {
        /// "local": in memory, or in stateDir; "etcd": in etcd, shared by all meshes that use the same one. stateDir then keeps what is known,
        /// for a start while etcd is away.
        backend: Backend = Backend::Local;
        /// How etcd is reached.
        etcd: etcd::Config = etcd::Config::default();
    }
}

/// Where the registry is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // The names say it.
pub enum Backend {
    Local,
    Etcd,
}

leaf! { Backend => |_| None }

impl Registry {
    fn check_together(&self) -> Result<(), Invalid> {
        match self.backend {
            Backend::Local => Ok(()),
            Backend::Etcd if cfg!(feature = "etcd") => self.etcd.check_together(),
            Backend::Etcd => Err(Invalid::new("registry.backend", "etcd is not in this build; build with the feature etcd")),
        }
    }
}

/// How much is logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // The names say it.
pub enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
}

leaf! { LogLevel => |_| None }

impl From<LogLevel> for log::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => Self::Off,
            LogLevel::Error => Self::Error,
            LogLevel::Warn => Self::Warn,
            LogLevel::Info => Self::Info,
            LogLevel::Debug => Self::Debug,
        }
    }
}

/// The whole configuration.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// The server: both doors.
    pub server: server::Config,
    /// The program as a whole.
    pub general: General,
    /// Where the registry is kept.
    pub registry: Registry,
    /// Which addresses instances may have.
    pub upstreams: upstreams::Config,
    /// How single calls are looked at.
    pub telemetry: onlookers::Config,
    /// Settings of every service that names none of its own, as they were written.
    pub defaults: Value,
    /// Settings of single services, as they were written.
    pub services: BTreeMap<ServiceName, Value>,
    /// Instances that are registered when the program starts or reloads, as they were written.
    pub instances: Vec<Value>,
    /// Services whose instances are the addresses of a DNS name, as they were written.
    pub discover: Vec<Value>,
}

/// A mistake in the configuration: which key, in which source, and what is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// Where it was written.
    pub source: String,
    /// What is wrong.
    pub fault: Invalid,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.fault)
    }
}

impl std::error::Error for ConfigError {}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: server::Config::default(),
            general: General::default(),
            registry: Registry::default(),
            upstreams: upstreams::Config::default(),
            telemetry: onlookers::Config::default(),
            defaults: Value::Object(Map::new()),
            services: BTreeMap::new(),
            instances: Vec::new(),
            discover: Vec::new(),
        }
    }
}

impl Config {
    /// Gathers the configuration: the file that is named (by flag, else by `WEFT_CONFIG`), the environment, the flags.
    ///
    /// # Errors
    /// [`ConfigError`] for the first mistake found.
    pub fn load(flags: &Arguments, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, ConfigError> {
        let (environment, named) = from_environment(environment)?;
        let mut whole = Value::Object(Map::new());
        if let Some(path) = flags.config.clone().or(named) {
            policy::merge(&mut whole, &read_file(&path)?);
        }
        for (source, json) in environment {
            Self::from_json(&json).map_err(|fault| ConfigError { source, fault })?;
            policy::merge(&mut whole, &json);
        }
        for (source, json) in &flags.settings {
            Self::from_json(json).map_err(|fault| ConfigError { source: source.clone(), fault })?;
            policy::merge(&mut whole, json);
        }
        // Each source is right by itself; what is left is what does not go together.
        let together = |fault| ConfigError { source: "configuration".to_owned(), fault };
        let config = Self::from_json(&whole).map_err(together)?;
        config.server.check_together().map_err(together)?;
        config.registry.check_together().map_err(together)?;
        Ok(config)
    }

    /// Checks a file by itself.
    ///
    /// # Errors
    /// [`ConfigError`] for the first mistake found.
    pub fn check_file(path: &Path) -> Result<Self, ConfigError> {
        let json = read_file(path)?;
        let fault = |fault| ConfigError { source: path.display().to_string(), fault };
        let config = Self::from_json(&json).map_err(fault)?;
        config.server.check_together().map_err(fault)?;
        config.registry.check_together().map_err(fault)?;
        Ok(config)
    }

    /// Reads a configuration in which every key is optional.
    ///
    /// # Errors
    /// [`Invalid`] naming the first key that is unknown, has the wrong type, or is out of range.
    pub fn from_json(json: &Value) -> Result<Self, Invalid> {
        let Value::Object(fields) = json else {
            return Err(Invalid::new("configuration", "is not a JSON object"));
        };
        let mut config = Self::default();
        let (server_keys, general_keys) = (keys_of(&config.server), keys_of(&config.general));
        let (mut server, mut general) = (Map::new(), Map::new());
        for (key, value) in fields {
            match key.as_str() {
                key if server_keys.contains_key(key) => drop(server.insert(key.to_owned(), value.clone())),
                key if general_keys.contains_key(key) => drop(general.insert(key.to_owned(), value.clone())),
                "registry" => config.registry = under("registry", policy::read(value, &config.registry))?,
                "upstreams" => config.upstreams = under("upstreams", policy::read(value, &config.upstreams))?,
                "telemetry" => config.telemetry = under("telemetry", policy::read(value, &config.telemetry))?,
                "defaults" => {
                    under("defaults", Policy::from_json(value))?;
                    config.defaults = value.clone();
                }
                "services" => config.services = services(value)?,
                "instances" => config.instances = instances(value)?,
                "discover" => config.discover = discover(value)?,
                key => {
                    let known = server_keys.keys().chain(general_keys.keys()).map(String::as_str).chain(SECTIONS);
                    let hint = closest(key, known).map_or(String::new(), |near| format!("; did you mean {near}?"));
                    return Err(Invalid::new(key.to_owned(), format!("{} is not a setting{hint}", shown(key))));
                }
            }
        }
        for (name, value) in &config.services {
            // A service's settings are judged on top of the defaults, as they will apply.
            let mut whole = config.defaults.clone();
            policy::merge(&mut whole, value);
            under(&format!("services.{name}"), Policy::from_json(&whole))?;
        }
        config.server = policy::read(&Value::Object(server), &config.server)?;
        config.general = policy::read(&Value::Object(general), &config.general)?;
        let mut faults = Vec::new();
        config.server.check("", &mut faults);
        config.general.check("", &mut faults);
        config.telemetry.check("telemetry", &mut faults);
        match faults.into_iter().next() {
            Some(fault) => Err(fault),
            None => config.telemetry.check_together().map(|()| config),
        }
    }

    /// What concerns the mesh.
    pub fn mesh(&self) -> Settings {
        Settings {
            defaults: self.defaults.clone(),
            services: self.services.clone(),
            upstreams: self.upstreams.clone(),
            telemetry: self.telemetry.clone(),
            // Checked when it was read.
            discover: self.discoveries().unwrap_or_default(),
            max_services: self.general.max_services,
            max_instances_per_service: self.general.max_instances_per_service,
        }
    }

    /// The instances that are listed.
    ///
    /// # Errors
    /// [`Invalid`] naming the first field that is not acceptable.
    pub fn registrations(&self) -> Result<Vec<Registration>, Invalid> {
        let read = |(n, json): (usize, &Value)| under(&format!("instances[{n}]"), envelope::registration(json.to_string().as_bytes()));
        self.instances.iter().enumerate().map(read).collect()
    }

    /// The services that are found by a name.
    ///
    /// # Errors
    /// [`Invalid`] naming the first field that is not acceptable.
    pub fn discoveries(&self) -> Result<Vec<Discovery>, Invalid> {
        discovery::read(&self.discover)
    }

    /// The effective whole, every key with its value.
    pub fn effective(&self) -> Value {
        let mut all = keys_of(&self.server);
        all.extend(keys_of(&self.general));
        let json = |value: serde_json::Result<Value>| value.unwrap_or_default();
        all.insert("registry".to_owned(), json(serde_json::to_value(&self.registry)));
        all.insert("upstreams".to_owned(), json(serde_json::to_value(&self.upstreams)));
        all.insert("telemetry".to_owned(), json(serde_json::to_value(&self.telemetry)));
        // Checked when it was read.
        all.insert("defaults".to_owned(), json(serde_json::to_value(Policy::from_json(&self.defaults).unwrap_or_default())));
        all.insert("services".to_owned(), json(serde_json::to_value(&self.services)));
        all.insert("instances".to_owned(), Value::Array(self.instances.clone()));
        all.insert("discover".to_owned(), Value::Array(self.discover.clone()));
        Value::Object(all)
    }

    /// The effective whole with a sentence why above each key. It is a valid configuration file.
    pub fn annotated(&self) -> String {
        let inside = |group: &dyn Setting| {
            let mut text = String::new();
            group.annotate(&mut text, 0);
            text.trim_start_matches("{\n").trim_end_matches("\n}").to_owned()
        };
        let mut registry = String::new();
        self.registry.annotate(&mut registry, 1);
        let mut upstreams = String::new();
        self.upstreams.annotate(&mut upstreams, 1);
        let mut telemetry = String::new();
        self.telemetry.annotate(&mut telemetry, 1);
        let mut defaults = String::new();
        Policy::from_json(&self.defaults).unwrap_or_default().annotate(&mut defaults, 1);
        let services = serde_json::to_string(&self.services).unwrap_or_default();
        let instances = serde_json::to_string(&self.instances).unwrap_or_default();
        let discover = serde_json::to_string(&self.discover).unwrap_or_default();
        [
            "{\n".to_owned(),
            inside(&self.server),
            ",\n".to_owned(),
            inside(&self.general),
            format!(",\n  // Where the registry is kept. It changes only with a restart.\n  \"registry\": {registry}"),
            format!(",\n  // Which addresses instances may have. Link-local, multicast and unspecified ones never may.\n  \"upstreams\": {upstreams},\n"),
            format!("  // How single calls are looked at: traces, spans, the access log, taps.\n  \"telemetry\": {telemetry},\n"),
            format!("  // Settings of every service that names none of its own.\n  \"defaults\": {defaults},\n"),
            format!("  // Settings of single services by name, each with the keys of \"defaults\" it changes.\n  \"services\": {services},\n"),
            "  // Instances that are registered at the start and at each reload, each as for POST /register. They are not written to the state\n".to_owned(),
            format!("  // directory; what an operator says of them is.\n  \"instances\": {instances},\n"),
            "  // Services whose instances are the addresses of a DNS name, which is looked up again every intervalMs: each as for POST /register, but\n".to_owned(),
            "  // dns for id and host, as {\"name\": \"users\", \"dns\": \"users.internal\", \"port\": 8080, \"intervalMs\": 5000}. While the name does not\n".to_owned(),
            format!("  // resolve, what was found before stays. They are not written to the state directory either.\n  \"discover\": {discover}\n}}\n"),
        ]
        .concat()
    }
}

const SECTIONS: [&str; 7] = ["registry", "upstreams", "telemetry", "defaults", "services", "instances", "discover"];

fn keys_of(group: &impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(group) {
        Ok(Value::Object(keys)) => keys,
        _ => Map::new(),
    }
}

/// A fault, with the section it is in.
fn under<T>(section: &str, result: Result<T, Invalid>) -> Result<T, Invalid> {
    result.map_err(|fault| Invalid::new(format!("{section}.{}", fault.field), fault.why))
}

fn services(json: &Value) -> Result<BTreeMap<ServiceName, Value>, Invalid> {
    let Value::Object(fields) = json else { return Err(Invalid::new("services", "is not a JSON object")) };
    let mut services = BTreeMap::new();
    for (name, value) in fields {
        let service = under("services", ServiceName::new(name))?;
        services.insert(service, value.clone());
    }
    Ok(services)
}

fn instances(json: &Value) -> Result<Vec<Value>, Invalid> {
    let Value::Array(instances) = json else { return Err(Invalid::new("instances", "is not a JSON array")) };
    let config = Config { instances: instances.clone(), ..Config::default() };
    config.registrations().map(|_| config.instances)
}

fn discover(json: &Value) -> Result<Vec<Value>, Invalid> {
    let Value::Array(list) = json else { return Err(Invalid::new("discover", "is not a JSON array")) };
    discovery::read(list).map(|_| list.clone())
}

fn read_file(path: &Path) -> Result<Value, ConfigError> {
    let source = path.display().to_string();
    let json = file::read(path).map_err(|fault| ConfigError { source: source.clone(), fault })?;
    Config::from_json(&json).map_err(|fault| ConfigError { source, fault })?;
    Ok(json)
}

/// Settings by source, each an object with one key.
type Sourced = Vec<(String, Value)>;

/// What `WEFT_…` variables and systemd set, and the file that `WEFT_CONFIG` names.
fn from_environment(environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<(Sourced, Option<PathBuf>), ConfigError> {
    let mut settings = Vec::new();
    let mut file = None;
    for (name, value) in environment {
        if name == "STATE_DIRECTORY" {
            // As systemd sets it; several are separated by colons. What is said to weft itself wins.
            if let Some(first) = value.to_str().and_then(|all| all.split(':').next()) {
                settings.insert(0, ("environment variable STATE_DIRECTORY".to_owned(), flags::setting("stateDir", first)));
            }
            continue;
        }
        let Some(name) = name.to_str().filter(|name| name.starts_with("WEFT_")) else { continue };
        // Where a mesh is that is looked at.
        if name == "WEFT_URL" {
            continue;
        }
        if name == "WEFT_ETCD" {
            let endpoints = value.to_str().unwrap_or_default();
            settings.push(("environment variable WEFT_ETCD".to_owned(), flags::etcd(endpoints)));
            continue;
        }
        if name == "WEFT_CONFIG" {
            file = Some(value.into());
            continue;
        }
        let source = format!("environment variable {name}");
        let key = crate::model::settings::camel(&name.trim_start_matches("WEFT_").to_lowercase());
        let Some(text) = value.to_str() else {
            return Err(ConfigError { source, fault: Invalid::new(key, "is not UTF-8") });
        };
        if !flags::scalars().any(|known| known == key) {
            let all: Vec<String> = flags::scalars().map(|key| format!("WEFT_{}", flags::separated(&key, '_').to_uppercase())).collect();
            let hint = closest(name, all.iter().map(String::as_str)).map_or(String::new(), |near| format!("; did you mean {near}?"));
            return Err(ConfigError { source, fault: Invalid::new(key, format!("is not a setting{hint}")) });
        }
        settings.push((source, flags::setting(&key, text)));
    }
    Ok((settings, file))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn load(file: &str, environment: &[(&str, &str)], flags: &[&str]) -> Result<Config, ConfigError> {
        let arguments = Arguments::parse(flags.iter().map(OsString::from))
            .map_err(|why| ConfigError { source: "flags".to_owned(), fault: Invalid::new("flags", why) })?;
        let directory = std::env::temp_dir().join(format!("weft-config-{}-{:?}", std::process::id(), std::thread::current().id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let path = directory.join("weft.json");
        std::fs::write(&path, file).expect("a file");
        let mut variables: Vec<(OsString, OsString)> = environment.iter().map(|(k, v)| (k.into(), v.into())).collect();
        variables.push(("WEFT_CONFIG".into(), path.into()));
        let config = Config::load(&arguments, variables);
        std::fs::remove_dir_all(&directory).expect("gone");
        config
    }

    #[test]
    fn flags_win_over_environment_over_file_over_defaults() {
        let config = load(
            r#"{"workers": 4, "queue": 5, "listen": "localhost:1", "defaults": {"retry": {"maxRetries": 1}}}"#,
            &[("WEFT_QUEUE", "6"), ("WEFT_LISTEN", "localhost:2"), ("OTHER", "x")],
            &["--listen", "localhost:3"],
        )
        .expect("valid");
        assert_eq!((config.server.workers, config.server.queue, &*config.server.listen), (4, 6, "localhost:3"));
        assert_eq!(config.server.reserved_workers, 2);
        assert_eq!(config.effective()["defaults"]["retry"]["maxRetries"], 1);
        assert_eq!(config.effective()["defaults"]["retry"]["baseDelayMs"], 100);
    }

    #[test]
    fn a_mistake_is_named_with_its_key_and_its_source() {
        let fault =
            |file: &str, environment: &[(&str, &str)], flags: &[&str]| load(file, environment, flags).expect_err("a mistake").to_string();
        let unknown = fault(r#"{"defaults": {"retry": {"maxRetires": 1}}}"#, &[], &[]);
        assert!(
            unknown.ends_with("weft.json: defaults.retry.maxRetires: \"maxRetires\" is not a setting; did you mean maxRetries?"),
            "{unknown}"
        );
        let service = fault(r#"{"services": {"a": {"retry": {"jitter": 2}}}}"#, &[], &[]);
        assert!(service.ends_with("services.a.retry.jitter: 2 is out of range; use 0 to 1"), "{service}");
        assert_eq!(
            fault("{}", &[("WEFT_WORKRES", "1")], &[]),
            "environment variable WEFT_WORKRES: workres: is not a setting; did you mean WEFT_WORKERS?"
        );
        let wrong = fault("{}", &[("WEFT_WORKERS", "many")], &[]);
        assert!(wrong.starts_with("environment variable WEFT_WORKERS: workers: "), "{wrong}");
        let range = fault("{}", &[], &["--workers", "1"]);
        assert_eq!(range, "flag --workers: workers: 1 is out of range; use 2 to 1024");
        let syntax = fault("{\n  \"workers\": 4,\n}", &[], &[]);
        assert!(syntax.contains("line 3 column 1"), "{syntax}");
        let together = fault(r#"{"workers": 4, "reservedWorkers": 4}"#, &[], &[]);
        assert!(together.contains("reservedWorkers: 4 leaves no worker of 4"), "{together}");
    }

    #[test]
    fn the_annotated_configuration_is_a_valid_file_and_says_all_there_is() {
        let annotated = Config::default().annotated();
        let read = load(&annotated, &[], &[]).expect("valid");
        assert_eq!(read.effective(), Config::default().effective());
        let keys = annotated.lines().filter(|line| line.trim_start().starts_with('"')).count();
        let comments = annotated.lines().filter(|line| line.trim_start().starts_with("//")).count();
        assert!(comments >= keys, "{comments} comments for {keys} keys");
    }

    #[test]
    fn a_configuration_that_is_no_object_is_refused() {
        for json in [json!([]), json!(null), json!("x")] {
            assert!(Config::from_json(&json).is_err(), "{json}");
        }
    }
}
