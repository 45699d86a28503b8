//! Commands about pilots that ask the engine without the loop: `kill`, `log`, `reap`, `purge`, and `force-stop` where no
//! daemon does it. Only pilots are touched, and other instances' only by root where the machine's owner was promised an end.

use super::*;
use crate::act::{files, group, signal};
use crate::decide::{Finished, Pilot, PilotState};
use crate::{engine::Error, observe::read_pilot, units::clean_text};

/// Lines and bytes that are shown of a pilot that is still there.
const LOG: (usize, usize) = (200, 256 << 10);
/// What is removed when an engine is slow must not take for ever, packages wait for it: so long is waited for a grace …
const LONGEST: Duration = Duration::from_secs(60);
/// … and nothing more is begun after this time.
const TIME_LIMIT: Duration = Duration::from_secs(120);
const TOO_LATE: &str = "not removed, the time for it is over";

/// Of every Plancton pilot that there is, some.
type Found = (Site, Vec<Pilot>);

pub fn find(context: &Context, which: impl Fn(&Pilot) -> bool) -> Result<Found, Failure> {
    // A broken configuration must not keep anybody from removing things: then the usual places are tried.
    let config = context.config().unwrap_or_else(|failure| {
        complain(&failure.1);
        Config::default()
    });
    let site = context.site(&config)?;
    let listed = site.engine.list().map_err(no_engine)?;
    let read = |listed| read_pilot(listed, &site.instance, &site.boot_id);
    let pilots = listed.into_iter().map(read).filter(which).collect();
    Ok((site, pilots))
}

/// One pilot of ours, by name or the beginning of its id.
fn find_one(context: &Context, name: &str) -> Result<(Site, Pilot), Failure> {
    let begins = |pilot: &Pilot| name.len() >= 4 && pilot.id.as_str().starts_with(name);
    let is_it = |pilot: &Pilot| pilot.own && (pilot.name == name || begins(pilot));
    let (site, mut pilots) = find(context, is_it)?;
    let fitting = count_pilots(pilots.len());
    let hint = "give a name or the beginning of an id that `plancton status` shows";
    match pilots.pop().filter(|_| pilots.is_empty()) {
        Some(pilot) => Ok((site, pilot)),
        None => Err(format!("'{name}' fits {fitting}; {hint}").into()),
    }
}

pub fn kill(context: &Context) -> Done {
    let (site, pilot) = find_one(context, &context.text("PILOT"))?;
    site.engine.kill(&pilot.id, "KILL")?;
    say(&format!("{} was killed\n", pilot.name))
}

/// The last words of one pilot, or of the one that failed last.
pub fn log(context: &Context) -> Done {
    let wanted = context.text("PILOT");
    let gone = Status::read(&context.addressed().run)?.map_or_else(Vec::new, |status| status.gone);
    let is_meant = |gone: &&Finished| match wanted.as_str() {
        "" => !gone.kind.is_well(),
        name => gone.name == name,
    };
    let words = if let Some(gone) = gone.iter().find(is_meant) {
        let (kind, lived, code) = (word(gone.kind), gone.lived, gone.exit_code);
        let end = format!("{kind} after {lived:.0} s, exit code {code}");
        format!("{}: {end}\n{}", gone.name, gone.log_tail)
    } else if wanted.is_empty() {
        "no pilot has failed since the daemon started".to_owned()
    } else {
        let (site, pilot) = find_one(context, &wanted)?;
        let words = site.engine.logs(&pilot.id, LOG.0, LOG.1);
        words.map_err(no_engine)?
    };
    say(&(clean_text(&words, LOG.1).trim_end().to_owned() + "\n"))
}

/// Ends what is past its ttl, for the times when no daemon does. A ttl is a promise to the machine's owner, so that root
/// keeps it for every instance: a user's daemon may have died with their session.
pub fn reap(context: &Context) -> Done {
    let now = clock::now();
    let is_due = |pilot: &Pilot| speaks_for(context, pilot) && pilot.expiry.left(now) <= 0.0;
    remove(find(context, is_due)?, LONGEST)
}

/// Each is waited for as long as its grace, at most `longest`.
pub fn remove((site, pilots): Found, longest: Duration) -> Done {
    let problems = remove_pilots(&site, &pilots, longest);
    let removed = count_pilots(pilots.len() - problems.len());
    say(&format!("removed: {removed}\n"))?;
    settle(&problems)
}

fn settle(problems: &[String]) -> Done {
    let failure = (!problems.is_empty()).then(|| problems.join("\n").into());
    failure.map_or(Ok(()), Err)
}

