//! `try`: the loop with the built-in pilot for a while, in directories of its own, then every trace of it removed. What
//! it starts is `plancton run`; what it shows is what `status --watch` shows.

use super::{Place, fail, pilot, remove, run, say, screen, status::Drawing, view};
use crate::cli::{Exit, Options};
use crate::clock;
use crate::report::Status;
use crate::state::{self, Dirs, Scope};
use crate::units::{count_pilots, format_rough};
use crate::wait::{Signals, wait};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const DEFAULT: Duration = Duration::from_secs(60);
/// Where no terminal can be redrawn, a line this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

const CONFIGURATION: &str = "\
[loop]
interval = \"2s\"
[[pilot]]
name = \"builtin\"
image = \"builtin\"
command = [\"pilot\", \"--for\", \"15s\"]
memory = \"64MiB\"
pids = 32
ttl = \"10m\"
stop-grace = \"1s\"
read-only = true
network = \"none\"
";

pub fn run(place: &Place, duration: Option<Duration>) -> Exit {
    let id = std::process::id();
    let base = std::env::temp_dir().join(format!("plancton-try-{id}"));
    let options = Options {
        config: Some(
            place
                .options
                .config
                .clone()
                .unwrap_or_else(|| base.join("config.toml")),
        ),
        instance: Some(format!("try-{id}")),
        run_dir: Some(base.join("run")),
        state_dir: Some(base.join("state")),
        ..place.options.clone()
    };
    let dirs = Dirs {
        run: base.join("run"),
        state: base.join("state"),
        config: base.join("config.toml"),
        scope: Scope::Given,
    };
    let own = Place {
        options,
        dirs,
        is_root: place.is_root,
    };
    // Before anything is there that a signal could leave behind.
    let Ok(mut signals) = Signals::catch() else {
        return fail(
            Exit::Failed,
            "no signal handler could be set; nothing was started",
        );
    };
    let shown = show(&own, &base, duration.unwrap_or(DEFAULT), &mut signals);
    let exit = remove::purge_quietly(&own, remove::Keep::Nothing);
    let removed = std::fs::remove_dir_all(&base);
    match shown {
        Ok(tally) if exit == Exit::Done && (removed.is_ok() || !base.exists()) => {
            say(&tally.summary());
            tally.exit()
        }
        Ok(_) => fail(
            Exit::Failed,
            "not everything could be removed; `plancton purge` removes what is left",
        ),
        Err(exit) => exit,
    }
}

/// Starts the loop, and draws until the time is over, a signal comes or the loop ends.
fn show(
    place: &Place,
    base: &Path,
    duration: Duration,
    signals: &mut Signals,
) -> Result<Tally, Exit> {
    let failed = |error: std::io::Error| {
        fail(
            Exit::Failed,
            format!("{}: {error}; nothing was started", base.display()),
        )
    };
    std::fs::create_dir(base)
        .and_then(|()| std::fs::write(base.join("config.toml"), CONFIGURATION))
        .map_err(failed)?;
    let (config, _) = place.config()?;
    // A missing engine is said at once, not shown as a state for a minute.
    place
        .engine(&config)?
        .ping()
        .map_err(|error| fail(Exit::EngineUnavailable, error))?;
    let log = base.join("log");
    let mut child = spawn(place, &log).map_err(failed)?;
    let tally = follow(place, &mut child, duration, signals);
    let ended = child.try_wait().ok().flatten();
    if ended.is_none() {
        end(&mut child);
    }
    match ended {
        Some(status) if !status.success() => {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let last = text.lines().last().unwrap_or("it said nothing");
            Err(fail(
                Exit::Failed,
                format!("the loop has ended by itself: {last}"),
            ))
        }
        _ => Ok(tally),
    }
}

fn spawn(place: &Place, log: &PathBuf) -> std::io::Result<Child> {
    let out = std::fs::File::create(log)?;
    let mut command = Command::new("/proc/self/exe");
    command
        .args(run::forwarded(place))
        .arg("run")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out);
    // The terminal's Ctrl-C is for us, who clean up.
    command.process_group(0).spawn()
}

