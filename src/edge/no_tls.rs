//! What stands for TLS in a build without it: connections that nobody can have.

use std::sync::Arc;

use super::acceptor::Acceptor;
use super::buffers::Buffer;
use super::socket::{Moved, Socket};
use crate::model::Host;
use crate::outbound::trust::Trust;

/// As in a build with TLS; there is none.
pub(super) enum Secured {}

/// As in a build with TLS.
#[allow(dead_code)] // Nothing is ever begun that could break.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Broken {
    Plain,
    Because(String),
}

/// As in a build with TLS.
pub(super) const NO_ROOM: &[u8] = &[];

#[allow(clippy::needless_pass_by_ref_mut)] // As in a build with TLS.
impl Secured {
    pub(super) fn to(_: &Host, _: &Trust) -> Result<Self, String> {
        // Registration refuses https where it is not built in.
        Err("this build has no TLS".to_owned())
    }

    pub(super) const fn from(acceptor: &Acceptor) -> Result<Self, String> {
        match *acceptor {}
    }

    pub(super) const fn is_trusted(&self, _: &Trust) -> bool {
        match *self {}
    }

    pub(super) const fn shake(&mut self, _: &Socket) -> Result<bool, Broken> {
        match *self {}
    }

    pub(super) const fn name(&self) -> Option<Arc<str>> {
        match *self {}
    }

    pub(super) const fn read_into(&mut self, _: &Socket, _: &mut Vec<u8>) -> (Moved, bool) {
        match *self {}
    }

    pub(super) const fn has_ended(&self) -> bool {
        match *self {}
    }

    pub(super) const fn refusal(&mut self) -> Option<String> {
        match *self {}
    }

    pub(super) const fn write(&mut self, _: &Socket, _: &[u8]) -> Moved {
        match *self {}
    }

    pub(super) const fn send_out(&mut self, _: &Socket, _: &mut Buffer) -> Moved {
        match *self {}
    }

    pub(super) const fn has_pending(&self) -> bool {
        match *self {}
    }

    pub(super) const fn owes(&self) -> bool {
        match *self {}
    }

    pub(super) const fn holds(&self) -> usize {
        match *self {}
    }

    pub(super) const fn finish(&mut self, _: &Socket) {
        match *self {}
    }

    pub(super) const fn send(&mut self, _: &Socket) -> Moved {
        match *self {}
    }
}
