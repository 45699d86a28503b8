//! `run`, and the loop in the background where there is no systemd: `start`, `stop`.

use super::context::{Context, Done, Failure, complain, failed, say, wait_until};
use crate::clock;
use crate::config::Config;
use crate::daemon::{self, Start};
use crate::decide::Drain;
use crate::remote::{self, Joined};
use crate::state::{self, Probe, control};
use crate::units::{Exit, count_pilots};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// How long `start` waits for the first turn, and `stop` for the end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The loop in the foreground.
pub fn run(context: &Context) -> Done {
    let start = prepare(context)?;
    if context.options.drain {
        let drain = Drain {
            since: clock::now().epoch,
            ..Drain::default()
        };
        control::request_drain(&start.site.dirs.state, &drain)?;
    }
    log::info!(
        "plancton {} on {}",
        env!("CARGO_PKG_VERSION"),
        start.site.engine.socket().display()
    );
    match daemon::run(start) {
        Ok(Exit::Done) => Ok(()),
        Ok(exit) => Err(Failure::new(exit, "")),
        Err(error) => Err(failed(format!("the loop can't start: {error}"))),
    }
}

fn prepare(context: &Context) -> Result<Start, Failure> {
    let options = &context.options;
    let config = context.config()?;
    let engine = context.engine(&config)?;
    context.prepare()?;
    let lock = state::take_lock(&context.dirs.run)?;
    join_deployed(&context.dirs.state, &config)?;
    let recording = options.record.as_deref().map(|file| {
        let opened = OpenOptions::new().create(true).append(true).open(file);
        opened.map_err(|error| {
            failed(format!(
                "{}: {error}; nothing is recorded there",
                file.display()
            ))
        })
    });
    Ok(Start {
        site: Arc::new(context.site(engine, &config)?),
        config,
        config_file: context.config_file().map(Path::to_owned),
        once: options.once,
        dry_run: options.dry_run,
        recording: recording.transpose()?,
        lock,
    })
}

/// The url that came with this daemon's deployment, as in a container; the first look at it is the loop's.
fn join_deployed(state: &Path, config: &Config) -> Done {
    let url = std::env::var("PLANCTON_CONFIG_URL").unwrap_or_default();
    if url.is_empty() {
        return Ok(());
    }
    remote::check_url(&url, &config.allow)
        .map_err(|why| Failure::new(Exit::Configuration, format!("PLANCTON_CONFIG_URL: {why}")))?;
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
    if let Some(done) = systemctl(context, "start") {
        return done;
    }
    let dirs = &context.dirs;
    if let Probe::Held(pid) = state::probe_lock(&dirs.run) {
        let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        return say(&format!("plancton is already running{pid}\n"));
    }
    context.config()?;
    context.prepare()?;
    let log = dirs.state.join("plancton.log");
    let shown = log.display();
    spawn(context, &log)
        .map_err(|error| failed(format!("{shown}: {error}; nothing was started")))?;
    let turned = || state::read_status(&dirs.run).is_ok_and(|status| status.is_some());
    if !wait_until(PATIENCE, turned) {
        return Err(failed(format!(
            "the loop has not turned within {} s; {shown} says why",
            PATIENCE.as_secs()
        )));
    }
    say(&format!(
        "plancton runs; `plancton status` shows what it does, {shown} is its log\n"
    ))
}

/// `plancton run` in the same place as this command; what it says goes to the file.
pub fn spawn(context: &Context, log: &Path) -> std::io::Result<Child> {
    let out = OpenOptions::new().create(true).append(true).open(log)?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(forwarded(context))
        .arg("run")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out);
    // A group of its own: the terminal's Ctrl-C and hang-up are not for it.
    command.current_dir("/").process_group(0).spawn()
}

/// The options of this call that say where to work.
fn forwarded(context: &Context) -> Vec<OsString> {
    let options = &context.options;
    let path = |path: &Option<std::path::PathBuf>| {
        let absolute = path.as_ref().map(std::path::absolute);
        absolute.and_then(Result::ok).map(OsString::from)
    };
    let given = [
        ("--config", path(&options.config)),
        ("--engine", options.engine.as_ref().map(OsString::from)),
        ("--instance", options.instance.as_ref().map(OsString::from)),
        ("--run-dir", path(&options.run_dir)),
        ("--state-dir", path(&options.state_dir)),
    ];
    let given = given
        .into_iter()
        .filter_map(|(name, value)| Some([name.into(), value?]));
    given.flatten().collect()
}

/// Ends the loop. Pilots outlive it.
pub fn stop(context: &Context) -> Done {
    if let Some(done) = systemctl(context, "stop") {
        return done;
    }
    let run = &context.dirs.run;
    let Probe::Held(pid) = state::probe_lock(run) else {
        return say("plancton is not running\n");
    };
    let status = state::read_status(run).ok().flatten();
    let pid = pid.ok_or_else(|| {
        failed(format!(
            "{}: the lock names no pid; end the daemon by hand",
            run.display()
        ))
    })?;
    signal(pid, Signal::TERM)?;
    if !wait_until(PATIENCE, || {
        !matches!(state::probe_lock(run), Probe::Held(_))
    }) {
        let seconds = PATIENCE.as_secs();
        return Err(failed(format!(
            "pid {pid} has not ended within {seconds} s"
        )));
    }
    match status.map_or(0, |status| status.pilots.len()) {
        0 => say("plancton has ended; no pilot is left\n"),
        left => say(&format!(
            "plancton has ended; {} go on until done or past their ttl\n\
             `plancton start` takes them over again, `plancton force-stop` removes them now\n",
            count_pilots(left)
        )),
    }
}

pub fn signal(pid: u32, signal: Signal) -> Done {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let sent = raw.map(|pid| kill_process(pid, signal));
    match sent {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => Err(failed(format!("pid {pid}: {error}; no signal was sent"))),
        None => Err(failed(format!("pid {pid} is no process"))),
    }
}

/// `None`: there is no unit of ours here, or other directories were asked for.
fn systemctl(context: &Context, verb: &str) -> Option<Done> {
    let is_plain = context.is_root && forwarded(context).is_empty();
    if !is_plain || !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let mut show = Command::new("systemctl");
    show.args([
        "show",
        "--property=LoadState",
        "--value",
        "plancton.service",
    ]);
    let shown = show.stderr(Stdio::null()).output().ok()?;
    if shown.stdout.trim_ascii() != b"loaded" {
        return None;
    }
    complain(&format!(
        "systemd has the unit: systemctl {verb} plancton.service"
    ));
    let mut command = Command::new("systemctl");
    Some(match command.args([verb, "plancton.service"]).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(failed(
            "systemctl failed; `journalctl -u plancton` says why",
        )),
        Err(error) => Err(failed(format!("systemctl: {error}"))),
    })
}

/// Has a daemon that runs read its configuration again; false: there is none.
pub fn reload(context: &Context) -> bool {
    match state::probe_lock(&context.dirs.run) {
        Probe::Held(Some(pid)) => signal(pid, Signal::HUP).is_ok(),
        _ => false,
    }
}
