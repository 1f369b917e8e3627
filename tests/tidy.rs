//! The architecture as a test: what the sources may say, and where.
//!
//! Each test is one rule. What a rule allows stands in the table above it: to change the house, change the table, with its reason. Comments
//! and literals never count as code, and neither do items behind `#[cfg(test)]` where a rule is about what ships.

#![allow(clippy::panic)] // Sources that cannot be read fail the rule that reads them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

/// From the ground up: a file uses its own floor and those before it, never one after it. `src/lib.rs` and `src/main.rs` stand outside.
const FLOORS: [&str; 11] = ["model", "policy", "telemetry", "mesh", "outbound", "contract", "api", "edge", "server", "config", "app"];

#[test]
fn every_file_uses_its_own_floor_and_those_below() {
    let mut findings = Vec::new();
    for source in sources() {
        let module = source.module();
        let Some((floor, _)) = module.split_first() else { continue };
        let Some(height) = FLOORS.iter().position(|known| known == floor) else {
            findings.push(format!("{}: give the floor `{floor}` its place in FLOORS", source.path));
            continue;
        };
        for (line, path) in &source.paths {
            let depth = module.len() + usize::from(source.is_test(*line));
            let Some(used) = from_the_root(path, depth) else { continue };
            match FLOORS.iter().position(|known| *known == used) {
                None => findings.push(format!("{}:{line}: `{path}`: `{used}` is no floor; name the floor it lives on", source.path)),
                Some(other) if other > height => {
                    findings.push(format!("{}:{line}: `{path}`: {used} is above {floor}; move what both need down", source.path));
                }
                Some(_) => {}
            }
        }
    }
    fail_on(&findings);
}

/// Code that belongs in certain files only.
struct Place {
    /// As in [`says`].
    words: &'static [&'static str],
    /// Files, and folders with a slash at the end.
    within: &'static [&'static str],
    /// Whether test modules are free of it.
    tests_are_free: bool,
    instead: &'static str,
}

