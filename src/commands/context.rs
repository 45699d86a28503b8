//! What every command works with: its options, where the directories, the configuration and the engine are, and the way
//! out to the terminal. Knows no command.

use crate::act::builtin;
use crate::cli::Options;
use crate::config::{self, Config};
use crate::engine::{self, Engine};
use crate::site::Site;
use crate::state::{self, Dirs, Probe, StateError};
use crate::units::Exit;
use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Made where the service manager or the administrator keeps groups.
pub const GROUP_FILE: &str = "/etc/group";

pub struct Context {
    pub options: Options,
    pub dirs: Dirs,
    pub is_root: bool,
}

/// Why a command does not end with 0, and what is said about it; empty: it was said already.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub text: String,
}

pub type Done = Result<(), Failure>;

impl Failure {
    pub fn new(exit: Exit, text: impl Display) -> Failure {
        let text = text.to_string();
        Failure { exit, text }
    }
}

/// Exit code 1.
pub fn failed(text: impl Display) -> Failure {
    Failure::new(Exit::Failed, text)
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Failure {
        failed(error)
    }
}

impl From<engine::Error> for Failure {
    fn from(error: engine::Error) -> Failure {
        Failure::new(Exit::EngineUnavailable, error)
    }
}

/// To standard output. A command ends with its reader, without a word.
pub fn say(text: &str) -> Done {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => failed(""),
        _ => failed(format!("standard output: {error}")),
    })
}

/// To standard error, each line as `plancton: …`.
pub fn complain(text: &str) {
    let mut out = std::io::stderr().lock();
    for line in text.lines() {
        // There is nobody left who could be told.
        let _ = writeln!(out, "plancton: {line}");
    }
}

/// Polls until something is so, or the time is over: for commands that wait for a daemon or an engine.
pub fn wait_until(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if is_so() {
            return true;
        }
        if start.elapsed() >= limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// True while a daemon holds the run directory.
pub fn is_running(run: &Path) -> bool {
    match state::probe_lock(run) {
        Probe::Held(_) => true,
        Probe::Free => false,
        // A user looking at root's: its status file goes away with it.
        Probe::Unknown => state::read_status(run).is_ok_and(|status| status.is_some()),
    }
}

/// As of [`config::parse`], or why the file cannot be read.
pub fn read_config(file: &Path) -> Result<Config, String> {
    let bytes = crate::host::files::read(file, 1 << 20).map_err(|error| {
        let more = if error.is_missing() {
            "; write one (`plancton config --default` is a beginning), or leave --config out"
        } else {
            ""
        };
        format!("{error}{more}")
    })?;
    let name = file.display().to_string();
    let text = String::from_utf8(bytes)
        .map_err(|_| format!("{name}: it is not UTF-8 text; save it as that"))?;
    config::parse(&text, &name).map_err(|problems| problems.join("\n"))
}

impl Context {
    pub fn new(options: Options) -> Context {
        let uid = rustix::process::geteuid();
        let dirs = Dirs::resolve(uid.as_raw(), |name| std::env::var_os(name), &options);
        Context {
            options,
            dirs,
            is_root: uid.is_root(),
        }
    }

    /// The file given, which must exist, or the usual one, which need not.
    pub fn config_file(&self) -> Option<&Path> {
        let file = self.dirs.config.as_path();
        (self.options.config.is_some() || file.exists()).then_some(file)
    }

    pub fn config(&self) -> Result<Config, Failure> {
        let read = self.config_file().map(read_config).transpose();
        read.map(Option::unwrap_or_default).map_err(|problems| {
            let then = "nothing was started; `plancton config --default` shows every key";
            Failure::new(Exit::Configuration, format!("{problems}\n{then}"))
        })
    }

    pub fn engine(&self, config: &Config) -> Result<Arc<Engine>, Failure> {
        let socket = self.socket(config)?;
        Ok(Arc::new(Engine::new(socket, config.engine.timeout)))
    }

    /// --engine, then the configuration, then DOCKER_HOST, then the first of the usual sockets that may be used: a user's
    /// own, then the machine's.
    fn socket(&self, config: &Config) -> Result<PathBuf, Failure> {
        let host = std::env::var("DOCKER_HOST").unwrap_or_default();
        let named = [
            ("--engine", self.options.engine.as_deref()),
            ("[engine] socket", Some(config.engine.socket.as_str())),
            ("DOCKER_HOST", Some(host.as_str())),
        ];
        let named = named
            .into_iter()
            .filter_map(|(from, text)| text.map(|text| (from, text)));
        if let Some((from, text)) = named.into_iter().find(|(_, text)| !text.is_empty()) {
            let path = text.strip_prefix("unix://").unwrap_or(text);
            if path.starts_with('/') {
                return Ok(PathBuf::from(path));
            }
            return Err(Failure::new(
                Exit::Usage,
                format!(
                    "{from}: '{text}' is not a Unix socket; write it as unix:///PATH (engines elsewhere are not this machine)"
                ),
            ));
        }
        let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !self.is_root);
        let own = own.map(PathBuf::from).into_iter();
        let own = own.flat_map(|run| [run.join("docker.sock"), run.join("podman/podman.sock")]);
        let machine = ["/var/run/docker.sock", "/run/podman/podman.sock"].map(PathBuf::from);
        let [docker, _] = machine.clone();
        let sockets: Vec<PathBuf> = own
            .chain(machine)
            .filter(|socket| socket.exists())
            .collect();
        let may_be_used =
            |socket: &&PathBuf| rustix::fs::access(*socket, rustix::fs::Access::WRITE_OK).is_ok();
        // Where none may be used, the first one says so.
        let found = sockets.iter().find(may_be_used).or(sockets.first());
        Ok(found.cloned().unwrap_or(docker))
    }

    /// Errors: our own binary can't be read.
    pub fn site(&self, engine: Arc<Engine>, config: &Config) -> Result<Site, Failure> {
        let tag = builtin::tag().map_err(failed)?;
        let (dirs, instance) = (self.dirs.clone(), self.instance(config));
        Ok(Site::new(engine, dirs, instance, tag))
    }

    pub fn instance(&self, config: &Config) -> String {
        let given = self.options.instance.as_ref();
        let configured = Some(&config.engine.instance).filter(|name| !name.is_empty());
        given
            .or(configured)
            .cloned()
            .unwrap_or_else(|| match self.is_root {
                true => "system".to_owned(),
                false => format!("user-{}", rustix::process::geteuid().as_raw()),
            })
    }

    /// Directories of the daemon that a command speaks to: one's own, else the machine's.
    pub fn addressed(&self) -> Dirs {
        self.dirs.clone().addressed(Dirs::machine())
    }

    /// Makes the own directories, as a daemon does.
    pub fn prepare(&self) -> Done {
        Ok(self.dirs.prepare(Path::new(GROUP_FILE))?)
    }
}
