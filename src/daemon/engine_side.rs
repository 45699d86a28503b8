//! The engine's side of the loop: the one question a tick, the events, and what holds when the engine does not answer.

use super::jobs::Finished;
use super::{Daemon, clock};
use crate::act::group;
use crate::decide::{EngineState, Observation, PilotState};
use crate::engine::{Engine, Error, Listed};
use crate::executor::{Lane, Outbox};
use crate::host::cgroup::group_of_pid;
use crate::observe::facts::{Facts, read_facts};
use crate::report;
use crate::site::Site;
use crate::units::Exit;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Seconds until the list is read again when it did not show an announced end, and how often.
const SOON: f64 = 0.01;
const MOST_LOOKS: u8 = 60;
/// Until a stream of events that ended is asked for again.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct EngineSide {
    /// `None`: it was not asked yet, or could not be reached since.
    pub facts: Option<Arc<Facts>>,
    pub state: EngineState,
    /// Boot second at which the question under way was asked.
    pub asked_at: Option<f64>,
    /// The list that waits for its tick, and the boot second at which it was asked for.
    pub list: Option<(Vec<Listed>, f64)>,
    pub follows_events: bool,
    /// The stream of events has ended: it is asked who it is once more.
    pub may_be_new: bool,
    /// Epoch second of its last greeting: what started before may have ended with the engine.
    pub since: f64,
    /// Pilots whose end was announced, and how often a list still showed them running.
    pub ending: Vec<(String, u8)>,
}

/// What one question brings: the facts of an engine that was not known, whether the parent group is ready, and the list of
/// one that can be used.
pub(super) struct Look {
    facts: Option<Facts>,
    prepared: Result<(), String>,
    list: Vec<Listed>,
}

impl EngineSide {
    /// For the status.
    pub(super) fn seen(&self, socket: &Path) -> report::Engine {
        let socket = socket.display().to_string();
        let Some(facts) = &self.facts else {
            return report::Engine {
                socket,
                ..report::Engine::default()
            };
        };
        report::Engine {
            name: facts.name.clone(),
            version: facts.version.clone(),
            api: facts.api.clone(),
            socket,
        }
    }
}

impl Daemon {
    /// Sends for what the next tick needs. An engine that has not answered the last question is not asked another.
    pub(super) fn ask(&mut self) {
        let now = clock::now().boot;
        if let Some(asked_at) = self.engine.asked_at {
            // A command that came meanwhile is at least told.
            let text = format!(
                "no answer for {:.0} s; pilots stay as they are",
                now - asked_at
            );
            self.engine.state = EngineState::Down(text);
            self.changed = false;
            self.next_tick = self.next_tick.map(|_| now + self.interval());
            self.tick(None);
            return;
        }
        self.engine.asked_at = Some(now);
        (self.next_tick, self.changed) = (Some(now + self.interval()), false);
        let (site, memory_limit) = (Arc::clone(&self.site), self.memory_limit());
        let facts = self.engine.facts.as_ref();
        // An engine whose stream of events has ended may be another one now.
        let is_known =
            facts.is_some_and(|facts| facts.unsupported.is_none()) && !self.engine.may_be_new;
        let prepare = (!self.start.dry_run).then_some(memory_limit);
        self.executor.go(Lane::Look, move || {
            let look = if is_known {
                look(&site)
            } else {
                greet(&site, prepare)
            };
            Finished::Looked(Box::new(look))
        });
    }

    pub(super) fn looked(&mut self, look: Look) {
        let asked_at = self.engine.asked_at.take().unwrap_or(0.0);
        self.changes.problem("engine", None::<String>);
        if let Some(facts) = look.facts {
            self.changes.problem("group", look.prepared.err());
            self.engine.facts = Some(Arc::new(facts));
            (self.engine.may_be_new, self.engine.since) = (false, clock::now().epoch);
        }
        let unsupported = self
            .engine
            .facts
            .as_ref()
            .and_then(|facts| facts.unsupported.clone());
        if let Some(why) = unsupported {
            self.engine.state = EngineState::Unsupported(why);
            self.tick(None);
            return;
        }
        self.engine.state = EngineState::Up;
        self.engine.list = Some((look.list, asked_at));
        if !self.engine.follows_events {
            self.follow_events();
        }
    }

