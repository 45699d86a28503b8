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
        let window = |part: &str| {
            parse_window(part).ok_or_else(|| {
                format!(
                    "'{}' is no time of the week; write days, times or both, such as \"Mon-Fri 09:00-18:00\"",
                    part.trim()
                )
            })
        };
        let windows = text.split(';').map(window).collect::<Result<_, String>>()?;
        Ok(Hours {
            text: text.trim().to_owned(),
            windows,
        })
    }

    pub fn always() -> Hours {
        Hours {
            text: "always".to_owned(),
            windows: vec![Window {
                days: 0x7f,
                from: 0,
                to: DAY_MINUTES,
            }],
        }
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
fn parse_window(text: &str) -> Option<Window> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (days, times) = match *words {
        [times] if times.starts_with(|c: char| c.is_ascii_digit()) => (0x7f, times),
        [days] => (parse_days(days)?, "00:00-24:00"),
        [days, times] => (parse_days(days)?, times),
        _ => return None,
    };
    let (from, to) = times.split_once('-')?;
    let (from, to) = (parse_minute(from)?, parse_minute(to)?);
    (from != to && from != DAY_MINUTES).then_some(Window { days, from, to })
}

/// `Mon`, `Mon-Fri`, `Sat,Sun`, `Fri-Mon`.
fn parse_days(text: &str) -> Option<u8> {
    let day = |name: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(name));
    let mut days = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        for offset in 0..=(last + 7 - first) % 7 {
            days |= 1 << ((first + offset) % 7);
        }
    }
    Some(days)
}

/// `H:MM` or `HH:MM` up to 24:00, as minutes of the day.
pub fn parse_minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let is_plain = hours.len() <= 2 && minutes.len() == 2 && !text.contains('+');
    let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
    let minute = hours * 60 + minutes;
    (is_plain && minutes < 60 && minute <= DAY_MINUTES).then_some(minute)
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
            assert_eq!(
                hours.contains(weekday, minute),
                expected,
                "{text} {weekday} {minute}"
            );
            assert_eq!(hours.to_string(), text);
        }
    }

    #[test]
    fn bad_windows() {
        for (text, expected) in [
            (
                "",
                "'' is no time of the week; write days, times or both, such as \"Mon-Fri 09:00-18:00\"",
            ),
            ("Mon;", "'' is no time"),
            ("Mo-Fri", "'Mo-Fri' is no time"),
            ("Mon-", "'Mon-' is no time"),
            ("Mon 9-18", "'Mon 9-18' is no time"),
            ("Mon 09:00-25:00", "'Mon 09:00-25:00' is no time"),
            ("09:60-10:00", "'09:60-10:00' is no time"),
            ("+9:00-10:00", "'+9:00-10:00' is no time"),
            ("09:00-09:00", "'09:00-09:00' is no time"),
            ("24:00-06:00", "'24:00-06:00' is no time"),
            ("Mon 09:00 - 18:00", "'Mon 09:00 - 18:00' is no time"),
        ] {
            let error = Hours::parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{error} / {expected}");
        }
    }
}
