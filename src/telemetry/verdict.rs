//! Whether a service is fine, and if not, what is the matter with it: one judgement for everything that shows it to people.

use serde::Serialize;

use super::history::Lately;
use crate::policy::breaker::{Control, Status};

/// How a service or an instance is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    #[default]
    Fine,
    /// Out of service because an operator wants it so.
    Paused,
    /// It works, but not as it should.
    Degraded,
    /// It does not work.
    Down,
}

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Trouble {
    /// How bad it is.
    pub level: Level,
    /// What it is, for a person.
    pub what: String,
}

/// How many instances are what.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
#[allow(missing_docs)] // The words are those of the lexicon.
pub struct Heads {
    pub total: u32,
    pub available: u32,
    pub unhealthy: u32,
    pub ejected: u32,
    /// Draining, in maintenance, or of weight 0.
    pub paused: u32,
}

/// What is known of a service.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // As above.
pub struct Facts<'a> {
    pub breaker: Status,
    pub control: Control,
    pub heads: Heads,
    /// Health is ignored.
    pub panic: bool,
    pub queued: u32,
    pub lately: &'a Lately,
    /// An instance that answers much more slowly than the others do.
    pub slow: Option<&'a str>,
}

/// With fewer calls than this, shares say nothing.
const FEW: u64 = 20;
/// The share of failed calls, in percent, that is worth a look, and that at which most callers will have noticed.
const SOME_FAIL: f64 = 1.0;
const MOST_FAIL: f64 = 50.0;

/// What is the matter with a service, the worst first; nothing when it is fine.
pub fn judge(facts: &Facts<'_>) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    let mut say = |level, what: String| troubles.push(Trouble { level, what });
    let Heads { total, available, unhealthy, ejected, paused } = facts.heads;
    match (facts.control, facts.breaker) {
        (Control::ForcedOpen, _) => say(Level::Down, "circuit breaker forced open by an operator".to_owned()),
        (_, Status::Open) => say(Level::Down, "circuit breaker is open: calls are refused".to_owned()),
        (_, Status::HalfOpen) => say(Level::Degraded, "circuit breaker is half open: only trial calls pass".to_owned()),
        (_, Status::Closed) => {}
    }
    if available == 0 && total > 0 {
        let why = if paused == total { ": all are paused" } else { "" };
        say(Level::Down, format!("no instance is available{why}"));
    }
    if unhealthy > 0 {
        say(Level::Degraded, format!("{} unhealthy", some(unhealthy, total)));
    }
    if ejected > 0 {
        say(Level::Degraded, format!("{} ejected", some(ejected, total)));
    }
    if facts.panic {
        say(Level::Degraded, "so few instances are healthy that health is ignored".to_owned());
    }
    let counts = &facts.lately.counts;
    let failed = counts.failures as f64 * 100.0 / counts.calls.max(1) as f64;
    if counts.calls >= FEW && failed >= SOME_FAIL {
        let level = if failed >= MOST_FAIL { Level::Down } else { Level::Degraded };
        say(level, format!("{failed:.1} % of the calls of the last minute failed"));
    }
    if counts.refused > 0 {
        say(Level::Degraded, format!("{} refused in the last minute: a limit is full", calls(counts.refused)));
    }
    if counts.over_budget > 0 {
        say(Level::Degraded, "the retry budget is empty: failed calls are not repeated".to_owned());
    }
    if facts.queued > 0 {
        say(Level::Degraded, format!("{} waiting for a slot", calls(u64::from(facts.queued))));
    }
    if let Some(slow) = facts.slow {
        say(Level::Degraded, format!("{slow} is much slower than the others"));
    }
    // Stable, so that of two equally bad things the one above stays first.
    troubles.sort_by_key(|trouble| std::cmp::Reverse(trouble.level));
    troubles
}

fn some(n: u32, total: u32) -> String {
    format!("{n} of {total} {} {}", if total == 1 { "instance" } else { "instances" }, if n == 1 { "is" } else { "are" })
}

fn calls(n: u64) -> String {
    if n == 1 { "1 call".to_owned() } else { format!("{n} calls") }
}

/// Since when something has not been fine.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Standing(Option<u64>);

impl Standing {
    /// Takes in how it is at `now`, in milliseconds since the Unix epoch; answers since when it has not been fine.
    pub const fn take(&mut self, troubles: &[Trouble], now: u64) -> Option<u64> {
        self.0 = match (troubles.is_empty(), self.0) {
            (true, _) => None,
            (false, None) => Some(now),
            (false, since) => since,
        };
        self.0
    }
}

/// An instance is slow when half of its answers take this many times as long as the other instances' do,
const SLOW_TIMES: f64 = 3.0;
/// and at least this many milliseconds longer.
const SLOW_MS: f64 = 10.0;
/// Attempts without which nothing can be said.
const SLOW_CALLS: u64 = 10;

