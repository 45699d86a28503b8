//! `history` and `report`: what this machine gave, by day, as text with small bars, as JSON, and as a page that draws
//! itself from that JSON.

use super::view::{GOOD, Page, number, rough};
use super::{Context, Done, Failure, complain, say};
use crate::history::{self, Hours, Sums, by_day, day_name, local, total};
use crate::state::{self, Durable};
use crate::units::{clean_line, count_pilots, float, whole, word};
use jiff::ToSpan;
use jiff::civil::Date;
use serde_json::{Value, json};

/// Each day, the oldest first; empty: nothing is known of it.
type Days = Vec<(Date, Sums)>;

/// History goes back no further.
const MOST_DAYS: u64 = 396;
/// So much is drawn hour by hour on the page.
const PAGE_HOURS: u64 = 14 * 24;
const LONGEST_LABEL: usize = 18;

pub fn history(context: &Context) -> Done {
    let (hours, page) = (read(context)?, Page::of_terminal());
    let days = context.options.number("days").unwrap_or(14);
    let days = last_days(&hours, days, &page);
    match context.options.has("json") {
        true => say(&(serde_json::to_string_pretty(&json_of(&days))? + "\n")),
        false => say(&render(&days, page)),
    }
}

pub fn report(context: &Context) -> Done {
    let file = context.options.path("FILE");
    let file = file.unwrap_or("plancton-report.html".into());
    let page = html(&read(context)?, &crate::host::name(), &Page::of_terminal());
    if file.as_os_str() == "-" {
        return say(&page);
    }
    let shown = file.display();
    // Whole or not at all, but a terminal or a pipe is no file to replace.
    let written = match file.is_file() || !file.exists() {
        true => state::write_file(&file, page.as_bytes(), 0o644, Durable::No),
        false => std::fs::write(&file, page),
    };
    written.map_err(|error| format!("{shown}: {error}; name another file"))?;
    say(&format!("{shown} is written; open it in a browser\n"))
}

fn read(context: &Context) -> Result<Hours, Failure> {
    let (hours, bad) = history::read(&context.addressed().state)?;
    if bad > 0 {
        complain(&format!("damaged lines of the history, left out: {bad}"));
    }
    let none = "there is no history yet; the daemon writes it every ten minutes: `plancton start`";
    let hours = Some(hours).filter(|hours| !hours.is_empty());
    hours.ok_or(none.into())
}

/// Back from today.
fn last_days(hours: &Hours, days: u64, page: &Page) -> Days {
    let mut known = by_day(hours, &page.zone);
    let today = local(whole(page.now.epoch), &page.zone).date();
    let back = (0..days.clamp(1, MOST_DAYS).cast_signed()).rev();
    let dates = back.filter_map(|back| today.checked_sub(back.days()).ok());
    let day = |date| (date, known.remove(&date).unwrap_or_default());
    dates.map(day).collect()
}

fn json_of(days: &Days) -> Value {
    let known = days.iter().filter(|(_, sums)| *sums != Sums::default());
    let known = known.map(|(date, sums)| json!({"date": date.to_string(), "sums": sums}));
    let total = total(days.iter().map(|(_, sums)| sums));
    json!({"days": known.collect::<Vec<_>>(), "total": total})
}

/// A file of its own: style, script and data are in it. The hours are those of the clock on the wall, whatever the clock
/// of the reader says.
fn html(hours: &Hours, host: &str, page: &Page) -> String {
    let time = |hour: u64| {
        let hour = local(hour * 3600, &page.zone);
        format!("{}T{:02}:{:02}", hour.date(), hour.hour(), hour.minute())
    };
    let this = whole(page.now.epoch / 3600.0).min(history::HOURS.end);
    let last = hours.range(this.saturating_sub(PAGE_HOURS)..);
    let last = last.map(|(hour, sums)| json!({"time": time(*hour), "sums": sums}));
    let data = json!({
        "host": clean_line(host, 64),
        "version": env!("CARGO_PKG_VERSION"),
        "now": time(this),
        "history": json_of(&last_days(hours, MOST_DAYS, page)),
        "hours": last.collect::<Vec<_>>(),
    });
    // The one place where anything is escaped: no text can end the element that it stands in, and the script sets texts only.
    let data = data.to_string().replace('<', "\\u003c");
    include_str!("page.html").replacen("DATA", &data, 1)
}

fn render(days: &Days, mut page: Page) -> String {
    let sums = total(days.iter().map(|(_, sums)| sums));
    let [given, owner] = [sums.given_cpu_seconds.0, sums.owner_cpu_seconds.0].map(cpu_time);
    let [watched, held] = [sums.observed_seconds.0, sums.held_back()].map(rough);
    let ended: u64 = sums.ended().values().sum();
    let pilots = count_pilots(usize::try_from(ended).unwrap_or(usize::MAX));
    let text = format!("{given} of CPU time in {pilots}; the owner used {owner}");
    let text = format!("{text}; watched for {watched}, held back for {held}");
    page.row("Together", text);
    let by_day = days.iter().map(|(date, sums)| {
        let (given, date) = (sums.given_cpu_seconds.0, day_name(*date));
        (date, given, cpu_time(given))
    });
    chart("CPU time given by day", by_day.collect(), &mut page);
    let ended = sums.ended().into_iter();
    let ended = ended.map(|(kind, count)| (word(kind), float(count), count.to_string()));
    chart("Pilots by end", sorted(ended), &mut page);
    let classes = sums.classes.iter().map(|(name, class)| {
        let (seconds, pilots) = (class.core_seconds.0, class.ended.values().sum::<u64>());
        let text = format!("{}, pilots: {pilots}", cpu_time(seconds));
        (clean_line(name, LONGEST_LABEL), seconds, text)
    });
    chart("Core time by class", sorted(classes), &mut page);
    let held = sums.held_back_seconds.iter();
    let held = held.map(|(code, time)| (word(code), time.0, rough(time.0)));
    chart("Held back by", sorted(held), &mut page);
    page.text()
}

/// What it is, how much, and how that is said.
type Row = (String, f64, String);

/// The largest first.
fn sorted(rows: impl Iterator<Item = Row>) -> Vec<Row> {
    let mut rows: Vec<Row> = rows.collect();
    rows.sort_by(|a, b| b.1.total_cmp(&a.1));
    rows
}

/// Label, bar, text; the longest bar is the largest value, and what is more than nothing shows. Nothing without rows.
fn chart(title: &str, rows: Vec<Row>, page: &mut Page) {
    let widths = rows.iter().map(|row| row.2.chars().count());
    let Some(widest) = widths.max() else { return };
    page.title(title);
    let width = page.width.saturating_sub(LONGEST_LABEL + widest + 4);
    let width = width.clamp(4, 50);
    let values = rows.iter().map(|row| row.1);
    let largest = values.fold(f64::MIN_POSITIVE, f64::max);
    for (label, value, text) in rows {
        let least = largest / float(width as u64) * f64::from(u8::from(value > 0.0));
        let bar = page.bar(&[("█", GOOD, value.max(least))], largest, width);
        let line = format!("{label:<LONGEST_LABEL$}  {bar}  {text:>widest$}");
        page.lines.push(line);
    }
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
