//! Text that must not be seen: it cannot be printed, and is overwritten when it is dropped.

use std::fmt;
use std::hint::black_box;

/// A secret, such as a token that somebody has shown.
#[derive(Default)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Keeps `bytes` as a secret.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// Whether it is `bytes`. How long that takes tells nothing but the length.
    pub fn is(&self, bytes: &[u8]) -> bool {
        self.0.len() == bytes.len() && black_box(self.0.iter().zip(bytes).fold(0, |differences, (a, b)| differences | (a ^ b))) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        // So that the zeros are really written.
        black_box(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_by_all_of_its_bytes_and_never_shown() {
        let secret = Secret::new(b"swordfish");
        assert!(secret.is(b"swordfish") && !secret.is(b"swordfisH") && !secret.is(b"swordfis") && !secret.is(b""));
        assert_eq!(format!("{secret:?}"), "(secret)");
    }
}
