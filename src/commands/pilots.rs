//! Commands about pilots that ask the engine without the loop: `kill`, `log`, `reap`, `purge`, and `force-stop` where no
//! daemon does it. Only pilots are touched, and other instances' only by root where the machine's owner was promised an end.

use super::{Context, Done, Failure, complain, no_engine, run, say, wait_until};
use crate::act::{files, group, signal};
use crate::clock;
use crate::config::Config;
use crate::decide::{Pilot, PilotState};
use crate::engine::Error;
use crate::observe::read_pilot;
use crate::report::Status;
use crate::site::{Site, read_facts};
use crate::state::{self, Scope};
use crate::units::{Exit, clean_text, count_pilots, word};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Lines and bytes that are shown of a pilot that is still there.
const LOG: (usize, usize) = (200, 256 << 10);
/// What is removed when an engine is slow must not take for ever, packages wait for it: so long is waited for a grace …
const LONGEST: Duration = Duration::from_secs(60);
/// … and nothing more is begun after this time.
const TIME_LIMIT: Duration = Duration::from_secs(120);
const TOO_LATE: &str = "not removed, the time for it is over";
/// How long the pilots' group has for getting empty.
const GROUP_PATIENCE: Duration = Duration::from_secs(2);

/// Every Plancton pilot that there is.
fn find_all(context: &Context) -> Result<(Site, Vec<Pilot>), Failure> {
    // A broken configuration must not keep anybody from removing things: then the usual places are tried.
    let config = context.config().unwrap_or_else(|failure| {
        complain(&failure.1);
        Config::default()
    });
    let site = context.site(&config)?;
    let listed = site.engine.list().map_err(no_engine)?;
    let read = |listed| read_pilot(listed, &site.instance, &site.boot_id);
    let pilots = listed.into_iter().map(read).collect();
    Ok((site, pilots))
}

/// One pilot of ours, by name or the beginning of its id.
fn find(context: &Context, wanted: &str) -> Result<(Site, Pilot), Failure> {
    let (site, mut pilots) = find_all(context)?;
    let is_begin = |pilot: &Pilot| wanted.len() >= 4 && pilot.id.as_str().starts_with(wanted);
    pilots.retain(|pilot| pilot.own && (pilot.name == wanted || is_begin(pilot)));
    match (pilots.pop(), pilots.len()) {
        (Some(pilot), 0) => Ok((site, pilot)),
        (Some(_), more) => {
            let text = format!("'{wanted}' fits {} pilots; write more of it", more + 1);
            Err(Failure(Exit::Usage, text))
        }
        (None, _) => {
            let text = format!("no pilot of '{}' is called '{wanted}'", site.instance);
            Err(format!("{text}; `plancton status` lists them").into())
        }
    }
}

pub fn kill(context: &Context) -> Done {
    let wanted = context.options.text("PILOT").unwrap_or_default();
    let (site, pilot) = find(context, &wanted)?;
    site.engine.kill(&pilot.id, "KILL")?;
    say(&format!("{} was killed\n", pilot.name))
}

/// The last words of one pilot, or of the one that failed last.
pub fn log(context: &Context) -> Done {
    let wanted = context.options.text("PILOT");
    let status = Status::read(&context.addressed().run)?;
    let mut finished = status.unwrap_or_default().gone.into_iter();
    let finished = finished.find(|finished| match &wanted {
        Some(wanted) => finished.name == *wanted,
        None => !finished.kind.is_well(),
    });
    let words = match (finished, wanted) {
        (Some(finished), _) => {
            let (name, kind, code) = (finished.name, word(finished.kind), finished.exit_code);
            let after = format!("after {:.0} s, exit code {code}", finished.lived);
            say(&format!("{name}: {kind} {after}\n"))?;
            finished.log_tail
        }
        (None, Some(wanted)) => {
            let (site, pilot) = find(context, &wanted)?;
            let words = site.engine.logs(&pilot.id, LOG.0, LOG.1);
            words.map_err(no_engine)?
        }
        (None, None) => return say("no pilot has failed since the daemon started\n"),
    };
    match clean_text(&words, LOG.1).trim_end() {
        "" => say("(nothing of what it said was kept)\n"),
        words => say(&format!("{words}\n")),
    }
}

/// Ends what is past its ttl, for the times when no daemon does. A ttl is a promise to the machine's owner, so that root
/// keeps it for every instance: a user's daemon may have died with their session.
pub fn reap(context: &Context) -> Done {
    let now = clock::now();
    let is_due = |pilot: &Pilot| speaks_for(context, pilot) && pilot.expiry.left(now) <= 0.0;
    remove(context, is_due, LONGEST)
}

/// Every pilot of this instance, at once.
pub fn remove_own(context: &Context) -> Done {
    remove(context, |pilot| pilot.own, Duration::ZERO)
}

fn remove(context: &Context, which: impl Fn(&Pilot) -> bool, longest: Duration) -> Done {
    let (site, mut pilots) = find_all(context)?;
    pilots.retain(which);
    let problems = remove_pilots(&site, &pilots, longest);
    let removed = count_pilots(pilots.len().saturating_sub(problems.len()));
    say(&format!("removed: {removed}\n"))?;
    all_well(&problems)
}

/// What went wrong one by one.
fn all_well(problems: &[String]) -> Done {
    match problems {
        [] => Ok(()),
        problems => Err(problems.join("\n").into()),
    }
}

/// With its own directories an instance speaks for itself alone; the machine's daemon for the machine.
fn speaks_for(context: &Context, pilot: &Pilot) -> bool {
    pilot.own || (context.is_root && context.dirs.scope == Scope::Machine)
}

