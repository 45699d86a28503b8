//! What this machine gave, as sums by the hour: how a tick adds to them, and the lines they are kept in. Pure; the files are
//! those of [`keep`]. An hour is one line of JSON, all numbers whole, times in seconds:
//! `[hour since 1970 in UTC, [observed, CPU given to pilots, the owner's CPU, {class: [core-seconds, {end: pilots}]},
//! {reason: held back}]]`

pub mod keep;

use crate::decide::{Code, Decision, EndKind, Observation, PilotState, State};
use crate::units::{float, whole};
use jiff::{Timestamp, Zoned, civil::Date, tz::TimeZone};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::AddAssign;

/// By hours since 1970.
pub type Hours = BTreeMap<u64, Sums>;

/// No clock that was set says less: 1 January 2024.
const FIRST_HOUR: u64 = 473_352;
/// No calendar goes further: the year 9999.
const LAST_HOUR: u64 = 70_389_000;
/// More between two ticks was not watched: nothing ticks while no pilot is configured.
const LONGEST_TICK: f64 = 3600.0;
const LONGEST_NAME: usize = 60;

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

/// In the order of a line; the names are those of `history --json`.
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
            let sum = self.class(name);
            sum.core_seconds.0 += class.core_seconds.0;
            for (kind, count) in &class.ended {
                let sum = sum.ended.entry(*kind).or_default();
                *sum = sum.saturating_add(*count);
            }
        }
        for (code, seconds) in &other.held_back_seconds {
            self.held_back_seconds.entry(*code).or_default().0 += seconds.0;
        }
    }
}

impl Sums {
    fn class(&mut self, name: &str) -> &mut Class {
        // Names in labels may be anybody's.
        let end = name
            .char_indices()
            .nth(LONGEST_NAME)
            .map_or(name.len(), |(at, _)| at);
        self.classes
            .entry(name.get(..end).unwrap_or_default().to_owned())
            .or_default()
    }

    /// Pilots by end, of all classes.
    pub fn ended(&self) -> BTreeMap<EndKind, u64> {
        let mut sums = BTreeMap::new();
        for (kind, count) in self.classes.values().flat_map(|class| &class.ended) {
            let sum: &mut u64 = sums.entry(*kind).or_default();
            *sum = sum.saturating_add(*count);
        }
        sums
    }

    pub fn held_back(&self) -> f64 {
        self.held_back_seconds
            .values()
            .map(|seconds| seconds.0)
            .sum()
    }
}

/// What the last tick left, to tell what this one adds.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    awake: Option<f64>,
    given: f64,
    /// Boot second of the last window of CPU use.
    window_at: f64,
    held_back: Option<Code>,
}

impl Meter {
    /// What the time since the last tick adds.
    pub fn add(&mut self, seen: &Observation, decision: &Decision, sums: &mut Sums) {
        let elapsed = self.awake.map_or(0.0, |before| {
            (seen.at.awake - before).clamp(0.0, LONGEST_TICK)
        });
        sums.observed_seconds.0 += elapsed;
        sums.given_cpu_seconds.0 += (seen.given_seconds - self.given).max(0.0);
        if let Some(cpu) = seen.cpu.filter(|cpu| cpu.at > self.window_at) {
            sums.owner_cpu_seconds.0 += cpu.foreign * cpu.window;
            self.window_at = cpu.at;
        }
        for pilot in seen
            .pilots
            .iter()
            .flatten()
            .filter(|pilot| pilot.own && pilot.state == PilotState::Running)
        {
            sums.class(&pilot.class).core_seconds.0 += pilot.cpus * elapsed;
        }
        for gone in &decision.ended {
            *sums.class(&gone.class).ended.entry(gone.kind).or_default() += 1;
        }
        // What was decided last has held since.
        if let Some(code) = self.held_back {
            sums.held_back_seconds.entry(code).or_default().0 += elapsed;
        }
        (self.awake, self.given) = (Some(seen.at.awake), seen.given_seconds);
        self.held_back = held_back(decision);
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

/// `None`: the clock was not set yet.
fn hour_of(epoch: f64) -> Option<u64> {
    Some(whole(epoch / 3600.0)).filter(|hour| (FIRST_HOUR..LAST_HOUR).contains(hour))
}

/// One line, with its end.
fn encode(hour: u64, sums: &Sums) -> String {
    let classes: BTreeMap<_, _> = sums
        .classes
        .iter()
        .map(|(name, class)| (name, (class.core_seconds, &class.ended)))
        .collect();
    let Sums {
        observed_seconds,
        given_cpu_seconds,
        owner_cpu_seconds,
        held_back_seconds,
        ..
    } = sums;
    let line = (
        hour,
        (
            observed_seconds,
            given_cpu_seconds,
            owner_cpu_seconds,
            classes,
            held_back_seconds,
        ),
    );
    serde_json::to_string(&line).unwrap_or_default() + "\n"
}

/// What can be read of a text, in its order, and how many lines cannot.
fn parse(text: &[u8]) -> (Vec<(u64, Sums)>, usize) {
    let (mut hours, mut bad) = (Vec::new(), 0);
    for line in text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        match serde_json::from_slice::<(u64, Sums)>(line) {
            Ok((hour, sums)) if (FIRST_HOUR..LAST_HOUR).contains(&hour) => hours.push((hour, sums)),
            _ => bad += 1,
        }
    }
    (hours, bad)
}

/// A second since 1970 on the clock of its place.
pub fn local(second: u64, zone: &TimeZone) -> Zoned {
    let at = i64::try_from(second)
        .ok()
        .and_then(|second| Timestamp::from_second(second).ok());
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