/// Which instance is much slower than the others, if one is: from the attempts each has answered and the milliseconds half of them took.
pub fn slowest(instances: &[(u64, f64)]) -> Option<usize> {
    let mut known: Vec<(usize, f64)> =
        instances.iter().enumerate().filter(|(_, (calls, _))| *calls >= SLOW_CALLS).map(|(at, (_, ms))| (at, *ms)).collect();
    known.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    let (at, slow) = known.pop()?;
    let (_, usual) = known.get(known.len() / 2)?;
    (slow >= usual * SLOW_TIMES && slow >= usual + SLOW_MS).then_some(at)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::histogram::Snapshot;
    use crate::telemetry::history::Counts;

    fn said(change: impl FnOnce(&mut Facts<'_>, &mut Counts)) -> Vec<(Level, String)> {
        let mut lately = Lately { time: Duration::from_secs(60), counts: Counts::default(), latency: Snapshot::default() };
        let empty = lately.clone();
        let mut facts = Facts {
            breaker: Status::Closed,
            control: Control::Auto,
            heads: Heads { total: 3, available: 3, ..Heads::default() },
            panic: false,
            queued: 0,
            lately: &empty,
            slow: None,
        };
        change(&mut facts, &mut lately.counts);
        judge(&Facts { lately: &lately, ..facts }).into_iter().map(|trouble| (trouble.level, trouble.what)).collect()
    }

    #[test]
    fn a_service_that_nobody_calls_and_one_that_is_called_without_a_failure_are_fine() {
        assert_eq!(said(|_, _| ()), []);
        assert_eq!(said(|_, counts| counts.calls = 1000), []);
        assert_eq!(said(|_, counts| (counts.calls, counts.failures) = (1000, 9)), [], "less than a percent");
        assert_eq!(said(|_, counts| (counts.calls, counts.failures) = (19, 19)), [], "too few to tell");
        assert_eq!(said(|facts, _| facts.heads.paused = 1), [], "an operator knows");
        assert_eq!(said(|facts, _| facts.control = Control::Disabled), []);
    }

    #[test]
    fn the_worst_comes_first() {
        let all = said(|facts, counts| {
            facts.heads = Heads { total: 3, available: 0, unhealthy: 2, ejected: 1, paused: 0 };
            facts.breaker = Status::Open;
            (counts.calls, counts.failures, counts.over_budget) = (40, 1, 1);
        });
        let words: Vec<&str> = all.iter().map(|(_, what)| what.as_str()).collect();
        assert_eq!(
            words,
            [
                "circuit breaker is open: calls are refused",
                "no instance is available",
                "2 of 3 instances are unhealthy",
                "1 of 3 instances is ejected",
                "2.5 % of the calls of the last minute failed",
                "the retry budget is empty: failed calls are not repeated",
            ]
        );
        assert_eq!(all[1].0, Level::Down);
        assert_eq!(all[2].0, Level::Degraded);
    }

    #[test]
    fn each_trouble_has_its_level() {
        let one = |change: &dyn Fn(&mut Facts<'_>, &mut Counts)| said(|facts, counts| change(facts, counts)).first().cloned();
        let level = |change: &dyn Fn(&mut Facts<'_>, &mut Counts)| one(change).map(|(level, _)| level);
        assert_eq!(level(&|facts, _| facts.control = Control::ForcedOpen), Some(Level::Down));
        assert_eq!(level(&|facts, _| facts.breaker = Status::HalfOpen), Some(Level::Degraded));
        assert_eq!(level(&|facts, _| facts.panic = true), Some(Level::Degraded));
        assert_eq!(level(&|facts, _| facts.queued = 1), Some(Level::Degraded));
        assert_eq!(level(&|facts, _| facts.slow = Some("a")), Some(Level::Degraded));
        assert_eq!(level(&|_, counts| counts.refused = 1), Some(Level::Degraded));
        assert_eq!(level(&|_, counts| (counts.calls, counts.failures) = (20, 10)), Some(Level::Down));
        let paused = |facts: &mut Facts<'_>, _: &mut Counts| facts.heads = Heads { total: 1, paused: 1, ..Heads::default() };
        assert_eq!(one(&paused), Some((Level::Down, "no instance is available: all are paused".to_owned())));
    }

    #[test]
    fn what_is_not_fine_keeps_its_beginning_until_it_is() {
        let trouble = [Trouble { level: Level::Down, what: String::new() }];
        let mut standing = Standing::default();
        assert_eq!(standing.take(&[], 1), None);
        assert_eq!(standing.take(&trouble, 2), Some(2));
        assert_eq!(standing.take(&trouble, 3), Some(2));
        assert_eq!(standing.take(&[], 4), None);
        assert_eq!(standing.take(&trouble, 5), Some(5));
    }

    #[test]
    fn the_slow_one_is_told_from_the_usual_spread() {
        for (instances, expected) in [
            (&[][..], None),
            (&[(100, 900.0)], None),
            (&[(100, 2.0), (100, 50.0)], Some(1)),
            (&[(100, 50.0), (100, 2.0), (100, 3.0)], Some(0)),
            (&[(100, 1.0), (100, 5.0), (100, 1.0)], None),
            (&[(100, 100.0), (100, 200.0), (100, 90.0)], None),
            (&[(100, 2.0), (9, 500.0), (100, 3.0)], None),
        ] {
            assert_eq!(slowest(instances), expected, "{instances:?}");
        }
    }
}
