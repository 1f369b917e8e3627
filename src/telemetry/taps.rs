//! Taps: whoever wants to watch calls as they happen. Each has a short queue; who does not keep up misses calls, which are counted, and no
//! call waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::counters::Counter;
use super::trace::{Trace, escaped};
use crate::model::sync::Locked;
use crate::model::{Fields, Invalid, is_secret, shown};

/// Calls that may wait for one tap,
const MOST: usize = 256;
/// and bytes of their header fields.
const MOST_BYTES: usize = 512 * 1024;
/// Header fields of a call that are shown.
const MOST_FIELDS: usize = 64;
/// The longest value that is shown, in characters.
const LONGEST_VALUE: usize = 256;
/// What stands for a value that is a secret.
const SECRET: &str = "[redacted]";

/// Header fields of a call, as they may be shown.
pub type ShownFields = Box<[(Box<str>, Box<str>)]>;

/// A call as taps are shown it.
#[derive(Clone, Debug)]
pub struct Tapped(Arc<(Arc<Trace>, ShownFields)>);

impl Tapped {
    /// Bytes of its header fields.
    fn size(&self) -> usize {
        let (_, fields) = &*self.0;
        fields.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// Which calls a tap shows.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Filter {
    /// Of this service.
    pub service: Option<String>,
    /// Of services whose names begin so: those that whoever looks on may see.
    pub prefix: Option<Box<str>>,
    /// With a status in this range, both ends included.
    pub status: Option<(u16, u16)>,
    /// That took at least so long.
    pub at_least: Duration,
    /// So many, and then it is over.
    pub limit: Option<u64>,
}

impl Filter {
    /// Reads the parameters `service`, `status` (`503` or `5xx`), `slowerThanMs` and `limit` of a query.
    ///
    /// # Errors
    /// [`Invalid`] naming the parameter.
    pub fn of(parameters: &[(String, String)]) -> Result<Self, Invalid> {
        let mut filter = Self::default();
        for (name, value) in parameters {
            let number =
                |name: &'static str| value.parse::<u64>().map_err(|_| Invalid::new(name, format!("{} is not a number", shown(value))));
            match name.as_str() {
                "service" => filter.service = Some(value.clone()),
                "status" => filter.status = Some(status_range(value)?),
                "slowerThanMs" => filter.at_least = Duration::from_millis(number("slowerThanMs")?),
                "limit" => filter.limit = Some(number("limit")?.max(1)),
                other => {
                    let why = format!("{} is no parameter; use service, status, slowerThanMs or limit", shown(other));
                    return Err(Invalid::new(other.to_owned(), why));
                }
            }
        }
        Ok(filter)
    }

