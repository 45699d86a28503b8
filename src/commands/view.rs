//! The status for people: from a [`Status`] to the text of `plancton status`. Pure: time, width, colours and time zone are
//! arguments, and nothing is printed.
//! Everything is readable without colour, and whatever comes from outside (names, images, messages) loses its control characters.

mod bars;
mod table;

use crate::report::{Drain, State, Status};
use crate::units::{Bytes, float, format_rough, whole};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    On,
    Off,
}

/// What the text is made for.
#[derive(Clone, Debug)]
pub struct Screen {
    pub width: u16,
    /// So many lines at most, by leaving out pilots; `None`: all of them.
    pub height: Option<u16>,
    pub colour: Colour,
    pub zone: TimeZone,
}

/// The narrowest screen that is drawn for.
const NARROWEST: usize = 40;
/// Beyond that, lines are hard to read.
const WIDEST: usize = 120;
/// The column at which the texts of the last lines begin.
const LABEL: usize = 12;

/// Colours by what they mean; all of them are readable on light and dark terminals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ink {
    Plain,
    Strong,
    Faint,
    Good,
    Careful,
    Bad,
    Owner,
}

impl Ink {
    fn code(self) -> &'static str {
        match self {
            Ink::Plain => "",
            Ink::Strong => "1",
            Ink::Faint => "2",
            Ink::Good => "32",
            Ink::Careful => "33",
            Ink::Bad => "31",
            Ink::Owner => "34",
        }
    }
}

/// `plancton status`: at most `screen.height` lines, unless that leaves no room for three pilots.
pub fn render(status: &Status, now: f64, screen: &Screen) -> String {
    let pen = Pen::new(screen, now);
    let mut top = headline(&pen, status);
    top.push(String::new());
    bars::draw(&pen, status, &mut top);
    let mut bottom = footer(&pen, status);
    bottom.insert(0, String::new());
    let room = screen.height.map_or(usize::MAX, |height| {
        let others = top.len() + bottom.len();
        usize::from(height).saturating_sub(others)
    });
    let pilots = table::draw(&pen, status, room);
    let lines = top.into_iter().chain(pilots).chain(bottom);
    let mut text = String::new();
    for line in lines {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `plancton why`: the first lines of the status alone.
pub fn render_why(status: &Status, now: f64, screen: &Screen) -> String {
    headline(&Pen::new(screen, now), status).join("\n") + "\n"
}

/// What is drawn with.
struct Pen<'a> {
    width: usize,
    colour: Colour,
    zone: &'a TimeZone,
    now: f64,
}

impl Pen<'_> {
    fn new(screen: &Screen, now: f64) -> Pen<'_> {
        Pen {
            width: usize::from(screen.width).clamp(NARROWEST, WIDEST),
            colour: screen.colour,
            zone: &screen.zone,
            now,
        }
    }

    fn paint(&self, ink: Ink, text: &str) -> String {
        match self.colour {
            Colour::On if ink != Ink::Plain && !text.is_empty() => {
                format!("\x1b[{}m{text}\x1b[0m", ink.code())
            }
            _ => text.to_owned(),
        }
    }

    /// `14:02`, with the date if that is another day.
    fn clock(&self, epoch: f64) -> String {
        let zoned = |seconds: f64| {
            let at = Timestamp::from_second(i64::try_from(whole(seconds)).ok()?).ok()?;
            Some(at.to_zoned(self.zone.clone()))
        };
        let Some((at, now)) = zoned(epoch).zip(zoned(self.now)) else {
            return "an unknown time".to_owned();
        };
        let days = |a: &Zoned, b: &Zoned| a.date().until(b.date()).map_or(999, |span| span.get_days());
        let format = match days(&now, &at) {
            0 => "%H:%M",
            -6..=6 => "%a %H:%M",
            _ => "%-d %b %Y %H:%M",
        };
        at.strftime(format).to_string()
    }

    /// Words in lines of the full width, all but the first moved in by `indent`.
    fn wrap(&self, text: &str, indent: usize) -> Vec<String> {
        let mut lines = Vec::new();
        let mut line = String::new();
        let mut used = indent;
        for word in text.split_whitespace() {
            let mut word = word;
            let length = word.chars().count();
            if used > indent && used + 1 + length > self.width {
                lines.push(std::mem::replace(&mut line, " ".repeat(indent)));
                used = indent;
            } else if used > indent {
                line.push(' ');
                used += 1;
            }
            // A word longer than a line is cut into pieces.
            while used + word.chars().count() > self.width {
                let cut = word.char_indices().nth(self.width - used).map_or(word.len(), |(at, _)| at);
                let (piece, rest) = word.split_at(cut);
                line.push_str(piece);
                lines.push(std::mem::replace(&mut line, " ".repeat(indent)));
                (word, used) = (rest, indent);
            }
            line.push_str(word);
            used += word.chars().count();
        }
        lines.push(line);
        lines
    }

    /// `Engine      text`, wrapped below itself.
    fn labelled(&self, label: &str, ink: Ink, text: &str) -> Vec<String> {
        let mut lines = self.wrap(text, LABEL);
        let label = self.paint(Ink::Faint, &format!("{label:<LABEL$}"));
        for (number, line) in lines.iter_mut().enumerate() {
            let painted = self.paint(ink, line.trim_start());
            *line = match number {
                0 => format!("{label}{painted}"),
                _ => format!("{:LABEL$}{painted}", ""),
            };
        }
        lines
    }
}

