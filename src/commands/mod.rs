//! One file or function a command; the only rooms that print.

mod check;
mod control;
mod history;
mod images;
mod join;
pub mod pilot;
mod remove;
mod replay;
mod run;
mod status;
mod try_out;
mod view;

use crate::cli::{Cli, Command, Exit, Options, help};
use crate::config::{self, Config};
use crate::engine::Engine;
use crate::remote::Remote;
use crate::state::Dirs;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where a command works, put together from options, environment and (once it is read) configuration.
pub struct Place {
    pub options: Options,
    pub dirs: Dirs,
    pub is_root: bool,
}

/// Carries a command out.
pub fn dispatch(cli: Cli) -> Exit {
    let uid = rustix::process::geteuid();
    let env = |name: &str| std::env::var_os(name);
    let dirs = Dirs::resolve(uid.as_raw(), env, &cli.options);
    let place = Place {
        options: cli.options,
        dirs,
        is_root: uid.is_root(),
    };
    match cli.command {
        Command::Try { duration } => try_out::run(&place, duration),
        Command::Run {
            once,
            dry_run,
            drain,
            record,
        } => run::run(&place, once, dry_run, drain, record.as_deref()),
        Command::Start => run::start(&place),
        Command::Stop => run::stop(&place),
        Command::Status { json, watch } => status::status(&place, json, watch),
        Command::Why => status::why(&place),
        Command::Health => status::health(&place),
        Command::Drain { stop, by } => control::drain(&place, stop, by.as_deref()),
        Command::Resume => control::resume(&place),
        Command::Snooze(duration) => control::snooze(&place, duration),
        Command::ForceStop => control::force_stop(&place),
        Command::Kill(pilot) => remove::kill(&place, &pilot),
        Command::Log(pilot) => images::log(&place, pilot.as_deref()),
        Command::Pull => images::pull(&place),
        Command::Check { offline } => check::check(&place, offline),
        Command::Config { default } => show_config(&place, default),
        Command::Replay(file) => replay::replay(&place, &file),
        Command::History { days, json, csv } => history::history(&place, days, json, csv),
        Command::Report(file) => history::report(&place, &file),
        Command::Join { url, key, yes } => join::join(&place, &url, key.as_deref(), yes),
        Command::Accept { yes } => join::accept(&place, yes),
        Command::Leave => join::leave(&place),
        Command::Reap => remove::reap(&place),
        Command::Purge {
            dry_run,
            keep_state,
        } => {
            let keep = if keep_state {
                remove::Keep::State
            } else {
                remove::Keep::Nothing
            };
            remove::purge(&place, dry_run, keep)
        }
        Command::Pilot { duration, from, to } => payload(&pilot::Work { duration, from, to }),
        Command::Help(topic) => {
            say(&help::text(topic));
            Exit::Done
        }
        Command::Version => {
            say(&format!("plancton {}\n", env!("CARGO_PKG_VERSION")));
            Exit::Done
        }
    }
}

/// To standard output. A reader that has gone away is no reason to fail.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// To standard error, as `plancton: …`.
pub fn complain(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "plancton: {text}");
}

/// Says what failed, and is the exit code for it.
fn fail(exit: Exit, text: impl std::fmt::Display) -> Exit {
    complain(text);
    exit
}

/// The effective configuration, or every problem of the file, one a line.
pub fn read_config(file: &Path) -> Result<Config, String> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        let why = match error.kind() {
            ErrorKind::NotFound => {
                "no such file; write one (`plancton config --default` is a beginning), or leave --config out".to_owned()
            }
            ErrorKind::IsADirectory => "it is a directory; name the file in it".to_owned(),
            ErrorKind::InvalidData => "it is not UTF-8 text; save it as that".to_owned(),
            _ => error.to_string(),
        };
        format!("{}: {why}", file.display())
    })?;
    config::parse(&text, &file.display().to_string()).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        lines.join("\n")
    })
}

impl Place {
    /// The configuration of the file given, which must exist, or of the usual one, which need not. Problems are printed.
    fn config(&self) -> Result<(Config, Option<PathBuf>), Exit> {
        let file = &self.dirs.config;
        if self.options.config.is_none() && !file.exists() {
            return Ok((Config::default(), None));
        }
        match read_config(file) {
            Ok(config) => Ok((config, Some(file.clone()))),
            Err(problems) => {
                complain(format!(
                    "{problems}\nplancton: nothing was started; `plancton config --default` shows every key"
                ));
                Err(Exit::Configuration)
            }
        }
    }

