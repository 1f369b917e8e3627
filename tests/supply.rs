//! What the program is made of besides its own sources: where it comes from, under which licences, and that none of it is known to be bad.
//! `scripts/licences` prints the list.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // Tests may fail loudly.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Licences that let the program be given away as one binary, under its own.
const LICENCES: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "ISC",
    "BSD-3-Clause",
    "Unicode-3.0",
    // Data alone: Mozilla's list of authorities.
    "CDLA-Permissive-2.0",
];

/// Published faults of what we use, by crate: from which version, and in which it is repaired. A floor under Cargo.lock that needs no network;
/// `cargo audit` knows more, and newer ones.
const FAULTS: &[(&str, &str, &str, &str)] = &[
    ("ascii", "0.6.1", "0.9.3", "RUSTSEC-2023-0015"),
    ("base64", "0.0.0", "0.5.2", "RUSTSEC-2017-0004"),
    ("bytes", "1.2.1", "1.11.1", "RUSTSEC-2026-0007"),
    ("crossbeam-channel", "0.0.0", "0.4.4", "RUSTSEC-2020-0052 and 2022-0019"),
    ("crossbeam-channel", "0.5.12", "0.5.15", "RUSTSEC-2025-0024"),
    ("crossbeam-utils", "0.0.0", "0.8.7", "RUSTSEC-2022-0041"),
    ("generic-array", "0.8.0", "0.13.3", "RUSTSEC-2020-0146"),
    ("http", "0.0.0", "0.1.20", "RUSTSEC-2019-0033 and -0034"),
    ("mio", "0.7.0", "0.7.6", "RUSTSEC-2020-0081"),
    ("mio", "0.7.2", "0.8.11", "RUSTSEC-2024-0019"),
    ("once_cell", "0.2.5", "1.0.1", "RUSTSEC-2019-0017"),
    ("ring", "0.0.0", "0.17.12", "RUSTSEC-2025-0009 and -0010"),
    ("rustix", "0.35.12", "0.38.19", "GHSA-c827-hfw6-qwvm"),
    ("rustls", "0.0.0", "0.23.5", "RUSTSEC-2024-0336"),
    ("rustls", "0.23.13", "0.23.18", "RUSTSEC-2024-0399"),
    ("rustls", "0.23.13", "0.23.45", "RUSTSEC-2026-0285"),
    ("rustls-webpki", "0.0.0", "0.101.4", "RUSTSEC-2023-0053"),
    ("rustls-webpki", "0.0.0", "0.103.13", "RUSTSEC-2026-0049, -0098, -0099 and -0104"),
    ("sha2", "0.9.7", "0.9.8", "RUSTSEC-2021-0100"),
    ("shlex", "0.0.0", "1.3.0", "RUSTSEC-2024-0006"),
    ("time", "0.0.0", "0.2.23", "RUSTSEC-2020-0071"),
    ("time", "0.3.6", "0.3.47", "RUSTSEC-2026-0009"),
    ("tiny_http", "0.0.0", "0.8.0", "RUSTSEC-2020-0031"),
    ("untrusted", "0.0.0", "0.6.2", "RUSTSEC-2018-0001"),
];

/// Published faults that nobody has repaired, the last version that has them, and the test that shows why they cannot be reached: where it is
/// and what it is called.
const UNREPAIRED: &[(&str, &str, &str, &str, &str)] = &[
    // It takes any Transfer-Encoding for chunks. Behind the edge, requests come to it by their length alone.
    ("tiny_http", "0.12.0", "CVE-2026-66752", "src/contract/handover.rs", "only_what_the_api_reads_goes_through_and_only_as_plain_text"),
    // It writes line ends in the header fields of answers. It is given no answers to write.
    ("tiny_http", "0.12.0", "CVE-2026-66753", "tests/supply.rs", "no_answer_is_written_by_a_library_that_lets_line_ends_into_its_head"),
];

/// What is locked: for the program, for its fuzz targets, which the gate builds, and for what it is measured beside.
const LOCKS: [&str; 3] = ["Cargo.lock", "tests/fuzz/Cargo.lock", "scripts/bench.d/naive/Cargo.lock"];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Everything that is compiled for Linux, tests and build scripts included, as cargo tells it.
fn packages() -> Vec<Value> {
    let arguments = ["metadata", "--locked", "--format-version", "1", "--filter-platform", "x86_64-unknown-linux-gnu"];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(repository()).output().expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let used: Vec<&Value> = all["resolve"]["nodes"].as_array().expect("nodes").iter().map(|node| &node["id"]).collect();
    let packages = all["packages"].as_array().expect("packages");
    packages.iter().filter(|package| used.contains(&&package["id"])).cloned().collect()
}

