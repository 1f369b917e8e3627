//! The registry on disk: what is acknowledged is there afterwards, whatever has happened to the files in between.

// In a test, to panic is to say what is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod damage;
mod directory;
mod mesh;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use weft::Registration;
use weft::mesh::ports::Store;
use weft::mesh::record::{Document, Key, Record, Version};
use weft::model::{AdminState, InstanceId, ServiceName, Weight};
use weft::outbound::store::Disk;

/// A directory of its own for a test, gone at its end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let path = env::temp_dir().join(format!("weft-store-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst)));
        fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The names of all files, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("a directory");
        let mut names: Vec<String> = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }

    pub(crate) fn open(&self) -> Disk {
        Disk::open(&self.0).expect("a state directory")
    }

    /// What is kept, without its versions.
    pub(crate) fn documents(&self) -> Vec<Document> {
        load(&self.open())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn load(disk: &Disk) -> Vec<Document> {
    disk.load().expect("readable").into_iter().map(|(document, _)| document).collect()
}

pub(crate) fn put(disk: &Disk, document: &Document) {
    disk.put(document, Version::default()).expect("kept");
}

pub(crate) fn instance(id: &str, port: u16) -> Document {
    Document::Instance(Box::new(Record::new(Registration::new("s", id, "10.0.0.1", port).expect("a registration"))))
}

/// An instance about which everything is said that can be said, and with so many bytes of labels.
pub(crate) fn talkative(id: &str, bytes: usize) -> Document {
    let mut registration = Registration::new("s", id, "10.0.0.1", 1).expect("a registration");
    registration.metadata = Some(BTreeMap::from([("label".to_owned(), "x".repeat(bytes))]));
    registration.ttl = Some(Duration::from_secs(30));
    let record = Record::new(registration);
    Document::Instance(Box::new(Record { state: AdminState::Drain, reason: Some("é".to_owned()), weight: Weight::new(3).ok(), ..record }))
}

pub(crate) fn policy(retries: u32) -> Document {
    Document::Policy(ServiceName::new("s").expect("a name"), serde_json::json!({"retry": {"maxRetries": retries}}))
}

pub(crate) fn key(id: &str) -> Key {
    Key::Instance(ServiceName::new("s").expect("a name"), InstanceId::new(id).expect("an id"))
}

/// Looks again and again until `look` finds something.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "this never happened: {what}");
        thread::yield_now();
    }
}
