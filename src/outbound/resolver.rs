//! Host names by the system's resolver, off the calling thread, since it can take as long as it likes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::mesh::ports::Resolver;
use crate::model::Host;

/// Look-ups under way at once; one more is not begun, and the name counts as not resolved.
const MOST: usize = 32;

/// The system's resolver (hosts file, DNS). `localhost` is both loopback addresses, without asking (RFC 6761 §6.3).
#[derive(Clone, Default, Debug)]
pub struct SystemResolver {
    busy: Arc<AtomicUsize>,
}

impl Resolver for SystemResolver {
    fn resolve(&self, host: &Host, patience: Duration) -> Vec<IpAddr> {
        match host {
            Host::Ip(ip) => vec![*ip],
            Host::Name(name) if name.eq_ignore_ascii_case("localhost") => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            Host::Name(name) => self.look_up(name, patience).unwrap_or_default(),
        }
    }

    fn is_local(&self, ip: IpAddr) -> bool {
        // Only addresses of this machine can be bound to. Nothing is sent.
        ip.is_loopback() || may_be_ours(UdpSocket::bind((ip, 0)))
    }
}

impl SystemResolver {
    fn look_up(&self, name: &str, patience: Duration) -> Option<Vec<IpAddr>> {
        let busy = Busy::take(&self.busy)?;
        let (answer, wait) = mpsc::sync_channel(1);
        let name = name.to_owned();
        let look_up = move || {
            let _busy = busy;
            let mut found: Vec<IpAddr> = (name.as_str(), 0).to_socket_addrs().map(|all| all.map(|a| a.ip()).collect()).unwrap_or_default();
            found.dedup();
            // Nobody waits any longer: the answer came too late.
            let _ = answer.send(found);
        };
        thread::Builder::new().name("weft-resolve".to_owned()).spawn(look_up).ok()?;
        wait.recv_timeout(patience).ok()
    }
}

/// Whether an address that was tried to be bound to may be one of this machine. While the system has no descriptor left to try it with, for
/// which somebody may have seen, every address may be.
fn may_be_ours(tried: io::Result<UdpSocket>) -> bool {
    tried.map_or_else(|error| error.kind() != io::ErrorKind::AddrNotAvailable, |_| true)
}

/// One look-up under way.
struct Busy(Arc<AtomicUsize>);

impl Busy {
    fn take(count: &Arc<AtomicUsize>) -> Option<Self> {
        let busy = Self(Arc::clone(count));
        (busy.0.fetch_add(1, Ordering::SeqCst) < MOST).then_some(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
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
