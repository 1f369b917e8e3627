//! One hash for keys that have to mean the same on every mesh and in every run: which instance a key belongs to, which side of a split.

use crate::model::time::mix;

/// Sixty-four evenly distributed bits for `bytes`: FNV-1a (Fowler, Noll and Vo, 1991), its bits spread by SplitMix64's finalizer. Not for
/// secrets: whoever chooses keys can choose collisions.
pub fn hash(bytes: &[u8]) -> u64 {
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
}

/// The hash of a pair of which each is a hash.
pub fn pair(one: u64, other: u64) -> u64 {
    mix(one ^ other.rotate_left(32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_differ_little_are_spread_evenly() {
        let mut counts = [0_u32; 16];
        for key in 0..16_000 {
            counts[(hash(format!("user-{key}").as_bytes()) % 16) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (900..=1100).contains(count)), "{counts:?}");
    }

    #[test]
    fn it_never_changes_from_one_release_to_the_next() {
        assert_eq!(format!("{:x} {:x}", hash(b""), hash(b"user-1")), "f52a15e9a9b5e89b c499b5f8a721df58");
        assert_ne!(hash(b"user-1"), hash(b"user-2"));
        assert_ne!(pair(1, 2), pair(2, 1));
    }
}
