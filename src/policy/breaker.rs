//! The circuit breaker of a service: stops calling what keeps failing, and tries it carefully after a while.
//!
//! It is fed by the outcomes of calls, after failover between instances, so one bad instance of several does not open it. The states and
//! words are those of M. Nygard, *Release It!* (2007); that an outcome from before the last change of state is dropped is gobreaker's
//! generation counter.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::classify::Outcome;
use crate::model::settings::{Millis, settings};

settings! {
    /// Settings of the circuit breaker.
    pub struct Config {
        /// Failed calls in a row that open the circuit.
        failure_threshold: u32 = 5, in 1, 1_000_000;
        /// Successful trial calls that close it again.
        success_threshold: u32 = 2, in 1, 1_000_000;
        /// How long the circuit stays open before trial calls are let through.
        timeout_ms: Millis = Millis(60_000), in 1, 86_400_000;
        /// Trial calls in flight at once while half open.
        half_open_max_calls: u32 = 2, in 1, 1_000_000;
    }
}

/// The documented states.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// Calls flow.
    Closed,
    /// Calls are refused.
    Open,
    /// A few trial calls flow.
    HalfOpen,
}

impl Status {
    /// As it stands in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "CLOSED",
            Self::Open => "OPEN",
            Self::HalfOpen => "HALF_OPEN",
        }
    }
}

/// A change of state: what there is to log and to count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transition {
    /// Before.
    pub from: Status,
    /// After.
    pub to: Status,
}

/// Leave to make one call. Must be given back with its outcome, once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a permit that is not given back blocks a trial for ever"]
pub struct Permit {
    generation: u64,
    trial: bool,
}

impl Permit {
    /// A trial call has one attempt only.
    pub const fn is_trial(self) -> bool {
        self.trial
    }
}

/// The call is refused until `retry_after` has passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Time to the next trial; at least a millisecond.
    pub retry_after: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Closed { failures: u32 },
    Open { since: Instant, failures: u32 },
    HalfOpen { in_flight: u32, successes: u32, failures: u32 },
}

/// The machine. Guarded by its owner.
#[derive(Clone, Debug)]
pub struct Breaker {
    state: State,
    /// Counts changes of state; a permit from an earlier generation changes nothing.
    generation: u64,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed { failures: 0 }, generation: 0 }
    }
}

impl Breaker {
    /// Asks for leave to make a call. An open circuit whose time is over becomes half open here.
    ///
    /// # Errors
    /// [`Refused`] while the circuit is open, or half open with all its trials in flight.
    pub fn admit(&mut self, config: &Config, now: Instant) -> (Result<Permit, Refused>, Option<Transition>) {
        let mut transition = None;
        if let State::Open { since, failures } = self.state {
            let open_for = now.saturating_duration_since(since);
            if let Some(retry_after) = config.timeout_ms.duration().checked_sub(open_for).filter(|left| !left.is_zero()) {
                return (Err(Refused { retry_after: retry_after.max(Duration::from_millis(1)) }), None);
            }
            transition = Some(self.change(State::HalfOpen { in_flight: 0, successes: 0, failures }));
        }
        let trial = match &mut self.state {
            State::HalfOpen { in_flight, .. } if *in_flight >= config.half_open_max_calls => {
                return (Err(Refused { retry_after: Duration::from_secs(1) }), transition);
            }
            State::HalfOpen { in_flight, .. } => {
                *in_flight += 1;
                true
            }
            State::Closed { .. } | State::Open { .. } => false,
        };
        (Ok(Permit { generation: self.generation, trial }), transition)
    }

