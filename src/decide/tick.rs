//! What one tick is decided about: the rules in force, the own pilots found in one pass, how much may be given, and the
//! actions that can come of it. Values only; what is remembered between ticks is elsewhere.

use super::observation::{Observation, Pilot, PilotState};
use crate::config::{Auto, Config, Owner, PilotClass, Share};
use crate::units::{PilotId, float};
use serde::Serialize;
use std::collections::BTreeMap;
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

/// What pilots of one class hold.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slots {
    pub count: usize,
    pub cpus: f64,
}

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
    pub by_class: BTreeMap<&'a str, Slots>,
    pub now: f64,
}

impl<'a> Tick<'a> {
    /// `is_starting`: whether a launch of this name is under way. What was created and is not being started holds no slot.
    pub fn new(
        config: &'a Config,
        seen: &'a Observation,
        pilots: &'a [Pilot],
        is_starting: impl Fn(&str) -> bool,
    ) -> Tick<'a> {
        let (share, owner, when) = config.effective(seen.local.weekday, seen.local.minute);
        let holds_slot = |pilot: &&Pilot| {
            let is_left_over = pilot.state == PilotState::Created && !is_starting(&pilot.name);
            pilot.own && pilot.state.holds_room() && !is_left_over
        };
        let mut own: Vec<&Pilot> = pilots.iter().filter(holds_slot).collect();
        own.sort_by(|a, b| {
            let by_age = a.created.total_cmp(&b.created);
            by_age.then_with(|| a.id.cmp(&b.id))
        });
        let mut by_class: BTreeMap<&str, Slots> = BTreeMap::new();
        for pilot in &own {
            let slots = by_class.entry(&pilot.class).or_default();
            slots.count += 1;
            slots.cpus += pilot.cpus;
        }
        Tick {
            config,
            share,
            owner,
            when,
            seen,
            pilots,
            own,
            by_class,
            now: seen.at.boot,
        }
    }

    /// Own pilots in a state.
    pub fn count(&self, state: PilotState) -> usize {
        self.own.iter().filter(|pilot| pilot.state == state).count()
    }

    pub fn interval(&self) -> f64 {
        self.config.loop_.interval.as_secs_f64()
    }
}

/// With protection, a desktop's background noise rides along: this much below zero may still be launched into …
const LAUNCH_SLACK: f64 = 0.5;
/// … and only this much below zero is given back; on one core less, because more than a core can't be missing there.
const GIVE_SLACK: f64 = 1.0;
const GIVE_SLACK_ONE_CORE: f64 = 0.75;
/// Without protection foreign load reads too low from this share of busy time on.
const SATURATED: f64 = 0.95;

/// CPU in cores, memory in bytes (as `f64`, because free memory can be negative).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Capacity {
    pub cores: f64,
    /// What may be promised to pilots at most (`[share] cpus`).
    pub cap: f64,
    pub reserve: f64,
    /// Promised to all Plancton pilots, paused ones and launches under way included.
    pub given: f64,
    /// The same without paused pilots: what can use CPU now.
    pub active: f64,
    /// For launches; `None` before the first rate.
    pub free: Option<f64>,
    /// By the last window alone: what the owner feels.
    pub free_now: Option<f64>,
    pub memory_given: u64,
    pub free_memory: Option<f64>,
    pub launch_floor: f64,
    pub give_floor: f64,
    /// Without protection a saturated machine hides what the owner wants.
    pub need_unknown: bool,
}

impl Capacity {
    /// `launching`: cores and bytes of launches that the list does not show yet.
    pub(super) fn of(tick: &Tick, launching: (f64, u64)) -> Capacity {
        let seen = tick.seen;
        let protected = seen.protection.holds();
        let (mut given, mut memory_given) = launching;
        let mut paused = 0.0;
        let others = tick
            .pilots
            .iter()
            .filter(|pilot| !pilot.own && pilot.state.holds_room());
        for pilot in tick.own.iter().copied().chain(others) {
            given += pilot.cpus;
            memory_given += pilot.memory;
            if pilot.state == PilotState::Paused {
                paused += pilot.cpus;
            }
        }
        let half_on_battery = if seen.has_battery { 0.5 } else { 1.0 };
        let reserve = match tick.share.reserve_cpus {
            Auto::Fixed(cpus) => cpus,
            Auto::Auto if protected => 0.0,
            Auto::Auto => 1.0,
        };
        let active = given - paused;
        let left = |foreign: f64| seen.cores - reserve - foreign - active;
        let cpu = seen.cpu;
        let taken = float(tick.share.reserve_memory.0) + float(memory_given);
        Capacity {
            cores: seen.cores,
            cap: match tick.share.cpus {
                Auto::Fixed(cpus) => cpus,
                Auto::Auto => (seen.cores * half_on_battery).max(seen.cores.min(1.0)),
            },
            reserve,
            given,
            active,
            free: cpu.map(|cpu| left(cpu.foreign.max(cpu.foreign_smooth))),
            free_now: cpu.map(|cpu| left(cpu.foreign)),
            memory_given,
            free_memory: seen
                .memory
                .map(|memory| float(memory.total) - float(memory.foreign) - taken),
            launch_floor: if protected { -LAUNCH_SLACK } else { 0.0 },
            give_floor: match protected {
                true if seen.cores > 1.0 => -GIVE_SLACK,
                true => -GIVE_SLACK_ONE_CORE,
                false => 0.0,
            },
            need_unknown: !protected && cpu.is_some_and(|cpu| cpu.busy >= SATURATED * seen.threads),
        }
    }

    /// A pilot of this size may be started or woken. Rounding of sums like 10 × 0.1 must not cost a slot.
    pub(super) fn fits_cpu(&self, cpus: f64) -> bool {
        self.free
            .is_some_and(|free| free - cpus >= self.launch_floor - 1e-6)
    }

    pub(super) fn fits_cap(&self, cpus: f64) -> bool {
        self.given + cpus <= self.cap + 1e-6
    }

    pub(super) fn fits_memory(&self, bytes: u64) -> bool {
        self.free_memory.is_some_and(|free| free >= float(bytes))
    }

    /// Takes a launch of this tick into account for the next one.
    pub(super) fn take(&mut self, cpus: f64, bytes: u64) {
        self.given += cpus;
        self.memory_given += bytes;
        self.free_memory = self.free_memory.map(|free| free - float(bytes));
        self.wake(cpus);
    }

    /// A paused pilot runs again: its memory was counted all the time.
    pub(super) fn wake(&mut self, cpus: f64) {
        self.active += cpus;
        self.free = self.free.map(|free| free - cpus);
    }

    /// Cores by which the owner's need goes beyond what rides along; 0 or less: none. Where nothing is given there is
    /// nothing to give back.
    pub(super) fn need(&self) -> f64 {
        match self.free_now {
            Some(free) if self.active > 0.0 => self.give_floor - free,
            _ => 0.0,
        }
    }
}
