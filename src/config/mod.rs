//! Text to `Config`, with every problem listed at once at its line and column; and the effective configuration as text.
//! Keys and defaults are in `keys`, what their values may be in `check`, what they mean for people in conf/plancton.toml.
//! Pure but for `load`, which reads the file.

mod check;
mod image;
mod influx;
mod keys;
mod read;
mod remote;
mod values;
mod when;

pub use image::ImageRef;
pub use keys::{Allow, EngineKeys, Influx, Loop, Owner, PilotClass, Share, When};
pub use read::parse;
pub use remote::{RemoteConfig, read_remote, read_serial};
pub use values::{Auto, Device, Image, MissingLimits, Mount, OnBattery, WhenBusy};

use crate::host::files;
use serde::Serialize;
use std::io::ErrorKind;
use std::path::Path;

/// All keys with their explanation, commented out at their defaults.
pub const DEFAULT_TEXT: &str = include_str!("../../conf/plancton.toml");

/// Of what is said about a text: others' words are in it.
const LINE: usize = 1_000;
/// A class has some hundred bytes.
const MOST_BYTES: usize = 256 << 10;

/// A whole configuration; the default one has no pilots.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Config {
    #[serde(rename = "loop")]
    pub loop_: Loop,
    pub share: Share,
    pub owner: Owner,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub when: Vec<When>,
    pub engine: EngineKeys,
    #[serde(rename = "pilot", skip_serializing_if = "Vec::is_empty")]
    pub pilots: Vec<PilotClass>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub influxdb: Vec<Influx>,
    pub allow: Allow,
    /// By what a remote configuration makes this one give less.
    #[serde(skip)]
    lowered: Vec<When>,
}

/// The configuration in a file; errors: every problem of it, one a line.
pub fn load(file: &Path) -> Result<Config, String> {
    let write = "; write one (`plancton config --default` is a beginning), or leave --config out";
    let bytes = files::read(file, MOST_BYTES).map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("{error}{write}"),
        _ => error.to_string(),
    })?;
    let name = file.display().to_string();
    let text = String::from_utf8(bytes)
        .map_err(|_| format!("{name}: it is not UTF-8 text; save it as that"))?;
    parse(&text, &name).map_err(|problems| problems.join("\n"))
}

impl Config {
    /// What holds at a local weekday (0 is Monday) and minute of the day, and the index of the last [[when]] that matches;
    /// later tables win, key by key.
    pub fn effective(&self, weekday: u8, minute_of_day: u16) -> (Share, Owner, Option<usize>) {
        let (mut share, mut owner, mut last) = (self.share.clone(), self.owner.clone(), None);
        for (index, when) in self.when.iter().enumerate() {
            if when.hours.contains(weekday, minute_of_day) {
                (share, owner) = (when.over(&share), when.over(&owner));
                last = Some(index);
            }
        }
        self.lower(&mut share, &mut owner, weekday, minute_of_day);
        (share, owner, last)
    }

    /// Every key with its value in force, as TOML that parses to an equal configuration; secrets are not shown.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_else(|error| format!("# {error}\n"))
    }
}

#[cfg(test)]
mod tests;