/// Everything that Plancton made: pilots (as root of every instance), images it brought, groups, its own files.
pub fn purge(context: &Context) -> Done {
    let images = state::read_images(&context.dirs.state).unwrap_or_default();
    let directories = purged_directories(context);
    if context.options.has("dry-run") {
        let (_, mut pilots) = find_all(context)?;
        pilots.retain(|pilot| speaks_for(context, pilot));
        let pilots = pilots
            .iter()
            .map(|pilot| format!("the pilot {}", pilot.name));
        let images = images.iter().map(|image| format!("the image {image}"));
        let directories = directories.iter().map(|path| path.display().to_string());
        let mut all = pilots.chain(images).chain(directories);
        return all.try_for_each(|what| say(&format!("would remove {what}\n")));
    }
    // A daemon that lives on would start pilots again, and be out of reach without its directories.
    run::end_daemon(context, &[Signal::TERM, Signal::KILL])?;
    let Err(Failure(exit, text)) = purge_everything(context) else {
        say("nothing of Plancton's is left on the engine or in its directories\n")?;
        return name_work(context);
    };
    // Not to be run again: the program may be about to go.
    let list = "`docker ps -a --filter label=io.plancton.instance`";
    let mut left = format!("what is left: {list} and `docker rm -fv` of what it shows");
    if !images.is_empty() {
        left += &format!(", `docker rmi {}`", images.join(" "));
    }
    for directory in directories {
        left += &format!(", `rm -r {}`", directory.display());
    }
    Err(Failure(exit, format!("{text}\n{left}")))
}

/// What pilots wrote to folders of the owner's stays the owner's.
fn name_work(context: &Context) -> Done {
    for pilot in &context.config().unwrap_or_default().pilots {
        let written = pilot.mounts.iter().filter(|mount| !mount.read_only);
        for mount in written.filter(|mount| Path::new(&mount.source).exists()) {
            let (source, name) = (&mount.source, &pilot.name);
            let text = format!("{source} stays: pilots of '{name}' wrote to it");
            say(&format!(
                "{text}, and it may hold unfinished work; `rm -r {source}` removes it\n"
            ))?;
        }
    }
    Ok(())
}

/// The same where no daemon runs, with a word only about what could not be removed.
pub fn purge_everything(context: &Context) -> Done {
    let start = Instant::now();
    let (site, mut pilots) = find_all(context)?;
    pilots.retain(|pilot| speaks_for(context, pilot));
    let mut problems = remove_pilots(&site, &pilots, LONGEST);
    for image in state::read_images(&site.dirs.state).unwrap_or_default() {
        let removed = match start.elapsed() > TIME_LIMIT {
            true => Err(TOO_LATE.into()),
            false => remove_image(&site, &image),
        };
        problems.extend(removed.err().map(|why| format!("{image}: {}", why.1)));
    }
    if let Ok(facts) = read_facts(&site.engine, &site.root, context.is_root) {
        group::remove(&site.root, &facts, GROUP_PATIENCE);
    }
    all_well(&problems)?;
    for directory in purged_directories(context)
        .iter()
        .filter(|path| path.exists())
    {
        let removed = std::fs::remove_dir_all(directory);
        removed.map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    Ok(())
}

/// With --keep-state drains and logs stay, for packages that may come back.
fn purged_directories(context: &Context) -> Vec<PathBuf> {
    let (run, state) = (&context.dirs.run, &context.dirs.state);
    let purged = [(run, true), (state, !context.options.has("keep-state"))].into_iter();
    purged
        .filter(|(_, goes)| *goes)
        .map(|(path, _)| path.clone())
        .collect()
}

/// An engine may take a moment to learn that the last container of an image is gone.
fn remove_image(site: &Site, image: &str) -> Done {
    let mut removed = Ok(());
    wait_until(Duration::from_secs(1), || {
        removed = site.engine.image_remove(image);
        !matches!(removed, Err(Error::Refused(_, 409, _)))
    });
    match removed {
        Err(Error::Refused(_, 409, _)) => log::info!("{image} is used by somebody else and stays"),
        removed => {
            removed?;
            state::remove_image(&site.dirs.state, image)?;
        }
    }
    Ok(())
}

/// All are asked to end, and each is killed when its grace (at most `longest`) is over, then removed with its volumes. What
/// could not be removed, one line each.
fn remove_pilots(site: &Site, pilots: &[Pilot], longest: Duration) -> Vec<String> {
    let (start, engine) = (Instant::now(), &site.engine);
    let is_paused = |pilot: &Pilot| pilot.state == PilotState::Paused;
    let runs = |pilot: &&Pilot| is_paused(pilot) || pilot.state == PilotState::Running;
    let asked = pilots.iter().filter(runs).filter(|_| !longest.is_zero());
    asked.for_each(|pilot| drop(signal(engine, pilot, "TERM")));
    let mut problems = Vec::new();
    for pilot in pilots {
        let grace = Duration::from_secs_f64(pilot.grace).min(longest);
        wait_until(grace.saturating_sub(start.elapsed()), || {
            let seen = engine.inspect(&pilot.id);
            !runs(&pilot) || !matches!(seen, Ok(Some(seen)) if seen.state.running)
        });
        if is_paused(pilot) {
            let _ = signal(engine, pilot, "KILL");
        }
        let removed = match start.elapsed() > TIME_LIMIT {
            true => Err(TOO_LATE.to_owned()),
            false => engine.remove(&pilot.id).map_err(|error| error.to_string()),
        };
        match removed {
            Ok(()) => files::take_back(&site.dirs.run, &pilot.name),
            Err(why) => problems.push(format!("{}: {why}", pilot.name)),
        }
    }
    problems
}
