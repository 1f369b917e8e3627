//! The command line: `weft [COMMAND] [FLAGS]`. Every top-level setting with a plain value is a flag and a variable of its own.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::{Arg, Parser, ValueExt};
use serde_json::{Map, Value};

use super::{General, Sourced, keys_of};
use crate::model::{closest, shown};
use crate::server;

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Command {
    /// Run the mesh.
    #[default]
    Serve,
    /// Run the mesh with sample services; with traffic, keep calls flowing.
    Demo {
        /// Keep calls flowing.
        traffic: bool,
    },
    /// Print the effective configuration.
    Config {
        /// With a sentence why above each key.
        annotated: bool,
    },
    /// Check a configuration file.
    Check(PathBuf),
    /// Look at a state directory, or move what is kept there; the directory comes second.
    State(StateCommand, PathBuf),
    /// Make a token.
    Token(NewToken),
    /// Print the version.
    Version,
    /// Print how to use the program.
    Help,
}

/// What to do with a state directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StateCommand {
    /// Print what is kept there for a person.
    Show,
    /// Print it as JSON.
    Export,
    /// Keep there what is read as JSON from the standard input, beside what is kept there already.
    Import,
}

/// A token to be made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NewToken {
    /// Whose it will be.
    pub name: String,
    /// What it is for.
    pub scopes: Vec<String>,
    /// Which services it is for.
    pub service_prefix: Option<String>,
    /// How many instances its caller may have.
    pub max_instances: Option<usize>,
}

/// The command line, read.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Arguments {
    /// What to do.
    pub command: Command,
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// Settings given as flags, in order.
    pub settings: Sourced,
}

const COMMANDS: [&str; 14] =
    ["serve", "demo", "config", "check", "state", "token", "services", "instances", "events", "explain", "top", "tap", "version", "help"];

impl Arguments {
    /// Reads a command line without the program's name.
    ///
    /// # Errors
    /// A sentence for a person.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut parser = Parser::from_args(arguments);
        let mut read = Self::default();
        let mut named = false;
        let mut is_state = false;
        while let Some(argument) = parser.next().map_err(|error| error.to_string())? {
            match argument {
                Arg::Long("help") | Arg::Short('h') => read.command = Command::Help,
                Arg::Long("version") | Arg::Short('V') => read.command = Command::Version,
                Arg::Long("config") => read.config = Some(value(&mut parser, "--config")?.into()),
                Arg::Long("etcd") => {
                    let text = text(value(&mut parser, "--etcd")?)?;
                    read.settings.push(("flag --etcd".to_owned(), etcd(&text)));
                }
                Arg::Long("annotated") if read.command == (Command::Config { annotated: false }) => {
                    read.command = Command::Config { annotated: true };
                }
                Arg::Long("traffic") if matches!(read.command, Command::Demo { .. }) => read.command = Command::Demo { traffic: true },
                Arg::Value(word) if !named && word == "state" => (named, is_state) = (true, true),
                Arg::Value(word) if is_state => {
                    is_state = false;
                    read.command = Command::State(state_command(&word.string().map_err(|error| error.to_string())?)?, PathBuf::new());
                }
                Arg::Value(path) if matches!(&read.command, Command::State(_, before) if before.as_os_str().is_empty()) => {
                    if let Command::State(_, place) = &mut read.command {
                        *place = path.into();
                    }
                }
                Arg::Value(word) if !named && word == "token" => {
                    named = true;
                    read.command = new_token(&mut parser)?;
                }
                Arg::Long(name @ ("scope" | "service-prefix" | "max-instances")) if matches!(read.command, Command::Token(_)) => {
                    let flag = format!("--{name}");
                    let text = text(value(&mut parser, &flag)?)?;
                    if let Command::Token(new) = &mut read.command {
                        new.set(&flag, text)?;
                    }
                }
                Arg::Value(word) if !named => {
                    named = true;
                    read.command = command(&word.string().map_err(|error| error.to_string())?)?;
                }
                Arg::Value(path) if read.command == Command::Check(PathBuf::new()) => read.command = Command::Check(path.into()),
                Arg::Long(name) => {
                    let name = name.to_owned();
                    let flag = format!("--{name}");
                    let key = scalars().find(|key| separated(key, '-') == name).ok_or_else(|| unknown(&flag))?;
                    let is_switch = all().get(&key).is_some_and(Value::is_boolean);
                    let text = if is_switch { "true".to_owned() } else { text(value(&mut parser, &flag)?)? };
                    read.settings.push((format!("flag {flag}"), setting(&key, &text)));
                }
                other => return Err(format!("{} is not understood here; see weft help", shown(&format!("{other:?}")))),
            }
        }
        match read.command {
            _ if is_state => Err(STATE_USAGE.to_owned()),
            Command::State(_, path) if path.as_os_str().is_empty() => Err(STATE_USAGE.to_owned()),
            Command::Check(path) if path.as_os_str().is_empty() => Err("which file? use weft check FILE".to_owned()),
            _ => Ok(read),
        }
    }
}

