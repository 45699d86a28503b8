//! The policy, pure: from what is configured, remembered and observed to what is done, and why.
//! No I/O, no clock, no log: time and random seed come in as values, so that any tick can be replayed.

mod classes;
mod observation;
mod owner_load;
mod pilots;
mod reason;
mod rules;
mod tick;

pub use observation::{
    Control, CpuUse, Drain, Ended, EngineState, Expiry, LaunchResult, MemoryUse, News, Observation,
    Pilot, PilotState, Protection, Snooze,
};
pub use pilots::{EndKind, Finished};
pub use reason::{Code, Reason, State};
pub use tick::{Action, Capacity};

use crate::config::{Config, MissingLimits};
use classes::Classes;
use owner_load::OwnerLoad;
use pilots::{Cause, Pilots};
use rules::{Rules, ThermalLimit};
use std::collections::{BTreeMap, VecDeque};
use std::mem::take;
use tick::Tick;

/// What one tick decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub actions: Vec<Action>,
    pub state: State,
    pub reason: Reason,
    pub capacity: Capacity,
    /// Pilots whose end was learned of since the last tick.
    pub ended: Vec<Finished>,
    /// Seconds until the next tick; `None`: only an event, a command or a reload can change anything.
    pub wake_in: Option<f64>,
    /// The owner is short of CPU: the next observation is to say what each pilot gets.
    pub contended: bool,
    /// The daemon may end: a force-stop or a `drain --stop` is carried out.
    pub finished: bool,
}

/// So long a first rate is waited for with a tick a second.
const FIRST_RATE: f64 = 30.0;
/// How many ended pilots are remembered.
const REMEMBERED: usize = 20;

/// What is remembered from tick to tick. All of it can be lost at any moment (a crash, a restart): pilots and their ends
/// are read back from the engine; only back-offs and timers start anew.
#[derive(Clone, Debug, Default)]
pub struct PolicyState {
    classes: Classes,
    pilots: Pilots,
    owner_load: OwnerLoad,
    thermal: ThermalLimit,
    reason: Option<Reason>,
    last_tick: Option<f64>,
    /// Launches, and ends by kind, since the daemon started.
    pub counts: BTreeMap<String, u64>,
    /// The last pilots that ended, the latest first.
    pub gone: VecDeque<Finished>,
    /// Those that ended since the last tick.
    ended: Vec<Finished>,
}

/// One tick. `state` is all that is remembered; it can be lost at any time and is rebuilt from what is observed.
pub fn decide(config: &Config, state: &mut PolicyState, seen: &Observation) -> Decision {
    let now = seen.at.boot;
    for news in &seen.news {
        state.learn(config, seen, news);
    }
    if seen.control.pull {
        state.classes.refresh_all(now);
    }
    let elapsed = state.last_tick.map_or(0.0, |last| (now - last).max(0.0));
    state.last_tick = Some(now);
    let Some(pilots) = seen.pilots.as_deref() else {
        return state.decide_blind(config, seen);
    };
    state.classes.match_list(pilots, seen);
    let tick = Tick::new(config, seen, pilots, |name| state.classes.is_starting(name));
    state.classes.serve(&tick, elapsed);
    state.pilots.forget_gone(&tick);
    let capacity = Capacity::of(&tick, state.classes.promised());
    let was_held = state.owner_load.holding;
    let rules = Rules::of(&tick, &mut state.thermal, was_held, &capacity);
    if seen.protection == Protection::Lost {
        state.pilots.actions.push(Action::MendGroup);
    }
    state.end_expired(&tick);
    state
        .pilots
        .clear_ended(&tick, |name| state.classes.is_starting(name));
    state
        .owner_load
        .give_back(&tick, &rules, &capacity, &mut state.pilots);
    let refusal = state.launch(&tick, &rules, &capacity);
    state.pilots.finish_stopping(&tick);
    let control = &seen.control;
    let ends_when_empty = control.force_stop || control.drain.is_some_and(|drain| drain.stop);
    let is_empty = !pilots.iter().any(|pilot| pilot.own) && state.classes.is_quiet();
    Decision {
        state: state.name(&tick, &rules),
        reason: state.dated(refusal, seen),
        wake_in: state.wake_in(&tick),
        contended: state.owner_load.is_contended(),
        finished: ends_when_empty && is_empty,
        actions: take(&mut state.pilots.actions),
        ended: take(&mut state.ended),
        capacity,
    }
}

impl PolicyState {
    pub fn new(seed: u64) -> PolicyState {
        let mut state = PolicyState::default();
        state.classes.seed = seed;
        state
    }

    /// For a replay, whose own launches nobody answers (what came of the recorded ones is in the list), and a dry run.
    pub fn forget_launches(&mut self) {
        self.classes.forget_launches();
    }

    /// What is configured otherwise now is new, whatever was learned of it before.
    pub fn forget_changed(&mut self, before: &Config, after: &Config, epoch: f64) {
        self.classes.forget_changed(before, after, epoch);
    }

    /// The list could not be read: that is not "no pilots", so nothing is touched.
    fn decide_blind(&mut self, config: &Config, seen: &Observation) -> Decision {
        Decision {
            actions: Vec::new(),
            state: State::Waiting,
            reason: self.dated(reason::of_engine(&seen.engine), seen),
            capacity: Capacity::default(),
            ended: take(&mut self.ended),
            wake_in: Some(config.loop_.interval.as_secs_f64()),
            contended: false,
            finished: false,
        }
    }

