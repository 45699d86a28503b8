//! `history` and `report`: what this machine gave, by day, as a table, as JSON, and as a page that draws itself from that
//! JSON.

use super::*;
use crate::decide::EndKind;
use crate::history::{self, Hours, Seconds, Sums, by_day, local, total};
use jiff::ToSpan;
use jiff::civil::Date;
use serde_json::{Value, json};

/// Each day, the oldest first; empty: nothing is known of it.
type Days = Vec<(Date, Sums)>;

/// History goes back no further.
const MOST_DAYS: u64 = 396;

pub fn history(context: &Context) -> Done {
    let days = context.options.number("days").unwrap_or(14);
    let days = last_days(&read(context)?, days, &Zoned::now());
    match context.options.has("json") {
        true => say(&(serde_json::to_string_pretty(&json_of(&days))? + "\n")),
        false => say(&table(&days)),
    }
}

pub fn report(context: &Context) -> Done {
    let file = context.options.path("FILE");
    let file = file.unwrap_or("plancton-report.html".into());
    let page = html(&read(context)?, &host::name(), &Zoned::now());
    if file.as_os_str() == "-" {
        return say(&page);
    }
    let shown = file.display();
    // Whole or not at all, but a terminal or a pipe is no file to replace.
    let written = match file.is_file() || !file.exists() {
        true => state::write_file(&file, page.as_bytes(), 0o644, Durable::No),
        false => fs::write(&file, page),
    };
    written.map_err(|error| format!("{shown}: {error}; name another file"))?;
    say(&format!("{shown} is written; open it in a browser\n"))
}

fn read(context: &Context) -> Result<Hours, Failure> {
    let (hours, bad) = history::read(&context.addressed().state)?;
    if bad > 0 {
        complain(&format!("damaged lines of the history, left out: {bad}"));
    }
    let none = "there is no history yet; a running daemon writes it every ten minutes";
    let hours = Some(hours).filter(|hours| !hours.is_empty());
    hours.ok_or(none.into())
}

/// Back from today.
fn last_days(hours: &Hours, days: u64, now: &Zoned) -> Days {
    let mut known = by_day(hours, now.time_zone());
    let back = (0..days.clamp(1, MOST_DAYS).cast_signed()).rev();
    let dates = back.filter_map(|back| now.date().checked_sub(back.days()).ok());
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
fn html(hours: &Hours, host: &str, now: &Zoned) -> String {
    let time = |hour: u64| {
        let hour = local(hour * 3600, now.time_zone());
        format!("{}T{:02}:{:02}", hour.date(), hour.hour(), hour.minute())
    };
    let this = u64::try_from(now.timestamp().as_second()).unwrap_or(0) / 3600;
    // Two weeks are drawn hour by hour.
    let last = hours.range(this.saturating_sub(14 * 24)..);
    let last = last.map(|(hour, sums)| json!({"time": time(*hour), "sums": sums}));
    let data = json!({
        "host": clean_line(host, 64),
        "version": env!("CARGO_PKG_VERSION"),
        "now": time(this),
        "history": json_of(&last_days(hours, MOST_DAYS, now)),
        "hours": last.collect::<Vec<_>>(),
    });
    // The one place where anything is escaped: no text can end the element that it stands in, and the script sets texts only.
    let data = data.to_string().replace('<', "\\u003c");
    include_str!("page.html").replacen("DATA", &data, 1)
}

/// A line a day, and one for all of them; of what held pilots back, what did so longest.
fn table(days: &Days) -> String {
    let all = total(days.iter().map(|(_, sums)| sums));
    let mut text = "DAY         CPU HOURS   OWNER    DONE  FAILED  HELD BACK\n".to_owned();
    let days = days.iter().map(|(date, sums)| (date.to_string(), sums));
    for (day, sums) in days.chain([("Together".to_owned(), &all)]) {
        let hours = |time: Seconds| number(time.0 / 3600.0);
        let [given, owner] = [sums.given_cpu_seconds, sums.owner_cpu_seconds].map(hours);
        let ended = sums.ended();
        let done = ended.get(&EndKind::Done).unwrap_or(&0);
        let failed = ended.iter().filter(|(kind, _)| !kind.is_well());
        let failed: u64 = failed.map(|(_, count)| count).sum();
        let longest = sums.held_back_seconds.iter();
        let longest = longest.max_by(|a, b| a.1.0.total_cmp(&b.1.0));
        let held = longest.map(|(code, time)| format!("{} {}", rough(time.0), word(code)));
        let line = format!("{day:<10} {given:>10} {owner:>7} {done:>7} {failed:>7}  ");
        text += (line + &held.unwrap_or_default()).trim_end();
        text += "\n";
    }
    text
}

#[cfg(test)]
mod tests;
