//! What is shown to a person: harmless text, aligned columns, and colour where it is wanted.

use std::fmt::Write;

use crate::model::is_unseen;
use crate::telemetry::access_log::stamp;

/// `text` with everything escaped that could speak to a terminal, hide, or turn the direction of writing.
pub(super) fn harmless(text: &str) -> String {
    escaped(text, |out, c| {
        // Writing to a String cannot fail. The same below.
        let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
    })
}

/// The same for JSON, whose line ends stay.
pub(in crate::app) fn harmless_json(text: &str) -> String {
    escaped(text, |out, c| {
        if c == '\n' {
            out.push(c);
        } else {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        }
    })
}

fn escaped(text: &str, escape: impl Fn(&mut String, char)) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unseen(c) { escape(&mut out, c) } else { out.push(c) }
    }
    out
}

/// How something is to be looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tone {
    Plain,
    Good,
    Bad,
    Faint,
}

/// The most characters of a cell that a table shows; `--json` shows them all.
const WIDEST: usize = 1_000;

/// A piece of a line. Its text is harmless.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(super) fn new(text: impl AsRef<str>) -> Self {
        Self { text: harmless(text.as_ref()), tone: Tone::Plain }
    }

    pub(super) fn toned(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }

    /// Cut where it would make a column wider than anybody reads, whose every row is filled up to that.
    fn cut(mut self) -> Self {
        if let Some((end, _)) = self.text.char_indices().nth(WIDEST) {
            self.text.truncate(end);
            self.text.push('…');
        }
        self
    }
}

/// A table: a head, and rows with as many cells.
pub(super) struct Table {
    /// Titles; those of columns with numbers begin with `>`.
    head: &'static [&'static str],
    rows: Vec<Vec<Cell>>,
}

/// A line as it would be without colours, with the tones of its parts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Line(pub(super) Vec<Cell>);

impl Line {
    pub(super) fn of(cell: Cell) -> Self {
        Self(vec![cell])
    }

    /// As text, cut to a width if there is one.
    pub(super) fn text(&self, colour: bool, width: Option<usize>) -> String {
        let (mut out, mut left) = (String::new(), width.unwrap_or(usize::MAX));
        for Cell { text, tone } in &self.0 {
            let piece: String = text.chars().take(left).collect();
            left -= piece.chars().count();
            let code = match tone {
                Tone::Plain => "",
                Tone::Good => "\u{1b}[32m",
                Tone::Bad => "\u{1b}[1;31m",
                Tone::Faint => "\u{1b}[2m",
            };
            if colour && !code.is_empty() && !piece.is_empty() {
                out.push_str(&format!("{code}{piece}\u{1b}[0m"));
            } else {
                out.push_str(&piece);
            }
        }
        if colour { out } else { out.trim_end().to_owned() }
    }
}

impl Table {
    pub(super) const fn new(head: &'static [&'static str]) -> Self {
        Self { head, rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells.into_iter().map(Cell::cut).collect());
    }

    /// The lines, in columns two blanks apart.
    pub(super) fn lines(self) -> Vec<Line> {
        let titles: Vec<Cell> = self.head.iter().map(|title| Cell::new(title.trim_start_matches('>')).toned(Tone::Faint)).collect();
        let all: Vec<Vec<Cell>> = std::iter::once(titles).chain(self.rows).collect();
        let width = |column: usize| all.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count()).max().unwrap_or(0);
        let columns: Vec<(usize, bool)> = self.head.iter().enumerate().map(|(n, title)| (width(n), title.starts_with('>'))).collect();
        let laid = |row: Vec<Cell>| {
            let cells = row.into_iter().zip(&columns).enumerate().map(|(n, (Cell { text, tone }, (width, is_number)))| {
                let gap = if n == 0 { "" } else { "  " };
                let text = match (is_number, n + 1 == columns.len()) {
                    (true, _) => format!("{gap}{text:>width$}"),
                    // Nothing follows that would have to be aligned.
                    (false, true) => format!("{gap}{text}"),
                    (false, false) => format!("{gap}{text:<width$}"),
                };
                Cell { text, tone }
            });
            Line(cells.collect())
        };
        all.into_iter().map(laid).collect()
    }
}

/// Prints lines, in colour if the output is a terminal and nobody objects.
pub(super) fn print(lines: &[Line]) {
    let colour = super::terminal::wants_colour();
    for line in lines {
        say!("{}", line.text(colour, None));
    }
}

/// `3 d 4 h`, `12 min 3 s`: the two largest parts of a time.
pub(super) fn lasting(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// Milliseconds since the Unix epoch as a date and time in UTC, for people: with a blank between the two.
pub(super) fn date(ms: u64) -> String {
    stamp(ms).replacen('T', " ", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_speaks_to_the_terminal() {
        assert_eq!(harmless("a\u{1b}[31mb\u{9b}2J\u{202e}\nc\u{7}"), "a\\u{1b}[31mb\\u{9b}2J\\u{202e}\\u{a}c\\u{7}");
        assert_eq!(harmless_json("{\n\"a\u{9b}\u{7f}\"}"), "{\n\"a\\u009b\\u007f\"}");
        assert_eq!(Cell::new("\u{1b}]0;title\u{7}").text, "\\u{1b}]0;title\\u{7}");
    }

    #[test]
    fn columns_are_aligned_and_lines_are_cut() {
        let mut table = Table::new(&["NAME", ">CALLS"]);
        table.row(vec![Cell::new("a"), Cell::new("1000000")]);
        table.row(vec![Cell::new("longer").toned(Tone::Bad), Cell::new("2")]);
        let lines = table.lines();
        let text = |colour, width| lines.iter().map(|line| line.text(colour, width)).collect::<Vec<_>>();
        assert_eq!(text(false, None), ["NAME      CALLS", "a       1000000", "longer        2"]);
        assert_eq!(text(false, Some(4)), ["NAME", "a", "long"]);
        assert!(text(true, Some(4))[2].starts_with("\u{1b}[1;31mlong\u{1b}[0m"));
    }

    #[test]
    fn no_cell_makes_a_column_wider_than_anybody_reads() {
        let mut table = Table::new(&["LABELS", "NAME"]);
        // Of a width that the standard library does not fill up to.
        table.row(vec![Cell::new("\u{7}".repeat(70_000)), Cell::new("a")]);
        table.row(vec![Cell::new("é".repeat(WIDEST)), Cell::new("b")]);
        let text: Vec<String> = table.lines().iter().map(|line| line.text(false, None)).collect();
        assert!(text[1].starts_with("\\u{7}\\u{7}") && text[1].ends_with("…  a"), "{}", text[1]);
        assert_eq!(text[2], format!("{}   b", "é".repeat(WIDEST)));
    }

    #[test]
    fn times_are_said_in_their_two_largest_parts_and_dates_in_full() {
        for (seconds, text) in [(0, "0 s"), (61, "1 min 1 s"), (3_660, "1 h 1 min"), (90_000, "1 d 1 h")] {
            assert_eq!(lasting(seconds), text);
        }
        for (ms, text) in [
            (0, "1970-01-01 00:00:00.000Z"),
            (951_782_400_000, "2000-02-29 00:00:00.000Z"),
            (1_795_453_272_096, "2026-11-23 17:01:12.096Z"),
            (1_772_323_199_999, "2026-02-28 23:59:59.999Z"),
        ] {
            assert_eq!(date(ms), text);
        }
    }
}
