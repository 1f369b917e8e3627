//! Sends copies of calls from a queue and a thread of its own, so that no call ever waits for its copy.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::mesh::{Inner, Mesh};
use crate::model::Call;

/// Copies that may wait; further ones are dropped.
const MOST: usize = 256;
/// Bytes of bodies that may wait.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// Takes copies of `mesh` from now on. The thread starts with the first copy and ends with the last handle of the mesh.
pub(super) fn start(mesh: &Mesh) {
    let queue = Queue { mesh: Arc::downgrade(&mesh.inner), bytes: Arc::default(), sender: OnceLock::new() };
    mesh.on_mirror(move |copy| queue.take(copy));
}

struct Queue {
    mesh: Weak<Inner>,
    /// Bytes of bodies that wait.
    bytes: Arc<AtomicUsize>,
    /// The thread's end, once it has been started; `None` if the system refused it.
    sender: OnceLock<Option<Sender<Call>>>,
}

impl Queue {
    /// Whether there was room.
    fn take(&self, copy: Call) -> bool {
        let Some(sender) = self.sender.get_or_init(|| self.begin().ok()) else { return false };
        let size = size(&copy);
        if self.bytes.fetch_add(size, Ordering::SeqCst) + size <= MOST_BYTES && sender.try_send(copy).is_ok() {
            return true;
        }
        self.bytes.fetch_sub(size, Ordering::SeqCst);
        false
    }

    fn begin(&self) -> io::Result<Sender<Call>> {
        let (sender, receiver) = bounded(MOST);
        let (mesh, bytes) = (Weak::clone(&self.mesh), Arc::clone(&self.bytes));
        thread::Builder::new().name("weft-mirror".to_owned()).spawn(move || run(&mesh, &bytes, &receiver))?;
        Ok(sender)
    }
}

fn run(mesh: &Weak<Inner>, bytes: &AtomicUsize, copies: &Receiver<Call>) {
    // The queue is closed when the mesh is dropped.
    for copy in copies {
        bytes.fetch_sub(size(&copy), Ordering::SeqCst);
        let Some(inner) = mesh.upgrade() else { return };
        Mesh { inner }.send_copy(&copy);
    }
}

fn size(copy: &Call) -> usize {
    copy.body.as_ref().map_or(0, |body| body.len())
}
