//! What was counted lately: the last quarter of an hour as points to draw, and the last minute as figures to judge by. Bounded, whatever is
//! called: 180 points of 20 bytes and four marks of a histogram for each service that has been called, three for each instance.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::histogram::{Mark, Snapshot};
use super::verdict::Standing;
use crate::model::time::as_ms;

/// Time from one point to the next.
pub const STEP: Duration = Duration::from_secs(5);
/// Points that are remembered: a quarter of an hour.
const REMEMBERED: usize = 180;
/// Every so many points a mark is made, of which the oldest begins the last minute.
const STEPS_PER_MARK: u64 = 4;
const MARKS: usize = 3;

/// What had been counted by some time, or between two.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Calls of a service; attempts of an instance.
    pub calls: u64,
    /// Of these, how many failed.
    pub failures: u64,
    /// Attempts after the first.
    pub retries: u64,
    /// Calls refused because a limit was full.
    pub refused: u64,
    /// Retries left out because the budget was empty.
    pub over_budget: u64,
}

impl Counts {
    fn since(&self, before: &Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(before.calls),
            failures: self.failures.saturating_sub(before.failures),
            retries: self.retries.saturating_sub(before.retries),
            refused: self.refused.saturating_sub(before.refused),
            over_budget: self.over_budget.saturating_sub(before.over_budget),
        }
    }

    /// Adds others.
    pub const fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.failures += other.failures;
        self.retries += other.retries;
        self.refused += other.refused;
        self.over_budget += other.over_budget;
    }
}

/// One step of time.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
struct Point {
    calls: u32,
    failures: u32,
    /// Milliseconds: the quantiles 0.5, 0.95 and 0.99.
    latency: [f32; 3],
}

impl Point {
    fn new(counts: &Counts, latency: &Snapshot) -> Self {
        let ms = |q| ((as_ms(latency.quantile(q)) * 100.0).round() / 100.0) as f32;
        let small = |n| u32::try_from(n).unwrap_or(u32::MAX);
        Self { calls: small(counts.calls), failures: small(counts.failures), latency: [ms(0.5), ms(0.95), ms(0.99)] }
    }
}

/// Points as they are shown: one list for each line that is drawn, oldest first. Lists that are shorter than the time they cover begin with
/// steps in which nothing was called.
#[derive(Clone, PartialEq, Default, Debug, Serialize)]
#[allow(missing_docs)] // Milliseconds, and how many.
pub struct Points {
    pub calls: Vec<u32>,
    pub failures: Vec<u32>,
    pub p50: Vec<f32>,
    pub p95: Vec<f32>,
    pub p99: Vec<f32>,
}

impl Points {
    /// Whether nothing was called.
    pub const fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }
}

/// The points of one service, or of all.
#[derive(Default, Debug)]
pub struct Track {
    /// The number of the newest step.
    newest: u64,
    points: VecDeque<Point>,
}

impl Track {
    /// Adds the step of that number.
    pub fn push(&mut self, step: u64, counts: &Counts, latency: &Snapshot) {
        self.newest = step;
        // Nothing is kept for what has never been called.
        if counts.calls == 0 && self.points.is_empty() {
            return;
        }
        if self.points.len() == REMEMBERED {
            self.points.pop_front();
        }
        self.points.push_back(Point::new(counts, latency));
    }

    /// The points of the steps after number `seen`, up to number `until`.
    pub fn points(&self, seen: u64, until: u64) -> Points {
        let first = (self.newest + 1).saturating_sub(self.points.len() as u64);
        let mut out = Points::default();
        for (_, point) in (first..).zip(&self.points).filter(|(step, _)| *step > seen && *step <= until) {
            let [p50, p95, p99] = point.latency;
            out.calls.push(point.calls);
            out.failures.push(point.failures);
            out.p50.push(p50);
            out.p95.push(p95);
            out.p99.push(p99);
        }
        if out.calls.iter().all(|calls| *calls == 0) { Points::default() } else { out }
    }
}

/// What the last minute is counted from.
#[derive(Default, Debug)]
pub struct Recent {
    marks: VecDeque<(Instant, Counts, Mark)>,
}

/// About the last minute: from 40 seconds on, less only for what is younger.
#[derive(Clone, Debug)]
pub struct Lately {
    /// How long it was.
    pub time: Duration,
    /// What was counted.
    pub counts: Counts,
    /// How long it took.
    pub latency: Snapshot,
}

impl Recent {
    /// To be told at every step.
    pub fn step(&mut self, step: u64, now: Instant, counts: Counts, latency: &Snapshot) {
        if self.marks.is_empty() {
            // It has come since the last step.
            let begin = now.checked_sub(STEP).unwrap_or(now);
            self.marks.push_back((begin, Counts::default(), Mark::default()));
        }
        if step.is_multiple_of(STEPS_PER_MARK) {
            if self.marks.len() == MARKS {
                self.marks.pop_front();
            }
            self.marks.push_back((now, counts, latency.mark()));
        }
    }

    /// The last minute, from what has been counted by now.
    pub fn lately(&self, now: Instant, counts: Counts, latency: &Snapshot) -> Lately {
        match self.marks.front() {
            Some((begin, before, mark)) => {
                Lately { time: now.saturating_duration_since(*begin), counts: counts.since(before), latency: latency.since(mark) }
            }
            None => Lately { time: STEP, counts, latency: latency.clone() },
        }
    }
}