const PLACES: &[Place] = &[
    Place {
        words: &["Instant::now", ".elapsed"],
        within: &["src/model/time.rs"],
        tests_are_free: true,
        instead: "take `now` as an argument, or ask the clock you were handed",
    },
    Place {
        words: &["SystemTime::now", "thread::sleep", "park_timeout"],
        within: &["src/model/time.rs"],
        tests_are_free: false,
        instead: "ask the clock you were handed; tests move a manual clock",
    },
    Place {
        words: &["Mutex", "RwLock", "Condvar"],
        within: &["src/model/sync.rs"],
        tests_are_free: false,
        instead: "use `Locked` or `Published`, which are entered only through a closure (or, to wait for one another, `Turns` and `Convoy`)",
    },
    Place {
        words: &["Locked", "Published"],
        within: &[
            "src/model/sync.rs",
            "src/model/time.rs",
            "src/contract/access.rs",
            "src/telemetry/events.rs",
            "src/telemetry/traces.rs",
            "src/telemetry/taps.rs",
            "src/mesh/mod.rs",
            "src/mesh/registry.rs",
            "src/mesh/cluster.rs",
            "src/mesh/member.rs",
            "src/outbound/etcd/client.rs",
            "src/outbound/etcd/line.rs",
            "src/outbound/etcd/shared.rs",
            "src/api/mod.rs",
            "src/edge/desk.rs",
            "src/edge/mail.rs",
            "src/edge/shared.rs",
            "src/server/mod.rs",
            "src/outbound/trust.rs",
            // Whose look-ups are under way.
            "src/outbound/resolver.rs",
        ],
        tests_are_free: false,
        instead: "keep the state where the locks are; a new lock earns its place in this table",
    },
    Place {
        words: &["Turns", "Convoy"],
        // What is kept and what is in force change in the same order; and many writers share one sync of the disk.
        within: &["src/model/sync.rs", "src/mesh/mod.rs", "src/outbound/store/mod.rs"],
        tests_are_free: false,
        instead: "waiting for one another is for those who change what is kept; everybody else looks at memory",
    },
    Place {
        words: &["tiny_http"],
        within: &["src/api/server.rs", "src/api/exchange.rs"],
        tests_are_free: false,
        instead: "handlers know `contract::request` and `contract::answer` only",
    },
    Place {
        words: &["ureq"],
        // The exporter of spans has a thread and an agent of its own: what it sends is no attempt.
        // The last asks a mesh that runs somewhere else.
        within: &[
            "src/outbound/upstream.rs",
            "src/outbound/connection.rs",
            "src/outbound/securing.rs",
            "src/outbound/otlp.rs",
            "src/app/look/ask.rs",
            "src/outbound/etcd/line.rs",
        ],
        tests_are_free: false,
        instead: "go through `mesh::ports::Transport`",
    },
    Place {
        words: &["mio"],
        within: &["src/edge/reactor.rs", "src/edge/serve.rs", "src/edge/pool.rs", "src/edge/mail.rs", "src/edge/client.rs"],
        tests_are_free: false,
        instead: "whatever waits for readiness waits in the event loops",
    },
    Place { words: &["httparse"], within: &["src/edge/http1/"], tests_are_free: false, instead: "bytes become heads in one place" },
    Place {
        words: &["rustls", "webpki", "webpki_roots"],
        within: &[
            "src/outbound/certificates.rs",
            "src/outbound/trust.rs",
            "src/outbound/securing.rs",
            "src/edge/tls.rs",
            "src/edge/acceptor.rs",
        ],
        tests_are_free: false,
        instead: "lines and clients know plain bytes only",
    },
    Place {
        words: &["rustix"],
        // Sockets, limits, the lock on the state directory, and whose the token file is.
        within: &[
            "src/outbound/connection.rs",
            "src/outbound/store/folder.rs",
            "src/api/server.rs",
            "src/edge/socket.rs",
            "src/edge/gate.rs",
            "src/server/token_file.rs",
            // Who may read a key depends on who we are.
            "src/outbound/files.rs",
            // A clock that only systemd asks for.
            "src/app/supervisor.rs",
            "src/app/look/terminal.rs",
        ],
        tests_are_free: false,
        instead: "sockets are opened and judged, the state directory is locked and the token file opened in these files",
    },
    Place {
        words: &["signal_hook", "simplelog", "lexopt", "process::exit"],
        within: &["src/app/", "src/config/flags.rs"],
        tests_are_free: false,
        instead: "signals, the logger, flags and the end of the process belong to the program, not to the library",
    },
    Place {
        words: &["env::"],
        // A private socket needs a place for temporary things.
        within: &["src/app/", "src/config/", "src/api/server.rs"],
        tests_are_free: false,
        instead: "what the environment says comes in as configuration",
    },
];

#[test]
fn clocks_locks_and_crates_appear_only_in_their_places() {
    let mut findings = Vec::new();
    for place in PLACES {
        for source in sources().iter().filter(|source| !source.is_within(place.within)) {
            let found = source.saying(place.words, place.tests_are_free);
            findings.extend(found.map(|at| format!("{at} has no place here: {}", place.instead)));
        }
        for kept in place.within {
            let used = sources().iter().any(|source| source.is_within(&[kept]) && source.saying(place.words, false).next().is_some());
            findings.extend((!used).then(|| format!("{kept}: says none of {:?} any more: remove it from PLACES", place.words)));
        }
    }
    fail_on(&findings);
}

/// What decides and does nothing else.
const PURE: &[&str] = &["src/policy/", "src/mesh/call.rs"];

#[rustfmt::skip]
const IMPURE: &[&str] = &[
    "Clock", "SystemClock", "ManualClock", ".now", ".wall_ms", ".park_until", // reads the time
    "Dice", "SystemDice", "SeededDice", ".roll",                              // rolls dice
    "Locked", "Published", ".lock", ".read", ".write",                        // takes a lock
    "log::", "print!", "println!", "eprint!", "eprintln!",                    // logs
    "std::fs", "std::io", "std::net", "std::env", "std::thread", "std::process", "thread::",
];

/// Addresses are plain values, and judging them is a policy.
const ADDRESSES: (&str, &[&str]) = ("src/policy/upstreams.rs", &["IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr"]);

