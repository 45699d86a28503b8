//! `pull`: looks for newer images now, through the daemon where one runs, else right here. `log`: what pilots said.

use super::context::{Context, Done, failed, is_running, say};
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
        return say(
            "the daemon looks for newer images now, unless a rule of the owner's holds pilots back\n\
             `plancton status` shows a pull under way\n",
        );
    }
    let config = context.config()?;
    let engine = context.engine(&config)?;
    context.prepare()?;
    let site = context.site(engine, &config)?;
    let mut problems = Vec::new();
    let classes = config.pilots.iter().filter(|class| class.is_refreshable());
    for class in classes.clone() {
        match images::fetch(&site, &config, class) {
            Ok(()) => say(&format!("{} is here\n", class.image))?,
            Err(why) => problems.push(format!("{}: {why}", class.image)),
        }
    }
    if classes.count() == 0 {
        say("no class has an image that is pulled by a tag\n")?;
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(failed(problems.join("\n"))),
    }
}

/// The last words of one pilot, or of the one that failed last.
pub fn log(context: &Context) -> Done {
    let wanted = context
        .options
        .argument
        .as_ref()
        .map(|word| word.to_string_lossy());
    let status = state::read_status(&context.addressed().run).ok().flatten();
    let finished = status
        .unwrap_or_default()
        .gone
        .into_iter()
        .find(|finished| match &wanted {
            Some(wanted) => finished.name == *wanted,
            None => !finished.kind.is_well(),
        });
    let words = match (finished, wanted) {
        (Some(finished), _) => {
            let (kind, code) = (finished.kind.name(), finished.exit_code);
            let (name, lived) = (&finished.name, finished.lived);
            say(&format!(
                "{name}: {kind} after {lived:.0} s, exit code {code}\n"
            ))?;
            finished.log_tail
        }
        (None, Some(wanted)) => {
            let (engine, pilot) = remove::find(context, &wanted)?;
            let words = engine.logs(&pilot.id, LOG.0, LOG.1)?;
            String::from_utf8_lossy(&words).into_owned()
        }
        (None, None) => {
            return say(
                "no pilot has failed since the daemon started, as far as it remembers (the last 20)\n",
            );
        }
    };
    let words = clean_text(&words, LOG.1);
    match words.trim_end() {
        "" => say("(it left no words that were kept)\n"),
        words => say(&format!("{words}\n")),
    }
}
