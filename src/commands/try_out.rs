//! `try` and its `pilot`. `try` is the loop with the built-in pilot for a while, in directories of its own, then every trace
//! of it removed: what it starts is `plancton run`, what it shows is what `status --watch` shows. The pilot counts the primes
//! of a window by a plain segmented sieve, and checks itself first, so that a machine that computes wrongly says nothing;
//! everything it did stands in the line `result:` and can be computed again anywhere.

use super::view::{Page, redraw, render};
use super::*;
use crate::decide::Code::{Full, Probing, Starting};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};

const BEGIN: u64 = 1_000_000_000_000;
/// Up to here a segment takes no more than a moment.
const LIMIT: u64 = 10_000_000_000_000;
/// Numbers that are sieved at once; their marks fit into a second-level cache.
const SEGMENT: u64 = 1 << 19;
/// What a line with a result begins with.
const RESULT: &str = "result: kind=primes";
/// From, to, and how many primes are known to be between.
const KNOWN: [(u64, u64, u64); 2] = [
    (0, 1_000_000, 78_498),
    (1_000_000_000_000, 1_000_001_000_000, 36_249),
];

pub fn try_out(context: &Context) -> Done {
    let name = format!("try-{}", std::process::id());
    let base = std::env::temp_dir().join(format!("plancton-{name}"));
    let [run, state, config] = ["run", "state", "config.toml"].map(|name| base.join(name).into());
    let mut options = context.options.clone();
    let config = options.given.remove("config").unwrap_or(config);
    let own = ["run-dir", "state-dir", "config", "instance"].map(str::to_owned);
    let own = own.into_iter().zip([run, state, config, name.into()]);
    options.given.extend(own);
    let own = Context::new(options);
    // Before anything is there that a signal could leave behind; it ends with its terminal, too.
    let is_over = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&is_over))?;
    }
    let seen = show(&own, &base, &is_over);
    let gone = pilots::purge_everything(&own);
    let removed = fs::remove_dir_all(&base);
    let status = seen?;
    if let Err(Failure(_, why)) = gone.and(removed.map_err(Failure::from)) {
        let hint = "not everything could be removed; `plancton purge` removes what is left";
        return Err(format!("{why}\n{hint}").into());
    }
    say(&sum_up(&status))?;
    let short = "no pilot has finished yet; give it longer with --for";
    let others = "another daemon's pilots have the cores; `plancton snooze 5m` lends them";
    match status.others.pilots {
        _ if status.counts.contains_key("done") => Ok(()),
        _ if matches!(status.reason.code, Starting | Probing | Full) => Err(short.into()),
        0 => Err(format!("no pilot finished: {}", status.reason.text).into()),
        _ => Err(format!("no pilot finished: {others}").into()),
    }
}

/// Starts the loop, and draws until the time is over, a signal comes or the loop ends.
fn show(context: &Context, base: &Path, is_over: &AtomicBool) -> Result<Status, Failure> {
    let nothing = |error| format!("{}: {error}; nothing was started", base.display());
    fs::create_dir(base).map_err(nothing)?;
    fs::write(base.join("config.toml"), include_str!("try.toml")).map_err(nothing)?;
    // A missing engine is said at once, not shown as a state for a minute.
    let site = context.site(&context.config()?)?;
    site.engine.ping().map_err(no_engine)?;
    let log = base.join("log");
    let mut child = run::spawn(context, &log)?;
    let seen = follow(context, &mut child, is_over);
    if matches!(child.try_wait(), Ok(None)) {
        let _ = run::end_daemon(context, &[Signal::TERM]);
        // It may not have got as far as its lock.
        let _ = child.kill();
    } else if child.wait().is_ok_and(|status| !status.success()) {
        let text = files::read_text_up_to(&log, 1 << 20).unwrap_or_default();
        let last = text.lines().last().unwrap_or("it said nothing");
        return Err(format!("the daemon has ended by itself: {last}").into());
    }
    let _ = child.wait();
    seen
}