#[test]
fn policies_and_the_call_machine_read_no_clock_take_no_lock_and_touch_nothing() {
    let mut findings = Vec::new();
    for source in sources().iter().filter(|source| source.is_within(PURE)) {
        let (file, allowed) = ADDRESSES;
        for (line, path) in source.shipped_paths() {
            let address = source.path == file && allowed.iter().any(|word| path.starts_with("std::net::") && says(path, word));
            if !address && IMPURE.iter().any(|word| says(path, word)) {
                findings.push(format!("{}:{line}: `{path}`: let it come in as an argument or go out as a value", source.path));
            }
        }
    }
    fail_on(&findings);
}

#[rustfmt::skip]
const LOUD: &[&str] = &[
    ".unwrap", ".expect", "Option::unwrap", "Option::expect", "Result::unwrap", "Result::expect",
    "panic!", "unreachable!", "todo!", "unimplemented!",
];

#[test]
fn nothing_that_ships_panics_on_purpose() {
    let found = sources().iter().flat_map(|source| source.saying(LOUD, true));
    fail_on(&found.map(|at| format!("{at} may panic: return an error, or make the case impossible by type")).collect::<Vec<_>>());
}

#[test]
fn no_test_is_ignored_and_no_debug_print_is_left() {
    let mut findings = Vec::new();
    for file in repository().iter().filter(|file| file.ends_with(".rs")) {
        let source = Source::parse(file.clone(), read(file).unwrap_or_default());
        findings.extend(source.saying(&["dbg!"], false).map(|at| format!("{at}: remove it")));
        let ignored = source.code.lines().enumerate().filter(|(_, line)| line.contains("#[ignore"));
        findings.extend(ignored.map(|(index, _)| format!("{file}:{}: an ignored test: repair it or remove it", index + 1)));
    }
    fail_on(&findings);
}

#[test]
fn every_file_begins_by_saying_why_it_exists() {
    let silent = sources().iter().filter(|source| !source.text.starts_with("//! "));
    fail_on(&silent.map(|source| format!("{}:1: begin with `//! ` and why this file exists", source.path)).collect::<Vec<_>>());
}

/// More lines than this, tests not counted, and a reader can no longer hold a file.
const MOST_LINES: usize = 450;
/// From here on a file is worth a look: `cargo test --test tidy grown -- --nocapture` lists them.
const MANY_LINES: usize = 350;

/// The longer ones: how many lines they may have, and why they stay in one piece.
const LONG: &[(&str, usize, &str)] = &[(
    "src/mesh/call.rs",
    600,
    "the life of a call, whole, on one page: split, nobody would see that every way through it gives back what it took",
)];

#[test]
fn no_file_has_grown_past_what_a_reader_can_hold() {
    let mut findings = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count() - source.tests.iter().map(ExactSizeIterator::len).sum::<usize>();
        let most = LONG.iter().find(|(file, ..)| *file == source.path).map_or(MOST_LINES, |(_, most, _)| *most);
        if lines > most {
            findings.push(format!("{}: {lines} lines without tests, {most} allowed: split it by concept", source.path));
        } else if lines > MANY_LINES {
            println!("{}: {lines} lines without tests", source.path);
        }
        if most > MOST_LINES && lines <= MOST_LINES {
            findings.push(format!("{}: {lines} lines without tests: it needs no exception in LONG any more", source.path));
        }
    }
    let gone = LONG.iter().filter(|(file, ..)| sources().iter().all(|source| source.path != *file));
    findings.extend(gone.map(|(file, ..)| format!("{file}: is gone: remove it from LONG")));
    fail_on(&findings);
}

#[test]
fn the_top_level_holds_what_a_reader_expects_and_nothing_else() {
    let known = ["Cargo.toml", "Cargo.lock", "src", "tests", "scripts", "README.md"];
    let top: BTreeSet<String> = listed(&["--cached"]).iter().filter_map(|file| file.split('/').next()).map(str::to_owned).collect();
    let strange = top.iter().filter(|name| !name.starts_with('.') && !known.contains(&name.as_str()));
    fail_on(&strange.map(|name| format!("{name}: move it into src, tests or scripts")).collect::<Vec<_>>());
}

