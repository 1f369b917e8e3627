//! `weft state`: what a state directory keeps, for a person or as JSON, and the way from one store to another.

use std::io::{self, Read};
use std::path::Path;

use super::Fatal;
use crate::config::StateCommand;
use crate::mesh::ports::{Refused, Store, StoreError};
use crate::mesh::record::{Document, Version};
use crate::model::{Weight, authority};
use crate::outbound::BuildError;
use crate::outbound::store::{Disk, export, import};

/// Does it.
pub(super) fn run(what: StateCommand, path: &Path) -> Result<(), Fatal> {
    match what {
        StateCommand::Show => show(path),
        StateCommand::Export => {
            let (documents, faults) = Disk::look(path).map_err(Fatal::State)?;
            faults.iter().for_each(|fault| log(fault));
            say!("{}", export(&documents));
            Ok(())
        }
        StateCommand::Import => {
            let mut json = String::new();
            io::stdin().read_to_string(&mut json)?;
            let documents = import(&json).map_err(|fault| Fatal::Usage(format!("standard input: {fault}")))?;
            let disk = Disk::open(path).map_err(Fatal::State)?;
            for document in &documents {
                disk.put(document, Version::default()).map_err(|refused| match refused {
                    Refused::Unavailable(why) => Fatal::Build(BuildError::Store(why.into())),
                    Refused::Conflict(_) => Fatal::Build(BuildError::Store(StoreError("somebody else is changing it".to_owned()).into())),
                })?;
            }
            say!("{} documents are now kept in {}", documents.len(), path.display());
            Ok(())
        }
    }
}

fn show(path: &Path) -> Result<(), Fatal> {
    let (documents, faults) = Disk::look(path).map_err(Fatal::State)?;
    for document in &documents {
        match document {
            Document::Policy(service, patch) => say!("{service}  policy {patch}"),
            Document::Instance(record) => {
                let registration = &record.registration;
                let place = authority(&registration.host, registration.port);
                let weight =
                    record.weight.or(registration.weight).map_or(String::new(), |weight: Weight| format!("  weight {}", weight.get()));
                let reason = record.reason.as_ref().map_or(String::new(), |reason| format!(" ({})", crate::model::shown(reason)));
                say!("{}  {}  {place}  {}{reason}{weight}", registration.service, registration.id, record.state.as_str());
            }
        }
    }
    faults.iter().for_each(|fault| log(fault));
    Ok(())
}

/// Says what is wrong with the directory where it does not get between the JSON.
fn log(fault: &str) {
    use std::io::Write;
    let _ = writeln!(io::stderr(), "weft: {fault}");
}
