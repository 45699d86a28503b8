//! `history` and `report`: what this machine gave, by day, as text with small bars, as JSON, and as a page that draws
//! itself from that JSON.

use super::context::{Context, Done, Failure, complain, say};
use super::view::{Screen, cells, ink, number, rough};
use crate::history::{self, Hours, Sums, by_day, local, total};
use crate::state::{self, Durable};
use crate::units::{clean_line, float, whole, word};
use jiff::ToSpan;
use jiff::civil::Date;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Each day, the oldest first, whether anything is known of it or not.
type Days = Vec<(Date, Option<Sums>)>;

/// History goes back no further.
const MOST_DAYS: u64 = 396;
/// So much is drawn hour by hour on the page.
const PAGE_HOURS: u64 = 14 * 24;
const LONGEST_LABEL: usize = 18;

pub fn history(context: &Context) -> Done {
    let hours = read(context)?;
    let screen = Screen::of_terminal();
    let days = last_days(&hours, context.options.days.unwrap_or(14), &screen);
    if context.options.json {
        return say(&(serde_json::to_string_pretty(&json_of(&days)).unwrap_or_default() + "\n"));
    }
    say(&render(&days, &screen))
}

pub fn report(context: &Context) -> Done {
    let file = context.options.argument.clone();
    let file = file.map_or("plancton-report.html".into(), PathBuf::from);
    let page = page(
        &read(context)?,
        &crate::host::name(),
        &Screen::of_terminal(),
    );
    if file == Path::new("-") {
        return say(&page);
    }
    // Whole or not at all, but a terminal or a pipe is no file to replace.
    let written = match file.is_file() || !file.exists() {
        true => state::replace(&file, page.as_bytes(), 0o644, Durable::No),
        false => std::fs::write(&file, page),
    };
    written.map_err(|error| format!("{}: {error}; name another file", file.display()))?;
    say(&format!(
        "{} is written; open it in a browser\n",
        file.display()
    ))
}

fn read(context: &Context) -> Result<Hours, Failure> {
    let (hours, bad) = history::read(&context.addressed().state)?;
    if bad > 0 {
        complain(&format!("{bad} damaged lines of the history were left out"));
    }
    if hours.is_empty() {
        return Err(Failure::from(
            "nothing is known yet; the daemon writes down every ten minutes what it gives: `plancton start`",
        ));
    }
    Ok(hours)
}

/// Back from today.
fn last_days(hours: &Hours, days: u64, screen: &Screen) -> Days {
    let mut known = by_day(hours, &screen.zone);
    let today = local(whole(screen.now.epoch), &screen.zone).date();
    (0..days.clamp(1, MOST_DAYS))
        .rev()
        .filter_map(|back| today.checked_sub(i64::try_from(back).ok()?.days()).ok())
        .map(|date| (date, known.remove(&date)))
        .collect()
}

fn json_of(days: &Days) -> Value {
    let known = days
        .iter()
        .filter_map(|(date, sums)| Some((date, sums.as_ref()?)));
    let total = total(known.clone().map(|(_, sums)| sums));
    let days: Vec<Value> = known
        .map(|(date, sums)| json!({"date": date.to_string(), "sums": sums}))
        .collect();
    json!({"days": days, "total": total})
}

/// A file of its own: style, script and data are in it. The hours are those of the clock on the wall, whatever the clock
/// of the reader says.
fn page(hours: &Hours, host: &str, screen: &Screen) -> String {
    let time = |hour: u64| {
        local(hour * 3600, &screen.zone)
            .strftime("%Y-%m-%dT%H:%M")
            .to_string()
    };
    let this = whole(screen.now.epoch / 3600.0).min(history::HOURS.end);
    let last = hours.range(this.saturating_sub(PAGE_HOURS)..);
    let last: Vec<Value> = last
        .map(|(hour, sums)| json!({"time": time(*hour), "sums": sums}))
        .collect();
    let data = json!({
        "host": clean_line(host, 64),
        "version": env!("CARGO_PKG_VERSION"),
        "now": time(this),
        "history": json_of(&last_days(hours, MOST_DAYS, screen)),
        "hours": last,
    });
    // The one place where anything is escaped: no text can end the element that it stands in, and the script sets texts only.
    let data = data.to_string().replace('<', "\\u003c");
    include_str!("page.html").replacen("DATA", &data, 1)
}