#[test]
fn nothing_is_left_to_be_done_later() {
    // In halves, so that this file keeps its own rule.
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
    fail_on(&lines_where(|_, line| words.iter().any(|word| has_word(line, word)).then(|| "do it now, or leave it out".to_owned())));
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let homes = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/")];
    let here = Some(env!("CARGO_MANIFEST_DIR")).filter(|here| here.matches('/').count() > 1);
    let is_foreign = |line: &str, path: &str| line.match_indices(path).any(|(at, _)| !line[..at].ends_with(is_path_character));
    fail_on(&lines_where(|_, line| {
        let path = homes.into_iter().chain(here).find(|path| is_foreign(line, path))?;
        Some(format!("`{path}` is a path of one machine: say it relative to the repository, or ask the environment"))
    }));
}

/// Files written in the form of another tool, which indents by tabs.
const TABBED: &[&str] = &["scripts/bench.d/Caddyfile"];

/// Bytes as they are sent, good and bad.
const CORPORA: &str = "tests/fuzz/corpus/";

#[test]
fn text_has_no_tabs_no_trailing_blanks_and_ends_with_a_newline() {
    let mut findings = lines_where(|file, line| {
        if file.starts_with(CORPORA) {
            return None;
        }
        if line.ends_with(char::is_whitespace) {
            return Some("blanks at the end of the line: remove them".to_owned());
        }
        (line.contains('\t') && !TABBED.contains(&file)).then(|| "a tab: use spaces".to_owned())
    });
    for file in repository().iter().filter(|file| !file.starts_with(CORPORA)) {
        let bare = read(file).is_some_and(|text| !text.is_empty() && (!text.ends_with('\n') || text.ends_with("\n\n")));
        findings.extend(bare.then(|| format!("{file}: end it with one newline")));
    }
    fail_on(&findings);
}

/// Where tests are promised to be.
const PROMISES: &[&str] = &["README.md", "src/contract/threats.rs", "tests/security/rows.rs"];

#[test]
fn every_test_that_is_named_is_there() {
    let mut findings = Vec::new();
    for (file, line, quoted) in PROMISES.iter().flat_map(|file| quotations(file)) {
        let is_word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        let words: Vec<&str> = quoted.split_whitespace().collect();
        let parts: Vec<&str> = quoted.split("::").collect();
        let is_there = match words.as_slice() {
            ["cargo", "test", "--test", program] => is_test(program, ""),
            ["cargo", "test", "--test", program, filter] => is_test(program, filter),
            ["scripts/soak", name, ..] => read("scripts/soak").is_some_and(|text| text.contains(&format!("\nsoak_{name}() {{"))),
            [path] if path.starts_with("tests/") => root().join(path).exists(),
            // In the table of promises, a word is a file beside that map.
            [word] if is_promise(file, line) && is_word(word) && word.len() > 1 => {
                root().join(format!("tests/security/{word}.rs")).exists()
            }
            // In the map of inputs, everything that looks like a path of modules is one.
            [_] if file.starts_with("tests/") && parts.len() > 2 && parts.iter().all(|part| is_word(part)) => is_function(&parts),
            _ => true,
        };
        findings.extend((!is_there).then(|| format!("{file}:{line}: `{quoted}` is not there: name what is")));
    }
    fail_on(&findings);
}

/// What stands in backquotes in a text or, of a Rust file, in its documentation.
fn quotations(file: &'static str) -> Vec<(&'static str, usize, String)> {
    let text = read(file).unwrap_or_default();
    let lines = text.lines().enumerate().filter(|(_, line)| !file.ends_with(".rs") || line.starts_with("//!"));
    lines.flat_map(|(index, line)| line.split('`').skip(1).step_by(2).map(move |quoted| (file, index + 1, quoted.to_owned()))).collect()
}

/// Whether a line is one of the table that says how promises are tested.
fn is_promise(file: &str, line: usize) -> bool {
    let text = read(file).unwrap_or_default();
    let table = text.lines().enumerate().skip_while(|(_, line)| !line.starts_with("| promise | how it is tested |"));
    table.take_while(|(_, line)| line.starts_with('|')).any(|(index, _)| index + 1 == line)
}

/// Whether a test program has a test in whose path `filter` is.
fn is_test(program: &str, filter: &str) -> bool {
    let of_program = |file: &&String| **file == format!("tests/{program}.rs") || file.starts_with(&format!("tests/{program}/"));
    repository().iter().filter(of_program).any(|file| {
        let module = file.trim_start_matches(&format!("tests/{program}")).trim_matches('/').trim_end_matches(".rs").replace('/', "::");
        module.contains(filter) || read(file).is_some_and(|text| functions(&text).any(|name| name.contains(filter)))
    })
}

