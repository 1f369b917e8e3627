//! The text that Prometheus and OpenMetrics scrape, written sample by sample.
//!
//! Sources: the text format 0.0.4 of Prometheus ("Exposition formats"), and OpenMetrics 1.0.0. They differ in little: OpenMetrics names a
//! family without `_total` and `_info`, knows its unit, writes `1.0` for the bound `1`, and ends with a line that says so.

use std::fmt::{self, Display, Write};

use super::histogram::{BOUND_COUNT, Histogram};

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// What every Prometheus reads.
    Prometheus,
    /// The standard that came of it.
    OpenMetrics,
}

impl Format {
    /// The type of the media; Prometheus 3 scrapes nothing without it.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What kind of numbers a metric has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// They only grow, but for a restart.
    Counter,
    /// They go up and down.
    Gauge,
    /// Counts of durations by bounds.
    Histogram,
    /// Always 1; the labels are what there is to know.
    Info,
}

/// A number in a sample.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Number {
    /// Exact, whatever its size.
    Whole(u64),
    /// Everything else.
    Real(f64),
}

macro_rules! numbers {
    ($($from:ty => |$value:ident| $number:expr;)*) => {
        $(impl From<$from> for Number {
            fn from($value: $from) -> Self {
                $number
            }
        })*
    };
}

numbers! {
    u64 => |value| Self::Whole(value);
    u32 => |value| Self::Whole(value.into());
    u16 => |value| Self::Whole(value.into());
    usize => |value| Self::Whole(u64::try_from(value).unwrap_or(u64::MAX));
    bool => |value| Self::Whole(value.into());
    f64 => |value| Self::Real(value);
}

impl Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(number) => number.fmt(f),
            Self::Real(number) if number.is_infinite() => f.write_str(if *number > 0.0 { "+Inf" } else { "-Inf" }),
            Self::Real(number) => number.fmt(f),
        }
    }
}

/// The text so far.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) format: Format,
}

