//! Commands that change the engine without the loop: `kill`, `reap`, `purge`, and `force-stop` where no daemon does it.
//! Only pilots are touched, and other instances' only by root where the machine's owner was promised an end.

use super::context::{Context, Done, Failure, complain, failed, is_running, say, wait_until};
use crate::act::{files, group};
use crate::clock;
use crate::decide::{Pilot, PilotState};
use crate::engine::{Engine, Outcome};
use crate::observe::{facts::read_facts, read_pilot};
use crate::state::{self, Scope, control};
use crate::units::{Exit, count_pilots};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a pilot has between SIGTERM and SIGKILL.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Grace {
    /// What it was started with.
    Own,
    None,
}

/// What is removed when an engine is slow must not take for ever, packages wait for it: so long is waited for a grace …
const LONGEST: Duration = Duration::from_secs(60);
/// … and nothing more is begun after this time.
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// How long a daemon has for ending before its pilots are removed, and a group for getting empty.
const PATIENCE: Duration = Duration::from_secs(10);
const GROUP_PATIENCE: Duration = Duration::from_secs(2);

/// The engine with every Plancton pilot there is.
struct Found {
    engine: Arc<Engine>,
    instance: String,
    pilots: Vec<Pilot>,
}

fn find_all(context: &Context) -> Result<Found, Failure> {
    // A broken configuration must not keep anybody from removing things: then the usual places are tried.
    let config = context.config().unwrap_or_else(|failure| {
        complain(&failure.text);
        crate::config::Config::default()
    });
    let (engine, instance) = (context.engine(&config)?, context.instance(&config));
    let boot_id = clock::boot_id(Path::new("/"));
    let pilots = engine.list()?;
    let pilots = pilots
        .iter()
        .map(|listed| read_pilot(listed, &instance, &boot_id));
    let pilots = pilots.collect();
    Ok(Found {
        engine,
        instance,
        pilots,
    })
}

/// One pilot of ours, by name or the beginning of its id.
pub fn find(context: &Context, wanted: &str) -> Result<(Arc<Engine>, Pilot), Failure> {
    let Found {
        engine,
        instance,
        mut pilots,
    } = find_all(context)?;
    let is_begin = |pilot: &Pilot| wanted.len() >= 4 && pilot.id.as_str().starts_with(wanted);
    pilots.retain(|pilot| pilot.own && (pilot.name == wanted || is_begin(pilot)));
    match (pilots.pop(), pilots.len()) {
        (Some(pilot), 0) => Ok((engine, pilot)),
        (Some(_), more) => Err(Failure::new(
            Exit::Usage,
            format!(
                "'{wanted}' fits {}; write more of it",
                count_pilots(more + 1)
            ),
        )),
        (None, _) => Err(failed(format!(
            "'{wanted}' is no pilot of '{instance}'; `plancton status` lists them"
        ))),
    }
}

pub fn kill(context: &Context) -> Done {
    let wanted = context.options.argument.clone().unwrap_or_default();
    let (engine, pilot) = find(context, &wanted.to_string_lossy())?;
    engine.kill(&pilot.id, "KILL").map_err(failed)?;
    say(&format!("{} was killed\n", pilot.name))
}

/// Ends what is past its ttl, for the times when no daemon does. A ttl is a promise to the machine's owner, so that root
/// keeps it for every instance: a user's daemon may have died with their session.
pub fn reap(context: &Context) -> Done {
    let mut found = find_all(context)?;
    let now = clock::now();
    found
        .pilots
        .retain(|pilot| speaks_for(context, pilot) && pilot.expiry.is_over(now));
    end_with(remove_pilots(context, found, Grace::Own), "past their ttl")
}

/// Every pilot of this instance, at once.
pub fn remove_own(context: &Context) -> Done {
    let mut found = find_all(context)?;
    found.pilots.retain(|pilot| pilot.own);
    end_with(
        remove_pilots(context, found, Grace::None),
        "of this instance",
    )
}

fn end_with((removed, problems): (usize, Vec<String>), which: &str) -> Done {
    say(&format!("removed: {} {which}\n", count_pilots(removed)))?;
    all_well(problems)
}

fn all_well(problems: Vec<String>) -> Done {
    match problems.is_empty() {
        true => Ok(()),
        false => Err(failed(problems.join("\n"))),
    }
}

/// With its own directories an instance speaks for itself alone; the machine's daemon for the machine.
fn speaks_for(context: &Context, pilot: &Pilot) -> bool {
    pilot.own || (context.is_root && context.dirs.scope == Scope::Machine)
}

/// Everything that Plancton made: pilots (as root of every instance), images it brought, groups, its own files.
pub fn purge(context: &Context) -> Done {
    if context.options.dry_run {
        return show_purge(context);
    }
    let dirs = &context.dirs;
    if is_running(&dirs.run) && control::request_force_stop(&dirs.state).is_ok() {
        wait_until(PATIENCE, || !is_running(&dirs.run));
    }
    match purge_everything(context) {
        Ok(()) => say("nothing of Plancton's is left on the engine or in its directories\n"),
        Err(failure) => {
            complain(&failure.text);
            let images = state::read_images(&dirs.state).unwrap_or_default();
            let images = match images.is_empty() {
                true => String::new(),
                false => format!(", `docker rmi {}`", images.join(" ")),
            };
            let text = format!(
                "what is left: `docker ps -a --filter label=io.plancton.instance` and `docker rm -fv` of what it shows{images}; \
                 run `plancton purge` again when the engine answers"
            );
            Err(Failure::new(failure.exit, text))
        }
    }
}

