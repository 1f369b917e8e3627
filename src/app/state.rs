//! `weft state`: what a state directory keeps, for a person or as JSON, and the way from one store to another. A person is not shown the
//! secrets that checks and routes send; whoever moves what is kept moves them as well.

use std::io::{self, Read};
use std::path::Path;

use super::look::harmless_json;
use super::{Fatal, print};
use crate::config::{Config, StateCommand};
use crate::contract::redact::redacted;
use crate::mesh::ports::{Refused, Store, StoreError};
use crate::mesh::record::{Document, Version};
use crate::model::{Weight, authority};
use crate::outbound::BuildError;
#[cfg(feature = "etcd")]
use crate::outbound::etcd::Etcd;
use crate::outbound::store::{Disk, export, import};

/// What is named instead of a directory to mean etcd, as it is configured.
#[cfg(feature = "etcd")]
const ETCD: &str = "etcd";

/// Does it.
pub(super) fn run(what: StateCommand, path: &Path, config: &Config) -> Result<(), Fatal> {
    match what {
        StateCommand::Show => show(&look(path, config)?),
        StateCommand::Export => {
            let documents = look(path, config)?;
            Ok(print(harmless_json(&export(&documents)))?)
        }
        StateCommand::Import => {
            let mut json = String::new();
            io::stdin().read_to_string(&mut json)?;
            let documents = import(&json).map_err(|fault| Fatal::Usage(format!("standard input: {fault}")))?;
            let store = open(path, config)?;
            for document in &documents {
                keep(&*store, document)?;
            }
            say!("{} documents are now kept in {}", documents.len(), path.display());
            Ok(())
        }
    }
}

/// Keeps a document in place of whatever is there.
fn keep(store: &dyn Store, document: &Document) -> Result<(), Fatal> {
    let mut seen = Version::default();
    for _ in 0..MOST_CONFLICTS {
        match store.put(document, seen) {
            Ok(_) => return Ok(()),
            Err(Refused::Conflict(other)) => seen = other.map_or_else(Version::default, |(_, version)| version),
            Err(Refused::Unavailable(why)) => return Err(unavailable(why)),
        }
    }
    Err(unavailable(StoreError("somebody else is changing it".to_owned())))
}

/// How often a document is put anew because somebody else has changed it meanwhile.
const MOST_CONFLICTS: usize = 16;

fn unavailable(why: StoreError) -> Fatal {
    Fatal::Build(BuildError::Store(why.into()))
}

#[cfg_attr(not(feature = "etcd"), allow(unused_variables))]
fn open(path: &Path, config: &Config) -> Result<Box<dyn Store>, Fatal> {
    #[cfg(feature = "etcd")]
    if path == Path::new(ETCD) {
        return Ok(Box::new(Etcd::open(&config.registry.etcd, None).map_err(Fatal::State)?));
    }
    Ok(Box::new(Disk::open(path).map_err(Fatal::State)?))
}

#[cfg_attr(not(feature = "etcd"), allow(unused_variables))]
fn look(path: &Path, config: &Config) -> Result<Vec<Document>, Fatal> {
    #[cfg(feature = "etcd")]
    if path == Path::new(ETCD) {
        return Etcd::open(&config.registry.etcd, None).map_err(Fatal::State)?.look().map_err(unavailable);
    }
    let (documents, faults) = Disk::look(path).map_err(Fatal::State)?;
    faults.iter().for_each(|fault| log(fault));
    Ok(documents)
}

fn show(documents: &[Document]) -> Result<(), Fatal> {
    for document in documents {
        match document {
            Document::Policy(service, patch) => {
                print(format_args!("{service}  policy {}", harmless_json(&redacted(patch.clone()).to_string())))?;
            }
            Document::Instance(record) => {
                let registration = &record.registration;
                let place = authority(&registration.host, registration.port);
                let weight =
                    record.weight.or(registration.weight).map_or(String::new(), |weight: Weight| format!("  weight {}", weight.get()));
                let reason = record.reason.as_ref().map_or(String::new(), |reason| format!(" ({})", crate::model::shown(reason)));
                let (service, id, state) = (&registration.service, &registration.id, record.state.as_str());
                print(format_args!("{service}  {id}  {place}  {state}{reason}{weight}"))?;
            }
        }
    }
    Ok(())
}

/// Says what is wrong with the directory where it does not get between the JSON.
fn log(fault: &str) {
    use std::io::Write;
    let _ = writeln!(io::stderr(), "weft: {fault}");
}
