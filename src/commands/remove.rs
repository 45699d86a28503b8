//! Commands that change the engine without the loop: `kill`, `reap`, `purge`, and `force-stop` where no daemon does it.

use super::{Place, complain, fail, run, say, wait_until};
use crate::act::{group, handed};
use crate::cli::Exit;
use crate::clock;
use crate::config::Config;
use crate::decide::{Pilot, PilotState};
use crate::engine::{Engine, Error, Outcome};
use crate::observe::{facts::read_facts, read_pilot};
use crate::state::{self, control};
use crate::units::count_pilots;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a pilot has between SIGTERM and SIGKILL.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Grace {
    /// What it was started with.
    Own,
    None,
}

/// What is removed when an engine is slow must not take for ever: packages wait for it.
const LONGEST: Duration = Duration::from_secs(60);
/// Nothing more is begun after this time.
const TIME_LIMIT: Duration = Duration::from_secs(120);

pub fn kill(place: &Place, wanted: &str) -> Exit {
    let (engine, pilot) = match find(place, wanted) {
        Ok(found) => found,
        Err(exit) => return exit,
    };
    match engine.kill(&pilot.id, "KILL") {
        Ok(_) => {
            say(&format!("{} was killed\n", pilot.name));
            Exit::Done
        }
        Err(error) => fail(Exit::Failed, error),
    }
}

/// One pilot of ours, by name or the beginning of its id.
pub fn find(place: &Place, wanted: &str) -> Result<(Arc<Engine>, Pilot), Exit> {
    let (engine, instance, pilots) = look(place)?;
    let named = |pilot: &Pilot| {
        pilot.name == wanted || (wanted.len() >= 4 && pilot.id.as_str().starts_with(wanted))
    };
    let mut found = pilots.into_iter().filter(|pilot| pilot.own && named(pilot));
    match (found.next(), found.count()) {
        (Some(pilot), 0) => Ok((engine, pilot)),
        (Some(_), more) => Err(fail(
            Exit::Usage,
            format!(
                "'{wanted}' fits {}; write more of it",
                count_pilots(more + 1)
            ),
        )),
        (None, _) => Err(fail(
            Exit::Failed,
            format!("'{wanted}' is no pilot of '{instance}'; `plancton status` lists them"),
        )),
    }
}

/// Ends what is past its ttl, for the times when no daemon does. A ttl is a promise to the machine's owner, so that root
/// keeps it for every instance: a user's daemon may have died with their session.
pub fn reap(place: &Place) -> Exit {
    let (engine, _, pilots) = match look(place) {
        Ok(found) => found,
        Err(exit) => return exit,
    };
    let now = clock::now();
    let over = pilots
        .into_iter()
        .filter(|pilot| speaks_for(place, pilot) && pilot.expiry.is_over(now))
        .collect();
    finish(
        remove_pilots(&engine, &place.dirs.run, over, Grace::Own),
        "past their ttl",
    )
}

/// Every pilot of this instance.
pub fn remove_own(place: &Place, grace: Grace) -> Exit {
    let (engine, instance) = match connect(place) {
        Ok(found) => found,
        Err(exit) => return exit,
    };
    match list(&engine, &instance) {
        Ok(pilots) => {
            let own = pilots.into_iter().filter(|pilot| pilot.own).collect();
            finish(
                remove_pilots(&engine, &place.dirs.run, own, grace),
                "of this instance",
            )
        }
        Err(error) => fail(
            Exit::EngineUnavailable,
            format!("{error}; no pilot was removed"),
        ),
    }
}

fn finish(left: Removed, which: &str) -> Exit {
    say(&format!(
        "removed: {} {which}\n",
        count_pilots(left.removed)
    ));
    if left.problems.is_empty() {
        return Exit::Done;
    }
    fail(Exit::Failed, left.problems.join("\nplancton: "))
}

/// With its own directories an instance speaks for itself alone; the machine's daemon for the machine.
fn speaks_for(place: &Place, pilot: &Pilot) -> bool {
    pilot.own || (place.is_root && place.dirs.scope == state::Scope::Machine)
}

