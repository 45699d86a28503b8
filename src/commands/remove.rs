//! Commands that change the engine without the loop: `kill`, `reap`, `purge`, and `force-stop` where no daemon does it.
//! Only pilots are touched, and other instances' only by root where the machine's owner was promised an end.

use super::context::{Context, Done, Failure, all_well, complain, is_running, no_engine};
use super::context::{say, wait_until};
use crate::act::{files, group};
use crate::clock;
use crate::config::Config;
use crate::decide::{Pilot, PilotState};
use crate::engine::{Engine, Outcome};
use crate::observe::{facts::read_facts, read_pilot};
use crate::state::{self, Scope, control};
use crate::units::{Exit, count_pilots};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is removed when an engine is slow must not take for ever, packages wait for it: so long is waited for a grace …
const LONGEST: Duration = Duration::from_secs(60);
/// … and nothing more is begun after this time.
const TIME_LIMIT: Duration = Duration::from_secs(120);
const TOO_LATE: &str = "not removed, the time for it is over";
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
        complain(&failure.1);
        Config::default()
    });
    let (engine, instance) = (context.engine(&config)?, context.instance(&config));
    let boot_id = crate::host::boot_id(Path::new("/"));
    let listed = engine.list().map_err(no_engine)?;
    let pilots = listed.iter();
    let pilots = pilots
        .map(|listed| read_pilot(listed, &instance, &boot_id))
        .collect();
    Ok(Found {
        engine,
        instance,
        pilots,
    })
}

/// One pilot of ours, by name or the beginning of its id.
pub fn find(context: &Context, wanted: &str) -> Result<(Arc<Engine>, Pilot), Failure> {
    let mut found = find_all(context)?;
    let is_begin = |pilot: &Pilot| wanted.len() >= 4 && pilot.id.as_str().starts_with(wanted);
    let is_meant = |pilot: &Pilot| pilot.own && (pilot.name == wanted || is_begin(pilot));
    found.pilots.retain(is_meant);
    match (found.pilots.pop(), found.pilots.len()) {
        (Some(pilot), 0) => Ok((found.engine, pilot)),
        (Some(_), more) => {
            let fits = count_pilots(more + 1);
            Err(Failure(
                Exit::Usage,
                format!("'{wanted}' fits {fits}; write more of it"),
            ))
        }
        (None, _) => {
            let instance = found.instance;
            Err(
                format!("'{wanted}' is no pilot of '{instance}'; `plancton status` lists them")
                    .into(),
            )
        }
    }
}

pub fn kill(context: &Context) -> Done {
    let (engine, pilot) = find(context, &context.argument().unwrap_or_default())?;
    engine.kill(&pilot.id, "KILL")?;
    say(&format!("{} was killed\n", pilot.name))
}

/// Ends what is past its ttl, for the times when no daemon does. A ttl is a promise to the machine's owner, so that root
/// keeps it for every instance: a user's daemon may have died with their session.
pub fn reap(context: &Context) -> Done {
    let now = clock::now();
    let mut found = find_all(context)?;
    found
        .pilots
        .retain(|pilot| speaks_for(context, pilot) && pilot.expiry.is_over(now));
    let (removed, problems) = remove_pilots(context, found, LONGEST);
    say(&format!(
        "removed: {} past their ttl\n",
        count_pilots(removed)
    ))?;
    all_well(&problems)
}

/// Every pilot of this instance, at once.
pub fn remove_own(context: &Context) -> Done {
    let mut found = find_all(context)?;
    found.pilots.retain(|pilot| pilot.own);
    let (removed, problems) = remove_pilots(context, found, Duration::ZERO);
    say(&format!(
        "removed: {} of this instance\n",
        count_pilots(removed)
    ))?;
    all_well(&problems)
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
    if let Err(Failure(exit, text)) = purge_everything(context) {
        let list = "`docker ps -a --filter label=io.plancton.instance`";
        let mut left = format!("what is left: {list} and `docker rm -fv` of what it shows");
        let images = state::read_images(&dirs.state).unwrap_or_default();
        if !images.is_empty() {
            left += &format!(", `docker rmi {}`", images.join(" "));
        }
        let then = "run `plancton purge` again when the engine answers";
        return Err(Failure(exit, format!("{text}\n{left}; {then}")));
    }
    say("nothing of Plancton's is left on the engine or in its directories\n")
}

