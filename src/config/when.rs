//! Hours of the week: `Mon-Fri 09:00-18:00; Sat,Sun` to a set of windows, and whether a moment lies in one.
//! Pure: weekday and minute (local time) are arguments.

use std::fmt;

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const DAY_MINUTES: u16 = 24 * 60;

/// One stretch of the day on some weekdays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    /// Bit 0 is Monday.
    days: u8,
    /// Minutes of the day; `to` is the first one outside, and below `from` when the window ends on the next day.
    from: u16,
    to: u16,
}

/// Hours as written, and read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hours {
    text: String,
    windows: Vec<Window>,
}

impl Hours {
    pub fn parse(text: &str) -> Result<Hours, String> {
        let windows = text
            .split(';')
            .map(|part| {
                parse_window(part.trim())
                    .map_err(|why| format!("'{}' {why}, such as \"Mon-Fri 09:00-18:00\"", part.trim()))
            })
            .collect::<Result<_, String>>()?;
        let text = text.trim().to_owned();
        Ok(Hours { text, windows })
    }

    /// `weekday` 0 is Monday. A window over midnight belongs to the day it starts on.
    pub fn contains(&self, weekday: u8, minute_of_day: u16) -> bool {
        let on = |days: u8, day: u8| days & (1 << (day % 7)) != 0;
        self.windows.iter().any(|w| {
            let today = on(w.days, weekday);
            if w.from < w.to {
                return today && (w.from..w.to).contains(&minute_of_day);
            }
            let yesterday = on(w.days, weekday % 7 + 6);
            (today && minute_of_day >= w.from) || (yesterday && minute_of_day < w.to)
        })
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `[DAYS] [HH:MM-HH:MM]`; without days every day, without times the whole day.
fn parse_window(text: &str) -> Result<Window, &'static str> {
    let mut words = text.split_whitespace();
    let (first, second) = (words.next(), words.next());
    let starts_with_digit = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
    let (days, times) = match (first, second) {
        (None, _) => return Err("is empty; write days, times or both"),
        (Some(times), None) if starts_with_digit(&times) => (0x7f, Some(times)),
        (Some(days), times) => (parse_days(days)?, times),
    };
    if words.next().is_some() {
        return Err("has too many words; join several windows with ';'");
    }
    let (from, to) = match times {
        None => (0, DAY_MINUTES),
        Some(times) => times
            .split_once('-')
            .and_then(|(from, to)| Some((parse_minute(from)?, parse_minute(to)?)))
            .ok_or("does not hold times that can be read; write HH:MM-HH:MM")?,
    };
    if from == to || from == DAY_MINUTES {
        return Err("is a window of no length; leave the times out for whole days, or write two times");
    }
    Ok(Window { days, from, to })
}

/// `Mon`, `Mon-Fri`, `Sat,Sun`, `Fri-Mon`.
fn parse_days(text: &str) -> Result<u8, &'static str> {
    const HINT: &str = "does not start with days that can be read; write Mon to Sun";
    let day = |name: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(name)).ok_or(HINT);
    let mut days = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        let length = (last + 7 - first) % 7;
        for offset in 0..=length {
            days |= 1 << ((first + offset) % 7);
        }
    }
    Ok(days)
}

/// `HH:MM` up to 24:00.
fn parse_minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |digits: &str| {
        let plain = (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse::<u16>().ok()).flatten()
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= DAY_MINUTES).then_some(minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows() {
        const MON: u8 = 0;
        const FRI: u8 = 4;
        const SAT: u8 = 5;
        const SUN: u8 = 6;
        let at = |hours: u16, minutes: u16| hours * 60 + minutes;
        for (text, weekday, minute, expected) in [
            ("Mon-Fri 09:00-18:00", MON, at(9, 0), true),
            ("Mon-Fri 09:00-18:00", MON, at(8, 59), false),
            ("Mon-Fri 09:00-18:00", FRI, at(17, 59), true),
            ("Mon-Fri 09:00-18:00", FRI, at(18, 0), false),
            ("Mon-Fri 09:00-18:00", SAT, at(12, 0), false),
            ("Sat,Sun", SUN, at(23, 59), true),
            ("Sat,Sun", MON, 0, false),
            ("Fri-Mon", MON, at(12, 0), true),
            ("Fri-Mon", 1, at(12, 0), false),
            ("22:00-06:00", MON, at(23, 0), true),
            ("22:00-06:00", MON, at(5, 59), true),
            ("22:00-06:00", MON, at(6, 0), false),
            // A window over midnight belongs to the day it starts on.
            ("Fri 22:00-06:00", FRI, at(22, 0), true),
            ("Fri 22:00-06:00", FRI, at(5, 0), false),
            ("Fri 22:00-06:00", SAT, at(5, 59), true),
            ("Fri 22:00-06:00", SAT, at(22, 0), false),
            ("Sun 22:00-06:00", MON, at(1, 0), true),
            ("Sun 22:00-06:00", SUN, at(1, 0), false),
            ("sat 20:00-24:00", SAT, at(23, 59), true),
            ("sat 20:00-24:00", SUN, 0, false),
            ("Mon 8:00-9:30; Sat,Sun", SUN, at(3, 0), true),
            ("Mon 8:00-9:30; Sat,Sun", MON, at(9, 29), true),
            ("Mon 8:00-9:30; Sat,Sun", MON, at(9, 30), false),
        ] {
            let hours = Hours::parse(text).unwrap();
            assert_eq!(hours.contains(weekday, minute), expected, "{text} {weekday} {minute}");
            assert_eq!(hours.to_string(), text);
        }
    }

    #[test]
    fn bad_windows() {
        for (text, expected) in [
            ("", "'' is empty; write days, times or both, such as \"Mon-Fri 09:00-18:00\""),
            ("Mon;", "'' is empty"),
            ("Mo-Fri", "'Mo-Fri' does not start with days"),
            ("Mon-", "'Mon-' does not start with days"),
            ("Mon 9-18", "'Mon 9-18' does not hold times"),
            ("Mon 09:00-25:00", "'Mon 09:00-25:00' does not hold times"),
            ("09:60-10:00", "'09:60-10:00' does not hold times"),
            ("+9:00-10:00", "'+9:00-10:00' does not start with days"),
            ("09:00-09:00", "'09:00-09:00' is a window of no length"),
            ("24:00-06:00", "'24:00-06:00' is a window of no length"),
            ("Mon 09:00 - 18:00", "'Mon 09:00 - 18:00' has too many words"),
        ] {
            let error = Hours::parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{error} / {expected}");
        }
    }
}