/// Whether the last of these names is that of a function in the module that the others name, of the tests or else of the crate.
fn is_function(path: &[&str]) -> bool {
    let Some((function, module)) = path.split_last() else { return false };
    let module = module.join("/");
    let files = [format!("tests/{module}.rs"), format!("src/{module}.rs"), format!("src/{module}/mod.rs")];
    files
        .iter()
        .filter(|file| repository().contains(file))
        .any(|file| read(file).is_some_and(|text| functions(&text).any(|name| name == *function)))
}

fn functions(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.trim_start().strip_prefix("fn ")?.split_once("()")).map(|(name, _)| name)
}

#[test]
fn every_fuzz_target_has_a_corpus_is_replayed_by_the_tests_and_soaked() {
    let mut findings = Vec::new();
    let text = |file: &str| read(file).unwrap_or_default();
    let (manifest, replayed, soak) = (text("tests/fuzz/Cargo.toml"), text("tests/door/fuzzed.rs"), text("scripts/soak"));
    let targets = repository().iter().filter_map(|file| file.strip_prefix("tests/fuzz/fuzz_targets/")?.strip_suffix(".rs"));
    let targets: BTreeSet<&str> = targets.collect();
    for target in &targets {
        let mut holds = |what: &str, is_so: bool| findings.extend((!is_so).then(|| format!("{target}: {what}")));
        holds("not in tests/fuzz/Cargo.toml", manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")));
        holds("not replayed by tests/door/fuzzed.rs", replayed.contains(&format!("holds(\"{target}\", ")));
        holds("not soaked by scripts/soak parsers", soak.lines().any(|line| line.contains("for target in") && has_word(line, target)));
        holds("no corpus", repository().iter().any(|file| file.starts_with(&format!("{CORPORA}{target}/"))));
    }
    let known = ["request_head", "response_head", "chunks", "bodies", "endpoint", "trace", "config", "tokens", "state", "log", "watch"];
    findings.extend(known.iter().filter(|known| !targets.contains(*known)).map(|known| format!("{known}: no target any more")));
    fail_on(&findings);
}

#[test]
fn these_rules_are_not_taken_in_by_comments_literals_or_groups() {
    let text = r####"//! a::b
use crate::model::{Call, time::{self, Clock}}; /* c::d /* e::f */ g::h */
fn f<'a>(x: &'a str) -> char { let _ = r#"i::j " k::l"#; x.expect("m::n \" o::p"); panic!("{}", '"'); '\'' }
#[cfg(test)]
fn g(_: [u8; 2]) {
    q::r::<u8>();
}
fn h() { s::* }
"####;
    let source = Source::parse("src/a.rs".to_owned(), text.to_owned());
    let compound: Vec<(usize, &str)> =
        source.paths.iter().map(|(line, path)| (*line, path.as_str())).filter(|(_, path)| path.contains([':', '.', '!'])).collect();
    let expected = [
        (2, "crate::model::Call"),
        (2, "crate::model::time::self"),
        (2, "crate::model::time::Clock"),
        (3, ".expect"),
        (3, "panic!"),
        (6, "q::r"),
        (8, "s::*"),
    ];
    assert_eq!(compound, expected);
    assert_eq!(source.tests.first(), Some(&(4..8)));
    assert!(says("a::b::c", "b") && says("a::b::c", "b::c") && says("a::b", "a::") && !says("a::b", "b::") && !says("ab::c", "b"));
    assert_eq!(from_the_root("super::super::api::Server", 2), Some("api"));
    assert_eq!(from_the_root("super::super::candidates", 3), None);
}

#[track_caller]
fn fail_on(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

/// Whether `path` has `word`, which may be several names in a row. `.name` is a method or field, `name!` a macro, `name::` something in `name`.
fn says(path: &str, word: &str) -> bool {
    let end = if word.ends_with("::") { "" } else { "::" };
    format!("::{path}{end}").contains(&format!("::{word}{end}"))
}

/// The module of the crate that `path` reaches into by `crate::` or by climbing, in a module `depth` below the root.
fn from_the_root(path: &str, depth: usize) -> Option<&str> {
    let mut names = path.split("::").peekable();
    if names.next_if_eq(&"crate").is_none() {
        let climbed = std::iter::from_fn(|| names.next_if_eq(&"super")).count();
        if climbed < depth {
            return None;
        }
    }
    names.next()
}

fn has_word(line: &str, word: &str) -> bool {
    let is_inside = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(is_inside) && !line[at + word.len()..].starts_with(is_inside))
}

fn is_path_character(c: char) -> bool {
    c.is_alphanumeric() || "._-/}):".contains(c)
}

/// Every line of the repository's text about which `complain` has something to say.
fn lines_where(complain: impl Fn(&str, &str) -> Option<String>) -> Vec<String> {
    let mut findings = Vec::new();
    for file in repository() {
        for (index, line) in read(file).unwrap_or_default().split('\n').enumerate() {
            findings.extend(complain(file, line).map(|complaint| format!("{file}:{}: {complaint}", index + 1)));
        }
    }
    findings
}

/// The files of the repository, those about to be added included.
fn repository() -> &'static [String] {
    static FILES: LazyLock<Vec<String>> = LazyLock::new(|| listed(&["--cached", "--others", "--exclude-standard"]));
    &FILES
}

