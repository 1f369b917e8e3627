//! Host names by the system's resolver, off the calling thread, since it can take as long as it likes.

use std::collections::HashSet;
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
/// Of which names may be this many that did not resolve in time when they were last looked up, or never were: whoever registers names that
/// nobody answers for must not keep those from being resolved that are in use.
const MOST_STRANGERS: usize = MOST / 2;
/// Names that are remembered to have resolved; there are seldom more.
const MOST_KNOWN: usize = 4_096;

/// The system's resolver (hosts file, DNS). `localhost` is both loopback addresses, without asking (RFC 6761 §6.3).
#[derive(Clone, Default, Debug)]
pub struct SystemResolver {
    state: Arc<Locked<State>>,
}

/// Guarded by the resolver's lock, which nobody holds while a name is looked up.
#[derive(Default, Debug)]
struct State {
    busy: usize,
    strangers: usize,
    /// Names that resolved in time when they were last looked up.
    known: HashSet<Box<str>>,
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
        self.state.with(|state| state.note(name, found.as_ref().map(|found| !found.is_empty())));
        found
    }
}

fn ask_system(name: &str) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = (name, 0).to_socket_addrs().map(|all| all.map(|a| a.ip()).collect()).unwrap_or_default();
    found.dedup();
    found
}

impl State {
    /// Remembers whether a name resolved; `None`: not in time.
    fn note(&mut self, name: &str, resolved: Option<bool>) {
        match resolved {
            Some(true) if !self.known.contains(name) => {
                if self.known.len() >= MOST_KNOWN {
                    // Who is in use is soon known again.
                    self.known.clear();
                }
                self.known.insert(name.into());
            }
            Some(_) => {}
            None => {
                self.known.remove(name);
            }
        }
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
    is_stranger: bool,
}

impl Busy {
    fn take(all: &Arc<Locked<State>>, name: &str) -> Option<Self> {
        let is_stranger = all.with(|state| {
            let is_stranger = !state.known.contains(name);
            if state.busy >= MOST || is_stranger && state.strangers >= MOST_STRANGERS {
                return None;
            }
            state.busy += 1;
            state.strangers += usize::from(is_stranger);
            Some(is_stranger)
        })?;
        Some(Self { state: Arc::clone(all), is_stranger })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.state.with(|state| {
            state.busy = state.busy.saturating_sub(1);
            state.strangers = state.strangers.saturating_sub(usize::from(self.is_stranger));
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
        let (over, wait) = crossbeam_channel::bounded::<()>(0);
        for n in 0..100 {
            let wait = wait.clone();
            let silent = move |_: &str| wait.recv().map_or_else(|_| Vec::new(), |()| Vec::new());
            assert_eq!(resolver.look_up(&format!("silent{n}.test"), Duration::ZERO, silent), None);
        }
        assert_eq!(resolver.state.with(|state| state.busy), MOST_STRANGERS);
        assert_eq!(resolver.look_up("unknown.test", long, answer), None, "all places of strangers are taken");
        for _ in 0..100 {
            assert!(resolver.look_up("known.test", long, answer).is_some());
        }
        drop((over, wait));
        while resolver.state.with(|state| state.busy) > 0 {
            thread::yield_now();
        }
        assert!(resolver.look_up("unknown.test", long, answer).is_some());
    }

    #[test]
    fn an_address_that_cannot_be_tried_may_be_one_of_this_machine() {
        let resolver = SystemResolver::default();
        assert!(resolver.is_local([127, 0, 0, 9].into()));
        assert!(!resolver.is_local([192, 0, 2, 1].into()), "an address for documentation");
        assert!(may_be_ours(Err(rustix::io::Errno::MFILE.into())));
    }

    #[test]
    fn a_name_that_does_not_exist_has_no_address() {
        assert!(SystemResolver::default().resolve(&Host::new("does-not-exist.invalid").expect("name"), Duration::from_secs(30)).is_empty());
    }
}
