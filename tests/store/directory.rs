//! One directory over time: what is there again, whose it is, and how the log is kept short.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use weft::mesh::ports::Store;
use weft::outbound::store::{Disk, export, import};

use crate::{Folder, eventually, instance, key, load, policy, put, talkative};

#[test]
fn what_was_put_is_there_again_in_its_order_and_what_was_deleted_is_not() {
    let folder = Folder::new();
    {
        let disk = folder.open();
        assert_eq!(load(&disk), []);
        for document in [instance("b", 1), instance("a", 2), policy(1), talkative("c", 10), instance("d", 3), policy(2)] {
            put(&disk, &document);
        }
        put(&disk, &instance("b", 4));
        disk.delete(&key("a")).expect("kept");
    }
    assert_eq!(folder.documents(), [instance("b", 4), policy(2), talkative("c", 10), instance("d", 3)]);
    assert_eq!(folder.names(), ["lock", "log-00000001"]);
}

#[test]
fn what_is_forgotten_goes_with_the_next_change() {
    let folder = Folder::new();
    {
        let disk = folder.open();
        put(&disk, &instance("a", 1));
        disk.forget(&key("a"));
        put(&disk, &instance("b", 1));
    }
    assert_eq!(folder.documents(), [instance("b", 1)]);
}

#[test]
fn a_person_can_read_the_log() {
    let folder = Folder::new();
    {
        let disk = folder.open();
        put(&disk, &instance("a", 1));
        disk.delete(&key("a")).expect("kept");
    }
    let text = fs::read_to_string(folder.file("log-00000001")).expect("text");
    let entries: Vec<&str> = text.lines().map(|line| line.split_once(' ').expect("a checksum").1).collect();
    assert_eq!(
        entries,
        [
            r#"{"weft":{"kind":"log","version":1,"generation":1}}"#,
            r#"{"instance":{"name":"s","id":"a","host":"10.0.0.1","port":1}}"#,
            r#"{"gone":"instances/s/a"}"#
        ]
    );
}

#[test]
fn a_directory_belongs_to_one_at_a_time() {
    let folder = Folder::new();
    let first = folder.open();
    let refusal = Disk::open(folder.path()).expect_err("in use").to_string();
    let expected = format!("state directory {} is in use by another weft (process {})", folder.path().display(), std::process::id());
    assert_eq!(refusal, expected);
    put(&first, &instance("a", 1));
    assert_eq!(Disk::look(folder.path()).expect("looking needs no lock"), (vec![instance("a", 1)], Vec::new()));
    drop(first);
    assert_eq!(folder.documents(), [instance("a", 1)]);
}

#[test]
fn what_is_no_directory_is_refused_by_name() {
    let folder = Folder::new();
    fs::write(folder.file("file"), "").expect("a file");
    for (name, words) in [("missing", "does not exist: create it"), ("file", "is not a directory")] {
        let path = folder.file(name);
        let refusal = Disk::open(&path).expect_err(name).to_string();
        assert!(refusal.starts_with(&format!("state directory {} {words}", path.display())), "{refusal}");
    }
    // Nobody, not even the superuser, can make a file there.
    let refusal = Disk::open(Path::new("/proc/self")).expect_err("cannot be written").to_string();
    assert!(refusal.starts_with("state directory /proc/self: cannot be written: "), "{refusal}");
}

#[test]
fn a_newer_format_is_left_alone() {
    let folder = Folder::new();
    drop(folder.open());
    let path = folder.file("log-00000001");
    // With its right checksum, as only a program that knows the format would write it.
    fs::write(&path, "3f3b7a4e {\"weft\":{\"kind\":\"log\",\"version\":2,\"generation\":1}}\n").expect("written");
    let refusal = Disk::open(folder.path()).expect_err("newer").to_string();
    assert_eq!(refusal, format!("{} was written by a newer weft; use that, or move it away", path.display()));
    assert_eq!(folder.names(), ["lock", "log-00000001"]);
}

#[test]
fn a_long_log_becomes_a_snapshot_and_the_previous_one_is_kept() {
    let folder = Folder::new();
    let disk = folder.open();
    put(&disk, &instance("first", 1));
    let mut expected = vec![instance("first", 1), talkative("big", 300_000)];
    for round in 2..6_u16 {
        for _ in 0..4 {
            put(&disk, &talkative("big", 300_000));
        }
        let snapshot = format!("snapshot-{round:08}");
        let more = instance(&format!("after-{round}"), round);
        put(&disk, &more);
        expected.push(more);
        eventually("a snapshot, and nothing older than the one before it", || {
            let names = folder.names();
            let oldest = format!("log-{:08}", round - 1);
            (names.contains(&snapshot) && names.iter().find(|name| name.starts_with("log")) == Some(&oldest)).then_some(())
        });
    }
    drop(disk);
    assert_eq!(folder.names(), ["lock", "log-00000004", "log-00000005", "snapshot-00000004", "snapshot-00000005"]);
    assert_eq!(folder.documents(), expected);
}