/// What git lists, or, where there is no git, all there is.
fn listed(options: &[&str]) -> Vec<String> {
    let files = git_ls_files(options);
    if files.is_empty() { walk("") } else { files }
}

fn git_ls_files(options: &[&str]) -> Vec<String> {
    let git = Command::new("git").arg("-C").arg(root()).args(["ls-files", "-z"]).args(options).output();
    let names = git.ok().filter(|git| git.status.success()).map_or_else(Vec::new, |git| git.stdout);
    let names = String::from_utf8_lossy(&names).split_terminator('\0').map(str::to_owned).collect::<BTreeSet<_>>();
    names.into_iter().filter(|name| root().join(name).is_file()).collect()
}

fn walk(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let mut files = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && ![".git", "target", "__pycache__"].contains(&name.as_str()) => files.extend(walk(&path)),
            Ok(kind) if kind.is_file() => files.push(path),
            _ => {}
        }
    }
    files.sort();
    files
}

/// The text of a file; `None` if it is not text.
fn read(file: &str) -> Option<String> {
    match fs::read_to_string(root().join(file)) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
        text => Some(text.unwrap_or_else(|error| panic!("{file}: {error}"))),
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file under `src`.
fn sources() -> &'static [Source] {
    static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| {
        let files = walk("src").into_iter().filter(|file| file.ends_with(".rs"));
        files.map(|file| Source::parse(file.clone(), read(&file).unwrap_or_default())).collect()
    });
    &SOURCES
}

/// A Rust file, as far as these rules need to understand it.
struct Source {
    path: String,
    text: String,
    /// The text with every comment and literal blanked out, line for line.
    code: String,
    /// Every path and name in the code and its line, the first being 1. Groups are spelled out: `a::{b, c}` is `a::b` and `a::c`.
    paths: Vec<(usize, String)>,
    /// The lines of items behind `#[cfg(test)]`.
    tests: Vec<Range<usize>>,
}

impl Source {
    fn parse(path: String, text: String) -> Self {
        let code = without_comments_and_literals(&text);
        Self { paths: paths(&code), tests: test_items(&code), path, text, code }
    }

    /// The names of its module from the root of the crate; none for the root itself and for the program.
    fn module(&self) -> Vec<&str> {
        let path = self.path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        if ["lib", "main"].contains(&path) { Vec::new() } else { path.split('/').collect() }
    }

    fn is_within(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path == *place || place.ends_with('/') && self.path.starts_with(place))
    }

    fn is_test(&self, line: usize) -> bool {
        self.tests.iter().any(|lines| lines.contains(&line))
    }

    fn shipped_paths(&self) -> impl Iterator<Item = (usize, &str)> {
        self.paths.iter().filter(|(line, _)| !self.is_test(*line)).map(|(line, path)| (*line, path.as_str()))
    }

    /// Where it says one of `words`, as "file:line: `path`".
    fn saying(&self, words: &[&str], tests_are_free: bool) -> impl Iterator<Item = String> {
        let said = self.paths.iter().filter(|(_, path)| words.iter().any(|word| says(path, word)));
        said.filter(move |(line, _)| !tests_are_free || !self.is_test(*line)).map(|(line, path)| format!("{}:{line}: `{path}`", self.path))
    }
}

