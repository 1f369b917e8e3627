//! What the program is made of besides its own sources: where it comes from, under which licences, and that none of it is known to be bad.
//! `scripts/licences` prints the list.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // Tests may fail loudly.

use std::fs;
use std::path::Path;
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
    ("bytes", "1.2.1", "1.11.1", "RUSTSEC-2026-0007"),
    ("crossbeam-channel", "0.5.12", "0.5.15", "RUSTSEC-2025-0024"),
    ("mio", "0.7.2", "0.8.11", "RUSTSEC-2024-0019"),
    ("ring", "0.0.0", "0.17.12", "RUSTSEC-2025-0009"),
    ("rustls", "0.0.0", "0.23.5", "RUSTSEC-2024-0336"),
    ("rustls", "0.23.13", "0.23.18", "RUSTSEC-2024-0399"),
    ("rustls", "0.0.0", "0.23.45", "RUSTSEC-2026-0285"),
    ("rustls-webpki", "0.0.0", "0.101.4", "RUSTSEC-2023-0053"),
    ("rustls-webpki", "0.0.0", "0.103.13", "RUSTSEC-2026-0049, -0098, -0099 and -0104"),
    ("time", "0.0.0", "0.2.23", "RUSTSEC-2020-0071"),
    ("time", "0.3.6", "0.3.47", "RUSTSEC-2026-0009"),
    ("tiny_http", "0.0.0", "0.8.0", "RUSTSEC-2020-0031"),
];

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

#[test]
fn everything_comes_from_the_public_registry_and_is_pinned_by_its_hash() {
    let lock = fs::read_to_string(repository().join("Cargo.lock")).expect("Cargo.lock");
    let mut others = 0;
    for package in lock.split("[[package]]").skip(1) {
        if package.contains("name = \"weft-mesh\"") {
            continue;
        }
        others += 1;
        assert!(package.contains("source = \"registry+https://github.com/rust-lang/crates.io-index\""), "from elsewhere: {package}");
        assert!(package.contains("checksum = \""), "not pinned: {package}");
    }
    assert!(others > 10, "{others} packages");
}

fn version(text: &str) -> (u64, u64, u64) {
    let mut numbers = text.split(['.', '-', '+']).map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next())
}

#[test]
fn nothing_is_used_of_which_a_fault_was_published_and_repaired() {
    let packages = packages();
    for (name, from, repaired, id) in FAULTS {
        assert!(packages.iter().any(|package| package["name"] == *name), "{name} is used no more: remove its faults");
        for package in packages.iter().filter(|package| package["name"] == *name) {
            let used = package["version"].as_str().expect("a version");
            let is_bad = version(from) <= version(used) && version(used) < version(repaired);
            assert!(!is_bad, "{name} {used}: {id}; cargo update -p {name}");
        }
    }
    assert!(version("0.17.9") < version("0.17.12") && version("1.0.0-rc.1") == (1, 0, 0));
}

#[test]
fn what_is_built_by_a_script_is_built_from_the_versions_in_the_lock() {
    for directory in ["scripts", ".ci"] {
        for entry in fs::read_dir(repository().join(directory)).expect("a folder").flatten().filter(|entry| entry.path().is_file()) {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
            for line in lines.filter(|line| !entry.path().ends_with("README.md") && !line.contains("--version")) {
                let builds = ["build", "clippy", "doc", "nextest run", "run", "test", "bench", "metadata", "tree"];
                let said = builds.iter().find(|what| line.contains(&format!("cargo {what} -")));
                assert!(said.is_none() || line.contains("--locked"), "{}: {line}: add --locked", entry.path().display());
            }
        }
    }
}
