//! Hours of the week: `Mon-Fri 09:00-18:00; Sat,Sun` to stretches of time, and whether a moment lies in one.
//! Pure: weekday and minute (local time) are arguments.

use std::ops::Range;

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const DAY: u16 = 24 * 60;
const WEEK: u16 = 7 * DAY;

/// Hours as written, and read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hours {
    pub text: String,
    /// In minutes since the beginning of Monday; what begins on Sunday may end beyond the week.
    stretches: Vec<Range<u16>>,
}

impl Default for Hours {
    /// At any time.
    fn default() -> Hours {
        Hours {
            text: "always".to_owned(),
            stretches: parse_stretches("always").unwrap_or_default(),
        }
    }
}

impl Hours {
    pub fn parse(text: &str) -> Option<Hours> {
        let parts: Option<Vec<_>> = text.split(';').map(parse_stretches).collect();
        Some(Hours {
            text: text.trim().to_owned(),
            stretches: parts?.concat(),
        })
    }

    /// `weekday` 0 is Monday. A stretch over midnight belongs to the day it starts on.
    pub fn contains(&self, weekday: u8, minute_of_day: u16) -> bool {
        let minute = u16::from(weekday % 7) * DAY + minute_of_day;
        let mut stretches = self.stretches.iter();
        stretches.any(|stretch| stretch.contains(&minute) || stretch.contains(&(minute + WEEK)))
    }
}

/// `[DAYS] [HH:MM-HH:MM]`; without days every day, without times the whole day.
fn parse_stretches(text: &str) -> Option<Vec<Range<u16>>> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (days, times) = match *words {
        ["always"] => ("Mon-Sun", "00:00-24:00"),
        [times] if times.starts_with(|c: char| c.is_ascii_digit()) => ("Mon-Sun", times),
        [days] => (days, "00:00-24:00"),
        [days, times] => (days, times),
        _ => return None,
    };
    let (from, to) = times.split_once('-')?;
    let (from, mut to) = (parse_minute(from)?, parse_minute(to)?);
    if from == to || from == DAY {
        return None;
    }
    if to < from {
        to += DAY;
    }
    let days = parse_days(days)?.into_iter();
    Some(days.map(|day| day * DAY + from..day * DAY + to).collect())
}

/// `Mon`, `Mon-Fri`, `Sat,Sun`, `Fri-Mon`.
fn parse_days(text: &str) -> Option<Vec<u16>> {
    let day = |name: &str| {
        (0..7)
            .zip(DAYS)
            .find(|(_, day)| day.eq_ignore_ascii_case(name))
    };
    let mut days = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?.0, day(last)?.0);
        days.extend((first..=if last < first { last + 7 } else { last }).map(|day| day % 7));
    }
    Some(days)
}

/// `H:MM` or `HH:MM` up to 24:00, as minutes of the day.
fn parse_minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let is_plain = hours.len() <= 2 && minutes.len() == 2 && !text.contains('+');
    let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
    let minute = hours * 60 + minutes;
    (is_plain && minutes < 60 && minute <= DAY).then_some(minute)
}
