//! The types that a key can have beside those that everybody knows. Most are one text in the file, which is judged where
//! it stands, so that what is wrong with it has its line and column. Pure: whether a path exists is looked at later.

use super::image::ImageRef;
use super::when::Hours;
use crate::units::{Bytes, format_duration, parse_duration};
use serde::de::{DeserializeOwned, Deserializer, Error};
use serde::{Deserialize, Serialize, Serializer};
use smart_default::SmartDefault;
use std::fmt;
use std::ops::Deref;
use std::time::Duration;

/// `Type: "what it is", how it is read, how it is written;`
macro_rules! texts {
    ($($name:ty: $what:literal, $parse:expr, $write:expr;)+) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = toml::Value::deserialize(deserializer)?;
                value.as_str().and_then($parse).ok_or_else(|| {
                    let text = value.as_str().map(|text| format!("'{text}'"));
                    let shown = text.unwrap_or_else(|| value.to_string());
                    D::Error::custom(format!("{shown} is not {}", $what))
                })
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
    Hours: "a time of the week such as \"Mon-Fri 09:00-18:00; Sat,Sun\"", Hours::parse, |hours| hours.text.clone();
    Image: "\"builtin\" or an image such as \"registry.example.org/pilot:1.2\", in small letters", Image::parse, Image::to_string;
    Mount: "a mount such as \"/data:/data\", \"/scratch:/tmp:rw\" or \"/cvmfs:/cvmfs:ro,rslave\"", Mount::parse, Mount::to_string;
    Tmpfs: "a path such as \"/tmp\" or \"/tmp:64MiB\"", Tmpfs::parse, Tmpfs::write;
    Device: "a device such as \"/dev/fuse\" or \"/dev/a:/dev/b:rwm\"", Device::parse, Device::to_string;
    Mode: "a mode that its user can read, such as \"0400\"", Mode::parse, |mode| format!("{:04o}", mode.0);
    Secret: "a secret", Secret::parse, |secret| format!("{secret:?}");
}

/// A duration, written as `1h30m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

impl Period {
    pub const fn seconds(seconds: u64) -> Period {
        Period(Duration::from_secs(seconds))
    }
}

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

/// A number, or left to Plancton.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Auto<T> {
    #[default]
    Auto,
    Fixed(T),
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Auto<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(deserializer)? {
            toml::Value::String(word) if word == "auto" => Ok(Auto::Auto),
            number => number
                .try_into()
                .map(Auto::Fixed)
                .map_err(|error| D::Error::custom(format!("{}, or \"auto\"", error.message()))),
        }
    }
}

impl<T: Copy + Into<f64>> Serialize for Auto<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Auto::Auto => serializer.serialize_str("auto"),
            Auto::Fixed(number) => plain_number(&(*number).into(), serializer),
        }
    }
}

/// As people write it: without a fraction where there is none.
pub fn plain_number<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    match number.to_string().parse() {
        Ok(whole) => serializer.serialize_i64(whole),
        Err(_) => serializer.serialize_f64(*number),
    }
}

/// Where a pilot's image comes from.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Image {
    /// Made from Plancton's own binary, without a registry.
    #[default]
    Builtin,
    Named(ImageRef),
}

impl Image {
    fn parse(text: &str) -> Option<Image> {
        match text {
            "builtin" => Some(Image::Builtin),
            _ => ImageRef::parse(text).map(Image::Named),
        }
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Image::Builtin => f.write_str("builtin"),
            Image::Named(image) => image.fmt(f),
        }
    }
}

/// A password or token: shown as `***`, whoever looks.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

const SHOWN: &str = "***";

impl Secret {
    /// What stands for one in a configuration that was shown is none.
    pub fn parse(text: &str) -> Option<Secret> {
        (text != SHOWN).then(|| Secret(text.to_owned()))
    }

    /// For the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

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

const PROPAGATIONS: &str = "private rprivate slave rslave shared rshared";

/// `/host:/container[:OPTIONS]`, read-only unless `rw` is among the options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub source: String,
    pub target: String,
    pub read_only: bool,
    /// One of the kernel's words, `rprivate` unless given.
    pub propagation: String,
}

impl Mount {
    fn parse(text: &str) -> Option<Mount> {
        let (source, rest) = text.split_once(':')?;
        let (target, options) = rest.split_once(':').unwrap_or((rest, "ro"));
        let (source, target) = (absolute(source)?, absolute(target)?);
        let (mut read_only, mut propagation) = (true, "rprivate".to_owned());
        for option in options.split(',') {
            let is_propagation = PROPAGATIONS.split(' ').any(|word| word == option);
            match option {
                "ro" | "rw" => read_only = option == "ro",
                _ if is_propagation => propagation = option.to_owned(),
                _ => return None,
            }
        }
        Some(Mount {
            source,
            target,
            read_only,
            propagation,
        })
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = if self.read_only { "ro" } else { "rw" };
        write!(f, "{}:{}:{mode}", self.source, self.target)?;
        match self.propagation.as_str() {
            "rprivate" => Ok(()),
            word => write!(f, ",{word}"),
        }
    }
}

/// `/path` or `/path:64MiB`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tmpfs {
    pub target: String,
    /// `None`: bounded by the pilot's memory alone.
    pub size: Option<Bytes>,
}

impl Tmpfs {
    fn parse(text: &str) -> Option<Tmpfs> {
        let (target, size) = match text.split_once(':') {
            Some((target, size)) => (target, Some(Bytes::parse(size)?)),
            None => (text, None),
        };
        let target = absolute(target)?;
        Some(Tmpfs { target, size })
    }

    fn write(&self) -> String {
        let size = self.size.map(|size| format!(":{}", exact_size(&size)));
        self.target.clone() + &size.unwrap_or_default()
    }
}

/// `/dev/a[:/dev/b[:rwm]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub host: String,
    pub container: String,
    /// Some of `r` (read), `w` (write) and `m` (make the node).
    pub permissions: String,
}

impl Device {
    fn parse(text: &str) -> Option<Device> {
        let (host, rest) = text.split_once(':').unwrap_or((text, text));
        let (container, permissions) = rest.split_once(':').unwrap_or((rest, "rwm"));
        let is_fine = !permissions.is_empty() && permissions.chars().all(|c| "rwm".contains(c));
        Some(Device {
            host: absolute(host)?,
            container: absolute(container)?,
            permissions: is_fine.then(|| permissions.to_owned())?,
        })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.host, self.container, self.permissions)
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

impl Mode {
    fn parse(text: &str) -> Option<Mode> {
        let mode = u32::from_str_radix(text, 8).ok().map(Mode);
        mode.filter(|Mode(mode)| *mode <= 0o777 && *mode & 0o400 != 0)
    }
}

/// A path from the root without `..`.
pub fn absolute(path: &str) -> Option<String> {
    let is_fine = path.starts_with('/') && path.split('/').all(|part| part != "..");
    is_fine.then(|| path.to_owned())
}
