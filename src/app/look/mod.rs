//! `weft services`, `instances`, `events`, `explain`, `top` and `tap`: looking at a mesh that runs somewhere, over its API.
//!
//! Each command asks for JSON and shows it as text for a person, or, with `--json`, as it came. Whatever comes from the mesh is made harmless
//! before it is shown: no name or message can move the cursor or change a colour.

mod ask;
mod lists;
mod paper;
mod tap;
mod terminal;
mod top;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use lexopt::{Arg, Parser, ValueExt};
use serde_json::Value;

use crate::model::shown;
use ask::Mesh;
use paper::harmless;
pub(super) use paper::harmless_json;

/// The commands, in the order of the help.
const COMMANDS: [(&str, &str); 6] = [
    ("services", "weft services [NAME]       what there is, how it fares, since when circuits are open"),
    ("instances", "weft instances [NAME]      every instance, or those of one service"),
    ("explain", "weft explain NAME          why each instance of a service can or cannot be picked right now"),
    ("events", "weft events [--follow]     what has changed; --follow goes on until Ctrl-C"),
    ("top", "weft top                   the whole picture, again every second; q quits. Not on a terminal: once"),
    (
        "tap",
        "weft tap                   calls as they happen, a line each: [--service NAME] [--status 5xx] [--slower-than-ms N] [--limit N]",
    ),
];

const FLAGS: &str = "
Flags:
  --url URL           where the mesh is (default http://localhost:3000, or what WEFT_URL says)
  --token-file FILE   a file with the token to show; one line
  --json              as JSON, for programs; not with top
  --help

Colours are for terminals only, and not where NO_COLOR is set.
Exit codes: 0 done, 1 the mesh cannot answer that, 2 bad usage, 5 the mesh cannot be reached, 6 it does not allow that.
";

/// Where a mesh is, if nobody says.
const LOCAL: &str = "http://localhost:3000";

/// Why a command failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// It was not understood.
    Usage(String),
    /// The mesh cannot be reached: where, and why.
    Unreachable(String, String),
    /// It does not allow it.
    NotAllowed(String),
    /// It answered something else than was asked for.
    Refused(String),
    /// Writing failed, or the terminal.
    Io(io::Error),
}

impl Failed {
    pub(super) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Refused(_) | Self::Io(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(..) => 5,
            Self::NotAllowed(_) => 6,
        })
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) | Self::NotAllowed(why) | Self::Refused(why) => f.write_str(why),
            Self::Unreachable(url, why) => write!(f, "no mesh answers at {url}: {why}; is weft running there? --url names another place"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What was asked for.
#[derive(Default)]
struct Wish {
    name: Option<String>,
    url: Option<String>,
    token_file: Option<PathBuf>,
    json: bool,
    follow: bool,
    /// Which calls to tap.
    query: String,
    help: bool,
}

/// Whether `word` is one of these commands.
pub(super) fn knows(word: &OsString) -> bool {
    COMMANDS.iter().any(|(name, _)| word == name)
}

/// Does `command` with the words that follow it.
pub(super) fn run(command: &str, words: impl Iterator<Item = OsString>) -> Result<ExitCode, Failed> {
    let wish = read(command, words)?;
    if wish.help {
        let lines: String = COMMANDS.iter().filter(|(name, _)| *name == command).map(|(_, line)| format!("{line}\n")).collect();
        say!("{}{}", lines, FLAGS.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let url = wish.url.or_else(|| std::env::var("WEFT_URL").ok().filter(|url| !url.is_empty())).unwrap_or_else(|| LOCAL.to_owned());
    let mesh = Mesh::at(&url, wish.token_file)?;
    let name = wish.name.as_deref();
    match (command, wish.json) {
        ("top", _) => return top::run(&mesh),
        ("tap", json) => tap::tap(&mesh, &wish.query, json)?,
        ("events", json) => lists::events(&mesh, name, json, wish.follow)?,
        ("explain", true) => print_json(&mesh.ask(&explain_path(name)?)?)?,
        ("explain", false) => lists::explain(&mesh.ask(&explain_path(name)?)?),
        (_, true) => print_json(&named(mesh.ask("/services")?, name)?)?,
        ("services", false) => lists::services(&mesh.ask("/metrics")?, name)?,
        (_, false) => lists::instances(&named(mesh.ask("/services")?, name)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn read(command: &str, words: impl Iterator<Item = OsString>) -> Result<Wish, Failed> {
    let usage = |why: String| Failed::Usage(format!("{why}; see weft {command} --help"));
    let text = |word: OsString| word.string().map_err(|error| usage(error.to_string()));
    let mut parser = Parser::from_args(words);
    let mut wish = Wish::default();
    while let Some(argument) = parser.next().map_err(|error| usage(error.to_string()))? {
        match argument {
            Arg::Long("help") | Arg::Short('h') => wish.help = true,
            Arg::Long("json") if command != "top" => wish.json = true,
            Arg::Long("follow") | Arg::Short('f') if command == "events" => wish.follow = true,
            Arg::Long(flag @ ("service" | "status" | "limit" | "slower-than-ms")) if command == "tap" => {
                let (flag, key) = (format!("--{flag}"), if flag == "slower-than-ms" { "slowerThanMs" } else { flag }.to_owned());
                let value = text(parser.value().map_err(|_| usage(format!("{flag} needs a value")))?)?;
                tap::add(&mut wish.query, &key, &value);
            }
            Arg::Long("url") => wish.url = Some(text(parser.value().map_err(|_| usage("--url needs a value".to_owned()))?)?),
            Arg::Long("token-file") => {
                let file = parser.value().map_err(|_| usage("--token-file needs a value".to_owned()))?;
                wish.token_file = Some(file.into());
            }
            Arg::Value(word) if wish.name.is_none() && !matches!(command, "top" | "tap") => wish.name = Some(text(word)?),
            Arg::Long(flag) => return Err(usage(format!("--{} is no flag of weft {command}", harmless(flag)))),
            other => return Err(usage(format!("{} is not understood here", shown(&format!("{other:?}"))))),
        }
    }
    if command == "explain" && wish.name.is_none() && !wish.help {
        return Err(Failed::Usage("which service? use weft explain NAME; weft services says which there are".to_owned()));
    }
    Ok(wish)
}

/// A name in a path. Names of services need no escaping; what is none finds nothing.
fn explain_path(name: Option<&str>) -> Result<String, Failed> {
    let name = name.unwrap_or_default();
    match crate::model::ServiceName::new(name) {
        Ok(name) => Ok(format!("/services/{name}/explain")),
        Err(fault) => Err(Failed::Usage(fault.to_string())),
    }
}

/// Of all services, the one of that name if there is a name.
fn named(services: Value, name: Option<&str>) -> Result<Value, Failed> {
    match (services, name) {
        (Value::Array(all), Some(name)) => {
            let found: Vec<Value> = all.into_iter().filter(|service| service["name"] == name).collect();
            if found.is_empty() { Err(no_such(name)) } else { Ok(Value::Array(found)) }
        }
        (services, _) => Ok(services),
    }
}

fn no_such(name: &str) -> Failed {
    Failed::Refused(format!("no such service is registered: {}; weft services says which there are", shown(name)))
}

/// JSON in which nothing can speak to a terminal: control characters occur only within strings, where they may be escaped.
fn print_json(value: &Value) -> Result<(), Failed> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
    Ok(super::print(harmless_json(&text))?)
}