/// What one service has been lately. Guarded by its owner.
#[derive(Default, Debug)]
pub struct History {
    /// Points to draw.
    pub track: Track,
    /// The last minute.
    pub recent: Recent,
    /// Since when it has not been fine.
    pub standing: Standing,
    /// The instance that was much slower than the others in the last minute, as of the last step.
    pub slow: Option<String>,
    /// At the last step.
    before: (Counts, Mark),
}

impl History {
    /// Takes in a step of time; answers what was counted in it.
    pub fn step(&mut self, step: u64, now: Instant, counts: Counts, latency: &Snapshot) -> (Counts, Snapshot) {
        let (before, mark) = &self.before;
        let news = (counts.since(before), latency.since(mark));
        self.track.push(step, &news.0, &news.1);
        self.recent.step(step, now, counts, latency);
        if news.0.calls > 0 {
            self.before = (counts, latency.mark());
        }
        news
    }
}

/// What all services together have been lately. Guarded by its owner.
#[derive(Default, Debug)]
pub struct Whole {
    /// The number of the last step; the first is 1.
    pub step: u64,
    /// Points to draw.
    pub track: Track,
    /// When each of the last steps was, in milliseconds since the Unix epoch.
    at: VecDeque<u64>,
}

impl Whole {
    /// Takes in a step that ended at `at`.
    pub fn step(&mut self, step: u64, at: u64, counts: &Counts, latency: &Snapshot) {
        self.step = step;
        self.track.push(step, counts, latency);
        if self.at.len() == REMEMBERED {
            self.at.pop_front();
        }
        self.at.push_back(at);
    }

    /// When the steps after number `seen` ended.
    pub fn times(&self, seen: u64) -> Vec<u64> {
        let first = (self.step + 1).saturating_sub(self.at.len() as u64);
        (first..).zip(&self.at).filter(|(step, _)| *step > seen).map(|(_, at)| *at).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::histogram::Histogram;

    /// A service that is called so often in each step, each call taking that long.
    struct Bench {
        history: History,
        latency: Histogram,
        counts: Counts,
        now: Instant,
        step: u64,
    }

    impl Bench {
        fn new() -> Self {
            Self { history: History::default(), latency: Histogram::default(), counts: Counts::default(), now: Instant::now(), step: 0 }
        }

        fn step(&mut self, calls: u64, ms: u64) {
            for _ in 0..calls {
                self.latency.record(Duration::from_millis(ms));
            }
            self.counts.calls += calls;
            self.now += STEP;
            self.step += 1;
            self.history.step(self.step, self.now, self.counts, &self.latency.snapshot());
        }

        fn lately(&self) -> Lately {
            self.history.recent.lately(self.now, self.counts, &self.latency.snapshot())
        }
    }

    #[test]
    fn a_quarter_of_an_hour_is_remembered_and_no_more() {
        let mut bench = Bench::new();
        for n in 1..=500 {
            bench.step(n, 1);
        }
        let points = bench.history.track.points(0, 500);
        assert_eq!(points.calls, (321..=500).collect::<Vec<u32>>());
        assert_eq!((points.p50.len(), points.p99.first()), (180, Some(&1.0)));
        assert_eq!(bench.history.track.points(498, 500).calls, [499, 500]);
        assert_eq!(bench.history.track.points(498, 499).calls, [499]);
        assert_eq!(bench.history.track.points(500, 500), Points::default());
    }

    #[test]
    fn each_point_is_about_its_own_step() {
        let mut bench = Bench::new();
        for ms in [1000, 2, 500] {
            bench.step(10, ms);
        }
        bench.step(0, 0);
        let points = bench.history.track.points(0, 4);
        assert_eq!(points.calls, [10, 10, 10, 0]);
        let near = |got: f32, ms: f32| (got / ms - 1.0).abs() < 0.02;
        assert!(near(points.p50[0], 1000.0) && near(points.p99[1], 2.0) && near(points.p95[2], 500.0), "{points:?}");
        assert!(points.p99[3].abs() < f32::EPSILON);
    }

    #[test]
    fn what_was_never_called_takes_no_room() {
        let mut bench = Bench::new();
        for _ in 0..100 {
            bench.step(0, 0);
        }
        assert_eq!((bench.history.track.points.len(), bench.history.track.points(0, 100)), (0, Points::default()));
    }

    #[test]
    fn the_last_minute_forgets_what_was_before_it() {
        let mut bench = Bench::new();
        bench.step(1000, 900);
        assert_eq!((bench.lately().counts.calls, bench.lately().time), (1000, STEP));
        for _ in 0..24 {
            bench.step(5, 10);
            assert!(bench.lately().time <= Duration::from_secs(60));
        }
        let lately = bench.lately();
        assert!(lately.time >= Duration::from_secs(40), "{:?}", lately.time);
        assert_eq!(lately.counts.calls, lately.time.as_secs());
        assert!(lately.latency.quantile(0.99) < Duration::from_millis(11));
    }

    #[test]
    fn the_steps_of_the_whole_have_times() {
        let mut whole = Whole::default();
        for step in 1..=200 {
            whole.step(step, step * 5000, &Counts::default(), &Snapshot::default());
        }
        assert_eq!((whole.times(0).len(), whole.times(198)), (180, vec![995_000, 1_000_000]));
    }
}