    fn engine(&self, config: &Config) -> Result<Arc<Engine>, Exit> {
        let socket = self
            .socket(config)
            .map_err(|text| fail(Exit::Usage, text))?;
        Ok(Arc::new(Engine::new(socket, config.engine.timeout)))
    }

    /// --engine, then the configuration, then DOCKER_HOST, then the first socket that is where engines have theirs.
    fn socket(&self, config: &Config) -> Result<PathBuf, String> {
        let named = [
            ("--engine", self.options.engine.clone()),
            ("[engine] socket", Some(config.engine.socket.clone())),
        ];
        let host = std::env::var("DOCKER_HOST").ok();
        let named = named.into_iter().chain([("DOCKER_HOST", host)]);
        let found = named
            .into_iter()
            .find_map(|(from, text)| Some((from, text.filter(|text| !text.is_empty())?)));
        if let Some((from, text)) = found {
            let path = text.strip_prefix("unix://").unwrap_or(&text);
            if path.starts_with('/') {
                return Ok(PathBuf::from(path));
            }
            return Err(format!(
                "{from}: '{text}' is not a Unix socket; write it as unix:///PATH (engines elsewhere are not this machine)"
            ));
        }
        let run = std::env::var_os("XDG_RUNTIME_DIR")
            .map(PathBuf::from)
            .filter(|_| !self.is_root);
        let of_user = run
            .iter()
            .flat_map(|run| [run.join("docker.sock"), run.join("podman/podman.sock")]);
        let of_machine = ["/var/run/docker.sock", "/run/podman/podman.sock"].map(PathBuf::from);
        let [docker, podman] = of_machine;
        let mut sockets = std::iter::once(docker).chain(of_user).chain([podman]);
        Ok(sockets
            .find(|socket| socket.exists())
            .unwrap_or_else(|| PathBuf::from("/var/run/docker.sock")))
    }

    fn instance(&self, config: &Config) -> String {
        let configured = Some(config.engine.instance.clone()).filter(|name| !name.is_empty());
        self.options
            .instance
            .clone()
            .or(configured)
            .unwrap_or_else(|| match self.is_root {
                true => "system".to_owned(),
                false => format!("user-{}", rustix::process::geteuid().as_raw()),
            })
    }

    /// Directories of the daemon that a command speaks to: one's own, else the machine's.
    fn addressed(&self) -> Dirs {
        self.dirs.clone().addressed(Dirs::machine())
    }
}

fn show_config(place: &Place, default: bool) -> Exit {
    if default {
        say(config::DEFAULT_TEXT);
        return Exit::Done;
    }
    match place.config() {
        Ok((config, file)) => {
            let mut from = file.map_or("built-in defaults".to_owned(), |file| {
                file.display().to_string()
            });
            let mut remote = Remote::default();
            let config = remote.adopt(&place.dirs.state, &config);
            if let Some(told) = remote.told {
                from += &format!(" and {} ({})", told.url, told.hash);
            }
            say(&format!("# in force, from {from}\n{}", config.to_toml()));
            Exit::Done
        }
        Err(exit) => exit,
    }
}

fn payload(work: &pilot::Work) -> Exit {
    match pilot::run(work, &mut std::io::stdout()) {
        Ok(_) => Exit::Done,
        Err(error) => fail(Exit::Failed, error),
    }
}

/// What is drawn on: the terminal's size, and colour where it is wanted (`NO_COLOR`).
fn screen() -> view::Screen {
    let out = std::io::stdout();
    let terminal = out.is_terminal();
    let size = rustix::termios::tcgetwinsize(&out)
        .ok()
        .filter(|size| terminal && size.ws_col > 0);
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || std::env::var_os("TERM").is_some_and(|term| term == *"dumb");
    view::Screen {
        width: size.map_or(80, |size| size.ws_col),
        height: size.map(|size| size.ws_row),
        colour: if terminal && !plain {
            view::Colour::On
        } else {
            view::Colour::Off
        },
        zone: jiff::tz::TimeZone::system(),
    }
}

/// Polls until something is so, or the time is over: for commands that wait for a daemon or an engine.
fn wait_until(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let start = std::time::Instant::now();
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
