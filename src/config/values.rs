//! The types that a configuration key can have: each is read from one TOML value and written back as one.
//! A value that cannot be read says where it stands, what the key expects and what was found instead.

use super::image::ImageRef;
use super::mounts::{Device, Handed, Mount, Tmpfs};
use super::when::Hours;
use crate::units::{Bytes, format_duration, parse_duration};
use serde_json::Value as Json;
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
    wrong(
        value.span().start,
        format!("expects {}, found {found}", T::EXPECTS),
    )
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
    let json = Json::from(text).to_string();
    json.replace('\u{7f}', "\\u007F")
}

/// All that could be read, or all that is wrong.
fn gather<T, C: FromIterator<T>>(parts: impl Iterator<Item = Read<T>>) -> Read<C> {
    let mut problems = Vec::new();
    let read = parts
        .filter_map(|part| part.map_err(|more| problems.extend(more)).ok())
        .collect();
    if problems.is_empty() {
        Ok(read)
    } else {
        Err(problems)
    }
}

/// `Type: "what is expected", how to read (`None`: not the type of value that is expected), how to write;`
macro_rules! scalars {
    ($($name:ty: $expects:literal, $read:expr, $write:expr;)+) => {$(
        impl Value for $name {
            const EXPECTS: &'static str = $expects;

            fn read(value: &Toml<'_>) -> Read<Self> {
                let read: fn(&DeValue<'_>) -> Option<Result<Self, String>> = $read;
                let read = read(value.get_ref()).ok_or_else(|| refuse::<Self>(value))?;
                read.map_err(|why| wrong(value.span().start, why))
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
    String: "a string such as \"abc\"", |v| v.as_str().map(|text| Ok(text.to_owned())), |text| quote(text);
    Duration: "a duration such as \"30s\"", |v| v.as_str().map(parse_duration), |d| quote(&format_duration(*d));
    Bytes: "a size such as \"2GiB\"", |v| v.as_str().map(Bytes::parse), |size| quote(&exact_size(*size));
    Hours: "hours such as \"Mon-Fri 09:00-18:00\"", |v| v.as_str().map(Hours::parse), |hours| quote(&hours.to_string());
    Image: "\"builtin\" or an image such as \"busybox:1.36\"", |v| v.as_str().map(Image::parse), |image| quote(&image.to_string());
    Mount: "a mount such as \"/data:/data:ro\"", |v| v.as_str().map(Mount::parse), |mount| quote(&mount.to_string());
    Tmpfs: "a path such as \"/tmp\" or \"/tmp:64MiB\"", |v| v.as_str().map(Tmpfs::parse), |tmpfs| quote(&tmpfs.to_string());
    Device: "a device such as \"/dev/fuse\"", |v| v.as_str().map(Device::parse), |device| quote(&device.to_string());
    Secret: "a string in quotes", |v| Some(Secret::read_from(v)), |secret| quote(&format!("{secret:?}"));
    Auto<f64>: "\"auto\" or a number of cores", |v| read_auto(v, parse_number), Auto::write;
    Auto<u32>: "a whole number of 0 or more, or \"auto\" for as many as fit", |v| read_auto(v, parse_whole), Auto::write;
}

fn read_auto<T>(
    value: &DeValue<'_>,
    read: fn(&DeValue<'_>) -> Option<T>,
) -> Option<Result<Auto<T>, String>> {
    match value.as_str() {
        Some("auto") => Some(Ok(Auto::Auto)),
        _ => read(value).map(|number| Ok(Auto::Fixed(number))),
    }
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

impl<T: Value> Auto<T> {
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

/// A password or token: shown as `***`, whoever looks.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

const SHOWN: &str = "***";

impl Secret {
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    /// For the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whatever was found instead may be the secret, so it is not repeated.
    fn read_from(value: &DeValue<'_>) -> Result<Secret, String> {
        match value.as_str() {
            Some(SHOWN) => Err(
                "'***' stands for a secret that is not shown; write the secret itself".to_owned(),
            ),
            Some(text) => Ok(Secret(text.to_owned())),
            None => Err("expects a string in quotes".to_owned()),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "" } else { SHOWN })
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
        gather(
            list.ok_or_else(|| refuse::<Self>(value))?
                .iter()
                .map(T::read),
        )
    }

    fn write(&self) -> String {
        let elements: Vec<String> = self.iter().map(T::write).collect();
        format!("[{}]", elements.join(", "))
    }
}

impl<T: Value> Value for BTreeMap<String, T> {
    const EXPECTS: &'static str = "a table such as { NAME = \"value\" }";

    fn read(value: &Toml<'_>) -> Read<Self> {
        let table = value.get_ref().as_table();
        let pairs = table.ok_or_else(|| refuse::<Self>(value))?.iter();
        gather(pairs.map(|(key, value)| Ok((key.get_ref().to_string(), T::read(value)?))))
    }

    fn write(&self) -> String {
        write_table(self.iter())
    }
}

impl Value for Handed {
    const EXPECTS: &'static str =
        "a table such as { source = \"/a\", target = \"/b\", mode = \"0400\" }";

    fn read(value: &Toml<'_>) -> Read<Self> {
        if value.get_ref().as_table().is_none() {
            return Err(refuse::<Self>(value));
        }
        Handed::from_table(&BTreeMap::read(value)?).map_err(|why| wrong(value.span().start, why))
    }

    fn write(&self) -> String {
        let (source, target) = (quote(&self.source), quote(&self.target));
        format!(
            "{{ source = {source}, target = {target}, mode = \"{:04o}\" }}",
            self.mode
        )
    }
}

fn write_table<'a, T: Value + 'a>(pairs: impl Iterator<Item = (&'a String, &'a T)>) -> String {
    let pairs: Vec<String> = pairs
        .map(|(key, value)| format!("{} = {}", quote(key), value.write()))
        .collect();
    format!("{{ {} }}", pairs.join(", "))
}

/// Whatever TOML can say; dates become strings. The parser bounds the depth.
impl Value for Json {
    const EXPECTS: &'static str = "a value";

    fn read(value: &Toml<'_>) -> Read<Self> {
        Ok(match value.get_ref() {
            DeValue::String(text) => text.as_ref().into(),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| {
                    wrong(
                        value.span().start,
                        format!("{number} is too large a number"),
                    )
                })?
                .into(),
            DeValue::Float(_) => f64::read(value)?.into(),
            DeValue::Boolean(flag) => (*flag).into(),
            DeValue::Datetime(date) => date.to_string().into(),
            DeValue::Array(_) => Vec::<Json>::read(value)?.into(),
            DeValue::Table(_) => Json::from_iter(BTreeMap::<String, Json>::read(value)?),
        })
    }

    /// Numbers and literals are written the same way in JSON and TOML.
    fn write(&self) -> String {
        match self {
            Json::Object(table) => write_table(table.iter()),
            Json::Array(list) => list.write(),
            Json::String(text) => quote(text),
            other => other.to_string(),
        }
    }
}