/// Whether an SPDX expression can be met by licences that are allowed. AND binds more tightly than OR.
fn is_met(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    either(&mut rest) && rest.is_empty()
}

fn either(words: &mut &[&str]) -> bool {
    let mut met = both(words);
    while let Some(rest) = words.strip_prefix(&["OR"]) {
        *words = rest;
        met |= both(words);
    }
    met
}

fn both(words: &mut &[&str]) -> bool {
    let mut met = one(words);
    while let Some(rest) = words.strip_prefix(&["AND"]) {
        *words = rest;
        met &= one(words);
    }
    met
}

fn one(words: &mut &[&str]) -> bool {
    match **words {
        ["(", ref rest @ ..] => {
            *words = rest;
            let met = either(words);
            *words = words.strip_prefix(&[")"]).unwrap_or_default();
            met
        }
        [licence, "WITH", exception, ref rest @ ..] => {
            *words = rest;
            LICENCES.contains(&format!("{licence} WITH {exception}").as_str())
        }
        [licence, ref rest @ ..] => {
            *words = rest;
            LICENCES.contains(&licence)
        }
        [] => false,
    }
}

#[test]
fn everything_is_licensed_so_that_it_may_be_given_away() {
    for (expression, met) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("(GPL-3.0 OR MIT) AND Unicode-3.0", true),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("GPL-2.0 WITH Classpath-exception-2.0", false),
        ("MIT/Apache-2.0", true),
        ("", false),
    ] {
        assert_eq!(is_met(expression), met, "{expression}");
    }
    for package in packages() {
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(is_met(licence), "{} {}: {licence:?} is not among the licences that are allowed", package["name"], package["version"]);
    }
}

fn read(file: &str) -> String {
    fs::read_to_string(repository().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The packages of a lock.
fn locked(lock: &str) -> impl Iterator<Item = &str> {
    lock.split("[[package]]").skip(1)
}

fn field<'a>(package: &'a str, name: &str) -> Option<&'a str> {
    package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \"")?.strip_suffix('"'))
}

#[test]
fn everything_comes_from_the_public_registry_and_is_pinned_by_its_hash() {
    for file in LOCKS {
        let lock = read(file);
        let (ours, others): (Vec<&str>, Vec<&str>) =
            locked(&lock).partition(|package| ["weft-mesh", "weft-fuzz", "naive"].map(Some).contains(&field(package, "name")));
        assert!(ours.iter().all(|package| field(package, "source").is_none()), "{file}: one of our names, and not ours");
        for package in &others {
            let source = field(package, "source").unwrap_or_default();
            assert_eq!(source, "registry+https://github.com/rust-lang/crates.io-index", "{file}: from elsewhere: {package}");
            assert!(field(package, "checksum").is_some_and(|digits| digits.len() == 64), "{file}: not pinned: {package}");
        }
        assert!(others.len() > 10, "{file}: {} packages", others.len());
    }
}

#[test]
fn what_tests_install_is_pinned_by_its_hash() {
    let requirements = read("tests/proxy/requirements.txt").replace("\\\n", " ");
    for line in requirements.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (package, hashes) = words.split_first().expect("a package");
        assert!(package.contains("==") && !hashes.is_empty(), "tests/proxy/requirements.txt: not pinned: {line}");
        assert!(hashes.iter().all(|hash| hash.len() == 78 && hash.starts_with("--hash=sha256:")), "{line}");
    }
    assert!(requirements.contains("dapr==") && read("tests/proxy/dapr.rs").contains("\"--require-hashes\""));
    let lock: Value = serde_json::from_str(&read("tests/dashboard/package-lock.json")).expect("JSON");
    let packages = lock["packages"].as_object().expect("packages").iter().filter(|(name, _)| !name.is_empty());
    for (name, package) in packages {
        let integrity = package["integrity"].as_str().unwrap_or_default();
        assert!(integrity.starts_with("sha512-"), "tests/dashboard/package-lock.json: {name} is not pinned");
    }
    assert!(read("tests/dashboard/browser.rs").contains("[\"ci\", \"--ignore-scripts\""));
}

fn version(text: &str) -> (u64, u64, u64) {
    let mut numbers = text.split(['.', '-', '+']).map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next())
}

