//! Numbers with units, and the ids of things: checked when they are made, so that the rooms behind need not check again.
//! Pure: no clock is read here.

use serde::{Deserialize, Serialize};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{collections::BTreeSet, fmt, time::Duration};

/// A size in bytes; written and read as `512MiB`, `2GiB`, `10GB`, `0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// The first five are those that sizes are shown in, the largest first.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];
/// In milliseconds.
const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];
/// In milliseconds.
const CENTURY: f64 = 100.0 * 365.0 * 86_400_000.0;

/// A sum of numbers with units, such as `1h30m` or `1.5 GiB`. Only zero needs none: a size or a duration without a unit is
/// a mistake.
fn parse_sum(text: &str, units: &[(&str, u64)]) -> Option<f64> {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let (mut rest, mut sum) = (text.trim(), None);
    if rest == "0" {
        return Some(0.0);
    }
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c| !is_number(c))?);
        let (unit, tail) = tail.split_at(tail.find(is_number).unwrap_or(tail.len()));
        let (_, size) = units.iter().find(|(name, _)| *name == unit.trim())?;
        sum = Some(sum.unwrap_or(0.0) + number.parse::<f64>().ok()? * float(*size));
        rest = tail;
    }
    sum
}

impl Bytes {
    pub fn parse(text: &str) -> Option<Bytes> {
        let bytes = parse_sum(text, &SIZE_UNITS)?;
        (bytes <= float(u64::MAX >> 1)).then(|| Bytes(whole(bytes)))
    }
}

impl fmt::Display for Bytes {
    /// Exact (in the largest unit that divides it) while that is short, else one decimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bytes(size) = *self;
        let mut units = SIZE_UNITS.iter().take(5).filter(|(_, unit)| size >= *unit);
        let Some((largest, most)) = units.clone().next() else {
            return f.write_str("0");
        };
        match units.find(|(_, unit)| size.is_multiple_of(*unit) && size / unit < 100_000) {
            Some((name, unit)) => write!(f, "{}{name}", size / unit),
            None => write!(f, "{:.1}{largest}", float(size) / float(*most)),
        }
    }
}

/// Reads `30s`, `10m`, `12h`, `2d`, `500ms` or a sum such as `1h30m`; `0` is zero.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let millis = parse_sum(text, &DURATION_UNITS).filter(|millis| *millis <= CENTURY);
    let duration = millis.map(|millis| Duration::from_millis(whole(millis)));
    let write = "write it as a number with s, m, h or d, such as \"30s\" or \"1h30m\"";
    duration.ok_or_else(|| format!("'{}' is not a duration; {write}", text.trim()))
}

/// The exact form that [`parse_duration`] reads back: `1h30m`, `12h`, `500ms`.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, size) in DURATION_UNITS {
        if rest >= size {
            text += &format!("{}{unit}", rest / size);
        }
        rest %= size;
    }
    match text.is_empty() {
        true => "0s".to_owned(),
        false => text,
    }
}

/// For people: two units at most, seconds only below an hour: `11h52m`, `3m05s`, `2h`.
pub fn rough(seconds: f64) -> String {
    let s = whole(seconds.ceil());
    let text = match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m{:02}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h{:02}m", s / 3_600, s % 3_600 / 60),
        _ => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3_600),
    };
    text.replace("m00s", "m").replace("h00m", "h")
}

/// `1`, `0.5`, `12`: one decimal where it says something; `?` for what no machine has.
pub fn number(value: f64) -> String {
    match format!("{:.1}", value + 0.0) {
        _ if !value.is_finite() || value.abs() > 1e9 => "?".to_owned(),
        text => text.trim_end_matches(".0").to_owned(),
    }
}