    /// Takes a permit back with the outcome of its call.
    pub fn record(&mut self, config: &Config, permit: Permit, outcome: Outcome, now: Instant) -> Option<Transition> {
        if permit.generation != self.generation {
            return None;
        }
        match &mut self.state {
            State::Closed { failures } => match outcome {
                Outcome::Success => *failures = 0,
                Outcome::Failure => {
                    *failures += 1;
                    let failures = *failures;
                    if failures >= config.failure_threshold {
                        return Some(self.change(State::Open { since: now, failures }));
                    }
                }
                Outcome::Excluded => {}
            },
            State::HalfOpen { in_flight, successes, failures } => {
                *in_flight = in_flight.saturating_sub(1);
                match outcome {
                    Outcome::Success => {
                        *successes += 1;
                        if *successes >= config.success_threshold {
                            return Some(self.change(State::Closed { failures: 0 }));
                        }
                    }
                    Outcome::Failure => {
                        let failures = *failures;
                        return Some(self.change(State::Open { since: now, failures }));
                    }
                    Outcome::Excluded => {}
                }
            }
            // A permit of this generation cannot exist: opening began a new one and admits nobody.
            State::Open { .. } => {}
        }
        None
    }

    /// Whether a call that is under way must not be retried: the circuit opened meanwhile.
    pub const fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// The documented view: status, failures in a row (those that opened it while it is open), successful trials.
    pub const fn view(&self) -> (Status, u32, u32) {
        match self.state {
            State::Closed { failures } => (Status::Closed, failures, 0),
            State::Open { failures, .. } => (Status::Open, failures, 0),
            State::HalfOpen { successes, failures, .. } => (Status::HalfOpen, failures, successes),
        }
    }