    /// Events are followed by a thread of their own, which blocks on the engine and rings the loop.
    fn follow_events(&mut self) {
        let (engine, outbox) = (Arc::clone(&self.site.engine), self.executor.outbox());
        let thread = std::thread::Builder::new().name("events".to_owned());
        let started = thread
            .stack_size(256 * 1024)
            .spawn(move || follow(&engine, &outbox));
        self.engine.follows_events = started.is_ok();
    }

    /// The groups of pilots that have just started are asked for by their first process.
    pub(super) fn ask_for_groups(&mut self) {
        for id in self.observer.groups.take_unknown() {
            let site = Arc::clone(&self.site);
            self.executor.go(Lane::Group, move || {
                let seen = site.engine.inspect(&id).ok().flatten();
                let group = seen.and_then(|seen| group_of_pid(&site.root, seen.state.pid, &id));
                Finished::Group(id, group)
            });
        }
    }

    /// The engine is a state, never an exit: pilots stay as they are, and it is asked again at the next tick.
    pub(super) fn engine_failed(&mut self, error: &Error) {
        self.engine.asked_at = None;
        if error.is_unreachable() {
            self.engine.facts = None;
        }
        self.engine.state = EngineState::Down(error.to_string());
        self.changes.problem("engine", Some(error));
        self.changed = false;
        self.tick(None);
        if self.start.once {
            self.finished = Some(Exit::EngineUnavailable);
        }
    }

    /// An engine may announce an end before its list knows of it: then the list is read again at once.
    pub(super) fn look_again_soon(&mut self, observation: &Observation) {
        let pilots = observation.pilots.as_deref().unwrap_or(&[]);
        // What other instances end can wait for the next tick.
        let running = pilots
            .iter()
            .filter(|pilot| pilot.own && pilot.state == PilotState::Running);
        let runs = |id: &str| running.clone().any(|pilot| pilot.id.as_str() == id);
        self.engine.ending.retain_mut(|(id, seen)| {
            *seen += 1;
            *seen <= MOST_LOOKS && runs(id)
        });
        if !self.engine.ending.is_empty() {
            let soon = observation.at.boot + SOON;
            self.next_tick = Some(self.next_tick.map_or(soon, |at| at.min(soon)));
        }
    }
}

fn look(site: &Site) -> Result<Look, Error> {
    let list = site.engine.list()?;
    Ok(Look {
        facts: None,
        prepared: Ok(()),
        list,
    })
}

/// `prepare`: make the parent group, with this bound on its memory.
fn greet(site: &Site, prepare: Option<Option<u64>>) -> Result<Look, Error> {
    let facts = read_facts(
        &site.engine,
        &site.root,
        rustix::process::geteuid().is_root(),
    )?;
    let prepared = match prepare {
        Some(limit) => group::prepare(&site.root, &facts, limit),
        None => Ok(()),
    };
    let list = match &facts.unsupported {
        Some(_) => Vec::new(),
        None => site.engine.list()?,
    };
    Ok(Look {
        facts: Some(facts),
        prepared,
        list,
    })
}

/// As long as the daemon lives: a stream that ends is asked for again, after a pause that grows while none lasts.
fn follow(engine: &Engine, outbox: &Outbox<Finished>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        let error = engine.follow_events(&mut |id| outbox.post(Finished::Ended(id.to_owned())));
        log::debug!("{error}; the stream is asked for again");
        outbox.post(Finished::EventsEnded);
        let lasted = begun.elapsed() > LONGEST_PAUSE;
        std::thread::sleep(pause);
        pause = if lasted {
            FIRST_PAUSE
        } else {
            (2 * pause).min(LONGEST_PAUSE)
        };
    }
}