/// Whether a path is a place, or below it.
pub fn is_within(path: &str, place: &str) -> bool {
    let rest = path.strip_prefix(place);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What a thread that panicked left is whole.
pub fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a text of lines `NAME: TEXT` says of a name.
pub fn entry(texts: &'static str, name: &str) -> Option<&'static str> {
    let mut lines = texts.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(of, _)| *of == name).map(|(_, text)| text)
}

/// `1 pilot`, `3 pilots`.
pub fn count_pilots(number: usize) -> String {
    format!("{number} pilot{}", if number == 1 { "" } else { "s" })
}

/// The word by which a state or code is known outside.
pub fn word(value: impl Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

/// From 0 to 1, and different on every machine: the digits of a clock behind the ones that anybody shares.
pub fn draw(now: f64) -> f64 {
    (now * 61_803.398_874).fract().abs()
}

/// `u64` to `f64` for ratios and displays, never compared bit by bit; above 2^53 the last digits are rounded.
#[expect(clippy::cast_precision_loss)]
pub fn float(value: u64) -> f64 {
    value as f64
}

/// `f64` to `u64`, clamped, as `as` does it: negative numbers and NaN are 0.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn whole(value: f64) -> u64 {
    value as u64
}

/// One instant on the three clocks that matter, read once a tick by the loop and passed on as an argument.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// Seconds the machine was awake since boot (CLOCK_MONOTONIC): what a ttl counts.
    pub awake: f64,
    /// Seconds since boot, sleep included (CLOCK_BOOTTIME): what rates and grace periods are measured with.
    pub boot: f64,
    /// Seconds since 1970, UTC: for people and across reboots only, because it jumps.
    pub epoch: f64,
}

/// Local time, as the owner's hours are written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LocalTime {
    /// 0 is Monday.
    pub weekday: u8,
    /// Minutes since midnight.
    pub minute: u16,
}

/// A container's id as the engine gives it: 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PilotId(String);

impl PilotId {
    /// `None` for anything that is not 12 to 64 lower-case hexadecimal digits: such a text never reaches a URL or a path.
    pub fn new(text: &str) -> Option<PilotId> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        ((12..=64).contains(&text.len()) && text.bytes().all(hex)).then(|| PilotId(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PilotId {
    /// The twelve digits people know.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.get(..12).unwrap_or(&self.0))
    }
}

/// Reads `0-3,8` as the kernel writes it; `None` for anything else, or a CPU that no kernel has (NR_CPUS).
pub fn parse_cpu_list(text: &str) -> Option<BTreeSet<u32>> {
    let number = |digits: &str| {
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|cpu| is_number && *cpu < 8_192)
    };
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(number(first)?..=number(last)?).filter(|range| !range.is_empty())
    };
    let text = text.trim();
    let parts = text.split(',').filter(|_| !text.is_empty());
    let ranges: Option<Vec<_>> = parts.map(range).collect();
    Some(ranges?.into_iter().flatten().collect())
}

/// One line of somebody else's words, of at most `limit` characters: without control characters and those that hide text
/// or turn its direction; what breaks a line is a blank.
pub fn clean_line(text: &str, limit: usize) -> String {
    let text = text.trim();
    // As nearly all are: a list has thousands.
    match text.len() <= limit && text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        true => text.to_owned(),
        false => clean_text(&text.replace(char::is_whitespace, " "), limit),
    }
}

/// The same for text in which new lines and tabs mean something, such as a pilot's output.
pub fn clean_text(text: &str, limit: usize) -> String {
    // Directions of writing, and what has no width.
    let is_hidden = |c: char| {
        matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    let is_shown = |c: &char| matches!(c, '\n' | '\t') || !(c.is_control() || is_hidden(*c));
    text.chars().filter(is_shown).take(limit).collect()
}

/// The known word that was probably meant: one that begins so, or that has the same letters but for two in a row.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let slips = |name: &str| {
        let from_start = word.bytes().zip(name.bytes());
        let from_end = word.bytes().rev().zip(name.bytes().rev());
        let same = from_start.take_while(|(a, b)| a == b).count()
            + from_end.take_while(|(a, b)| a == b).count();
        word.len().max(name.len()).saturating_sub(same)
    };
    let begins = |name: &str| word.len() > 1 && name.starts_with(word);
    let near = known.map(|name| (if begins(name) { 0 } else { slips(name) }, name));
    let near = near.filter(|(slips, name)| *slips <= 2 && 2 * slips <= name.len().min(word.len()));
    near.min_by_key(|(slips, _)| *slips).map(|(_, name)| name)
}

