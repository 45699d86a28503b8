//! What people see: `status`, `why` and `health`, from what the daemon wrote about itself at its last turn to a text, and
//! what other texts for a terminal are made with. Everything is readable without colour, and whatever comes from outside is
//! cleaned once more where it is laid out.

use super::*;
use crate::decide::{Code, State};
use crate::history::local;
use crate::units::{Bytes, Moment, float, whole};
use jiff::tz::TimeZone;
use std::mem::take;

/// A text in the making, line by line, and what it is made for.
#[derive(Clone, Debug)]
pub struct Page {
    pub width: usize,
    /// So many lines at most, by leaving out pilots; `None`: all of them.
    pub height: Option<usize>,
    pub is_coloured: bool,
    pub zone: TimeZone,
    pub now: Moment,
    pub lines: Vec<String>,
}

/// Colours by what they mean, as ANSI numbers; all of them are readable on light and dark terminals.
const STRONG: u8 = 1;
const FAINT: u8 = 2;
const GOOD: u8 = 32;
const OWNER: u8 = 34;

/// The column at which texts begin.
const LABEL: usize = 12;
/// More than any line of a status has.
const LONGEST_TEXT: usize = 2000;

/// The status of a daemon that runs, else the exit code for it with a sentence that says what now.
fn read(context: &Context) -> Result<Status, Failure> {
    let dirs = context.addressed();
    let status = Status::read(&dirs.run)?;
    if let Some(status) = status.filter(|_| is_running(&dirs.run)) {
        return Ok(status);
    }
    let (asked, _) = control::read(&dirs, clock::now(), &host::boot_id(Path::new("/")));
    if asked.drain.is_some() {
        say("draining: the next daemon starts no pilots until `plancton resume`\n")?;
    }
    if let Some(Snooze { until }) = asked.snooze {
        let text = format!("snoozing for {}", rough(until - clock::now().epoch));
        say(&(text + ": the next daemon starts no pilots until then or `plancton resume`\n"))?;
    }
    say("plancton is not running; `plancton start` starts it, `plancton try` shows it at work\n")?;
    Err(Failure(Exit::NotRunning, String::new()))
}

pub fn status(context: &Context) -> Done {
    let mut status = read(context)?;
    if context.options.has("json") {
        return say(&(serde_json::to_string_pretty(&status)? + "\n"));
    }
    // In place once a second, until a signal, its terminal or its reader ends it.
    while context.options.has("watch") {
        redraw(&render(&status, Page::of_terminal()))?;
        std::thread::sleep(Duration::from_secs(1));
        status = read(context)?;
    }
    say(&render(&status, Page::of_terminal()))
}

pub fn why(context: &Context) -> Done {
    let mut page = Page::of_terminal();
    page.headline(&read(context)?);
    say(&page.text())
}

/// Whether the loop turns, whatever the engine does.
pub fn health(context: &Context) -> Done {
    let status = read(context).map_err(|failure| Failure(Exit::Failed, failure.1))?;
    match status.is_stuck(clock::now()) {
        true => Err(format!("the daemon (pid {}) makes no progress", status.pid).into()),
        false => Ok(()),
    }
}

/// Draws a text over the last one on a terminal, and below it elsewhere.
pub fn redraw(text: &str) -> Done {
    match std::io::stdout().is_terminal() {
        // Each line clears what was behind it, so that nothing flickers.
        true => say(&format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))),
        false => say(&format!("{text}\n")),
    }
}

/// `plancton status`: at most `height` lines, unless that leaves no room for three pilots.
pub fn render(status: &Status, mut page: Page) -> String {
    page.headline(status);
    let (cpus, memory) = (&status.cpus, &status.memory);
    let sums = [cpus.total, cpus.given, cpus.reserve];
    page.shares("CPU", "cores", sums, [cpus.foreign, cpus.pilots]);
    let gib = |bytes: u64| float(bytes) / float(1 << 30);
    let sums = [memory.total, memory.given, memory.reserve].map(gib);
    let used = [memory.foreign, memory.pilots].map(|bytes| bytes.map(gib));
    page.shares("Memory", "GiB", sums, used);
    let top = page.lines.len();
    page.lines.push(String::new());
    page.surroundings(status);
    let room = page.height.unwrap_or(usize::MAX);
    let pilots = page.pilots(status, room.saturating_sub(page.lines.len()));
    page.lines.splice(top..top, pilots);
    page.text()
}

