//! The status for people: from a [`Status`] to the text of `plancton status`. Nothing is printed here. Everything is
//! readable without colour, and whatever comes from outside is cleaned once more where it is laid out.

use crate::clock;
use crate::decide::Code;
use crate::history::local;
use crate::report::{Cpus, State, Status};
use crate::units::{Bytes, Moment, clean_line, float, format_rough, whole, word};
use jiff::tz::TimeZone;
use std::io::IsTerminal;
use std::time::Duration;

/// What a text is made for, and when.
#[derive(Clone, Debug)]
pub struct Screen {
    pub width: usize,
    /// So many lines at most, by leaving out pilots; `None`: all of them.
    pub height: Option<usize>,
    pub is_coloured: bool,
    pub zone: TimeZone,
    pub now: Moment,
}

/// Colours by what they mean, as ANSI numbers; all of them are readable on light and dark terminals.
pub mod ink {
    pub const PLAIN: &str = "0";
    pub const STRONG: &str = "1";
    pub const FAINT: &str = "2";
    pub const GOOD: &str = "32";
    pub const CAREFUL: &str = "33";
    pub const BAD: &str = "31";
    pub const OWNER: &str = "34";
}

/// The narrowest screen that is drawn for; beyond the widest, lines are hard to read.
const NARROWEST: usize = 40;
const WIDEST: usize = 120;
/// The column at which texts begin.
const LABEL: usize = 12;
/// More than any line of a status has.
const LONGEST_TEXT: usize = 2000;
/// So many pilots are shown however low the screen is.
const FEWEST_PILOTS: usize = 3;