/// The same where no daemon runs, with a word only about what could not be removed.
pub fn purge_everything(context: &Context) -> Done {
    let mut found = find_all(context)?;
    let (start, engine) = (Instant::now(), Arc::clone(&found.engine));
    found.pilots.retain(|pilot| speaks_for(context, pilot));
    let (_, mut problems) = remove_pilots(context, found, Grace::Own);
    for image in state::read_images(&context.dirs.state).unwrap_or_default() {
        let removed = match start.elapsed() > TIME_LIMIT {
            true => Err("not removed, the time for it is over".to_owned()),
            false => remove_image(context, &engine, &image),
        };
        problems.extend(removed.err().map(|why| format!("{image}: {why}")));
    }
    if let Ok(facts) = read_facts(&engine, Path::new("/"), context.is_root)
        && let Some(layout) = facts.layout.filter(|_| facts.parent.is_ok())
    {
        group::remove(Path::new("/"), layout, GROUP_PATIENCE);
    }
    all_well(problems)?;
    for directory in purged_directories(context) {
        match std::fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(failed(format!("{}: {error}", directory.display())));
            }
            _ => {}
        }
    }
    Ok(())
}

fn show_purge(context: &Context) -> Done {
    let found = find_all(context)?;
    let pilots = found
        .pilots
        .iter()
        .filter(|pilot| speaks_for(context, pilot));
    let pilots = pilots.map(|pilot| format!("the pilot {}", pilot.name));
    let images = state::read_images(&context.dirs.state).unwrap_or_default();
    let images = images.iter().map(|image| format!("the image {image}"));
    let directories = purged_directories(context).map(|path| path.display().to_string());
    for what in pilots.chain(images).chain(directories) {
        say(&format!("would remove {what}\n"))?;
    }
    Ok(())
}

/// With --keep-state drains and logs stay, for packages that may come back.
fn purged_directories(context: &Context) -> impl Iterator<Item = PathBuf> {
    let state = (!context.options.keep_state).then(|| context.dirs.state.clone());
    std::iter::once(context.dirs.run.clone()).chain(state)
}

/// An engine may take a moment to learn that the last container of an image is gone.
fn remove_image(context: &Context, engine: &Engine, image: &str) -> Result<(), String> {
    let mut removed = engine.image_remove(image);
    wait_until(Duration::from_secs(1), || {
        let is_busy = matches!(removed, Ok(Outcome::Busy(_)));
        if is_busy {
            removed = engine.image_remove(image);
        }
        !is_busy
    });
    match removed.map_err(|error| error.to_string())? {
        Outcome::Done | Outcome::Gone => {
            state::remove_image(&context.dirs.state, image).map_err(|error| error.to_string())
        }
        Outcome::Busy(_) => {
            log::info!("{image} is used by somebody else and stays");
            Ok(())
        }
    }
}

/// SIGTERM to all, then SIGKILL to each when its grace is over, then removal with volumes. How many were removed, and what
/// could not be.
fn remove_pilots(context: &Context, found: Found, grace: Grace) -> (usize, Vec<String>) {
    let (start, engine) = (Instant::now(), found.engine);
    let has_grace = |pilot: &Pilot| {
        grace == Grace::Own && matches!(pilot.state, PilotState::Running | PilotState::Paused)
    };
    for pilot in found.pilots.iter().filter(|pilot| has_grace(pilot)) {
        let _ = engine.kill(&pilot.id, "TERM");
        if pilot.state == PilotState::Paused {
            let _ = engine.unpause(&pilot.id);
        }
    }
    let (mut removed, mut problems) = (0, Vec::new());
    for pilot in found.pilots {
        if has_grace(&pilot) {
            let grace = Duration::from_secs_f64(pilot.grace).min(LONGEST);
            wait_until(
                grace.saturating_sub(start.elapsed()),
                || !matches!(engine.inspect(&pilot.id), Ok(Some(seen)) if seen.state.running),
            );
        }
        if pilot.state == PilotState::Paused {
            let _ = engine.kill(&pilot.id, "KILL");
            let _ = engine.unpause(&pilot.id);
        }
        let why = match start.elapsed() > TIME_LIMIT {
            true => Some("not removed, the time for it is over".to_owned()),
            false => match engine.remove(&pilot.id) {
                Ok(Outcome::Done | Outcome::Gone) => None,
                Ok(Outcome::Busy(why)) => Some(why),
                Err(error) => Some(error.to_string()),
            },
        };
        match why {
            Some(why) => problems.push(format!("{}: {why}", pilot.name)),
            None => {
                files::take_back(&context.dirs.run, &pilot.name);
                removed += 1;
            }
        }
    }
    (removed, problems)
}