/// What a purge leaves of our own directories.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    Nothing,
    /// Drains and logs, for packages that are removed and may come back.
    State,
}

/// Everything that Plancton made: pilots (as root of every instance), images it brought, groups, its own files.
pub fn purge(place: &Place, dry_run: bool, keep: Keep) -> Exit {
    if dry_run {
        return show_purge(place, keep);
    }
    if run::is_running(&place.dirs.run) && control::request_force_stop(&place.dirs.state).is_ok() {
        wait_until(Duration::from_secs(10), || {
            !run::is_running(&place.dirs.run)
        });
    }
    let exit = purge_quietly(place, keep);
    if exit == Exit::Done {
        say("nothing of Plancton's is left on the engine or in its directories\n");
    } else {
        let images = state::read_images(&place.dirs.state).unwrap_or_default();
        let images = if images.is_empty() {
            String::new()
        } else {
            format!(", `docker rmi {}`", images.join(" "))
        };
        complain(format!(
            "what is left: `docker ps -a --filter label=io.plancton.instance` and `docker rm -fv` of what it shows{images}; \
             run `plancton purge` again when the engine answers"
        ));
    }
    exit
}

/// The same where no daemon runs, with a word only about what could not be removed.
pub fn purge_quietly(place: &Place, keep: Keep) -> Exit {
    match connect(place).map(|(engine, instance)| purge_engine(&engine, &instance, place)) {
        Ok(Ok(problems)) if problems.is_empty() => {}
        Ok(Ok(problems)) => return fail(Exit::Failed, problems.join("\nplancton: ")),
        Ok(Err(error)) => {
            return fail(
                Exit::EngineUnavailable,
                format!("{error}; nothing was removed"),
            );
        }
        Err(exit) => return exit,
    }
    match remove_files(place, keep) {
        Ok(()) => Exit::Done,
        Err(error) => fail(Exit::Failed, error),
    }
}

fn show_purge(place: &Place, keep: Keep) -> Exit {
    let (engine, instance) = match connect(place) {
        Ok(found) => found,
        Err(exit) => return exit,
    };
    match list(&engine, &instance) {
        Ok(pilots) => {
            for pilot in pilots.iter().filter(|pilot| speaks_for(place, pilot)) {
                say(&format!("would remove the pilot {}\n", pilot.name));
            }
        }
        Err(error) => return fail(Exit::EngineUnavailable, error),
    }
    for image in state::read_images(&place.dirs.state).unwrap_or_default() {
        say(&format!("would remove the image {image}\n"));
    }
    for directory in directories(place, keep) {
        say(&format!("would remove {}\n", directory.display()));
    }
    Exit::Done
}

/// What could not be removed, one sentence each. Errors: the engine does not say what there is.
fn purge_engine(engine: &Engine, instance: &str, place: &Place) -> Result<Vec<String>, Error> {
    let start = Instant::now();
    let pilots = list(engine, instance)?;
    let ours = pilots
        .into_iter()
        .filter(|pilot| speaks_for(place, pilot))
        .collect();
    let mut problems = remove_pilots(engine, &place.dirs.run, ours, Grace::Own).problems;
    for image in state::read_images(&place.dirs.state).unwrap_or_default() {
        if start.elapsed() > TIME_LIMIT {
            problems.push(format!("{image}: not removed, the time for it is over"));
            continue;
        }
        match remove_image(engine, &image) {
            Ok(Outcome::Done | Outcome::Gone) => {
                if let Err(error) = state::remove_image(&place.dirs.state, &image) {
                    problems.push(error.to_string());
                }
            }
            Ok(Outcome::Busy(_)) => {
                log::info!("{image} is used by somebody else and stays")
            }
            Err(error) => problems.push(format!("{image}: {error}")),
        }
    }
    if let Ok(facts) = read_facts(engine, Path::new("/"), place.is_root)
        && let Some(layout) = facts.layout.filter(|_| facts.parent.is_ok())
    {
        group::remove(Path::new("/"), layout, Duration::from_secs(2));
    }
    Ok(problems)
}