impl Screen {
    /// The terminal's size, and colour where it is wanted (`NO_COLOR`).
    pub fn of_terminal() -> Screen {
        let out = std::io::stdout();
        let size = rustix::termios::tcgetwinsize(&out).ok();
        let size = size.filter(|size| out.is_terminal() && size.ws_col > 0);
        let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == *"dumb");
        let width = size.map_or(80, |size| usize::from(size.ws_col));
        Screen {
            width: width.clamp(NARROWEST, WIDEST),
            height: size.map(|size| usize::from(size.ws_row)),
            is_coloured: size.is_some() && !is_plain,
            zone: TimeZone::system(),
            now: clock::now(),
        }
    }

    pub fn paint(&self, ink: &str, text: &str) -> String {
        match self.is_coloured {
            true => format!("\x1b[{ink}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    /// `14:02`, with the date if that is another day.
    fn clock(&self, epoch: f64) -> String {
        let [at, now] = [epoch, self.now.epoch].map(|second| local(whole(second), &self.zone));
        let is_today = at.date() == now.date();
        let format = if is_today { "%H:%M" } else { "%a %-d %b %H:%M" };
        at.strftime(format).to_string()
    }

    fn since(&self, epoch: f64) -> String {
        rough(self.now.epoch - epoch)
    }

    /// `Engine      text`, wrapped below itself.
    pub fn row(&self, label: &str, ink: &str, text: &str) -> Vec<String> {
        let mut lines = vec![String::new()];
        for word in clean_line(text, LONGEST_TEXT).split_whitespace() {
            match lines.last_mut() {
                Some(line) if line.is_empty() => line.push_str(word),
                Some(line) if LABEL + length(line) + 1 + length(word) <= self.width => {
                    line.push(' ');
                    line.push_str(word);
                }
                _ => lines.push(word.to_owned()),
            }
        }
        let labels = std::iter::once(label).chain(std::iter::repeat(""));
        let lines = lines.iter().zip(labels);
        let row = |(line, label): (&String, &str)| {
            self.paint(ink::STRONG, &pad(label)) + &self.paint(ink, line)
        };
        lines.map(row).collect()
    }
}

fn length(text: &str) -> usize {
    text.chars().count()
}

fn pad(label: &str) -> String {
    format!("{label:<LABEL$}")
}

/// `plancton status`: at most `screen.height` lines, unless that leaves no room for three pilots.
pub fn render(status: &Status, screen: &Screen) -> String {
    let top = [headline(status, screen), bars(status, screen)].concat();
    let bottom = footer(status, screen);
    let others = top.len() + bottom.len();
    let room = screen.height.unwrap_or(usize::MAX).saturating_sub(others);
    [top, table(status, screen, room), bottom]
        .concat()
        .join("\n")
        + "\n"
}

/// `plancton why`: the first lines of the status alone.
pub fn render_why(status: &Status, screen: &Screen) -> String {
    headline(status, screen).join("\n") + "\n"
}

/// A drain or snooze and how to end it, whether the daemon answers, the state and its reason.
fn headline(status: &Status, screen: &Screen) -> Vec<String> {
    [requests(status, screen), verdict(status, screen)].concat()
}

fn requests(status: &Status, screen: &Screen) -> Vec<String> {
    let mut lines = Vec::new();
    let mut row = |label, ink, text: String| lines.extend(screen.row(label, ink, &text));
    if let Some(drain) = &status.drain {
        let by = drain
            .by
            .map(|by| format!("; what still runs at {} is stopped", screen.clock(by)));
        let (since, by) = (screen.clock(drain.since), by.unwrap_or_default());
        let end = if drain.stop {
            "; the daemon ends after the last pilot"
        } else {
            ""
        };
        row(
            "Draining",
            ink::CAREFUL,
            format!("since {since}{by}{end}. To go on: plancton resume"),
        );
    }
    if let Some(snooze) = status.snooze {
        let (until, left) = (
            screen.clock(snooze.until),
            rough(snooze.until - screen.now.epoch),
        );
        row(
            "Snoozing",
            ink::CAREFUL,
            format!("until {until} ({left} left). To go on: plancton resume"),
        );
    }
    lines
}

fn verdict(status: &Status, screen: &Screen) -> Vec<String> {
    let mut lines = Vec::new();
    let mut row = |label, ink, text: String| lines.extend(screen.row(label, ink, &text));
    let is_stale = status.is_stale(screen.now);
    if is_stale {
        let (pid, since) = (status.pid, screen.clock(status.tick));
        let text = format!(
            "the daemon (pid {pid}) is not responding since {since}; last known status below"
        );
        row("Silent", ink::BAD, text);
    }
    let (label, ink) = match status.state {
        State::Active => ("● active", ink::GOOD),
        State::Draining => ("◐ draining", ink::CAREFUL),
        State::Snoozed => ("‖ snoozed", ink::CAREFUL),
        State::Paused => ("‖ paused", ink::CAREFUL),
        State::Waiting => ("○ waiting", ink::PLAIN),
    };
    // A green light beside a silent daemon would mislead.
    let ink = if is_stale { ink::FAINT } else { ink };
    row(label, ink, status.reason.text.clone());
    if matches!(status.reason.code, Code::BackOff | Code::NoWork) {
        // In its own words, to who may read them.
        let last = |text: &str| {
            text.lines()
                .rfind(|line| !line.trim().is_empty())
                .map(str::to_owned)
        };
        let mut tails = status.gone.iter().filter_map(|gone| last(&gone.log_tail));
        if let Some(line) = tails.next() {
            row("It said", ink::PLAIN, clean_line(&line, LONGEST_WORDS));
        }
    }
    lines
}

/// Characters of a pilot's last line.
const LONGEST_WORDS: usize = 200;

/// Who uses the processors and the memory, what is promised, what is left.
fn bars(status: &Status, screen: &Screen) -> Vec<String> {
    let gib = |bytes: u64| float(bytes) / float(1 << 30);
    let memory = &status.memory;
    let memory = Cpus {
        total: gib(memory.total),
        given: gib(memory.given),
        foreign: memory.foreign.map(gib),
        pilots: memory.pilots.map(gib),
        idle: None,
        reserve: gib(memory.reserve),
    };
    [
        bar("CPU", "cores", &status.cpus, screen),
        bar("Memory", "GiB", &memory, screen),
    ]
    .concat()
}

/// The parts fill the total: what does not fit any more is cut, the reserve first. A kind of part differs from the others
/// by its character as well as by its colour.
fn bar(name: &str, unit: &str, of: &Cpus, screen: &Screen) -> Vec<String> {
    let amount = |value: Option<f64>| value.filter(|value| *value > 0.0).unwrap_or(0.0);
    let promised = (of.given - amount(of.pilots)).max(0.0);
    let taken = amount(of.foreign) + amount(of.pilots) + promised + of.reserve;
    let free = of.foreign.map(|_| (of.total - taken).max(0.0));
    let parts = [
        ("█", ink::OWNER, "owner", of.foreign),
        ("▒", ink::GOOD, "pilots", of.pilots),
        ("░", ink::GOOD, "promised", Some(promised)),
        ("·", ink::FAINT, "free", free),
        ("╱", ink::FAINT, "reserve", Some(of.reserve)),
    ];
    let title = format!("{} {unit}", number(of.total));
    let width = screen
        .width
        .saturating_sub(LABEL + length(&title) + 2)
        .min(64);
    let mut line = screen.paint(ink::STRONG, &pad(name));
    let (mut reached, mut drawn) = (0.0, 0);
    for (mark, ink, _, value) in parts {
        reached += amount(value);
        let end = cells(reached / of.total, width).max(drawn);
        line += &screen.paint(ink, &mark.repeat(end - drawn));
        drawn = end;
    }
    let legend = parts.map(|(mark, _, part, value)| {
        format!("{mark} {part} {}", value.map_or("?".to_owned(), number))
    });
    let line = format!("{line}{}  {title}", " ".repeat(width - drawn));
    let mut lines = vec![String::new(), line];
    lines.extend(screen.row("", ink::PLAIN, &legend.join(", ")));
    lines
}

/// How many of the cells a part of the whole fills.
pub fn cells(part: f64, of: usize) -> usize {
    let cells = whole((part.clamp(0.0, 1.0) * float(of as u64)).round());
    usize::try_from(cells).unwrap_or(of)
}

/// At most `room` lines, with an empty one before; nothing at all without pilots. Of an image that is too long for what is
/// left of its line only the last part is shown.
fn table(status: &Status, screen: &Screen, room: usize) -> Vec<String> {
    if status.pilots.is_empty() {
        return Vec::new();
    }
    let rows = room.saturating_sub(3).max(FEWEST_PILOTS);
    let name = status.pilots.iter().map(|pilot| length(&pilot.name)).max();
    let name = name.unwrap_or(0);
    let line = |cells: [&str; 5]| {
        let [a, b, c, d, e] = cells.map(|cell| clean_line(cell, LONGEST_TEXT));
        format!("{a:<name$}  {b:<8} {c:>7} {d:>7}  {e}")
    };
    let heads = line(["PILOT", "STATE", "FOR", "LEFT", "IMAGE"]);
    let mut lines = vec![String::new(), screen.paint(ink::STRONG, &heads)];
    for pilot in status.pilots.iter().take(rows) {
        let age = pilot.started.map(|started| screen.since(started));
        let left = pilot.deadline.map(|deadline| deadline - screen.now.epoch);
        let left = left.map(|left| match left > 0.0 {
            true => rough(left),
            false => "over".to_owned(),
        });
        let [age, left] = [age, left].map(|time| time.unwrap_or("-".to_owned()));
        let image = match length(&pilot.image) + name + 28 <= screen.width {
            true => pilot.image.as_str(),
            false => pilot.image.rsplit('/').next().unwrap_or_default(),
        };
        lines.push(line([&pilot.name, &word(pilot.state), &age, &left, image]));
    }
    if status.pilots.len() > rows {
        lines.push(format!("+ {} more", status.pilots.len() - rows));
    }
    lines
}

/// Everything below the pilots.
fn footer(status: &Status, screen: &Screen) -> Vec<String> {
    let rows = [surroundings, work_under_way, daemon_rows];
    let rows = rows.iter().flat_map(|rows| rows(status, screen));
    std::iter::once(String::new()).chain(rows).collect()
}

fn surroundings(status: &Status, screen: &Screen) -> Vec<String> {
    let mut lines = Vec::new();
    let mut row = |label, ink, text: String| lines.extend(screen.row(label, ink, &text));
    let (others, protection) = (&status.others, &status.protection);
    if others.pilots > 0 {
        let (count, cpus) = (others.pilots, number(others.cpus));
        row(
            "Others",
            ink::PLAIN,
            format!("pilots of other instances on this engine: {count}, cores: {cpus}"),
        );
    }
    let ink = if protection.level == "none" {
        ink::CAREFUL
    } else {
        ink::PLAIN
    };
    row(
        "Protection",
        ink,
        format!("{}: {}", protection.level, protection.text),
    );
    let engine = &status.engine;
    if engine.version.is_empty() {
        row(
            "Engine",
            ink::CAREFUL,
            format!("{} does not answer", engine.socket),
        );
    } else {
        let text = format!(
            "{} {}, API {}, {}",
            engine.name, engine.version, engine.api, engine.socket
        );
        row("Engine", ink::PLAIN, text);
    }
    lines
}

fn work_under_way(status: &Status, screen: &Screen) -> Vec<String> {
    let mut lines = Vec::new();
    let mut row = |label, ink, text: String| lines.extend(screen.row(label, ink, &text));
    if let Some(pull) = &status.pull {
        let (bytes, total) = (Bytes(pull.bytes), Bytes(pull.total.max(pull.bytes)));
        row(
            "Pulling",
            ink::PLAIN,
            format!("{}: {bytes} of {total}", pull.image),
        );
    }
    if let Some(remote) = &status.remote {
        let (changed, looked) = (screen.clock(remote.changed), screen.clock(remote.looked));
        let text = format!(
            "{} {}, changed {changed}, looked at {looked}",
            remote.url, remote.hash
        );
        row("Joined", ink::PLAIN, text);
    }
    if let Some(disk) = status.disk.as_ref().filter(|disk| disk.free < disk.reserve) {
        let (free, reserve) = (Bytes(disk.free), Bytes(disk.reserve));
        row(
            "Disk",
            ink::CAREFUL,
            format!("{free} free, less than the reserve of {reserve}"),
        );
    }
    lines
}

fn daemon_rows(status: &Status, screen: &Screen) -> Vec<String> {
    let mut lines = Vec::new();
    let mut row = |label, ink, text: String| lines.extend(screen.row(label, ink, &text));
    let (version, pid, instance) = (&status.version, status.pid, &status.instance);
    let up = screen.since(status.since);
    row(
        "Daemon",
        ink::PLAIN,
        format!("{version}, pid {pid}, instance {instance}, up {up}"),
    );
    let counts = status.counts.iter();
    let counts: Vec<String> = counts
        .map(|(what, count)| format!("{count} {what}"))
        .collect();
    if !counts.is_empty() {
        row("So far", ink::PLAIN, counts.join(", "));
    }
    for problem in &status.problems {
        row("Problem", ink::CAREFUL, problem.clone());
    }
    lines
}

/// `1`, `0.5`, `12`: one decimal where it says something; `?` for what no machine has.
pub fn number(value: f64) -> String {
    match format!("{:.1}", value + 0.0) {
        _ if !value.is_finite() || value.abs() > 1e9 => "?".to_owned(),
        text => text.trim_end_matches(".0").to_owned(),
    }
}

pub fn rough(seconds: f64) -> String {
    format_rough(Duration::from_secs(whole(seconds)))
}
#[cfg(test)]
mod tests;
