//! The edge: the front door and the data plane. A few threads, each with an event loop, own the public port.
//!
//! What comes in is framed strictly, bounded and timed before anything is done about it. `/health` is answered here; calls (`/proxy`, and
//! `/invoke` unless it is to run on the workers) run here, through the same call machine as everywhere else; everything else is handed to
//! the API server, whole, over connections that nobody else has. Whatever waits or streams waits or streams here, where it costs no thread.
//!
//! | file | what |
//! |---|---|
//! | [`http1`] | HTTP/1.1 as bytes, pure |
//! | `reactor` | the event loop; `slots`, `timers`, `buffers`, `socket` and `mail` are its tools |
//! | `gate` | who comes in |
//! | `identity`, `page` | who has sent a request, and what pages in browsers may |
//! | `health` | the one answer that is given here |
//! | `client`, `serve` | a caller's connection: what it is, and all that happens on it |
//! | `exchange` | one request from its head to its answer |
//! | `calls`, `attempts`, `answers` | a call: driving its machine, one attempt, the answer to it |
//! | `forward`, `tunnel`, `watch`, `taps` | what is written when a call passes through; WebSockets; long polls; calls that have ended, for whoever looks on |
//! | `line`, `pool` | a connection to an instance or to the API server; those that are kept |
//! | `tls`, `acceptor` | what makes a connection on either side secret, and whom it trusts |
//! | `inner`, `desk`, `pace` | handing requests to the API server, which calls may run on its workers, and what becomes of large answers |
//!
//! Nothing here blocks: no name is looked up, no file read, nothing slept through. Each deadline is a number beside its connection.

#[cfg_attr(not(feature = "tls"), path = "no_acceptor.rs")]
mod acceptor;
mod answers;
mod attempts;
mod buffers;
mod calls;
mod client;
mod config;
mod desk;
mod exchange;
mod forward;
mod gate;
mod health;
pub mod http1;
mod identity;
mod inner;
mod line;
mod mail;
mod pace;
mod page;
mod pool;
mod reactor;
mod serve;
mod shared;
mod slots;
mod socket;
mod taps;
mod timers;
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
mod tls;
mod tunnel;
mod watch;

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

pub use acceptor::Acceptor;
pub use config::{Address, Config, InvokeOn};

use gate::{Door, Side};
use mail::Mail;
use reactor::Loop;
use shared::Shared;

use crate::contract::access::Welcome;
use crate::mesh::Mesh;
use crate::model::Invalid;
use crate::telemetry::doors::DoorCounters;

/// The running edge. Dropping it stops it.
pub struct Edge {
    shared: Arc<Shared>,
    addresses: Vec<Address>,
    admin_addresses: Vec<Address>,
    threads: Vec<JoinHandle<()>>,
}

/// Why the edge could not be started.
#[derive(Debug)]
pub enum EdgeError {
    /// This address cannot be listened on.
    Listen(String, io::Error),
    /// A setting is not acceptable.
    Invalid(Invalid),
    /// The system refused a thread or an event queue.
    Thread(io::Error),
}

/// Stack of an event loop.
const STACK: usize = 512 * 1024;

impl Edge {
    /// How many event loops there will be, and how many connections to the API server each wants.
    pub fn loops(config: &Config) -> (usize, usize) {
        let loops = config.loop_count();
        let lines = match config.invoke_on {
            // Any loop may have to use every worker.
            InvokeOn::Workers => config.workers,
            // Only questions and changes go there, and each connection costs a thread: a few are enough.
            InvokeOn::Edge => (config.workers / loops).clamp(2, 4),
        };
        (loops, lines)
    }

