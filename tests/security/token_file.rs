//! The token file and the program: who may read it, how it is written, and how it changes while the mesh runs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::json;

use crate::callers::{line, write};
use crate::support::client;
use crate::weft::{Folder, Weft, run};

fn services(weft: &Weft, token: &str) -> u16 {
    let bearer = format!("Bearer {token}");
    client::ask(weft.at(), "GET", "/services", &[("authorization", &bearer)], b"").expect("answered").status
}

#[test]
fn a_file_that_others_can_read_or_that_is_a_link_is_refused() {
    let folder = Folder::new();
    let (file, link) = (folder.path("tokens"), folder.path("link"));
    write(&file, &line("ci", "read", json!({})));
    symlink(&file, &link).expect("a link");
    let refused = |path: &str, why: &str| {
        let ended = run(&["--listen", "127.0.0.1:0", "--token-file", path]);
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{path}");
        assert!(ended.err.contains("tokenFile") && ended.err.contains(why), "{}", ended.err);
    };
    refused(&link, "symbolic link");
    refused(&folder.path("nowhere"), "cannot be read");
    refused(&folder.path(""), "");
    for mode in [0o644, 0o640, 0o604, 0o620, 0o602] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("a mode");
        refused(&file, "others may read or change it");
    }
    write(&file, "{\"name\":\"ci\",\"scopes\":[\"read\"],\"sha256\":\"hunter2\"}");
    let ended = run(&["--listen", "127.0.0.1:0", "--token-file", &file]);
    assert!(ended.err.contains("line 1: sha256: is not 64 hexadecimal digits") && !ended.err.contains("hunter2"), "{}", ended.err);
}

#[test]
fn a_new_token_is_shown_once_and_only_its_digest_is_kept() {
    let folder = Folder::new();
    let file = folder.path("tokens");
    let make = |arguments: &[&str]| {
        let mut all = vec!["token", "new"];
        all.extend_from_slice(arguments);
        run(&all)
    };
    let shown = make(&["ci", "--scope", "read,register", "--service-prefix", "pay-"]);
    let lines: Vec<&str> = shown.out.lines().collect();
    assert_eq!((shown.code, lines.len()), (Some(0), 2), "{shown:?}");
    assert!(lines[0].starts_with("weft_") && lines[1].contains(r#""servicePrefix":"pay-""#) && !lines[1].contains(lines[0]));
    let mut tokens = Vec::new();
    for arguments in [&["ci", "--scope", "read"][..], &["ci"], &["other", "--scope", "read", "--scope", "admin"]] {
        let mut all = arguments.to_vec();
        all.extend(["--token-file", &file]);
        let made = make(&all);
        assert_eq!(made.code, Some(0), "{}", made.err);
        tokens.push(made.out.trim().to_owned());
    }
    assert_eq!(make(&["ci", "--token-file", &file]).code, Some(2), "a third of one name");
    assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&file).expect("a file");
    assert!(text.lines().count() == 2 && !tokens.iter().any(|token| text.contains(token.as_str())), "{text}");
    let weft = Weft::start(&["--token-file", &file]);
    weft.said("tokens of ");
    for token in &tokens {
        assert_eq!(services(&weft, token), 200);
    }
    folder.write("tokens.new", "");
    let refused = make(&["ci2", "--scope", "read", "--token-file", &file]);
    assert!(
        refused.code == Some(1) && refused.err.contains(&format!("{file}: \"")) && refused.err.contains("is there: "),
        "{}",
        refused.err
    );
    for arguments in [&["new"][..], &["old", "x"], &["new", "a b", "--scope", "read"], &["new", "a", "--scope", "root"], &["new", "a"]] {
        let mut all = vec!["token"];
        all.extend_from_slice(arguments);
        assert_eq!(run(&all).code, Some(2), "{arguments:?}");
    }
}

#[test]
fn no_token_that_was_shown_is_lost_when_several_are_made_at_once() {
    let folder = Folder::new();
    let file = folder.path("tokens");
    let made: Vec<_> = std::thread::scope(|scope| {
        let make = |n: usize| {
            let (name, file) = (format!("n{n}"), &file);
            scope.spawn(move || run(&["token", "new", &name, "--scope", "read", "--token-file", file]))
        };
        let all: Vec<_> = (0..12).map(make).collect();
        all.into_iter().map(|one| one.join().expect("no panic")).collect()
    });
    let text = fs::read_to_string(&file).expect("a file");
    let shown = made.iter().filter(|one| one.code == Some(0)).count();
    assert_eq!(text.lines().count(), shown, "{text}");
    let refused = |one: &crate::weft::Ended| one.code == Some(1) && one.out.is_empty() && one.err.contains("is there: somebody");
    assert!(shown > 0 && made.iter().all(|one| one.code == Some(0) || refused(one)), "{made:?}");
}

#[test]
fn a_token_that_cannot_be_added_leaves_the_file_and_its_place_as_they_were() {
    let folder = Folder::new();
    let file = folder.path("tokens");
    write(&file, "nonsense\n");
    for (mode, words) in [(0o600, "is not a JSON object"), (0o644, "others may read or change it")] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("a mode");
        let refused = run(&["token", "new", "ci", "--scope", "read", "--token-file", &file]);
        assert!(refused.code != Some(0) && refused.out.is_empty(), "{refused:?}");
        assert!(refused.err.contains(&file) && refused.err.contains(words), "{}", refused.err);
        assert_eq!(fs::read_to_string(&file).expect("a file"), "nonsense\n");
        assert!(!fs::exists(format!("{file}.new")).expect("a folder"));
    }
}

#[test]
fn tokens_change_with_a_signal_and_a_bad_file_changes_nothing() {
    let folder = Folder::new();
    let file = folder.path("tokens");
    write(&file, &line("old", "read", json!({})));
    let weft = Weft::start(&["--token-file", &file]);
    assert_eq!((services(&weft, "old-token"), services(&weft, "new-token")), (200, 401));
    write(&file, "nonsense");
    weft.signal("HUP");
    weft.logged("the token file was not read again, the tokens are what they were");
    assert_eq!((services(&weft, "old-token"), services(&weft, "new-token")), (200, 401));
    write(&file, &line("new", "read", json!({})));
    weft.signal("HUP");
    weft.logged("the token file has been read again: 1 callers");
    assert_eq!((services(&weft, "old-token"), services(&weft, "new-token")), (401, 200));
}

#[test]
fn with_tokens_it_may_listen_beyond_loopback() {
    let folder = Folder::new();
    let file = folder.path("tokens");
    write(&file, &line("ci", "read", json!({})));
    let weft = Weft::spawn(&["--listen", "0.0.0.0:0", "--token-file", &file], &[]);
    let at = format!("127.0.0.1:{}", weft.at().port()).parse().expect("an address");
    client::ask(at, "GET", "/health", &[], b"").expect("answered").with_status(200);
    client::ask(at, "GET", "/services", &[], b"").expect("answered").with_status(401);
}
