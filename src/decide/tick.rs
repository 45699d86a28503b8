//! One tick in the making: what holds now (rules, pilots in one pass, how much may be given), and what is done about it.
//! The other files of this folder add to it, each its part.

use super::observation::{Capacity, EndKind, Finished, Observation, Pilot, PilotState};
use super::reason::{Code, Reason, State};
use super::state::{Handled, PolicyState};
use crate::config::{Auto, Config, Owner, PilotClass, Share};
use crate::units::{PilotId, float};
use std::sync::Arc;

/// One change to the engine. `act` carries it out; nothing else does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Create and start one pilot of a class under this name.
    Launch {
        class: Arc<PilotClass>,
        name: String,
    },
    /// Import or pull the image of a class.
    Fetch {
        class: Arc<PilotClass>,
    },
    /// SIGTERM; a paused pilot is woken, so that its handler runs.
    Terminate {
        id: PilotId,
        paused: bool,
    },
    /// SIGKILL; a paused pilot is woken too, because old runtimes keep the signal from a frozen one.
    Kill {
        id: PilotId,
        paused: bool,
    },
    Pause {
        id: PilotId,
    },
    Unpause {
        id: PilotId,
    },
    /// Read how a pilot ended, if it ever ran, then remove it.
    Remove {
        id: PilotId,
        name: String,
        class: String,
    },
    /// The parent group has lost its priority, or is gone.
    MendGroup,
}

/// What happens to pilots beyond the number that may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum How {
    #[default]
    Pause,
    /// SIGTERM, and SIGKILL after the pilot's grace.
    Stop,
    /// SIGKILL now.
    Kill,
}

/// A rule of the owner's that holds; while any does, nothing is started.
pub(super) struct Rule {
    /// Own pilots that may run; `None`: all that do.
    pub keep: Option<usize>,
    pub how: How,
    pub reason: Reason,
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

/// With protection, a desktop's background noise rides along: this much below zero may still be launched into …
const LAUNCH_SLACK: f64 = 0.5;
/// … and only this much below zero is given back; on one core less, because more than a core can't be missing there.
const GIVE_SLACK: f64 = 1.0;
const GIVE_SLACK_ONE_CORE: f64 = 0.75;
/// Without protection foreign load reads too low from this share of busy time on.
const SATURATED: f64 = 0.95;

pub(super) struct Tick<'a> {
    pub config: &'a Config,
    pub share: Share,
    pub owner: Owner,
    /// The `[[when]]` in force.
    pub when: Option<usize>,
    pub seen: &'a Observation,
    /// All that the list shows.
    pub pilots: &'a [Pilot],
    /// Own ones that hold a slot (running, paused or being started), the oldest first.
    pub own: Vec<&'a Pilot>,
    pub now: f64,
    pub state: &'a mut PolicyState,
    pub rules: Vec<Rule>,
    pub out: Decision,
}

