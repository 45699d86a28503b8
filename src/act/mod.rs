//! The only place that changes the engine and the cgroups. Each action becomes a call in flight, whose outcome comes
//! back as [`News`]; a dry run ends here and nowhere else.

pub mod builtin;
pub mod group;
pub mod handed;
pub mod images;
pub mod spec;

use crate::config::{Image, PilotClass};
use crate::decide::{Action, Ended, LaunchResult, News};
use crate::engine::{CreateOutcome, Engine, Error, Inspected, Outcome};
use crate::executor::Lane;
use crate::units::{PilotId, whole};
use spec::Setting;
use std::path::PathBuf;
use std::sync::Arc;

/// What is kept of a failed pilot's last words.
const LOG_TAIL: (usize, usize) = (20, 8 * 1024);

/// One call in flight: what it is, its lane and what it does there.
pub type Job = (Lane, Box<dyn FnOnce() -> Option<News> + Send>);

pub struct Caller {
    pub engine: Arc<Engine>,
    /// Where what we brought to this engine is written down.
    pub state: PathBuf,
    pub pulling: images::Pulling,
    /// Says what it would do, and does nothing.
    pub dry_run: bool,
    /// Tag of the built-in image.
    pub builtin_tag: String,
}

impl Caller {
    /// The flight of an action; `None` in a dry run, and when its class has just gone from the configuration.
    pub fn job(&self, action: &Action, classes: &[PilotClass], setting: &Setting) -> Option<Job> {
        if self.dry_run {
            log::info!("dry run: would {}", describe(action, PilotId::to_string));
            return None;
        }
        log::debug!("{}", describe(action, PilotId::to_string));
        let engine = Arc::clone(&self.engine);
        let class = |name: &str| classes.iter().find(|class| class.name == name).cloned();
        Some(match action.clone() {
            Action::Launch { class: of, name } => {
                let class = class(&of)?;
                let (image, setting) = (self.image_name(&class), setting.clone());
                let job = move || {
                    let result = launch(&engine, &name, &image, &class, &setting);
                    let at = crate::clock::now().boot;
                    Some(News::Launched {
                        class: class.name,
                        name,
                        at,
                        result,
                    })
                };
                (Lane::Start, Box::new(job))
            }
            Action::Fetch { class: of } => {
                let class = class(&of)?;
                let fetch = self.fetch(&class, classes, setting.pull_per_day, setting.now.epoch);
                let job = move || {
                    let result = fetch.run(&engine, &class);
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
                Box::new(move || changed(&id, "pause", engine.pause(&id))),
            ),
            Action::Unpause { id } => (
                Lane::Urgent,
                Box::new(move || changed(&id, "unpause", engine.unpause(&id))),
            ),
            Action::Remove { id, name, class } => {
                let (run, state, wanted) = (
                    setting.run.clone(),
                    self.state.clone(),
                    self.wanted(classes),
                );
                let job = move || {
                    let news = remove_ended(&engine, id, name.clone(), class);
                    if matches!(news, News::Removed { .. }) {
                        handed::take_back(&run, &name);
                        images::tidy(&engine, &state, &wanted);
                    }
                    Some(news)
                };
                (Lane::Clean, Box::new(job))
            }
            Action::Discard { id } => (Lane::Clean, Box::new(move || Some(discard(&engine, id)))),
            // The group is mended with what only the loop knows.
            Action::MendGroup => return None,
        })
    }

    /// `per_day`: bytes, 0 without bound; `epoch`: now.
    pub fn fetch(
        &self,
        class: &PilotClass,
        classes: &[PilotClass],
        per_day: u64,
        epoch: f64,
    ) -> images::Fetch {
        images::Fetch {
            image: self.image_name(class),
            state: self.state.clone(),
            per_day,
            day: whole(epoch / 86_400.0),
            wanted: self.wanted(classes),
            pulling: Arc::clone(&self.pulling),
        }
    }

    /// The images of all classes. The built-in one stays for the next time: it costs no network, and `purge` knows it.
    fn wanted(&self, classes: &[PilotClass]) -> Vec<String> {
        let builtin = builtin::name(&self.builtin_tag);
        classes
            .iter()
            .map(|class| self.image_name(class))
            .chain([builtin])
            .collect()
    }

    /// What containers of a class are created from.
    fn image_name(&self, class: &PilotClass) -> String {
        match &class.image {
            Image::Builtin => builtin::name(&self.builtin_tag),
            Image::Named(image) => image.to_string(),
        }
    }
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
        Action::Remove { name, .. } => format!("remove {name}, which has ended"),
        Action::Discard { id } => format!("remove {}, which never ran", name(id)),
        Action::MendGroup => "make the pilots' group idle again".to_owned(),
    }
}

fn launch(
    engine: &Engine,
    name: &str,
    image: &str,
    class: &PilotClass,
    setting: &Setting,
) -> LaunchResult {
    if let Some(why) = spec::scratch_problem(class, setting) {
        return LaunchResult::Failed(why);
    }
    match handed::hand_out(&setting.run, name, class) {
        Ok(()) => {}
        Err(handed::Fault::Missing(source)) => return LaunchResult::MountMissing(source),
        Err(handed::Fault::Refused(why)) => return LaunchResult::Failed(why),
    }
    let result = create_and_start(engine, name, image, class, setting);
    // After a lost reply there may be a pilot that uses them: the list tells, and its end takes them back.
    if !matches!(result, LaunchResult::Started(_) | LaunchResult::Lost(_)) {
        handed::take_back(&setting.run, name);
    }
    result
}