    fn takes(&self, trace: &Trace) -> bool {
        self.service.as_ref().is_none_or(|service| trace.service.as_str() == service)
            && self.prefix.as_ref().is_none_or(|prefix| trace.service.as_str().starts_with(&**prefix))
            && self.status.is_none_or(|(low, high)| (low..=high).contains(&trace.status))
            && trace.took >= self.at_least
    }
}

fn status_range(text: &str) -> Result<(u16, u16), Invalid> {
    let fault = || Invalid::new("status", format!("{} is neither a status nor a class such as 5xx", shown(text)));
    if let Some(class) = text.strip_suffix("xx") {
        let class: u16 = class.parse().ok().filter(|class| (1..=5).contains(class)).ok_or_else(fault)?;
        return Ok((class * 100, class * 100 + 99));
    }
    let status: u16 = text.parse().ok().filter(|status| *status <= 599).ok_or_else(fault)?;
    Ok((status, status))
}

/// All taps.
#[derive(Default)]
pub struct Taps {
    /// Guarded: those that are open.
    open: Locked<Open>,
    /// How many, so that a call need not ask with a lock.
    count: AtomicUsize,
    /// Calls that taps were shown.
    pub lines: Counter,
    /// Calls that taps were not shown, since they did not take them in time.
    pub dropped: Counter,
    /// Taps refused because as many as may be were open.
    pub refused: Counter,
}

#[derive(Default)]
struct Open {
    taps: Vec<Waiting>,
    next: u64,
}

struct Waiting {
    number: u64,
    filter: Filter,
    queue: VecDeque<Tapped>,
    /// Bytes of header fields in it.
    bytes: usize,
    wake: Arc<dyn Fn() + Send + Sync>,
}

/// A tap, open until it is dropped.
pub struct Tap {
    taps: Arc<Taps>,
    number: u64,
    /// How many it may still show.
    left: u64,
}

impl Taps {
    /// Opens a tap; `wake` is used when there is something to show. `None` when `most` are open.
    pub fn open(self: &Arc<Self>, filter: Filter, most: usize, wake: impl Fn() + Send + Sync + 'static) -> Option<Tap> {
        let left = filter.limit.unwrap_or(u64::MAX);
        let number = self.open.with(|open| {
            if open.taps.len() >= most {
                return None;
            }
            open.next += 1;
            open.taps.push(Waiting { number: open.next, filter, queue: VecDeque::new(), bytes: 0, wake: Arc::new(wake) });
            Some(open.next)
        });
        let Some(number) = number else {
            self.refused.add(1);
            return None;
        };
        self.count.fetch_add(1, Ordering::SeqCst);
        Some(Tap { taps: Arc::clone(self), number, left })
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Shows a call to those that want it.
    pub fn show(&self, trace: &Arc<Trace>, fields: ShownFields) {
        let tapped = Tapped(Arc::new((Arc::clone(trace), fields)));
        let size = tapped.size();
        let wakes: Vec<_> = self.open.with(|open| {
            let mut wakes = Vec::new();
            for tap in open.taps.iter_mut().filter(|tap| tap.filter.takes(trace)) {
                if tap.queue.len() >= MOST || tap.bytes + size > MOST_BYTES {
                    self.dropped.add(1);
                    continue;
                }
                if tap.queue.is_empty() {
                    wakes.push(Arc::clone(&tap.wake));
                }
                tap.bytes += size;
                tap.queue.push_back(tapped.clone());
            }
            wakes
        });
        wakes.iter().for_each(|wake| wake());
    }
}

impl Tap {
    /// What there is to show now, in order. Empty and [over](Self::is_over) when there will be no more.
    pub fn collect(&mut self) -> VecDeque<Tapped> {
        let take = |tap: &mut Waiting| {
            tap.bytes = 0;
            std::mem::take(&mut tap.queue)
        };
        let mut all = self.taps.open.with(|open| open.taps.iter_mut().find(|tap| tap.number == self.number).map(take)).unwrap_or_default();
        all.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = all.len() as u64;
        self.left -= count;
        self.taps.lines.add(count);
        all
    }

