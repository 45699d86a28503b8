//! What this machine gave, as sums by the hour: how a tick adds to them, and the one file that they are kept in,
//! `STATE/history`. A line of it is `[hour since 1970 in UTC, sums]`, all numbers whole, and lines of the same hour add up:
//! what is new is appended every ten minutes, and no more than that is lost in a crash.

use crate::decide::{Code, Decision, EndKind, Observation, PilotState, State};
use crate::state::{self, Durable};
use crate::units::{float, whole};
use jiff::{Timestamp, Zoned, civil::Date, tz::TimeZone};
use serde::{Deserialize, Serialize};
use std::ops::{AddAssign, Range};
use std::{collections::BTreeMap, io, path::Path};

const FILE: &str = "history";

/// By hours since 1970.
pub type Hours = BTreeMap<u64, Sums>;

/// From 1 January 2024 (no clock that was set says less) to the year 9999, where calendars end.
pub const HOURS: Range<u64> = 473_352..70_389_000;
/// More between two ticks was not watched: nothing ticks while no pilot is configured.
const LONGEST_TICK: f64 = 3600.0;
/// A file of more bytes is written anew, a line an hour and half as many bytes: more than a year of a usual machine.
const MOST_BYTES: usize = 4 << 20;

/// Fractions add up; they are not written.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub struct Seconds(pub f64);

impl From<u64> for Seconds {
    fn from(seconds: u64) -> Seconds {
        Seconds(float(seconds))
    }
}

impl From<Seconds> for u64 {
    fn from(seconds: Seconds) -> u64 {
        whole(seconds.0.round())
    }
}

/// The names are those of `history --json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// In which the daemon ran and the machine was awake.
    pub observed_seconds: Seconds,
    pub given_cpu_seconds: Seconds,
    pub owner_cpu_seconds: Seconds,
    pub classes: BTreeMap<String, Class>,
    /// In which less ran than was wanted, by reason.
    pub held_back_seconds: BTreeMap<Code, Seconds>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Class {
    /// The cores of its running pilots, used or not.
    pub core_seconds: Seconds,
    pub ended: BTreeMap<EndKind, u64>,
}

impl AddAssign<&Sums> for Sums {
    fn add_assign(&mut self, other: &Sums) {
        self.observed_seconds.0 += other.observed_seconds.0;
        self.given_cpu_seconds.0 += other.given_cpu_seconds.0;
        self.owner_cpu_seconds.0 += other.owner_cpu_seconds.0;
        for (name, class) in &other.classes {
            self.classes.entry(name.clone()).or_default().add(class);
        }
        for (code, seconds) in &other.held_back_seconds {
            self.held_back_seconds.entry(*code).or_default().0 += seconds.0;
        }
    }
}

impl Class {
    fn add(&mut self, other: &Class) {
        self.core_seconds.0 += other.core_seconds.0;
        for (kind, count) in &other.ended {
            let sum = self.ended.entry(*kind).or_default();
            *sum = sum.saturating_add(*count);
        }
    }
}

impl Sums {
    /// Names in labels may be anybody's.
    fn class(&mut self, name: &str) -> &mut Class {
        let name = name.chars().take(60).collect();
        self.classes.entry(name).or_default()
    }

    /// Pilots by end, of all classes.
    pub fn ended(&self) -> BTreeMap<EndKind, u64> {
        let mut all = Class::default();
        self.classes.values().for_each(|class| all.add(class));
        all.ended
    }
}

/// Why less runs than was wanted; `None`: it does not, or it is only just being started.
fn held_back(decision: &Decision) -> Option<Code> {
    match decision.reason.code {
        Code::Starting | Code::Probing | Code::Full | Code::ClassMax => None,
        Code::MaxPilots if decision.state == State::Active => None,
        code => Some(code),
    }
}

/// Adds up in memory until it is written, with what the last tick left to tell what the next one adds.
#[derive(Default)]
pub struct History {
    pub unwritten: Hours,
    /// Boot second.
    write_at: Option<f64>,
    awake: Option<f64>,
    given: f64,
    /// Boot second of the last window of CPU use.
    window_at: f64,
    held_back: Option<Code>,
}

