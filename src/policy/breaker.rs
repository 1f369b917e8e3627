//! The circuit breaker of a service: stops calling what keeps failing, and tries it carefully after a while.
//!
//! It is fed by the outcomes of calls, after failover between instances, so one bad instance of several does not open it. The states and
//! words are those of M. Nygard, *Release It!* (2007); that an outcome from before the last change of state is dropped is gobreaker's
//! generation counter.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::classify::Outcome;
use super::window::Window;
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
        /// Share of failed calls within the window that opens the circuit, instead of failures in a row. 0: failures in a row do.
        failure_rate_percent: u32 = 0, in 0, 100;
        /// How far back the window reaches.
        window_ms: Millis = Millis(10_000), in 100, 3_600_000;
        /// With fewer calls than this in the window, no share opens the circuit.
        min_calls: u32 = 20, in 1, 1_000_000;
        /// Share of slow calls within the window that opens the circuit too; a slow trial then counts as failed. 0: slowness does not.
        slow_call_rate_percent: u32 = 0, in 0, 100;
        /// A call that takes longer, retries and waits included, is slow.
        slow_call_ms: Millis = Millis(5_000), in 1, 86_400_000;
    }
}

/// What an operator may order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Refuse every call until told otherwise.
    ForcedOpen,
    /// Let every call through until told otherwise.
    Disabled,
    /// Let the outcomes of calls decide again. What was forced open begins with trials.
    Auto,
    /// Close, forget what was counted, and let the outcomes of calls decide.
    Reset,
}

/// Who decides.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// The outcomes of calls.
    #[default]
    Auto,
    /// An operator: no call passes.
    ForcedOpen,
    /// An operator: every call passes.
    Disabled,
}

impl Control {
    /// As it stands in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::ForcedOpen => "forced_open",
            Self::Disabled => "disabled",
        }
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
    control: Control,
    /// What came of the latest calls while closed, where a share of them decides.
    window: Window,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed { failures: 0 }, generation: 0, control: Control::Auto, window: Window::default() }
    }
}

impl Config {
    const fn goes_by_share(&self) -> bool {
        self.failure_rate_percent > 0 || self.slow_call_rate_percent > 0
    }

    /// Whether so long a call counts as slow.
    fn is_slow(&self, took: Duration) -> bool {
        self.slow_call_rate_percent > 0 && took > self.slow_call_ms.duration()
    }
}

