//! Long polls: questions that wait here, where that costs no thread, until there is something new to say.

use super::client::Client;
use super::exchange::{Exchange, Flow, Goal, Task};
use super::reactor::Loop;
use super::shared::Watcher;
use super::slots::Key;
use super::timers::Tick;
use crate::contract::answer::ApiError;
use crate::contract::paths;
use crate::model::Limit;

/// A long poll.
pub(super) struct Watch {
    service: String,
    seen: u64,
    _counted: Watcher,
}

impl Loop {
    /// A request for the API server, unless it is to wait for a change first, or to watch calls.
    pub(super) fn begin_api(&mut self, key: Key, client: &mut Client, exchange: &mut Exchange) -> Flow {
        if let Some(parameters) = paths::tapped(exchange.request.method(), exchange.request.target()) {
            return self.begin_tap(key, client, exchange, &parameters);
        }
        let Some((service, seen, wait)) = paths::watched(exchange.request.method(), exchange.request.target()) else {
            return self.hand_over(key, client, exchange, None);
        };
        let Some(counted) = Watcher::new(&self.shared) else {
            self.counters().refused_watchers.add(1);
            return self.refuse(client, exchange, ApiError::Full(Limit::Watchers));
        };
        client.until = self.timers.tick(self.now + wait);
        self.look_again(key, client, exchange, Watch { service, seen, _counted: counted })
    }

    /// Has the API server answer a long poll once there is something new, or no time left.
    pub(super) fn look_again(&mut self, key: Key, client: &mut Client, exchange: &mut Exchange, watch: Watch) -> Flow {
        let wake = self.wake(key);
        let mesh = &self.shared.mesh;
        let is_over = self.hurried || client.until <= self.timers.tick(self.now);
        if !is_over && mesh.watch_with(&watch.service, watch.seen, &wake) == Some(watch.seen) {
            exchange.task = Task::Watch(watch);
            return Flow::Wait;
        }
        mesh.unwatch(&watch.service, &wake);
        client.until = Tick::NEVER;
        // Meanwhile its token may have been taken away.
        if let Err(why) = self.identify(client, exchange, Goal::Api) {
            return self.turn_away(client, exchange, why);
        }
        self.hand_over(key, client, exchange, None)
    }

    /// The caller has gone.
    pub(super) fn abandon_watch(&self, key: Key, watch: &Watch) {
        self.shared.mesh.unwatch(&watch.service, &self.wake(key));
    }
}
