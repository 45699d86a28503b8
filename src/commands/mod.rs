//! One function a command; the only rooms that print. This file knows which command is carried out where, ends each of them
//! with its exit code, and holds what all of them work with: the options, where the directories, the configuration and the
//! engine are, and the way out to the terminal.

mod check;
mod history;
mod join;
mod pilots;
mod run;
mod try_out;
mod view;

use crate::cli::{self, Options};
use crate::config::{self, Config};
use crate::decide::{Decision, Drain, EngineState, Observation, PolicyState, Snooze, decide};
use crate::host::{self, files};
use crate::remote::{self, Joined, Remote};
use crate::site::{Site, read_facts};
use crate::state::{self, Dirs, Durable, Scope, control, is_running};
use crate::units::{Exit, clean_line, count_pilots, entry, number, rough, word};
use crate::{act::images::builtin_tag, clock, engine::Engine, report::Status};
use jiff::Zoned;
use rustix::fs::{Access, access};
use rustix::process::Signal;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fmt::Display, fs, sync::Arc};

/// Carries a command out, and says what went wrong.
pub fn dispatch(options: Options) -> Exit {
    let context = Context::new(options);
    let done = match context.options.command {
        "try" => try_out::try_out(&context),
        "check" => check::check(&context),
        "config" if context.options.has("default") => say(config::DEFAULT_TEXT),
        "config" => show_config(&context),
        "status" => view::status(&context),
        "why" => view::why(&context),
        "health" => view::health(&context),
        "history" => history::history(&context),
        "report" => history::report(&context),
        "drain" => run::drain(&context),
        "snooze" => run::snooze(&context),
        "resume" => run::resume(&context),
        "kill" => pilots::kill(&context),
        "log" => pilots::log(&context),
        "pull" => run::pull(&context),
        "force-stop" => run::force_stop(&context),
        "join" => join::join(&context),
        "leave" => join::leave(&context),
        "run" => run::run(&context),
        "start" => run::start(&context),
        "stop" => run::stop(&context),
        "replay" => run::replay(&context),
        "reap" => pilots::reap(&context),
        "purge" => pilots::purge(&context),
        "pilot" => try_out::pilot(&context),
        "version" => say(concat!("plancton ", env!("CARGO_PKG_VERSION"), "\n")),
        _ => say(cli::help(&context.text("COMMAND"))),
    };
    let Err(Failure(exit, text)) = done else {
        return Exit::Done;
    };
    complain(&text);
    exit
}

fn show_config(context: &Context) -> Done {
    let config = Remote::default().adopt(&context.dirs.state, &context.config()?);
    say(&config.to_toml())
}

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

pub struct Context {
    pub options: Options,
    pub dirs: Dirs,
    pub is_root: bool,
}

impl Context {
    pub fn new(options: Options) -> Context {
        let uid = rustix::process::geteuid();
        let given = ["run-dir", "state-dir", "config"].map(|name| options.path(name));
        Context {
            options,
            dirs: Dirs::usual(uid.as_raw(), |name| env::var_os(name)).given(given),
            is_root: uid.is_root(),
        }
    }

    /// Of an argument or option; "" if there is none.
    fn text(&self, name: &str) -> String {
        self.options.text(name).unwrap_or_default()
    }

    /// The file given, which must exist, or the usual one, which need not.
    pub fn config_file(&self) -> Option<&Path> {
        let file = self.dirs.config.as_path();
        (self.options.has("config") || file.exists()).then_some(file)
    }

    pub fn config(&self) -> Result<Config, Failure> {
        let loaded = self.config_file().map(config::load).transpose();
        let hint = "`plancton config --default` shows every key";
        let failed = |why| Failure(Exit::Configuration, format!("{why}\n{hint}"));
        Ok(loaded.map_err(failed)?.unwrap_or_default())
    }

    /// Errors: no Unix socket is named, or our own binary can't be read.
    pub fn site(&self, config: &Config) -> Result<Site, Failure> {
        let engine = Arc::new(Engine::new(self.socket(config)?, *config.engine.timeout));
        let configured = Some(&config.engine.instance).filter(|name| !name.is_empty());
        let usual = || match self.is_root {
            true => "system".to_owned(),
            false => format!("user-{}", rustix::process::geteuid().as_raw()),
        };
        let given = self.options.text("instance").or(configured.cloned());
        let (instance, dirs) = (given.unwrap_or_else(usual), self.dirs.clone());
        Ok(Site::new(engine, dirs, instance, builtin_tag()?))
    }

    /// --engine, then the configuration, then DOCKER_HOST, then the first of the usual sockets that may be used: a user's
    /// own, then the machine's. Where none may be used, the first one will say so.
    fn socket(&self, config: &Config) -> Result<PathBuf, Failure> {
        let (given, configured) = (self.options.text("engine"), &config.engine.socket);
        let host = env::var("DOCKER_HOST").ok();
        let mut named = given.iter().chain([configured]).chain(&host);
        if let Some(text) = named.find(|text| !text.is_empty()) {
            let path = Path::new(text.strip_prefix("unix://").unwrap_or(text));
            let hint = "write --engine or DOCKER_HOST as unix:///PATH (it must be this machine's)";
            let wrong = format!("'{text}' is not a Unix socket; {hint}");
            let path = path.has_root().then(|| path.to_owned());
            return path.ok_or(Failure(Exit::Usage, wrong));
        }
        let own = env::var("XDG_RUNTIME_DIR").ok().filter(|_| !self.is_root);
        let places = [own.unwrap_or("/run".to_owned()), "/var/run".to_owned()];
        let names = ["docker.sock", "podman/podman.sock"];
        let below = |place| names.map(|name| Path::new(place).join(name));
        let rank = |socket: &PathBuf| match access(socket, Access::WRITE_OK) {
            Ok(()) => 0,
            Err(_) if socket.exists() => 1,
            Err(_) if socket.starts_with("/var/run") => 2,
            Err(_) => 3,
        };
        let best = places.iter().flat_map(below).min_by_key(rank);
        Ok(best.unwrap_or_default())
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_help_is_carried_out() {
        let source = include_str!("mod.rs");
        for command in cli::commands().filter(|command| *command != "help") {
            assert!(source.contains(&format!("\"{command}\" => ")), "{command}");
        }
    }
}