fn without_comments_and_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (blank, after) = rest.split_at(comment_or_literal(rest));
        code.extend(blank.chars().map(|c| if c == '\n' { c } else { ' ' }));
        rest = after;
        if blank.is_empty() {
            code.push(first);
            rest = after.split_at(first.len_utf8()).1;
        }
    }
    code
}

/// The length of the comment or literal at the beginning of `rest`; 0 if there is none.
fn comment_or_literal(rest: &str) -> usize {
    let to_end = |end: Option<usize>| end.unwrap_or(rest.len());
    if rest.starts_with("//") {
        return to_end(rest.find('\n'));
    }
    if rest.starts_with("/*") {
        let mut depth = 0;
        return to_end(rest.char_indices().find_map(|(at, _)| {
            depth += i32::from(rest[at..].starts_with("/*")) - i32::from(rest[..at].ends_with("*/"));
            (depth == 0).then_some(at)
        }));
    }
    if let Some(raw) = rest.strip_prefix('r') {
        let text = raw.trim_start_matches('#');
        let end = format!("\"{}", "#".repeat(raw.len() - text.len()));
        return match text.strip_prefix('"') {
            Some(text) => rest.len() - text.len() + to_end(text.find(&end).map(|at| at + end.len())),
            None => 0,
        };
    }
    let quote = match (rest.chars().next(), rest.chars().nth(1), rest.chars().nth(2)) {
        (Some('"'), ..) => '"',
        (Some('\''), Some('\\'), _) | (Some('\''), _, Some('\'')) => '\'',
        _ => return 0, // A quote that closes nothing begins a lifetime.
    };
    let mut escaped = true; // So that the opening quote does not close.
    to_end(rest.char_indices().find_map(|(at, c)| {
        let closes = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        closes.then_some(at + 1)
    }))
}

fn test_items(code: &str) -> Vec<Range<usize>> {
    let line_of = |at: usize| code[..at].matches('\n').count() + 1;
    let mut items: Vec<Range<usize>> = Vec::new();
    for (start, attribute) in code.match_indices("#[cfg(test)]") {
        let mut depth = 0_i32;
        let end = code[start + attribute.len()..].char_indices().find_map(|(at, c)| {
            depth += i32::from("([{".contains(c)) - i32::from(")]}".contains(c));
            (depth == 0 && ";}".contains(c)).then_some(start + attribute.len() + at)
        });
        items.push(line_of(start)..line_of(end.unwrap_or(code.len())) + 1);
    }
    items
}

fn paths(code: &str) -> Vec<(usize, String)> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let (mut found, mut line) = (Vec::new(), 1);
    // What stands before each open brace: the path of a group with `::` at its end, or nothing.
    let mut braces = vec![String::new()];
    let mut path = String::new();
    let mut rest = code;
    while let Some(c) = rest.chars().next() {
        let name = &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())];
        let token = if name.is_empty() { c.len_utf8() } else { name.len() };
        let before = code[..code.len() - rest.len()].chars().next_back();
        rest = &rest[token..];
        if name.is_empty() && c != '*' {
            match c {
                '\n' => line += 1,
                '{' => braces.push(std::mem::take(&mut path)),
                '}' if braces.len() > 1 => drop(braces.pop()),
                _ => {}
            }
            continue;
        }
        if path.is_empty() {
            path.extend(braces.last().map(String::as_str));
            path.extend(before.filter(|before| *before == '.'));
        }
        path.push_str(if name.is_empty() { "*" } else { name });
        match rest.strip_prefix("::") {
            Some(after) if after.starts_with(|c| is_name(c) || c == '{' || c == '*') => {
                path.push_str("::");
                rest = after;
                continue;
            }
            _ if rest.starts_with('!') && !rest.starts_with("!=") => path.push('!'),
            _ => {}
        }
        found.push((line, std::mem::take(&mut path)));
    }
    found
}
