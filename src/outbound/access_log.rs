//! Writes the access log through `log`, from a queue and a thread of its own: a logger that blocks, such as one on a full pipe, costs lines,
//! which are counted, and no call anything.

use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, never};

use crate::mesh::{Inner, Mesh};
use crate::telemetry::access_log::line;
use crate::telemetry::onlookers::{LogFormat, Onlooker};
use crate::telemetry::trace::Trace;

/// The target under which lines are logged.
pub const TARGET: &str = "weft::access";

/// How long lines gather before the next are written: a call that ends meanwhile need not wake the writer, which would cost it a system call.
const MOMENT: Duration = Duration::from_millis(5);

/// What waits to be written.
enum Message {
    Call(Arc<Trace>),
    /// Say when everything before is written.
    Flush(Sender<()>),
}

/// The writer's end in the mesh.
struct Queue(Sender<Message>);

/// Writes a line for each call of `mesh` from now on. The thread ends with the last handle of the mesh.
pub(super) fn start(mesh: &Mesh, format: LogFormat, places: usize) -> io::Result<()> {
    let (queue, calls) = bounded(places);
    let of = Arc::downgrade(&mesh.inner);
    thread::Builder::new().name("weft-access-log".to_owned()).spawn(move || run(&of, format, &calls))?;
    mesh.inner.onlookers.on_log(Queue(queue));
    Ok(())
}

impl Onlooker for Queue {
    fn take(&self, trace: &Arc<Trace>) -> bool {
        self.0.try_send(Message::Call(Arc::clone(trace))).is_ok()
    }

    fn flush(&self, within: Duration) {
        let (done, wait) = bounded(1);
        if self.0.send_timeout(Message::Flush(done), within).is_ok() {
            // It may take too long; then it is over all the same.
            let _ = wait.recv_timeout(within);
        }
    }
}

fn run(mesh: &Weak<Inner>, format: LogFormat, calls: &Receiver<Message>) {
    while let Ok(first) = calls.recv() {
        for message in std::iter::once(first).chain(calls.try_iter()) {
            match message {
                Message::Call(trace) => {
                    write(&line(format, &trace));
                    if let Some(inner) = mesh.upgrade() {
                        inner.onlookers.counters.log_lines.add(1);
                    }
                }
                Message::Flush(done) => {
                    // Who asked may not wait any more.
                    let _ = done.try_send(());
                }
            }
        }
        let _ = never::<()>().recv_timeout(MOMENT);
    }
}

/// Past the level that the rest is logged at: whoever switches the access log on wants it.
fn write(line: &str) {
    let metadata = log::Metadata::builder().level(log::Level::Info).target(TARGET).build();
    log::logger().log(&log::Record::builder().metadata(metadata).args(format_args!("{line}")).build());
}
