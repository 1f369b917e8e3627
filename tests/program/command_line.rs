//! Commands and flags, and what is said when they are not understood.

use std::process::Stdio;

use crate::weft::{Folder, command, run};

#[test]
fn the_version_is_printed() {
    for arguments in [&["version"][..], &["--version"], &["-V"]] {
        let ended = run(arguments);
        assert_eq!((ended.code, ended.out, ended.err.as_str()), (Some(0), format!("weft {}\n", env!("CARGO_PKG_VERSION")), ""));
    }
}

#[test]
fn the_help_names_the_commands_the_flags_the_signals_and_the_exit_codes() {
    for arguments in [&["help"][..], &["--help"], &["-h"], &["serve", "--help"]] {
        let ended = run(arguments);
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
        for words in
            ["serve", "demo", "config", "check FILE", "version", "--listen", "--workers", "--insecure", "WEFT_", "HUP", "Exit codes"]
        {
            assert!(ended.out.contains(words), "{words}: {}", ended.out);
        }
    }
}

#[test]
fn what_is_not_understood_is_said_in_one_line_with_the_nearest_word() {
    for (arguments, words) in [
        (&["serv"][..], "\"serv\" is not a command; did you mean serve?"),
        (&["confg"], "did you mean config?"),
        (&["xyzzy"], "\"xyzzy\" is not a command"),
        (&["--lisen", "x"], "--lisen is not a flag; did you mean --listen?"),
        (&["--worker", "4"], "did you mean --workers?"),
        (&["--drain-timeout", "4"], "did you mean --drain-timeout-ms?"),
        (&["--workers"], "--workers needs a value"),
        (&["--workers", "many"], "flag --workers: workers: "),
        (&["--workers", "0"], "flag --workers: workers: 0 is out of range; use 2 to 1024"),
        (&["--workers", "4", "--reserved-workers", "4"], "reservedWorkers: 4 leaves no worker of 4 for calls"),
        (&["--listen", "localhost"], "has no port"),
        (&["--listen", "localhost:99999"], "has a bad port"),
        (&["--log", "loud"], "flag --log: log: "),
        (&["--config"], "--config needs a value"),
        (&["check"], "which file? use weft check FILE"),
        (&["serve", "extra"], "is not understood here"),
        (&["serve", "--traffic"], "--traffic is not a flag"),
        (&["-x"], "is not understood here"),
        (&["demo", "--admin-listen", "localhost:0"], "one plain door; leave out tlsCert and adminListen"),
        (&["--listen", "127.0.0.1:0", "--admin-listen", "nowhere"], "adminListen: \"nowhere\" has no port"),
    ] {
        let ended = run(arguments);
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{arguments:?}: {}", ended.err);
        assert!(ended.err.starts_with("weft: ") && ended.err.contains(words), "{arguments:?}: {}", ended.err);
        assert_eq!(ended.err.lines().count(), 1, "{arguments:?}: {}", ended.err);
    }
}

#[test]
fn a_reader_that_goes_away_is_no_reason_to_panic() {
    for arguments in [&["help"][..], &["version"], &["config"], &["config", "--annotated"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let child = command(arguments, &[]).stdout(Stdio::from(writer)).stderr(Stdio::piped()).spawn().expect("the program");
        let err = child.wait_with_output().expect("ended").stderr;
        let err = String::from_utf8_lossy(&err);
        assert!(!err.contains("panicked"), "{arguments:?}: {err}");
    }
}

#[test]
fn what_cannot_be_printed_whole_is_no_success() {
    let folder = Folder::new();
    let (state, tokens) = (folder.path("state"), folder.path("tokens"));
    std::fs::create_dir(&state).expect("a folder");
    let file = folder.write("weft.json", "{}");
    for arguments in [
        &["config"][..],
        &["config", "--annotated"],
        &["check", &file],
        &["state", "export", &state],
        &["token", "new", "ci", "--scope", "read"],
        &["token", "new", "ci", "--scope", "read", "--token-file", &tokens],
    ] {
        let full = std::fs::File::create("/dev/full").expect("a disk that is full");
        let child = command(arguments, &[]).stdout(full).spawn().expect("the program");
        let ended = child.wait_with_output().expect("ended");
        let err = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.code() == Some(1) && err.contains("standard output: "), "{arguments:?}: {err}");
    }
    assert!(!std::fs::exists(&tokens).expect("a folder"), "no token is kept that nobody has seen");
}