/// With its own directories an instance speaks for itself alone; the machine's daemon for the machine.
fn speaks_for(context: &Context, pilot: &Pilot) -> bool {
    pilot.own || (context.is_root && context.dirs.scope == Scope::Machine)
}

/// Everything that Plancton made: pilots (as root of every instance), images it brought, groups, its own files.
pub fn purge(context: &Context) -> Done {
    let images = state::read_images(&context.dirs.state).unwrap_or_default();
    let directories = purged_directories(context);
    let directories = directories.iter().map(|path| path.display().to_string());
    if context.options.has("dry-run") {
        let (_, pilots) = find(context, |pilot| speaks_for(context, pilot))?;
        let pilots = pilots.iter();
        let pilots = pilots.map(|pilot| format!("the pilot {}", pilot.name));
        let images = images.iter().map(|image| format!("the image {image}"));
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
    let pilots = "`docker ps -a --filter label=io.plancton.instance`, `docker rm -fv` each of them";
    let images = images.iter().map(|image| format!(", `docker rmi {image}`"));
    let directories = directories.map(|path| format!(", `rm -r {path}`"));
    let left: String = images.chain(directories).collect();
    let text = format!("{text}\nto remove what is left: {pilots}{left}");
    Err(Failure(exit, text))
}

/// What pilots wrote to folders of the owner's stays the owner's.
fn name_work(context: &Context) -> Done {
    for pilot in &context.config().unwrap_or_default().pilots {
        let written = pilot.mounts.iter().filter(|mount| !mount.is_read_only());
        let mut sources = written.map(|mount| &mount.source);
        while let Some(source) = sources.find(|source| Path::new(source).exists()) {
            let text = format!("{source} stays: pilots of '{}' wrote to it", pilot.name);
            say(&(text + ", and it may hold unfinished work\n"))?;
        }
    }
    Ok(())
}

/// The same where no daemon runs, with a word only about what could not be removed.
pub fn purge_everything(context: &Context) -> Done {
    let start = Instant::now();
    let (site, pilots) = find(context, |pilot| speaks_for(context, pilot))?;
    let mut problems = remove_pilots(&site, &pilots, LONGEST);
    for image in state::read_images(&site.dirs.state).unwrap_or_default() {
        let removed = match start.elapsed() > TIME_LIMIT {
            true => Err(TOO_LATE.into()),
            false => remove_image(&site, &image),
        };
        problems.extend(removed.err().map(|why| format!("{image}: {}", why.1)));
    }
    if let Ok(facts) = read_facts(&site.engine, &site.root, context.is_root) {
        // It may take a moment until it is empty.
        group::remove(&site.root, &facts, Duration::from_secs(2));
    }
    settle(&problems)?;
    let directories = purged_directories(context).into_iter();
    for directory in directories.filter(|path| path.exists()) {
        let removed = fs::remove_dir_all(&directory);
        removed.map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    Ok(())
}

/// With --keep-state drains and logs stay, for packages that may come back.
fn purged_directories(context: &Context) -> Vec<PathBuf> {
    let Dirs { run, state, .. } = context.dirs.clone();
    let state = (!context.options.has("keep-state")).then_some(state);
    [run].into_iter().chain(state).collect()
}

/// An engine may take a moment to learn that the last container of an image is gone.
fn remove_image(site: &Site, image: &str) -> Done {
    let mut removed = Ok(());
    let is_free = wait_until(Duration::from_secs(1), || {
        removed = site.engine.image_remove(image);
        !matches!(removed, Err(Error::Refused(_, 409, _)))
    });
    if is_free {
        removed?;
        return Ok(state::note_image(&site.dirs.state, image, false)?);
    }
    log::info!("{image} is used by somebody else and stays");
    Ok(())
}

/// All are asked to end, and each is killed when its grace (at most `longest`) is over, then removed with its volumes. What
/// could not be removed, one line each.
fn remove_pilots(site: &Site, pilots: &[Pilot], longest: Duration) -> Vec<String> {
    let (start, engine) = (Instant::now(), &site.engine);
    let runs = |pilot: &&Pilot| matches!(pilot.state, PilotState::Paused | PilotState::Running);
    let asked = pilots.iter().filter(runs).filter(|_| !longest.is_zero());
    asked.for_each(|pilot| drop(signal(engine, pilot, "TERM")));
    let mut problems = Vec::new();
    for pilot in pilots {
        let grace = Duration::from_secs_f64(pilot.grace).min(longest);
        wait_until(grace.saturating_sub(start.elapsed()), || {
            let seen = engine.inspect(&pilot.id);
            !runs(&pilot) || !matches!(seen, Ok(Some(seen)) if seen.state.running)
        });
        // Podman's forced removal asks once more, and waits for that.
        if runs(&pilot) {
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