/// The same where no daemon runs, with a word only about what could not be removed.
pub fn purge_everything(context: &Context) -> Done {
    let mut found = find_all(context)?;
    let (start, engine) = (Instant::now(), Arc::clone(&found.engine));
    found.pilots.retain(|pilot| speaks_for(context, pilot));
    let (_, mut problems) = remove_pilots(context, found, LONGEST);
    for image in state::read_images(&context.dirs.state).unwrap_or_default() {
        if start.elapsed() > TIME_LIMIT {
            problems.push(format!("{image}: {TOO_LATE}"));
        } else if let Err(why) = remove_image(context, &engine, &image) {
            problems.push(format!("{image}: {}", why.1));
        }
    }
    let facts = read_facts(&engine, Path::new("/"), context.is_root);
    if let Some(layout) = facts.ok().and_then(|facts| facts.our_layout()) {
        group::remove(Path::new("/"), layout, GROUP_PATIENCE);
    }
    all_well(&problems)?;
    for directory in purged_directories(context) {
        match std::fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(format!("{}: {error}", directory.display()).into());
            }
            _ => {}
        }
    }
    Ok(())
}

fn show_purge(context: &Context) -> Done {
    let mut found = find_all(context)?;
    found.pilots.retain(|pilot| speaks_for(context, pilot));
    for pilot in found.pilots {
        say(&format!("would remove the pilot {}\n", pilot.name))?;
    }
    for image in state::read_images(&context.dirs.state).unwrap_or_default() {
        say(&format!("would remove the image {image}\n"))?;
    }
    for directory in purged_directories(context) {
        say(&format!("would remove {}\n", directory.display()))?;
    }
    Ok(())
}

/// With --keep-state drains and logs stay, for packages that may come back.
fn purged_directories(context: &Context) -> impl Iterator<Item = PathBuf> {
    let state = (!context.options.keep_state).then(|| context.dirs.state.clone());
    std::iter::once(context.dirs.run.clone()).chain(state)
}

/// An engine may take a moment to learn that the last container of an image is gone.
fn remove_image(context: &Context, engine: &Engine, image: &str) -> Done {
    let mut removed = engine.image_remove(image);
    wait_until(Duration::from_secs(1), || {
        let is_busy = matches!(removed, Ok(Outcome::Busy(_)));
        if is_busy {
            removed = engine.image_remove(image);
        }
        !is_busy
    });
    match removed? {
        Outcome::Done | Outcome::Gone => state::remove_image(&context.dirs.state, image)?,
        Outcome::Busy(_) => log::info!("{image} is used by somebody else and stays"),
    }
    Ok(())
}

/// SIGTERM to all, then SIGKILL to each when its grace (at most `longest`) is over, then removal with volumes. How many
/// were removed, and what could not be.
fn remove_pilots(context: &Context, found: Found, longest: Duration) -> (usize, Vec<String>) {
    let (start, engine) = (Instant::now(), found.engine);
    let runs = |pilot: &Pilot| matches!(pilot.state, PilotState::Running | PilotState::Paused);
    for pilot in found
        .pilots
        .iter()
        .filter(|pilot| runs(pilot) && !longest.is_zero())
    {
        end(&engine, pilot, "TERM");
    }
    let (mut removed, mut problems) = (0, Vec::new());
    for pilot in found.pilots {
        let grace = Duration::from_secs_f64(pilot.grace).min(longest);
        let is_running =
            || matches!(engine.inspect(&pilot.id), Ok(Some(seen)) if seen.state.running);
        wait_until(grace.saturating_sub(start.elapsed()), || {
            !runs(&pilot) || !is_running()
        });
        if pilot.state == PilotState::Paused {
            end(&engine, &pilot, "KILL");
        }
        if start.elapsed() > TIME_LIMIT {
            problems.push(format!("{}: {TOO_LATE}", pilot.name));
            continue;
        }
        match engine.remove(&pilot.id) {
            Ok(Outcome::Done | Outcome::Gone) => {
                files::take_back(&context.dirs.run, &pilot.name);
                removed += 1;
            }
            Ok(Outcome::Busy(why)) => problems.push(format!("{}: {why}", pilot.name)),
            Err(error) => problems.push(format!("{}: {error}", pilot.name)),
        }
    }
    (removed, problems)
}

/// What is paused has to be woken for a signal.
fn end(engine: &Engine, pilot: &Pilot, signal: &'static str) {
    let _ = engine.kill(&pilot.id, signal);
    if pilot.state == PilotState::Paused {
        let _ = engine.unpause(&pilot.id);
    }
}