const STATE_USAGE: &str = "which directory? use weft state show DIR, weft state export DIR or weft state import DIR";

fn state_command(word: &str) -> Result<StateCommand, String> {
    match word {
        "show" => Ok(StateCommand::Show),
        "export" => Ok(StateCommand::Export),
        "import" => Ok(StateCommand::Import),
        other => Err(format!("{} is not done to a state directory; use show, export or import", shown(other))),
    }
}

const TOKEN_USAGE: &str = "whose token? use weft token new NAME --scope read,register,invoke,admin";

/// What follows `token`: `new NAME`.
fn new_token(parser: &mut Parser) -> Result<Command, String> {
    let mut word = || match parser.next() {
        Ok(Some(Arg::Value(word))) => text(word),
        _ => Err(TOKEN_USAGE.to_owned()),
    };
    if word()? != "new" {
        return Err(TOKEN_USAGE.to_owned());
    }
    Ok(Command::Token(NewToken { name: word()?, ..NewToken::default() }))
}

impl NewToken {
    fn set(&mut self, flag: &str, text: String) -> Result<(), String> {
        match flag {
            "--scope" => self.scopes.extend(text.split(',').map(str::to_owned)),
            "--service-prefix" => self.service_prefix = Some(text),
            _ => self.max_instances = Some(text.parse().map_err(|_| format!("{flag}: {} is not a whole number", shown(&text)))?),
        }
        Ok(())
    }
}

fn command(word: &str) -> Result<Command, String> {
    match word {
        "serve" => Ok(Command::Serve),
        "demo" => Ok(Command::Demo { traffic: false }),
        "config" => Ok(Command::Config { annotated: false }),
        "check" => Ok(Command::Check(PathBuf::new())),
        "version" => Ok(Command::Version),
        "help" => Ok(Command::Help),
        "services" | "instances" | "events" | "explain" | "top" => Err(format!("{word} comes first: weft {word} [FLAGS]")),
        other => {
            let hint = closest(other, COMMANDS).map_or(String::new(), |near| format!("; did you mean {near}?"));
            Err(format!("{} is not a command{hint} See weft help", shown(other)))
        }
    }
}

fn unknown(flag: &str) -> String {
    let flags: Vec<String> = scalars().map(|key| format!("--{}", separated(&key, '-'))).collect();
    let others = ["--config", "--etcd", "--help", "--version", "--annotated", "--traffic"];
    let hint =
        closest(flag, flags.iter().map(String::as_str).chain(others)).map_or(String::new(), |near| format!("; did you mean {near}?"));
    format!("{flag} is not a flag{hint} See weft help")
}

fn value(parser: &mut Parser, flag: &str) -> Result<OsString, String> {
    parser.value().map_err(|_| format!("{flag} needs a value"))
}

fn text(value: OsString) -> Result<String, String> {
    value.into_string().map_err(|_| "a value is not UTF-8".to_owned())
}

/// All top-level settings with their defaults.
fn all() -> Map<String, Value> {
    let mut all = keys_of(&server::Config::default());
    all.extend(keys_of(&General::default()));
    all
}

/// The keys that can be set by a flag or a variable.
pub(super) fn scalars() -> impl Iterator<Item = String> {
    all().into_iter().filter(|(_, default)| !default.is_object()).map(|(key, _)| key)
}

/// One setting as a configuration by itself. What reads as a number or a boolean is one, unless the setting is a text.
pub(super) fn setting(key: &str, text: &str) -> Value {
    let is_text = all().get(key).is_some_and(Value::is_string);
    let as_text = || Value::String(text.to_owned());
    let value = if is_text { as_text() } else { serde_json::from_str(text).unwrap_or_else(|_| as_text()) };
    Value::Object(Map::from_iter([(key.to_owned(), value)]))
}

/// That the registry is kept in etcd, at endpoints that are separated by commas.
pub(super) fn etcd(endpoints: &str) -> Value {
    let endpoints: Vec<&str> = endpoints.split(',').map(str::trim).collect();
    serde_json::json!({"registry": {"backend": "etcd", "etcd": {"endpoints": endpoints}}})
}

