//! `run`, and the loop in the background where there is no systemd: `start`, `stop`.

use super::{Place, complain, fail, say, wait_until};
use crate::cli::Exit;
use crate::config::Config;
use crate::daemon::{self, Start};
use crate::remote::{self, Joined};
use crate::state::{self, Probe, control};
use crate::units::count_pilots;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long `start` waits for the first turn, and `stop` for the end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The loop in the foreground.
pub fn run(place: &Place, once: bool, dry_run: bool, drain: bool, record: Option<&Path>) -> Exit {
    match prepare(place, once, dry_run, record) {
        Ok(start) => {
            if drain
                && let Err(error) = super::control::request_drain(&start.dirs.state, false, None)
            {
                return fail(Exit::Failed, error);
            }
            log::info!(
                "plancton {} on {}",
                env!("CARGO_PKG_VERSION"),
                start.engine.socket().display()
            );
            daemon::run(start).unwrap_or_else(|error| {
                fail(Exit::Failed, format!("the loop can't start: {error}"))
            })
        }
        Err(exit) => exit,
    }
}

fn prepare(place: &Place, once: bool, dry_run: bool, record: Option<&Path>) -> Result<Start, Exit> {
    let (config, config_file) = place.config()?;
    let engine = place.engine(&config)?;
    let dirs = place.dirs.clone();
    dirs.prepare(Path::new("/etc/group"))
        .map_err(|error| fail(Exit::Failed, error))?;
    let lock = state::take_lock(&dirs.run).map_err(|error| fail(Exit::Failed, error))?;
    join_deployed(&dirs.state, &config)?;
    let record = record.map(open_record).transpose()?;
    let instance = place.instance(&config);
    Ok(Start {
        config,
        config_file,
        dirs,
        engine,
        instance,
        host: crate::host::name(),
        once,
        dry_run,
        record,
        lock,
    })
}

/// The url that came with this daemon's deployment, as in a container; the first look at it is the loop's.
fn join_deployed(state: &Path, config: &Config) -> Result<(), Exit> {
    let Some(url) = std::env::var("PLANCTON_CONFIG_URL")
        .ok()
        .filter(|url| !url.is_empty())
    else {
        return Ok(());
    };
    remote::check_url(&url, &config.allow)
        .map_err(|why| fail(Exit::Configuration, format!("PLANCTON_CONFIG_URL: {why}")))?;
    let joined = Joined {
        url,
        is_trusted: true,
        ..Joined::default()
    };
    if remote::read_joined(state).as_ref() == Some(&joined) {
        return Ok(());
    }
    remote::write_joined(state, &joined).map_err(|error| fail(Exit::Failed, error))
}

fn open_record(file: &Path) -> Result<File, Exit> {
    let opened = OpenOptions::new().create(true).append(true).open(file);
    opened.map_err(|error| {
        fail(
            Exit::Failed,
            format!("{}: {error}; nothing is recorded there", file.display()),
        )
    })
}

/// The loop in the background. With the unit loaded systemd has it; without, it is ours.
pub fn start(place: &Place) -> Exit {
    if let Some(exit) = systemctl(place, "start") {
        return exit;
    }
    if let Probe::Held(pid) = state::probe_lock(&place.dirs.run) {
        let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        say(&format!("plancton runs already{pid}\n"));
        return Exit::Done;
    }
    if let Err(exit) = place.config() {
        return exit;
    }
    if let Err(error) = place.dirs.prepare(Path::new("/etc/group")) {
        return fail(Exit::Failed, error);
    }
    let log = place.dirs.state.join("plancton.log");
    match spawn(place, &log) {
        Ok(()) => {}
        Err(error) => {
            return fail(
                Exit::Failed,
                format!("{}: {error}; nothing was started", log.display()),
            );
        }
    }
    let turned = || state::read_status(&place.dirs.run).is_ok_and(|status| status.is_some());
    if wait_until(PATIENCE, turned) {
        say(&format!(
            "plancton runs; `plancton status` shows what it does, {} is its log\n",
            log.display()
        ));
        return Exit::Done;
    }
    fail(
        Exit::Failed,
        format!(
            "the loop has not turned within {} s; {} says why",
            PATIENCE.as_secs(),
            log.display()
        ),
    )
}

fn spawn(place: &Place, log: &Path) -> std::io::Result<()> {
    let out = OpenOptions::new().create(true).append(true).open(log)?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(forwarded(place))
        .arg("run")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out);
    // A group of its own: the terminal's Ctrl-C and hang-up are not for it.
    command.current_dir("/").process_group(0).spawn().map(drop)
}

