//! Active health checks and the end of leases: one scheduler on its own thread, and probe threads it starts as needed.
//!
//! Of the probe threads, targets that timed out or were slow last time may occupy half, so that hanging instances delay no other.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::mesh::{Inner, Member, Mesh, Newcomer};
use crate::model::Host;
use crate::model::time::fraction;
use crate::policy::health::CheckResult;

/// Probe threads at most.
const MOST_PROBES: usize = 64;
/// Of which checks of targets that timed out or were slow last time may occupy this many.
const MOST_SUSPECTS: usize = MOST_PROBES / 2;
/// A target is slow when it takes so long, its names included; whether it answers in the end does not matter to those who wait.
const SLOW: Duration = Duration::from_millis(250);
/// A probe thread without work ends after this long.
const IDLE: Duration = Duration::from_secs(30);
/// The first checks of all instances there are at the start are spread over this time.
const SOON: Duration = Duration::from_secs(1);
/// An expired instance that somebody is just changing is looked at again after this long.
const AGAIN: Duration = Duration::from_millis(100);
/// Longer than anything is scheduled.
const FOREVER: Duration = Duration::from_secs(3600);
/// Stack of a probe thread: ureq needs little.
const STACK: usize = 256 * 1024;

/// Starts the scheduler. It ends when the last handle of the mesh is dropped.
pub(super) fn start(mesh: &Mesh) -> io::Result<()> {
    let (commands, inbox) = unbounded();
    let (jobs, work) = bounded(MOST_PROBES);
    let scheduler = Scheduler {
        mesh: Arc::downgrade(&mesh.inner),
        inbox,
        commands: commands.clone(),
        jobs,
        work,
        due: BinaryHeap::new(),
        scheduled: HashMap::new(),
        ready: VecDeque::new(),
        ready_suspects: VecDeque::new(),
        running: 0,
        suspects_running: 0,
        suspects_turn: false,
        threads: 0,
        sequence: 0,
    };
    thread::Builder::new().name("weft-health".to_owned()).spawn(move || scheduler.run())?;
    let commands = StopOnDrop(commands);
    mesh.on_newcomer(move |member, newcomer| commands.send(Command::New(Arc::clone(member), newcomer)));
    Ok(())
}

/// The mesh's end of the command channel; tells the scheduler when the mesh is gone.
struct StopOnDrop(Sender<Command>);

impl StopOnDrop {
    fn send(&self, command: Command) {
        // The scheduler is gone only when the mesh is.
        let _ = self.0.send(command);
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.send(Command::Stop);
    }
}

enum Command {
    /// A member was registered (again).
    New(Arc<Member>, Newcomer),
    /// A check is over: the time to the next one, `None` when the member is gone.
    Done { member: Arc<Member>, next: Option<Duration>, suspect: bool, slow: bool },
    /// A probe thread without work has ended.
    ThreadEnded,
    /// The mesh is gone.
    Stop,
}

/// One check to run.
struct Job {
    mesh: Mesh,
    member: Arc<Member>,
    suspect: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Task {
    Check,
    Lease,
}

/// Something to do at a time; ordered so that the earliest is the greatest, as a heap wants it.
struct Due {
    at: Instant,
    sequence: u64,
    task: Task,
    member: Arc<Member>,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

/// What is scheduled for a member, so that nothing is scheduled twice.
#[derive(Default)]
struct Scheduled {
    check: bool,
    lease: bool,
    /// It was slow last time.
    slow: bool,
}

struct Scheduler {
    mesh: Weak<Inner>,
    inbox: Receiver<Command>,
    commands: Sender<Command>,
    jobs: Sender<Job>,
    work: Receiver<Job>,
    due: BinaryHeap<Due>,
    /// By address of the member, which an entry of `due`, a queue or a job keeps alive.
    scheduled: HashMap<usize, Scheduled>,
    ready: VecDeque<Arc<Member>>,
    ready_suspects: VecDeque<Arc<Member>>,
    running: usize,
    suspects_running: usize,
    suspects_turn: bool,
    threads: usize,
    sequence: u64,
}

impl Scheduler {
    fn run(mut self) {
        loop {
            let Some(inner) = self.mesh.upgrade() else { return };
            let mesh = Mesh { inner };
            let now = mesh.inner.clock.now();
            while self.due.peek().is_some_and(|due| due.at <= now) {
                if let Some(due) = self.due.pop() {
                    self.attend(&mesh, &due, now);
                }
            }
            self.dispatch(&mesh);
            let wait = self.due.peek().map_or(FOREVER, |due| due.at.saturating_duration_since(now));
            // Not to keep the mesh alive while there is nothing to do.
            drop(mesh);
            let mut next = self.inbox.recv_timeout(wait).ok();
            while let Some(command) = next {
                if !self.obey(command) {
                    return;
                }
                next = self.inbox.try_recv().ok();
            }
        }
    }