impl Breaker {
    /// Asks for leave to make a call. An open circuit whose time is over becomes half open here.
    ///
    /// # Errors
    /// [`Refused`] while the circuit is open, or half open with all its trials in flight.
    pub fn admit(&mut self, config: &Config, now: Instant) -> (Result<Permit, Refused>, Option<Transition>) {
        match self.control {
            Control::Auto => {}
            Control::ForcedOpen => return (Err(Refused { retry_after: config.timeout_ms.duration() }), None),
            Control::Disabled => return (Ok(Permit { generation: self.generation, trial: false }), None),
        }
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

    /// Takes a permit back with the outcome of its call, which took `took`.
    pub fn record(&mut self, config: &Config, permit: Permit, outcome: Outcome, took: Duration, now: Instant) -> Option<Transition> {
        if permit.generation != self.generation || self.control != Control::Auto {
            return None;
        }
        let slow = config.is_slow(took);
        match &mut self.state {
            State::Closed { failures } => {
                let failed = match outcome {
                    Outcome::Excluded => return None,
                    Outcome::Success => false,
                    Outcome::Failure => true,
                };
                *failures = if failed { *failures + 1 } else { 0 };
                let failures = *failures;
                let in_a_row = config.failure_rate_percent == 0 && failures >= config.failure_threshold;
                if in_a_row || self.is_share(config, failed, slow, now) {
                    return Some(self.change(State::Open { since: now, failures }));
                }
            }
            State::HalfOpen { in_flight, successes, failures } => {
                *in_flight = in_flight.saturating_sub(1);
                match outcome {
                    Outcome::Success if !slow => {
                        *successes += 1;
                        if *successes >= config.success_threshold {
                            return Some(self.change(State::Closed { failures: 0 }));
                        }
                    }
                    Outcome::Success | Outcome::Failure => {
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

    /// Counts a call in the window, if there is one; answers whether too many in it failed or were slow.
    fn is_share(&mut self, config: &Config, failed: bool, slow: bool, now: Instant) -> bool {
        if !config.goes_by_share() {
            return false;
        }
        let counts = self.window.count(config.window_ms.duration(), failed, slow, now);
        let too_many = |part, percent| percent > 0 && counts.is_share(part, percent);
        counts.calls >= config.min_calls
            && (too_many(counts.failures, config.failure_rate_percent) || too_many(counts.slow, config.slow_call_rate_percent))
    }

    /// Does what an operator orders. Answers whether anything changed, and the change of state if there was one.
    pub fn obey(&mut self, order: Order, now: Instant) -> (bool, Option<Transition>) {
        let (failures, before) = (self.view().1, self.control);
        let (control, to) = match (order, before) {
            (Order::ForcedOpen, Control::ForcedOpen) | (Order::Disabled, Control::Disabled) | (Order::Auto, Control::Auto) => {
                return (false, None);
            }
            (Order::ForcedOpen, _) => (Control::ForcedOpen, State::Open { since: now, failures }),
            (Order::Auto, Control::ForcedOpen) => (Control::Auto, State::HalfOpen { in_flight: 0, successes: 0, failures }),
            (Order::Disabled, _) => (Control::Disabled, State::Closed { failures: 0 }),
            (Order::Auto | Order::Reset, _) => (Control::Auto, State::Closed { failures: 0 }),
        };
        self.control = control;
        let transition = self.change(to);
        (true, Some(transition).filter(|transition| transition.from != transition.to))
    }

    /// Who decides.
    pub const fn control(&self) -> Control {
        self.control
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
        self.window = Window::default();
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
            self.breaker.record(&self.config, permit, outcome, Duration::ZERO, self.now);
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

    #[test]
    fn with_a_rate_a_share_of_the_window_opens_it_and_failures_in_a_row_do_not() {
        let mut bench = Bench::new();
        bench.config = Config { failure_rate_percent: 50, min_calls: 10, ..Config::default() };
        for _ in 0..9 {
            bench.call(Outcome::Failure);
        }
        assert_eq!(bench.breaker.view().0, Status::Closed, "too few calls to judge by");
        bench.after(10_000);
        for outcome in [Outcome::Success, Outcome::Failure, Outcome::Excluded].into_iter().cycle().take(13) {
            bench.call(outcome);
            bench.after(100);
        }
        assert_eq!(bench.breaker.view(), (Status::Closed, 0, 0), "nine calls");
        bench.call(Outcome::Failure);
        assert_eq!(bench.breaker.view(), (Status::Open, 1, 0), "half of ten");
    }

    #[test]
    fn slow_calls_open_it_where_they_may_and_a_slow_trial_has_failed() {
        let mut bench = Bench::new();
        bench.config = Config { slow_call_rate_percent: 60, slow_call_ms: Millis(100), min_calls: 5, ..Config::default() };
        let call = |bench: &mut Bench, ms| {
            let permit = bench.admit().expect("admitted");
            bench.breaker.record(&bench.config, permit, Outcome::Success, Duration::from_millis(ms), bench.now)
        };
        for ms in [100, 100, 101, 101] {
            assert_eq!(call(&mut bench, ms), None);
        }
        assert_eq!(call(&mut bench, 500), Some(Transition { from: Status::Closed, to: Status::Open }));
        bench.after(60_000);
        assert_eq!(call(&mut bench, 500), Some(Transition { from: Status::HalfOpen, to: Status::Open }));
        bench.after(60_000);
        assert_eq!(call(&mut bench, 1), None);
        assert_eq!(call(&mut bench, 1), Some(Transition { from: Status::HalfOpen, to: Status::Closed }));
    }

    #[test]
    fn an_operator_opens_closes_and_hands_back() {
        let mut bench = Bench::new();
        let obey = |bench: &mut Bench, order| {
            let (changed, transition) = bench.breaker.obey(order, bench.now);
            (changed, transition.map(|transition| transition.to), bench.breaker.control())
        };
        let under_way = bench.admit().expect("before");
        assert_eq!(obey(&mut bench, Order::ForcedOpen), (true, Some(Status::Open), Control::ForcedOpen));
        assert_eq!(obey(&mut bench, Order::ForcedOpen), (false, None, Control::ForcedOpen));
        bench.after(600_000);
        assert_eq!(bench.admit(), Err(Refused { retry_after: Duration::from_secs(60) }), "time does not end it");
        bench.record(under_way, Outcome::Success);
        assert_eq!(obey(&mut bench, Order::Auto), (true, Some(Status::HalfOpen), Control::Auto));
        assert!(bench.admit().expect("a trial").is_trial());
        assert_eq!(obey(&mut bench, Order::Disabled), (true, Some(Status::Closed), Control::Disabled));
        for _ in 0..100 {
            bench.call(Outcome::Failure);
        }
        assert_eq!(bench.breaker.view(), (Status::Closed, 0, 0));
        assert_eq!(obey(&mut bench, Order::Auto), (true, None, Control::Auto));
        for _ in 0..5 {
            bench.call(Outcome::Failure);
        }
        assert_eq!(bench.breaker.view().0, Status::Open);
        assert_eq!(obey(&mut bench, Order::Reset), (true, Some(Status::Closed), Control::Auto));
        assert_eq!(bench.breaker.view(), (Status::Closed, 0, 0));
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
                        let transition = bench.breaker.record(&bench.config, permit, outcome, Duration::ZERO, bench.now);
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