/// A drain or snooze and how to end it, whether the daemon answers, the state and its reason.
fn headline(pen: &Pen, status: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    let mut say = |ink, text: &str| {
        lines.extend(pen.wrap(text, 2).iter().map(|line| pen.paint(ink, line)));
    };
    if let Some(drain) = &status.drain {
        say(Ink::Careful, &drain_text(pen, drain));
    }
    if let Some(snooze) = status.snooze.as_ref().filter(|snooze| snooze.until > pen.now) {
        let left = rough(snooze.until - pen.now);
        let until = pen.clock(snooze.until);
        say(Ink::Careful, &format!("Snoozing until {until} ({left} left). To go on: plancton resume"));
    }
    if status.is_stale(pen.now) {
        let since = pen.clock(status.tick);
        let pid = status.pid;
        say(Ink::Bad, &format!("The daemon (pid {pid}) does not answer since {since}; this is what it said last."));
    }
    lines.extend(state(pen, status));
    lines
}

fn drain_text(pen: &Pen, drain: &Drain) -> String {
    let mut text = format!("Draining since {}", pen.clock(drain.since));
    if let Some(by) = drain.by {
        text.push_str(&format!(", what still runs at {} is stopped", pen.clock(by)));
    }
    if drain.stop {
        text.push_str(", the daemon ends after the last pilot");
    }
    text + ". To go on: plancton resume"
}

/// `● active  5 pilots run; another needs 1 core and 0.4 are free`
fn state(pen: &Pen, status: &Status) -> Vec<String> {
    let (mark, ink) = match status.state {
        State::Active => ("●", Ink::Good),
        State::Draining => ("◐", Ink::Careful),
        State::Snoozed | State::Paused => ("‖", Ink::Careful),
        State::Waiting => ("○", Ink::Plain),
    };
    // A green light beside a silent daemon would mislead.
    let ink = if status.is_stale(pen.now) { Ink::Faint } else { ink };
    let name = status.state.name();
    let text = clean(&status.reason.text);
    let mut lines = pen.wrap(&format!("{mark} {name}  {text}"), 2);
    if let Some(first) = lines.first_mut() {
        // Two blanks after the state, which wrapping made one.
        let rest = first.strip_prefix(&format!("{mark} {name}")).unwrap_or_default().trim_start().to_owned();
        *first = format!("{} {}  {rest}", pen.paint(ink, mark), pen.paint(Ink::Strong, name));
    }
    lines
}

