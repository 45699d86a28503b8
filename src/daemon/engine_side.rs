//! The engine's side of the loop: greeting it, asking for the list, its events, and what holds when it does not answer.

use super::{Daemon, Done};
use crate::act::group;
use crate::clock;
use crate::decide::{EngineState, Observation, PilotState};
use crate::engine::{Engine, Error, EventStream};
use crate::executor::Lane;
use crate::observe::facts::{Facts, read_facts};
use crate::units::Exit;
use std::path::Path;
use std::sync::Arc;

/// Seconds until the list is read again when it did not show an announced end, and how often.
const SOON: f64 = 0.01;
const MOST_LOOKS: u8 = 60;

/// The engine's first answers, the stream of its events, and whether the parent group is ready.
pub(super) struct Greeting {
    facts: Facts,
    events: Result<EventStream, Error>,
    prepared: Result<(), String>,
}

impl Daemon {
    /// An engine may announce an end before its list knows of it: then the list is read again at once.
    pub(super) fn look_again_soon(&mut self, observation: &Observation) {
        let pilots = observation.pilots.as_deref().unwrap_or(&[]);
        // What other instances end can wait for the next tick.
        let runs = |id: &str| {
            pilots
                .iter()
                .any(|p| p.own && p.id.as_str() == id && p.state == PilotState::Running)
        };
        self.ending.retain_mut(|(id, seen)| {
            *seen += 1;
            *seen <= MOST_LOOKS && runs(id)
        });
        if !self.ending.is_empty() {
            let soon = observation.at.boot + SOON;
            self.next_tick = Some(self.next_tick.map_or(soon, |at| at.min(soon)));
        }
    }

    pub(super) fn read_events(&mut self) {
        let Some(events) = &mut self.events else {
            return;
        };
        match events.read() {
            // A hint only: the next list tells the truth.
            Ok(seen) => {
                self.changed |= !seen.is_empty();
                self.ending.extend(seen.into_iter().map(|id| (id, 0)));
            }
            Err(error) => {
                log::debug!("events: {error}; the next tick opens the stream again");
                self.events = None;
            }
        }
    }

    pub(super) fn read_list(&mut self) {
        match self.lister.read() {
            None => {}
            Some(Ok(list)) => {
                self.engine_state = EngineState::Up;
                self.told.problem("engine", None);
                self.list = self.asking.take().map(|asked_at| (list, asked_at));
            }
            Some(Err(error)) => self.engine_failed(&error),
        }
    }

    pub(super) fn greeted(&mut self, greeting: Greeting) {
        self.asking = None;
        self.told.problem("group", greeting.prepared.err());
        self.events = greeting.events.ok();
        self.engine_state = match &greeting.facts.unsupported {
            Some(why) => EngineState::Unsupported(why.clone()),
            None => EngineState::Up,
        };
        self.told.problem("engine", None);
        self.changed = greeting.facts.unsupported.is_none();
        self.facts = Some(greeting.facts);
        if !self.changed {
            self.tick(None);
        }
    }

    /// The engine is a state, never an exit: pilots stay as they are, and it is asked again at the next tick.
    pub(super) fn engine_failed(&mut self, error: &Error) {
        self.asking = None;
        self.events = None;
        if error.is_unreachable() {
            self.facts = None;
        }
        self.engine_state = EngineState::Down(error.to_string());
        self.told.problem("engine", Some(error.to_string()));
        self.changed = false;
        self.tick(None);
        if self.start.once {
            self.finished = Some(Exit::EngineUnavailable);
        }
    }

    /// Sends for what the next tick needs. An engine that has not answered the last question is not asked another.
    pub(super) fn ask(&mut self) {
        let now = clock::now().boot;
        if let Some(error) = self.lister.give_up() {
            self.engine_failed(&error);
            return;
        }
        if let Some(asked_at) = self.asking {
            // A command that came meanwhile is at least told.
            self.changed = false;
            let text = format!(
                "no answer for {:.0} s; pilots stay as they are",
                now - asked_at
            );
            self.engine_state = EngineState::Down(text);
            self.tick(None);
            return;
        }
        let interval = self.start.config.loop_.interval.as_secs_f64();
        (self.asking, self.next_tick, self.changed) = (Some(now), Some(now + interval), false);
        let known = self
            .facts
            .as_ref()
            .is_some_and(|facts| facts.unsupported.is_none());
        if known && self.events.is_some() && self.lister.is_ready() {
            if let Err(error) = self.lister.ask() {
                self.engine_failed(&error);
            }
            return;
        }
        let engine = Arc::clone(&self.hands.engine);
        let (root, limit, dry_run) = (self.root.clone(), self.memory_limit(), self.start.dry_run);
        let is_root = rustix::process::geteuid().is_root();
        self.executor.go(Lane::Look, move || {
            Done::Greeted(Box::new(greet(&engine, &root, is_root, limit, dry_run)))
        });
    }
}

fn greet(
    engine: &Engine,
    root: &Path,
    is_root: bool,
    limit: Option<u64>,
    dry_run: bool,
) -> Result<Greeting, Error> {
    let facts = read_facts(engine, root, is_root)?;
    let ours = facts.layout.filter(|_| facts.parent.is_ok() && !dry_run);
    let prepared = ours.map_or(Ok(()), |layout| group::prepare(root, layout, limit));
    let events = EventStream::open(engine);
    Ok(Greeting {
        facts,
        events,
        prepared,
    })
}
