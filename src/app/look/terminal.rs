//! The terminal: its size, its keys one by one, and a second screen. It is left as it was found, whatever happens.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::termios::{self, OptionalActions, SpecialCodeIndex, Termios};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};

/// A terminal in the hands of this program; its own again when this is dropped.
pub(super) struct Screen {
    before: Termios,
    ended: Arc<AtomicBool>,
    resized: Arc<AtomicBool>,
}

/// What has happened at the terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Happened {
    Nothing,
    Resized,
    Quit,
    /// A signal says to end.
    Ended,
}

/// Second screen, no cursor, no breaking of lines.
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l";
const LEAVE: &str = "\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l";
/// Tenths of a second that a key is waited for.
const WAIT: u8 = 1;

impl Screen {
    /// Takes the terminal; `None` when input or output is none.
    pub(super) fn take() -> io::Result<Option<Self>> {
        if !is_terminal() || !termios::isatty(io::stdin()) {
            return Ok(None);
        }
        let before = termios::tcgetattr(io::stdin())?;
        let screen = Self { before, ended: Arc::default(), resized: Arc::default() };
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&screen.ended))?;
        }
        signal_hook::flag::register(SIGWINCH, Arc::clone(&screen.resized))?;
        let mut raw = screen.before.clone();
        raw.make_raw();
        raw.special_codes[SpecialCodeIndex::VMIN] = 0;
        raw.special_codes[SpecialCodeIndex::VTIME] = WAIT;
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        write(ENTER)?;
        Ok(Some(screen))
    }

    /// Waits a moment for a key.
    pub(super) fn wait(&self) -> io::Result<Happened> {
        let mut keys = [0; 16];
        let read = match io::stdin().read(&mut keys) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            other => other?,
        };
        let typed = keys.get(..read).unwrap_or_default();
        if self.ended.load(Ordering::SeqCst) {
            return Ok(Happened::Ended);
        }
        // Ctrl-C comes as a key here.
        if typed.iter().any(|key| matches!(key, b'q' | b'Q' | 3)) {
            return Ok(Happened::Quit);
        }
        Ok(if self.resized.swap(false, Ordering::SeqCst) { Happened::Resized } else { Happened::Nothing })
    }

    /// Columns and rows.
    pub(super) fn size(&self) -> (usize, usize) {
        let size = termios::tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
        size.map_or((80, 24), |size| (size.ws_col.into(), size.ws_row.into()))
    }

    /// Shows these lines and nothing else.
    pub(super) fn show(&self, lines: &[String]) -> io::Result<()> {
        let (_, rows) = self.size();
        let mut frame = "\u{1b}[H".to_owned();
        for (n, line) in lines.iter().take(rows).enumerate() {
            frame.push_str(if n == 0 { "" } else { "\r\n" });
            frame.push_str(line);
            frame.push_str("\u{1b}[K");
        }
        frame.push_str("\u{1b}[J");
        write(&frame)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing any more.
        let _ = write(LEAVE);
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn is_terminal() -> bool {
    termios::isatty(io::stdout())
}

/// Whether the output is a terminal, and nobody objects to colours.
pub(super) fn wants_colour() -> bool {
    is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