    /// Takes in a command; answers whether to go on.
    fn obey(&mut self, command: Command) -> bool {
        let Some(inner) = self.mesh.upgrade() else { return false };
        let mesh = Mesh { inner };
        let now = mesh.inner.clock.now();
        match command {
            Command::New(member, newcomer) => {
                let Some(care) = mesh.care(&member) else { return true };
                let scheduled = self.scheduled.entry(key(&member)).or_default();
                let (check, lease) = (!scheduled.check, !scheduled.lease && care.lease_until.is_some());
                scheduled.check = true;
                scheduled.lease |= lease;
                if check {
                    let wait = match newcomer {
                        Newcomer::CheckNow => Duration::ZERO,
                        Newcomer::CheckLater => care.config.interval_ms.duration(),
                        Newcomer::CheckSoon => SOON.mul_f64(fraction(mesh.inner.dice.roll())),
                    };
                    self.schedule(now + wait, Task::Check, &member);
                }
                if let Some(until) = care.lease_until.filter(|_| lease) {
                    self.schedule(until, Task::Lease, &member);
                }
            }
            Command::Done { member, next, suspect, slow } => {
                self.running -= 1;
                self.suspects_running -= usize::from(suspect);
                match next {
                    Some(wait) => {
                        self.scheduled.entry(key(&member)).or_default().slow = slow;
                        self.schedule(now + wait, Task::Check, &member);
                    }
                    None => self.forget(&member),
                }
            }
            Command::ThreadEnded => self.threads -= 1,
            Command::Stop => return false,
        }
        true
    }

    /// Does what is due, or puts it where a probe thread will take it.
    fn attend(&mut self, mesh: &Mesh, due: &Due, now: Instant) {
        let member = &due.member;
        let Some(care) = mesh.care(member) else { return self.forget(member) };
        match due.task {
            Task::Check if care.target.is_none() && matches!(member.host, Host::Ip(_)) => {
                self.schedule(now + care.config.interval_ms.duration(), Task::Check, member);
            }
            Task::Check if care.last == Some(CheckResult::TimedOut) || self.was_slow(member) => {
                self.ready_suspects.push_back(Arc::clone(member));
            }
            Task::Check => self.ready.push_back(Arc::clone(member)),
            Task::Lease => match care.lease_until {
                Some(until) if until <= now => {
                    if !mesh.expire(member) {
                        self.schedule(now + AGAIN, Task::Lease, member);
                    }
                }
                Some(until) => self.schedule(until, Task::Lease, member),
                None => self.scheduled.entry(key(member)).or_default().lease = false,
            },
        }
    }

    fn schedule(&mut self, at: Instant, task: Task, member: &Arc<Member>) {
        self.sequence += 1;
        self.due.push(Due { at, sequence: self.sequence, task, member: Arc::clone(member) });
    }

    fn was_slow(&self, member: &Arc<Member>) -> bool {
        self.scheduled.get(&key(member)).is_some_and(|scheduled| scheduled.slow)
    }

    fn forget(&mut self, member: &Arc<Member>) {
        self.scheduled.remove(&key(member));
    }

    /// Hands ready checks to probe threads, as many as may run.
    fn dispatch(&mut self, mesh: &Mesh) {
        while self.running < MOST_PROBES {
            let suspects_may_run = self.suspects_running < MOST_SUSPECTS;
            // In turn, so that neither waits for the last of the others.
            self.suspects_turn = !self.suspects_turn || self.ready.is_empty();
            let next = if suspects_may_run && self.suspects_turn { self.ready_suspects.pop_front() } else { None };
            let suspect = next.is_some();
            let Some(member) = next.or_else(|| self.ready.pop_front()) else { break };
            self.running += 1;
            self.suspects_running += usize::from(suspect);
            // The channel has room for every check that may run.
            let _ = self.jobs.send(Job { mesh: mesh.clone(), member, suspect });
        }
        while self.threads < self.running && self.start_thread() {}
        if self.threads == 0 {
            // The system refuses threads: better slow checks than none.
            while let Ok(job) = self.work.try_recv() {
                let done = job.run();
                self.obey(done);
            }
        }
    }

    fn start_thread(&mut self) -> bool {
        let (work, commands) = (self.work.clone(), self.commands.clone());
        let probe = move || {
            while let Ok(job) = work.recv_timeout(IDLE) {
                // Sending fails only when the scheduler is gone, and then the next receive ends the loop.
                let _ = commands.send(job.run());
            }
            let _ = commands.send(Command::ThreadEnded);
        };
        let started = thread::Builder::new().name("weft-probe".to_owned()).stack_size(STACK).spawn(probe).is_ok();
        self.threads += usize::from(started);
        started
    }
}

impl Job {
    fn run(self) -> Command {
        let Self { mesh, member, suspect } = self;
        let begun = mesh.inner.clock.now();
        // A panic of a replaced transport must not end the checks of this member, nor take a probe thread with it.
        let checked = catch_unwind(AssertUnwindSafe(|| mesh.check(&member)));
        let next = checked.unwrap_or_else(|_| mesh.care(&member).map(|care| care.config.interval_ms.duration()));
        let slow = mesh.inner.clock.now().saturating_duration_since(begun) >= SLOW;
        Command::Done { member, next, suspect, slow }
    }
}

fn key(member: &Arc<Member>) -> usize {
    Arc::as_ptr(member) as usize
}