#[test]
fn nothing_is_written_once_the_store_is_dropped() {
    let folder = Folder::new();
    let disk = folder.open();
    for _ in 0..4 {
        put(&disk, &talkative("big", 300_000));
    }
    drop(disk);
    assert_eq!(folder.names(), ["lock", "log-00000001", "log-00000002", "snapshot-00000002"], "the snapshot was waited for");
}

#[test]
fn what_a_sudden_end_leaves_half_made_is_cleared_away() {
    let folder = Folder::new();
    put(&folder.open(), &instance("a", 1));
    fs::write(folder.file("snapshot-00000002.tmp"), "half").expect("a file");
    // A log that was created and not yet begun.
    fs::write(folder.file("log-00000002"), "").expect("a file");
    let disk = folder.open();
    assert_eq!(load(&disk), [instance("a", 1)]);
    put(&disk, &instance("b", 1));
    drop(disk);
    assert_eq!(folder.documents(), [instance("a", 1), instance("b", 1)]);
    assert_eq!(folder.names(), ["lock", "log-00000001", "log-00000002"]);
}

#[test]
fn no_link_leads_out_of_the_directory_and_nothing_of_others_is_cleared_away() {
    let aside = Folder::new();
    let victim = aside.file("victim");
    for name in ["lock", "log-00000001", "snapshot-00000002", "snapshot-00000002.tmp"] {
        fs::write(&victim, "somebody's").expect("a file");
        let folder = Folder::new();
        fs::write(folder.file("letter.tmp"), "somebody's").expect("a file");
        symlink(&victim, folder.file(name)).expect("a link");
        // Whether it goes on without the link or not at all is another matter.
        if let Ok(disk) = Disk::open(folder.path()) {
            for _ in 0..4 {
                put(&disk, &talkative("big", 300_000));
            }
        }
        assert_eq!(fs::read_to_string(&victim).expect("there"), "somebody's", "through {name}");
        assert!(folder.names().contains(&"letter.tmp".to_owned()));
    }
}

#[test]
fn a_file_that_is_a_link_is_not_read() {
    let aside = Folder::new();
    let disk = aside.open();
    for _ in 0..4 {
        put(&disk, &talkative("big", 300_000));
    }
    drop(disk);
    for name in aside.names().into_iter().filter(|name| name != "lock") {
        let folder = Folder::new();
        symlink(aside.file(&name), folder.file(&name)).expect("a link");
        let why = Disk::open(folder.path()).expect_err("a link").to_string();
        assert!(why.contains(&name) && why.contains("symbolic link"), "{why}");
        assert_eq!(Disk::look(folder.path()).expect_err("a link").to_string(), why);
    }
}

#[test]
fn what_is_no_file_is_refused_and_not_waited_for() {
    for name in ["log-00000001", "snapshot-00000002"] {
        let folder = Folder::new();
        let pipe = folder.file(name);
        assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
        for refusal in [Disk::look(folder.path()).expect_err("a pipe"), Disk::open(folder.path()).expect_err("a pipe")] {
            assert!(refusal.to_string().contains(&format!("{} cannot be read: it is no file", pipe.display())), "{refusal}");
        }
    }
}

#[test]
fn what_everybody_could_read_is_closed_and_counts_all_the_same() {
    let folder = Folder::new();
    let disk = folder.open();
    for _ in 0..4 {
        put(&disk, &talkative("big", 300_000));
    }
    drop(disk);
    let files: Vec<String> = folder.names().into_iter().filter(|name| name != "lock").collect();
    assert!(files.iter().any(|name| name.starts_with("snapshot")), "{files:?}");
    for (before, after) in [(0o644, 0o640), (0o666, 0o660), (0o604, 0o600), (0o640, 0o640)] {
        for name in &files {
            fs::set_permissions(folder.file(name), fs::Permissions::from_mode(before)).expect("a mode");
        }
        assert_eq!(folder.documents(), [talkative("big", 300_000)]);
        for name in files.iter().filter(|name| folder.file(name).exists()) {
            let mode = fs::metadata(folder.file(name)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, after, "{name}, which was {before:o}");
        }
    }
}

#[test]
fn files_whose_names_only_look_like_ours_are_left_alone() {
    let folder = Folder::new();
    put(&folder.open(), &instance("a", 1));
    let others = ["log-", "log-1", "log-0000000001", "log-00000002.old", "snapshot-99999999999999999999", "snapshot-000000002"];
    others.iter().for_each(|name| fs::write(folder.file(name), "somebody's").expect("a file"));
    assert_eq!(folder.documents(), [instance("a", 1)]);
    for name in others {
        assert_eq!(fs::read_to_string(folder.file(name)).expect("there"), "somebody's");
    }
}

#[test]
fn what_is_kept_is_for_its_owner_alone() {
    let folder = Folder::new();
    // What is written there can be read by whoever has it open.
    fs::write(folder.file("log-00000001"), "").expect("a file");
    let disk = folder.open();
    for _ in 0..4 {
        put(&disk, &talkative("big", 300_000));
    }
    drop(disk);
    for name in folder.names() {
        let mode = fs::metadata(folder.file(&name)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn what_is_exported_can_be_imported() {
    let all = vec![instance("a", 1), talkative("c", 10), policy(3)];
    assert_eq!(import(&export(&all)).expect("as exported"), all);
}