    fn count(&mut self, what: &str) {
        *self.counts.entry(what.to_owned()).or_default() += 1;
    }

    /// Takes in what a call in flight brought back.
    fn learn(&mut self, config: &Config, seen: &Observation, news: &News) {
        let now = seen.at.boot;
        // Where a call failed, or the list shows it undone, the next regular tick decides again: it must not spin.
        let next_look = now + config.loop_.interval.as_secs_f64();
        match news {
            News::Launched { .. } => {
                if let Some(what) = self.classes.launched(config, now, news) {
                    self.count(what);
                }
            }
            News::Fetched { class, result } => self.classes.fetched(config, now, class, result),
            News::Removed {
                id,
                name,
                class,
                ended,
            } => {
                let cause = self.pilots.removed(id, next_look);
                let is_known = self.gone.iter().any(|gone| gone.name == *name);
                let Some(ended) = ended.as_ref().filter(|_| !is_known) else {
                    return;
                };
                let configured = config.pilots.iter().find(|known| known.name == *class);
                let finished = Finished {
                    name: name.clone(),
                    class: class.clone(),
                    kind: pilots::classify(cause, ended, configured),
                    at: seen.at.epoch,
                    lived: ended.lived.unwrap_or(0.0),
                    exit_code: ended.exit_code,
                    log_tail: ended.log_tail.clone(),
                };
                self.count(finished.kind.name());
                // Of a limit that does not hold the class has learned already.
                if cause != Some(Cause::Unlimited) {
                    self.classes.ended(&finished, ended, configured, seen.at);
                }
                self.gone.truncate(REMEMBERED - 1);
                self.gone.push_front(finished.clone());
                self.ended.push(finished);
            }
            // The list shows whether it did; until then the pilot stays busy.
            News::Changed(_) => {}
            News::Failed { id, .. } => self.pilots.failed(id, next_look),
        }
    }

    /// Pilots whose time is up, and pilots whose limits do not hold.
    fn end_expired(&mut self, tick: &Tick) {
        let refuses = tick.share.missing_limits == MissingLimits::Refuse;
        for pilot in &tick.own {
            if !matches!(pilot.state, PilotState::Running | PilotState::Paused) {
                continue;
            }
            if pilot.expiry.left(tick.seen.at) <= 0.0 {
                self.pilots.stop(tick, pilot, Cause::Ttl);
            } else if let Some(what) = pilot.unlimited.as_ref().filter(|_| refuses) {
                self.classes.failed(&pilot.class, what.clone(), tick.now);
                self.pilots.stop(tick, pilot, Cause::Unlimited);
            }
        }
    }

    /// The rule that binds first; else what stopped launching, or that everything that fits is running.
    fn launch(&mut self, tick: &Tick, rules: &Rules, capacity: &Capacity) -> Reason {
        if let Some(rule) = rules.first() {
            return rule.clone();
        }
        let refusal = match tick.config.pilots.is_empty() {
            true => reason::no_pilot(),
            false => {
                let (classes, pilots) = (&mut self.classes, &mut self.pilots);
                classes.fill(tick, &self.owner_load, capacity, pilots)
            }
        };
        let owner = self.owner_load.reason(tick, capacity);
        owner.unwrap_or(refusal)
    }

    fn name(&self, tick: &Tick, rules: &Rules) -> State {
        let paused = tick.count(PilotState::Paused);
        match () {
            () if rules.has(Code::Snooze) => State::Snoozed,
            () if rules.has(Code::Drain) => State::Draining,
            () if paused > 0 && paused == tick.own.len() => State::Paused,
            () if self.classes.holding(tick) == 0 => State::Waiting,
            () => State::Active,
        }
    }

    /// The reason with the second since which its code holds.
    fn dated(&mut self, mut reason: Reason, seen: &Observation) -> Reason {
        let last = self.reason.as_ref().filter(|last| last.code == reason.code);
        reason.since = last.map_or(seen.at.epoch, |last| last.since);
        self.reason = Some(reason.clone());
        reason
    }

    /// The next regular tick, or sooner for the end of a grace, a ttl, a back-off, a probe or a doubt.
    fn wake_in(&self, tick: &Tick) -> Option<f64> {
        let has_own = tick.pilots.iter().any(|pilot| pilot.own);
        if tick.config.pilots.is_empty() && !has_own && self.classes.is_quiet() {
            return None;
        }
        let own = tick
            .own
            .iter()
            .filter(|pilot| !self.pilots.is_stopping(pilot));
        let ttls = own.map(|pilot| pilot.expiry.left(tick.seen.at));
        let waits = self.classes.due().map(|at| at - tick.now);
        // What can't be read at all is not waited for for ever.
        let is_new = |reason: &Reason| tick.seen.at.epoch - reason.since < FIRST_RATE;
        let is_first = tick.seen.cpu.is_none() && self.reason.as_ref().is_none_or(is_new);
        let soonest = ttls
            .chain(waits.filter(|wait| *wait > 0.0))
            .chain(self.pilots.next_kill(tick.now))
            .chain(is_first.then_some(1.0))
            .chain(self.owner_load.look_again)
            .chain(rules::next_change(tick.seen))
            .fold(tick.interval(), f64::min);
        Some(soonest.max(0.05))
    }
}

#[cfg(test)]
mod tests;
