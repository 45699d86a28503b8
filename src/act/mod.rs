//! Turns actions into jobs: the only place that changes the engine and the cgroups. What comes of a job comes back as
//! [`News`]. It decides nothing.

pub mod builtin;
pub mod credentials;
pub mod files;
pub mod group;
pub mod images;
pub mod spec;

use crate::clock;
use crate::config::{Config, MissingLimits, PilotClass};
use crate::decide::{Action, Ended, LaunchResult, News, Pilot, PilotState};
use crate::engine::{CreateOutcome, Engine, Error, Inspected, Outcome};
use crate::executor::Lane;
use crate::site::{Facts, Site};
use crate::units::PilotId;
use std::sync::Arc;

/// What is kept of the end of a failed pilot's log: lines and bytes.
const LOG_TAIL: (usize, usize) = (20, 8 * 1024);

/// Of a signal's name, such as `SIGRTMIN+3`.
const LONGEST_SIGNAL: usize = 12;

/// A call and the lane it takes.
pub type Job = (Lane, Box<dyn FnOnce() -> Option<News> + Send>);

/// The job of an action at an engine with these facts. `None`: it is not the engine's (the group).
pub fn job(
    action: &Action,
    site: &Arc<Site>,
    config: &Arc<Config>,
    facts: &Arc<Facts>,
) -> Option<Job> {
    let (site, config, facts) = (Arc::clone(site), Arc::clone(config), Arc::clone(facts));
    Some(match action.clone() {
        Action::Launch(class, name) => {
            let launch = Launch {
                class,
                name,
                volumes: Vec::new(),
                facts,
                site,
                config,
            };
            (Lane::START, Box::new(move || Some(launch.run())))
        }
        Action::Fetch(class) => {
            let job = move || {
                let result = images::fetch(&site, &config, &class);
                let class = class.name.clone();
                Some(News::Fetched { class, result })
            };
            (Lane::IMAGE, Box::new(job))
        }
        Action::Terminate(pilot) => signal(site, pilot, "TERM"),
        Action::Kill(pilot) => signal(site, pilot, "KILL"),
        Action::Pause(Pilot { id, .. }) => {
            let job = move || Some(changed(site.engine.pause(&id), "pause", id));
            (Lane::URGENT, Box::new(job))
        }
        Action::Unpause(Pilot { id, .. }) => {
            let job = move || Some(changed(site.engine.unpause(&id), "unpause", id));
            (Lane::URGENT, Box::new(job))
        }
        Action::Remove(pilot) => {
            let job = move || {
                let news = remove(&site.engine, pilot);
                if let News::Removed(pilot, _) = &news {
                    files::take_back(&site.dirs.run, &pilot.name);
                    images::tidy(&site, &config);
                }
                Some(news)
            };
            (Lane::REMOVE, Box::new(job))
        }
        Action::MendGroup => return None,
    })
}

/// For logs and replays.
pub fn describe(action: &Action) -> String {
    match action {
        Action::Launch(_, name) => format!("launch {name}"),
        Action::Fetch(class) => format!("fetch the image of '{}'", class.name),
        Action::Terminate(pilot) => format!("ask {} to end", pilot.name),
        Action::Kill(pilot) => format!("kill {}", pilot.name),
        Action::Pause(pilot) => format!("pause {}", pilot.name),
        Action::Unpause(pilot) => format!("unpause {}", pilot.name),
        Action::Remove(pilot) => format!("remove {}, which has ended", pilot.name),
        Action::MendGroup => "make the pilots' group idle again".to_owned(),
    }
}

/// What a pilot is made of.
struct Launch {
    class: Arc<PilotClass>,
    name: String,
    /// Paths that its image declares for writing.
    volumes: Vec<String>,
    facts: Arc<Facts>,
    site: Arc<Site>,
    config: Arc<Config>,
}

impl Launch {
    fn run(mut self) -> News {
        let site = Arc::clone(&self.site);
        let run = &site.dirs.run;
        let is_root = rustix::process::geteuid().is_root();
        let to = files::Recipient::of(&self.class, self.facts.id_shift, is_root);
        let result = match files::hand_out(run, &self.name, &self.class, to) {
            Ok(()) => {
                self.volumes = self.declared_volumes();
                self.create_and_start()
            }
            Err(files::Fault::Missing(source)) => LaunchResult::MountMissing(source),
            Err(files::Fault::Refused(why)) => LaunchResult::Failed(why),
        };
        // After a lost reply there may be a pilot that uses them: the list tells, and its end takes them back.
        if !matches!(result, LaunchResult::Started(_) | LaunchResult::Lost(_)) {
            files::take_back(run, &self.name);
        }
        let (class, name, at) = (self.class.name.clone(), self.name, clock::now().boot);
        News::Launched {
            class,
            name,
            at,
            result,
        }
    }

    /// An image that is not there is told by the create call.
    fn declared_volumes(&self) -> Vec<String> {
        let name = images::name(&self.class, &self.site.builtin_tag);
        let image = self.site.engine.image(&name).ok().flatten();
        let volumes = image.map(|image| image.config.volumes);
        volumes.unwrap_or_default().into_keys().collect()
    }

