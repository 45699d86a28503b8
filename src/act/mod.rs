//! Carries actions out: the only place that changes the engine and the cgroups. What comes of one comes back as [`News`].
//! It decides nothing.

pub mod credentials;
pub mod files;
pub mod group;
pub mod images;
mod spec;

use crate::config::{Config, Image, MissingLimits, PilotClass};
use crate::decide::{Action, Ended, LaunchResult, News, Pilot, PilotState};
use crate::engine::{Created, Engine, Error, Inspected};
use crate::site::{Facts, Site};
use crate::units::{Bytes, PilotId, whole};
use crate::{clock, executor::Lane, state};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// What is kept of the end of a failed pilot's log: lines and bytes.
const LOG_TAIL: (usize, usize) = (20, 8 * 1024);

/// How an action competes with others; `None`: it is not the engine's (the group).
pub fn lane(action: &Action) -> Option<Lane> {
    match action {
        Action::Launch(..) => Some(Lane::START),
        Action::Fetch(_) => Some(Lane::IMAGE),
        Action::Remove(_) => Some(Lane::REMOVE),
        Action::MendGroup => None,
        _ => Some(Lane::URGENT),
    }
}

/// Blocks until it is done, or has failed.
pub fn carry_out(action: Action, site: &Site, config: &Config, facts: &Facts) -> Option<News> {
    let engine = &site.engine;
    Some(match action {
        Action::Launch(class, name) => {
            let launch = Launch {
                class: &class,
                name,
                facts,
                site,
                config,
            };
            launch.run()
        }
        Action::Fetch(class) => {
            let result = images::fetch(site, config, &class).map_err(|error| error.to_string());
            News::Fetched(class.name.clone(), result)
        }
        Action::Terminate(pilot) => told(&pilot, signal(engine, &pilot, "TERM")),
        Action::Kill(pilot) => told(&pilot, signal(engine, &pilot, "KILL")),
        Action::Pause(pilot) => told(&pilot, engine.tell(&pilot.id, "pause")),
        Action::Unpause(pilot) => told(&pilot, engine.tell(&pilot.id, "unpause")),
        Action::Remove(pilot) => {
            let news = remove(engine, &pilot);
            if let News::Removed(..) = news {
                files::take_back(&site.dirs.run, &pilot.name);
                images::tidy(site, config);
            }
            news
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
        Action::Remove(pilot) => format!("remove {}", pilot.name),
        Action::MendGroup => "make the pilots' group idle again".to_owned(),
    }
}

/// What a pilot is made of.
struct Launch<'a> {
    class: &'a PilotClass,
    name: String,
    facts: &'a Facts,
    site: &'a Site,
    config: &'a Config,
}

impl Launch<'_> {
    fn run(self) -> News {
        let run = &self.site.dirs.run;
        let handed = files::hand_out(&self);
        let started = handed.and_then(|()| self.create_and_start());
        let result = started.map_or_else(|result| result, LaunchResult::Started);
        // After a lost reply there may be a pilot that uses them: the list tells, and its end takes them back.
        if !matches!(result, LaunchResult::Started(_) | LaunchResult::Lost(_)) {
            files::take_back(run, &self.name);
        }
        let (class, at) = (self.class.name.clone(), clock::now().boot);
        News::Launched(class, self.name, at, result)
    }

    fn create_and_start(&self) -> Result<PilotId, LaunchResult> {
        let (engine, class) = (&self.site.engine, self.class);
        // Podman would make an empty directory in the place of what is not mounted yet.
        let mut sources = class.mounts.iter().map(|mount| &mount.source);
        let missing = sources.find(|source| matches!(Path::new(source).try_exists(), Ok(false)));
        if let Some(source) = missing.filter(|_| self.facts.engine.name == "Podman") {
            return Err(LaunchResult::MountMissing(source.clone()));
        }
        // An image that is not there is told by the create call.
        let image = engine.image(&images::name(&class.image, &self.site.builtin_tag));
        let image = image.ok().flatten().map(|image| image.config);
        let body = spec::create_body(self, &image.unwrap_or_default(), clock::now());
        let Created { id, warnings } = match engine.create(&self.name, body) {
            Ok(created) => created.ok_or(LaunchResult::NoImage)?,
            // Where only the reply was lost there is a container that nobody starts: the next list shows it, and it goes.
            Err(error) => return Err(refused(class, error.to_string())),
        };
        let refuses = self.config.share.missing_limits == MissingLimits::Refuse;
        let accepts = "missing-limits = \"warn\" accepts that";
        let mut warnings = warnings.iter().filter(|_| refuses);
        let why = match warnings.find(|warning| spec::is_dropped_limit(warning)) {
            Some(warning) => format!("the engine left a limit out ({warning}); {accepts}"),
            None => match engine.start(&id) {
                Ok(()) => return Ok(id),
                Err(error @ Error::Refused(..)) => error.to_string(),
                Err(error) => return Err(LaunchResult::Lost(error.to_string())),
            },
        };
        Err(match engine.remove(&id) {
            Ok(()) => refused(class, why),
            Err(error) => LaunchResult::Lost(format!("{why}; and removing it: {error}")),
        })
    }
}

