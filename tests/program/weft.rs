//! The program as a child process.

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::{env, fs, thread};

use serde_json::{Value, json};

use crate::support::client::{self, Answer};
use crate::support::eventually;
use crate::support::upstream::Upstream;

/// The program, with nothing in its environment that would configure it.
pub(crate) fn command(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("WEFT_") || name == "STATE_DIRECTORY" {
            command.env_remove(name);
        }
    }
    command.args(arguments).envs(environment.iter().copied()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What came of a run to its end.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &[&str]) -> Ended {
    run_in(arguments, &[])
}

pub(crate) fn run_in(arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
    let output = command(arguments, environment).output().expect("the program");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// A program that runs. It is killed at the end of the test, unless it has ended before.
pub(crate) struct Weft {
    child: Child,
    out: Text,
    err: Text,
}

/// What has been printed so far.
type Text = Arc<Mutex<String>>;

fn reader(mut from: impl Read + Send + 'static) -> Text {
    let text = Text::default();
    let here = Arc::clone(&text);
    thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut piece) {
            here.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(&piece[..read]));
        }
    });
    text
}

impl Weft {
    /// Starts the program on a free port of loopback, and waits until it listens.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_in(arguments, &[])
    }

    pub(crate) fn start_in(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut all = arguments.to_vec();
        all.extend(["--listen", "127.0.0.1:0"]);
        let weft = Self::spawn(&all, environment);
        weft.at();
        weft
    }

    /// Starts the program in a shell that has set such limits, as `ulimit -n 64`, and waits until it listens.
    pub(crate) fn start_under(limits: &str, arguments: &[&str]) -> Self {
        let weft = Self::try_under(limits, arguments);
        weft.at();
        weft
    }

    /// The same, and does not wait.
    pub(crate) fn try_under(limits: &str, arguments: &[&str]) -> Self {
        let plain = command(arguments, &[]);
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{limits} && exec \"$0\" \"$@\"")]).arg(plain.get_program()).args(plain.get_args());
        for (name, _) in plain.get_envs() {
            shell.env_remove(name);
        }
        shell.args(["--listen", "127.0.0.1:0"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::of(shell)
    }

    /// Starts the program and does not wait.
    pub(crate) fn spawn(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::of(command(arguments, environment))
    }

    /// Starts what comes to be the program.
    pub(crate) fn of(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the program");
        let (out, err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        Self { child, out: reader(out), err: reader(err) }
    }

    /// Where it says that it listens.
    pub(crate) fn at(&self) -> SocketAddr {
        let line = self.said("listens on http");
        let (_, after) = line.split_once("://").expect("a URL");
        after.split_whitespace().next().and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no address: {line}"))
    }

    /// A number from what the system says about the process, such as `VmRSS` in KiB or `Threads`.
    pub(crate) fn status(&self, name: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a process");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    /// Processor time used so far, in hundredths of a second.
    pub(crate) fn processor_time(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("a process");
        let (_, fields) = text.rsplit_once(')').expect("a name in brackets");
        fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum()
    }

    pub(crate) fn out(&self) -> String {
        self.out.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn err(&self) -> String {
        self.err.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a whole line on stdout that holds `words`.
    #[track_caller]
    pub(crate) fn said(&self, words: &str) -> String {
        eventually(&format!("stdout says {words:?}"), || whole_line_with(&self.out(), words))
    }

    /// Waits for a whole line in the log that holds `words`.
    #[track_caller]
    pub(crate) fn logged(&self, words: &str) -> String {
        eventually(&format!("the log says {words:?}"), || whole_line_with(&self.err(), words))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal: `TERM`, `INT`, `HUP`, `KILL`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().expect("kill");
        assert!(sent.success());
    }

    /// Waits for the end; the exit code, `None` when a signal ended it.
    #[track_caller]
    pub(crate) fn end(&mut self) -> Option<i32> {
        eventually("the program ends", || self.child.try_wait().expect("a child")).code()
    }

    /// The exit code of a program that has ended; `None` inside when it listens.
    pub(crate) fn listens_or_has_ended(&mut self) -> Option<Option<i32>> {
        let ended = self.child.try_wait().expect("a child").map(|status| Some(status.code().unwrap_or(-1)));
        ended.or_else(|| self.out().contains("listens on http").then_some(None))
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    #[track_caller]
    pub(crate) fn get(&self, target: &str) -> Answer {
        client::ask(self.at(), "GET", target, &[], b"").unwrap_or_else(|error| panic!("{target}: {error}"))
    }

    #[track_caller]
    pub(crate) fn post(&self, target: &str, body: &Value) -> Answer {
        client::ask(self.at(), "POST", target, &[], body.to_string().as_bytes()).unwrap_or_else(|error| panic!("{target}: {error}"))
    }

    #[track_caller]
    pub(crate) fn register(&self, service: &str, upstream: &Upstream) {
        let registration = json!({"name": service, "id": "i", "host": "127.0.0.1", "port": upstream.port()});
        self.post("/register", &registration).with_status(200);
    }

    #[track_caller]
    pub(crate) fn call(&self, service: &str, endpoint: &str) -> Answer {
        self.post("/invoke", &json!({"serviceName": service, "endpoint": endpoint}))
    }
}

impl Drop for Weft {
    fn drop(&mut self) {
        // Both fail when it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn whole_line_with(text: &str, words: &str) -> Option<String> {
    text.split_inclusive('\n').find(|line| line.ends_with('\n') && line.contains(words)).map(|line| line.trim_end().to_owned())
}

/// A folder of its own for a test, gone at its end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("weft-program-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        let path = env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }

    /// Writes a file, whole at once, and gives its path.
    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        let new = format!("{path}.new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).expect("a file");
        assert!(Path::new(&path).exists());
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
