//! Text to `Config`, with every problem listed at once at its line and column; and the effective configuration as text.
//! Pure: the caller reads the file. Keys and defaults are in `keys`, what they mean for people in conf/plancton.toml.

mod check;
mod image;
mod keys;
mod mounts;
mod remote;
mod sink;
mod values;
mod when;

pub use image::ImageRef;
pub use keys::{Allow, EngineKeys, Influx, Loop, Owner, PilotClass, Share, parse_cpuset};
pub use mounts::{Device, Mount};
pub use remote::{Offer, read_offer};
pub use values::{Auto, Image, MissingLimits, OnBattery, WhenBusy};
pub use when::Hours;

use keys::Section;
use toml::de::DeTable;
use values::{Value, Wrong};

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
    pub pilots: Vec<PilotClass>,
    pub influxdb: Vec<Influx>,
    pub allow: Allow,
    /// By what a remote configuration makes this one give less.
    lowered: Vec<When>,
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

/// What is wrong comes as `file:line:column: text`, in the order of the text. Beside syntax errors only other lines are
/// judged, each by itself: what is missing there may just not have been understood.
pub fn parse(text: &str, file: &str) -> Result<Config, Vec<String>> {
    read(text, file).map(|(config, _)| config)
}

/// With the keys that are given in the tables of which there is one.
fn read(text: &str, file: &str) -> Result<(Config, Vec<&'static str>), Vec<String>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let (config, given, wrong) = check::read_config(document.get_ref(), errors.is_empty());
    // Line, whether it is about the meaning, column, text: sorted as such.
    let syntax = errors.iter().map(|error| {
        let (line, column) = place(text, error.span().map_or(0, |span| span.start));
        (
            line,
            false,
            column,
            format!("not valid TOML: {}", error.message()),
        )
    });
    let meaning = wrong.into_iter().map(|Wrong { at, text: what }| {
        let (line, column) = place(text, at);
        (line, true, column, what)
    });
    let mut problems: Vec<_> = syntax.chain(meaning).collect();
    problems.sort();
    // What follows a syntax error in its line may come from it.
    problems.dedup_by(|later, first| later.0 == first.0 && !first.1);
    if problems.is_empty() {
        return Ok((config, given));
    }
    // A value is shown in its problem; it must not break the line or the terminal.
    let shown = |what: &str| what.replace(char::is_control, " ");
    Err(problems
        .iter()
        .map(|(line, _, column, what)| format!("{file}:{line}:{column}: {}", shown(what)))
        .collect())
}

/// Byte offset to line and column, both counted from 1; columns in characters.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
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
        self.lower(&mut share, &mut owner, weekday, minute_of_day);
        (share, owner, last)
    }

    /// Every key with its value in force, as TOML that parses to an equal configuration; secrets are not shown.
    pub fn to_toml(&self) -> String {
        let mut tables = vec![
            table("[loop]", Loop::KEYS, |key| self.loop_.write(key)),
            table("[share]", Share::KEYS, |key| self.share.write(key)),
            table("[owner]", Owner::KEYS, |key| self.owner.write(key)),
        ];
        tables.extend(self.when.iter().map(|when| {
            let hours = format!("[[when]]\nhours = {}", when.hours.write());
            table(&hours, &when.keys, |key| {
                when.share.write(key).or_else(|| when.owner.write(key))
            })
        }));
        tables.push(table("[engine]", EngineKeys::KEYS, |key| {
            self.engine.write(key)
        }));
        tables.extend(
            self.pilots
                .iter()
                .map(|pilot| table("[[pilot]]", PilotClass::KEYS, |key| pilot.write(key))),
        );
        tables.extend(
            self.influxdb
                .iter()
                .map(|sink| table("[[influxdb]]", Influx::KEYS, |key| sink.write(key))),
        );
        tables.push(table("[allow]", Allow::KEYS, |key| self.allow.write(key)));
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