/// A mount source that is not there is the class's state, not a failure that wants a longer and longer wait.
fn refused(class: &PilotClass, why: String) -> LaunchResult {
    let is_missing = why.contains("does not exist") || why.contains("no such file");
    let sources = class.mounts.iter().map(|mount| &mount.source);
    let hint = "`mount --make-rshared` it, or leave that out";
    let named = sources.filter(|source| is_missing && why.contains(*source));
    // Of /a and /a/b in it, the longer one is meant.
    match named.max_by_key(|source| source.len()) {
        Some(source) => LaunchResult::MountMissing(source.clone()),
        None if why.contains("not a shared") => LaunchResult::Failed(format!("{why}; {hint}")),
        None => LaunchResult::Failed(why),
    }
}

/// `TERM`, or what the pilot's image wants instead, or `KILL`. A paused pilot is woken after it: with a TERM its handler
/// runs, and KILL alone did not reach frozen processes with old runtimes on cgroup v1.
pub fn signal(engine: &Engine, pilot: &Pilot, signal: &str) -> Result<(), Error> {
    let declared = |seen: Inspected| Some(seen.config.stop_signal).filter(|name| !name.is_empty());
    let asked = (signal == "TERM").then(|| engine.inspect(&pilot.id));
    let wanted = asked.and_then(Result::ok).flatten().and_then(declared);
    let sent = engine.kill(&pilot.id, wanted.as_deref().unwrap_or(signal));
    if pilot.state == PilotState::Paused {
        // It may have been woken or have ended meanwhile, and that is as good.
        let _ = engine.tell(&pilot.id, "unpause");
    }
    sent
}

/// That it has ended or is gone is shown by the next list.
fn told(pilot: &Pilot, result: Result<(), Error>) -> News {
    match result {
        Ok(()) => News::Changed(pilot.id.clone()),
        Err(error) => News::Failed(pilot.id.clone(), error.to_string()),
    }
}

/// One inspect for a pilot that has ended, then its removal with its volumes.
fn remove(engine: &Engine, pilot: &Pilot) -> News {
    let ended = match engine.inspect(&pilot.id) {
        Ok(Some(seen)) if seen.state.running => {
            return News::Failed(pilot.id.clone(), "it runs again".to_owned());
        }
        Ok(seen) => seen.and_then(|seen| ended(engine, &pilot.id, seen)),
        Err(error) => return told(pilot, Err(error)),
    };
    match engine.remove(&pilot.id) {
        // After a lost reply it is most likely gone, and how it ended would never be told: if it is not, the list shows it.
        Ok(()) | Err(Error::ReplyLost(_)) => News::Removed(pilot.clone(), ended),
        refused => told(pilot, refused),
    }
}

/// `None`: what a crash left between create and start says nothing about its class.
fn ended(engine: &Engine, id: &PilotId, seen: Inspected) -> Option<Ended> {
    let state = seen.state;
    if state.started_at.is_none() && state.exit_code == 0 && state.error.is_empty() {
        return None;
    }
    // The built-in pilot says what it computed; of others only the log of a failure is of use. Podman's names begin with
    // a registry.
    let speaks = state.exit_code != 0 || seen.config.image.contains(images::BUILTIN);
    let log = speaks.then(|| engine.logs(id, LOG_TAIL.0, LOG_TAIL.1));
    let lived = |start| (state.finished_at.unwrap_or(start) - start).max(0.0);
    Some(Ended {
        exit_code: state.exit_code,
        out_of_memory: state.oom_killed,
        lived: state.started_at.map(lived),
        error: state.error,
        log_tail: log.and_then(Result::ok).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::{Fake, ID, PING, answer};
    use serde_json::{from_value, json};

    /// httpd, images with systemd (by name, and by number: alehaa/docker-debian-systemd #1), what says nothing, and what
    /// can't be asked.
    #[test]
    fn a_pilot_is_stopped_as_its_image_wants() {
        let pilot = json!({
            "id": ID, "name": "p", "class": "a", "own": true, "state": "paused", "created": 0.0, "expiry": {"epoch": 1.0},
            "cpus": 1.0, "memory": 1, "grace": 1.0, "used": null, "unlimited": null,
        });
        let pilot: Pilot = from_value(pilot).unwrap();
        for (config, sent) in [
            (r#"{"StopSignal":"SIGWINCH"}"#, "SIGWINCH"),
            (r#"{"StopSignal":"SIGRTMIN+3"}"#, "SIGRTMIN%2B3"),
            (r#"{"StopSignal":"37"}"#, "37"),
            (r#"{"StopSignal":""}"#, "TERM"),
            (r#"{"StopSignal":null}"#, "TERM"),
            ("7", "TERM"),
        ] {
            let seen = answer(200, &format!(r#"{{"Id":"{ID}","Config":{config}}}"#));
            let done = answer(204, "");
            let (fake, engine) = Fake::start(&[PING, &seen, &done, &done]);
            assert_eq!(signal(&engine, &pilot, "TERM"), Ok(()));
            let asked = fake.finish();
            assert!(asked[2].ends_with(&format!("/kill?signal={sent}")));
            assert!(asked[3].ends_with("/unpause"));
        }
    }
}