/// What is known to be bad in a lock.
fn faults_in(lock: &str) -> Vec<String> {
    let mut found = Vec::new();
    for package in locked(lock) {
        let (crate_, used) = (field(package, "name").expect("a name"), field(package, "version").expect("a version"));
        for (_, from, repaired, id) in FAULTS.iter().filter(|(name, ..)| *name == crate_) {
            if version(from) <= version(used) && version(used) < version(repaired) {
                found.push(format!("{crate_} {used}: {id}; cargo update -p {crate_}"));
            }
        }
    }
    found
}

#[test]
fn nothing_is_used_of_which_a_fault_was_published_and_repaired() {
    for file in LOCKS {
        assert_eq!(faults_in(&read(file)), Vec::<String>::new(), "{file}");
    }
    let used = read("Cargo.lock");
    for (name, from, repaired, id) in FAULTS {
        assert!(locked(&used).any(|package| field(package, "name") == Some(name)), "{name} is used no more: remove its faults");
        let found = |version: &str| {
            faults_in(&format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n")).iter().any(|fault| fault.contains(id))
        };
        assert!(found(from) && !found(repaired), "{id}");
    }
    assert!(version("0.17.9") < version("0.17.12") && version("1.0.0-rc.1") == (1, 0, 0));
}

#[test]
fn faults_that_nobody_has_repaired_are_known_and_cannot_be_reached() {
    let lock = read("Cargo.lock");
    for (name, last, id, file, test) in UNREPAIRED {
        let used = locked(&lock).find(|package| field(package, "name") == Some(name)).and_then(|package| field(package, "version"));
        assert_eq!(used, Some(*last), "{id}: does this version of {name} still have it?");
        assert!(
            read(file).contains(&format!("#[test]\n    fn {test}(")) || read(file).contains(&format!("#[test]\nfn {test}(")),
            "{id}: {test}"
        );
    }
}

#[test]
fn no_answer_is_written_by_a_library_that_lets_line_ends_into_its_head() {
    for file in ["src/api/server.rs", "src/api/exchange.rs"] {
        let text = read(file);
        assert!(text.contains("tiny_http::"), "{file}: is it used elsewhere now?");
        for words in ["tiny_http::Response", "tiny_http::Header", "tiny_http::{", "use tiny_http", ".respond(", ".upgrade("] {
            assert!(!text.contains(words), "{file}: {words}");
        }
    }
}

/// Files below a folder.
fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        match entry.path() {
            path if path.is_dir() => files_below(&path, found),
            path => found.push(path),
        }
    }
}

/// The lines of scripts that are no comments, with the names of their files.
fn lines_of_scripts() -> Vec<(String, String)> {
    let mut files = Vec::new();
    ["scripts", ".ci"].iter().for_each(|folder| files_below(&repository().join(folder), &mut files));
    let mut all = Vec::new();
    for file in files.iter().filter(|file| !file.ends_with("README.md")) {
        let text = fs::read_to_string(file).unwrap_or_default();
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        all.extend(lines.map(|line| (file.display().to_string(), line.to_owned())));
    }
    all
}

#[test]
fn what_is_built_by_a_script_is_built_from_the_versions_in_the_lock() {
    let lines = lines_of_scripts();
    for (file, line) in lines.iter().filter(|(_, line)| !line.contains("--version")) {
        let builds = ["build", "clippy", "doc", "nextest run", "run", "test", "bench", "metadata", "tree"];
        let said = builds.iter().find(|what| line.contains(&format!("cargo {what} -")) || line.contains(&format!("\"cargo\", \"{what}\"")));
        assert!(said.is_none() || line.contains("--locked"), "{file}: {line}: add --locked");
    }
    assert!(lines.iter().filter(|(_, line)| line.contains("--locked")).count() > 10);
    for line in
        read("README.md").lines().filter(|line| ["cargo build ", "cargo run ", "cargo install "].iter().any(|what| line.contains(what)))
    {
        assert!(line.contains("--locked"), "README.md: {line}: add --locked");
    }
}

#[test]
fn no_script_writes_where_somebody_else_may_have_laid_a_link() {
    for (file, line) in lines_of_scripts() {
        for words in ["-$$", "/tmp/", "mktemp(", "mktemp -u", "TMPDIR:-/tmp}/"] {
            assert!(!line.contains(words), "{file}: {line}: make a directory with mktemp -d");
        }
    }
}
