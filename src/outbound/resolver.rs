//! Host names by the system's resolver, off the calling thread, since it can take as long as it likes.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs, UdpSocket};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use crate::mesh::ports::Resolver;
use crate::model::Host;
use crate::model::sync::Locked;

/// Look-ups under way at once; one more is not begun, and the name counts as not resolved.
const MOST: usize = 32;
/// Of which this many may be for names that have not resolved in time when they were last looked up, or never were,
const MOST_UNPROVEN: usize = 24;
/// and this many for names that have not: whoever registers names that nobody answers for must keep neither those from being resolved that
/// are in use nor those that are new.
const MOST_SILENT: usize = 8;
/// Names that are remembered; there are seldom more.
const MOST_REMEMBERED: usize = 4_096;

/// The system's resolver (hosts file, DNS). `localhost` is both loopback addresses, without asking (RFC 6761 §6.3).
#[derive(Clone, Default, Debug)]
pub struct SystemResolver {
    state: Arc<Locked<State>>,
}

/// Guarded by the resolver's lock, which nobody holds while a name is looked up.
#[derive(Default, Debug)]
struct State {
    busy: usize,
    unproven: usize,
    silent: usize,
    /// Whether names resolved in time when they were last looked up.
    names: HashMap<Box<str>, bool>,
}

impl Resolver for SystemResolver {
    fn resolve(&self, host: &Host, patience: Duration) -> Vec<IpAddr> {
        match host {
            Host::Ip(ip) => vec![*ip],
            Host::Name(name) if name.eq_ignore_ascii_case("localhost") => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            Host::Name(name) => self.look_up(name, patience, ask_system).unwrap_or_default(),
        }
    }

    fn is_local(&self, ip: IpAddr) -> bool {
        // Only addresses of this machine can be bound to. Nothing is sent.
        ip.is_loopback() || may_be_ours(UdpSocket::bind((ip, 0)))
    }
}

impl SystemResolver {
    fn look_up(&self, name: &str, patience: Duration, ask: impl FnOnce(&str) -> Vec<IpAddr> + Send + 'static) -> Option<Vec<IpAddr>> {
        let busy = Busy::take(&self.state, name)?;
        let (answer, wait) = mpsc::sync_channel(1);
        let asked = name.to_owned();
        let look_up = move || {
            let found = ask(&asked);
            drop(busy);
            // Nobody waits any longer: the answer came too late.
            let _ = answer.send(found);
        };
        thread::Builder::new().name("weft-resolve".to_owned()).spawn(look_up).ok()?;
        let found = wait.recv_timeout(patience).ok();
        // That there is no such name says nothing about how long it takes to be told.
        if found.as_ref().is_none_or(|found| !found.is_empty()) {
            self.state.with(|state| state.note(name, found.is_some()));
        }
        found
    }
}

fn ask_system(name: &str) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = (name, 0).to_socket_addrs().map(|all| all.map(|a| a.ip()).collect()).unwrap_or_default();
    found.dedup();
    found
}

impl State {
    /// Remembers whether a name resolved in time.
    fn note(&mut self, name: &str, in_time: bool) {
        if let Some(known) = self.names.get_mut(name) {
            *known = in_time;
            return;
        }
        if self.names.len() >= MOST_REMEMBERED {
            // Who is in use is soon known again.
            self.names.clear();
        }
        self.names.insert(name.into(), in_time);
    }
}

/// Whether an address that was tried to be bound to may be one of this machine. While the system has no descriptor left to try it with, for
/// which somebody may have seen, every address may be.
fn may_be_ours(tried: io::Result<UdpSocket>) -> bool {
    tried.map_or_else(|error| error.kind() != io::ErrorKind::AddrNotAvailable, |_| true)
}

/// One look-up under way.
struct Busy {
    state: Arc<Locked<State>>,
    unproven: usize,
    silent: usize,
}

impl Busy {
    fn take(all: &Arc<Locked<State>>, name: &str) -> Option<Self> {
        let (unproven, silent) = all.with(|state| {
            let (unproven, silent) = match state.names.get(name) {
                Some(true) => (0, 0),
                None => (1, 0),
                Some(false) => (1, 1),
            };
            let (busy, with_it, of_them) = (state.busy + 1, state.unproven + unproven, state.silent + silent);
            if busy > MOST || unproven > 0 && with_it > MOST_UNPROVEN || silent > 0 && of_them > MOST_SILENT {
                return None;
            }
            (state.busy, state.unproven, state.silent) = (busy, with_it, of_them);
            Some((unproven, silent))
        })?;
        Some(Self { state: Arc::clone(all), unproven, silent })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.state.with(|state| {
            state.busy = state.busy.saturating_sub(1);
            state.unproven = state.unproven.saturating_sub(self.unproven);
            state.silent = state.silent.saturating_sub(self.silent);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_localhost_need_no_look_up() {
        let resolver = SystemResolver::default();
        let resolve = |host: &str| resolver.resolve(&Host::new(host).expect(host), Duration::ZERO);
        assert_eq!(resolve("10.0.0.1"), ["10.0.0.1".parse::<IpAddr>().expect("ip")]);
        assert_eq!(resolve("LocalHost").len(), 2);
    }

    #[test]
    fn names_that_nobody_answers_for_keep_no_name_from_being_resolved_that_has_been() {
        let (resolver, long) = (SystemResolver::default(), Duration::from_secs(30));
        let answer = |_: &str| vec![Ipv4Addr::LOCALHOST.into()];
        assert!(resolver.look_up("known.test", long, answer).is_some());
        let busy = || resolver.state.with(|state| state.busy);
        for is_first in [true, false] {
            let (over, wait) = crossbeam_channel::bounded::<()>(0);
            // The second time they have been silent before.
            for n in 0..MOST_UNPROVEN {
                let wait = wait.clone();
                let silent = move |_: &str| wait.recv().map_or_else(|_| Vec::new(), |()| Vec::new());
                assert_eq!(resolver.look_up(&format!("silent{n}.test"), Duration::ZERO, silent), None);
            }
            assert_eq!(busy(), if is_first { MOST_UNPROVEN } else { MOST_SILENT });
            for n in 0..100 {
                assert!(resolver.look_up("known.test", long, answer).is_some());
                assert_eq!(resolver.look_up(&format!("new{n}.test"), long, answer).is_some(), !is_first);
            }
            drop((over, wait));
            while busy() > 0 {
                thread::yield_now();
            }
        }
        assert!(resolver.look_up("silent0.test", long, answer).is_some(), "nothing is held against a name for ever");
    }

    #[test]
    fn an_address_that_cannot_be_tried_may_be_one_of_this_machine() {
        let resolver = SystemResolver::default();
        assert!(resolver.is_local([127, 0, 0, 9].into()));
        assert!(!resolver.is_local([192, 0, 2, 1].into()), "an address for documentation");
        // As Linux and macOS number it: too many open files.
        const EMFILE: i32 = 24;
        assert!(may_be_ours(Err(io::Error::from_raw_os_error(EMFILE))));
    }

    #[test]
    fn a_name_that_does_not_exist_has_no_address() {
        assert!(SystemResolver::default().resolve(&Host::new("does-not-exist.invalid").expect("name"), Duration::from_secs(30)).is_empty());
    }
}
