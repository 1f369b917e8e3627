//! Every byte changed and every length cut: it starts, keeps what is provably right, and says what it could not read.

use std::collections::BTreeSet;
use std::fs;

use weft::mesh::ports::Store;
use weft::mesh::record::Document;
use weft::outbound::store::Disk;

use crate::{Folder, eventually, instance, key, policy, put, talkative};

/// A log with a few of everything, and what each of its lines makes of the registry, line by line.
fn written() -> (Folder, Vec<u8>, Vec<Document>) {
    let folder = Folder::new();
    let all = vec![instance("a", 1), talkative("b", 5), policy(1), instance("c", 2)];
    let disk = folder.open();
    all.iter().for_each(|document| put(&disk, document));
    drop(disk);
    let bytes = fs::read(folder.file("log-00000001")).expect("a log");
    (folder, bytes, all)
}

/// The lines of `bytes` in which the byte `at` has a part; a newline has a part in the line it ends and in the next.
fn lines_of(bytes: &[u8], at: usize) -> BTreeSet<usize> {
    let before = bytes[..at].iter().filter(|byte| **byte == b'\n').count();
    let next = if bytes[at] == b'\n' { before + 1 } else { before };
    [before, next].into()
}

#[test]
fn whatever_byte_of_a_log_is_changed_all_other_lines_count() {
    let (folder, bytes, all) = written();
    for at in 0..bytes.len() {
        for change in [0x01, 0x80, bytes[at], bytes[at] ^ b'\n'] {
            if change == 0 {
                continue;
            }
            let mut damaged = bytes.clone();
            damaged[at] ^= change;
            fs::write(folder.file("log-00000001"), &damaged).expect("written");
            let (found, faults) = Disk::look(folder.path()).expect("readable");
            let hit = lines_of(&bytes, at);
            // Line 0 is the header; line n is document n - 1.
            let expected: Vec<&Document> = all.iter().enumerate().filter(|(n, _)| !hit.contains(&(n + 1))).map(|(_, d)| d).collect();
            let rest: Vec<&Document> = found.iter().filter(|document| expected.contains(document)).collect();
            assert_eq!(rest, expected, "byte {at} changed by {change:#x}");
            assert!(found.iter().all(|document| all.contains(document)), "byte {at} changed by {change:#x}: {found:?}");
            assert_eq!(faults.len(), 1, "byte {at} changed by {change:#x}");
        }
    }
}

#[test]
fn at_whatever_length_a_log_is_cut_all_whole_lines_count_and_it_goes_on() {
    let (_, bytes, all) = written();
    for length in 0..bytes.len() {
        let folder = Folder::new();
        fs::write(folder.file("log-00000001"), &bytes[..length]).expect("written");
        let whole = bytes[..length].iter().filter(|byte| **byte == b'\n').count();
        let expected = &all[..whole.saturating_sub(1)];
        assert_eq!(Disk::look(folder.path()).expect("readable").0, expected, "{length} bytes");
        if length % 7 == 0 {
            put(&folder.open(), &instance("new", 9));
            assert_eq!(folder.documents(), [expected, &[instance("new", 9)]].concat(), "{length} bytes");
            assert_eq!(folder.names(), ["lock", "log-00000001"], "a line cut short is no damage");
        }
    }
}

#[test]
fn a_damaged_log_is_set_aside_and_what_could_be_read_is_kept_for_good() {
    let (folder, bytes, all) = written();
    let mut damaged = bytes.clone();
    let at = bytes.iter().position(|byte| *byte == b'\n').expect("a line") + 20;
    damaged[at] ^= 1;
    fs::write(folder.file("log-00000001"), &damaged).expect("written");
    for _ in 0..2 {
        assert_eq!(folder.documents(), all[1..]);
        assert_eq!(folder.names(), ["lock", "log-00000001.corrupt", "log-00000002", "snapshot-00000002"]);
    }
    assert_eq!(fs::read(folder.file("log-00000001.corrupt")).expect("still there"), damaged);
    put(&folder.open(), &instance("new", 9));
    assert_eq!(folder.documents().last(), Some(&instance("new", 9)));
}

#[test]
fn zeros_where_the_disk_had_no_time_to_write_are_no_damage() {
    for zeros in [16, 512, 5000] {
        let (folder, mut bytes, all) = written();
        bytes.extend(vec![0; zeros]);
        bytes.extend(b"\"tail\"}}\n");
        fs::write(folder.file("log-00000001"), &bytes).expect("written");
        assert_eq!(folder.documents(), all);
        assert_eq!(folder.names(), ["lock", "log-00000001"]);
    }
}

/// A directory with two snapshots and the logs since the older one, and what is kept there.
fn with_snapshots() -> (Folder, Vec<Document>) {
    let folder = Folder::new();
    let disk = folder.open();
    let mut all = vec![policy(1), instance("a", 1)];
    all.iter().for_each(|document| put(&disk, document));
    let mut n = 0;
    for snapshot in ["snapshot-00000002", "snapshot-00000003"] {
        // Nearly a whole log of what is then deleted, so that the snapshot is small; then on until it is begun.
        for _ in 0..10 {
            put(&disk, &talkative("ballast", 104_000));
        }
        disk.delete(&key("ballast")).expect("kept");
        while !folder.names().iter().any(|name| name.ends_with(snapshot.trim_start_matches("snapshot"))) {
            n += 1;
            all.push(instance(&format!("n{n}"), n));
            put(&disk, all.last().expect("one"));
        }
        eventually("a snapshot", || folder.file(snapshot).exists().then_some(()));
    }
    all.push(instance("last", 1));
    put(&disk, all.last().expect("one"));
    drop(disk);
    (folder, all)
}

#[test]
fn whatever_happens_to_a_snapshot_nothing_is_lost() {
    let (folder, all) = with_snapshots();
    for name in ["snapshot-00000003", "snapshot-00000002"] {
        let path = folder.file(name);
        let bytes = fs::read(&path).expect("a snapshot");
        let mut wrong = vec![Vec::new(), b"\n".to_vec(), vec![0; 4096], bytes[1..].to_vec(), [&bytes[..], b"x\n"].concat()];
        let step = (bytes.len() / 20).max(1);
        for at in (0..bytes.len()).step_by(step) {
            wrong.push(bytes[..at].to_vec());
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            wrong.push(flipped);
        }
        for (n, wrong) in wrong.into_iter().enumerate() {
            fs::write(&path, wrong).expect("written");
            let (found, faults) = Disk::look(folder.path()).expect("readable");
            assert_eq!(found, all, "{name}, change {n}");
            assert_eq!(faults.is_empty(), name == "snapshot-00000002", "{name}, change {n}: {faults:?}");
        }
        fs::write(&path, bytes).expect("written");
    }
}

#[test]
fn with_both_snapshots_damaged_every_line_that_is_right_counts() {
    let (folder, all) = with_snapshots();
    for name in ["snapshot-00000003", "snapshot-00000002"] {
        let mut bytes = fs::read(folder.file(name)).expect("a snapshot");
        // In the second line, that of the policy.
        let at = bytes.iter().position(|byte| *byte == b'\n').expect("a line") + 30;
        bytes[at] ^= 1;
        fs::write(folder.file(name), bytes).expect("written");
    }
    let disk = folder.open();
    assert_eq!(crate::load(&disk), all[1..]);
    let aside: Vec<String> = folder.names().into_iter().filter(|name| name.ends_with("corrupt")).collect();
    assert_eq!(aside, ["snapshot-00000002.corrupt", "snapshot-00000003.corrupt"]);
    drop(disk);
    assert_eq!(folder.documents(), all[1..]);
}
