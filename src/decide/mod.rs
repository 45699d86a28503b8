//! The policy, pure: from what is configured, remembered and observed to what is done, and why.
//! No I/O, no clock, no log: time and random seed come in as values, so that any tick can be replayed.
//! Here is one tick: what holds now, how much may be given, and what is due whatever the owner does. The other files add to
//! it, each its part.

mod launch;
mod observation;
mod owner;
mod reason;
mod state;

pub use observation::*;
pub use reason::{Code, Reason, State};
pub use state::{Counts, PolicyState};

use crate::config::{Config, MissingLimits, Owner, PilotClass, Share};
use crate::units::float;
use owner::Rule;
use state::{Handled, LIVES};
use std::{collections::BTreeMap, sync::Arc};

/// So long a first rate is waited for with a tick a second.
const FIRST_RATE: f64 = 30.0;
/// A pilot that is gone after less than this, in seconds, may not have worked at all.
const EARLY: f64 = 5.0;
/// A removal that has not come back after this long, in seconds, is asked for again.
const REMOVED_WITHIN: f64 = 300.0;
/// With protection, a desktop's background noise rides along: this much below zero may still be launched into …
const LAUNCH_SLACK: f64 = 0.5;
/// … and only this much below zero is given back; on one core less, because more than a core can't be missing there.
const GIVE_SLACK: f64 = 1.0;
const SMALL_SLACK: f64 = 0.75;
/// Without protection foreign load reads too low from this share of busy time on.
const SATURATED: f64 = 0.95;

/// One change to the engine. `act` carries it out; nothing else does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Create and start one pilot of a class under this name.
    Launch(Arc<PilotClass>, String),
    /// Import or pull the image of a class.
    Fetch(Arc<PilotClass>),
    /// SIGTERM; a paused pilot is woken, so that its handler runs.
    Terminate(Pilot),
    /// SIGKILL; a paused pilot is woken too, because old runtimes keep the signal from a frozen one.
    Kill(Pilot),
    Pause(Pilot),
    Unpause(Pilot),
    /// Read how a pilot ended, if it ever ran, then remove it.
    Remove(Pilot),
    /// The parent group has lost its priority, or is gone.
    MendGroup,
}

/// What one tick decided.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    pub actions: Vec<Action>,
    pub state: State,
    pub reason: Reason,
    pub capacity: Capacity,
    /// Pilots whose end was learned of since the last tick.
    pub ended: Vec<Finished>,
    /// Rules of the owner's whose input is missing, for people.
    pub void: Vec<String>,
    /// Seconds until the next tick; `None`: only an event, a command or a reload can change anything.
    pub wake_in: Option<f64>,
    /// The owner is short of CPU: the next observation is to say what each pilot gets.
    pub contended: bool,
    /// The daemon may end: a force-stop or a `drain --stop` is carried out.
    pub finished: bool,
}

/// CPU in cores, memory in bytes (as `f64`, because free memory can be negative).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Capacity {
    /// What may be promised to pilots at most (`[share] cpus`).
    pub cap: f64,
    pub reserve: f64,
    /// Promised to all Plancton pilots, paused ones and launches under way included.
    pub given: f64,
    pub memory_given: u64,
    /// For launches; `None` before the first rate.
    pub free: Option<f64>,
    /// By the last window alone: what the owner feels.
    pub free_now: Option<f64>,
    pub free_memory: Option<f64>,
    pub launch_floor: f64,
    pub give_floor: f64,
    /// Cores by which the owner's need goes beyond what rides along; 0 or less: none.
    pub need: f64,
    /// Without protection a saturated machine hides what the owner wants.
    pub need_unknown: bool,
}