/// Every exit code there is; scripts and service managers rely on them. 64, 69 and 78 are those of sysexits.h; 3 is what
/// init scripts say for "not running".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    NotRunning = 3,
    Usage = 64,
    EngineUnavailable = 69,
    Configuration = 78,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("2GiB", 2 << 30),
            ("0", 0),
            ("1.5GiB", 3 << 29),
            ("10GB", 10_000_000_000),
            ("7B", 7),
            ("3 MiB", 3 << 20),
        ] {
            assert_eq!(Bytes::parse(text), Some(Bytes(bytes)), "{text}");
        }
        for bad in ["", "2", "GiB", "-1GiB", "2gib", "1e99TiB", "NaNB", "2 G"] {
            assert_eq!(Bytes::parse(bad), None, "{bad}");
        }
        let sizes = [2 << 30, 3 << 29, (1 << 30) + 1, 0, 7].map(|size| Bytes(size).to_string());
        assert_eq!(sizes, ["2GiB", "1536MiB", "1.0GiB", "0", "7B"]);
    }

    #[test]
    fn durations() {
        for (text, seconds) in [
            ("30s", 30),
            ("10m", 600),
            ("2d", 172_800),
            ("1h30m", 5_400),
            ("1.5h", 5_400),
            ("0", 0),
        ] {
            let duration = Duration::from_secs(seconds);
            assert_eq!(parse_duration(text), Ok(duration), "{text}");
        }
        let bad = "30|-1s|s|1y|99999999999999999999s|9999999d|1s2|1.2.3s";
        for bad in bad.split('|').chain([""]) {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        for text in ["1h30m", "12h", "500ms", "1d", "0s", "1m1ms"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
        for (seconds, text) in [(0.1, "1s"), (185.0, "3m05s"), (7_200.0, "2h"), (-1.0, "0s")] {
            assert_eq!(rough(seconds), text);
        }
    }

    #[test]
    fn ids_and_cpu_lists() {
        assert!(PilotId::new(&"a1".repeat(32)).is_some());
        let (letter, capital, long) = ("g".repeat(64), "A".repeat(64), "a".repeat(65));
        for bad in ["", "abc", "../../etc/passwd", &letter, &capital, &long] {
            assert!(PilotId::new(bad).is_none(), "{bad}");
        }
        for (text, expected) in [("", &[][..]), ("0\n", &[0]), ("4-6,1,5", &[1, 4, 5, 6])] {
            let found: Vec<u32> = parse_cpu_list(text).unwrap().into_iter().collect();
            assert_eq!(found, expected, "{text}");
        }
        for bad in [
            "3-1",
            "0-4294967295",
            "8192",
            "a",
            "1,,2",
            "-1",
            "+1",
            "1 2",
            "0-",
        ] {
            assert_eq!(parse_cpu_list(bad), None, "{bad}");
        }
    }

    #[test]
    fn words_of_others() {
        for (text, limit, line, whole) in [
            ("plain", 3, "pla", "pla"),
            (" a\nb\tc\r\n", 9, "a b c", " a\nb\tc\n"),
            ("\u{1b}[31mred\u{7}", 9, "[31mred", "[31mred"),
            (
                "pay\u{202e}cod\u{2069}\u{200b}\u{feff}\u{61c}",
                9,
                "paycod",
                "paycod",
            ),
            ("a\u{2028}b\u{85}c", 9, "a b c", "abc"),
            ("naïve 日本", 8, "naïve 日本", "naïve 日本"),
            // A link and a clipboard as xterm takes them (OSC 8 and 52), letters without a width (Unicode's tags), and C1's CSI.
            (
                "\u{1b}]8;;http://x\u{1b}\\a",
                20,
                "]8;;http://x\\a",
                "]8;;http://x\\a",
            ),
            ("\u{1b}]52;c;cm0=\u{7}", 20, "]52;c;cm0=", "]52;c;cm0="),
            ("ok\u{e0072}\u{e006d}", 20, "ok", "ok"),
            ("a\u{9b}2Jb", 20, "a2Jb", "a2Jb"),
        ] {
            assert_eq!(clean_line(text, limit), line, "{text:?}");
            assert_eq!(clean_text(text, limit), whole, "{text:?}");
        }
    }
}