fn create_and_start(
    engine: &Engine,
    name: &str,
    image: &str,
    class: &PilotClass,
    setting: &Setting,
) -> LaunchResult {
    let body = spec::create_body(name, image, class, setting);
    let id = match engine.create(name, &body) {
        Ok(CreateOutcome::Created { id, warnings }) => match spec::dropped_limit(&warnings) {
            Some(warning) if setting.refuse_missing_limits => {
                let text = format!(
                    "the engine left a limit out ({warning}); missing-limits = \"warn\" accepts that"
                );
                return discard_failed(engine, &id, text);
            }
            _ => id,
        },
        Ok(CreateOutcome::NoImage) => return LaunchResult::NoImage,
        Ok(CreateOutcome::NameTaken) => {
            return LaunchResult::Failed(format!("the name {name} is taken"));
        }
        Err(error) if error.reply_lost() => return LaunchResult::Lost(error.to_string()),
        Err(error) => return refused(class, error.to_string()),
    };
    match engine.start(&id) {
        Ok(Outcome::Done) => LaunchResult::Started(id),
        Ok(Outcome::Gone) => {
            LaunchResult::Failed(format!("{name} was removed by somebody before its start"))
        }
        Ok(Outcome::Busy(why)) => discard_failed(engine, &id, why),
        Err(error) if error.reply_lost() || error.is_unreachable() => {
            LaunchResult::Lost(error.to_string())
        }
        Err(error) => match discard_failed(engine, &id, error.to_string()) {
            LaunchResult::Failed(text) => refused(class, text),
            other => other,
        },
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

fn discard_failed(engine: &Engine, id: &PilotId, text: String) -> LaunchResult {
    match engine.remove(id) {
        Ok(_) => LaunchResult::Failed(text),
        Err(error) => LaunchResult::Lost(format!("{text}; and removing it: {error}")),
    }
}

/// A paused pilot is woken after the signal: with a TERM its handler runs, and KILL alone did not reach frozen
/// processes with old runtimes on cgroup v1.
fn signal(engine: Arc<Engine>, id: PilotId, signal: &'static str, paused: bool) -> Job {
    let job = move || {
        let sent = failed(&id, signal, engine.kill(&id, signal));
        if paused {
            // It may have been woken or have ended meanwhile, and that is as good.
            let _ = engine.unpause(&id);
        }
        sent
    };
    (Lane::Urgent, Box::new(job))
}

fn changed(id: &PilotId, what: &str, result: Result<Outcome, Error>) -> Option<News> {
    failed(id, what, result).or_else(|| Some(News::Changed(id.clone())))
}

/// Outcomes such as "not running" and "gone" are shown by the next list; only errors are news.
fn failed(id: &PilotId, what: &str, result: Result<Outcome, Error>) -> Option<News> {
    match result {
        Ok(_) => None,
        Err(error) => Some(News::Failed {
            id: id.clone(),
            what: format!("{what}: {error}"),
        }),
    }
}

/// One inspect for each ended pilot, then its removal with its volumes.
fn remove_ended(engine: &Engine, id: PilotId, name: String, class: String) -> News {
    let ended = match engine.inspect(&id) {
        Ok(Some(seen)) if seen.state.running => {
            return News::Failed {
                id,
                what: "it runs again".to_owned(),
            };
        }
        Ok(seen) => seen.map(|seen| ended(engine, seen)),
        Err(error) => {
            return News::Failed {
                id,
                what: format!("inspect: {error}"),
            };
        }
    };
    match engine.remove(&id) {
        Ok(Outcome::Done | Outcome::Gone) => News::Removed {
            id,
            name,
            class,
            ended,
        },
        // Most likely it is gone, and how it ended would never be told: if it is not, the list shows it again.
        Err(error) if error.reply_lost() => News::Removed {
            id,
            name,
            class,
            ended,
        },
        Ok(Outcome::Busy(why)) => News::Failed {
            id,
            what: format!("remove: {why}"),
        },
        Err(error) => News::Failed {
            id,
            what: format!("remove: {error}"),
        },
    }
}

fn ended(engine: &Engine, seen: Inspected) -> Ended {
    let state = seen.state;
    // The built-in pilot says what it computed; of others only a failure's last words are of use.
    let speaks = state.exit_code != 0 || seen.config.image.starts_with(builtin::REPOSITORY);
    let (lines, bytes) = LOG_TAIL;
    let words = if speaks {
        engine.logs(&seen.id, lines, bytes).unwrap_or_default()
    } else {
        Vec::new()
    };
    Ended {
        exit_code: state.exit_code,
        out_of_memory: state.oom_killed,
        lived: state
            .started_at
            .map(|start| (state.finished_at.unwrap_or(start) - start).max(0.0)),
        error: state.error,
        log_tail: String::from_utf8_lossy(&words).into_owned(),
    }
}

fn discard(engine: &Engine, id: PilotId) -> News {
    match engine.remove(&id) {
        Ok(Outcome::Done | Outcome::Gone) => News::Removed {
            id,
            name: String::new(),
            class: String::new(),
            ended: None,
        },
        Ok(Outcome::Busy(why)) => News::Failed {
            id,
            what: format!("remove: {why}"),
        },
        Err(error) => News::Failed {
            id,
            what: format!("remove: {error}"),
        },
    }
}
