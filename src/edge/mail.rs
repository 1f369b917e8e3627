//! How other threads reach an event loop: they leave a message and wake it.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::acceptor::Acceptor;
use super::gate::Arrival;
use super::shared::Seat;
use super::slots::Key;
use crate::model::sync::Locked;

/// A message to an event loop.
pub(super) enum Mail {
    /// A connection that another loop accepted.
    Connection(Arrival),
    /// Clients to come are secured with this.
    Acceptor(Option<Acceptor>),
    /// Something a client's request waits for may have happened.
    Look(Key),
    /// A seat at the desk for the call of this client.
    Seat(Key, Seat),
    /// Fresh connections to the API server; those before are of no further use.
    Lines(Vec<UnixStream>),
    /// Accept nothing more, and ask clients to close their connections.
    Close,
    /// Waits between attempts and long polls are over.
    Hurry,
    /// Say that the loop goes round, by counting here.
    Count(Arc<AtomicUsize>),
    /// End.
    Stop,
}

/// The letter box of one event loop.
pub(super) struct Mailbox {
    waker: mio::Waker,
    /// Guarded: what has not been read.
    unread: Locked<Vec<Mail>>,
    /// The loop has been woken and has not looked since; it need not be woken again.
    woken: AtomicBool,
}

impl Mailbox {
    pub(super) fn new(registry: &mio::Registry, token: mio::Token) -> io::Result<Arc<Self>> {
        let waker = mio::Waker::new(registry, token)?;
        Ok(Arc::new(Self { waker, unread: Locked::default(), woken: AtomicBool::new(false) }))
    }

    /// Leaves a message.
    pub(super) fn send(&self, mail: Mail) {
        self.unread.with(|unread| unread.push(mail));
        if !self.woken.swap(true, Ordering::SeqCst)
            && let Err(error) = self.waker.wake()
        {
            // It will look when its next timer is due.
            log::error!("an event loop could not be woken: {error}");
        }
    }

    /// Takes all messages out.
    pub(super) fn collect(&self) -> Vec<Mail> {
        self.woken.store(false, Ordering::SeqCst);
        self.unread.with(std::mem::take)
    }
}
