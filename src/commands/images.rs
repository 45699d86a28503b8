//! `pull`: looks for newer images now, through the daemon where one runs, else right here. `log`: what pilots said.

use super::context::{Context, Done, all_well, is_running, no_engine, say};
use super::remove;
use crate::act::images;
use crate::state::{self, control};
use crate::units::clean_text;

/// Lines and bytes that are shown of a pilot that is still there.
const LOG: (usize, usize) = (200, 256 << 10);

pub fn pull(context: &Context) -> Done {
    let dirs = context.addressed();
    if is_running(&dirs.run) {
        control::request_pull(&dirs.state)?;
        say(
            "the daemon looks for newer images now, unless a rule of the owner's holds pilots back\n",
        )?;
        return say("`plancton status` shows a pull under way\n");
    }
    let config = context.config()?;
    let engine = context.engine(&config)?;
    context.prepare()?;
    let site = context.site(engine, &config)?;
    let mut problems = Vec::new();
    for class in config.pilots.iter().filter(|class| class.is_refreshable()) {
        match images::fetch(&site, &config, class) {
            Ok(()) => say(&format!("{} is here\n", class.image))?,
            Err(why) => problems.push(format!("{}: {why}", class.image)),
        }
    }
    all_well(&problems)
}

/// The last words of one pilot, or of the one that failed last.
pub fn log(context: &Context) -> Done {
    let wanted = context.argument();
    let status = state::read_status(&context.addressed().run).ok().flatten();
    let mut finished = status.unwrap_or_default().gone.into_iter();
    let finished = finished.find(|finished| match &wanted {
        Some(wanted) => finished.name == *wanted,
        None => !finished.kind.is_well(),
    });
    let words = if let Some(finished) = finished {
        let (name, kind) = (finished.name, finished.kind.name());
        let (lived, code) = (finished.lived, finished.exit_code);
        say(&format!(
            "{name}: {kind} after {lived:.0} s, exit code {code}\n"
        ))?;
        finished.log_tail
    } else if let Some(wanted) = wanted {
        let (engine, pilot) = remove::find(context, &wanted)?;
        let words = engine.logs(&pilot.id, LOG.0, LOG.1).map_err(no_engine)?;
        String::from_utf8_lossy(&words).into_owned()
    } else {
        return say("no pilot has failed since the daemon started, as far as it remembers\n");
    };
    let words = clean_text(&words, LOG.1);
    match words.trim_end() {
        "" => say("(it left no words that were kept)\n"),
        words => say(&format!("{words}\n")),
    }
}
