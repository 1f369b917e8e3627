//! What systemd is told, when it is that which started the program: ready, reloading, stopping, and that all goes on (`sd_notify(3)`, which
//! is one datagram to a socket named in the environment).

use std::env;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::model::time::{Clock, SystemClock};

/// Who started the program and wants to know how it does; often nobody.
pub(super) struct Supervisor {
    socket: Option<UnixDatagram>,
    /// How often it wants to hear that all goes on.
    interval: Option<Duration>,
}

/// Who wants to hear it more often does not.
const LEAST: Duration = Duration::from_millis(1);
/// Stack of the thread that reassures.
const STACK: usize = 128 * 1024;

impl Supervisor {
    /// As the environment says.
    pub(super) fn of_environment() -> Self {
        let name = env::var("NOTIFY_SOCKET").unwrap_or_default();
        let socket = (!name.is_empty()).then(|| connect(&name));
        let socket = socket.and_then(|connected| connected.inspect_err(|error| log::warn!("NOTIFY_SOCKET cannot be used: {error}")).ok());
        let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        // It may be meant for whoever started us.
        let is_ours = number("WATCHDOG_PID").is_none_or(|process| process == u64::from(std::process::id()));
        let interval = number("WATCHDOG_USEC").filter(|time| *time > 0 && is_ours).map(Duration::from_micros);
        Self { socket, interval }
    }

    /// Tells it something; that it does not listen is no reason to stop.
    pub(super) fn say(&self, words: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(words.as_bytes())
        {
            log::warn!("the supervisor cannot be told {}: {error}", crate::model::shown(words));
        }
    }

    /// Tells it from now on that all goes on, as long as `pulse` says so.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(super) fn reassure(&self, mut pulse: impl FnMut() -> bool + Send + 'static) -> io::Result<()> {
        let (Some(socket), Some(interval)) = (&self.socket, self.interval) else { return Ok(()) };
        let own = Self { socket: Some(socket.try_clone()?), interval: None };
        let watch = move || {
            let mut was_well = true;
            loop {
                let is_well = pulse();
                if is_well {
                    own.say("WATCHDOG=1");
                } else if was_well {
                    log::error!("an event loop stands still");
                }
                was_well = is_well;
                let until = SystemClock.now() + (interval / 2).max(LEAST);
                while SystemClock.now() < until {
                    SystemClock.park_until(until);
                }
            }
        };
        thread::Builder::new().name("weft-supervisor".to_owned()).stack_size(STACK).spawn(watch)?;
        Ok(())
    }
}

/// That the configuration is being reloaded, with the time by which systemd tells one reload from the next.
pub(super) fn reloading() -> String {
    let now = clock_gettime(ClockId::Monotonic);
    let micros = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
    format!("RELOADING=1\nMONOTONIC_USEC={micros}")
}

/// A path, or a name without a file where it begins with an `@`.
fn connect(name: &str) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    match name.strip_prefix('@') {
        None => socket.connect(name)?,
        #[cfg(target_os = "linux")]
        Some(name) => {
            use std::os::linux::net::SocketAddrExt;
            socket.connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name)?)?;
        }
        #[cfg(not(target_os = "linux"))]
        Some(_) => return Err(io::ErrorKind::Unsupported.into()),
    }
    // One that does not read must not hold us up.
    socket.set_nonblocking(true)?;
    Ok(socket)
}
