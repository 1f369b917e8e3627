//! One line of a log or snapshot: a checksum, a blank, an entry as JSON. A person can read it, and a line that was damaged says so.
//!
//! ```text
//! 5f1c0d27 {"weft":{"kind":"log","version":1,"generation":1}}
//! 9be1d8a4 {"instance":{"name":"user-service","id":"user-service-1","host":"localhost","port":4001}}
//! 0a3c11f7 {"gone":"instances/user-service/user-service-1"}
//! ```

use serde::{Deserialize, Serialize};

use super::document::{Flat, FlatPolicy};

/// The version of the format this program writes; it reads no later one.
pub(super) const VERSION: u32 = 1;

/// What a line says.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
pub(super) enum Entry<'a> {
    /// The first line of a file.
    Weft(Header),
    /// An instance, as it is from here on.
    #[serde(borrow)]
    Instance(Flat<'a>),
    /// What is put on top of a service's configuration from here on.
    Policy(FlatPolicy<'a>),
    /// The key of what is no longer there.
    Gone(String),
    /// The last line of a snapshot: how many lines there are between the first and this one.
    End(u64),
}

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) version: u32,
    pub(super) generation: u64,
}

/// The two kinds of file. A snapshot is everything there was before the log of the same generation began.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Snapshot,
    Log,
}

impl Kind {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Log => "log",
        }
    }
}

impl Header {
    pub(super) const fn new(kind: Kind, generation: u64) -> Self {
        Self { kind, version: VERSION, generation }
    }
}

/// Writes one line.
pub(super) fn write(entry: &Entry<'_>, out: &mut Vec<u8>) {
    // Text, numbers and maps with text keys can always be written.
    let json = serde_json::to_vec(entry).unwrap_or_default();
    out.extend_from_slice(format!("{:08x} ", checksum(&json)).as_bytes());
    out.extend_from_slice(&json);
    out.push(b'\n');
}

/// Reads one line, without its newline; `None` when it is not as it was written.
pub(super) fn read(line: &[u8]) -> Option<Entry<'_>> {
    let (sum, json) = line.split_at_checked(9)?;
    let sum = std::str::from_utf8(sum).ok()?.strip_suffix(' ')?;
    // As it is written: no capitals, no sign.
    let is_written_so = sum.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if !is_written_so || u32::from_str_radix(sum, 16).ok()? != checksum(json) {
        return None;
    }
    serde_json::from_slice(json).ok()
}

/// CRC-32 as in zip and Ethernet (ISO 3309): finds every change of a few bits, and one of any other kind but once in four thousand million.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    !bytes.iter().fold(!0, |sum, byte| {
        let at = (sum ^ u32::from(*byte)) & 0xff;
        // The index has eight bits and the table as many entries as those can count.
        (sum >> 8) ^ usize::try_from(at).ok().and_then(|at| TABLE.get(at)).copied().unwrap_or_default()
    })
}

#[allow(clippy::indexing_slicing)] // Evaluated by the compiler, which would refuse an index out of range.
const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut sum, mut bit) = (byte as u32, 0);
        while bit < 8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_everybody_knows() {
        assert_eq!(checksum(b"123456789"), 0xcbf4_3926);
        assert_eq!(checksum(b""), 0);
    }

    #[test]
    fn a_line_is_read_as_it_was_written_and_no_other_line_is() {
        let mut line = Vec::new();
        write(&Entry::Gone("policies/users".to_owned()), &mut line);
        assert_eq!(line, *b"266458dc {\"gone\":\"policies/users\"}\n");
        line.pop();
        assert!(matches!(read(&line), Some(Entry::Gone(key)) if key == "policies/users"));
        for at in 0..line.len() {
            for bit in 0..8 {
                let mut other = line.clone();
                other[at] ^= 1 << bit;
                assert!(read(&other).is_none(), "byte {at}, bit {bit}");
            }
            assert!(read(&line[..at]).is_none(), "the first {at} bytes");
        }
    }
}