    fn change(&mut self, to: State) -> Transition {
        let from = self.view().0;
        self.state = to;
        self.generation += 1;
        Transition { from, to: self.view().0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::{Dice, SeededDice};

    struct Bench {
        breaker: Breaker,
        config: Config,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self { breaker: Breaker::default(), config: Config::default(), now: Instant::now() }
        }

        fn admit(&mut self) -> Result<Permit, Refused> {
            self.breaker.admit(&self.config, self.now).0
        }

        fn record(&mut self, permit: Permit, outcome: Outcome) {
            self.breaker.record(&self.config, permit, outcome, self.now);
        }

        fn call(&mut self, outcome: Outcome) {
            let permit = self.admit().expect("admitted");
            self.record(permit, outcome);
        }

        fn after(&mut self, ms: u64) {
            self.now += Duration::from_millis(ms);
        }

        fn opened() -> Self {
            let mut bench = Self::new();
            for _ in 0..5 {
                bench.call(Outcome::Failure);
            }
            bench
        }
    }

    #[test]
    fn five_failures_in_a_row_open_it_and_a_success_starts_the_count_again() {
        let mut bench = Bench::new();
        for outcome in [Outcome::Failure; 4] {
            bench.call(outcome);
        }
        bench.call(Outcome::Success);
        for outcome in [Outcome::Failure; 4] {
            bench.call(outcome);
        }
        assert_eq!(bench.breaker.view(), (Status::Closed, 4, 0));
        bench.call(Outcome::Failure);
        assert_eq!(bench.breaker.view(), (Status::Open, 5, 0));
    }

    #[test]
    fn excluded_outcomes_neither_count_nor_reset() {
        let mut bench = Bench::new();
        for outcome in [Outcome::Failure, Outcome::Failure, Outcome::Excluded, Outcome::Failure, Outcome::Failure, Outcome::Failure] {
            bench.call(outcome);
        }
        assert_eq!(bench.breaker.view().0, Status::Open);
    }

    #[test]
    fn open_refuses_until_its_time_is_over_and_says_how_long() {
        let mut bench = Bench::opened();
        assert_eq!(bench.admit(), Err(Refused { retry_after: Duration::from_secs(60) }));
        bench.after(59_000);
        assert_eq!(bench.admit(), Err(Refused { retry_after: Duration::from_secs(1) }));
        bench.after(1_000);
        let (permit, transition) = bench.breaker.admit(&bench.config, bench.now);
        assert!(permit.expect("trial").is_trial());
        assert_eq!(transition, Some(Transition { from: Status::Open, to: Status::HalfOpen }));
    }

    #[test]
    fn half_open_lets_two_trials_through_and_two_successes_close_it_with_zero_counts() {
        let mut bench = Bench::opened();
        bench.after(60_000);
        let (first, second) = (bench.admit().expect("first"), bench.admit().expect("second"));
        assert!(bench.admit().is_err());
        bench.record(first, Outcome::Success);
        assert_eq!(bench.breaker.view(), (Status::HalfOpen, 5, 1));
        bench.record(second, Outcome::Success);
        assert_eq!(bench.breaker.view(), (Status::Closed, 0, 0));
    }

    #[test]
    fn one_failed_trial_opens_it_for_another_full_time() {
        let mut bench = Bench::opened();
        bench.after(60_000);
        bench.call(Outcome::Success);
        bench.call(Outcome::Failure);
        assert_eq!(bench.admit(), Err(Refused { retry_after: Duration::from_secs(60) }));
        assert_eq!(bench.breaker.view(), (Status::Open, 5, 0));
    }

    #[test]
    fn a_trial_given_back_without_an_outcome_makes_room_for_another() {
        let mut bench = Bench::opened();
        bench.after(60_000);
        for _ in 0..100 {
            bench.call(Outcome::Excluded);
        }
        assert_eq!(bench.breaker.view().0, Status::HalfOpen);
    }

    #[test]
    fn outcomes_of_calls_from_before_the_last_change_are_dropped() {
        let mut bench = Bench::new();
        let old = bench.admit().expect("before");
        for _ in 0..5 {
            bench.call(Outcome::Failure);
        }
        bench.after(60_000);
        let trial = bench.admit().expect("trial");
        bench.record(old, Outcome::Failure);
        assert_eq!(bench.breaker.view().0, Status::HalfOpen);
        bench.record(trial, Outcome::Success);
        assert_eq!(bench.breaker.view(), (Status::HalfOpen, 5, 1));
    }

    /// Whatever happens in whatever order: trials in flight never exceed the limit, an open circuit admits nobody before its time, and
    /// once all permits are back and the time is over, somebody is admitted.
    #[test]
    fn no_order_of_events_leaks_a_permit_or_over_admits() {
        for seed in 0..500 {
            let dice = SeededDice::new(seed);
            let mut bench = Bench::new();
            let mut out: Vec<(u64, Permit)> = Vec::new();
            let mut opened_at: Option<Instant> = None;
            for _ in 0..300 {
                match dice.roll() % 4 {
                    0 | 1 => {
                        let (permit, _) = bench.breaker.admit(&bench.config, bench.now);
                        if let (Ok(_), Some(opened)) = (permit, opened_at)
                            && bench.breaker.view().0 == Status::HalfOpen
                        {
                            assert!(bench.now - opened >= Duration::from_secs(60), "seed {seed}");
                        }
                        out.extend(permit.ok().map(|permit| (bench.breaker.generation, permit)));
                    }
                    2 if !out.is_empty() => {
                        let at = usize::try_from(dice.roll()).expect("64 bits") % out.len();
                        let (_, permit) = out.swap_remove(at);
                        let outcome = [Outcome::Success, Outcome::Failure, Outcome::Excluded][(dice.roll() % 3) as usize];
                        let transition = bench.breaker.record(&bench.config, permit, outcome, bench.now);
                        if transition.is_some_and(|t| t.to == Status::Open) {
                            opened_at = Some(bench.now);
                        }
                    }
                    _ => bench.after(dice.roll() % 20_000),
                }
                let trials = out.iter().filter(|(generation, p)| p.is_trial() && *generation == bench.breaker.generation).count();
                assert!(trials <= 2, "seed {seed}: {trials} trials in flight");
            }
            for (_, permit) in out {
                bench.record(permit, Outcome::Excluded);
            }
            bench.after(60_000);
            assert!(bench.admit().is_ok(), "seed {seed}: stuck in {:?}", bench.breaker);
        }
    }
}