/// One tick in the making.
struct Tick<'a> {
    config: &'a Config,
    state: &'a mut PolicyState,
    seen: &'a Observation,
    now: f64,
    share: Share,
    owner: Owner,
    /// In force.
    hours: Option<&'a str>,
    /// All that the list shows.
    pilots: &'a [Pilot],
    /// Own ones that run, are paused or are being started, the oldest first.
    own: Vec<&'a Pilot>,
    /// Slots that are taken, by class: their number and cores. Those of launches that the list does not show yet are among
    /// them, and those of containers that were created and that we are not starting: the engine may still start them for a
    /// daemon that is gone, until they are removed.
    slots: BTreeMap<String, (usize, f64)>,
    rules: Vec<Rule>,
    out: Decision,
}

/// One tick. `state` is all that is remembered; it can be lost at any time and is rebuilt from what is observed.
pub fn decide(config: &Config, state: &mut PolicyState, seen: &Observation) -> Decision {
    let (share, owner, hours) = config.effective(seen.local.weekday, seen.local.minute);
    let mut tick = Tick {
        config,
        state,
        seen,
        now: seen.at.boot,
        share,
        owner,
        hours,
        pilots: seen.pilots.as_deref().unwrap_or_default(),
        own: Vec::new(),
        slots: BTreeMap::new(),
        rules: Vec::new(),
        out: Decision::default(),
    };
    tick.out.wake_in = Some(config.interval());
    seen.news.iter().for_each(|news| tick.learn(news));
    let elapsed = tick.now - tick.state.last_tick.replace(tick.now).unwrap_or(tick.now);
    if seen.pilots.is_some() {
        tick.decide(elapsed.max(0.0));
    } else {
        // The list could not be read: that is not "no pilots", so nothing is touched.
        tick.out.reason = reason::of_engine(&seen.engine);
    }
    let mut decision = tick.out;
    let code = decision.reason.code;
    let same = state.reason.filter(|(before, _)| *before == code);
    let (_, since) = *state.reason.insert(same.unwrap_or((code, seen.at.epoch)));
    decision.reason.since = since;
    decision
}

impl<'a> Tick<'a> {
    fn decide(&mut self, elapsed: f64) {
        self.match_list();
        self.take_stock();
        self.measure_capacity();
        self.serve(elapsed);
        self.find_rules();
        self.keep_up();
        self.give_back();
        self.look_again();
        // The rule that binds first, else what stopped launching, or that everything that fits is running.
        let binding = self.rules.first().map(|(_, reason)| reason.clone());
        self.out.reason = binding.unwrap_or_else(|| self.launch());
        self.finish_stopping();
        let paused = self.own_in(PilotState::Paused).len();
        self.out.state = match () {
            () if self.has_rule(Code::Snooze) => State::Snoozed,
            () if self.has_rule(Code::Drain) => State::Draining,
            () if self.own.len() == paused && paused > 0 => State::Paused,
            () if self.holding() == 0 => State::Waiting,
            () => State::Active,
        };
        let control = &self.seen.control;
        let ends = control.force_stop || control.drain.is_some_and(|drain| drain.stop);
        let has_own = self.pilots.iter().any(|pilot| pilot.own);
        let is_empty = !has_own && self.state.launching.is_empty();
        self.out.finished = ends && is_empty;
        let wake_in = self.out.wake_in.map(|seconds| seconds.max(0.05));
        self.out.wake_in = wake_in.filter(|_| !is_empty || !self.config.pilots.is_empty());
    }

    fn take_stock(&mut self) {
        for pilot in self.pilots.iter().filter(|pilot| pilot.state.holds_room()) {
            let class = pilot.own.then_some(pilot.class.as_str());
            self.take(class, pilot.cpus, pilot.memory);
            if pilot.own && !self.is_left_over(pilot) {
                self.own.push(pilot);
            }
        }
        for class in self.unlisted() {
            self.take(Some(&class.name), class.cpus, class.memory.0);
        }
        let age = |a: &Pilot, b: &Pilot| a.created.total_cmp(&b.created);
        self.own.sort_by(|a, b| age(a, b).then(a.id.cmp(&b.id)));
    }

