//! Turns actions into jobs: the only place that changes the engine and the cgroups. What comes of a job comes back as
//! [`News`]. It decides nothing.

pub mod builtin;
mod credentials;
pub mod files;
pub mod group;
pub mod images;
pub mod spec;

use crate::clock;
use crate::config::PilotClass;
use crate::decide::{Action, Ended, LaunchResult, News};
use crate::engine::{CreateOutcome, Engine, Error, Inspected, Outcome};
use crate::executor::Lane;
use crate::units::PilotId;
use std::path::PathBuf;
use std::sync::Arc;

/// What is kept of the end of a failed pilot's log: lines and bytes.
const LOG_TAIL: (usize, usize) = (20, 8 * 1024);

/// What jobs need to know beside their action.
#[derive(Clone, Debug)]
pub struct Setting {
    pub instance: String,
    /// Name of this machine, as pilots are told.
    pub host: String,
    pub boot_id: String,
    /// Where copies of files are.
    pub run: PathBuf,
    /// Parent group for the engine; `None`: the engine's own.
    pub parent: Option<String>,
    pub cpuset: String,
    /// A limit that the engine left out makes the launch fail.
    pub refuse_missing_limits: bool,
    pub images: images::Images,
}

/// A call and the lane it takes.
pub type Job = (Lane, Box<dyn FnOnce() -> Option<News> + Send>);

/// The job of an action; `None`: it is not the engine's (the group), or its class has just gone.
pub fn job(
    action: &Action,
    classes: &[PilotClass],
    engine: &Arc<Engine>,
    setting: &Arc<Setting>,
) -> Option<Job> {
    let (engine, setting) = (Arc::clone(engine), Arc::clone(setting));
    let class = |name: &str| classes.iter().find(|class| class.name == name).cloned();
    Some(match action.clone() {
        Action::Launch { class: of, name } => {
            let class = class(&of)?;
            let job = move || Some(launch(&engine, name, &class, &setting));
            (Lane::Start, Box::new(job))
        }
        Action::Fetch { class: of } => {
            let class = class(&of)?;
            let job = move || {
                let result = images::fetch(&engine, &class, &setting.images);
                Some(News::Fetched {
                    class: class.name,
                    result,
                })
            };
            (Lane::Image, Box::new(job))
        }
        Action::Terminate { id, paused } => signal(engine, id, "TERM", paused),
        Action::Kill { id, paused } => signal(engine, id, "KILL", paused),
        Action::Pause { id } => (
            Lane::Urgent,
            Box::new(move || Some(changed(engine.pause(&id), "pause", id))),
        ),
        Action::Unpause { id } => (
            Lane::Urgent,
            Box::new(move || Some(changed(engine.unpause(&id), "unpause", id))),
        ),
        Action::Remove { id, name, class } => {
            let job = move || {
                let news = remove(&engine, id, name, class);
                if let News::Removed { name, .. } = &news {
                    files::take_back(&setting.run, name);
                    images::tidy(&engine, &setting.images);
                }
                Some(news)
            };
            (Lane::Remove, Box::new(job))
        }
        Action::MendGroup => return None,
    })
}

/// For logs and replays; `name` tells a pilot's name by its id.
pub fn describe(action: &Action, name: impl Fn(&PilotId) -> String) -> String {
    match action {
        Action::Launch { name, .. } => format!("launch {name}"),
        Action::Fetch { class } => format!("fetch the image of '{class}'"),
        Action::Terminate { id, .. } => format!("ask {} to end", name(id)),
        Action::Kill { id, .. } => format!("kill {}", name(id)),
        Action::Pause { id } => format!("pause {}", name(id)),
        Action::Unpause { id } => format!("unpause {}", name(id)),
        Action::Remove { id, name: of, .. } if of.is_empty() => {
            format!("remove {}, which never ran", name(id))
        }
        Action::Remove { name, .. } => format!("remove {name}, which has ended"),
        Action::MendGroup => "make the pilots' group idle again".to_owned(),
    }
}

fn launch(engine: &Engine, name: String, class: &PilotClass, setting: &Setting) -> News {
    let result = match files::hand_out(&setting.run, &name, class) {
        Ok(()) => create_and_start(engine, &name, class, setting),
        Err(files::Fault::Missing(source)) => LaunchResult::MountMissing(source),
        Err(files::Fault::Refused(why)) => LaunchResult::Failed(why),
    };
    // After a lost reply there may be a pilot that uses them: the list tells, and its end takes them back.
    if !matches!(result, LaunchResult::Started(_) | LaunchResult::Lost(_)) {
        files::take_back(&setting.run, &name);
    }
    News::Launched {
        class: class.name.clone(),
        name,
        at: clock::now().boot,
        result,
    }
}