impl History {
    /// What the time since the last tick adds.
    pub fn tick(&mut self, seen: &Observation, decision: &Decision) {
        let hour = whole(seen.at.epoch / 3600.0);
        // A clock that was not set yet belongs to no hour.
        if !HOURS.contains(&hour) {
            return;
        }
        let sums = self.unwritten.entry(hour).or_default();
        let before = self.awake.replace(seen.at.awake);
        let elapsed = seen.at.awake - before.unwrap_or(seen.at.awake);
        let elapsed = elapsed.clamp(0.0, LONGEST_TICK);
        sums.observed_seconds.0 += elapsed;
        sums.given_cpu_seconds.0 += (seen.given_seconds - self.given).max(0.0);
        self.given = seen.given_seconds;
        if let Some(cpu) = seen.cpu.filter(|cpu| cpu.at > self.window_at) {
            sums.owner_cpu_seconds.0 += cpu.foreign * cpu.window;
            self.window_at = cpu.at;
        }
        let pilots = seen.pilots.iter().flatten();
        for pilot in pilots.filter(|pilot| pilot.own && pilot.state == PilotState::Running) {
            sums.class(&pilot.class).core_seconds.0 += pilot.cpus * elapsed;
        }
        for pilot in &decision.ended {
            let ended = &mut sums.class(&pilot.class).ended;
            *ended.entry(pilot.kind).or_default() += 1;
        }
        // What was decided last has held since.
        if let Some(code) = self.held_back {
            sums.held_back_seconds.entry(code).or_default().0 += elapsed;
        }
        self.held_back = held_back(decision);
    }

    /// After a minute, so that a trial shows something, and then every ten: what is to be appended. What could not be comes
    /// back by [`add_hours`].
    pub fn take_due(&mut self, now: f64) -> Option<Hours> {
        if now < *self.write_at.get_or_insert(now + 60.0) {
            return None;
        }
        self.write_at = Some(now + 600.0);
        Some(std::mem::take(&mut self.unwritten)).filter(|hours| !hours.is_empty())
    }
}

pub fn add_hours(to: &mut Hours, from: impl IntoIterator<Item = (u64, Sums)>) {
    for (hour, sums) in from {
        *to.entry(hour).or_default() += &sums;
    }
}

/// Waits for the disk.
pub fn append(state: &Path, hours: &Hours) -> io::Result<()> {
    let lines: String = hours.iter().map(encode).collect();
    state::append_lines(&state.join(FILE), &lines)?;
    shorten(state, MOST_BYTES)
}

/// One line, with its end.
fn encode(hour: (&u64, &Sums)) -> String {
    serde_json::to_string(&hour).unwrap_or_default() + "\n"
}

/// The newest hours of a file that is too long.
fn shorten(state: &Path, most_bytes: usize) -> io::Result<()> {
    let length = std::fs::metadata(state.join(FILE)).map_or(0, |found| found.len());
    if length <= most_bytes as u64 {
        return Ok(());
    }
    let lines: String = read(state)?.0.iter().map(encode).collect();
    let text = format!("\n{lines}").into_bytes();
    let start = text.len().saturating_sub(most_bytes / 2);
    // A line that was cut in two is left out.
    let newest = text.into_iter().skip(start);
    let newest: Vec<u8> = newest.skip_while(|byte| *byte != b'\n').collect();
    state::write_file(&state.join(FILE), &newest, 0o644, Durable::Yes)
}

/// Everything there is, and how many lines cannot be read: a crash or a bad disk leaves such.
pub fn read(state: &Path) -> io::Result<(Hours, usize)> {
    let text = state::read_file(&state.join(FILE), 2 * MOST_BYTES)?.unwrap_or_default();
    let (mut hours, mut bad) = (Hours::new(), 0);
    for line in text.lines().filter(|line| !line.is_empty()) {
        match serde_json::from_slice::<(u64, Sums)>(line.as_bytes()) {
            Ok(read) if HOURS.contains(&read.0) => add_hours(&mut hours, [read]),
            _ => bad += 1,
        }
    }
    Ok((hours, bad))
}

/// A second since 1970 on the clock of its place.
pub fn local(second: u64, zone: &TimeZone) -> Zoned {
    let second = i64::try_from(second).ok();
    let at = second.and_then(|second| Timestamp::from_second(second).ok());
    at.unwrap_or_default().to_zoned(zone.clone())
}

/// The days of this place, whatever hours they have.
pub fn by_day(hours: &Hours, zone: &TimeZone) -> BTreeMap<Date, Sums> {
    let mut days: BTreeMap<Date, Sums> = BTreeMap::new();
    for (hour, sums) in hours {
        *days.entry(local(hour * 3600, zone).date()).or_default() += sums;
    }
    days
}

pub fn total<'a>(all: impl IntoIterator<Item = &'a Sums>) -> Sums {
    let mut total = Sums::default();
    all.into_iter().for_each(|sums| total += sums);
    total
}

#[cfg(test)]
mod tests;
