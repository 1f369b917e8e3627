//! How an instance behaves.

use std::time::Duration;

use weft::model::time::{Dice, SeededDice, fraction};
use weft::model::{ConnectFailure, Failure};

/// How long an answer takes.
#[derive(Clone, Copy)]
pub enum Latency {
    /// Always the same, in milliseconds.
    Fixed(f64),
    /// Log-normal, as the times of real services are: the median in milliseconds and the deviation of the logarithm.
    LogNormal(f64, f64),
}

/// What it does with a request at the moment.
#[derive(Clone, Copy, PartialEq)]
pub enum Mood {
    Well,
    /// Answers 500 within half a millisecond.
    FailsFast,
    /// Nobody listens.
    Down,
}

/// What comes of a request, and when.
pub enum Outcome {
    Answer(u16),
    Failed(Failure),
}

/// A scripted instance.
pub struct Instance {
    pub latency: Latency,
    pub mood: Mood,
    /// Requests it can work on at once; the others wait for their turn.
    pub room: Option<usize>,
    /// Requests after which it is warm, and how many times as long the first one takes.
    pub cold: Option<(u32, f64)>,
    served: u32,
    /// When each of its workers is free again.
    busy_until: Vec<Duration>,
}

impl Instance {
    pub fn new(latency: Latency) -> Self {
        Self { latency, mood: Mood::Well, room: None, cold: None, served: 0, busy_until: Vec::new() }
    }

    /// With room for so many requests at once.
    pub fn with_room(self, requests: usize) -> Self {
        Self { room: Some(requests), ..self }
    }

    /// Slow at first: so many times as slow, until it has served so many requests.
    pub fn cold(self, requests: u32, times: f64) -> Self {
        Self { cold: Some((requests, times)), ..self }
    }

    /// What comes of a request that arrives at `now`, and how long that takes.
    pub fn serve(&mut self, now: Duration, dice: &SeededDice) -> (Duration, Outcome) {
        match self.mood {
            Mood::Well => {}
            Mood::FailsFast => return (Duration::from_micros(500), Outcome::Answer(500)),
            Mood::Down => return (Duration::from_micros(200), Outcome::Failed(Failure::Connect(ConnectFailure::Refused))),
        }
        let mut ms = match self.latency {
            Latency::Fixed(ms) => ms,
            Latency::LogNormal(median, deviation) => median * (deviation * normal(dice)).exp(),
        };
        if let Some((requests, times)) = self.cold {
            let warmth = f64::from(self.served.min(requests)) / f64::from(requests);
            ms *= times + (1.0 - times) * warmth;
        }
        self.served += 1;
        let work = Duration::from_secs_f64(ms / 1e3);
        let Some(room) = self.room else { return (work, Outcome::Answer(200)) };
        self.busy_until.resize(room, Duration::ZERO);
        let worker = self.busy_until.iter_mut().min().expect("room for one at least");
        *worker = (*worker).max(now) + work;
        (*worker - now, Outcome::Answer(200))
    }
}

/// A number of the standard normal distribution (Box and Muller, 1958).
fn normal(dice: &SeededDice) -> f64 {
    let (one, other) = (1.0 - fraction(dice.roll()), fraction(dice.roll()));
    (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos()
}

/// A time between two arrivals that come independently of each other, so many a second on average.
pub fn gap(per_second: f64, dice: &SeededDice) -> Duration {
    Duration::from_secs_f64(-(1.0 - fraction(dice.roll())).ln() / per_second)
}
