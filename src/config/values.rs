//! The types that a configuration key can have: each is read from one TOML value and written back as one.
//! A value that cannot be read says where it stands, what the key expects and what was found instead.

use super::image::ImageRef;
use super::mounts::{Device, Mount, Tmpfs};
use super::when::Hours;
use crate::units::{Bytes, format_duration, parse_duration};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use toml::Spanned;
use toml::de::DeValue;

/// Why a value was refused; `at` is a byte offset into the text.
#[derive(Clone, Debug, PartialEq)]
pub struct Wrong {
    pub at: usize,
    pub text: String,
}

/// A list has as many problems as elements.
pub type Read<T> = Result<T, Vec<Wrong>>;

pub trait Value: Sized {
    /// What goes after "expects".
    const EXPECTS: &'static str;

    fn read(value: &Spanned<DeValue<'_>>) -> Read<Self>;

    /// As TOML that [`Value::read`] reads back to an equal value.
    fn write(&self) -> String;
}

/// Gives a problem with the value itself its place.
pub fn wrong(value: &Spanned<DeValue<'_>>, text: String) -> Vec<Wrong> {
    let at = value.span().start;
    vec![Wrong { at, text }]
}

/// "expects A, found B".
fn refuse<T: Value>(value: &Spanned<DeValue<'_>>) -> Vec<Wrong> {
    let found = found(value.get_ref());
    wrong(value, format!("expects {}, found {found}", T::EXPECTS))
}

pub fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("string {}", quote(text)),
        DeValue::Integer(number) => format!("integer {number}"),
        DeValue::Float(number) => format!("float {number}"),
        DeValue::Boolean(flag) => format!("boolean {flag}"),
        DeValue::Datetime(date) => format!("date {date}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// As a TOML basic string: JSON escapes all that TOML wants escaped, except DEL.
pub fn quote(text: &str) -> String {
    serde_json::Value::from(text)
        .to_string()
        .replace('\u{7f}', "\\u007F")
}

/// A type that is a TOML string with a form of its own.
macro_rules! written_as_text {
    ($($name:ty, $expects:literal, $parse:expr, $format:expr;)+) => {$(
        impl Value for $name {
            const EXPECTS: &'static str = $expects;

            fn read(value: &Spanned<DeValue<'_>>) -> Read<Self> {
                let text = value.get_ref().as_str().ok_or_else(|| refuse::<Self>(value))?;
                $parse(text).map_err(|why| wrong(value, why))
            }

            fn write(&self) -> String {
                quote(&$format(self))
            }
        }
    )+};
}

written_as_text! {
    String, "a string such as \"abc\"", plain_text, String::clone;
    Duration, "a duration such as \"30s\"", parse_duration, |d: &Duration| format_duration(*d);
    Bytes, "a size such as \"2GiB\"", Bytes::parse, exact_size;
    Hours, "hours such as \"Mon-Fri 09:00-18:00\"", Hours::parse, Hours::to_string;
    Image, "\"builtin\" or an image such as \"busybox:1.36\"", Image::parse, Image::to_string;
    Mount, "a mount such as \"/data:/data:ro\"", Mount::parse, Mount::to_string;
    Tmpfs, "a path such as \"/tmp\" or \"/tmp:64MiB\"", Tmpfs::parse, Tmpfs::to_string;
    Device, "a device such as \"/dev/fuse\"", Device::parse, Device::to_string;
}

/// No kernel interface takes a NUL, and the engine's answer to one is hard to understand.
fn plain_text(text: &str) -> Result<String, String> {
    if text.contains('\0') {
        return Err("holds a NUL character; remove it".to_owned());
    }
    Ok(text.to_owned())
}

/// The short form where it is exact, else bytes.
pub fn exact_size(size: &Bytes) -> String {
    let short = size.to_string();
    match Bytes::parse(&short) {
        Ok(read) if read == *size => short,
        _ => format!("{}B", size.0),
    }
}

impl Value for bool {
    const EXPECTS: &'static str = "true or false";

    fn read(value: &Spanned<DeValue<'_>>) -> Read<Self> {
        value
            .get_ref()
            .as_bool()
            .ok_or_else(|| refuse::<Self>(value))
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl Value for u32 {
    const EXPECTS: &'static str = "a whole number of 0 or more";

    fn read(value: &Spanned<DeValue<'_>>) -> Read<Self> {
        value
            .get_ref()
            .as_integer()
            .and_then(|n| u32::from_str_radix(n.as_str(), n.radix()).ok())
            .ok_or_else(|| refuse::<Self>(value))
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl Value for f64 {
    const EXPECTS: &'static str = "a number such as 1.5";

    fn read(value: &Spanned<DeValue<'_>>) -> Read<Self> {
        let number = match value.get_ref() {
            DeValue::Integer(n) if n.radix() == 10 => n.as_str().parse::<f64>().ok(),
            DeValue::Float(n) => n.as_str().parse().ok(),
            _ => None,
        };
        number
            .filter(|n| n.is_finite())
            .ok_or_else(|| refuse::<Self>(value))
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl<T: Value> Value for Vec<T> {
    const EXPECTS: &'static str = "a list such as [\"a\", \"b\"]";

    fn read(value: &Spanned<DeValue<'_>>) -> Read<Self> {
        let list = value
            .get_ref()
            .as_array()
            .ok_or_else(|| refuse::<Self>(value))?;
        let (mut read, mut problems) = (Vec::new(), Vec::new());
        for element in list.iter() {
            match T::read(element) {
                Ok(element) => read.push(element),
                Err(more) => problems.extend(more),
            }
        }
        if problems.is_empty() {
            Ok(read)
        } else {
            Err(problems)
        }
    }

    fn write(&self) -> String {
        let elements: Vec<String> = self.iter().map(T::write).collect();
        format!("[{}]", elements.join(", "))
    }
}

/// Environment variables.
impl Value for BTreeMap<String, String> {
    const EXPECTS: &'static str = "a table of strings such as { NAME = \"value\" }";

    fn read(value: &Spanned<DeValue<'_>>) -> Read<Self> {
        let table = value
            .get_ref()
            .as_table()
            .ok_or_else(|| refuse::<Self>(value))?;
        let (mut read, mut problems) = (BTreeMap::new(), Vec::new());
        for (key, value) in table {
            let name = key.get_ref();
            if name.is_empty() || name.contains(|c: char| c == '=' || c <= ' ' || c == '\u{7f}') {
                let text = format!(
                    "{} cannot name a variable; write a name without blanks and '='",
                    quote(name)
                );
                problems.push(Wrong {
                    at: key.span().start,
                    text,
                });
            }
            match String::read(value) {
                Ok(value) => drop(read.insert(name.to_string(), value)),
                Err(more) => problems.extend(more.into_iter().map(|wrong| Wrong {
                    text: format!("{name} {}", wrong.text),
                    ..wrong
                })),
            }
        }
        if problems.is_empty() {
            Ok(read)
        } else {
            Err(problems)
        }
    }

    fn write(&self) -> String {
        inline(&serde_json::Value::from_iter(self.clone()))
    }
}

/// Fields of the engine's HostConfig that Plancton sets itself, and what to write instead.
const OWN_FIELDS: [(&str, &str); 22] = [
    ("NanoCpus", "use the key 'cpus'"),
    ("CpuQuota", "use the key 'cpus'"),
    ("CpuPeriod", "use the key 'cpus'"),
    (
        "CpuShares",
        "use the key 'cpus'; pilots run at idle priority together",
    ),
    ("CpusetCpus", "use 'cpuset' in [share]"),
    ("Memory", "use the key 'memory'"),
    ("MemorySwap", "use the key 'swap'"),
    ("PidsLimit", "use the key 'pids'"),
    (
        "CgroupParent",
        "remove it; Plancton chooses the group that protects the owner",
    ),
    (
        "OomScoreAdj",
        "remove it; pilots always go first when memory runs out",
    ),
    (
        "RestartPolicy",
        "remove it; Plancton replaces pilots that end",
    ),
    (
        "AutoRemove",
        "remove it; Plancton removes pilots that ended",
    ),
    (
        "Labels",
        "remove it; labels are how Plancton knows its pilots",
    ),
    ("LogConfig", "remove it; the log is always bounded"),
    ("Binds", "use the key 'mounts'"),
    ("Mounts", "use the key 'mounts'"),
    ("Tmpfs", "use the key 'tmpfs'"),
    ("Devices", "use the key 'devices'"),
    ("CapAdd", "use the key 'cap-add'"),
    ("Privileged", "use the key 'privileged'"),
    ("NetworkMode", "use the key 'network'"),
    ("ReadonlyRootfs", "use the key 'read-only'"),
];

/// More fields of the engine's HostConfig, always an object.
impl Value for serde_json::Value {
    const EXPECTS: &'static str = "a table such as { ShmSize = 67108864 }";

    fn read(value: &Spanned<DeValue<'_>>) -> Read<Self> {
        let table = value
            .get_ref()
            .as_table()
            .ok_or_else(|| refuse::<Self>(value))?;
        let mut problems = Vec::new();
        for key in table.keys() {
            let own = OWN_FIELDS
                .iter()
                .find(|(name, _)| key.get_ref().eq_ignore_ascii_case(name));
            if let Some((name, way_out)) = own {
                let text = format!("{name} is set by Plancton itself; {way_out}");
                problems.push(Wrong {
                    at: key.span().start,
                    text,
                });
            }
        }
        match to_json(value) {
            Ok(json) if problems.is_empty() => Ok(json),
            Ok(_) => Err(problems),
            Err(more) => Err([problems, more].concat()),
        }
    }

    fn write(&self) -> String {
        inline(self)
    }
}

/// Dates become strings; what JSON cannot hold is refused. The parser bounds the depth.
fn to_json(value: &Spanned<DeValue<'_>>) -> Read<serde_json::Value> {
    use serde_json::Value as Json;
    let no_json = || {
        wrong(
            value,
            format!("{} does not fit into JSON", found(value.get_ref())),
        )
    };
    Ok(match value.get_ref() {
        DeValue::String(_) => Json::from(String::read(value)?),
        DeValue::Integer(n) => {
            Json::from(i64::from_str_radix(n.as_str(), n.radix()).map_err(|_| no_json())?)
        }
        DeValue::Float(_) => Json::from(f64::read(value).map_err(|_| no_json())?),
        DeValue::Boolean(flag) => Json::from(*flag),
        DeValue::Datetime(date) => Json::from(date.to_string()),
        DeValue::Array(list) => list.iter().map(to_json).collect::<Read<Json>>()?,
        DeValue::Table(table) => table
            .iter()
            .map(|(key, value)| Ok((key.get_ref().to_string(), to_json(value)?)))
            .collect::<Read<Json>>()?,
    })
}

/// JSON as an inline TOML value; TOML's numbers and literals are written the same way.
fn inline(json: &serde_json::Value) -> String {
    use serde_json::Value as Json;
    match json {
        Json::Object(table) => {
            let pairs = table
                .iter()
                .map(|(k, v)| format!(" {} = {}", quote(k), inline(v)));
            let pairs: Vec<String> = pairs.collect();
            let end = if pairs.is_empty() { "" } else { " " };
            format!("{{{}{end}}}", pairs.join(","))
        }
        Json::Array(list) => {
            let elements: Vec<String> = list.iter().map(inline).collect();
            format!("[{}]", elements.join(", "))
        }
        Json::String(text) => quote(text),
        other => other.to_string(),
    }
}

/// A number, or left to Plancton.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Auto<T> {
    Auto,
    Fixed(T),
}

/// A number of pilots; `None`: as many as fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPilots(pub Option<u32>);

impl MaxPilots {
    /// In [share] 0 says "as many as fit", because a share of nothing is a drain; in [[when]] it means none.
    pub fn zero_is_no_limit(self) -> MaxPilots {
        MaxPilots(self.0.filter(|most| *most > 0))
    }
}

impl Value for MaxPilots {
    const EXPECTS: &'static str = "a whole number of 0 or more, or \"auto\" for as many as fit";

    fn read(value: &Spanned<DeValue<'_>>) -> Read<Self> {
        if value.get_ref().as_str() == Some("auto") {
            return Ok(MaxPilots(None));
        }
        u32::read(value)
            .map(|most| MaxPilots(Some(most)))
            .map_err(|_| refuse::<Self>(value))
    }

    fn write(&self) -> String {
        self.0.map_or(quote("auto"), |most| most.to_string())
    }
}

impl Value for Auto<f64> {
    const EXPECTS: &'static str = "\"auto\" or a number of cores";

    fn read(value: &Spanned<DeValue<'_>>) -> Read<Self> {
        if value.get_ref().as_str() == Some("auto") {
            return Ok(Auto::Auto);
        }
        f64::read(value)
            .map(Auto::Fixed)
            .map_err(|_| refuse::<Self>(value))
    }

    fn write(&self) -> String {
        match self {
            Auto::Auto => quote("auto"),
            Auto::Fixed(number) => number.write(),
        }
    }
}

/// Where a pilot's image comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Image {
    /// Made from Plancton's own binary, without a registry.
    Builtin,
    Named(ImageRef),
}

impl Image {
    fn parse(text: &str) -> Result<Image, String> {
        match text {
            "builtin" => Ok(Image::Builtin),
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

/// A choice among words.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident, $expects:literal { $($(#[$word_doc:meta])* $variant:ident = $word:literal,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$word_doc])* $variant,)+
        }

        impl Value for $name {
            const EXPECTS: &'static str = $expects;

            fn read(value: &Spanned<DeValue<'_>>) -> Read<Self> {
                match value.get_ref().as_str() {
                    $(Some($word) => Ok($name::$variant),)+
                    _ => Err(refuse::<Self>(value)),
                }
            }

            fn write(&self) -> String {
                quote(match self { $($name::$variant => $word,)+ })
            }
        }
    )+};
}

words! {
    /// What happens to pilots when the owner uses the machine.
    WhenBusy, "\"auto\", \"yield\", \"pause\" or \"stop\"" {
        /// Yield with protection verified, else pause.
        Auto = "auto",
        /// Let the kernel's scheduler sort it out.
        Yield = "yield",
        Pause = "pause",
        Stop = "stop",
    }
    /// What happens to pilots without mains power.
    OnBattery, "\"pause\", \"run\" or \"stop\"" {
        Pause = "pause",
        /// Down to `min-battery`.
        Run = "run",
        Stop = "stop",
    }
    /// What happens when the engine cannot hold a pilot's limits.
    MissingLimits, "\"refuse\" or \"warn\"" {
        Refuse = "refuse",
        Warn = "warn",
    }
}
