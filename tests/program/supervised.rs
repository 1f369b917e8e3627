//! The program as systemd runs it: what it says on the socket it was given, and the files it is packed with.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;

use crate::support::PATIENCE;
use crate::weft::{Folder, Weft, run};

/// The socket of a supervisor, and how it is named in the environment.
fn sockets(folder: &Folder) -> [(UnixDatagram, String); 2] {
    let path = folder.path("notify");
    let name = format!("weft-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    [(UnixDatagram::bind(&path).expect("a socket"), path), (UnixDatagram::bind_addr(&address).expect("a socket"), format!("@{name}"))]
}

fn heard(socket: &UnixDatagram) -> io::Result<String> {
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut words = [0; 1024];
    let read = socket.recv(&mut words)?;
    Ok(String::from_utf8_lossy(&words[..read]).into_owned())
}

#[test]
fn it_says_when_it_is_ready_reloading_and_stopping() {
    let folder = Folder::new();
    for (socket, name) in sockets(&folder) {
        let mut weft = Weft::start_in(&[], &[("NOTIFY_SOCKET", &name)]);
        assert_eq!(heard(&socket).expect("a word"), "READY=1\nSTATUS=serving");
        assert_eq!(weft.get("/ready").status, 200, "and it is");
        weft.signal("HUP");
        let reloading = heard(&socket).expect("a word");
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|time| time.parse::<u64>().ok());
        assert!(time.is_some_and(|time| time > 0), "{reloading}");
        assert_eq!(heard(&socket).expect("a word"), "READY=1\nSTATUS=serving");
        weft.signal("TERM");
        assert_eq!(heard(&socket).expect("a word"), "STOPPING=1\nSTATUS=finishing what runs");
        assert_eq!(weft.end(), Some(0), "{}", weft.err());
    }
}

#[test]
fn it_says_again_and_again_that_all_goes_on() {
    let folder = Folder::new();
    let [(socket, name), _] = sockets(&folder);
    let _weft = Weft::start_in(&[], &[("NOTIFY_SOCKET", &name), ("WATCHDOG_USEC", "20000")]);
    assert_eq!(heard(&socket).expect("a word"), "READY=1\nSTATUS=serving");
    for _ in 0..5 {
        assert_eq!(heard(&socket).expect("a word"), "WATCHDOG=1");
    }
}

#[test]
fn a_supervisor_that_is_not_there_or_does_not_listen_changes_nothing() {
    let folder = Folder::new();
    let path = folder.path("nobody");
    let weft = Weft::start_in(&[], &[("NOTIFY_SOCKET", &path)]);
    weft.logged("NOTIFY_SOCKET cannot be used:");
    assert_eq!(weft.get("/health").status, 200);
    let [(socket, name), _] = sockets(&folder);
    let mut weft = Weft::start_in(&[], &[("NOTIFY_SOCKET", &name), ("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", "1")]);
    drop(socket);
    weft.signal("TERM");
    assert_eq!(weft.end(), Some(0), "{}", weft.err());
}

/// The lines of a file of the package.
fn packed(file: &str) -> String {
    let path = format!("{}/scripts/package/{file}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn the_program_understands_how_its_packages_start_it() {
    let unit = packed("weft.service");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a start");
    let flags: Vec<&str> = start.split_whitespace().skip(1).collect();
    let ended = run(&[&["config"], &flags[..]].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.err);

    let recipe = packed("Containerfile");
    let words = |line: &str| serde_json::from_str::<Vec<String>>(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    let start = recipe.lines().find_map(|line| line.strip_prefix("ENTRYPOINT ")).map(words).expect("a start");
    let flags: Vec<&str> = start.iter().skip(1).map(String::as_str).collect();
    let ended = run(&[&["config"], &flags[..]].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.err);
}

#[test]
fn the_unit_leaves_little_to_whoever_would_break_out_of_it() {
    let unit = packed("weft.service");
    for line in ["DynamicUser=yes", "CapabilityBoundingSet=", "NoNewPrivileges=yes", "ProtectSystem=strict", "MemoryDenyWriteExecute=yes"] {
        assert!(unit.lines().any(|said| said == line), "{line}");
    }
    // Nothing that it writes, and nothing of its memory, is for others to read.
    for line in ["StateDirectoryMode=0700", "UMask=0077", "LimitCORE=0", "PrivateTmp=yes", "KeyringMode=private"] {
        assert!(unit.lines().any(|said| said == line), "{line}");
    }
    let folder = Folder::new();
    let here = folder.write("weft.service", unit.replace("/usr/local/bin/weft", env!("CARGO_BIN_EXE_weft")));
    let analyze = |arguments: &[&str]| {
        let said = Command::new("systemd-analyze").args(arguments).arg(&here).output();
        said.unwrap_or_else(|error| panic!("systemd-analyze is needed to judge the unit: {error}"))
    };
    let judged = analyze(&["security", "--no-pager", "--offline=yes", "--threshold=20"]);
    let said = String::from_utf8_lossy(&judged.stdout).into_owned();
    assert!(judged.status.success(), "an exposure above 2.0: {}", said.lines().last().unwrap_or_default());
    // A line that systemd does not understand is left out with a warning, and what it was to take away stays.
    let verified = analyze(&["verify", "--man=no"]);
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(!said.contains("weft.service:"), "{said}");
}

#[test]
fn the_container_holds_the_program_alone_and_runs_it_as_nobody() {
    let recipe = packed("Containerfile");
    let lines: Vec<&str> = recipe.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    assert_eq!(lines[..3], ["FROM scratch", "COPY --chmod=0555 weft /weft", "USER 65532:65532"]);
    let others =
        lines[3..].iter().filter(|line| !["EXPOSE ", "STOPSIGNAL ", "ENTRYPOINT ", "CMD "].iter().any(|word| line.starts_with(word)));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&&str>::new());
    // Without tokens, the port that is published is one of loopback.
    let run = recipe.lines().find(|line| line.contains("docker run")).expect("how it is run");
    for words in ["--read-only", "--cap-drop all", "no-new-privileges", "-p 127.0.0.1:3000:3000"] {
        assert!(run.contains(words), "{words}: {run}");
    }
}
