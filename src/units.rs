//! Numbers with units, and the ids of things: checked when they are made, so that the rooms behind need not check again.
//! Pure: no clock is read here.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// A size in bytes; written and read as `512MiB`, `2GiB`, `10GB`, `0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// Longest first, so that `MiB` is not read as `B`.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl Bytes {
    /// Reads `2GiB`; a bare number is only accepted for zero, because a size without a unit is a mistake.
    pub fn parse(text: &str) -> Result<Bytes, String> {
        let text = text.trim();
        let bytes = || {
            let mut units = SIZE_UNITS.iter();
            let (digits, unit) =
                units.find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
            let bytes = digits.trim_end().parse::<f64>().ok()? * float(*unit);
            (0.0..=float(u64::MAX >> 1))
                .contains(&bytes)
                .then(|| Bytes(whole(bytes)))
        };
        let zero = (text == "0").then_some(Bytes(0));
        zero.or_else(bytes).ok_or_else(|| {
            format!(
                "'{text}' is not a size; write it as a number with KiB, MiB, GiB or TiB, such as \"2GiB\""
            )
        })
    }
}

impl fmt::Display for Bytes {
    /// Exact (in the largest binary unit that divides it) while that is short, else one decimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.0;
        let binary = SIZE_UNITS.iter().take(4).filter(|(_, unit)| size >= *unit);
        let mut exact = binary
            .clone()
            .filter(|(_, unit)| size.is_multiple_of(*unit));
        match (
            exact.find(|(_, unit)| size / unit < 100_000),
            binary.clone().next(),
        ) {
            (Some((name, unit)), _) => write!(f, "{}{name}", size / unit),
            (None, Some((name, unit))) => write!(f, "{:.1}{name}", float(size) / float(*unit)),
            (None, None) if size == 0 => f.write_str("0"),
            (None, None) => write!(f, "{size}B"),
        }
    }
}

/// In milliseconds.
const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];
const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Reads `30s`, `10m`, `12h`, `2d`, `500ms` or a sum such as `1h30m`; `0` is zero.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let parse = || {
        let mut rest = if text == "0" { "0s" } else { text };
        let mut millis: u64 = 0;
        while !rest.is_empty() {
            let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
            let end = tail.find(|c: char| c.is_ascii_digit());
            let (unit, tail) = tail.split_at(end.unwrap_or(tail.len()));
            let (_, size) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
            let part = number.parse::<u64>().ok()?.checked_mul(*size)?;
            millis = millis.checked_add(part)?;
            rest = tail;
        }
        let total = Duration::from_millis(millis);
        (!text.is_empty() && total <= CENTURY).then_some(total)
    };
    parse().ok_or_else(|| {
        format!(
            "'{text}' is not a duration; write it as a number with s, m, h or d, such as \"30s\" or \"1h30m\""
        )
    })
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

/// For people: two units at most, seconds only below an hour: `11h52m`, `3m05s`, `42s`.
pub fn format_rough(duration: Duration) -> String {
    let s = duration.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m{:02}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h{:02}m", s / 3_600, s % 3_600 / 60),
        _ => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3_600),
    }
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

/// `u64` to `f64` for ratios and displays; above 2^53 the last digits are rounded.
#[expect(
    clippy::cast_precision_loss,
    reason = "sizes and counters are shown or divided, never compared bit by bit"
)]
pub fn float(value: u64) -> f64 {
    value as f64
}

/// `f64` to `u64`, clamped: negative numbers and NaN are 0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates and maps NaN to 0, which is meant"
)]
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

    /// The twelve digits people know.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl fmt::Display for PilotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

/// Reads `0-3,8` as the kernel writes it, sorted and without doubles; `None` for anything else, or a CPU that no kernel
/// has (NR_CPUS).
pub fn parse_cpu_list(text: &str) -> Option<Vec<u32>> {
    let number = |digits: &str| {
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|cpu| is_number && *cpu < 8_192)
    };
    let text = text.trim();
    let mut cpus = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (number(first)?, number(last)?);
        if first > last {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

/// One line of somebody else's words, of at most `limit` characters: without control characters and those that hide text
/// or turn its direction; what breaks a line is a blank.
pub fn clean_line(text: &str, limit: usize) -> String {
    let shown = |c: char| match c {
        c if c.is_whitespace() => Some(' '),
        c if c.is_control() || is_hidden(c) => None,
        c => Some(c),
    };
    text.trim().chars().filter_map(shown).take(limit).collect()
}

/// The same for text in which new lines and tabs mean something, such as a pilot's output.
pub fn clean_text(text: &str, limit: usize) -> String {
    let is_shown = |c: &char| matches!(c, '\n' | '\t') || !(c.is_control() || is_hidden(*c));
    text.chars().filter(is_shown).take(limit).collect()
}

/// Directions of writing, and what has no width.
fn is_hidden(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The known word that was probably meant: one that begins so, or is at most two slips away in at most half its letters.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let begins = known
        .clone()
        .find(|name| word.len() > 1 && name.starts_with(word));
    let slips = known.map(|name| (distance(word, name), name));
    let near = slips.filter(|(slips, name)| *slips <= 2 && 2 * slips <= name.len().min(word.len()));
    begins.or_else(|| near.min_by_key(|(slips, _)| *slips).map(|(_, name)| name))
}

/// Levenshtein's: how many letters to insert, remove or replace.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, left) in a.chars().take(64).enumerate() {
        let mut before = i + 1;
        let mut next = vec![before];
        for ((right, diagonal), above) in b.chars().zip(&row).zip(row.iter().skip(1)) {
            before = (diagonal + usize::from(left != right))
                .min(above + 1)
                .min(before + 1);
            next.push(before);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
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

impl Exit {
    pub fn code(self) -> u8 {
        self as u8
    }
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
            assert_eq!(Bytes::parse(text), Ok(Bytes(bytes)), "{text}");
        }
        for bad in ["", "2", "GiB", "-1GiB", "2gib", "1e99TiB", "NaNB", "2 G"] {
            assert!(Bytes::parse(bad).is_err(), "{bad}");
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
            ("0", 0),
        ] {
            let duration = Duration::from_secs(seconds);
            assert_eq!(parse_duration(text), Ok(duration), "{text}");
        }
        let bad = "30|-1s|s|1.5h|1y|99999999999999999999s|1h 30m|9999999d|1s2";
        for bad in bad.split('|').chain([""]) {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        for text in ["1h30m", "12h", "500ms", "1d", "0s", "1m1ms"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
        assert_eq!(format_rough(Duration::from_secs(185)), "3m05s");
    }

    #[test]
    fn ids_and_cpu_lists() {
        assert!(PilotId::new(&"a1".repeat(32)).is_some());
        let (letter, capital, long) = ("g".repeat(64), "A".repeat(64), "a".repeat(65));
        for bad in ["", "abc", "../../etc/passwd", &letter, &capital, &long] {
            assert!(PilotId::new(bad).is_none(), "{bad}");
        }
        for (text, expected) in [
            ("", vec![]),
            ("0\n", vec![0]),
            ("4-6,1,5", vec![1, 4, 5, 6]),
        ] {
            assert_eq!(parse_cpu_list(text), Some(expected), "{text}");
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
        ] {
            assert_eq!(clean_line(text, limit), line, "{text:?}");
            assert_eq!(clean_text(text, limit), whole, "{text:?}");
        }
    }
}
