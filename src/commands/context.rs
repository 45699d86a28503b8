//! What every command works with: its options, where the directories, the configuration and the engine are, and the way
//! out to the terminal. Knows no command.

use crate::act::builtin;
use crate::cli::Options;
use crate::config::{self, Config};
use crate::engine::Engine;
use crate::report::Status;
use crate::site::Site;
use crate::state::{self, Dirs, Probe};
use crate::units::Exit;
use rustix::fs::{Access, access};
use std::env;
use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why a command does not end with 0, and what is said about it; empty: it was said already.
#[derive(Debug)]
pub struct Failure(pub Exit, pub String);

pub type Done = Result<(), Failure>;

impl<E: Display> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure(Exit::Failed, error.to_string())
    }
}

/// For what only an engine that answers could have done.
pub fn no_engine(error: impl Display) -> Failure {
    Failure(Exit::EngineUnavailable, error.to_string())
}

/// To standard output. A command ends with its reader, without a word.
pub fn say(text: &str) -> Done {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err("".into()),
        Err(error) => Err(format!("standard output: {error}").into()),
    }
}

/// To standard error, each line as `plancton: …`.
pub fn complain(text: &str) {
    let mut out = std::io::stderr().lock();
    for line in text.lines() {
        // There is nobody left who could be told.
        let _ = writeln!(out, "plancton: {line}");
    }
}

/// What went wrong one by one.
pub fn all_well(problems: &[String]) -> Done {
    match problems {
        [] => Ok(()),
        problems => Err(problems.join("\n").into()),
    }
}

/// Polls until something is so, or the time is over: for commands that wait for a daemon or an engine.
pub fn wait_until(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !is_so() {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}

/// True while a daemon holds the run directory.
pub fn is_running(run: &Path) -> bool {
    match state::probe_lock(run) {
        Probe::Held(_) => true,
        Probe::Free => false,
        // A user looking at root's: its status file goes away with it.
        Probe::Unknown => state::has_status(run),
    }
}

pub struct Context {
    pub options: Options,
    pub dirs: Dirs,
    pub is_root: bool,
}

impl Context {
    pub fn new(options: Options) -> Context {
        let uid = rustix::process::geteuid();
        let (run, state) = (options.run_dir.clone(), options.state_dir.clone());
        let dirs = Dirs::usual(uid.as_raw(), |name| env::var_os(name));
        let dirs = dirs.given(run, state, options.config.clone());
        let is_root = uid.is_root();
        Context {
            options,
            dirs,
            is_root,
        }
    }

    /// What stands behind the command as text.
    pub fn argument(&self) -> Option<String> {
        let argument = self.options.argument.as_ref()?;
        Some(argument.to_string_lossy().into_owned())
    }

    /// The file given, which must exist, or the usual one, which need not.
    pub fn config_file(&self) -> Option<&Path> {
        let file = self.dirs.config.as_path();
        (self.options.config.is_some() || file.exists()).then_some(file)
    }

    pub fn config(&self) -> Result<Config, Failure> {
        match self.config_file().map(config::load) {
            None => Ok(Config::default()),
            Some(Ok(config)) => Ok(config),
            Some(Err(problems)) => Err(Failure(Exit::Configuration, problems)),
        }
    }

    pub fn engine(&self, config: &Config) -> Result<Arc<Engine>, Failure> {
        let socket = self.socket(config)?;
        Ok(Arc::new(Engine::new(socket, *config.engine.timeout)))
    }

    /// --engine, then the configuration, then DOCKER_HOST, then the first of the usual sockets that may be used: a user's
    /// own, then the machine's. Where none may be used, the first one will say so.
    fn socket(&self, config: &Config) -> Result<PathBuf, Failure> {
        let (given, configured) = (&self.options.engine, &config.engine.socket);
        let host = env::var("DOCKER_HOST").unwrap_or_default();
        let mut named = given.iter().chain([configured, &host]);
        if let Some(text) = named.find(|text| !text.is_empty()) {
            let path = text.strip_prefix("unix://").unwrap_or(text);
            if path.starts_with('/') {
                return Ok(path.into());
            }
            let hint = "write --engine or DOCKER_HOST as unix:///PATH (it must be this machine's)";
            return Err(Failure(
                Exit::Usage,
                format!("'{text}' is no Unix socket; {hint}"),
            ));
        }
        let own = env::var("XDG_RUNTIME_DIR").ok().filter(|_| !self.is_root);
        let own = own.unwrap_or("/run".to_owned());
        let [docker, podman] =
            ["/var/run/docker.sock", "/run/podman/podman.sock"].map(PathBuf::from);
        let own = ["docker.sock", "podman/podman.sock"].map(|name| Path::new(&own).join(name));
        let usual = own.iter().chain([&docker, &podman]);
        let mut usable = usual
            .clone()
            .filter(|socket| access(*socket, Access::WRITE_OK).is_ok());
        let mut present = usual.filter(|socket| socket.exists());
        let found = usable.next().or_else(|| present.next());
        Ok(found.unwrap_or(&docker).clone())
    }

    /// Errors: as of [`Context::engine`], or our own binary can't be read.
    pub fn site(&self, config: &Config) -> Result<Site, Failure> {
        let (engine, dirs) = (self.engine(config)?, self.dirs.clone());
        Ok(Site::new(
            engine,
            dirs,
            self.instance(config),
            builtin::tag()?,
        ))
    }

    fn instance(&self, config: &Config) -> String {
        let given = self.options.instance.as_ref();
        let configured = Some(&config.engine.instance).filter(|name| !name.is_empty());
        match given.or(configured) {
            Some(name) => name.clone(),
            None if self.is_root => "system".to_owned(),
            None => format!("user-{}", rustix::process::geteuid().as_raw()),
        }
    }

    /// Directories of the daemon that a command speaks to: one's own, else the machine's.
    pub fn addressed(&self) -> Dirs {
        self.dirs.clone().addressed(Dirs::machine())
    }

    /// What that daemon says about itself, if it runs.
    pub fn status(&self) -> Option<Status> {
        let run = self.addressed().run;
        let status = Status::read(&run).ok()??;
        is_running(&run).then_some(status)
    }

    /// Makes the own directories, as a daemon does.
    pub fn prepare(&self) -> Done {
        Ok(self.dirs.prepare(Path::new("/"))?)
    }
}
