//! Bytes on their way: lent to a connection only while there are some, so that an idle one holds none.

use super::socket::{Moved, Socket};

/// The least room there is to read into.
const ROOM: usize = 4 * 1024;
/// A buffer that has grown beyond this is not kept.
const KEPT: usize = 64 * 1024;
/// Bodies up to here are taken in, answers up to here collected, and unread answers up to here written, however much others hold in memory.
pub(super) const ALWAYS: usize = 64 * 1024;
/// How many unused buffers are kept.
const SPARE: usize = 128;

/// How much to read at once when so much has come already: heads are short, and what is long may be very long.
pub(super) const fn room(so_far: usize) -> usize {
    if so_far < ROOM { ROOM } else { KEPT }
}

/// Adds to what is taken in whole, of which so many bytes more are still to come, if that is known: there is never room for more than that.
pub(super) fn gather(all: &mut Vec<u8>, more: &[u8], left: Option<u64>) {
    let length = all.len() + more.len();
    if length > all.capacity()
        && let Some(left) = left
    {
        let end = length.saturating_add(usize::try_from(left).unwrap_or(usize::MAX));
        all.reserve_exact(length.max(end.min(2 * all.capacity())) - all.len());
    }
    all.extend_from_slice(more);
}

/// Unused buffers of one loop.
#[derive(Default)]
pub(super) struct Spare(Vec<Vec<u8>>);

impl Spare {
    /// An empty buffer with some room.
    pub(super) fn lend(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_else(|| Vec::with_capacity(ROOM))
    }

    /// Takes a buffer back; what is in it is gone.
    fn take_back(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() >= ROOM && buffer.capacity() <= KEPT && self.0.len() < SPARE {
            buffer.clear();
            self.0.push(buffer);
        }
    }
}

/// What has been read and not yet been used, or written and not yet been sent.
#[derive(Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    /// Up to here they are used or sent.
    at: usize,
}

impl Buffer {
    /// What there is.
    pub(super) fn rest(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first `n` bytes are done with.
    pub(super) fn consume(&mut self, n: usize) {
        self.at += n;
        if self.at >= self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
        }
    }

    /// Where to write more to the end.
    pub(super) fn out(&mut self, spare: &mut Spare) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = spare.lend();
        }
        &mut self.bytes
    }

    /// Adds some bytes.
    pub(super) fn push(&mut self, bytes: &[u8], spare: &mut Spare) {
        if !bytes.is_empty() {
            self.out(spare).extend_from_slice(bytes);
        }
    }

    /// Where to read more to the end, with room for about so many bytes.
    pub(super) fn room_to_read(&mut self, spare: &mut Spare, room: usize) -> &mut Vec<u8> {
        // What has been used need not be kept when there is little room left.
        if self.at > 0 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
        let bytes = self.out(spare);
        if bytes.capacity() - bytes.len() < room / 2 {
            bytes.reserve(room);
        }
        bytes
    }

    /// Sends what there is, which is the `last` if the connection is finished with next. `Blocked` when the other side does not take it all.
    pub(super) fn send(&mut self, socket: &Socket, last: bool) -> Moved {
        while !self.is_empty() {
            let moved = if last { socket.write_last(self.rest()) } else { socket.write(self.rest()) };
            match moved {
                Moved::Bytes(sent) => self.consume(sent),
                other => return other,
            }
        }
        Moved::Bytes(0)
    }

    /// Gives the memory back when there is nothing in it.
    pub(super) fn release(&mut self, spare: &mut Spare) {
        if self.is_empty() && self.bytes.capacity() > 0 {
            self.at = 0;
            spare.take_back(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gathered_takes_no_more_room_than_it_is_bound_to_need() {
        let (mut all, piece) = (Vec::new(), [b'x'; 1000]);
        for n in 1..=10 {
            gather(&mut all, &piece, Some(1000 * (10 - n)));
            assert!(all.len() == 1000 * n as usize && all.capacity() < 2 * all.len(), "{} of {}", all.len(), all.capacity());
        }
        assert_eq!(all.capacity(), 10_000);
    }

    #[test]
    fn what_is_used_goes_and_an_empty_buffer_holds_nothing() {
        let (mut buffer, mut spare) = (Buffer::default(), Spare::default());
        buffer.push(b"hello world", &mut spare);
        buffer.consume(6);
        assert_eq!((buffer.rest(), buffer.len()), (&b"world"[..], 5));
        buffer.consume(5);
        buffer.release(&mut spare);
        assert_eq!((buffer.bytes.capacity(), spare.0.len()), (0, 1));
        buffer.push(b"again", &mut spare);
        assert_eq!((buffer.rest(), spare.0.len()), (&b"again"[..], 0));
    }
}