fn create_and_start(
    engine: &Engine,
    name: &str,
    class: &PilotClass,
    setting: &Setting,
) -> LaunchResult {
    let body = spec::create_body(name, class, setting, clock::now());
    let (id, warnings) = match engine.create(name, &body) {
        Ok(CreateOutcome::Created { id, warnings }) => (id, warnings),
        Ok(CreateOutcome::NoImage) => return LaunchResult::NoImage,
        Ok(CreateOutcome::NameTaken) => {
            return LaunchResult::Failed(format!("the name {name} is taken"));
        }
        Err(error) if error.reply_lost() => return LaunchResult::Lost(error.to_string()),
        Err(error) => return refused(class, error.to_string()),
    };
    if let Some(warning) = spec::dropped_limit(&warnings).filter(|_| setting.refuse_missing_limits)
    {
        let text = format!(
            "the engine left a limit out ({warning}); missing-limits = \"warn\" accepts that"
        );
        return give_up(engine, &id, class, text);
    }
    match engine.start(&id) {
        Ok(Outcome::Done) => LaunchResult::Started(id),
        Ok(Outcome::Gone) => {
            LaunchResult::Failed(format!("{name} was removed by somebody before its start"))
        }
        Ok(Outcome::Busy(why)) => give_up(engine, &id, class, why),
        Err(error) if error.reply_lost() || error.is_unreachable() => {
            LaunchResult::Lost(error.to_string())
        }
        Err(error) => give_up(engine, &id, class, error.to_string()),
    }
}

/// Removes a container that is not to be started.
fn give_up(engine: &Engine, id: &PilotId, class: &PilotClass, text: String) -> LaunchResult {
    match engine.remove(id) {
        Ok(_) => refused(class, text),
        Err(error) => LaunchResult::Lost(format!("{text}; and removing it: {error}")),
    }
}

/// A mount source that is not there is the class's state, not a failure that wants a longer and longer wait.
fn refused(class: &PilotClass, text: String) -> LaunchResult {
    let missing = ["does not exist", "no such file"]
        .iter()
        .any(|words| text.contains(words));
    let named = class
        .mounts
        .iter()
        .filter(|mount| missing && text.contains(&mount.source));
    // Of /a and /a/b in it, the longer one is meant.
    match named.max_by_key(|mount| mount.source.len()) {
        Some(mount) => LaunchResult::MountMissing(mount.source.clone()),
        None if text.contains("not a shared") => LaunchResult::Failed(format!(
            "{text}; `mount --make-rshared` it on this machine, or leave the propagation out"
        )),
        None => LaunchResult::Failed(text),
    }
}

/// A paused pilot is woken after the signal: with a TERM its handler runs, and KILL alone did not reach frozen
/// processes with old runtimes on cgroup v1.
fn signal(engine: Arc<Engine>, id: PilotId, signal: &'static str, paused: bool) -> Job {
    let job = move || {
        let sent = engine.kill(&id, signal);
        if paused {
            // It may have been woken or have ended meanwhile, and that is as good.
            let _ = engine.unpause(&id);
        }
        // Outcomes such as "not running" and "gone" are shown by the next list.
        sent.err().map(|error| failed(id, signal, error))
    };
    (Lane::Urgent, Box::new(job))
}

fn changed(result: Result<Outcome, Error>, what: &str, id: PilotId) -> News {
    match result {
        Ok(_) => News::Changed(id),
        Err(error) => failed(id, what, error),
    }
}

fn failed(id: PilotId, what: &str, why: impl std::fmt::Display) -> News {
    let what = format!("{what}: {why}");
    News::Failed { id, what }
}

/// One inspect for a pilot that has ended, then its removal with its volumes. Without a name it never ran.
fn remove(engine: &Engine, id: PilotId, name: String, class: String) -> News {
    let seen = if name.is_empty() {
        Ok(None)
    } else {
        engine.inspect(&id)
    };
    let ended = match seen {
        Ok(Some(seen)) if seen.state.running => return failed(id, "remove", "it runs again"),
        Ok(seen) => seen.map(|seen| ended(engine, seen)),
        Err(error) => return failed(id, "inspect", error),
    };
    match engine.remove(&id) {
        Ok(Outcome::Busy(why)) => failed(id, "remove", why),
        // After a lost reply it is most likely gone, and how it ended would never be told: if it is not, the list shows it.
        Err(error) if !error.reply_lost() => failed(id, "remove", error),
        Ok(_) | Err(_) => News::Removed {
            id,
            name,
            class,
            ended,
        },
    }
}

fn ended(engine: &Engine, seen: Inspected) -> Ended {
    let state = seen.state;
    // The built-in pilot says what it computed; of others only the log of a failure is of use.
    let speaks = state.exit_code != 0 || seen.config.image.starts_with(builtin::REPOSITORY);
    let log = speaks.then(|| engine.logs(&seen.id, LOG_TAIL.0, LOG_TAIL.1).ok());
    Ended {
        exit_code: state.exit_code,
        out_of_memory: state.oom_killed,
        lived: state
            .started_at
            .map(|start| (state.finished_at.unwrap_or(start) - start).max(0.0)),
        error: state.error,
        log_tail: String::from_utf8_lossy(&log.flatten().unwrap_or_default()).into_owned(),
    }
}
