//! The loop in the foreground (`run`) and in the background where there is no systemd (`start`, `stop`), what the owner asks
//! of it while it runs, as files in its control directory by which it is woken at once, and its decisions over again
//! (`replay`).

use super::*;
use crate::daemon::{self, Start};
use crate::{act::describe, units::parse_duration};
use jiff::civil::Time;
use rustix::process::kill_process;
use std::process::{Child, Command, Output, Stdio};
use std::{io::Read, os::unix::process::CommandExt, path::absolute};

/// How long is waited for the first turn, and for the end.
const PATIENCE: Duration = Duration::from_secs(10);
const UNIT: &str = "plancton.service";
/// In bytes: it is read into memory.
const LONGEST_RECORDING: u64 = 1 << 30;

/// The loop in the foreground.
pub fn run(context: &Context) -> Done {
    let (dirs, options) = (&context.dirs, &context.options);
    let config = context.config()?;
    let site = Arc::new(context.site(&config)?);
    context.dirs.prepare(Path::new("/"))?;
    let _held = state::take_lock(&dirs.run, &site.engine.socket, &site.instance)?;
    join_deployed(&dirs.state, &config)?;
    let append = |file: PathBuf| files::open_to_append(&file);
    let recording = options.path("record").map(append).transpose()?;
    if options.has("drain") {
        control::request(dirs, control::DRAIN, &Drain::default())?;
    }
    let (socket, version) = (site.engine.socket.display(), env!("CARGO_PKG_VERSION"));
    log::info!("plancton {version} on {socket}");
    let start = Start {
        config,
        once: options.has("once"),
        dry_run: options.has("dry-run"),
        recording,
    };
    let ended = daemon::run(site, start);
    match ended.map_err(|error| format!("the loop cannot start: {error}"))? {
        Exit::Done => Ok(()),
        exit => Err(Failure(exit, String::new())),
    }
}

/// The url that came with this daemon's deployment, as in a container; the first look at it is the loop's.
fn join_deployed(state: &Path, config: &Config) -> Done {
    let joined = Joined {
        url: env::var("PLANCTON_CONFIG_URL").unwrap_or_default(),
        is_trusted: true,
        ..Joined::default()
    };
    if joined.url.is_empty() || remote::read_joined(state).as_ref() == Some(&joined) {
        return Ok(());
    }
    let wrong = |why| Failure(Exit::Configuration, format!("PLANCTON_CONFIG_URL: {why}"));
    remote::check(&joined.url, "", &config.allow).map_err(wrong)?;
    Ok(remote::write_joined(state, &joined)?)
}

/// The loop in the background. With the unit loaded systemd has it; without, it is ours.
pub fn start(context: &Context) -> Done {
    let dirs = &context.dirs;
    if has_unit(context) {
        return systemctl("start");
    }
    if let Some(pid) = state::lock_holder(&dirs.run) {
        return say(&format!("plancton is already running (pid {pid})\n"));
    }
    context.config()?;
    context.dirs.prepare(Path::new("/"))?;
    let log = dirs.state.join("plancton.log");
    spawn(context, &log)?;
    let (log, hint) = (log.display(), "`plancton status` shows what it does");
    match wait_until(PATIENCE, || context.status().is_some()) {
        true => say(&format!("plancton is running; {hint}, its log is {log}\n")),
        false => Err(format!("the daemon has not started; {log} says why").into()),
    }
}

/// `plancton run` in the same place as this command; what it says goes to the file.
pub fn spawn(context: &Context, log: &Path) -> Result<Child, Failure> {
    let (dirs, out) = (&context.dirs, files::open_to_append(log)?);
    let mut command = Command::new(env::current_exe()?);
    command.arg("--run-dir").arg(absolute(&dirs.run)?);
    command.arg("--state-dir").arg(absolute(&dirs.state)?);
    if let Some(file) = context.config_file() {
        command.arg("--config").arg(absolute(file)?);
    }
    for name in ["engine", "instance"] {
        let given = context.options.given.get(name);
        command.args(given.map(|_| format!("--{name}"))).args(given);
    }
    command.arg("run").stdin(Stdio::null());
    command.stdout(out.try_clone()?).stderr(out);
    // A group of its own: the terminal's Ctrl-C and hang-up are not for it.
    Ok(command.current_dir("/").process_group(0).spawn()?)
}

