//! Changes of state, for people: a bounded ring that can be read from any point, and a log line each.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use serde::Serialize;

use crate::model::sync::Locked;
use crate::model::time::Clock;
use crate::model::{InstanceId, ServiceName, on_one_line};

/// How many events are remembered.
const REMEMBERED: usize = 1024;
/// The longest detail, in characters.
const LONGEST: usize = 1024;
/// Events that are logged in one second; more are only counted, so that a storm of them buries nothing else.
const LOGGED_PER_SECOND: u32 = 50;

/// Something that changed.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Event {
    /// Grows by one with each event.
    pub seq: u64,
    /// Milliseconds since the Unix epoch.
    pub at: u64,
    /// What kind of change.
    pub kind: Kind,
    /// The service it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// The instance it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// What happened, for a person.
    pub detail: String,
}

/// The kinds of change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // The words are those of the lexicon.
pub enum Kind {
    Restored,
    Registered,
    Changed,
    Deregistered,
    Expired,
    Healthy,
    Unhealthy,
    Ejected,
    Returned,
    Breaker,
    Panic,
    State,
    Weight,
    Policy,
    Warning,
    Addresses,
    Config,
    Draining,
}

impl Kind {
    /// The word for it, in the log as in JSON.
    const fn word(self) -> &'static str {
        match self {
            Self::Restored => "restored",
            Self::Registered => "registered",
            Self::Changed => "changed",
            Self::Deregistered => "deregistered",
            Self::Expired => "expired",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Ejected => "ejected",
            Self::Returned => "returned",
            Self::Breaker => "breaker",
            Self::Panic => "panic",
            Self::State => "state",
            Self::Weight => "weight",
            Self::Policy => "policy",
            Self::Warning => "warning",
            Self::Addresses => "addresses",
            Self::Config => "config",
            Self::Draining => "draining",
        }
    }

    /// Whether an operator should look: logged as a warning.
    const fn is_trouble(self) -> bool {
        matches!(self, Self::Expired | Self::Unhealthy | Self::Ejected | Self::Breaker | Self::Panic | Self::Warning)
    }
}

/// The ring.
pub struct Events {
    clock: Arc<dyn Clock>,
    /// Guarded: the last events and the number of the next.
    ring: Locked<Ring>,
}

#[derive(Default, Debug)]
struct Ring {
    events: VecDeque<Event>,
    next: u64,
    /// The second in which events were last logged, how many were, and how many since were not.
    second: u64,
    logged: u32,
    silent: u64,
}

impl Ring {
    /// Whether an event at this time is logged, and how many before it were not since the last that was.
    const fn may_log(&mut self, at: u64) -> Option<u64> {
        if self.second != at / 1000 {
            (self.second, self.logged) = (at / 1000, 0);
        }
        if self.logged >= LOGGED_PER_SECOND {
            self.silent += 1;
            return None;
        }
        self.logged += 1;
        let silent = self.silent;
        self.silent = 0;
        Some(silent)
    }
}

/// What [`Events::since`] gives.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Page {
    /// The events after the point that was asked for, oldest first.
    pub events: Vec<Event>,
    /// The point to ask for next.
    pub next: u64,
    /// Events after that point that are no longer remembered.
    pub missed: u64,
}

impl Events {
    /// No events yet; `clock` stamps them.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, ring: Locked::default() }
    }

    /// Remembers and logs an event. Must not be called with a lock held. `detail` may repeat what somebody else has written, and is made fit for
    /// a log.
    pub fn publish(&self, kind: Kind, service: Option<&ServiceName>, instance: Option<&InstanceId>, detail: String) {
        let detail = match on_one_line(&detail, LONGEST) {
            Cow::Owned(changed) => changed,
            Cow::Borrowed(_) => detail,
        };
        let level = if kind.is_trouble() { log::Level::Warn } else { log::Level::Info };
        let at = self.clock.wall_ms();
        let line = log::log_enabled!(level).then(|| {
            let about = match (service, instance) {
                (Some(service), Some(instance)) => format!("{service}/{instance}: "),
                (Some(service), None) => format!("{service}: "),
                _ => String::new(),
            };
            format!("{about}{detail}")
        });
        let (seq, silent) = self.ring.with(|ring| {
            ring.next += 1;
            if ring.events.len() == REMEMBERED {
                ring.events.pop_front();
            }
            ring.events.push_back(Event { seq: ring.next, at, kind, service: service.cloned(), instance: instance.cloned(), detail });
            (ring.next, line.as_ref().and_then(|_| ring.may_log(at)))
        });
        if let Some((line, silent)) = line.zip(silent) {
            let before = if silent > 0 { format!(" silent={silent}") } else { String::new() };
            log::log!(level, "{line} event={} seq={seq}{before}", kind.word());
        }
    }

    /// The number of the last event.
    pub fn last(&self) -> u64 {
        self.ring.with(|ring| ring.next)
    }

    /// How many there have been.
    pub fn count(&self) -> u64 {
        self.ring.with(|ring| ring.next)
    }

    /// The events after number `since` (0: all that are remembered).
    pub fn since(&self, since: u64) -> Page {
        self.ring.with(|ring| {
            let first = ring.events.front().map_or(ring.next + 1, |event| event.seq);
            Page {
                events: ring.events.iter().filter(|event| event.seq > since).cloned().collect(),
                next: ring.next,
                missed: first.saturating_sub(since.saturating_add(1)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_events_is_logged_in_part_and_says_so() {
        let mut ring = Ring::default();
        let logged: Vec<u64> = (0..200).filter_map(|_| ring.may_log(5_000)).collect();
        assert_eq!(logged, [0; LOGGED_PER_SECOND as usize]);
        assert_eq!((ring.may_log(6_000), ring.may_log(6_001)), (Some(200 - u64::from(LOGGED_PER_SECOND)), Some(0)));
    }

    #[test]
    fn what_is_told_stays_on_one_line_and_is_cut() {
        let events = Events::new(Arc::new(crate::model::time::ManualClock::default()));
        events.publish(Kind::Warning, None, None, "a\n[ERROR] \u{9b}31m".to_owned());
        events.publish(Kind::Warning, None, None, "x".repeat(1_000_000));
        let details: Vec<String> = events.since(0).events.into_iter().map(|event| event.detail).collect();
        assert_eq!(details[0], "a\\n[ERROR] \\u{9b}31m");
        assert_eq!(details[1].chars().count(), LONGEST + 1);
    }

    #[test]
    fn the_word_in_the_log_is_the_word_in_json() {
        for kind in [Kind::Restored, Kind::Deregistered, Kind::Breaker, Kind::Draining] {
            assert_eq!(serde_json::to_value(kind).expect("a word"), kind.word());
        }
    }

    #[test]
    fn the_ring_is_bounded_and_says_what_was_missed() {
        let events = Events::new(Arc::new(crate::model::time::ManualClock::default()));
        for _ in 0..1100 {
            events.publish(Kind::Config, None, None, String::new());
        }
        let page = events.since(0);
        assert_eq!((page.events.len(), page.next, page.missed), (1024, 1100, 76));
        assert_eq!(events.since(1099).events.len(), 1);
        assert_eq!(events.since(1100).events.len(), 0);
        assert_eq!(events.since(1100).missed, 0);
        assert_eq!(events.since(u64::MAX).missed, 0);
    }
}
