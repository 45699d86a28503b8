//! `history` and `report`: what this machine gave, from the record in the state directory.

use super::view::{history as text, page};
use super::{Place, complain, fail, say, screen};
use crate::cli::Exit;
use crate::clock;
use crate::record::{Hours, keep};
use std::path::Path;

pub fn history(place: &Place, days: u64, json: bool, csv: bool) -> Exit {
    let show = |hours: Hours| {
        let days = text::last_days(&hours, days, clock::now().epoch, &screen().zone);
        say(&match () {
            () if json => {
                serde_json::to_string_pretty(&text::json(&days)).unwrap_or_default() + "\n"
            }
            () if csv => text::csv(&days),
            () => text::render(&days, &screen()),
        });
        Exit::Done
    };
    read(place).map_or_else(|exit| exit, show)
}

pub fn report(place: &Place, file: &Path) -> Exit {
    let page = match read(place) {
        Ok(hours) => page::render(
            &hours,
            &crate::host::name(),
            clock::now().epoch,
            &screen().zone,
        ),
        Err(exit) => return exit,
    };
    if file == Path::new("-") {
        say(&page);
        return Exit::Done;
    }
    if let Err(error) = std::fs::write(file, page) {
        return fail(
            Exit::Failed,
            format!("{}: {error}; name another file", file.display()),
        );
    }
    say(&format!(
        "{} is written; open it in a browser\n",
        file.display()
    ));
    Exit::Done
}

fn read(place: &Place) -> Result<Hours, Exit> {
    let (hours, bad) =
        keep::read(&place.addressed().state).map_err(|error| fail(Exit::Failed, error))?;
    if bad > 0 {
        complain(format!("{bad} damaged lines of the record were left out"));
    }
    if hours.is_empty() {
        let text = "nothing is recorded yet; the daemon writes down once a minute what it gives: `plancton start`";
        return Err(fail(Exit::Failed, text));
    }
    Ok(hours)
}
