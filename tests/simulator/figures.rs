//! What came of the calls of a run.

use std::collections::BTreeMap;
use std::time::Duration;

/// One call that is over.
pub struct Ended {
    pub began: Duration,
    pub took: Duration,
    pub delivered: bool,
    pub reason: Option<&'static str>,
}

/// One attempt that was sent.
pub struct Sent {
    pub at: Duration,
    pub instance: usize,
}

/// All of a run, or of a part of it.
#[derive(Default)]
pub struct Figures {
    pub calls: Vec<Ended>,
    pub attempts: Vec<Sent>,
}

impl Figures {
    pub fn between(&self, from: u64, to: u64) -> Part<'_> {
        let within = move |at: Duration| at >= Duration::from_secs(from) && at < Duration::from_secs(to);
        Part {
            calls: self.calls.iter().filter(|call| within(call.began)).collect(),
            attempts: self.attempts.iter().filter(|sent| within(sent.at)).collect(),
        }
    }

    pub fn from(&self, second: u64) -> Part<'_> {
        self.between(second, u64::MAX)
    }
}

/// The calls that began, and the attempts that were sent, within a time.
pub struct Part<'a> {
    pub calls: Vec<&'a Ended>,
    pub attempts: Vec<&'a Sent>,
}

impl Part<'_> {
    pub fn failed(&self) -> usize {
        self.calls.iter().filter(|call| !call.delivered).count()
    }

    /// Why calls failed, and how many for that reason.
    pub fn reasons(&self) -> BTreeMap<&'static str, usize> {
        let mut reasons = BTreeMap::new();
        for reason in self.calls.iter().filter_map(|call| call.reason) {
            *reasons.entry(reason).or_default() += 1;
        }
        reasons
    }

    pub fn sent_to(&self, instance: usize) -> usize {
        self.attempts.iter().filter(|sent| sent.instance == instance).count()
    }

    /// The share of the attempts that went to an instance.
    pub fn share_of(&self, instance: usize) -> f64 {
        self.sent_to(instance) as f64 / self.attempts.len() as f64
    }

    /// The time in milliseconds that a share of `q` of the calls does not exceed.
    pub fn quantile(&self, q: f64) -> f64 {
        let mut times: Vec<Duration> = self.calls.iter().map(|call| call.took).collect();
        times.sort_unstable();
        let rank = (q * times.len() as f64).ceil() as usize;
        times[rank.clamp(1, times.len()) - 1].as_secs_f64() * 1e3
    }
}