impl Text {
    /// Announces a family of samples.
    pub(super) fn family(&mut self, name: &str, help: &str, kind: Kind) {
        let (word, end) = match (kind, self.format) {
            (Kind::Counter, Format::OpenMetrics) => ("counter", "_total"),
            (Kind::Info, Format::OpenMetrics) => ("info", "_info"),
            (Kind::Counter, Format::Prometheus) => ("counter", ""),
            (Kind::Gauge, _) | (Kind::Info, Format::Prometheus) => ("gauge", ""),
            (Kind::Histogram, _) => ("histogram", ""),
        };
        let name = name.strip_suffix(end).unwrap_or(name);
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(self.text, "# HELP {name} {}", Escaped(help.trim(), self.format == Format::OpenMetrics));
        let _ = writeln!(self.text, "# TYPE {name} {word}");
        let unit = ["seconds", "bytes"].into_iter().find(|unit| name.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')));
        if let Some(unit) = unit.filter(|_| self.format == Format::OpenMetrics) {
            let _ = writeln!(self.text, "# UNIT {name} {unit}");
        }
    }

    /// Ends the text.
    pub(super) fn end(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// Writes the samples of one metric about one thing.
#[derive(Debug)]
pub struct Out<'t> {
    pub(super) to: &'t mut Text,
    /// The name of the metric.
    pub(super) name: &'static str,
    /// What is told apart: labels ready to write, with commas between them.
    pub(super) labels: &'t str,
}

impl Out<'_> {
    /// Says what the number is.
    pub fn is(&mut self, number: impl Into<Number>) {
        self.begin("", "");
        self.end(number.into());
    }

    /// The same, with one more label.
    pub fn by(&mut self, label: &str, value: impl Display, number: impl Into<Number>) {
        self.begin("", label);
        // Writing to a String cannot fail.
        let _ = write!(self.to.text, "{value}\"}}");
        self.end(number.into());
    }

    /// Says of each word of `all` whether it is the one that applies.
    pub fn one_of(&mut self, all: &[&str], applies: &str) {
        for word in all {
            self.by("state", word, *word == applies);
        }
    }

    /// Says how long something took. Says nothing before it has happened.
    pub fn durations(&mut self, histogram: &Histogram) {
        let Some(within) = histogram.within_bounds() else { return };
        for (bound, count) in SECONDS.iter().zip(within.at_most) {
            let is_whole = !bound.contains('.') && self.to.format == Format::OpenMetrics;
            self.begin("_bucket", "le");
            self.to.text.push_str(bound);
            self.to.text.push_str(if is_whole { ".0\"}" } else { "\"}" });
            self.end(count.into());
        }
        self.begin("_bucket", "le");
        self.to.text.push_str("+Inf\"}");
        self.end(within.count.into());
        self.begin("_sum", "");
        self.end(within.sum.as_secs_f64().into());
        self.begin("_count", "");
        self.end(within.count.into());
    }

    /// Begins a sample, up to the value of its own label if it has one. There are very many samples: they are put together piece by piece.
    fn begin(&mut self, end: &str, label: &str) {
        let text = &mut self.to.text;
        text.push_str(self.name);
        text.push_str(end);
        if label.is_empty() && self.labels.is_empty() {
            return;
        }
        text.push('{');
        text.push_str(self.labels);
        if label.is_empty() {
            text.push('}');
            return;
        }
        text.push_str(if self.labels.is_empty() { "" } else { "," });
        text.push_str(label);
        text.push_str("=\"");
    }

    /// Ends a sample.
    fn end(&mut self, number: Number) {
        let _ = writeln!(self.to.text, " {number}");
    }
}

/// The [`BOUNDS`](super::histogram::BOUNDS) in seconds, as a label.
const SECONDS: [&str; BOUND_COUNT] =
    ["0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.075", "0.1", "0.25", "0.5", "0.75", "1", "2.5", "5", "7.5", "10"];

/// Text as it may stand in a label, or, where quotes need no care, in a help line.
pub(super) struct Escaped<'t>(pub(super) &'t str, pub(super) bool);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(text, quotes) = self;
        text.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '\n' => f.write_str("\\n"),
            '"' if *quotes => f.write_str("\\\""),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn written(format: Format, name: &'static str, kind: Kind, labels: &str, write: impl FnOnce(&mut Out<'_>)) -> String {
        let mut text = Text { text: String::new(), format };
        text.family(name, "Says \"what\" it is.", kind);
        write(&mut Out { to: &mut text, name, labels });
        text.end()
    }

    #[test]
    fn openmetrics_names_families_without_their_ends_and_says_unit_and_end() {
        let say = |out: &mut Out<'_>| out.by("code", 200, 3_u64);
        assert_eq!(
            written(Format::Prometheus, "a_seconds_total", Kind::Counter, "x=\"y\"", say),
            "# HELP a_seconds_total Says \"what\" it is.\n# TYPE a_seconds_total counter\na_seconds_total{x=\"y\",code=\"200\"} 3\n"
        );
        assert_eq!(
            written(Format::OpenMetrics, "a_seconds_total", Kind::Counter, "x=\"y\"", say),
            "# HELP a_seconds Says \\\"what\\\" it is.\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\n\
             a_seconds_total{x=\"y\",code=\"200\"} 3\n# EOF\n"
        );
        assert!(written(Format::OpenMetrics, "a_info", Kind::Info, "", say).starts_with("# HELP a Says"));
    }

    #[test]
    fn durations_are_counted_up_to_each_bound() {
        let histogram = Histogram::default();
        assert_eq!(written(Format::Prometheus, "a_seconds", Kind::Histogram, "", |out| out.durations(&histogram)).lines().count(), 2);
        histogram.record(Duration::from_millis(1000));
        histogram.record(Duration::from_micros(500));
        let text = written(Format::OpenMetrics, "a_seconds", Kind::Histogram, "", |out| out.durations(&histogram));
        for line in [
            "a_seconds_bucket{le=\"0.0005\"} 1",
            "a_seconds_bucket{le=\"0.75\"} 1",
            "a_seconds_bucket{le=\"1.0\"} 2",
            "a_seconds_bucket{le=\"+Inf\"} 2",
            "a_seconds_sum 1.0005",
            "a_seconds_count 2",
        ] {
            assert!(text.lines().any(|have| have == line), "{line}: {text}");
        }
        let text = written(Format::Prometheus, "a_seconds", Kind::Histogram, "", |out| out.durations(&histogram));
        assert!(text.contains("{le=\"1\"} 2"), "{text}");
    }

    #[test]
    fn the_bounds_are_said_as_they_are() {
        for (text, us) in SECONDS.iter().zip(crate::telemetry::histogram::BOUNDS) {
            assert_eq!(text.parse::<f64>().map(|seconds| (seconds * 1e6).round()), Ok(us as f64), "{text}");
        }
    }

    #[test]
    fn numbers_are_written_as_both_formats_read_them() {
        let numbers = [(Number::from(u64::MAX), "18446744073709551615"), (0.000_000_1.into(), "0.0000001"), (true.into(), "1")];
        for (number, text) in numbers.into_iter().chain([(f64::INFINITY.into(), "+Inf"), (f64::NAN.into(), "NaN"), (2.0.into(), "2")]) {
            assert_eq!(number.to_string(), text);
        }
    }

    #[test]
    fn what_would_end_a_label_is_escaped() {
        assert_eq!(Escaped("a\\b\"c\nd\u{e9}", true).to_string(), "a\\\\b\\\"c\\nd\u{e9}");
    }
}