    /// Opens the doors: at `public`, and for the API at `admin`, if that is not empty.
    ///
    /// # Errors
    /// [`EdgeError`] when an address cannot be listened on or the system refuses a thread.
    pub fn start(
        mesh: &Mesh,
        config: &Config,
        public: &[Address],
        admin: &[Address],
        welcome: &Welcome,
        counters: &Arc<DoorCounters>,
    ) -> Result<Self, EdgeError> {
        let files = socket::raise_file_limit();
        let half = usize::try_from(files / 2).unwrap_or(usize::MAX).max(1);
        let most = if config.max_connections == 0 { half } else { config.max_connections.min(half) };
        let acceptor = Acceptor::read(config).map_err(EdgeError::Invalid)?;
        let open = |addresses: &[Address], side: Side| {
            let door = Door { is_secured: acceptor.is_some(), is_judged: Address::are_judged(addresses), side };
            gate::open(addresses, door).map_err(|(address, error)| EdgeError::Listen(address, error))
        };
        let (addresses, mut listeners) = open(public, if admin.is_empty() { Side::Both } else { Side::Calls })?;
        let (admin_addresses, more) = open(admin, Side::Api)?;
        listeners.extend(more);
        let shared = Arc::new(Shared::new(mesh, config, most, welcome, Arc::clone(counters)));
        let (mut loops, mut mailboxes) = (Vec::new(), Vec::new());
        for index in 0..counters.loops.len() {
            let (mut each, mailbox) = Loop::new(index, Arc::clone(&shared)).map_err(EdgeError::Thread)?;
            each.acceptor.clone_from(&acceptor);
            loops.push(each);
            mailboxes.push(mailbox);
        }
        if let Some(first) = loops.first_mut() {
            first.open(listeners).map_err(EdgeError::Thread)?;
        }
        // Set once: this is the only place.
        let _ = shared.mailboxes.set(mailboxes);
        let mut edge = Self { shared, addresses, admin_addresses, threads: Vec::new() };
        for each in loops {
            let thread = thread::Builder::new().name("weft-edge".to_owned()).stack_size(STACK);
            edge.threads.push(thread.spawn(move || each.run()).map_err(EdgeError::Thread)?);
        }
        Ok(edge)
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Where the API is answered, if that is a place of its own.
    pub fn admin_addresses(&self) -> &[Address] {
        &self.admin_addresses
    }

    /// Hands every loop its share of fresh connections to the API server; those it had are given up.
    pub fn use_lines(&self, mut lines: Vec<UnixStream>) {
        let loops = self.threads.len();
        for index in 0..loops {
            let share = lines.split_off(lines.len() - lines.len() / (loops - index));
            self.shared.send(index, Mail::Lines(share));
        }
    }

    /// Secures clients to come by this.
    pub fn use_acceptor(&self, acceptor: Option<&Acceptor>) {
        for index in 0..self.threads.len() {
            self.shared.send(index, Mail::Acceptor(acceptor.cloned()));
        }
    }

    /// Accepts nothing more than what already waits, and asks clients to close their connections.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        for index in 0..self.threads.len() {
            self.shared.send(index, Mail::Close);
        }
    }

    /// Waits between attempts and long polls are over.
    pub fn hurry(&self) {
        for index in 0..self.threads.len() {
            self.shared.send(index, Mail::Hurry);
        }
    }

    /// Has every loop count in the answer, as soon as it comes to that, and says how many loops there are.
    pub fn count_loops(&self) -> (Arc<AtomicUsize>, usize) {
        let counted = Arc::new(AtomicUsize::new(0));
        for index in 0..self.threads.len() {
            self.shared.send(index, Mail::Count(Arc::clone(&counted)));
        }
        (counted, self.threads.len())
    }

    /// Whether a loop has found, since this was asked last, that the workers no longer answer.
    pub fn has_found_workers_stuck(&self) -> bool {
        self.shared.stuck.swap(false, Ordering::SeqCst)
    }

    /// Whether no request is being answered.
    pub fn is_quiet(&self) -> bool {
        self.shared.counters.is_quiet()
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        for index in 0..self.threads.len() {
            self.shared.send(index, Mail::Stop);
        }
        for thread in self.threads.drain(..) {
            // A loop survives panics; one that died all the same has nothing to give back.
            let _ = thread.join();
        }
    }
}
