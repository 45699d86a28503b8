//! `pull`: looks for newer images now, through the daemon where one runs, else right here. `log`: what failed pilots said.

use super::{Place, fail, remove, run, say};
use crate::act::{Caller, builtin};
use crate::cli::Exit;
use crate::clock;
use crate::config::PilotClass;
use crate::report::Finished;
use crate::state::{self, control};
use std::sync::Arc;

/// Lines and bytes that are shown of a pilot that is still there.
const LOG: (usize, usize) = (200, 256 << 10);

pub fn pull(place: &Place) -> Exit {
    let dirs = place.addressed();
    if run::is_running(&dirs.run) {
        return match control::request_pull(&dirs.state) {
            Ok(()) => {
                say(
                    "the daemon looks for newer images now, unless a rule of the owner's holds pilots back\n\
                     `plancton status` shows a pull under way\n",
                );
                Exit::Done
            }
            Err(error) => fail(Exit::Failed, error),
        };
    }
    match pull_here(place) {
        Ok(exit) | Err(exit) => exit,
    }
}

fn pull_here(place: &Place) -> Result<Exit, Exit> {
    let (config, _) = place.config()?;
    let engine = place.engine(&config)?;
    place
        .dirs
        .prepare(std::path::Path::new("/etc/group"))
        .map_err(|error| fail(Exit::Failed, error))?;
    let builtin_tag = builtin::tag().map_err(|error| fail(Exit::Failed, error))?;
    let (state, pulling) = (place.dirs.state.clone(), Arc::default());
    let hands = Caller {
        engine: Arc::clone(&engine),
        state,
        pulling,
        dry_run: false,
        builtin_tag,
    };
    let mut exit = Exit::Done;
    let classes: Vec<&PilotClass> = config
        .pilots
        .iter()
        .filter(|class| class.is_refreshable())
        .collect();
    if classes.is_empty() {
        say("no class has an image that is pulled by a tag\n");
    }
    for class in classes {
        let fetch = hands.fetch(
            class,
            &config.pilots,
            config.share.pull_per_day.0,
            clock::now().epoch,
        );
        match fetch.run(&engine, class) {
            Ok(()) => say(&format!("{} is here\n", class.image)),
            Err(why) => exit = fail(Exit::Failed, format!("{}: {why}", class.image)),
        }
    }
    Ok(exit)
}

/// The last words of one pilot, or of the one that failed last.
pub fn log(place: &Place, wanted: Option<&str>) -> Exit {
    let status = state::read_status(&place.addressed().run)
        .ok()
        .flatten()
        .unwrap_or_default();
    let is_wanted =
        |gone: &&Finished| wanted.map_or(!gone.kind.is_well(), |wanted| gone.name == wanted);
    if let Some(gone) = status.gone.iter().find(is_wanted) {
        let (kind, lived, code) = (gone.kind.name(), gone.lived, gone.exit_code);
        say(&format!(
            "{}: {kind} after {lived:.0} s, exit code {code}\n",
            gone.name
        ));
        let words = crate::units::clean_text(&gone.log_tail, usize::MAX);
        say(if words.is_empty() {
            "(it left no words that were kept)\n"
        } else {
            &words
        });
        say(if words.is_empty() || words.ends_with('\n') {
            ""
        } else {
            "\n"
        });
        return Exit::Done;
    }
    match wanted {
        None => {
            say(
                "no pilot has failed since the daemon started, as far as it remembers (the last 20)\n",
            );
            Exit::Done
        }
        Some(wanted) => log_of_running(place, wanted),
    }
}

fn log_of_running(place: &Place, wanted: &str) -> Exit {
    let (engine, pilot) = match remove::find(place, wanted) {
        Ok(found) => found,
        Err(exit) => return exit,
    };
    match engine.logs(&pilot.id, LOG.0, LOG.1) {
        Ok(words) => {
            say(&String::from_utf8_lossy(&words));
            Exit::Done
        }
        Err(error) => fail(Exit::EngineUnavailable, error),
    }
}
