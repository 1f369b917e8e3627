//! Changes of state, for people: a bounded ring that can be read from any point, and a log line each.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::Serialize;

use crate::model::sync::Locked;
use crate::model::time::Clock;
use crate::model::{InstanceId, ServiceName};

/// How many events are remembered.
const REMEMBERED: usize = 1024;

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

    /// Remembers and logs an event. Must not be called with a lock held.
    pub fn publish(&self, kind: Kind, service: Option<&ServiceName>, instance: Option<&InstanceId>, detail: String) {
        let level = if kind.is_trouble() { log::Level::Warn } else { log::Level::Info };
        if log::log_enabled!(level) {
            let about = match (service, instance) {
                (Some(service), Some(instance)) => format!("{service}/{instance}: "),
                (Some(service), None) => format!("{service}: "),
                _ => String::new(),
            };
            log::log!(level, "{about}{detail}");
        }
        let at = self.clock.wall_ms();
        self.ring.with(|ring| {
            ring.next += 1;
            if ring.events.len() == REMEMBERED {
                ring.events.pop_front();
            }
            ring.events.push_back(Event { seq: ring.next, at, kind, service: service.cloned(), instance: instance.cloned(), detail });
        });
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
