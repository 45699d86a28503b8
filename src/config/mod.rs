//! Text to `Config`, with every problem listed at once at its line and column; and the effective configuration as text.
//! Keys and defaults are in `keys`, how they are read and what they may be in `read`, what they mean for people in
//! conf/plancton.toml. Pure but for `load`, which reads the file.

mod keys;
mod read;
mod remote;
mod values;

pub use keys::{Allow, EngineKeys, Influx, Loop, Owner, PilotClass, Share};
pub use read::parse;
pub use remote::{RemoteConfig, read_remote, read_serial};
pub use values::{Auto, Image, MissingLimits, OnBattery, WhenBusy, in_hours};

use crate::host::files;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::path::Path;

/// Keys with their values as they are written. What toml read is JSON here, which the engine, the status and the state speak too.
type Table = serde_json::Map<String, Value>;

/// All keys with their explanation, commented out at their defaults.
pub const DEFAULT_TEXT: &str = include_str!("../../conf/plancton.toml");

/// Of what is said about a text: others' words are in it.
const LINE: usize = 1_000;

/// A whole configuration; the default one has no pilots.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    #[serde(rename = "loop")]
    pub loop_: Loop,
    pub share: Share,
    pub owner: Owner,
    /// Other values of [share] and [owner] at some hours.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    when: Vec<Table>,
    pub engine: EngineKeys,
    #[serde(rename = "pilot", skip_serializing_if = "Vec::is_empty")]
    pub pilots: Vec<PilotClass>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub influxdb: Vec<Influx>,
    pub allow: Allow,
    /// By what a remote configuration makes this one give less.
    #[serde(skip)]
    lowered: Vec<Table>,
}

/// The configuration in a file; errors: every problem of it, one a line.
pub fn load(file: &Path) -> Result<Config, String> {
    let name = file.display().to_string();
    let write = "`plancton config --default` writes one";
    // A class has some hundred bytes.
    let bytes = files::read(file, 256 << 10).map_err(|error| format!("{error}; {write}"))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{name}: save it as UTF-8 text"))?;
    parse(&text, &name).map_err(|problems| problems.join("\n"))
}

impl Config {
    /// Seconds between two ticks.
    pub fn interval(&self) -> f64 {
        self.loop_.interval.as_secs_f64()
    }

    /// If its keys go together.
    fn settle(mut self) -> Result<Config, String> {
        // Of the whole time 0 says "as many as fit", because a share of nothing is a drain; at some hours it means none.
        if self.share.max_pilots == Auto::Fixed(0) {
            self.share.max_pilots = Auto::Auto;
        }
        let is_number = |id: &str| id.parse::<u32>().is_ok();
        let mut with_files = self.pilots.iter().filter(|pilot| !pilot.files.is_empty());
        if !with_files.all(|pilot| pilot.user.split(':').all(is_number)) {
            return Err("files need a user in numbers; write \"UID:GID\"".to_owned());
        }
        self.influxdb.iter_mut().try_for_each(Influx::settle)?;
        Ok(self)
    }

    /// What holds at a local weekday (0 is Monday) and minute of the day, and the hours of the last [[when]] that matches;
    /// later tables win, key by key.
    pub fn effective(&self, weekday: u8, minute_of_day: u16) -> (Share, Owner, Option<&str>) {
        let minute = usize::from(weekday % 7) * 24 * 60 + usize::from(minute_of_day);
        let holds = |when: &&Table| in_hours(hours(when), minute) == Some(true);
        let whens: Vec<&Table> = self.when.iter().filter(holds).collect();
        let (mut share, mut owner) = (over(&self.share, &whens), over(&self.owner, &whens));
        let rules: Vec<&Table> = self.lowered.iter().filter(holds).collect();
        let (other, asked) = (over(&share, &rules), over(&owner, &rules));
        remote::lower(&mut share, &other);
        remote::protect(&mut owner, &asked);
        (share, owner, whens.last().map(|when| hours(when)))
    }

    /// Every key with its value in force, as TOML that parses to an equal configuration; secrets are not shown.
    pub fn to_toml(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        toml::to_string(&value).unwrap_or_default()
    }
}

fn hours(when: &Table) -> &str {
    let hours = when.get("hours").and_then(Value::as_str);
    hours.unwrap_or("always")
}

/// With the keys of the tables in the place of its own; they were judged when they were read.
fn over<T: Clone + Serialize + DeserializeOwned>(section: &T, tables: &[&Table]) -> T {
    if tables.is_empty() {
        return section.clone();
    }
    let mut keys = serde_json::to_value(section).unwrap_or_default();
    for (key, value) in tables.iter().copied().flatten() {
        if let Some(own) = keys.get_mut(key) {
            own.clone_from(value);
        }
    }
    serde_json::from_value(keys).unwrap_or_else(|_| section.clone())
}

#[cfg(test)]
mod tests;
