//! Deadlines of many connections in one heap, without a system call and mostly without work.
//!
//! A connection's deadline moves with every request, almost always to later. So it is kept beside the connection, and the heap only holds
//! when to look at it next: moving a deadline to later touches nothing, and a look that comes too early is put off to the real one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::slots::Key;

/// A deadline in milliseconds since the loop began; at most one of these per connection matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Tick(u64);

impl Tick {
    /// Never.
    pub(super) const NEVER: Self = Self(u64::MAX);

    /// So much earlier, in whole milliseconds.
    pub(super) fn before(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// When a connection must be looked at, and when the heap will do so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alarm {
    pub(super) deadline: Tick,
    armed: Tick,
}

impl Default for Alarm {
    fn default() -> Self {
        Self { deadline: Tick::NEVER, armed: Tick::NEVER }
    }
}

/// The heap.
pub(super) struct Timers {
    origin: Instant,
    heap: BinaryHeap<Reverse<(Tick, u64)>>,
}

impl Timers {
    pub(super) const fn new(origin: Instant) -> Self {
        Self { origin, heap: BinaryHeap::new() }
    }

    /// The tick at or just after `instant`.
    pub(super) fn tick(&self, instant: Instant) -> Tick {
        let since = instant.saturating_duration_since(self.origin);
        Tick(since.as_secs().saturating_mul(1000).saturating_add(u64::from(since.subsec_nanos().div_ceil(1_000_000))))
    }

    /// Sets the deadline of `key`.
    pub(super) fn set(&mut self, alarm: &mut Alarm, key: Key, at: Tick) {
        alarm.deadline = at;
        if at < alarm.armed {
            alarm.armed = at;
            self.heap.push(Reverse((at, key.bits())));
        }
    }

    /// The last tick that has come by `now`: the same for all that began together.
    pub(super) fn past(&self, now: Instant) -> Tick {
        let since = now.saturating_duration_since(self.origin);
        Tick(since.as_secs().saturating_mul(1000).saturating_add(u64::from(since.subsec_millis())))
    }

    /// The next one to look at whose time has come.
    pub(super) fn due(&mut self, past: Tick) -> Option<(Tick, Key)> {
        let Reverse((tick, _)) = self.heap.peek()?;
        if *tick > past {
            return None;
        }
        self.heap.pop().map(|Reverse((tick, bits))| (tick, Key::of_bits(bits)))
    }

    /// Whether the deadline that was looked at has passed; if it has moved, it is looked at again then.
    pub(super) fn is_over(&mut self, alarm: &mut Alarm, key: Key, looked_at: Tick) -> bool {
        if looked_at != alarm.armed {
            // Another look is due, earlier or later; this one is left over from before.
            return false;
        }
        alarm.armed = Tick::NEVER;
        if alarm.deadline <= looked_at {
            alarm.deadline = Tick::NEVER;
            return true;
        }
        if alarm.deadline < Tick::NEVER {
            self.set(alarm, key, alarm.deadline);
        }
        false
    }

    /// How long nothing is due, or up to a millisecond longer.
    pub(super) fn quiet(&self, past: Tick) -> Option<Duration> {
        let Reverse((tick, _)) = self.heap.peek()?;
        Some(Duration::from_millis(tick.0.saturating_sub(past.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::slots::Slots;
    use super::*;

    #[test]
    fn a_deadline_that_moves_is_looked_at_once_when_it_has_passed() {
        let origin = Instant::now();
        let at = |ms: u64| origin + Duration::from_millis(ms);
        let mut timers = Timers::new(origin);
        let mut slots = Slots::new();
        let key = slots.insert(());
        let mut alarm = Alarm::default();
        let tick = timers.tick(at(10));
        timers.set(&mut alarm, key, tick);
        let later = timers.tick(at(50));
        timers.set(&mut alarm, key, later);
        assert_eq!(timers.quiet(timers.past(origin)), Some(Duration::from_millis(10)), "the look stays where it was");
        let mut over = Vec::new();
        for ms in 0..100 {
            while let Some((tick, key)) = timers.due(timers.past(at(ms))) {
                over.extend(timers.is_over(&mut alarm, key, tick).then_some(ms));
            }
        }
        assert_eq!(over, [50]);
        assert_eq!(timers.quiet(timers.past(at(100))), None);
    }

    #[test]
    fn a_deadline_that_moves_forward_is_looked_at_then_and_the_old_look_means_nothing() {
        let origin = Instant::now();
        let at = |ms: u64| origin + Duration::from_millis(ms);
        let mut timers = Timers::new(origin);
        let key = Slots::new().insert(());
        let mut alarm = Alarm::default();
        for ms in [50, 20] {
            let tick = timers.tick(at(ms));
            timers.set(&mut alarm, key, tick);
        }
        let mut over = Vec::new();
        for ms in 0..100 {
            while let Some((tick, key)) = timers.due(timers.past(at(ms))) {
                over.extend(timers.is_over(&mut alarm, key, tick).then_some(ms));
            }
            if ms == 30 {
                let tick = timers.tick(at(60));
                timers.set(&mut alarm, key, tick);
            }
        }
        assert_eq!(over, [20, 60]);
    }
}
