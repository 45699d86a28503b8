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

pub type Toml<'a> = Spanned<DeValue<'a>>;

/// Why a value was refused; `at` is a byte offset into the text.
#[derive(Clone, Debug, PartialEq)]
pub struct Wrong {
    pub at: usize,
    pub text: String,
}

/// A list can have as many problems as elements.
pub type Read<T> = Result<T, Vec<Wrong>>;

pub trait Value: Sized {
    /// What goes after "expects".
    const EXPECTS: &'static str;

    fn read(value: &Toml<'_>) -> Read<Self>;

    /// As TOML that [`Value::read`] reads back to an equal value.
    fn write(&self) -> String;
}

pub fn wrong(at: usize, text: String) -> Vec<Wrong> {
    vec![Wrong { at, text }]
}

fn refuse<T: Value>(value: &Toml<'_>) -> Vec<Wrong> {
    let found = found(value.get_ref());
    wrong(value.span().start, format!("expects {}, found {found}", T::EXPECTS))
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
    let json = serde_json::Value::from(text).to_string();
    json.replace('\u{7f}', "\\u007F")
}

/// `None` from `read`: not the type of value that is expected.
fn read_scalar<T, F>(value: &Toml<'_>, read: F) -> Read<T>
where
    T: Value,
    F: FnOnce(&DeValue<'_>) -> Option<Result<T, String>>,
{
    let read = read(value.get_ref()).ok_or_else(|| refuse::<T>(value))?;
    read.map_err(|why| wrong(value.span().start, why))
}

/// All that could be read, or all that is wrong.
fn gather<T, C: FromIterator<T>>(parts: impl Iterator<Item = Read<T>>) -> Read<C> {
    let mut problems = Vec::new();
    let read = parts.filter_map(|part| part.map_err(|more| problems.extend(more)).ok()).collect();
    if problems.is_empty() { Ok(read) } else { Err(problems) }
}

/// `Type: "what is expected", how to read, how to write;`
macro_rules! scalars {
    ($($name:ty: $expects:literal, $read:expr, $write:expr;)+) => {$(
        impl Value for $name {
            const EXPECTS: &'static str = $expects;

            fn read(value: &Toml<'_>) -> Read<Self> {
                read_scalar(value, $read)
            }

            fn write(&self) -> String {
                let write: fn(&Self) -> String = $write;
                write(self)
            }
        }
    )+};
}

scalars! {
    bool: "true or false", |v| v.as_bool().map(Ok), |flag| flag.to_string();
    u32: "a whole number of 0 or more", |v| parse_whole(v).map(Ok), |number| number.to_string();
    f64: "a number such as 1.5", |v| parse_number(v).map(Ok), |number| number.to_string();
    String: "a string such as \"abc\"", |v| v.as_str().map(parse_plain), |text| quote(text);
    Duration: "a duration such as \"30s\"", |v| v.as_str().map(parse_duration), |d| quote(&format_duration(*d));
    Bytes: "a size such as \"2GiB\"", |v| v.as_str().map(Bytes::parse), |size| quote(&exact_size(*size));
    Hours: "hours such as \"Mon-Fri 09:00-18:00\"", |v| v.as_str().map(Hours::parse), |hours| quote(&hours.to_string());
    Image: "\"builtin\" or an image such as \"busybox:1.36\"", |v| v.as_str().map(Image::parse), |image| quote(&image.to_string());
    Mount: "a mount such as \"/data:/data:ro\"", |v| v.as_str().map(Mount::parse), |mount| quote(&mount.to_string());
    Tmpfs: "a path such as \"/tmp\" or \"/tmp:64MiB\"", |v| v.as_str().map(Tmpfs::parse), |tmpfs| quote(&tmpfs.to_string());
    Device: "a device such as \"/dev/fuse\"", |v| v.as_str().map(Device::parse), |device| quote(&device.to_string());
    Auto<f64>: "\"auto\" or a number of cores", |v| match v.as_str() {
        Some("auto") => Some(Ok(Auto::Auto)),
        _ => parse_number(v).map(|number| Ok(Auto::Fixed(number))),
    }, |auto| match auto {
        Auto::Auto => quote("auto"),
        Auto::Fixed(number) => number.write(),
    };
    Auto<u32>: "a whole number of 0 or more, or \"auto\" for as many as fit", |v| match v.as_str() {
        Some("auto") => Some(Ok(Auto::Auto)),
        _ => parse_whole(v).map(|number| Ok(Auto::Fixed(number))),
    }, |auto| match auto {
        Auto::Auto => quote("auto"),
        Auto::Fixed(number) => number.write(),
    };
}

fn parse_whole(value: &DeValue<'_>) -> Option<u32> {
    let number = value.as_integer()?;
    u32::from_str_radix(number.as_str(), number.radix()).ok()
}

fn parse_number(value: &DeValue<'_>) -> Option<f64> {
    let number: f64 = match value {
        DeValue::Integer(n) if n.radix() == 10 => n.as_str().parse().ok()?,
        DeValue::Float(n) => n.as_str().parse().ok()?,
        _ => return None,
    };
    number.is_finite().then_some(number)
}

/// No kernel interface takes a NUL, and an engine's answer to one explains nothing.
fn parse_plain(text: &str) -> Result<String, String> {
    match text.contains('\0') {
        true => Err("holds a NUL character; remove it".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// The short form where it is exact, else bytes.
pub fn exact_size(size: Bytes) -> String {
    match Bytes::parse(&size.to_string()) {
        Ok(read) if read == size => size.to_string(),
        _ => format!("{}B", size.0),
    }
}

/// A number, or left to Plancton.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Auto<T> {
    Auto,
    Fixed(T),
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

        scalars! {
            $name: $expects, |v| match v.as_str()? {
                $($word => Some(Ok($name::$variant)),)+
                _ => None,
            }, |word| quote(match word { $($name::$variant => $word,)+ });
        }
    )+};
}

words! {
    /// What happens to pilots when the owner uses the machine.
    WhenBusy, "\"auto\", \"yield\", \"pause\" or \"stop\"" {
        /// Yield with protection verified, else pause.
        Auto = "auto",
        /// Leave it to the kernel's scheduler.
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

impl<T: Value> Value for Vec<T> {
    const EXPECTS: &'static str = "a list such as [\"a\", \"b\"]";

    fn read(value: &Toml<'_>) -> Read<Self> {
        let list = value.get_ref().as_array();
        gather(list.ok_or_else(|| refuse::<Self>(value))?.iter().map(T::read))
    }

    fn write(&self) -> String {
        let elements: Vec<String> = self.iter().map(T::write).collect();
        format!("[{}]", elements.join(", "))
    }
}

/// Environment variables.
impl Value for BTreeMap<String, String> {
    const EXPECTS: &'static str = "a table of strings such as { NAME = \"value\" }";

    fn read(value: &Toml<'_>) -> Read<Self> {
        let table = value.get_ref().as_table();
        let table = table.ok_or_else(|| refuse::<Self>(value))?;
        gather(table.iter().map(|(key, value)| {
            let name = key.get_ref();
            if name.is_empty() || name.contains(|c: char| c == '=' || c <= ' ' || c == '\u{7f}') {
                let text = format!("'{name}' is not a name for a variable; leave out blanks and '='");
                return Err(wrong(key.span().start, text));
            }
            let value = String::read(value).map_err(|mut problems| {
                problems.iter_mut().for_each(|wrong| wrong.text.insert_str(0, &format!("{name} ")));
                problems
            })?;
            Ok((name.to_string(), value))
        }))
    }

    fn write(&self) -> String {
        inline(&serde_json::Value::from_iter(self.clone()))
    }
}

/// Fields of the engine's HostConfig that Plancton sets itself, and the way out.
const OWN_FIELDS: [(&str, &str); 14] = [
    ("NanoCpus CpuQuota CpuPeriod CpuShares", "use the key 'cpus'"),
    ("CpusetCpus", "use 'cpuset' in [share]"),
    ("Memory", "use the key 'memory'"),
    ("MemorySwap", "use the key 'swap'"),
    ("PidsLimit", "use the key 'pids'"),
    ("CgroupParent OomScoreAdj", "remove it; it protects the owner"),
    ("RestartPolicy AutoRemove", "remove it; pilots that end are replaced and removed"),
    ("Labels LogConfig", "remove it; pilots are known by labels and their logs bounded"),
    ("Binds Mounts", "use the key 'mounts'"),
    ("Tmpfs", "use the key 'tmpfs'"),
    ("Devices", "use the key 'devices'"),
    ("CapAdd Privileged", "use the keys 'cap-add' and 'privileged'"),
    ("NetworkMode", "use the key 'network'"),
    ("ReadonlyRootfs", "use the key 'read-only'"),
];

/// More fields of the engine's HostConfig, always an object.
impl Value for serde_json::Value {
    const EXPECTS: &'static str = "a table such as { ShmSize = 67108864 }";

    fn read(value: &Toml<'_>) -> Read<Self> {
        let table = value.get_ref().as_table();
        let table = table.ok_or_else(|| refuse::<Self>(value))?;
        gather(table.iter().map(|(key, value)| {
            let name = key.get_ref();
            let is_own = |own: &str| own.eq_ignore_ascii_case(name);
            match OWN_FIELDS.iter().find(|(names, _)| names.split(' ').any(is_own)) {
                Some((_, way_out)) => {
                    let text = format!("'{name}' is set by Plancton itself; {way_out}");
                    Err(wrong(key.span().start, text))
                }
                None => Ok((name.to_string(), to_json(value)?)),
            }
        }))
    }

    fn write(&self) -> String {
        inline(self)
    }
}

/// Dates become strings. The parser bounds the depth.
fn to_json(value: &Toml<'_>) -> Read<serde_json::Value> {
    Ok(match value.get_ref() {
        DeValue::String(_) => String::read(value)?.into(),
        DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix())
            .map_err(|_| wrong(value.span().start, format!("{n} is too large a number")))?
            .into(),
        DeValue::Float(_) => f64::read(value)?.into(),
        DeValue::Boolean(flag) => (*flag).into(),
        DeValue::Datetime(date) => date.to_string().into(),
        DeValue::Array(list) => gather(list.iter().map(to_json))?,
        DeValue::Table(table) => {
            gather(table.iter().map(|(key, value)| Ok((key.get_ref().to_string(), to_json(value)?))))?
        }
    })
}

/// JSON as an inline TOML value; numbers and literals are written the same way in both.
fn inline(json: &serde_json::Value) -> String {
    use serde_json::Value as Json;
    match json {
        Json::Object(table) => {
            let pair = |(k, v): (&String, _)| format!("{} = {}", quote(k), inline(v));
            let pairs: Vec<String> = table.iter().map(pair).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        Json::Array(list) => {
            let elements: Vec<String> = list.iter().map(inline).collect();
            format!("[{}]", elements.join(", "))
        }
        Json::String(text) => quote(text),
        other => other.to_string(),
    }
}