/// `camelCase` in lower case with `separator` between the words.
pub(super) fn separated(key: &str, separator: char) -> String {
    let mut out = String::new();
    for c in key.chars() {
        if c.is_ascii_uppercase() {
            out.push(separator);
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// How to use the program.
pub fn usage() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!(
        "weft {version} - a service mesh in one small binary

Usage: weft [COMMAND] [FLAGS]

Commands:
  serve               run the mesh (the default)
  demo [--traffic]    run the mesh with a few sample services and show what it does
  config              print the effective configuration; --annotated says why of each key
  check FILE          check a configuration file
  state show DIR      print what a state directory keeps; export DIR prints it as JSON, import DIR reads that from stdin;
                      instead of DIR also etcd, as configured (with --etcd or --config)
  token new NAME      make a token and print it once: --scope read,register,invoke,admin [--service-prefix P] [--max-instances N];
                      with --token-file it is added there, else its line for the file is printed
  services, instances, explain NAME, events [--follow], top, tap
                      look at a mesh that runs; weft services --help says how
  version, help

Flags (each also a variable, --drain-timeout-ms is WEFT_DRAIN_TIMEOUT_MS, and a key of the file, drainTimeoutMs):
  --config FILE
  --etcd URL[,URL]    keep the registry in etcd, shared with all that do; more of it in the file under \"registry\"
"
    );
    for (key, default) in all().into_iter().filter(|(_, default)| !default.is_object()) {
        let flag = format!("--{}", separated(&key, '-'));
        let shown = match &default {
            Value::Bool(_) => String::new(),
            Value::String(text) if text.is_empty() => " VALUE".to_owned(),
            Value::String(text) => format!(" VALUE  (default {text})"),
            other => format!(" N  (default {other})"),
        };
        text.push_str(&format!("  {flag}{shown}\n"));
    }
    text.push_str(
        "
Signals: TERM and INT drain and stop, a second one stops at once, HUP reloads the configuration.
Exit codes: 0 stopped in order, 1 failed or stopped with calls unfinished, 2 bad usage or configuration, 3 cannot listen,
4 cannot use the state directory or etcd, 5 no mesh to look at, 6 it does not allow that.
",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, String> {
        Arguments::parse(words.iter().map(OsString::from))
    }

    #[test]
    fn commands_and_flags_are_read() {
        assert_eq!(parse(&[]).expect("serve").command, Command::Serve);
        assert_eq!(parse(&["demo", "--traffic"]).expect("demo").command, Command::Demo { traffic: true });
        assert_eq!(parse(&["config", "--annotated"]).expect("config").command, Command::Config { annotated: true });
        assert_eq!(parse(&["check", "a.json"]).expect("check").command, Command::Check("a.json".into()));
        assert_eq!(parse(&["state", "export", "d"]).expect("state").command, Command::State(StateCommand::Export, "d".into()));
        assert_eq!(parse(&["--version"]).expect("version").command, Command::Version);
        let flags = parse(&["serve", "--workers=4", "--insecure", "--config", "x.json"]).expect("flags");
        assert_eq!(flags.config, Some("x.json".into()));
        let expected =
            [("flag --workers".to_owned(), setting("workers", "4")), ("flag --insecure".to_owned(), setting("insecure", "true"))];
        assert_eq!(flags.settings, expected);
    }

    #[test]
    fn what_is_not_understood_is_said_with_the_nearest_word() {
        assert!(parse(&["serv"]).expect_err("typo").contains("did you mean serve?"));
        assert!(parse(&["--worker", "4"]).expect_err("typo").contains("did you mean --workers?"));
        assert!(parse(&["--workers"]).expect_err("no value").contains("--workers needs a value"));
        assert!(parse(&["check"]).expect_err("no file").contains("weft check FILE"));
        for words in [&["state"][..], &["state", "show"]] {
            assert!(parse(words).expect_err("no directory").contains("weft state show DIR"), "{words:?}");
        }
        assert!(parse(&["state", "list", "d"]).expect_err("unknown").contains("use show, export or import"));
        for words in [&["serve", "extra"][..], &["-x"], &["serve", "--traffic"], &["state", "show", "a", "b"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn the_usage_names_every_flag() {
        let usage = usage();
        for key in scalars() {
            assert!(usage.contains(&format!("--{}", separated(&key, '-'))), "{key}");
        }
    }
}
