//! The status for people: from a [`Status`] to the text of `plancton status`. Pure: time, width, colours and time zone are
//! arguments, and nothing is printed.
//! Everything is readable without colour, and whatever comes from outside (names, images, messages) loses its control characters.

mod bars;
pub mod history;
pub mod page;
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

/// Colours by what they mean, as ANSI numbers; all of them are readable on light and dark terminals.
mod ink {
    pub const PLAIN: &str = "";
    pub const STRONG: &str = "1";
    pub const FAINT: &str = "2";
    pub const GOOD: &str = "32";
    pub const CAREFUL: &str = "33";
    pub const BAD: &str = "31";
    pub const OWNER: &str = "34";
}

/// `plancton status`: at most `screen.height` lines, unless that leaves no room for three pilots.
pub fn render(status: &Status, now: f64, screen: &Screen) -> String {
    let pen = Pen::new(screen, now);
    let mut top = headline(&pen, status);
    top.push(String::new());
    top.extend(bars::draw(&pen, status));
    let bottom = footer(&pen, status);
    let others = top.len() + bottom.len() + 1;
    let room = screen.height.map_or(usize::MAX, |height| {
        usize::from(height).saturating_sub(others)
    });
    let pilots = table::draw(&pen, status, room);
    let lines = top
        .into_iter()
        .chain(pilots)
        .chain([String::new()])
        .chain(bottom);
    lines.map(|line| format!("{}\n", line.trim_end())).collect()
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

    fn paint(&self, ink: &str, text: &str) -> String {
        match self.colour {
            Colour::On if !ink.is_empty() && !text.is_empty() => {
                format!("\x1b[{ink}m{text}\x1b[0m")
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
        let days =
            |a: &Zoned, b: &Zoned| a.date().until(b.date()).map_or(999, |span| span.get_days());
        let format = match days(&now, &at) {
            0 => "%H:%M",
            -6..=6 => "%a %H:%M",
            _ => "%-d %b %Y %H:%M",
        };
        at.strftime(format).to_string()
    }

    /// Pieces (each with its length on the screen) in lines of the width that is left right of `indent`.
    fn flow(&self, pieces: Vec<(String, usize)>, gap: &str, indent: usize) -> Vec<String> {
        let mut lines = vec![String::new()];
        let mut used = indent;
        for (piece, length) in pieces {
            if used > indent && used + gap.len() + length > self.width {
                lines.push(String::new());
                used = indent;
            }
            if let Some(line) = lines.last_mut() {
                let gap = if used > indent { gap } else { "" };
                line.push_str(gap);
                line.push_str(&piece);
                used += gap.len() + length;
            }
        }
        lines
    }

    /// Words in lines of the full width, all but the first moved in by `indent`.
    fn wrap(&self, text: &str, indent: usize) -> Vec<String> {
        let mut words = Vec::new();
        for word in text.split_whitespace() {
            // A word longer than a line is cut into pieces.
            let letters: Vec<char> = word.chars().collect();
            words.extend(
                letters
                    .chunks(self.width - indent)
                    .map(|piece| (String::from_iter(piece), piece.len())),
            );
        }
        self.flow(words, " ", indent)
    }

    /// `Engine      text`, wrapped below itself.
    fn labelled(&self, label: &str, ink: &str, text: &str) -> Vec<String> {
        let label = self.paint(ink::FAINT, &format!("{label:<LABEL$}"));
        let lines = self.wrap(text, LABEL).into_iter().enumerate();
        let before = |number| {
            if number == 0 {
                label.clone()
            } else {
                " ".repeat(LABEL)
            }
        };
        lines
            .map(|(number, line)| before(number) + &self.paint(ink, &line))
            .collect()
    }

    /// Text from the left, wrapped a little to the right.
    fn told(&self, ink: &str, text: &str) -> Vec<String> {
        let lines = self.wrap(text, 2).into_iter().enumerate();
        lines
            .map(|(number, line)| " ".repeat(2 * number.min(1)) + &self.paint(ink, &line))
            .collect()
    }
}

/// A drain or snooze and how to end it, whether the daemon answers, the state and its reason.
fn headline(pen: &Pen, status: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(drain) = &status.drain {
        lines.extend(pen.told(ink::CAREFUL, &drain_text(pen, drain)));
    }
    if let Some(snooze) = status
        .snooze
        .as_ref()
        .filter(|snooze| snooze.until > pen.now)
    {
        let (until, left) = (pen.clock(snooze.until), rough(snooze.until - pen.now));
        lines.extend(pen.told(
            ink::CAREFUL,
            &format!("Snoozing until {until} ({left} left). To go on: plancton resume"),
        ));
    }
    if status.is_stale(pen.now) {
        let (pid, since) = (status.pid, pen.clock(status.tick));
        let text = format!(
            "The daemon (pid {pid}) does not answer since {since}; this is what it said last."
        );
        lines.extend(pen.told(ink::BAD, &text));
    }
    lines.extend(state(pen, status));
    lines
}

fn drain_text(pen: &Pen, drain: &Drain) -> String {
    let mut text = format!("Draining since {}", pen.clock(drain.since));
    if let Some(by) = drain.by {
        text.push_str(&format!(
            ", what still runs at {} is stopped",
            pen.clock(by)
        ));
    }
    if drain.stop {
        text.push_str(", the daemon ends after the last pilot");
    }
    text + ". To go on: plancton resume"
}

/// `● active  5 pilots run; another needs 1 core and 0.4 are free`
fn state(pen: &Pen, status: &Status) -> Vec<String> {
    let (mark, ink) = match status.state {
        State::Active => ("●", ink::GOOD),
        State::Draining => ("◐", ink::CAREFUL),
        State::Snoozed | State::Paused => ("‖", ink::CAREFUL),
        State::Waiting => ("○", ink::PLAIN),
    };
    // A green light beside a silent daemon would mislead.
    let ink = if status.is_stale(pen.now) {
        ink::FAINT
    } else {
        ink
    };
    let name = status.state.name();
    let mut lines = pen.told(
        ink::PLAIN,
        &format!("{mark} {name} {}", clean(&status.reason.text)),
    );
    if let Some(first) = lines.first_mut() {
        let painted = format!("{} {} ", pen.paint(ink, mark), pen.paint(ink::STRONG, name));
        *first = first.replacen(&format!("{mark} {name}"), &painted, 1);
    }
    lines
}

/// Everything below the pilots.
fn footer(pen: &Pen, status: &Status) -> Vec<String> {
    let mut rows = Vec::new();
    if status.others.pilots > 0 {
        let (count, cpus) = (
            counted(status.others.pilots.into(), "pilot", "pilots"),
            number(status.others.cpus),
        );
        rows.push((
            "Others",
            ink::PLAIN,
            format!("{count} of other instances on this engine, {cpus} cores"),
        ));
    }
    let (word, ink) = match status.protection.level.as_str() {
        "verified" => ("verified", ink::PLAIN),
        "prepared" => ("prepared", ink::PLAIN),
        _ => ("none", ink::CAREFUL),
    };
    let text = Some(clean(&status.protection.text)).filter(|text| !text.is_empty());
    rows.push((
        "Protection",
        ink,
        text.map_or(word.to_owned(), |text| format!("{word}: {text}")),
    ));
    let engine = &status.engine;
    let [name, version, api, socket] =
        [&engine.name, &engine.version, &engine.api, &engine.socket].map(|text| clean(text));
    rows.push(match (version.is_empty(), socket.is_empty()) {
        (true, true) => ("Engine", ink::CAREFUL, "not reached".to_owned()),
        (true, false) => ("Engine", ink::CAREFUL, format!("{socket} does not answer")),
        _ => (
            "Engine",
            ink::PLAIN,
            format!("{name} {version}, API {api}, {socket}"),
        ),
    });
    if let Some(pull) = &status.pull {
        let known = if pull.total > 0 {
            format!(" of {}", Bytes(pull.total))
        } else {
            String::new()
        };
        rows.push((
            "Pulling",
            ink::PLAIN,
            format!("{}: {}{known}", clean(&pull.image), Bytes(pull.bytes)),
        ));
    }
    if let Some(remote) = &status.remote {
        let seen = |at: f64| {
            if at > 0.0 {
                format!("{} ago", rough(pen.now - at))
            } else {
                "never".to_owned()
            }
        };
        let hash = if remote.hash.is_empty() {
            "nothing of it in force".to_owned()
        } else {
            clean(&remote.hash)
        };
        let (changed, looked) = (seen(remote.changed), seen(remote.looked));
        let text = format!(
            "{}: {hash}, changed {changed}, looked at {looked}",
            clean(&remote.url)
        );
        rows.push(("Joined", ink::PLAIN, text));
    }
    if let Some(disk) = status.disk.as_ref().filter(|disk| disk.free < disk.reserve) {
        let (free, reserve) = (Bytes(disk.free), Bytes(disk.reserve));
        rows.push((
            "Disk",
            ink::CAREFUL,
            format!("{free} free, less than the reserve of {reserve}"),
        ));
    }
    let up = if status.since > 0.0 {
        format!(", up {}", rough(pen.now - status.since))
    } else {
        String::new()
    };
    let (version, pid, instance) = (clean(&status.version), status.pid, clean(&status.instance));
    rows.push((
        "Daemon",
        ink::PLAIN,
        format!("{version}, pid {pid}, instance {instance}{up}"),
    ));
    rows.extend(counts(status).map(|text| ("So far", ink::PLAIN, text)));
    for (index, problem) in status.problems.iter().enumerate() {
        rows.push((
            if index == 0 { "Problems" } else { "" },
            ink::CAREFUL,
            format!("! {}", clean(problem)),
        ));
    }
    rows.iter()
        .flat_map(|(label, ink, text)| pen.labelled(label, ink, text))
        .collect()
}

fn counted(count: u64, one: &str, several: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}

/// `132 launches: 120 done, 3 failed`
fn counts(status: &Status) -> Option<String> {
    let launches = status.counts.get("launches").copied().unwrap_or(0);
    let mut ends: Vec<_> = status
        .counts
        .iter()
        .filter(|(kind, count)| *kind != "launches" && **count > 0)
        .collect();
    ends.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let ends: Vec<String> = ends
        .iter()
        .map(|(kind, count)| format!("{count} {}", clean(kind)))
        .collect();
    let launched = counted(launches, "launch", "launches");
    match (launches, ends.join(", ")) {
        (0, ends) if ends.is_empty() => None,
        (_, ends) if ends.is_empty() => Some(launched),
        (_, ends) => Some(format!("{launched}: {ends}")),
    }
}

/// Without control characters and those that turn the direction of writing; a new line or tab is a blank.
pub fn clean(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' | '\t' => Some(' '),
        '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}' => None,
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
    if text == "-0" {
        "0".to_owned()
    } else {
        text.to_owned()
    }
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