impl Page {
    /// Of the terminal's size, and with colour where it is wanted (`NO_COLOR`).
    pub fn of_terminal() -> Page {
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
        let size = size.filter(|size| size.ws_col > 0);
        let is_set = |name, to: &str| std::env::var(name).is_ok_and(|value| value == to);
        let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        // Nothing is drawn for narrower screens, and longer lines are hard to read.
        let width = size.map_or(80, |size| size.ws_col.clamp(40, 120));
        Page {
            width: width.into(),
            height: size.map(|size| size.ws_row.into()),
            is_coloured: size.is_some() && !is_plain && !is_set("TERM", "dumb"),
            zone: TimeZone::system(),
            now: clock::now(),
            lines: Vec::new(),
        }
    }

    pub fn text(&self) -> String {
        self.lines.join("\n") + "\n"
    }

    fn paint(&self, colour: u8, text: &str) -> String {
        match self.is_coloured {
            true => format!("\x1b[{colour}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    /// `14:02`, with the date if that is another day.
    fn clock(&self, epoch: f64) -> String {
        let [at, now] = [epoch, self.now.epoch].map(|second| local(whole(second), &self.zone));
        let time = format!("{:02}:{:02}", at.hour(), at.minute());
        match at.date() == now.date() {
            true => time,
            false => format!("{} {time}", at.date()),
        }
    }

    /// `Engine      text`, wrapped below itself; a `␣` is a blank at which it is not.
    pub fn row(&mut self, label: &str, text: impl AsRef<str>) {
        let (indent, mut label, mut line) = (length(label).max(LABEL), label, String::new());
        let text = clean_line(text.as_ref(), LONGEST_TEXT);
        // The empty word at the end is wider than any line: what stands before it is put down.
        for word in text.split_whitespace().chain([""]) {
            let width = indent + length(&line) + 1 + length(word);
            if word.is_empty() || (width > self.width && !line.is_empty()) {
                let label = self.paint(STRONG, &format!("{:<indent$}", take(&mut label)));
                self.lines.push(label + &take(&mut line));
            }
            line += if line.is_empty() { "" } else { " " };
            line += &word.replace('␣', " ");
        }
    }

    /// Who uses of a resource how much, what is promised, what is left; what does not fit is cut. A kind of part differs from
    /// the others by its character as well as by its colour.
    fn shares(&mut self, name: &str, unit: &str, sums: [f64; 3], used: [Option<f64>; 2]) {
        let ([total, given, reserve], [owner, pilots]) = (sums, used);
        let amount = |value: Option<f64>| value.filter(|value| *value > 0.0).unwrap_or(0.0);
        let promised = (given - amount(pilots)).max(0.0);
        let taken = amount(owner) + amount(pilots) + promised + reserve;
        let parts = [
            ("█", OWNER, "owner", owner),
            ("▒", GOOD, "pilots", pilots),
            ("░", GOOD, "promised", Some(promised)),
            ("·", FAINT, "free", owner.map(|_| (total - taken).max(0.0))),
            ("╱", FAINT, "reserve", Some(reserve)),
        ];
        let title = format!("{} {unit}", number(total));
        let width = self.width.saturating_sub(LABEL + length(&title) + 2);
        let (width, mut reached, mut drawn) = (width.min(64), 0.0, 0);
        let (mut bar, mut legend) = (String::new(), Vec::new());
        for (mark, colour, part, value) in parts {
            reached += amount(value);
            let cells = (reached / total).clamp(0.0, 1.0) * float(width as u64);
            let cells = usize::try_from(whole(cells.round())).unwrap_or(width);
            bar += &self.paint(colour, &mark.repeat(cells.saturating_sub(drawn)));
            drawn = drawn.max(cells);
            let shown = value.map_or("?".into(), number);
            // Not to be torn apart at the end of a line.
            legend.push(format!("{mark}␣{part}␣{shown}"));
        }
        let name = self.paint(STRONG, &format!("{name:<LABEL$}"));
        let line = name + &bar + &" ".repeat(width - drawn) + "  " + &title;
        self.lines.extend([String::new(), line]);
        self.row("", legend.join(", "));
    }

    /// A drain or snooze and how to end it, whether the daemon answers, the state and its reason, and what is wrong besides.
    fn headline(&mut self, status: &Status) {
        if let Some(Drain { by, stop, since }) = status.drain {
            let by = by.map(|by| format!("; what still runs at {} is stopped", self.clock(by)));
            let (since, by) = (self.clock(since), by.unwrap_or_default());
            let end = "; the daemon ends after the last pilot".repeat(usize::from(stop));
            let text = format!("since {since}{by}{end}. To go on: plancton resume");
            self.row("Draining", text);
        }
        if let Some(Snooze { until }) = status.snooze {
            let text = format!("until {}. To go on: plancton resume", self.clock(until));
            self.row("Snoozing", text);
        }
        if status.is_stale(self.now) {
            let (pid, since) = (status.pid, self.clock(status.tick));
            let daemon = format!("the daemon (pid {pid}) is not responding since {since}");
            self.row("Silent", daemon + "; last known status below");
        }
        let label = match status.state {
            State::Active => "● active",
            State::Draining => "◐ draining",
            State::Snoozed => "‖ snoozed",
            State::Paused => "‖ paused",
            State::Waiting => "○ waiting",
        };
        self.row(label, &status.reason.text);
        // In its pilot's own words, to who may read them.
        let mut tails = status.gone.iter().map(|gone| gone.log_tail.trim_end());
        if matches!(status.reason.code, Code::BackOff | Code::NoWork)
            && let Some(last) = tails.find_map(|tail| tail.lines().last())
        {
            self.row("It said", clean_line(last, 200));
        }
        let problems = status.problems.iter();
        // Of the engine's the reason says all.
        for problem in problems.filter(|problem| !problem.starts_with("engine: ")) {
            self.row("Problem", problem);
        }
    }

    /// At most `room` lines, with an empty one before; nothing at all without pilots.
    fn pilots(&self, status: &Status, room: usize) -> Vec<String> {
        let names = status.pilots.iter().map(|pilot| length(&pilot.name));
        let Some(width) = names.max() else {
            return Vec::new();
        };
        let line = |cells: [&str; 5]| {
            let [name, state, age, left, image] = cells.map(|cell| clean_line(cell, LONGEST_TEXT));
            format!("{name:<width$}  {state:<8} {age:>7} {left:>7}  {image}")
        };
        let head = line(["PILOT", "STATE", "FOR", "LEFT", "IMAGE"]);
        let rows = status.pilots.iter().map(|pilot| {
            let age = pilot.started.map(|at| rough(self.now.epoch - at));
            let left = pilot.deadline.map(|at| match at > self.now.epoch {
                true => rough(at - self.now.epoch),
                false => "over".to_owned(),
            });
            let [age, left] = [age, left].map(|time| time.unwrap_or("-".to_owned()));
            let image = pilot.image.rsplit('/').next().unwrap_or_default();
            line([&pilot.name, &word(pilot.state), &age, &left, image])
        });
        // Three are shown however low the screen is.
        let most = room.saturating_sub(3).max(3);
        let more = status.pilots.len().saturating_sub(most);
        let more = (more > 0).then(|| format!("+ {more} more"));
        let top = [String::new(), self.paint(STRONG, &head)];
        top.into_iter().chain(rows.take(most)).chain(more).collect()
    }

    /// What is known of the machine around the pilots, and of the daemon.
    fn surroundings(&mut self, status: &Status) {
        let (others, at, protection) = (&status.others, &status.engine, &status.protection);
        if others.pilots > 0 {
            let (pilots, cpus) = (count_pilots(others.pilots), number(others.cpus));
            let text = format!("{pilots} of other instances on this engine, cores: {cpus}");
            self.row("Others", text);
        }
        let text = format!("{}: {}", protection.level, protection.text);
        self.row("Protection", text);
        let text = match at.version.is_empty() {
            true => format!("{} does not answer", at.socket),
            false => format!("{} {}, API {}, {}", at.name, at.version, at.api, at.socket),
        };
        self.row("Engine", text);
        if let Some(pull) = &status.pull {
            let (bytes, total) = (Bytes(pull.bytes), Bytes(pull.total.max(pull.bytes)));
            self.row("Pulling", format!("{}: {bytes} of {total}", pull.image));
        }
        if let Some(remote) = &status.remote {
            let [changed, looked] = [remote.changed, remote.looked].map(|at| self.clock(at));
            let (url, hash) = (&remote.url, &remote.hash);
            let text = format!("{url} {hash}, changed {changed}, last checked {looked}");
            self.row("Joined", text);
        }
        let (version, pid, instance) = (&status.version, status.pid, &status.instance);
        let up = rough(self.now.epoch - status.since);
        let text = format!("{version}, pid {pid}, instance {instance}, up {up}");
        self.row("Daemon", text);
        let counts = status.counts.iter();
        let counts = counts.map(|(what, count)| format!("{what} {count}"));
        if let Some(counts) = counts.reduce(|all, one| all + ", " + &one) {
            self.row("So far", counts);
        }
    }
}

fn length(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests;
