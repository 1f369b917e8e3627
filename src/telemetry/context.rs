//! Trace context: which trace a call belongs to, as its caller says and as its instances are told. Pure.
//!
//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>) or B3 (<https://github.com/openzipkin/b3-propagation>), single or multiple
//! fields: what came in goes out. What cannot be read is not passed on as if it could be: the trace begins anew.

use crate::model::Fields;

/// The trace a call belongs to, and its own place in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// The trace; never 0.
    pub trace_id: u128,
    /// The span of the caller, if it has said.
    pub parent: Option<u64>,
    /// The span that the call is; never 0.
    pub span: u64,
    /// It was chosen to be looked at.
    pub sampled: bool,
    /// B3's word that it must be looked at.
    debug: bool,
    /// The flag `random` of W3C, passed on.
    random: bool,
    /// The trace id came as sixteen digits.
    short: bool,
    /// The fields that say so.
    forms: Forms,
    /// A `traceparent` came that cannot be read: the `tracestate` beside it means nothing.
    restarted: bool,
}

/// What instances are told of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Traced {
    context: Context,
    /// The span that the attempt is; never 0.
    pub span: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Forms {
    w3c: bool,
    b3: bool,
    b3_multi: bool,
}

/// What a caller has said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Said {
    /// The trace and the caller's span in it.
    ids: Option<(u128, u64)>,
    /// Whether it is to be looked at, if that has been decided.
    sampled: Option<bool>,
    debug: bool,
    random: bool,
    short: bool,
}

/// How many calls are looked at when their callers have not decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sampler {
    /// Of 2^63 trace ids, so many.
    below: u64,
}

impl Sampler {
    /// A share of 0 to 1.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A share of 2^63 fits, and `as` keeps what does not within bounds.
    pub fn new(ratio: f64) -> Self {
        Self { below: (ratio.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64 }
    }

    /// By the trace id alone, so that all who see the trace decide alike (OpenTelemetry's `TraceIdRatioBased`).
    const fn takes(self, trace_id: u128) -> bool {
        // The lower half is meant.
        (trace_id as u64) >> 1 < self.below
    }
}

const W3C: &[&str] = &["traceparent"];
const B3: &[&str] = &["b3"];
const B3_MULTI: &[&str] = &["x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags"];

impl Context {
    /// The context of a call whose request has these fields. `rolls` are what a new trace and span are made of.
    pub fn of(fields: &dyn Fields, sampler: Sampler, rolls: [u64; 3]) -> Self {
        let (traceparent, broken) = match only(fields, "traceparent", w3c) {
            None => (None, false),
            Some(said) => (said, said.is_none()),
        };
        let b3 = only(fields, "b3", b3_single).flatten();
        let multi = b3_multi(fields);
        // The first that names a trace counts; then the first that has decided anything.
        let all = [traceparent, b3, multi];
        let said = all.into_iter().flatten().find(|said| said.ids.is_some()).or_else(|| all.into_iter().flatten().next());
        let said = said.unwrap_or_default();
        // Only fields that speak of this trace are said anew; what others say of another one is theirs.
        let agrees = |other: Option<Said>| other.is_some_and(|other| other.ids.map(|ids| ids.0) == said.ids.map(|ids| ids.0));
        let forms = Forms { w3c: agrees(traceparent), b3: agrees(b3), b3_multi: agrees(multi) };
        let forms = if forms == Forms::default() || broken { Forms { w3c: true, ..forms } } else { forms };
        let [high, low, span] = rolls;
        let trace_id = said.ids.map_or_else(|| (u128::from(high) << 64 | u128::from(low)).max(1), |(trace_id, _)| trace_id);
        Self {
            trace_id,
            parent: said.ids.map(|(_, parent)| parent),
            span: span.max(1),
            sampled: said.debug || said.sampled.unwrap_or_else(|| sampler.takes(trace_id)),
            debug: said.debug,
            random: said.random,
            short: said.short,
            forms,
            restarted: broken,
        }
    }