/// What it is, how much, and how that is said.
type Row = (String, f64, String);

fn render(days: &Days, screen: &Screen) -> String {
    let sums = total(days.iter().filter_map(|(_, sums)| sums.as_ref()));
    let [given, owner] = [sums.given_cpu_seconds.0, sums.owner_cpu_seconds.0].map(cpu_time);
    let (watched, held) = (rough(sums.observed_seconds.0), rough(sums.held_back()));
    let ended: u64 = sums.ended().values().sum();
    let text = format!(
        "{given} of CPU in {ended} pilots; used by the owner {owner}, watched for {watched}, held back for {held}"
    );
    let mut lines = screen.row(&format!("{} days", days.len()), ink::PLAIN, &text);
    let by_day = days.iter().map(|(date, sums)| {
        let given = sums.as_ref().map(|sums| sums.given_cpu_seconds.0);
        let text = given.map_or("-".to_owned(), cpu_time);
        (
            date.strftime("%a %e %b").to_string(),
            given.unwrap_or(0.0),
            text,
        )
    });
    lines.extend(chart("CPU time given by day", by_day.collect(), screen));
    let ended = sums.ended().into_iter();
    let ended = ended.map(|(kind, count)| (word(kind), float(count), count.to_string()));
    lines.extend(chart("Pilots by end", sorted(ended), screen));
    let classes = sums.classes.iter().map(|(name, class)| {
        let (seconds, pilots) = (class.core_seconds.0, class.ended.values().sum::<u64>());
        let text = format!("{}, pilots: {pilots}", cpu_time(seconds));
        (clean_line(name, LONGEST_LABEL), seconds, text)
    });
    lines.extend(chart("Core time by class", sorted(classes), screen));
    let held = sums.held_back_seconds.iter();
    let held = held.map(|(code, time)| (word(code), time.0, rough(time.0)));
    lines.extend(chart("Held back by", sorted(held), screen));
    lines.join("\n") + "\n"
}

/// The largest first.
fn sorted(rows: impl Iterator<Item = Row>) -> Vec<Row> {
    let mut rows: Vec<Row> = rows.collect();
    rows.sort_by(|a, b| b.1.total_cmp(&a.1));
    rows
}

/// Label, bar, text; the longest bar is the largest value. Nothing without rows.
fn chart(title: &str, rows: Vec<Row>, screen: &Screen) -> Vec<String> {
    let Some(widest) = rows.iter().map(|row| row.2.chars().count()).max() else {
        return Vec::new();
    };
    let width = screen.width.saturating_sub(LONGEST_LABEL + widest + 4);
    let width = width.clamp(4, 50);
    let largest = rows
        .iter()
        .map(|row| row.1)
        .fold(f64::MIN_POSITIVE, f64::max);
    let mut lines = vec![String::new(), screen.paint(ink::STRONG, title)];
    for (label, value, text) in rows {
        // What is more than nothing shows.
        let filled = cells(value / largest, width).max(usize::from(value > 0.0));
        let bar = screen.paint(ink::GOOD, &"█".repeat(filled));
        let rest = " ".repeat(width - filled);
        lines.push(format!(
            "{label:<LONGEST_LABEL$}  {bar}{rest}  {text:>widest$}"
        ));
    }
    lines
}

/// `31.2 h`, and minutes where that would be little.
fn cpu_time(seconds: f64) -> String {
    match seconds / 3600.0 {
        hours if hours >= 0.95 => format!("{} h", number(hours)),
        _ => rough(seconds),
    }
}
#[cfg(test)]
mod tests;
