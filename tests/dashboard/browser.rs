//! A scene in the browser: Chromium, driven by playwright-core, which is installed once below the build directory.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use serde_json::Value;

use crate::weft::{Folder, Weft};

/// What drives the browser, to the version and the digest.
const LOCK: &str = include_str!("package-lock.json");
/// A scene that takes longer than this is stuck.
const LONGEST: Duration = Duration::from_secs(120);

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dashboard").join(name)
}

/// Where pictures go, to be looked at.
fn pictures() -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboard");
    fs::create_dir_all(&place).expect("a folder");
    place
}

/// The folder with the modules of Node: made once, and made anew when another version is wanted.
fn modules() -> PathBuf {
    let version = LOCK.split("\"playwright-core\": \"").nth(1).and_then(|rest| rest.split('"').next()).expect("a version");
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("playwright-core-{version}"));
    let found = place.join("node_modules");
    if found.exists() {
        return found;
    }
    // Tests that come at once each make one, and the first to be ready wins.
    let making = place.with_extension(format!("{}-{:?}", std::process::id(), thread::current().id()));
    fs::create_dir_all(&making).expect("a folder");
    for name in ["package.json", "package-lock.json"] {
        fs::copy(here(name), making.join(name)).expect("a copy");
    }
    let npm = Command::new("npm").args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&making).output();
    let npm = npm.unwrap_or_else(|error| panic!("npm is needed to test the dashboard: {error}"));
    assert!(npm.status.success(), "playwright-core {version} cannot be installed: {}", said(&npm));
    if fs::rename(&making, &place).is_err() {
        fs::remove_dir_all(&making).expect("nobody else's folder");
    }
    assert!(found.exists(), "no {}", found.display());
    found
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Plays a scene on a mesh of its own.
#[track_caller]
pub(crate) fn play(scene: &str) {
    play_on(&Weft::start(&[]), scene);
}

/// The same on one that is configured so.
#[track_caller]
pub(crate) fn play_with(configuration: Value, scene: &str) {
    let folder = Folder::new();
    let file = folder.write("weft.json", configuration.to_string());
    play_on(&Weft::start(&["--config", &file]), scene);
}

#[track_caller]
fn play_on(weft: &Weft, scene: &str) {
    let mut player = Command::new("node");
    player.arg(here("play.mjs")).args([scene, &format!("http://{}", weft.at())]).arg(pictures());
    player.env("WEFT_BROWSER_MODULES", modules()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = player.spawn().unwrap_or_else(|error| panic!("node is needed to test the dashboard: {error}"));
    let minutes = env::var("WEFT_PICTURE_MINUTES").ok().and_then(|minutes| minutes.parse::<u64>().ok()).unwrap_or(0);
    let end = Instant::now() + LONGEST + Duration::from_secs(minutes * 60);
    while child.try_wait().expect("a child").is_none() {
        if Instant::now() > end {
            child.kill().expect("a child");
            break;
        }
        thread::park_timeout(Duration::from_millis(20));
    }
    let output = child.wait_with_output().expect("a child");
    assert!(output.status.success(), "{scene}: {}\npictures are in {}", said(&output), pictures().display());
}
