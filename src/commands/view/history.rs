//! What this machine gave, by day: as text with small bars, as JSON and as CSV. Pure.

use super::{Pen, Screen, clean, ink, number, rough};
use crate::record::{Hours, Sums, by_day, local, total};
use crate::units::{float, whole};
use jiff::ToSpan;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::{Value, json};

/// Each day, the oldest first, whether there is a record of it or not.
pub type Days = Vec<(Date, Option<Sums>)>;

/// The record goes back no further.
const MOST_DAYS: u64 = 400;

/// Back from the day on which `now` is.
pub fn last_days(hours: &Hours, days: u64, now: f64, zone: &TimeZone) -> Days {
    let mut known = by_day(hours, zone);
    let days = days.clamp(1, MOST_DAYS);
    let today = local(whole(now), zone).date();
    let back = (0..days)
        .rev()
        .filter_map(|back| today.checked_sub(i64::try_from(back).ok()?.days()).ok());
    back.map(|date| (date, known.remove(&date))).collect()
}

/// `12,345`
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let groups: Vec<&[u8]> = digits.as_bytes().rchunks(3).rev().collect();
    String::from_utf8_lossy(&groups.join(&b',')).into_owned()
}

/// `1 pilot`, `12,345 pilots`
fn pilots<'a>(counts: impl IntoIterator<Item = &'a u64>) -> String {
    let count = counts.into_iter().sum();
    format!(
        "{} pilot{}",
        grouped(count),
        if count == 1 { "" } else { "s" }
    )
}

/// `1,234 h`, `31.2 h`, and minutes where that would be little.
pub(super) fn cpu_time(seconds: f64) -> String {
    match seconds / 3600.0 {
        hours if hours >= 100.0 => format!("{} h", grouped(whole(hours.round()))),
        hours if hours >= 0.95 => format!("{} h", number(hours)),
        _ => rough(seconds),
    }
}

/// The word that others know it by.
pub(super) fn word(value: impl Serialize) -> String {
    serde_json::to_value(value)
        .ok()
        .and_then(|value| value.as_str().map(clean))
        .unwrap_or_default()
}

pub(super) struct Row {
    pub label: String,
    pub value: f64,
    pub text: String,
}

/// The parts of a sum, the largest first: pilots by end, core-hours by class, time held back by reason.
pub(super) fn parts(sums: &Sums) -> [(&'static str, Vec<Row>); 3] {
    let ended = sums.ended().into_iter().map(|(kind, count)| Row {
        label: kind.name().to_owned(),
        value: float(count),
        text: grouped(count),
    });
    let classes = sums.classes.iter().map(|(name, class)| {
        let text = format!(
            "{}, {}",
            cpu_time(class.core_seconds.0),
            pilots(class.ended.values())
        );
        Row {
            label: clean(name),
            value: class.core_seconds.0,
            text,
        }
    });
    let held = sums.held_back_seconds.iter();
    let held = held.map(|(code, time)| Row {
        label: word(code),
        value: time.0,
        text: rough(time.0),
    });
    let sorted = |mut rows: Vec<Row>| {
        rows.sort_by(|a, b| b.value.total_cmp(&a.value));
        rows
    };
    [
        ("Pilots by end", sorted(ended.collect())),
        ("Core time by class", sorted(classes.collect())),
        ("Held back by", sorted(held.collect())),
    ]
}

pub fn render(days: &Days, screen: &Screen) -> String {
    let pen = Pen::new(screen, 0.0);
    let sums = total(days.iter().filter_map(|(_, sums)| sums.as_ref()));
    let by_day = days.iter().map(|(date, sums)| {
        let given = sums.as_ref().map(|sums| sums.given_cpu_seconds.0);
        let text = given.map_or("-".to_owned(), cpu_time);
        Row {
            label: date.strftime("%a %e %b").to_string(),
            value: given.unwrap_or(0.0),
            text,
        }
    });
    let by_day: Vec<Row> = by_day.collect();
    let (given, owner) = (
        cpu_time(sums.given_cpu_seconds.0),
        cpu_time(sums.owner_cpu_seconds.0),
    );
    let text = format!(
        "{given} of CPU given in {}, {owner} used by the owner; watched for {}, held back for {}",
        pilots(sums.ended().values()),
        rough(sums.observed_seconds.0),
        rough(sums.held_back()),
    );
    let mut lines = pen.told(
        ink::STRONG,
        &format!("What this machine gave {}", count_days(days.len())),
    );
    lines.extend(pen.told(ink::PLAIN, &text));
    for (title, rows) in [("CPU time given by day", by_day)]
        .into_iter()
        .chain(parts(&sums))
    {
        lines.extend(chart(&pen, title, &rows));
    }
    lines
        .into_iter()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}

fn count_days(days: usize) -> String {
    if days == 1 {
        "today".to_owned()
    } else {
        format!("in the last {days} days")
    }
}

/// Label, bar, text; the longest bar is the largest value. Nothing without rows.
fn chart(pen: &Pen, title: &str, rows: &[Row]) -> Vec<String> {
    const MOST_LABEL: usize = 18;
    let widest = |of: fn(&Row) -> &str| {
        rows.iter()
            .map(|row| of(row).chars().count())
            .max()
            .unwrap_or(0)
    };
    let (label, text) = (
        widest(|row| &row.label).min(MOST_LABEL),
        widest(|row| &row.text),
    );
    let cells = pen.width.saturating_sub(label + text + 4).clamp(4, 50);
    let largest = rows
        .iter()
        .map(|row| row.value)
        .fold(f64::MIN_POSITIVE, f64::max);
    let mut lines = Vec::new();
    if !rows.is_empty() {
        lines.extend([String::new(), pen.paint(ink::FAINT, title)]);
    }
    for row in rows {
        let bar = bar(row.value / largest, cells);
        let rest = " ".repeat(cells - bar.chars().count());
        let name: String = row.label.chars().take(MOST_LABEL).collect();
        lines.push(format!(
            "{name:<label$}  {}{rest}  {:>text$}",
            pen.paint(ink::GOOD, &bar),
            row.text
        ));
    }
    lines
}

/// In eighths of a cell; what is more than nothing shows.
fn bar(part: f64, cells: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let least = u64::from(part > 0.0);
    let eighths = whole((part.clamp(0.0, 1.0) * float(8 * cells as u64)).round()).max(least);
    let (full, rest) = (
        usize::try_from(eighths / 8).unwrap_or(0),
        usize::try_from(eighths % 8).unwrap_or(0),
    );
    "█".repeat(full) + EIGHTHS.get(rest).unwrap_or(&"")
}

pub fn json(days: &Days) -> Value {
    let known = days
        .iter()
        .filter_map(|(date, sums)| Some((date, sums.as_ref()?)));
    let rows: Vec<Value> = known
        .clone()
        .map(|(date, sums)| json!({"date": date.to_string(), "sums": sums}))
        .collect();
    json!({"days": rows, "total": total(known.map(|(_, sums)| sums))})
}

#[cfg(test)]
mod tests;