    fn create_and_start(&self) -> LaunchResult {
        let (engine, name) = (&self.site.engine, &self.name);
        let body = spec::create_body(self, clock::now());
        let (id, warnings) = match engine.create(name, body) {
            Ok(CreateOutcome::Created(created)) => (created.id, created.warnings),
            Ok(CreateOutcome::NoImage) => return LaunchResult::NoImage,
            Ok(CreateOutcome::NameTaken) => {
                return LaunchResult::Failed(format!("the name {name} is taken"));
            }
            Err(error) if error.reply_lost() => return LaunchResult::Lost(error.to_string()),
            Err(error) => return refused(&self.class, error.to_string()),
        };
        let refuse = self.config.share.missing_limits == MissingLimits::Refuse;
        if let Some(warning) = spec::dropped_limit(&warnings).filter(|_| refuse) {
            let way_out = "missing-limits = \"warn\" accepts that";
            return self.give_up(
                &id,
                format!("the engine left a limit out ({warning}); {way_out}"),
            );
        }
        match engine.start(&id) {
            Ok(Outcome::Done) => LaunchResult::Started(id),
            Ok(Outcome::Gone) => {
                LaunchResult::Failed(format!("{name} was removed by somebody before its start"))
            }
            Ok(Outcome::Busy(why)) => self.give_up(&id, why),
            Err(error) if error.reply_lost() || error.is_unreachable() => {
                LaunchResult::Lost(error.to_string())
            }
            Err(error) => self.give_up(&id, error.to_string()),
        }
    }

    /// Removes a container that is not to be started.
    fn give_up(&self, id: &PilotId, text: String) -> LaunchResult {
        match self.site.engine.remove(id) {
            Ok(_) => refused(&self.class, text),
            Err(error) => LaunchResult::Lost(format!("{text}; and removing it: {error}")),
        }
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
fn signal(site: Arc<Site>, pilot: Pilot, signal: &'static str) -> Job {
    let job = move || {
        let (engine, id) = (&site.engine, pilot.id);
        let wanted = match signal {
            "TERM" => stop_signal(engine, &id),
            _ => None,
        };
        let sent = engine.kill(&id, wanted.as_deref().unwrap_or(signal));
        if pilot.state == PilotState::Paused {
            // It may have been woken or have ended meanwhile, and that is as good.
            let _ = engine.unpause(&id);
        }
        // Outcomes such as "not running" and "gone" are shown by the next list.
        sent.err().map(|error| failed(id, signal, error))
    };
    (Lane::URGENT, Box::new(job))
}

/// How the pilot's image wants to be stopped; `None`: as usual, also where what it says is no signal's name.
fn stop_signal(engine: &Engine, id: &PilotId) -> Option<String> {
    let signal = engine.inspect(id).ok()??.config.stop_signal;
    let is_plain = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || "+-".contains(c);
    Some(signal).filter(|signal| {
        (1..=LONGEST_SIGNAL).contains(&signal.len()) && signal.chars().all(is_plain)
    })
}

fn changed(result: Result<Outcome, Error>, what: &str, id: PilotId) -> News {
    match result {
        Ok(_) => News::Changed(id),
        Err(error) => failed(id, what, error),
    }
}

fn failed(id: PilotId, what: &str, why: impl std::fmt::Display) -> News {
    News::Failed(id, format!("{what}: {why}"))
}

/// One inspect for a pilot that has ended, then its removal with its volumes.
fn remove(engine: &Engine, pilot: Pilot) -> News {
    let ended = match engine.inspect(&pilot.id) {
        Ok(Some(seen)) if seen.state.running => return failed(pilot.id, "remove", "it runs again"),
        Ok(seen) => seen.filter(has_ended).map(|seen| ended(engine, seen)),
        Err(error) => return failed(pilot.id, "inspect", error),
    };
    match engine.remove(&pilot.id) {
        Ok(Outcome::Busy(why)) => failed(pilot.id, "remove", why),
        // After a lost reply it is most likely gone, and how it ended would never be told: if it is not, the list shows it.
        Err(error) if !error.reply_lost() => failed(pilot.id, "remove", error),
        Ok(_) | Err(_) => News::Removed(pilot, ended),
    }
}

/// What a crash left between create and start says nothing about its class.
fn has_ended(seen: &Inspected) -> bool {
    let state = &seen.state;
    state.started_at.is_some() || state.exit_code != 0 || !state.error.is_empty()
}

fn ended(engine: &Engine, seen: Inspected) -> Ended {
    let state = seen.state;
    // The built-in pilot says what it computed; of others only the log of a failure is of use. Podman's names begin with
    // a registry.
    let speaks = state.exit_code != 0 || seen.config.image.contains(builtin::REPOSITORY);
    let log = speaks.then(|| engine.logs(&seen.id, LOG_TAIL.0, LOG_TAIL.1).ok());
    Ended {
        exit_code: state.exit_code,
        out_of_memory: state.oom_killed,
        lived: state
            .started_at
            .map(|start| (state.finished_at.unwrap_or(start) - start).max(0.0)),
        error: state.error,
        log_tail: log.flatten().unwrap_or_default(),
    }
}
