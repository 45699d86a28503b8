//! `try`: the loop with the built-in pilot for a while, in directories of its own, then every trace of it removed. What
//! it starts is `plancton run`; what it shows is what `status --watch` shows.

use super::context::{Context, Done, Failure, failed, say};
use super::pilot::{Counted, parse_result};
use super::status::{Drawing, screen};
use super::{remove, run, view};
use crate::cli::Options;
use crate::clock;
use crate::report::Status;
use crate::state;
use crate::units::{count_pilots, float, format_rough};
use crate::wait::{Signals, wait};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_secs(60);
/// Where no terminal can be redrawn, a line this often.
const LINE_EVERY: Duration = Duration::from_secs(5);
const CONFIGURATION: &str = include_str!("try.toml");

pub fn try_out(context: &Context) -> Done {
    let name = format!("try-{}", std::process::id());
    let base = std::env::temp_dir().join(format!("plancton-{name}"));
    let given = &context.options;
    let own = Context::new(Options {
        config: given.config.clone().or(Some(base.join("config.toml"))),
        instance: Some(name),
        run_dir: Some(base.join("run")),
        state_dir: Some(base.join("state")),
        ..given.clone()
    });
    // Before anything is there that a signal could leave behind.
    let mut signals = Signals::catch().map_err(failed)?;
    let shown = show(&own, &base, &mut signals);
    let purged = remove::purge_everything(&own);
    let removed = std::fs::remove_dir_all(&base);
    let seen = shown?;
    if purged.is_err() || (removed.is_err() && base.exists()) {
        let why = purged
            .err()
            .map_or(String::new(), |failure| failure.text + "\n");
        let text = "not everything could be removed; `plancton purge` removes what is left";
        return Err(failed(why + text));
    }
    say(&seen.summary())?;
    match seen.done() {
        0 => Err(failed("")),
        _ => Ok(()),
    }
}

/// Starts the loop, and draws until the time is over, a signal comes or the loop ends.
fn show(context: &Context, base: &Path, signals: &mut Signals) -> Result<Seen, Failure> {
    let nothing = |error| failed(format!("{}: {error}; nothing was started", base.display()));
    std::fs::create_dir(base)
        .and_then(|()| std::fs::write(base.join("config.toml"), CONFIGURATION))
        .map_err(nothing)?;
    // A missing engine is said at once, not shown as a state for a minute.
    context.engine(&context.config()?)?.ping()?;
    let log: PathBuf = base.join("log");
    let mut child = run::spawn(context, &log).map_err(nothing)?;
    let seen = follow(context, &mut child, signals);
    match child.try_wait() {
        Ok(Some(status)) if !status.success() => {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let last = text.lines().last().unwrap_or("it said nothing");
            return Err(failed(format!("the loop has ended by itself: {last}")));
        }
        Ok(Some(_)) => {}
        _ => {
            let _ = run::signal(child.id(), Signal::TERM);
            let _ = child.wait();
        }
    }
    seen
}

fn follow(context: &Context, child: &mut Child, signals: &mut Signals) -> Result<Seen, Failure> {
    let (start, duration) = (Instant::now(), context.options.duration.unwrap_or(TIME));
    let mut seen = Seen::default();
    let is_terminal = std::io::stdout().is_terminal();
    let mut drawing = is_terminal.then(Drawing::begin);
    let mut next_line = start;
    while start.elapsed() < duration && !signals.wants_end() && matches!(child.try_wait(), Ok(None))
    {
        if let Ok(Some(status)) = state::read_status(&context.dirs.run) {
            let left = format_rough(duration.saturating_sub(start.elapsed()));
            seen.take(status);
            if let Some(drawing) = &mut drawing {
                let text = view::render(&seen.last, clock::now().epoch, &screen());
                drawing.show(&format!(
                    "plancton try: {left} left, Ctrl-C ends it sooner\n\n{text}"
                ))?;
            } else if Instant::now() >= next_line {
                next_line += LINE_EVERY;
                say(&format!("{left} left: {}\n", seen.line()))?;
            }
        }
        wait(Some(0.5), signals, None, None);
    }
    seen.seconds = start.elapsed().as_secs_f64();
    Ok(seen)
}

/// What was seen while it ran.
#[derive(Default)]
struct Seen {
    seconds: f64,
    last: Status,
    /// By pilot: what it computed.
    results: BTreeMap<String, Counted>,
}

impl Seen {
    fn take(&mut self, status: Status) {
        for finished in &status.gone {
            let result = finished.log_tail.lines().find_map(parse_result);
            self.results
                .extend(result.map(|result| (finished.name.clone(), result)));
        }
        self.last = status;
    }

    fn done(&self) -> usize {
        let done = self.last.counts.get("done").copied().unwrap_or(0);
        usize::try_from(done).unwrap_or(usize::MAX)
    }

    fn line(&self) -> String {
        format!(
            "{} running, {} done, {:.0} CPU seconds given; {}",
            count_pilots(self.last.pilots.len()),
            self.done(),
            self.last.given_seconds,
            self.last.reason.text
        )
    }

    fn summary(&self) -> String {
        let mut text = format!(
            "\nIn {:.0} s {} did their work, and {:.0} CPU seconds were given.\n",
            self.seconds,
            count_pilots(self.done()),
            self.last.given_seconds
        );
        let results = self.results.values();
        if let Some(one) = results.clone().next() {
            let numbers: u64 = results.clone().map(|result| result.to - result.from).sum();
            let primes: u64 = results.map(|result| result.primes).sum();
            text += &format!(
                "They looked at {:.2} billion numbers and found {primes} primes.\n\
                 Check one: plancton pilot --from {} --to {}\n  {one}\n",
                float(numbers) / 1e9,
                one.from,
                one.to
            );
        }
        if self.last.protection.level == "verified" {
            text +=
                "They ran in an idle group: the kernel gave them only what nobody else wanted.\n";
        }
        if self.done() == 0 {
            text += &format!("No pilot was done: {}\n", self.last.reason.text);
        }
        text + "Every trace of it was removed from the engine and from this machine.\n"
    }
}
