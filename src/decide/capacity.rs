//! How much is given, in numbers: the formulas of the design, in one place.

use super::{Memory, PilotState, Tick};
use crate::config::Auto;
use crate::units::float;
use serde::Serialize;

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
    pub(super) fn of(tick: &Tick, memory: &Memory) -> Capacity {
        let seen = tick.seen;
        let protected = seen.protection.holds();
        let taken = || tick.pilots.iter().filter(|pilot| pilot.state.holds_room());
        let launching_cpus: f64 = memory.unlisted(tick).map(|launch| launch.cpus).sum();
        let launching_memory: u64 = memory.unlisted(tick).map(|launch| launch.memory).sum();
        // An empty sum of floats is -0.
        let given = taken().map(|pilot| pilot.cpus).sum::<f64>() + launching_cpus + 0.0;
        let paused: f64 = taken()
            .filter(|p| p.state == PilotState::Paused)
            .map(|p| p.cpus)
            .sum();
        let memory_given = taken().map(|pilot| pilot.memory).sum::<u64>() + launching_memory;
        let half_on_battery = if seen.has_battery { 0.5 } else { 1.0 };
        let cap = match tick.share.cpus {
            Auto::Fixed(cpus) => cpus,
            Auto::Auto => (seen.cores * half_on_battery).max(seen.cores.min(1.0)),
        };
        let reserve = match tick.share.reserve_cpus {
            Auto::Fixed(cpus) => cpus,
            Auto::Auto if protected => 0.0,
            Auto::Auto => 1.0,
        };
        let active = given - paused;
        let left = |foreign: f64| seen.cores - reserve - foreign - active;
        let reserve_memory = float(tick.share.reserve_memory.0);
        Capacity {
            cores: seen.cores,
            cap,
            reserve,
            given,
            active,
            free: seen
                .cpu
                .map(|cpu| left(cpu.foreign.max(cpu.foreign_smooth))),
            free_now: seen.cpu.map(|cpu| left(cpu.foreign)),
            memory_given,
            free_memory: seen
                .memory
                .map(|m| float(m.total) - reserve_memory - float(m.foreign) - float(memory_given)),
            launch_floor: if protected { -LAUNCH_SLACK } else { 0.0 },
            give_floor: match protected {
                true if seen.cores > 1.0 => -GIVE_SLACK,
                true => -GIVE_SLACK_ONE_CORE,
                false => 0.0,
            },
            need_unknown: !protected
                && seen
                    .cpu
                    .is_some_and(|cpu| cpu.busy >= SATURATED * seen.threads),
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
        self.wake(cpus);
        self.free_memory = self.free_memory.map(|free| free - float(bytes));
    }

    /// A paused pilot runs again: its memory was counted all the time.
    pub(super) fn wake(&mut self, cpus: f64) {
        self.active += cpus;
        self.free = self.free.map(|free| free - cpus);
        self.free_now = self.free_now.map(|free| free - cpus);
    }

    /// Cores by which the owner's need goes beyond what rides along; 0 or less: none.
    pub(super) fn need(&self) -> f64 {
        self.free_now.map_or(0.0, |free| self.give_floor - free)
    }
}
