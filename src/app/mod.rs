//! The program: read the configuration, start in order, wait for a signal, stop in reverse.

/// Prints a line for whoever reads; that nobody does is no reason to stop.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

mod demo;
mod logger;
mod look;
mod sample;
mod state;
mod supervisor;
mod token;

use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use supervisor::Supervisor;

use crate::config::{Arguments, Backend, Command, Config, ConfigError, usage};
use crate::mesh::Mesh;
use crate::outbound::BuildError;
#[cfg(feature = "etcd")]
use crate::outbound::etcd::Etcd;
use crate::outbound::store::{Disk, StateError};
use crate::outbound::trust::Trust;
use crate::server::{Acceptor, Address, InvokeOn, Server, StartError};

/// Runs the program.
pub fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            log::logger().flush();
            // Whoever reads only the exit code may have closed the rest.
            let _ = writeln!(io::stderr(), "weft: {error}");
            error.code()
        }
    }
}

/// Why the program ended.
#[derive(Debug)]
enum Fatal {
    Usage(String),
    Config(ConfigError),
    Build(BuildError),
    State(StateError),
    Start(StartError),
    Look(look::Failed),
    Io(io::Error),
}

impl Fatal {
    fn code(&self) -> ExitCode {
        match self {
            Self::Usage(_) | Self::Config(_) | Self::Build(BuildError::Invalid(_)) | Self::Start(StartError::Invalid(_)) => {
                ExitCode::from(2)
            }
            Self::Start(StartError::Listen(..)) => ExitCode::from(3),
            Self::State(_) | Self::Build(BuildError::Store(_)) => ExitCode::from(4),
            Self::Look(failed) => failed.code(),
            Self::Build(BuildError::Thread(_)) | Self::Start(StartError::Thread(_)) | Self::Io(_) => ExitCode::from(1),
        }
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) => f.write_str(why),
            Self::Config(error) => error.fmt(f),
            Self::Build(error) => error.fmt(f),
            Self::State(error) => error.fmt(f),
            Self::Start(error) => error.fmt(f),
            Self::Look(failed) => failed.fmt(f),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for Fatal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn run() -> Result<ExitCode, Fatal> {
    let mut words = std::env::args_os().skip(1).peekable();
    if let Some(command) = words.next_if(look::knows) {
        return look::run(&command.to_string_lossy(), words).map_err(Fatal::Look);
    }
    let arguments = Arguments::parse(words).map_err(Fatal::Usage)?;
    let load = || Config::load(&arguments, std::env::vars_os()).map_err(Fatal::Config);
    match &arguments.command {
        Command::Help => say!("{}", usage().trim_end()),
        Command::Version => say!("weft {}", env!("CARGO_PKG_VERSION")),
        Command::Check(path) => {
            Config::check_file(path).map_err(Fatal::Config)?;
            say!("{}: valid", path.display());
        }
        Command::Config { annotated: true } => say!("{}", load()?.annotated().trim_end()),
        Command::Config { annotated: false } => say!("{:#}", load()?.effective()),
        Command::State(what, path) => state::run(*what, path, &load()?)?,
        Command::Token(new) => token::run(new, &load()?)?,
        Command::Serve => return serve(&arguments, &load()?, |_, _| Ok(())),
        Command::Demo { traffic } => {
            let config = load()?;
            if !config.server.tls_cert.is_empty() || !config.server.admin_listen.is_empty() {
                return Err(Fatal::Usage("the demonstration is of one plain door; leave out tlsCert and adminListen".to_owned()));
            }
            return serve(&arguments, &config, |_, server| demo::start(server, *traffic));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts the mesh and its server, then whatever `also` starts, and runs until a signal.
fn serve(arguments: &Arguments, config: &Config, also: impl FnOnce(&Mesh, &Server) -> io::Result<()>) -> Result<ExitCode, Fatal> {
    let lines_lost = logger::start()?;
    log::set_max_level(config.general.log.into());
    // Before anything else starts, so that no signal is missed. The second one to stop needs nothing that may not be to be had by then.
    let is_stopping = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        flag::register_conditional_shutdown(signal, 1, Arc::clone(&is_stopping))?;
        flag::register(signal, Arc::clone(&is_stopping))?;
    }
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let mesh = build(config)?;
    mesh.inner.onlookers.on_own_log(&lines_lost);
    let server = Server::start(&mesh, &config.server, config.effective()).map_err(Fatal::Start)?;
    mesh.announce_at(server.addresses().iter().map(ToString::to_string).collect());
    announce(config, &server);
    also(&mesh, &server)?;
    let supervisor = Supervisor::of_environment();
    supervisor.say("READY=1\nSTATUS=serving");
    supervisor.reassure(server.pulse())?;

    for signal in signals.forever() {
        if signal != SIGHUP {
            break;
        }
        supervisor.say(&supervisor::reloading());
        reload(arguments, config, &mesh, &server);
        supervisor.say("READY=1\nSTATUS=serving");
    }
    supervisor.say("STOPPING=1\nSTATUS=finishing what runs");

    log::info!("stopping: running calls may finish for {} ms; a second signal stops at once", config.server.drain_timeout_ms.0);
    let (delay, timeout) = (config.server.drain_delay_ms.duration(), config.server.drain_timeout_ms.duration());
    let finished = server.drain(delay, timeout);
    mesh.leave_store();
    mesh.flush(FLUSH);
    if !finished {
        log::warn!("stopped with calls unfinished");
    }
    log::logger().flush();
    // What is left are idle connections and threads that wait on them; the system clears them away faster than we could.
    process::exit(i32::from(!finished))
}

/// How long spans and lines of the access log may take to be delivered at the end.
const FLUSH: Duration = Duration::from_secs(2);

fn build(config: &Config) -> Result<Mesh, Fatal> {
    let settings = config.mesh();
    let mut builder = Mesh::builder()
        .defaults(settings.defaults)
        .services(settings.services)
        .upstreams(settings.upstreams)
        .telemetry(settings.telemetry)
        .discover(settings.discover)
        .limits(settings.max_services, settings.max_instances_per_service);
    let directory = Some(Path::new(&config.general.state_dir)).filter(|path| !path.as_os_str().is_empty());
    match (config.registry.backend, directory) {
        #[cfg(feature = "etcd")]
        (Backend::Etcd, _) => builder = builder.store(Etcd::open(&config.registry.etcd, directory).map_err(Fatal::State)?),
        (_, Some(directory)) => builder = builder.store(Disk::open(directory).map_err(Fatal::State)?),
        (_, None) => {}
    }
    let mesh = builder.build().map_err(Fatal::Build)?;
    register_listed(&mesh, config);
    Ok(mesh)
}

/// Registers the instances that the configuration lists.
fn register_listed(mesh: &Mesh, config: &Config) {
    // Checked when it was read.
    for registration in config.registrations().unwrap_or_default() {
        let (service, id) = (registration.service.clone(), registration.id.clone());
        if let Err(error) = mesh.register_listed(registration) {
            log::error!("{service}/{id} is listed in the configuration and cannot be registered: {error}");
        }
    }
}

/// Says where the mesh listens and what is on.
fn announce(config: &Config, server: &Server) {
    let secured = !config.server.tls_cert.is_empty();
    let urls = |addresses: &[Address]| addresses.iter().map(|address| address.url(secured)).collect::<Vec<_>>().join(" and ");
    let admin = match urls(&server.admin_addresses()) {
        admin if admin.is_empty() => admin,
        admin => format!(" for calls, and on {admin} for the rest"),
    };
    say!("weft {} listens on {}{admin}", env!("CARGO_PKG_VERSION"), urls(&server.addresses()));
    let registry = match (config.registry.backend, config.general.state_dir.as_str()) {
        (Backend::Etcd, _) => format!("registry in etcd at {}", config.registry.etcd.endpoints.join(" and ")),
        (Backend::Local, "") => "registry in memory".to_owned(),
        (Backend::Local, directory) => format!("registry in {directory}"),
    };
    let tls = if cfg!(feature = "tls") { "https to instances" } else { "no https to instances" };
    let calls = match config.server.invoke_on {
        InvokeOn::Edge => "calls run in the event loops".to_owned(),
        InvokeOn::Workers => {
            let calls = config.server.workers - config.server.reserved_workers;
            format!("/invoke runs on workers: {calls} of {} make calls (blocking, with sleeping backoff)", config.server.workers)
        }
    };
    let tokens = match (config.server.token_file.as_str(), config.server.tls_client_ca.as_str()) {
        ("", "") => "no tokens: whoever reaches it may use it".to_owned(),
        ("", _) => "no tokens: whoever has a certificate may use it".to_owned(),
        (file, _) => format!("tokens of {file}"),
    };
    say!("{calls}; {registry}; {tls}; {tokens}");
}

/// Takes over a changed configuration. A bad one changes nothing and says why.
fn reload(arguments: &Arguments, running: &Config, mesh: &Mesh, server: &Server) {
    // By themselves, so that a token can be taken away whatever else is wrong.
    match server.reload_tokens() {
        Ok(None) => {}
        Ok(Some(callers)) => log::info!("the token file has been read again: {callers} callers"),
        Err(fault) => log::error!("the token file was not read again, the tokens are what they were: {fault}"),
    }
    let new = match Config::load(arguments, std::env::vars_os()) {
        Ok(new) => new,
        Err(error) => return not_reloaded(&error),
    };
    if new.server != running.server {
        log::warn!("settings of the server itself (such as listen and workers) change only with a restart");
    }
    if new.general.state_dir != running.general.state_dir || new.registry != running.registry {
        log::warn!("the state directory and the registry's place change only with a restart");
    }
    if new.telemetry != running.telemetry {
        log::warn!("how single calls are looked at (telemetry) changes only with a restart");
    }
    // First everything is read, so that what is bad in one place changes nothing in another.
    let acceptor = Acceptor::read(&running.server);
    let (acceptor, trust) = match acceptor.and_then(|acceptor| Ok((acceptor, Trust::read(&new.upstreams)?))) {
        Ok(read) => read,
        Err(fault) => return not_reloaded(&fault),
    };
    if let Err(fault) = mesh.reconfigure(new.mesh()) {
        return not_reloaded(&fault);
    }
    server.use_acceptor(acceptor.as_ref());
    Trust::of(mesh).change(trust);
    register_listed(mesh, &new);
    log::set_max_level(new.general.log.into());
    server.set_effective(
        Config { server: running.server.clone(), registry: running.registry.clone(), telemetry: running.telemetry.clone(), ..new }
            .effective(),
    );
    log::info!("configuration reloaded");
}

fn not_reloaded(why: &dyn fmt::Display) {
    log::error!("configuration not reloaded, nothing has changed: {why}");
}
