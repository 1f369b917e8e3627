//! What others have put where the registry stands and is not understood: it is left alone, and told of in one line, however much it is.

use crate::mesh::record::Key;
use crate::model::Invalid;

/// What has been found and not told of yet.
#[derive(Debug, Default)]
pub(super) struct Strays {
    count: u64,
    /// The first of them, and what is wrong with it.
    first: Option<String>,
}

impl Strays {
    /// Something that stands under `key`.
    pub(super) fn add(&mut self, key: &Key, fault: &Invalid) {
        self.count += 1;
        self.first.get_or_insert_with(|| format!("{key}: {fault}"));
    }

    /// Tells a person, if there is something to tell.
    pub(super) fn tell(&mut self) {
        if let Some(first) = self.first.take() {
            let more = if self.count > 1 { format!(" and {} more", self.count - 1) } else { String::new() };
            log::warn!("etcd has what is not understood and left alone: {first}{more}");
            self.count = 0;
        }
    }
}
