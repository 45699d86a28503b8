//! The types that a key can have beside those that everybody knows. Most are one text in the file, which is judged where
//! it stands, so that what is wrong with it has its line and column. Pure: whether a path exists is looked at later.

use crate::units::{Bytes, format_duration, parse_duration};
use serde::de::{DeserializeOwned, Deserializer, Error};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use smart_default::SmartDefault;
use std::{fmt, ops::Deref, time::Duration};

/// `Type: "what it is", how it is read, how it is written;`
macro_rules! texts {
    ($($name:ty: $what:literal, $parse:expr, $write:expr;)+) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                let parse: fn(&str) -> Option<Self> = $parse;
                parse(&text).ok_or_else(|| D::Error::custom(format!("'{text}' is not {}", $what)))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let write: fn(&Self) -> String = $write;
                serializer.serialize_str(&write(self))
            }
        }
    )+};
}

texts! {
    Period: "a duration such as \"30s\" or \"1h30m\"", |text| parse_duration(text).ok().map(Period), |period| format_duration(period.0);
    Bytes: "a size such as \"512MiB\" or \"2GiB\"", Bytes::parse, exact_size;
    Image: "\"builtin\" or an image such as \"registry.example.org/pilot:1.2\", in small letters", Image::parse, Image::to_string;
    Mount: "a mount such as \"/data:/data\", \"/scratch:/tmp:rw\" or \"/cvmfs:/cvmfs:ro,rslave\"", Mount::parse, Mount::to_string;
    Mode: "a mode that its user can read, such as \"0400\"", |text| read_mode(text).map(Mode), |mode| format!("{:04o}", mode.0);
    Secret: "a secret", |text| (text != SHOWN).then(|| Secret(text.to_owned())), |secret| format!("{secret:?}");
}

/// A duration, written as `1h30m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

impl Deref for Period {
    type Target = Duration;

    fn deref(&self) -> &Duration {
        &self.0
    }
}

/// The short form where it is exact, else bytes.
fn exact_size(size: &Bytes) -> String {
    match Bytes::parse(&size.to_string()) {
        Some(read) if read == *size => size.to_string(),
        _ => format!("{}B", size.0),
    }
}

/// A number, or left to Plancton, which counts as more than any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum Auto<T> {
    Fixed(T),
    #[default]
    #[serde(serialize_with = "auto")]
    Auto,
}

impl<T> Auto<T> {
    pub fn or(self, auto: T) -> T {
        match self {
            Auto::Fixed(value) => value,
            Auto::Auto => auto,
        }
    }
}

fn auto<S: Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("auto")
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Auto<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if value == "auto" {
            return Ok(Auto::Auto);
        }
        let number = serde_json::from_value(value).map(Auto::Fixed);
        number.map_err(|error| D::Error::custom(format!("{error}, or \"auto\"")))
    }
}

/// An image as the distribution project's reference grammar has them: `[registry[:port]/]path[:tag][@digest]`; an engine
/// completes a name without a registry by itself. Or `builtin`, made from Plancton's own binary without a registry.
#[derive(Clone, Debug, PartialEq, SmartDefault)]
pub struct Image {
    /// With the registry.
    #[default("builtin".to_owned())]
    pub name: String,
    /// What a pull sends as `tag` beside `name` as `fromImage`: engines take a digest there too, which decides. Empty
    /// for the built-in one only, because an engine that is asked for no tag pulls all of them.
    pub tag: String,
}

impl Image {
    /// What else there is to say against a name the engine says.
    pub fn parse(text: &str) -> Option<Image> {
        if text == "builtin" {
            return Some(Image::default());
        }
        let (rest, digest) = text.split_once('@').unwrap_or((text, ""));
        // After the last slash only, so that a registry's port is never taken for a tag.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (rest, "latest"),
        };
        let is_tag = |tag: &str| is_plain(tag.trim_start_matches('_'), "._-") && tag.len() <= 128;
        let mut parts = split_registry(name).1.split('/');
        let is_name = parts.all(|part| is_plain(part, "._-"));
        let hex = digest.strip_prefix("sha256:").unwrap_or_default();
        let is_digest = !text.contains('@') || hex.len() == 64 && is_plain(hex, "");
        let is_ok = is_name && is_tag(&tag.to_ascii_lowercase()) && is_digest && name.len() <= 255;
        let tag = if digest.is_empty() { tag } else { digest };
        let (name, tag) = (name.to_owned(), tag.to_owned());
        is_ok.then_some(Image { name, tag })
    }

    pub fn is_builtin(&self) -> bool {
        self.tag.is_empty()
    }

    /// Who keeps it; `docker.io` where the name does not say.
    pub fn registry(&self) -> &str {
        split_registry(&self.name).0.unwrap_or("docker.io")
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.tag.contains(':') { "@" } else { ":" };
        let text = [&self.name, sign, &self.tag].concat();
        f.write_str(text.trim_end_matches(':'))
    }
}

/// Of small letters, digits and `more`, which it does not begin with.
pub fn is_plain(text: &str, more: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(plain) && text.chars().all(|c| plain(c) || more.contains(c))
}

