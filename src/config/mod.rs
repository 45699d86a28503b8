//! Text to `Config`, with every problem listed at once at its line and column; and the effective configuration as text.
//! Pure: the caller reads the file. Keys and defaults are in `keys`, what they mean for people in conf/plancton.toml.

mod check;
mod image;
mod keys;
mod mounts;
mod values;
mod when;

pub use image::ImageRef;
pub use keys::{EngineKeys, Loop, Owner, Pilot, Share, parse_cpuset, socket_path};
pub use mounts::{Device, Mount, Tmpfs};
pub use values::{Auto, Image, MissingLimits, OnBattery, WhenBusy};
pub use when::Hours;

use std::fmt;
use toml::de::DeTable;
use values::Value;

/// All keys with their explanation, commented out at their defaults.
pub const DEFAULT_TEXT: &str = include_str!("../../conf/plancton.toml");

/// A whole configuration; the default one has no pilots.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    pub loop_: Loop,
    pub share: Share,
    pub owner: Owner,
    pub when: Vec<When>,
    pub engine: EngineKeys,
    pub pilots: Vec<Pilot>,
}

/// Other values at some hours.
#[derive(Clone, Debug, PartialEq)]
pub struct When {
    pub hours: Hours,
    /// The keys of [share] and [owner] that are overridden; only their values in the two fields below count.
    keys: Vec<&'static str>,
    share: Share,
    owner: Owner,
}

/// One thing to correct.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub file: String,
    /// Both counted from 1; columns in characters.
    pub line: usize,
    pub column: usize,
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.text)
    }
}

/// `file` only names the text in problems, which come in the order of the text. Beside syntax errors only other lines
/// are judged, each by itself: what is missing there may just not have been understood.
pub fn parse(text: &str, file: &str) -> Result<Config, Vec<Problem>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut problems: Vec<Problem> = errors
        .iter()
        .map(|error| {
            let at = error.span().map_or(0, |span| span.start);
            place(text, at, file, &format!("not valid TOML: {}", error.message()))
        })
        .collect();
    problems.sort();
    problems.dedup_by_key(|problem| problem.line);
    let (config, wrong) = check::read_config(document.get_ref(), errors.is_empty());
    let on_broken_line = |problem: &Problem| problems.iter().any(|p| p.line == problem.line);
    let wrong = wrong.iter().map(|wrong| place(text, wrong.at, file, &wrong.text));
    let more: Vec<Problem> = wrong.filter(|p| !on_broken_line(p)).collect();
    problems.extend(more);
    problems.sort();
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

/// Byte offset to line and column.
fn place(text: &str, at: usize, file: &str, problem: &str) -> Problem {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Problem {
        file: file.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
        // A value is shown in its problem; it must not break the line or the terminal.
        text: problem.replace(char::is_control, " "),
    }
}

impl Config {
    /// What holds at a local weekday (0 is Monday) and minute of the day, and the index of the last [[when]] that matches;
    /// later tables win, key by key.
    pub fn effective(&self, weekday: u8, minute_of_day: u16) -> (Share, Owner, Option<usize>) {
        let (mut share, mut owner, mut last) = (self.share.clone(), self.owner.clone(), None);
        for (index, when) in self.when.iter().enumerate() {
            if when.hours.contains(weekday, minute_of_day) {
                for key in &when.keys {
                    share.take(key, &when.share);
                    owner.take(key, &when.owner);
                }
                last = Some(index);
            }
        }
        (share, owner, last)
    }

    /// Every key with its value in force, as TOML that parses to an equal configuration.
    pub fn to_toml(&self) -> String {
        let mut tables = vec![
            table("[loop]", Loop::KEYS, |key| self.loop_.write(key)),
            table("[share]", Share::KEYS, |key| self.share.write(key)),
            table("[owner]", Owner::KEYS, |key| self.owner.write(key)),
        ];
        tables.extend(self.when.iter().map(|when| {
            let hours = format!("[[when]]\nhours = {}", when.hours.write());
            table(&hours, &when.keys, |key| when.share.write(key).or_else(|| when.owner.write(key)))
        }));
        tables.push(table("[engine]", EngineKeys::KEYS, |key| self.engine.write(key)));
        tables.extend(self.pilots.iter().map(|pilot| table("[[pilot]]", Pilot::KEYS, |key| pilot.write(key))));
        tables.join("\n")
    }
}

fn table(header: &str, keys: &[&str], write: impl Fn(&str) -> Option<String>) -> String {
    let mut text = format!("{header}\n");
    for key in keys {
        text.push_str(&format!("{key} = {}\n", write(key).unwrap_or_default()));
    }
    text
}

#[cfg(test)]
mod tests;
