//! A seeded mutator: the same seed, the same bytes.

/// Dice of splitmix64 (Steele, Lea, Flood 2014).
pub struct Dice(u64);

impl Dice {
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.roll() % end as u64) as usize
    }

    pub fn one_of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

/// What has made readers of HTTP disagree.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b"\x0b",
    b":",
    b";",
    b",",
    b"\r\n\r\n",
    b"\n\n",
    b"\r\n ",
    b"\x7f",
    b"\xff",
    b"\"",
    b"#",
    b"%00",
    b"0",
    b"-",
    b"+",
    b"0x",
    b"ffffffffffffffff",
    b"18446744073709551616",
    b"9223372036854775807",
    b"1000000000",
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"HTTP/1.1",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n",
    b"Transfer-Encoding: xchunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Content-Length: +5\r\n",
    b"Content-Length : 5\r\n",
    b"Host: localhost\r\n",
    b"Host: a\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Expect: 100-continue\r\n",
    b"X-A: b\r\n",
    b"X-A: b\r\n c\r\n",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"0\r\nX-A: b\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST ",
    b"CONNECT ",
    b"OPTIONS * ",
    b"http://a/",
    b"*",
];

/// Changes one to `most` things.
pub fn mutate(bytes: &mut Vec<u8>, dice: &mut Dice, most: usize) {
    for _ in 0..=dice.below(most) {
        let length = bytes.len();
        let at = dice.below(length + 1);
        let end = (at + 1 + dice.below(8)).min(length);
        match dice.below(9) {
            0 if at < length => bytes[at] = dice.roll() as u8,
            1 if at < length => bytes[at] ^= 1 << dice.below(8),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            4 => bytes.truncate(at),
            // At the beginning of a line.
            5 | 6 => {
                let lines: Vec<usize> = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
                let at = if lines.is_empty() { at } else { lines[dice.below(lines.len())] };
                let word = dice.one_of(WORDS).iter().copied();
                bytes.splice(at..at, word);
            }
            7 => {
                let word = dice.one_of(WORDS).iter().copied();
                bytes.splice(at..end.max(at), word);
            }
            _ => {
                let word = dice.one_of(WORDS).iter().copied();
                bytes.splice(at..at, word);
            }
        }
    }
}