fn follow(context: &Context, child: &mut Child, is_over: &AtomicBool) -> Result<Status, Failure> {
    let time = context.options.duration("for");
    let time = time.unwrap_or(Duration::from_secs(60));
    let (start, mut next_line, mut seen) = (Instant::now(), Duration::ZERO, Status::default());
    while start.elapsed() < time && !is_over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(250));
        if !matches!(child.try_wait(), Ok(None)) {
            break;
        }
        let Some(status) = context.status() else {
            continue;
        };
        let left = rough(time.saturating_sub(start.elapsed()).as_secs_f64());
        if std::io::stdout().is_terminal() {
            let text = render(&status, Page::of_terminal());
            let head = format!("plancton try: {left} left, Ctrl-C ends it sooner");
            redraw(&format!("{head}\n\n{text}"))?;
        } else if start.elapsed() >= next_line {
            // Where no terminal can be redrawn.
            next_line += Duration::from_secs(5);
            let pilots = count_pilots(status.pilots.len());
            let done = status.counts.get("done").unwrap_or(&0);
            say(&format!("{left} left: {pilots} running, {done} done\n"))?;
        }
        seen = status;
    }
    Ok(seen)
}

fn sum_up(status: &Status) -> String {
    let (seconds, given) = (status.tick - status.since, status.given_seconds);
    let done = status.counts.get("done").unwrap_or(&0);
    let mut text = format!("\nIn {seconds:.0} s, pilots got {given:.0} s of CPU time");
    text += &format!("; pilots that did their work: {done}.\n");
    let mut said = status.gone.iter().flat_map(|gone| gone.log_tail.lines());
    if let Some(result) = said.find(|line| line.starts_with(RESULT)) {
        let again = "count again with `plancton pilot --from … --to …`";
        text += &format!("They counted primes; {again}:\n  {result}\n");
    }
    if status.protection.level == "verified" {
        text += "The kernel gave them only what nobody else wanted (an idle group).\n";
    }
    text + "Every trace of it was removed from the engine and from this machine.\n"
}

/// Counts until the time or the window is over.
pub fn pilot(context: &Context) -> Done {
    let options = &context.options;
    let from = options.number("from").unwrap_or(BEGIN);
    let end = options.number("to").unwrap_or(LIMIT);
    if from >= end || end > LIMIT {
        let hint = format!("the end must be above the start and at most {LIMIT}");
        return Err(format!("cannot count from {from} to {end}: {hint}").into());
    }
    say(&format!("pilot: counting primes from {from}\n"))?;
    for (from, to, known) in KNOWN {
        let (_, found) = count(from, to, None);
        if found != known {
            let text = format!("it found {found} primes from {from} to {to} instead of {known}");
            return Err(format!("this machine computes wrongly: {text}; stopping").into());
        }
    }
    say("pilot: self-check passed, both counts as known\n")?;
    let time = options.duration("for").unwrap_or(Duration::from_secs(20));
    let time = (!options.has("to")).then_some(time);
    let (to, primes) = count(from, end, time);
    say(&format!("{RESULT} from={from} to={to} primes={primes}\n"))
}

/// Until the end or the time is reached: the first number that was not looked at, and how many were primes.
fn count(from: u64, end: u64, time: Option<Duration>) -> (u64, u64) {
    // 0 and 1 are neither.
    let (start, mut low, mut primes) = (Instant::now(), from.max(2), 0);
    while low < end && time.is_none_or(|time| start.elapsed() < time) {
        let high = (low + SEGMENT).min(end);
        let mut is_composite = vec![false; index(high - low)];
        for divisor in 2..=(high - 1).isqrt() {
            let first = low.next_multiple_of(divisor).max(divisor * divisor);
            let multiples = is_composite.iter_mut().skip(index(first - low));
            let multiples = multiples.step_by(index(divisor));
            multiples.for_each(|is_composite| *is_composite = true);
        }
        let left = is_composite.iter().filter(|is_composite| !**is_composite);
        primes += left.count() as u64;
        low = high;
    }
    (low.min(end), primes)
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let is_prime = |n: u64| n > 1 && (2..=n.isqrt()).all(|d| !n.is_multiple_of(d));
        for from in (0..30).chain([120, 121, 127, SEGMENT - 20]) {
            for to in (from + 1..from + 40).chain([from + 700]) {
                let expected = (from..to).filter(|n| is_prime(*n)).count() as u64;
                assert_eq!(count(from, to, None), (to, expected), "{from}..{to}");
            }
        }
        for (from, to, primes) in [
            (0, 10_000_000, 664_579),
            (LIMIT - 1_000, LIMIT, 26),
            KNOWN[1],
        ] {
            assert_eq!(count(from, to, None), (to, primes), "{from}..{to}");
        }
    }
}