/// The first part is a registry when a path could not look like it: so engines decide. They also judge it.
fn split_registry(name: &str) -> (Option<&str>, &str) {
    let is_registry = |first: &str| {
        first == "localhost" || first.contains(|c: char| ".:".contains(c) || c.is_ascii_uppercase())
    };
    match name.split_once('/') {
        Some((first, path)) if is_registry(first) => (Some(first), path),
        _ => (None, name),
    }
}

/// A password or token: shown as `***`, whoever looks. What stands for one in a configuration that was shown is none.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub String);

const SHOWN: &str = "***";

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "" } else { SHOWN })
    }
}

/// What happens to pilots when the owner uses the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenBusy {
    /// Yield with protection verified, else pause.
    #[default]
    Auto,
    /// Leave it to the kernel's scheduler.
    Yield,
    Pause,
    Stop,
}

/// What happens to pilots without mains power, the stricter behind the laxer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBattery {
    /// Down to `min-battery`.
    Run,
    #[default]
    Pause,
    Stop,
}

/// What happens when the engine cannot hold a pilot's limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MissingLimits {
    #[default]
    Refuse,
    Warn,
}

const OPTIONS: &str = "ro rw private rprivate slave rslave shared rshared";

/// `/host:/container[:OPTIONS]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub source: String,
    pub target: String,
    pub options: String,
}

impl Mount {
    fn parse(text: &str) -> Option<Mount> {
        let mut parts = text.splitn(3, ':').map(str::to_owned);
        let mount = Mount {
            source: parts.next()?,
            target: parts.next()?,
            options: parts.next().unwrap_or("ro".to_owned()),
        };
        let is_known = |option: &str| OPTIONS.split(' ').any(|known| known == option);
        let is_fine = mount.options.split(',').all(is_known);
        Some(mount).filter(|mount| is_fine && is_path(&mount.source) && is_path(&mount.target))
    }

    pub fn is_read_only(&self) -> bool {
        self.options.split(',').all(|option| option != "rw")
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.source, self.target, self.options)
    }
}

/// A file of this machine that a pilot gets a copy of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(expecting = "a table such as { source = \"/a\", target = \"/b\" }")]
pub struct Handed {
    pub source: String,
    pub target: String,
    #[serde(default)]
    pub mode: Mode,
}

/// Of a copy that is handed to a pilot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, SmartDefault)]
pub struct Mode(#[default = 0o400] pub u32);

fn read_mode(text: &str) -> Option<u32> {
    let mode = u32::from_str_radix(text, 8).ok()?;
    (mode & !0o377 == 0o400).then_some(mode)
}

/// `/path` or `/path:64MiB`.
pub fn is_tmpfs(text: &str) -> bool {
    let (path, size) = text.split_once(':').unwrap_or((text, "0"));
    is_path(path) && Bytes::parse(size).is_some()
}

/// `/dev/a[:/dev/b[:rwm]]`: on this machine, in the container, and what it may do with it: read, write, make the node.
pub fn is_device(text: &str) -> bool {
    let (host, rest) = text.split_once(':').unwrap_or((text, text));
    let (container, may) = rest.split_once(':').unwrap_or((rest, "rwm"));
    is_path(host) && is_path(container) && !may.is_empty() && may.chars().all(|c| "rwm".contains(c))
}

/// From the root, without `..`.
pub fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|part| part != "..")
}

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const DAY: usize = 24 * 60;

/// Whether a minute of the week, from Monday on, is in a text of stretches `[DAYS] [HH:MM-HH:MM]`; without days every day, without times
/// the whole day. One over midnight belongs to the day it starts on.
pub fn in_hours(text: &str, minute: usize) -> Option<bool> {
    let mut is_in = false;
    for stretch in text.split(';') {
        let words: Vec<&str> = stretch.split_whitespace().collect();
        let (days, times) = match *words {
            ["always"] => ("Mon-Sun", "00:00-24:00"),
            [times] if times.contains(':') => ("Mon-Sun", times),
            [days] => (days, "00:00-24:00"),
            [days, times] => (days, times),
            _ => return None,
        };
        let (from, to) = times.split_once('-')?;
        let (from, to) = (parse_minute(from)?, parse_minute(to)?);
        if from == to || from == DAY {
            return None;
        }
        let to = if to < from { to + DAY } else { to };
        for day in parse_days(days)? {
            let range = day * DAY + from..day * DAY + to;
            is_in |= range.contains(&minute) || range.contains(&(minute + 7 * DAY));
        }
    }
    Some(is_in)
}

/// `Mon`, `Mon-Fri`, `Sat,Sun`, `Fri-Mon`.
fn parse_days(text: &str) -> Option<Vec<usize>> {
    let number = |name: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(name));
    let mut days = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        let last = if last < first { last + 7 } else { last };
        days.extend((first..=last).map(|day| day % 7));
    }
    Some(days)
}

/// `H:MM` or `HH:MM` up to 24:00, as minutes of the day.
fn parse_minute(text: &str) -> Option<usize> {
    let (hours, minutes) = text.split_once(':')?;
    if hours.len() > 2 || minutes.len() != 2 || text.contains('+') {
        return None;
    }
    let (hours, minutes): (usize, usize) = (hours.parse().ok()?, minutes.parse().ok()?);
    Some(hours * 60 + minutes).filter(|minute| minutes < 60 && *minute <= DAY)
}