/// The options of this call, for a process that is to work in the same place.
pub fn forwarded(place: &Place) -> Vec<std::ffi::OsString> {
    let options = &place.options;
    let mut arguments = Vec::new();
    let mut add = |name: &str, value: Option<std::ffi::OsString>| {
        if let Some(value) = value {
            arguments.extend([name.into(), value]);
        }
    };
    let absolute = |path: &Path| {
        std::path::absolute(path)
            .unwrap_or_else(|_| path.to_owned())
            .into_os_string()
    };
    add("--config", options.config.as_deref().map(absolute));
    add("--engine", options.engine.as_ref().map(Into::into));
    add("--instance", options.instance.as_ref().map(Into::into));
    add("--run-dir", options.run_dir.as_deref().map(absolute));
    add("--state-dir", options.state_dir.as_deref().map(absolute));
    arguments
}

/// Ends the loop. Pilots outlive it.
pub fn stop(place: &Place) -> Exit {
    if let Some(exit) = systemctl(place, "stop") {
        return exit;
    }
    let Probe::Held(pid) = state::probe_lock(&place.dirs.run) else {
        say("plancton does not run\n");
        return Exit::Done;
    };
    let left = state::read_status(&place.dirs.run)
        .ok()
        .flatten()
        .map_or(0, |status| status.pilots.len());
    let pid = pid
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(Pid::from_raw);
    let Some(pid) = pid else {
        return fail(
            Exit::Failed,
            format!(
                "{}: the lock names no pid; end the daemon by hand",
                place.dirs.run.display()
            ),
        );
    };
    if let Err(error) = kill_process(pid, Signal::TERM) {
        return fail(
            Exit::Failed,
            format!("pid {pid}: {error}; it was not ended"),
        );
    }
    if !wait_until(PATIENCE, || {
        !matches!(state::probe_lock(&place.dirs.run), Probe::Held(_))
    }) {
        return fail(
            Exit::Failed,
            format!("pid {pid} has not ended within {} s", PATIENCE.as_secs()),
        );
    }
    say("plancton has ended");
    match left {
        0 => say("; no pilot is left\n"),
        left => say(&format!(
            "; {} go on until done or past their ttl\n\
             `plancton start` takes them over again, `plancton force-stop` removes them now\n",
            count_pilots(left)
        )),
    }
    Exit::Done
}

/// `None`: there is no unit of ours here, or other directories were asked for.
fn systemctl(place: &Place, verb: &str) -> Option<Exit> {
    let ours = place.is_root && place.options == crate::cli::Options::default();
    if !ours || !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let quiet = |arguments: &[&str]| {
        Command::new("systemctl")
            .args(arguments)
            .stderr(Stdio::null())
            .output()
    };
    let shown = quiet(&[
        "show",
        "--property=LoadState",
        "--value",
        "plancton.service",
    ])
    .ok()?;
    if shown.stdout.trim_ascii() != b"loaded" {
        return None;
    }
    complain(format!(
        "systemd has the unit: systemctl {verb} plancton.service"
    ));
    match Command::new("systemctl")
        .args([verb, "plancton.service"])
        .status()
    {
        Ok(status) if status.success() => Some(Exit::Done),
        Ok(_) => Some(fail(
            Exit::Failed,
            "systemctl failed; `journalctl -u plancton` says why",
        )),
        Err(error) => Some(fail(Exit::Failed, format!("systemctl: {error}"))),
    }
}

/// True while a daemon holds the directory.
pub fn is_running(run: &Path) -> bool {
    match state::probe_lock(run) {
        Probe::Held(_) => true,
        Probe::Free => false,
        // A user looking at root's: its status file goes away with it.
        Probe::Unknown => state::read_status(run).is_ok_and(|status| status.is_some()),
    }
}

/// Has a daemon that runs read its configuration again; false: there is none.
pub fn reload(place: &Place) -> bool {
    let Probe::Held(Some(pid)) = state::probe_lock(&place.dirs.run) else {
        return false;
    };
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, Signal::HUP).is_ok())
}

/// Makes sure that a request can be written: a daemon that never ran has no control directory.
pub fn control_directory(place: &Place) -> Result<(), Exit> {
    let dirs = place.addressed();
    if dirs == place.dirs && !control::directory(&dirs.state).is_dir() {
        return dirs
            .prepare(Path::new("/etc/group"))
            .map_err(|error| fail(Exit::Failed, error));
    }
    Ok(())
}
