//! Connections to instances that are kept for the next call.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Token};

use super::line::{Line, Phase};
use super::reactor::{LINE, Loop};
use super::slots::Key;
use super::socket::Moved;
use super::tls::Secured;
use crate::mesh::Member;

/// How long a connection to an instance is kept idle, unless it says less: shorter than the keep-alive of common servers, so that they
/// rarely close one under a request.
const IDLE_AGE: Duration = Duration::from_secs(4);
/// Idle connections kept per instance and loop.
const MOST_IDLE: usize = 1024;

/// Idle connections by the instance they lead to. Each keeps its instance, so that no other has the same address.
pub(super) type Idle = HashMap<usize, Vec<Key>, BuildHasherDefault<ByAddress>>;

/// Spreads addresses, which nobody outside chooses, by one multiplication (Knuth's, with 2^64 over the golden ratio).
#[derive(Default)]
pub(super) struct ByAddress(u64);

impl Hasher for ByAddress {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_usize(usize::from(*byte));
        }
    }

    fn write_usize(&mut self, address: usize) {
        self.0 = (self.0 ^ address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Loop {
    /// Takes a connection to an instance or the API server into the loop.
    pub(super) fn add_line(&mut self, line: Line) -> Option<Key> {
        let raw = line.socket.raw();
        let key = self.lines.insert(Box::new(line));
        let token = Token((key.place() as usize) << 2 | LINE);
        match self.poll.registry().register(&mut SourceFd(&raw), token, Interest::READABLE | Interest::WRITABLE) {
            Ok(()) => Some(key),
            Err(error) => {
                log::warn!("a connection cannot be watched: {error}");
                self.lines.remove(key);
                None
            }
        }
    }

    /// An idle connection to an instance, if there is one.
    pub(super) fn take_idle(&mut self, member: &Arc<Member>) -> Option<Key> {
        let kept = self.idle.get_mut(&(Arc::as_ptr(member) as usize))?;
        while let Some(key) = kept.pop() {
            let still_there = |line: &mut Box<Line>| {
                let is_trusted = line.secured.as_ref().is_none_or(|secured| secured.is_trusted(&self.shared.trust));
                is_trusted && line.address.is_some_and(|address| member.is_reached_at(address))
            };
            if self.lines.get_mut(key).is_some_and(still_there) {
                return Some(key);
            }
            // What it leads to is no longer where the instance may be called, or no longer trusted.
            self.lines.remove(key);
        }
        None
    }

    /// Puts a connection back after an exchange, or ends it.
    pub(super) fn park(&mut self, key: Key, mut line: Box<Line>, reusable: bool) {
        // What has come beyond an answer would be taken for the next one.
        let reusable = reusable && !line.secured.as_ref().is_some_and(Secured::has_pending);
        let Some(member) = line.member.as_ref().filter(|_| reusable && !line.readiness.ending && !line.readiness.ended) else {
            self.lines.remove(key);
            return;
        };
        let kept = self.idle.entry(Arc::as_ptr(member) as usize).or_default();
        if kept.len() >= MOST_IDLE {
            self.lines.remove(key);
            return;
        }
        kept.push(key);
        line.owner = None;
        line.used = true;
        line.phase = Phase::Idle;
        line.input.release(&mut self.spare);
        line.output.release(&mut self.spare);
        let age = line.answer.keeps_alive().map_or(IDLE_AGE, |said| said.min(IDLE_AGE));
        let until = self.line_timers.tick(self.now + age);
        self.line_timers.set(&mut line.alarm, key, until);
        self.lines.give_back(key, line);
    }

    /// An idle connection is of no further use.
    pub(super) fn drop_idle(&mut self, key: Key) {
        let Some(line) = self.lines.remove(key) else { return };
        let Some(member) = &line.member else { return };
        let at = Arc::as_ptr(member) as usize;
        if let Some(kept) = self.idle.get_mut(&at) {
            kept.retain(|other| *other != key);
            if kept.is_empty() {
                self.idle.remove(&at);
            }
        }
    }

    /// Ends an idle connection to an instance, whichever it is. Answers whether there was one.
    pub(super) fn drop_any_idle(&mut self) -> bool {
        self.idle.retain(|_, kept| !kept.is_empty());
        let any = self.idle.values_mut().find_map(Vec::pop);
        any.is_some_and(|key| self.lines.remove(key).is_some())
    }

    /// Something came on an idle connection to the API server: its end, or the end of trusting it.
    pub(super) fn check_inner(&mut self, key: Key) {
        if self.lines.get_mut(key).is_some_and(|line| line.readiness.readable && line.read(&mut self.spare, 0) != Moved::Blocked) {
            self.inner_line_lost(key);
        }
    }
}