/// An engine may take a moment to learn that the last container of an image is gone.
fn remove_image(engine: &Engine, image: &str) -> Result<Outcome, Error> {
    let mut result = engine.image_remove(image);
    wait_until(Duration::from_secs(1), || {
        let busy = matches!(result, Ok(Outcome::Busy(_)));
        if busy {
            result = engine.image_remove(image);
        }
        !busy
    });
    result
}

fn directories(place: &Place, keep: Keep) -> impl Iterator<Item = &Path> {
    let state = (keep == Keep::Nothing).then_some(place.dirs.state.as_path());
    std::iter::once(place.dirs.run.as_path()).chain(state)
}

/// With all that is in them.
fn remove_files(place: &Place, keep: Keep) -> std::io::Result<()> {
    for directory in directories(place, keep) {
        match std::fs::remove_dir_all(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The engine, the instance's name, and every Plancton pilot there is.
fn look(place: &Place) -> Result<(Arc<Engine>, String, Vec<Pilot>), Exit> {
    let (engine, instance) = connect(place)?;
    let pilots = list(&engine, &instance).map_err(|error| fail(Exit::EngineUnavailable, error))?;
    Ok((engine, instance, pilots))
}

fn connect(place: &Place) -> Result<(Arc<Engine>, String), Exit> {
    // A broken configuration must not keep anybody from removing things: then the usual places are tried.
    let config = place
        .config()
        .map_or_else(|_| Config::default(), |(config, _)| config);
    let engine = place.engine(&config)?;
    Ok((engine, place.instance(&config)))
}

fn list(engine: &Engine, instance: &str) -> Result<Vec<Pilot>, Error> {
    let boot_id = clock::boot_id(Path::new("/"));
    let listed = engine.list()?;
    Ok(listed
        .iter()
        .map(|listed| read_pilot(listed, instance, &boot_id))
        .collect())
}

#[derive(Default)]
struct Removed {
    removed: usize,
    problems: Vec<String>,
}

/// SIGTERM to all, then SIGKILL to each when its grace is over, then removal with volumes.
fn remove_pilots(engine: &Engine, run: &Path, pilots: Vec<Pilot>, grace: Grace) -> Removed {
    let start = Instant::now();
    let runs = |pilot: &Pilot| matches!(pilot.state, PilotState::Running | PilotState::Paused);
    if grace == Grace::Own {
        for pilot in pilots.iter().filter(|pilot| runs(pilot)) {
            let _ = engine.kill(&pilot.id, "TERM");
            if pilot.state == PilotState::Paused {
                let _ = engine.unpause(&pilot.id);
            }
        }
    }
    let mut done = Removed::default();
    for pilot in pilots {
        let seconds = if grace == Grace::Own && runs(&pilot) {
            pilot.grace
        } else {
            0.0
        };
        let wait = Duration::from_secs_f64(seconds)
            .min(LONGEST)
            .saturating_sub(start.elapsed());
        wait_until(
            wait,
            || !matches!(engine.inspect(&pilot.id), Ok(Some(seen)) if seen.state.running),
        );
        if start.elapsed() > TIME_LIMIT {
            done.problems.push(format!(
                "{}: not removed, the time for it is over",
                pilot.name
            ));
            continue;
        }
        if pilot.state == PilotState::Paused {
            let _ = engine.kill(&pilot.id, "KILL");
            let _ = engine.unpause(&pilot.id);
        }
        match engine.remove(&pilot.id) {
            Ok(Outcome::Done | Outcome::Gone) => {
                handed::take_back(run, &pilot.name);
                done.removed += 1;
            }
            Ok(Outcome::Busy(why)) => done.problems.push(format!("{}: {why}", pilot.name)),
            Err(error) => done.problems.push(format!("{}: {error}", pilot.name)),
        }
    }
    done
}