    /// `class`: of one of ours, which takes a slot.
    fn take(&mut self, class: Option<&str>, cpus: f64, bytes: u64) {
        let room = &mut self.out.capacity;
        room.given += cpus;
        // Labels may say anything.
        room.memory_given = room.memory_given.saturating_add(bytes);
        room.free = room.free.map(|free| free - cpus);
        room.free_memory = room.free_memory.map(|free| free - float(bytes));
        if let Some(class) = class {
            let (number, cores) = self.slots.entry(class.to_owned()).or_default();
            (*number, *cores) = (*number + 1, *cores + cpus);
        }
    }

    fn is_left_over(&self, pilot: &Pilot) -> bool {
        let mut launching = self.state.launching.iter();
        pilot.state == PilotState::Created && !launching.any(|launch| launch.name == pilot.name)
    }

    fn measure_capacity(&mut self) {
        let seen = self.seen;
        // Where the idle group is in force.
        let is_protected = [Protection::Verified, Protection::Prepared].contains(&seen.protection);
        let is_paused = |pilot: &&Pilot| pilot.state == PilotState::Paused;
        let paused = self.pilots.iter().filter(is_paused);
        let paused: f64 = paused.map(|pilot| pilot.cpus).sum();
        let room = &mut self.out.capacity;
        let part = if seen.has_battery { 0.5 } else { 1.0 };
        let all = (seen.cores * part).max(seen.cores.min(1.0));
        let reserve = if is_protected { 0.0 } else { 1.0 };
        room.cap = self.share.cpus.or(all);
        room.reserve = self.share.reserve_cpus.or(reserve);
        if is_protected {
            let is_small = seen.cores <= 1.0;
            let slack = if is_small { SMALL_SLACK } else { GIVE_SLACK };
            (room.launch_floor, room.give_floor) = (-LAUNCH_SLACK, -slack);
        }
        if let Some(cpu) = seen.cpu {
            let active = room.given - paused;
            let left = seen.cores - room.reserve - active;
            room.free = Some(left - cpu.foreign.max(cpu.foreign_smooth));
            room.free_now = Some(left - cpu.foreign);
            room.need_unknown = !is_protected && cpu.busy >= SATURATED * seen.threads;
            // Where nothing is given there is nothing to give back.
            if active > 0.0 {
                room.need = room.give_floor - (left - cpu.foreign);
            }
        }
        if let Some(memory) = seen.memory {
            let taken = float(memory.foreign) + float(self.share.reserve_memory.0);
            room.free_memory = Some(float(memory.total) - taken - float(room.memory_given));
        }
    }

    /// Launches under way that the list does not show yet.
    fn unlisted(&self) -> Vec<Arc<PilotClass>> {
        let is_listed = |name: &str| self.pilots.iter().any(|pilot| pilot.name == name);
        let launching = self.state.launching.iter();
        let unlisted = launching.filter(|launch| !is_listed(&launch.name));
        unlisted.map(|launch| launch.class.clone()).collect()
    }

    /// What is due whatever the owner does: the group's priority, time limits, limits that do not hold, removals.
    fn keep_up(&mut self) {
        if self.seen.protection == Protection::Lost {
            self.out.actions.push(Action::MendGroup);
        }
        for pilot in self.pilots.iter().filter(|pilot| pilot.own) {
            match pilot.state {
                PilotState::Running | PilotState::Paused => self.keep_limits(pilot),
                PilotState::Exited | PilotState::Dead => self.remove(pilot),
                PilotState::Created if self.is_left_over(pilot) => self.remove(pilot),
                _ => {}
            }
        }
    }

    fn keep_limits(&mut self, pilot: &Pilot) {
        let left = pilot.expiry.left(self.seen.at);
        self.wake_at(self.now + left);
        let refuses = self.share.missing_limits == MissingLimits::Refuse;
        if left <= 0.0 {
            self.stop(pilot, EndKind::Ttl, pilot.grace);
        } else if let Some(what) = pilot.unlimited.as_ref().filter(|_| refuses) {
            // Once, not at each tick of its grace.
            if self.known(pilot).cause.is_none() {
                self.failed(&pilot.class, what.clone(), LIVES);
            }
            self.stop(pilot, EndKind::Failed, pilot.grace);
        }
    }