/// Everything below the pilots.
fn footer(pen: &Pen, status: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    if status.others.pilots > 0 {
        let (count, cpus) = (status.others.pilots, number(status.others.cpus));
        let noun = if count == 1 { "pilot" } else { "pilots" };
        let text = format!("{count} {noun} of other instances on this engine, {cpus} cores");
        lines.extend(pen.labelled("Others", Ink::Plain, &text));
    }
    let protection = clean(&status.protection.text);
    let (word, ink) = match status.protection.level.as_str() {
        "verified" => ("verified", Ink::Plain),
        "prepared" => ("prepared", Ink::Plain),
        _ => ("none", Ink::Careful),
    };
    let text = if protection.is_empty() { word.to_owned() } else { format!("{word}: {protection}") };
    lines.extend(pen.labelled("Protection", ink, &text));
    lines.extend(engine(pen, status));
    if let Some(disk) = status.disk.as_ref().filter(|disk| disk.free < disk.reserve) {
        let (free, reserve) = (Bytes(disk.free), Bytes(disk.reserve));
        let text = format!("{free} free, less than the reserve of {reserve}");
        lines.extend(pen.labelled("Disk", Ink::Careful, &text));
    }
    let mut daemon = format!("{}, pid {}, instance {}", clean(&status.version), status.pid, clean(&status.instance));
    if status.since > 0.0 {
        daemon.push_str(&format!(", up {}", rough(pen.now - status.since)));
    }
    lines.extend(pen.labelled("Daemon", Ink::Plain, &daemon));
    if let Some(text) = counts(status) {
        lines.extend(pen.labelled("So far", Ink::Plain, &text));
    }
    for (index, problem) in status.problems.iter().enumerate() {
        let label = if index == 0 { "Problems" } else { "" };
        lines.extend(pen.labelled(label, Ink::Careful, &format!("! {}", clean(problem))));
    }
    lines
}

fn engine(pen: &Pen, status: &Status) -> Vec<String> {
    let engine = &status.engine;
    let socket = clean(&engine.socket);
    if engine.version.is_empty() {
        let text = match socket.is_empty() {
            true => "not reached".to_owned(),
            false => format!("{socket} does not answer"),
        };
        return pen.labelled("Engine", Ink::Careful, &text);
    }
    let (name, version, api) = (clean(&engine.name), clean(&engine.version), clean(&engine.api));
    pen.labelled("Engine", Ink::Plain, &format!("{name} {version}, API {api}, {socket}"))
}

/// `132 launches: 120 done, 3 failed`
fn counts(status: &Status) -> Option<String> {
    let launches = status.counts.get("launches").copied().unwrap_or(0);
    let mut ends: Vec<(&String, &u64)> = status.counts.iter().collect();
    ends.retain(|(kind, count)| *kind != "launches" && **count > 0);
    if launches == 0 && ends.is_empty() {
        return None;
    }
    ends.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let ends: Vec<String> = ends.iter().map(|(kind, count)| format!("{count} {}", clean(kind))).collect();
    let colon = if ends.is_empty() { "" } else { ": " };
    let noun = if launches == 1 { "launch" } else { "launches" };
    Some(format!("{launches} {noun}{colon}{}", ends.join(", ")))
}

/// Without control characters and those that turn the direction of writing; a new line or tab is a blank.
fn clean(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' | '\t' => Some(' '),
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => None,
        c => (!c.is_control()).then_some(c),
    };
    text.chars().filter_map(shown).collect()
}

/// `1`, `0.5`, `12`: one decimal where it says something; `?` for what no machine has.
fn number(value: f64) -> String {
    if !value.is_finite() || value.abs() > 1e9 {
        return "?".to_owned();
    }
    let text = format!("{value:.1}");
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

fn rough(seconds: f64) -> String {
    format_rough(Duration::from_secs(whole(seconds)))
}

/// Sizes for people: `1.4 GiB`.
fn size(bytes: u64) -> String {
    let gib = float(bytes) / float(1 << 30);
    match gib {
        0.1.. => format!("{} GiB", number(gib)),
        _ => format!("{} MiB", number((float(bytes) / float(1 << 20)).round())),
    }
}

#[cfg(test)]
mod tests;