impl<'a> Tick<'a> {
    pub fn new(
        config: &'a Config,
        state: &'a mut PolicyState,
        seen: &'a Observation,
        pilots: &'a [Pilot],
    ) -> Tick<'a> {
        let (share, owner, when) = config.effective(seen.local.weekday, seen.local.minute);
        // What was created and is not being started holds no slot.
        let holds_slot = |pilot: &&Pilot| {
            let is_left_over = pilot.state == PilotState::Created && !state.is_starting(pilot);
            pilot.own && pilot.state.holds_room() && !is_left_over
        };
        let mut own: Vec<&Pilot> = pilots.iter().filter(holds_slot).collect();
        own.sort_by(|a, b| {
            let by_age = a.created.total_cmp(&b.created);
            by_age.then_with(|| a.id.cmp(&b.id))
        });
        let mut tick = Tick {
            config,
            share,
            owner,
            when,
            seen,
            pilots,
            own,
            now: seen.at.boot,
            state,
            rules: Vec::new(),
            out: Decision::default(),
        };
        tick.out.wake_in = Some(tick.interval());
        tick.measure_capacity();
        tick
    }

    fn measure_capacity(&mut self) {
        let (seen, is_protected) = (self.seen, self.seen.protection.holds());
        let holds_room = |pilot: &&Pilot| !pilot.own && pilot.state.holds_room();
        let others = self.pilots.iter().filter(holds_room);
        let (mut room, mut paused) = (Capacity::default(), 0.0);
        for pilot in self.own.iter().copied().chain(others) {
            room.take(pilot.cpus, pilot.memory);
            if pilot.state == PilotState::Paused {
                paused += pilot.cpus;
            }
        }
        for class in self.state.unlisted() {
            room.take(class.cpus, class.memory.0);
        }
        let half_on_battery = if seen.has_battery { 0.5 } else { 1.0 };
        room.cap = match self.share.cpus {
            Auto::Fixed(cpus) => cpus,
            Auto::Auto => (seen.cores * half_on_battery).max(seen.cores.min(1.0)),
        };
        room.reserve = match self.share.reserve_cpus {
            Auto::Fixed(cpus) => cpus,
            Auto::Auto if is_protected => 0.0,
            Auto::Auto => 1.0,
        };
        let active = room.given - paused;
        let left = seen.cores - room.reserve - active;
        if let Some(cpu) = seen.cpu {
            room.free = Some(left - cpu.foreign.max(cpu.foreign_smooth));
            room.free_now = Some(left - cpu.foreign);
            room.need_unknown = !is_protected && cpu.busy >= SATURATED * seen.threads;
        }
        if let Some(memory) = seen.memory {
            let taken = [
                memory.foreign,
                self.share.reserve_memory.0,
                room.memory_given,
            ];
            let taken: f64 = taken.map(float).iter().sum();
            room.free_memory = Some(float(memory.total) - taken);
        }
        if is_protected {
            room.launch_floor = -LAUNCH_SLACK;
            room.give_floor = if seen.cores > 1.0 {
                -GIVE_SLACK
            } else {
                -GIVE_SLACK_ONE_CORE
            };
        }
        // Where nothing is given there is nothing to give back.
        if let Some(free) = room.free_now.filter(|_| active > 0.0) {
            room.need = room.give_floor - free;
        }
        self.out.capacity = room;
    }

    /// Own pilots in a state.
    pub fn of_state(&self, state: PilotState) -> impl Iterator<Item = &&'a Pilot> {
        let own = self.own.iter();
        own.filter(move |pilot| pilot.state == state)
    }

    pub fn count(&self, state: PilotState) -> usize {
        self.of_state(state).count()
    }

    /// Own pilots, with those that are being started.
    pub fn holding(&self) -> usize {
        self.own.len() + self.state.unlisted().count()
    }

    pub fn interval(&self) -> f64 {
        self.config.loop_.interval.as_secs_f64()
    }

    pub fn calm_for(&self) -> f64 {
        self.owner.calm_for.as_secs_f64()
    }

    /// The next tick is to be at this boot-clock second at the latest.
    pub fn wake_at(&mut self, at: f64) {
        if at > self.now {
            let wait = at - self.now;
            self.out.wake_in = self.out.wake_in.map(|soonest| soonest.min(wait));
        }
    }

    pub fn has_rule(&self, code: Code) -> bool {
        self.rules.iter().any(|rule| rule.reason.code == code)
    }

    pub fn handled(&mut self, pilot: &Pilot) -> &mut Handled {
        self.state.handled.entry(pilot.id.clone()).or_default()
    }

    /// Nothing is under way with it.
    pub fn is_free(&self, pilot: &Pilot) -> bool {
        let handled = self.state.handled.get(&pilot.id);
        handled.is_none_or(|handled| handled.busy_until <= self.now)
    }

    /// SIGTERM now and SIGKILL when the grace is over: the engine's blocking stop is not used. Without grace SIGKILL alone.
    pub fn stop(&mut self, pilot: &Pilot, cause: EndKind, grace: f64) {
        let kill_at = self.now + grace;
        let handled = self.handled(pilot);
        if !handled.killed {
            let before = handled.kill_at.unwrap_or(f64::INFINITY);
            handled.kill_at = Some(kill_at.min(before));
        }
        if handled.cause.is_none() {
            handled.cause = Some(cause);
            if grace > 0.0 {
                self.end(pilot, |id, paused| Action::Terminate { id, paused });
            }
        }
    }

    /// What does not run yet is removed.
    pub fn end(&mut self, pilot: &Pilot, signal: impl Fn(PilotId, bool) -> Action) {
        self.out.actions.push(match pilot.state {
            PilotState::Created => removal(pilot),
            state => signal(pilot.id.clone(), state == PilotState::Paused),
        });
    }
}

pub(super) fn removal(pilot: &Pilot) -> Action {
    Action::Remove {
        id: pilot.id.clone(),
        name: pilot.name.clone(),
        class: pilot.class.clone(),
    }
}