    /// What to tell of an attempt.
    pub const fn attempt(self, roll: u64) -> Traced {
        // A span id of 0 is none.
        Traced { context: self, span: if roll == 0 { 1 } else { roll } }
    }
}

impl Traced {
    /// Whether a field of the request gives way to what is said here.
    pub fn replaces(&self, name: &[u8]) -> bool {
        let Forms { w3c, b3, b3_multi } = self.context.forms;
        let one_of = |names: &[&str]| names.iter().any(|each| name.eq_ignore_ascii_case(each.as_bytes()));
        w3c && one_of(W3C) || b3 && one_of(B3) || b3_multi && one_of(B3_MULTI) || self.context.restarted && one_of(&["tracestate"])
    }

    /// Says it in fields.
    pub fn each(&self, mut say: impl FnMut(&str, &[u8])) {
        let Context { trace_id, span: parent, sampled, debug, random, short, forms, .. } = self.context;
        let mut trace = Text::default();
        if short {
            // It came as sixteen digits, so that this is all of it.
            trace.push_hex(trace_id as u64);
        } else {
            trace.push_hex((trace_id >> 64) as u64);
            trace.push_hex(trace_id as u64);
        }
        let mut own = Text::default();
        own.push_hex(self.span);
        let mut above = Text::default();
        above.push_hex(parent);
        if forms.w3c {
            let mut full = Text::default();
            full.push_hex((trace_id >> 64) as u64);
            full.push_hex(trace_id as u64);
            let flags: &[u8] = match (random, sampled) {
                (false, false) => b"-00",
                (false, true) => b"-01",
                (true, false) => b"-02",
                (true, true) => b"-03",
            };
            say("traceparent", Text::of(&[b"00-", full.bytes(), b"-", own.bytes(), flags]).bytes());
        }
        let decided: &[u8] = if sampled { b"1" } else { b"0" };
        if forms.b3 {
            let state = if debug { b"d" } else { decided };
            say("b3", Text::of(&[trace.bytes(), b"-", own.bytes(), b"-", state, b"-", above.bytes()]).bytes());
        }
        if forms.b3_multi {
            say("x-b3-traceid", trace.bytes());
            say("x-b3-spanid", own.bytes());
            say("x-b3-parentspanid", above.bytes());
            if debug { say("x-b3-flags", b"1") } else { say("x-b3-sampled", decided) }
        }
    }
}

/// A short text on the stack.
struct Text {
    bytes: [u8; 72],
    length: usize,
}

impl Default for Text {
    fn default() -> Self {
        Self { bytes: [0; 72], length: 0 }
    }
}

impl Text {
    fn of(parts: &[&[u8]]) -> Self {
        let mut text = Self::default();
        parts.iter().for_each(|part| text.push(part));
        text
    }

    /// Adds to it; the longest that is put together here is 68 bytes.
    fn push(&mut self, part: &[u8]) {
        if let Some(room) = self.bytes.get_mut(self.length..self.length + part.len()) {
            room.copy_from_slice(part);
            self.length += part.len();
        }
    }