/// Ends the loop. Pilots outlive it.
pub fn stop(context: &Context) -> Done {
    if !is_running(&context.dirs.run) && !has_unit(context) {
        return say("plancton is not running\n");
    }
    let pilots = context.status().map_or(0, |status| status.pilots.len());
    end_daemon(context, &[Signal::TERM])?;
    let left = count_pilots(pilots);
    let text = format!("plancton has ended; {left} left, to finish or reach the ttl\n");
    say(&text)?;
    match pilots {
        0 => Ok(()),
        _ => say("`plancton start` takes them over again, `plancton force-stop` removes them\n"),
    }
}

/// By systemd if that has it, and by one signal after the other. Errors: it runs on.
pub fn end_daemon(context: &Context, signals: &[Signal]) -> Done {
    let run = &context.dirs.run;
    if has_unit(context) {
        systemctl("stop")?;
    }
    let is_over = || !is_running(run);
    let ends = |signal: &Signal| send(run, *signal) && wait_until(PATIENCE, is_over);
    match signals.iter().any(ends) || is_over() {
        true => Ok(()),
        false => Err("the daemon could not be ended, it is still running".into()),
    }
}

/// To who holds the lock of a run directory, as the kernel names them to us; whether it was sent.
pub fn send(run: &Path, signal: Signal) -> bool {
    state::lock_holder(run).is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// Whether the machine's daemon is meant, and systemd has it.
fn has_unit(context: &Context) -> bool {
    let elsewhere = ["config", "engine", "instance"];
    let is_elsewhere = elsewhere.iter().any(|name| context.options.has(name));
    let mut show = Command::new("systemctl");
    show.args(["show", "--property=LoadState", "--value", UNIT]);
    let is_loaded = |shown: Output| shown.stdout == b"loaded\n";
    context.dirs.scope == Scope::Machine
        && !is_elsewhere
        && Path::new("/run/systemd/system").is_dir()
        && show.output().is_ok_and(is_loaded)
}

fn systemctl(verb: &str) -> Done {
    complain(&format!("running `systemctl {verb} {UNIT}`"));
    let mut command = Command::new("systemctl");
    match command.args([verb, UNIT]).status()?.success() {
        true => Ok(()),
        false => Err("systemctl failed; `journalctl -u plancton` says why".into()),
    }
}

pub fn drain(context: &Context) -> Done {
    let (now, stop) = (Zoned::now(), context.options.has("stop"));
    let by = context.options.text("by");
    let by = by.map(|text| parse_by(&clean_line(&text, 40), &now));
    let by = by.transpose().map_err(|why| Failure(Exit::Usage, why))?;
    let since = now.timestamp().as_duration().as_secs_f64();
    let mut text = "draining: no pilots are started, running ones may finish".to_owned();
    if let Some(by) = by {
        let left = rough(by - since);
        text += &format!("; what still runs in {left} is stopped");
    }
    text += "\n`plancton resume` ends the drain\n";
    let drain = Drain { stop, by, since };
    let put = |dirs: &Dirs| control::request(dirs, control::DRAIN, &drain);
    ask(context, &text, put)
}

pub fn snooze(context: &Context) -> Done {
    let duration = context.options.duration("DURATION").unwrap_or_default();
    let until = clock::now().epoch + duration.as_secs_f64();
    let put = |dirs: &Dirs| control::request(dirs, control::SNOOZE, &Snooze { until });
    let time = rough(duration.as_secs_f64());
    let text = format!("snoozing for {time}: pilots are paused, none are started\n");
    ask(context, &(text + "`plancton resume` ends it early\n"), put)
}

pub fn resume(context: &Context) -> Done {
    ask(context, "resumed: pilots may start again\n", |dirs| {
        control::clear(dirs, control::DRAIN)?;
        control::clear(dirs, control::SNOOZE)?;
        Ok(true)
    })
}

/// `put` leaves the request in the directories of the daemon that is asked, and says whether it outlasts the next boot.
fn ask(context: &Context, text: &str, put: impl FnOnce(&Dirs) -> std::io::Result<bool>) -> Done {
    let dirs = context.addressed();
    // One that never ran has no control directory yet.
    if dirs == context.dirs && !control::directories(&dirs).iter().any(|path| path.is_dir()) {
        context.dirs.prepare(Path::new("/"))?;
    }
    let is_kept = put(&dirs)?;
    say(text)?;
    if !is_kept {
        say("(the disk of the state directory does not take it, so it ends with the next boot)\n")?;
    }
    match is_running(&dirs.run) {
        true => Ok(()),
        false => say("(the daemon is not running; it holds for the next one)\n"),
    }
}

pub fn pull(context: &Context) -> Done {
    let dirs = context.addressed();
    if !is_running(&dirs.run) {
        return Err("plancton is not running; it pulls images once it is: `plancton start`".into());
    }
    control::request(&dirs, control::PULL, &())?;
    say("the daemon looks for newer images now, unless a rule of yours holds pilots back\n")
}

/// Every pilot goes now, and the daemon ends. Where no daemon carries it out, this command does.
pub fn force_stop(context: &Context) -> Done {
    let dirs = context.addressed();
    if is_running(&dirs.run) {
        let told = control::request(&dirs, control::FORCE_STOP, &());
        if told.is_ok() && wait_until(PATIENCE, || !is_running(&dirs.run)) {
            return say("plancton has removed its pilots and ended\n");
        }
        let late = |_| "the daemon has not done it in time".to_owned();
        let why = told.map_or_else(|error| error.to_string(), late);
        if dirs != context.dirs {
            return Err(format!("{why}; root can end it").into());
        }
        complain(&format!("{why}; ending it and removing the pilots here"));
        end_daemon(context, &[Signal::TERM, Signal::KILL])?;
    }
    pilots::remove(pilots::find(context, |pilot| pilot.own)?, Duration::ZERO)?;
    // What is left of the request would end the next daemon; where it could not be written, nothing is.
    let _ = control::clear(&dirs, control::FORCE_STOP);
    Ok(())
}

/// The TIME of `drain --by`, in seconds since 1970: `18:00` (its next occurrence where `now` is), a duration from now, or
/// RFC 3339. Errors: a sentence.
fn parse_by(text: &str, now: &Zoned) -> Result<f64, String> {
    let hint = "write 18:00, a duration such as 2h, or 2030-01-31T18:00:00+01:00";
    let hint = |_| format!("'{text}' is not a time; {hint}");
    let at = if let Ok(duration) = parse_duration(text) {
        now.timestamp() + duration
    } else if let Ok(time) = text.parse::<Time>() {
        let today = now.with().time(time).build();
        let next = today.and_then(|at| if at > *now { Ok(at) } else { at.tomorrow() });
        next.map_err(hint)?.timestamp()
    } else {
        text.parse().map_err(hint)?
    };
    match at < now.timestamp() {
        true => Err(format!("'{text}' is over already")),
        false => Ok(at.as_duration().as_secs_f64()),
    }
}

/// What the decision would do with recorded observations. One line a change: the second since the first observation, the
/// state, the actions, the reason.
pub fn replay(context: &Context) -> Done {
    let config = context.config()?;
    let file = context.options.path("FILE").unwrap_or_default();
    let hint = "`plancton run --record FILE` writes a recording";
    let opened = files::open(&file).map_err(|error| format!("{error}; {hint}"))?;
    let (mut policy, mut first, mut last) = (PolicyState::new(1), None, None);
    let mut text = Vec::new();
    opened.take(LONGEST_RECORDING).read_to_end(&mut text)?;
    for observation in serde_json::Deserializer::from_slice(&text).into_iter::<Observation>() {
        let broken = |error| format!("{}: {error}; the replay ends here", file.display());
        let observation = observation.map_err(broken)?;
        let seconds = observation.at.boot - *first.get_or_insert(observation.at.boot);
        let decision = decide(&config, &mut policy, &observation);
        policy.forget_launches();
        let now = (decision.state, decision.reason.code);
        if last.replace(now) == Some(now) && decision.actions.is_empty() {
            continue;
        }
        let actions = decision.actions.iter().map(describe);
        let actions = actions.reduce(|all, action| all + ", " + &action);
        let actions = actions.unwrap_or("nothing".to_owned());
        let (state, reason) = (word(decision.state), &decision.reason.text);
        say(&format!("{seconds:9.1} s  {state}: {actions} ({reason})\n"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn times() {
        let now: Zoned = "2026-03-28T20:00:00+01:00[+01:00]".parse().unwrap();
        for (text, expected) in [
            ("21:30", "2026-03-28T21:30:00+01:00"),
            ("18:00", "2026-03-29T18:00:00+01:00"),
            ("20:00", "2026-03-29T20:00:00+01:00"),
            ("06:05", "2026-03-29T06:05:00+01:00"),
            ("2h", "2026-03-28T22:00:00+01:00"),
            ("0", "2026-03-28T20:00:00+01:00"),
            ("2026-04-01T00:00:00Z", "2026-04-01T00:00:00Z"),
        ] {
            let expected: Timestamp = expected.parse().unwrap();
            let expected = expected.as_duration().as_secs_f64();
            assert_eq!(parse_by(text, &now), Ok(expected), "{text}");
        }
        for bad in [
            "",
            "tomorrow",
            "24:00",
            "12:60",
            "12:5",
            "-1:00",
            "2026-01-01T00:00:00Z",
        ] {
            assert!(parse_by(bad, &now).is_err(), "{bad}");
        }
    }
}