    fn remove(&mut self, pilot: &Pilot) {
        if self.is_free(pilot) {
            let (now, age) = (self.now, self.seen.at.epoch - pilot.created);
            let is_early = pilot.state == PilotState::Exited && age < EARLY;
            let handled = self.handled(pilot);
            handled.busy_until = now + REMOVED_WITHIN;
            handled.early = is_early.then(|| pilot.class.clone());
            self.out.actions.push(Action::Remove(pilot.clone()));
        }
    }

    /// At images when that was asked for, and at the first rate soon.
    fn look_again(&mut self) {
        let asked_for = self.seen.control.pull;
        for class in self.state.classes.values_mut().filter(|_| asked_for) {
            class.refresh_at = Some(self.now);
        }
        let is_new = |(_, since): (Code, f64)| self.seen.at.epoch - since < FIRST_RATE;
        if self.seen.cpu.is_none() && self.state.reason.is_none_or(is_new) {
            self.wake_at(self.now + 1.0);
        }
    }

    /// SIGTERM now and SIGKILL when the grace is over: the engine's blocking stop is not used. Without grace SIGKILL alone.
    fn stop(&mut self, pilot: &Pilot, cause: EndKind, grace: f64) {
        let kill_at = self.now + grace;
        let handled = self.handled(pilot);
        if !handled.killed {
            handled.kill_at = handled.kill_at.min(kill_at);
        }
        if handled.cause.is_none() && grace > 0.0 {
            self.end(pilot, Action::Terminate);
        }
        self.handled(pilot).cause.get_or_insert(cause);
    }

    /// Sends the SIGKILLs that are due. Repeated each interval while the pilot is still there.
    fn finish_stopping(&mut self) {
        let next = self.now + self.config.interval();
        for pilot in self.own.clone() {
            let kill_at = self.known(pilot).kill_at;
            self.wake_at(kill_at);
            if kill_at <= self.now {
                let handled = self.handled(pilot);
                (handled.killed, handled.kill_at) = (true, next);
                self.end(pilot, Action::Kill);
            }
        }
    }

    /// What does not run yet is removed.
    fn end(&mut self, pilot: &Pilot, signal: fn(Pilot) -> Action) {
        let is_created = pilot.state == PilotState::Created;
        let action = if is_created { Action::Remove } else { signal };
        self.out.actions.push(action(pilot.clone()));
    }

    fn handled(&mut self, pilot: &Pilot) -> &mut Handled {
        self.state.handled.entry(pilot.id.clone()).or_default()
    }

    fn known(&self, pilot: &Pilot) -> Handled {
        let handled = self.state.handled.get(&pilot.id);
        handled.cloned().unwrap_or_default()
    }

    /// Nothing is under way with it.
    fn is_free(&self, pilot: &Pilot) -> bool {
        self.known(pilot).busy_until <= self.now
    }

    fn own_in(&self, state: PilotState) -> Vec<&'a Pilot> {
        let own = self.own.iter().copied();
        own.filter(|pilot| pilot.state == state).collect()
    }

    /// How many slots are taken.
    fn holding(&self) -> usize {
        self.slots.values().map(|(number, _)| number).sum()
    }

    /// The next tick is to be at this boot-clock second at the latest.
    fn wake_at(&mut self, at: f64) {
        if at > self.now {
            let wait = at - self.now;
            self.out.wake_in = self.out.wake_in.map(|soonest| soonest.min(wait));
        }
    }
}

fn find<'a>(config: &'a Config, class: &str) -> Option<&'a PilotClass> {
    config.pilots.iter().find(|known| known.name == class)
}

#[cfg(test)]
mod tests;