    fn push_hex(&mut self, number: u64) {
        for nibble in (0..16).rev() {
            let digit = number >> (nibble * 4) & 0xf;
            self.push(
                b"0123456789abcdef".get(usize::try_from(digit).unwrap_or(0)..).and_then(|digits| digits.get(..1)).unwrap_or_default(),
            );
        }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// An id as sixteen or thirty-two digits.
pub fn hex(number: u128, digits: usize) -> String {
    format!("{number:0digits$x}")
}

/// What `read` makes of a field: `None` when it is not there, `Some(None)` when it is there twice or cannot be read.
fn only(fields: &dyn Fields, name: &str, read: fn(&[u8]) -> Option<Said>) -> Option<Option<Said>> {
    let mut found = None;
    fields.each(name, &mut |_, value| found = Some(if found.is_some() { None } else { read(value.trim_ascii()) }));
    found
}

/// The value of a `traceparent`. Of a later version, as much as is known.
fn w3c(value: &[u8]) -> Option<Said> {
    let part = |range: std::ops::Range<usize>| value.get(range);
    let dashes = [2, 35, 52].iter().all(|at| value.get(*at) == Some(&b'-'));
    let lower = !value.iter().any(u8::is_ascii_uppercase);
    let version = number(part(0..2)?)?;
    let ends = match value.len() {
        55 => true,
        more => more > 55 && version > 0 && value.get(55) == Some(&b'-'),
    };
    if !dashes || !lower || !ends || version == 0xff {
        return None;
    }
    let ids = ids(part(3..35)?, part(36..52)?)?;
    let flags = number(part(53..55)?)?;
    Some(Said { ids: Some(ids), sampled: Some(flags & 1 == 1), random: flags & 2 == 2, ..Said::default() })
}

/// The value of a `b3`: ids, whether it is sampled, and the span above; or only whether it is sampled.
fn b3_single(value: &[u8]) -> Option<Said> {
    let parts: [Option<&[u8]>; 4] = {
        let mut split = value.split(|byte| *byte == b'-');
        [split.next(), split.next(), split.next(), split.next()]
    };
    let [first, span, state, _] = parts;
    let (Some(trace), Some(span)) = (first, span) else {
        return first.and_then(decision).map(|(sampled, debug)| Said { sampled: Some(sampled), debug, ..Said::default() });
    };
    let (sampled, debug) = match state {
        None => (None, false),
        Some(state) => decision(state).map(|(sampled, debug)| (Some(sampled), debug))?,
    };
    Some(Said { ids: Some(ids(trace, span)?), sampled, debug, short: trace.len() == 16, random: false })
}

/// What the fields `x-b3-…` say; `None` when they say nothing that can be read.
fn b3_multi(fields: &dyn Fields) -> Option<Said> {
    let sampled = fields.first("x-b3-sampled").and_then(|text| decision(text.as_bytes())).map(|(sampled, _)| sampled);
    let debug = fields.first("x-b3-flags") == Some("1");
    let (trace, span) = (fields.first("x-b3-traceid"), fields.first("x-b3-spanid"));
    let ids = trace.zip(span).and_then(|(trace, span)| ids(trace.as_bytes(), span.as_bytes()));
    let short = trace.is_some_and(|trace| trace.len() == 16);
    (ids.is_some() || sampled.is_some() || debug).then_some(Said { ids, sampled, debug, short, random: false })
}

/// Whether it is sampled, and whether it must be.
fn decision(state: &[u8]) -> Option<(bool, bool)> {
    match state {
        b"1" | b"true" => Some((true, false)),
        b"0" | b"false" => Some((false, false)),
        b"d" => Some((true, true)),
        _ => None,
    }
}

/// A trace id of thirty-two or sixteen digits and a span id, neither of them 0.
fn ids(trace: &[u8], span: &[u8]) -> Option<(u128, u64)> {
    if !matches!(trace.len(), 16 | 32) || span.len() != 16 {
        return None;
    }
    let span = u64::try_from(number(span)?).ok()?;
    Some((number(trace)?, span)).filter(|(trace, span)| *trace != 0 && *span != 0)
}

fn number(digits: &[u8]) -> Option<u128> {
    let text = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?;
    u128::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Headers;

    const ALWAYS: u64 = 1 << 63;

    fn context(fields: &[(&str, &str)], below: u64) -> Context {
        let mut headers = Headers::new();
        fields.iter().for_each(|(name, value)| headers.push(name, value));
        Context::of(&headers, Sampler { below }, [0x1111, 0x2222, 0x3333])
    }

    /// What an instance is told when that came.
    fn said(fields: &[(&str, &str)]) -> Vec<String> {
        let traced = context(fields, ALWAYS).attempt(0xabc);
        let kept = fields.iter().filter(|(name, _)| !traced.replaces(name.as_bytes())).map(|(name, value)| format!("{name}: {value}"));
        let mut all: Vec<String> = kept.collect();
        traced.each(|name, value| all.push(format!("{name}: {}", String::from_utf8_lossy(value))));
        all
    }

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_came_goes_out_with_the_span_of_the_attempt() {
        assert_eq!(
            said(&[("traceparent", PARENT), ("tracestate", "a=1")]),
            ["tracestate: a=1", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-0000000000000abc-01"]
        );
        assert_eq!(
            said(&[("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90")]),
            ["b3: 80f198ee56343ba864fe8b2a57d3eff7-0000000000000abc-1-0000000000003333"]
        );
        assert_eq!(said(&[("B3", "64fe8b2a57d3eff7-e457b5a2e4d86bd1-d")]), ["b3: 64fe8b2a57d3eff7-0000000000000abc-d-0000000000003333"]);
        let multi = [("X-B3-TraceId", "64fe8b2a57d3eff7"), ("X-B3-SpanId", "e457b5a2e4d86bd1"), ("X-B3-Sampled", "0")];
        assert_eq!(
            said(&multi),
            ["x-b3-traceid: 64fe8b2a57d3eff7", "x-b3-spanid: 0000000000000abc", "x-b3-parentspanid: 0000000000003333", "x-b3-sampled: 0"]
        );
        assert_eq!(said(&[("x-b3-flags", "1")]).last().expect("said"), "x-b3-flags: 1");
        assert_eq!(said(&[]), ["traceparent: 00-00000000000011110000000000002222-0000000000000abc-01"]);
    }

    #[test]
    fn fields_of_another_trace_stay_as_they_are() {
        let other = ("b3", "00000000000000000000000000000001-0000000000000002-1");
        assert_eq!(said(&[("traceparent", PARENT), other])[0], format!("b3: {}", other.1));
        let same = ("b3", "0af7651916cd43dd8448eb211c80319c-0000000000000002-1");
        assert_eq!(said(&[same, ("traceparent", PARENT)]).len(), 2, "both are said anew");
    }

    #[test]
    fn what_cannot_be_read_begins_a_new_trace_without_its_state() {
        for broken in [
            "",
            "00",
            &PARENT.to_uppercase(),
            &PARENT.replace("00-", "ff-"),
            &format!("{PARENT}-more"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333g-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
        ] {
            let all = said(&[("traceparent", broken), ("tracestate", "a=1")]);
            assert_eq!(all, ["traceparent: 00-00000000000011110000000000002222-0000000000000abc-01"], "{broken}");
        }
        assert_eq!(context(&[("traceparent", PARENT), ("traceparent", PARENT)], 0).parent, None, "twice is once too often");
        for broken in ["x", "1-2", "64fe8b2a57d3eff7-e457b5a2e4d86bd1-x", "64fe8b2a57d3eff7", "--"] {
            assert_eq!(context(&[("b3", broken)], 0).parent, None, "{broken}");
        }
    }

    #[test]
    fn of_a_later_version_as_much_as_is_known_is_passed_on() {
        let later = PARENT.replace("00-", "cc-");
        for later in [later.clone(), format!("{later}-what-the-future-will-be-like")] {
            assert_eq!(context(&[("traceparent", &later)], 0).parent, Some(0xb7ad_6b71_6920_3331), "{later}");
        }
        let random = PARENT.replace("-01", "-ff");
        assert!(said(&[("traceparent", &random)])[0].ends_with("-03"), "sampled and random are known, nothing else");
    }

    #[test]
    fn the_caller_decides_whether_a_trace_is_looked_at_and_else_the_ratio() {
        assert!(context(&[("traceparent", PARENT)], 0).sampled);
        assert!(!context(&[("traceparent", &PARENT.replace("-01", "-00"))], ALWAYS).sampled);
        assert!(!context(&[("b3", "0")], ALWAYS).sampled && context(&[("b3", "d")], 0).sampled);
        assert!(context(&[("b3", "64fe8b2a57d3eff7-e457b5a2e4d86bd1")], ALWAYS).sampled, "B3 may leave it open");
        let half = Sampler::new(0.5);
        let taken = (0..1000_u64).filter(|n| half.takes(u128::from(crate::model::time::mix(*n)))).count();
        assert!((400..600).contains(&taken), "{taken}");
        assert!(!Sampler::new(0.0).takes(1) && Sampler::new(1.0).takes(u128::MAX) && !Sampler::new(f64::NAN).takes(1));
    }
}
