//! What holds of every line that is kept or heard: fields of a trace, lines of a state log, lines of a watch of etcd.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, process};

use weft::mesh::record::Document;
use weft::model::Fields;
use weft::outbound::etcd::heard;
use weft::outbound::store::{Disk, export, import};
use weft::telemetry::context::{Context, Sampler};

/// Fields that say which trace a call belongs to, a line each: an instance is told of the same trace, by fields that are read as they are meant.
pub fn trace(input: &[u8]) {
    let mut headers = Told::default();
    for line in input.split(|byte| *byte == b'\n') {
        let at = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(at);
        headers.push(&String::from_utf8_lossy(name), value.get(1..).unwrap_or_default());
    }
    for ratio in [0.0, 1.0] {
        let sampler = Sampler::new(ratio);
        let context = Context::of(&headers, sampler, [1, 2, 3]);
        assert!(context.trace_id != 0 && context.parent != Some(0) && context.span == 3);
        let attempt = context.attempt(4);
        let mut told = Told::default();
        attempt.each(|name, value| {
            assert!(attempt.replaces(name.as_bytes()), "{name} would be there twice");
            assert!(!value.is_empty() && value.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-'), "{value:?}");
            told.push(name, value);
        });
        // Whoever would decide otherwise is told what has been decided.
        let again = Context::of(&told, Sampler::new(1.0 - ratio), [5, 6, 7]);
        assert_eq!((again.trace_id, again.parent, again.sampled), (context.trace_id, Some(4), context.sampled), "{told:?}");
        let mut once_more = Told::default();
        again.attempt(4).each(|name, value| once_more.push(name, value));
        let names = |told: &Told| told.0.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&once_more), names(&told));
    }
}

/// Fields of any bytes.
#[derive(Default, Debug)]
struct Told(Vec<(String, Vec<u8>)>);

impl Told {
    fn push(&mut self, name: &str, value: &[u8]) {
        self.0.push((name.to_owned(), value.to_owned()));
    }
}

impl Fields for Told {
    fn first(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.and_then(|(_, value)| std::str::from_utf8(value).ok())
    }

    fn each(&self, name: &str, see: &mut dyn FnMut(&str, &[u8])) {
        let wanted = |field: &str| name.is_empty() || field.eq_ignore_ascii_case(name);
        self.0.iter().filter(|(field, _)| wanted(field)).for_each(|(field, value)| see(field, value));
    }
}

/// A state log, as it is, and its lines as entries whose checksums are right. What is before a line that broke off is kept.
pub fn log(input: &[u8]) {
    let raw = Log::holding(input);
    let _ = raw.documents();
    let lines: Vec<Vec<u8>> = input.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(summed).collect();
    let Some((last, before)) = lines.split_last() else { return };
    let _ = Log::holding(&lines.concat()).documents();
    let cut = &last[..last.len() / 2];
    let (without, with_half) = (before.concat(), [&before.concat(), cut].concat());
    assert_eq!(Log::holding(&with_half).documents(), Log::holding(&without).documents());
}

/// A line of a watch: as it is, and as one about a key and what stands there, which are the first line of the input and the rest.
pub fn watch(input: &[u8]) {
    let _ = judged_change(input);
    let at = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (key, value) = (&input[..at], input.get(at + 1..).unwrap_or_default());
    for kind in ["PUT", "DELETE"] {
        let (key, value) = (base64(key), base64(value));
        let line = format!(
            r#"{{"result":{{"header":{{"revision":"7"}},"events":[{{"type":"{kind}","kv":{{"key":"{key}","value":"{value}","mod_revision":"7"}}}}]}}}}"#
        );
        let changes = judged_change(line.as_bytes()).expect("a line of a watch");
        assert!(changes.iter().all(|gone| *gone == (kind == "DELETE")) && changes.len() <= 1);
    }
}

/// Of each change that a line makes, whether it is an end.
fn judged_change(line: &[u8]) -> Result<Vec<bool>, String> {
    let changes = heard("/mesh/v1", line);
    assert!(changes.as_ref().err().is_none_or(|why| !why.contains(|c: char| c.is_control())), "{changes:?}");
    let changes = changes?;
    let documents: Vec<Document> = changes.iter().filter_map(|(_, document)| document.clone()).collect();
    for (key, document) in &changes {
        assert!(document.as_ref().is_none_or(|document| document.key() == *key), "{key}: {document:?}");
    }
    for document in documents {
        reads_as_written(&[document]);
    }
    Ok(changes.iter().map(|(_, document)| document.is_none()).collect())
}

fn reads_as_written(documents: &[Document]) {
    let written = export(documents);
    assert_eq!(import(&written).as_deref(), Ok(documents), "{written}");
}

/// A state directory that has one log in it, for as long as it is looked at.
struct Log(PathBuf);

impl Log {
    fn holding(bytes: &[u8]) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let folder = env::temp_dir().join(format!("weft-log-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join("log-00000001"), bytes).expect("a file");
        Self(folder)
    }

    /// What is kept there; nothing where it was written by a newer version.
    fn documents(&self) -> Option<Vec<Document>> {
        let (mut documents, faults) = Disk::look(&self.0).ok()?;
        reads_as_written(&documents);
        assert!(faults.iter().all(|fault| !fault.contains(|c: char| c.is_control())), "{faults:?}");
        documents.sort_by_key(Document::key);
        Some(documents)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An entry with its checksum, CRC-32, before it.
fn summed(entry: &[u8]) -> Vec<u8> {
    let sum = !entry.iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 })
    });
    [format!("{sum:08x} ").as_bytes(), entry, b"\n"].concat()
}

/// RFC 4648 §4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let number = (0..3).fold(0, |number, at| number << 8 | usize::from(three.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            out.push(if at <= three.len() { char::from(DIGITS[number >> (18 - 6 * at) & 63]) } else { '=' });
        }
    }
    out
}
