//! The log on stderr. Lines are written by a thread of their own, so that whoever logs never waits for whoever reads: when nobody does, lines
//! are lost, and how many were is said once somebody does again.

use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use log::{Log, Metadata, Record};
use simplelog::{ConfigBuilder, WriteLogger};

use crate::outbound::ACCESS_LOG;
use crate::telemetry::counters::Counter;

/// Lines that may wait.
const MOST: usize = 1_024;
/// Bytes that are written at once.
const AT_ONCE: usize = 16 * 1024;
/// The longest the last lines may take at the end.
const LONGEST_FLUSH: Duration = Duration::from_secs(1);

enum Line {
    Bytes(Vec<u8>),
    /// Say when everything before is written.
    Flush(Sender<()>),
}

/// Starts to log; lines that are lost are counted. Does nothing when there is a logger already.
pub(super) fn start() -> io::Result<Arc<Counter>> {
    let format = ConfigBuilder::new().set_time_format_rfc3339().add_filter_allow_str("weft").build();
    let (lines, waiting) = bounded(MOST);
    let lost = Arc::<Counter>::default();
    let writer = Pieces { line: Vec::new(), lines: lines.clone(), lost: Arc::clone(&lost) };
    let own = WriteLogger::new(log::LevelFilter::Trace, format, writer);
    if log::set_boxed_logger(Box::new(Logger { own, lines })).is_ok() {
        let lost = Arc::clone(&lost);
        thread::Builder::new().name("weft-log".to_owned()).spawn(move || write(&waiting, &lost))?;
    }
    Ok(lost)
}

struct Logger {
    own: Box<WriteLogger<Pieces>>,
    lines: Sender<Line>,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == ACCESS_LOG || self.own.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if record.target() == ACCESS_LOG {
            // It comes from a thread that may wait, before which lines are dropped and counted.
            let _ = self.lines.send(Line::Bytes(format!("{}\n", record.args()).into_bytes()));
        } else {
            self.own.log(record);
        }
    }

    fn flush(&self) {
        let (done, wait) = bounded(1);
        if self.lines.send_timeout(Line::Flush(done), LONGEST_FLUSH).is_ok() {
            // It may take too long; then it is over all the same.
            let _ = wait.recv_timeout(LONGEST_FLUSH);
        }
    }
}

/// Puts lines together out of the pieces that they are written in.
struct Pieces {
    line: Vec<u8>,
    lines: Sender<Line>,
    lost: Arc<Counter>,
}

impl Write for Pieces {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(piece);
        if self.line.ends_with(b"\n") && self.lines.try_send(Line::Bytes(std::mem::take(&mut self.line))).is_err() {
            self.lost.add(1);
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(lines: &Receiver<Line>, lost: &Counter) {
    let (mut told, mut together) = (0, Vec::new());
    while let Ok(first) = lines.recv() {
        let mut asked = None;
        // What waits already is written at once.
        for line in std::iter::once(first).chain(lines.try_iter()) {
            match line {
                Line::Bytes(bytes) => together.extend_from_slice(&bytes),
                Line::Flush(done) => asked = Some(done),
            }
            if asked.is_some() || together.len() >= AT_ONCE {
                break;
            }
        }
        // Whoever has closed it does not want to know.
        let _ = io::stderr().write_all(&together);
        together.clear();
        if let Some(done) = asked {
            // Who asked may not wait any more.
            let _ = done.try_send(());
        }
        let all = lost.get();
        if all > told {
            // As above.
            let _ = writeln!(io::stderr(), "[WARN] {} lines of the log were lost, since nobody read them", all - told);
            told = all;
        }
    }
}
