//! `run`, and the loop in the background where there is no systemd: `start`, `stop`.

use super::context::{Context, Done, Failure, complain, is_running, say, wait_until};
use crate::cli::Options;
use crate::clock;
use crate::config::Config;
use crate::daemon::{self, Start};
use crate::decide::Drain;
use crate::remote::{self, Joined};
use crate::state::{self, Probe, Scope, control};
use crate::units::{Exit, count_pilots};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, absolute};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use std::{env, io};

/// How long `start` waits for the first turn, and `stop` for the end.
const PATIENCE: Duration = Duration::from_secs(10);
const UNIT: &str = "plancton.service";

/// The loop in the foreground.
pub fn run(context: &Context) -> Done {
    let start = prepare(context)?;
    if context.options.drain {
        let since = clock::now().epoch;
        let (stop, by) = (false, None);
        control::request(&start.site.dirs, control::DRAIN, &Drain { stop, by, since })?;
    }
    let socket = start.site.engine.socket().display();
    log::info!("plancton {} on {socket}", env!("CARGO_PKG_VERSION"));
    match daemon::run(start) {
        Ok(Exit::Done) => Ok(()),
        Ok(exit) => Err(Failure(exit, String::new())),
        Err(error) => Err(format!("the loop can't start: {error}").into()),
    }
}

fn prepare(context: &Context) -> Result<Start, Failure> {
    let config = context.config().map_err(nothing_started)?;
    let site = Arc::new(context.site(&config)?);
    context.prepare()?;
    let lock = state::take_lock(&context.dirs.run, site.engine.socket(), &site.instance)?;
    join_deployed(&context.dirs.state, &config)?;
    let recording = context.options.record.as_ref().map(|file| {
        let (opened, shown) = (append(file), file.display());
        opened.map_err(|error| format!("{shown}: {error}; nothing is recorded there"))
    });
    Ok(Start {
        site,
        config,
        config_file: context.config_file().map(Path::to_owned),
        once: context.options.once,
        dry_run: context.options.dry_run,
        recording: recording.transpose()?,
        lock,
    })
}

fn append(file: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(file)
}

fn nothing_started(Failure(exit, text): Failure) -> Failure {
    let hint = "nothing was started; `plancton config --default` shows every key";
    Failure(exit, format!("{text}\n{hint}"))
}

/// The url that came with this daemon's deployment, as in a container; the first look at it is the loop's.
fn join_deployed(state: &Path, config: &Config) -> Done {
    let url = env::var("PLANCTON_CONFIG_URL").unwrap_or_default();
    if url.is_empty() {
        return Ok(());
    }
    let wrong = |why| Failure(Exit::Configuration, format!("PLANCTON_CONFIG_URL: {why}"));
    remote::check_url(&url, &config.allow).map_err(wrong)?;
    let joined = Joined {
        url,
        is_trusted: true,
        ..Joined::default()
    };
    if remote::read_joined(state).as_ref() != Some(&joined) {
        remote::write_joined(state, &joined)?;
    }
    Ok(())
}

/// The loop in the background. With the unit loaded systemd has it; without, it is ours.
pub fn start(context: &Context) -> Done {
    if has_unit(context) {
        return systemctl("start");
    }
    let dirs = &context.dirs;
    if is_running(&dirs.run) {
        return say(&format!("{} is already running\n", daemon_of(&dirs.run)));
    }
    context.config().map_err(nothing_started)?;
    context.prepare()?;
    let log = dirs.state.join("plancton.log");
    let shown = log.display();
    spawn(context, &log).map_err(|error| format!("{shown}: {error}; nothing was started"))?;
    if !wait_until(PATIENCE, || context.status().is_some()) {
        let seconds = PATIENCE.as_secs();
        return Err(format!("the loop has not turned within {seconds} s; {shown} says why").into());
    }
    let hint = "`plancton status` shows what it does";
    say(&format!("plancton runs; {hint}, {shown} is its log\n"))
}

/// `plancton run` in the same place as this command; what it says goes to the file.
pub fn spawn(context: &Context, log: &Path) -> io::Result<Child> {
    let (dirs, options) = (&context.dirs, &context.options);
    let out = append(log)?;
    let mut command = Command::new(env::current_exe()?);
    command.arg("--run-dir").arg(absolute(&dirs.run)?);
    command.arg("--state-dir").arg(absolute(&dirs.state)?);
    if let Some(file) = context.config_file() {
        command.arg("--config").arg(absolute(file)?);
    }
    let Options {
        engine, instance, ..
    } = options;
    command.args(engine.iter().flat_map(|value| ["--engine", value]));
    command.args(instance.iter().flat_map(|value| ["--instance", value]));
    command.arg("run").stdin(Stdio::null());
    command.stdout(out.try_clone()?).stderr(out);
    // A group of its own: the terminal's Ctrl-C and hang-up are not for it.
    command.current_dir("/").process_group(0).spawn()
}

/// Ends the loop. Pilots outlive it.
pub fn stop(context: &Context) -> Done {
    if !is_running(&context.dirs.run) && !has_unit(context) {
        return say("plancton is not running\n");
    }
    let left = context.status().map_or(0, |status| status.pilots.len());
    end_daemon(context, &[Signal::TERM])?;
    if left == 0 {
        return say("plancton has ended; no pilot is left\n");
    }
    let left = count_pilots(left) + " go on until done or past their ttl";
    say(&format!("plancton has ended; {left}\n"))?;
    say("`plancton start` takes them over again, `plancton force-stop` removes them now\n")
}

/// By systemd if that has it, and by one signal after the other. Errors: it runs on.
pub fn end_daemon(context: &Context, signals: &[Signal]) -> Done {
    let run = &context.dirs.run;
    if has_unit(context) {
        systemctl("stop")?;
    }
    for signal in signals {
        if is_running(run) && send(run, *signal) {
            wait_until(PATIENCE, || !is_running(run));
        }
    }
    if is_running(run) {
        return Err(format!("{} runs on and could not be ended", daemon_of(run)).into());
    }
    Ok(())
}

/// `the daemon (pid 7)`
fn daemon_of(run: &Path) -> String {
    match state::probe_lock(run) {
        Probe::Held(Some(pid)) => format!("the daemon (pid {pid})"),
        _ => format!("the daemon of {}", run.display()),
    }
}

/// To who holds the lock of a run directory; whether it was sent.
pub fn send(run: &Path, signal: Signal) -> bool {
    let Probe::Held(Some(pid)) = state::probe_lock(run) else {
        return false;
    };
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// Whether the machine's daemon is meant, and systemd has it.
fn has_unit(context: &Context) -> bool {
    let options = &context.options;
    let is_elsewhere = options.config.is_some() || context.dirs.scope != Scope::Machine;
    if is_elsewhere || options.engine.is_some() || options.instance.is_some() {
        return false;
    }
    let mut show = Command::new("systemctl");
    show.args(["show", "--property=LoadState", "--value", UNIT]);
    let shown = show.output().map(|output| output.stdout);
    Path::new("/run/systemd/system").is_dir() && shown.is_ok_and(|state| state == b"loaded\n")
}

fn systemctl(verb: &str) -> Done {
    complain(&format!("systemd has the unit: systemctl {verb} {UNIT}"));
    let mut command = Command::new("systemctl");
    match command.args([verb, UNIT]).status()?.success() {
        true => Ok(()),
        false => Err("systemctl failed; `journalctl -u plancton` says why".into()),
    }
}
