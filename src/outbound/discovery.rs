//! Looks names up at their intervals, on one thread of its own for all of them, so that a resolver that hangs holds up nothing else.

use std::io;
use std::sync::{OnceLock, Weak};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::mesh::{Inner, Mesh};

/// Longer than any interval; a new configuration wakes the thread before.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

/// Looks up what the mesh is told to from now on. The thread starts with the first name and ends with the last handle of the mesh.
pub(super) fn start(mesh: &Mesh) {
    let seeker = Seeker { mesh: std::sync::Arc::downgrade(&mesh.inner), sender: OnceLock::new() };
    mesh.on_discovery(move || seeker.wake());
}

struct Seeker {
    mesh: Weak<Inner>,
    /// The thread's end, once it has been started; `None` if the system refused it.
    sender: OnceLock<Option<Sender<()>>>,
}

impl Seeker {
    fn wake(&self) {
        let begin = || self.begin().map_err(|error| log::error!("no name will be looked up: cannot start a thread: {error}")).ok();
        if let Some(sender) = self.sender.get_or_init(begin) {
            // One that is about to be woken need not be woken twice.
            let _ = sender.try_send(());
        }
    }

    fn begin(&self) -> io::Result<Sender<()>> {
        let (sender, inbox) = bounded(1);
        let mesh = Weak::clone(&self.mesh);
        thread::Builder::new().name("weft-discovery".to_owned()).spawn(move || run(&mesh, &inbox))?;
        Ok(sender)
    }
}

fn run(mesh: &Weak<Inner>, inbox: &Receiver<()>) {
    loop {
        let Some(inner) = mesh.upgrade() else { return };
        let mesh = Mesh { inner };
        let wait = mesh.look_up().map_or(FOREVER, |next| next.saturating_duration_since(mesh.inner.clock.now()));
        drop(mesh);
        // The channel is closed when the mesh is dropped.
        if inbox.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}