fn end(child: &mut Child) {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let _ = child.wait();
}

fn follow(place: &Place, child: &mut Child, duration: Duration, signals: &mut Signals) -> Tally {
    let start = Instant::now();
    let mut tally = Tally::default();
    let terminal = std::io::stdout().is_terminal();
    let mut drawing = terminal.then(Drawing::begin);
    let mut next_line = Instant::now();
    while start.elapsed() < duration && !signals.wants_end() && matches!(child.try_wait(), Ok(None))
    {
        if let Ok(Some(status)) = state::read_status(&place.dirs.run) {
            tally.take(&status);
            let left = format_rough(duration.saturating_sub(start.elapsed()));
            if let Some(drawing) = &mut drawing {
                let text = view::render(&status, clock::now().epoch, &screen());
                drawing.show(&format!(
                    "plancton try: {left} left, Ctrl-C ends it sooner\n\n{text}"
                ));
            } else if Instant::now() >= next_line {
                next_line += LINE_EVERY;
                say(&format!("{left} left: {}\n", tally.line(&status)));
            }
        }
        wait(Some(0.5), signals, None, [None; 3]);
    }
    tally.seconds = start.elapsed().as_secs_f64();
    tally
}

/// What was seen while it ran.
#[derive(Default)]
struct Tally {
    seconds: f64,
    cpu_seconds: f64,
    counts: BTreeMap<String, u64>,
    /// By pilot: what it computed.
    results: BTreeMap<String, pilot::Summary>,
    reason: String,
    protected: bool,
}

impl Tally {
    fn take(&mut self, status: &Status) {
        self.cpu_seconds = status.given_seconds;
        self.counts.clone_from(&status.counts);
        self.reason.clone_from(&status.reason.text);
        self.protected = status.protection.level == "verified";
        for gone in &status.gone {
            if let Some(summary) = gone.log_tail.lines().find_map(pilot::parse_result) {
                self.results.insert(gone.name.clone(), summary);
            }
        }
    }

    fn line(&self, status: &Status) -> String {
        let done = self.counts.get("done").copied().unwrap_or(0);
        format!(
            "{} running, {done} done, {:.0} CPU seconds given; {}",
            count_pilots(status.pilots.len()),
            self.cpu_seconds,
            self.reason
        )
    }

    fn summary(&self) -> String {
        let done = self.counts.get("done").copied().unwrap_or(0);
        let sum = |what: fn(&pilot::Summary) -> u64| self.results.values().map(what).sum::<u64>();
        let mut text = format!(
            "\nIn {:.0} s {} did their work, and {:.0} CPU seconds were given.\n",
            self.seconds,
            count_pilots(usize::try_from(done).unwrap_or(0)),
            self.cpu_seconds
        );
        if !self.results.is_empty() {
            text.push_str(&format!(
                "They looked at {} numbers and found {} primes, {} pairs of twins; the largest gap was {}.\n",
                sum(|result| result.to - result.from),
                sum(|result| result.primes),
                sum(|result| result.twins),
                self.results.values().map(|result| result.largest_gap).max().unwrap_or(0),
            ));
            if let Some(result) = self.results.values().next() {
                text.push_str(&format!(
                    "Check one: plancton pilot --from {} --to {}\n  {result}\n",
                    result.from, result.to
                ));
            }
        }
        if self.protected {
            text.push_str(
                "They ran in an idle group: the kernel gave them only what nobody else wanted.\n",
            );
        }
        if done == 0 {
            text.push_str(&format!("No pilot was done: {}\n", self.reason));
        }
        text + "Every trace of it was removed from the engine and from this machine.\n"
    }

    fn exit(&self) -> Exit {
        if self.counts.get("done").is_some_and(|done| *done > 0) {
            Exit::Done
        } else {
            Exit::Failed
        }
    }
}