    /// Whether it has shown as many as it may.
    pub const fn is_over(&self) -> bool {
        self.left == 0
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let gone = self.taps.open.with(|open| {
            let at = open.taps.iter().position(|tap| tap.number == self.number);
            at.map(|at| open.taps.swap_remove(at))
        });
        if gone.is_some() {
            self.taps.count.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Header fields as they may be shown: few, short, on one line, and without secrets.
pub fn shown_fields(headers: &dyn Fields) -> ShownFields {
    let mut all = Vec::new();
    headers.each("", &mut |name, value| {
        if all.len() < MOST_FIELDS {
            all.push((escaped("", name, LONGEST_VALUE), shown_value(name, &String::from_utf8_lossy(value))));
        }
    });
    all.into()
}

fn shown_value(name: &str, value: &str) -> Box<str> {
    let begins = |begin: &str| value.get(..begin.len()).is_some_and(|head| head.eq_ignore_ascii_case(begin));
    // Whatever the field is called: credentials as `Authorization` has them, and JSON Web Tokens, which begin with `{"` in Base64.
    let is_credential = ["bearer ", "basic ", "digest ", "negotiate "].into_iter().any(begins) || value.starts_with("eyJ");
    if is_secret(name.as_bytes()) || is_credential {
        return SECRET.into();
    }
    // The query of a path is shown nowhere, and so not of one that a field has, such as `Referer`.
    match value.split_once('?') {
        Some((path, query)) if query.contains('=') => escaped("", &format!("{path}?{SECRET}"), LONGEST_VALUE),
        _ => escaped("", value, LONGEST_VALUE),
    }
}

/// A call as a tap shows it: as `GET /traces` does, with its header fields.
#[derive(Serialize)]
pub struct TapLine<'a> {
    #[serde(flatten)]
    trace: &'a Trace,
    #[serde(serialize_with = "as_pairs")]
    headers: &'a [(Box<str>, Box<str>)],
}

impl<'a> TapLine<'a> {
    /// Of a call.
    pub fn of(tapped: &'a Tapped) -> Self {
        let (trace, headers) = &*tapped.0;
        Self { trace, headers }
    }
}

/// A field may be there several times.
fn as_pairs<S: serde::Serializer>(fields: &[(Box<str>, Box<str>)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(fields.iter().map(|(name, value)| [&**name, &**value]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Headers, RequestId, ServiceName};

    fn pairs(query: &[(&str, &str)]) -> Vec<(String, String)> {
        query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_is_asked_for_is_read_and_mistakes_are_named() {
        let filter = Filter::of(&pairs(&[("service", "s"), ("status", "5xx"), ("limit", "3"), ("slowerThanMs", "20")])).expect("fine");
        let whole = Filter {
            service: Some("s".into()),
            prefix: None,
            status: Some((500, 599)),
            at_least: Duration::from_millis(20),
            limit: Some(3),
        };
        assert_eq!(filter, whole);
        assert_eq!(Filter::of(&pairs(&[("status", "404")])).expect("fine").status, Some((404, 404)));
        for (name, value) in
            [("status", "6xx"), ("status", "x"), ("status", "70000"), ("limit", "-1"), ("slowerThanMs", "1s"), ("stats", "5xx")]
        {
            assert_eq!(Filter::of(&pairs(&[(name, value)])).expect_err(value).field, name);
        }
    }

    fn trace() -> Arc<Trace> {
        Arc::new(Trace {
            context: None,
            state: None,
            request_id: RequestId::from_roll(1, 2),
            service: ServiceName::new("s").expect("valid"),
            method: "GET".into(),
            path: "/".into(),
            caller: None,
            started_ms: 0,
            took: Duration::ZERO,
            queued: Duration::ZERO,
            status: 200,
            reason: None,
            streamed: false,
            attempts: Vec::new(),
        })
    }

    #[test]
    fn what_waits_for_a_tap_is_bounded_in_calls_and_in_bytes() {
        let fields = |bytes: usize| -> ShownFields { [("name".into(), "x".repeat(bytes).into())].into() };
        for (bytes, most) in [(1, MOST), (MOST_BYTES / 8, 7), (MOST_BYTES, 0)] {
            let taps = Arc::<Taps>::default();
            let mut tap = taps.open(Filter::default(), 1, || ()).expect("room");
            for _ in 0..2 {
                (0..1000).for_each(|_| taps.show(&trace(), fields(bytes)));
                assert_eq!(tap.collect().len(), most, "{bytes} bytes each");
            }
            assert_eq!((taps.lines.get(), taps.dropped.get()), (2 * most as u64, 2000 - 2 * most as u64));
        }
    }

    #[test]
    fn secrets_are_not_shown_and_strange_values_stay_on_one_line() {
        let (mut headers, mut hidden) = (Headers::new(), Headers::new());
        for (name, value) in [("Authorization", "Bearer s3"), ("Cookie", "s3"), ("X-Api-Key", "s3"), ("accept", "a\u{1b}[31m")] {
            headers.push(name, value);
        }
        for (name, value) in [
            ("x-goog-iap-jwt-assertion", "s3"),
            ("x-upstream", "bearer s3"),
            ("x-upstream", "Basic s3"),
            ("x-id", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzMyJ9.s3"),
            ("referer", "https://a.test/b?code=s3"),
            ("x-original-url", "/b?code=s3"),
            ("x-forwarded-uri", "b?code=s3&state=1"),
        ] {
            hidden.push(name, value);
        }
        let hidden = shown_fields(&hidden);
        assert!(hidden.iter().all(|(_, value)| value.contains(SECRET) && !value.contains("s3")), "{hidden:?}");
        assert_eq!(&*hidden[4].1, "https://a.test/b?[redacted]");
        headers.push("bytes", [0xff_u8, 0xfe]);
        headers.push("long", "x".repeat(70_000));
        let all = shown_fields(&headers);
        assert_eq!(all.iter().filter(|(_, value)| &**value == SECRET).count(), 3);
        assert_eq!(&*all[3].1, "a\\u{1b}[31m");
        assert_eq!(&*all[4].1, "\u{fffd}\u{fffd}");
        assert_eq!(all[5].1.chars().count(), LONGEST_VALUE + 1);
    }
}
