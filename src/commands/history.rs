//! `history` and `report`: what this machine gave, from the record in the state directory.

use super::context::{Context, Done, Failure, complain, say};
use super::status::screen;
use super::view::{history as text, page};
use crate::clock;
use crate::record::{Hours, keep};
use std::path::{Path, PathBuf};

pub fn history(context: &Context) -> Done {
    let hours = read(context)?;
    let days = context.options.days.unwrap_or(14);
    let days = text::last_days(&hours, days, clock::now().epoch, &screen().zone);
    if context.options.json {
        return say(&(serde_json::to_string_pretty(&text::json(&days)).unwrap_or_default() + "\n"));
    }
    say(&text::render(&days, &screen()))
}

pub fn report(context: &Context) -> Done {
    let file = context.options.argument.clone();
    let file = file.map_or("plancton-report.html".into(), PathBuf::from);
    let (hours, now) = (read(context)?, clock::now().epoch);
    let page = page::render(&hours, &crate::host::name(), now, &screen().zone);
    if file == Path::new("-") {
        return say(&page);
    }
    std::fs::write(&file, page)
        .map_err(|error| format!("{}: {error}; name another file", file.display()))?;
    say(&format!(
        "{} is written; open it in a browser\n",
        file.display()
    ))
}

fn read(context: &Context) -> Result<Hours, Failure> {
    let (hours, bad) = keep::read(&context.addressed().state)?;
    if bad > 0 {
        complain(&format!("{bad} damaged lines of the record were left out"));
    }
    if hours.is_empty() {
        return Err(Failure::from(
            "nothing is recorded yet; the daemon writes down once a minute what it gives: `plancton start`",
        ));
    }
    Ok(hours)
}
