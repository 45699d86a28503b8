//! `try`: the loop with the built-in pilot for a while, in directories of its own, then every trace of it removed. What
//! it starts is `plancton run`; what it shows is what `status --watch` shows.

use super::context::{Context, Done, Failure, no_engine, say};
use super::pilot::RESULT;
use super::status::redraw;
use super::view::{self, Screen};
use super::{pilots, run};
use crate::cli::Options;
use crate::report::Status;
use crate::units::{count_pilots, format_rough};
use crate::wait::{Signals, wait};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::io::IsTerminal;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_secs(60);
/// Where no terminal can be redrawn, a line this often.
const LINE_EVERY: Duration = Duration::from_secs(5);
const CONFIGURATION: &str = include_str!("try.toml");

pub fn try_out(context: &Context) -> Done {
    let name = format!("try-{}", std::process::id());
    let base = std::env::temp_dir().join(format!("plancton-{name}"));
    let given = context.options.clone();
    let own = Context::new(Options {
        config: given.config.or(Some(base.join("config.toml"))),
        instance: Some(name),
        run_dir: Some(base.join("run")),
        state_dir: Some(base.join("state")),
        ..given
    });
    // Before anything is there that a signal could leave behind.
    let mut signals = Signals::catch()?;
    let seen = show(&own, &base, &mut signals);
    let purged = pilots::purge_everything(&own);
    let removed = fs::remove_dir_all(&base);
    let seen = seen?;
    if purged.is_err() || (removed.is_err() && base.exists()) {
        let why = purged.err().map_or(String::new(), |failure| failure.1);
        let hint = "not everything could be removed; `plancton purge` removes what is left";
        return Err(format!("{why}\n{hint}").into());
    }
    say(&seen.summary())?;
    seen.outcome()
}

/// Starts the loop, and draws until the time is over, a signal comes or the loop ends.
fn show(context: &Context, base: &Path, signals: &mut Signals) -> Result<Seen, Failure> {
    let nothing = |error| format!("{}: {error}; nothing was started", base.display());
    fs::create_dir(base).map_err(nothing)?;
    fs::write(base.join("config.toml"), CONFIGURATION).map_err(nothing)?;
    // A missing engine is said at once, not shown as a state for a minute.
    let engine = context.engine(&context.config()?)?;
    engine.ping().map_err(no_engine)?;
    let log = base.join("log");
    let mut child = run::spawn(context, &log).map_err(nothing)?;
    let seen = follow(context, &mut child, signals);
    if matches!(child.try_wait(), Ok(None)) {
        let _ = run::end_daemon(context, &[Signal::TERM]);
        // It may not have got as far as its lock.
        let _ = child.kill();
    } else if child.wait().is_ok_and(|status| !status.success()) {
        let text = crate::host::files::read_text_up_to(&log, 1 << 20).unwrap_or_default();
        let last = text.lines().last().unwrap_or("it said nothing");
        return Err(format!("the loop has ended by itself: {last}").into());
    }
    let _ = child.wait();
    seen
}

fn follow(context: &Context, child: &mut Child, signals: &mut Signals) -> Result<Seen, Failure> {
    let (start, duration) = (Instant::now(), context.options.duration.unwrap_or(TIME));
    let mut seen = Seen::default();
    let is_terminal = std::io::stdout().is_terminal();
    let mut next_line = Duration::ZERO;
    // It ends with its terminal: there is nothing to reload here.
    let is_over = |signals: &Signals| signals.wants_end() || signals.take_reload();
    while seen.lasted < duration && !is_over(signals) && matches!(child.try_wait(), Ok(None)) {
        if let Some(status) = context.status() {
            let left = format_rough(duration.saturating_sub(seen.lasted));
            if is_terminal {
                let text = view::render(&status, &Screen::of_terminal());
                let head = format!("plancton try: {left} left, Ctrl-C ends it sooner");
                redraw(&format!("{head}\n\n{text}"))?;
            } else if seen.lasted >= next_line {
                next_line += LINE_EVERY;
                let (running, reason) = (count_pilots(status.pilots.len()), &status.reason.text);
                say(&format!("{left} left: {running} running; {reason}\n"))?;
            }
            seen.take(status);
        }
        wait(Some(0.5), signals, None, None);
        seen.lasted = start.elapsed();
    }
    Ok(seen)
}

/// What was seen while it ran.
#[derive(Default)]
struct Seen {
    lasted: Duration,
    last: Status,
    /// By pilot: what it computed.
    results: BTreeMap<String, String>,
}

impl Seen {
    fn take(&mut self, status: Status) {
        for finished in &status.gone {
            let mut lines = finished.log_tail.lines();
            if let Some(line) = lines.find(|line| line.starts_with(RESULT)) {
                self.results.insert(finished.name.clone(), line.to_owned());
            }
        }
        self.last = status;
    }

    /// Errors: why no pilot was done.
    fn outcome(&self) -> Done {
        let others = "another daemon's pilots have the cores; `plancton snooze 5m` lends them";
        let why = match self.last.others.pilots {
            _ if self.done() > 0 => return Ok(()),
            0 => &self.last.reason.text,
            _ => others,
        };
        Err(format!("no pilot was done: {why}").into())
    }

    fn done(&self) -> u64 {
        self.last.counts.get("done").copied().unwrap_or(0)
    }

    fn summary(&self) -> String {
        let (seconds, given) = (self.lasted.as_secs(), self.last.given_seconds);
        let done = self.done();
        let mut text = format!("\nIn {seconds} s, {given:.0} CPU seconds were given");
        text += &format!(", and pilots that did their work: {done}.\n");
        if let Some(one) = self.results.values().next() {
            let primes = |line: &String| line.split("primes=").nth(1)?.parse::<u64>().ok();
            let primes: u64 = self.results.values().filter_map(primes).sum();
            let again = "count again with `plancton pilot --from … --to …`";
            text += &format!("They found {primes} primes; {again}:\n  {one}\n");
        }
        if self.last.protection.level == "verified" {
            text += "The kernel gave them only what nobody else wanted (an idle group).\n";
        }
        text + "Every trace of it was removed from the engine and from this machine.\n"
    }
}
