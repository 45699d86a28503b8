//! The owner's rules: commands, hours, battery, heat, programs, disk and memory. Each that holds says how many pilots may
//! run, what happens to the others, and why; while any holds nothing is started. The strictest counts.

use super::observation::{Observation, PilotState};
use super::reason::{self, Code, Reason};
use super::tick::{Capacity, Tick};
use crate::config::{Auto, OnBattery};
use crate::units::float;

/// What happens to pilots beyond the number that may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum How {
    Pause,
    /// SIGTERM, and SIGKILL after the pilot's grace.
    Stop,
    /// SIGKILL now.
    Kill,
}

/// Degrees below the limit at which heat no longer holds pilots back.
const HEAT_HYSTERESIS: f64 = 5.0;
/// Percent above the limit at which a charge counts as restored.
const CHARGE_HYSTERESIS: f64 = 5.0;
/// Percent of time in which the owner's processes waited for memory.
const PRESSURE_LIMIT: f64 = 20.0;

#[derive(Debug)]
struct Rule {
    /// Own pilots that may run; `None`: all that do.
    keep: Option<usize>,
    how: How,
    reason: Reason,
}

/// Those that hold, the first to be named first.
#[derive(Debug, Default)]
pub(super) struct Rules(Vec<Rule>);

impl Rules {
    pub fn of(
        tick: &Tick,
        thermal: &mut ThermalLimit,
        was_held: bool,
        capacity: &Capacity,
    ) -> Rules {
        let mut rules = Rules::default();
        rules.commands(tick);
        rules.owner(tick, was_held);
        if let Some(keep) = thermal.step(tick) {
            let value = tick.seen.temperature.unwrap_or(0.0);
            let limit = f64::from(tick.owner.max_temperature);
            rules.hold(keep, How::Pause, reason::temperature(value, limit, keep));
        }
        rules.number(tick);
        rules.scarce(tick, capacity);
        rules
    }

    /// Nothing may be started when there is one.
    pub fn first(&self) -> Option<&Reason> {
        self.0.first().map(|rule| &rule.reason)
    }

    pub fn has(&self, code: Code) -> bool {
        self.0.iter().any(|rule| rule.reason.code == code)
    }

    /// Own pilots that may run; `None`: no rule says how many.
    pub fn keep(&self) -> Option<usize> {
        self.0.iter().filter_map(|rule| rule.keep).min()
    }

    pub fn how(&self) -> How {
        let hows = self.0.iter().map(|rule| rule.how);
        hows.max().unwrap_or(How::Pause)
    }

    /// A rule that the owner ends with a command ends at once; the others only after `calm-for`.
    pub fn end_at_once(&self) -> bool {
        let commands = [Code::ForceStop, Code::Drain, Code::Snooze, Code::Hold];
        self.0
            .iter()
            .all(|rule| commands.contains(&rule.reason.code))
    }

    /// Only heat holds pilots back, and its own steps are slow enough to let one more run.
    pub fn are_heat_alone(&self) -> bool {
        let mut codes = self.0.iter().map(|rule| rule.reason.code);
        self.keep().is_some() && codes.all(|code| matches!(code, Code::Temperature | Code::Drain))
    }

    fn hold(&mut self, keep: usize, how: How, reason: Reason) {
        self.0.push(Rule {
            keep: Some(keep),
            how,
            reason,
        });
    }

    fn commands(&mut self, tick: &Tick) {
        let (control, epoch) = (&tick.seen.control, tick.seen.at.epoch);
        if control.force_stop {
            self.hold(0, How::Kill, reason::force_stop());
        }
        if let Some(drain) = control.drain {
            let left = drain.by.map(|by| by - epoch);
            let is_over = left.is_some_and(|left| left <= 0.0);
            self.0.push(Rule {
                keep: is_over.then_some(0),
                how: if is_over { How::Stop } else { How::Pause },
                reason: reason::drain(left, tick.own.len()),
            });
        }
        if let Some(left) = snooze_left(tick.seen) {
            self.hold(0, How::Pause, reason::snooze(left));
        }
        if let Some(hold) = &tick.seen.hold {
            self.hold(0, How::Pause, reason::hold(hold));
        }
    }

    fn owner(&mut self, tick: &Tick, was_held: bool) {
        if let Some(program) = &tick.seen.program {
            self.hold(0, How::Pause, reason::program(program));
        }
        if !tick.seen.on_battery {
            return;
        }
        let limit = f64::from(tick.owner.min_battery);
        let restored = limit + if was_held { CHARGE_HYSTERESIS } else { 0.0 };
        let charge = tick.seen.charge.map(f64::from);
        let how = match tick.owner.on_battery {
            OnBattery::Run if charge.is_none_or(|charge| charge >= restored) => return,
            OnBattery::Run | OnBattery::Pause => How::Pause,
            OnBattery::Stop => How::Stop,
        };
        self.hold(0, how, reason::battery(charge, limit));
    }

    fn number(&mut self, tick: &Tick) {
        let Auto::Fixed(most) = tick.share.max_pilots else {
            return;
        };
        let keep = usize::try_from(most).unwrap_or(usize::MAX);
        let running = tick.own.len();
        if running <= keep && most > 0 {
            return;
        }
        let is_of_hours = tick.share.max_pilots != tick.config.share.max_pilots;
        let when = tick.when.and_then(|index| tick.config.when.get(index));
        let hours = when
            .filter(|_| is_of_hours)
            .map(|when| when.hours.text.clone());
        self.hold(keep, How::Pause, reason::max_pilots(running, most, hours));
    }

    /// What runs short is given back by the youngest first, one a tick; its end wakes the loop for the next look.
    fn scarce(&mut self, tick: &Tick, capacity: &Capacity) {
        let (seen, share) = (tick.seen, &tick.share);
        let fewer = tick.own.len().saturating_sub(1);
        if let Some(free) = seen.disk_free.filter(|free| *free < share.reserve_disk.0) {
            self.hold(fewer, How::Stop, reason::disk(free, share.reserve_disk));
        }
        if capacity.memory_given == 0 {
            return;
        }
        let reserve = share.reserve_memory;
        if let Some(memory) = seen
            .memory
            .filter(|memory| memory.available < reserve.0 / 2)
        {
            self.hold(fewer, How::Stop, reason::memory(memory.available, reserve));
        }
        if let Some(pressure) = seen
            .memory_pressure
            .filter(|pressure| *pressure > PRESSURE_LIMIT)
        {
            let reason = reason::memory_pressure(pressure, PRESSURE_LIMIT);
            self.hold(fewer, How::Stop, reason);
        }
    }
}

/// Seconds of a snooze that is in force.
fn snooze_left(seen: &Observation) -> Option<f64> {
    let left = seen.control.snooze?.until - seen.at.epoch;
    (left > 0.0).then_some(left)
}

/// Seconds until a timed rule (snooze, `drain --by`) changes by itself.
pub(super) fn next_change(seen: &Observation) -> Option<f64> {
    let drain = seen.control.drain.and_then(|drain| drain.by);
    let left = drain
        .map(|by| by - seen.at.epoch)
        .filter(|left| *left > 0.0);
    left.into_iter().chain(snooze_left(seen)).reduce(f64::min)
}

/// Heat takes one pilot at a time; this is how far it has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ThermalLimit {
    /// Pilots that may run; `None`: as many as fit.
    keep: Option<usize>,
    /// Boot-clock second of the last step.
    stepped: Option<f64>,
}

impl ThermalLimit {
    /// Above the limit one pilot fewer each `calm-for`; well below it one more.
    fn step(&mut self, tick: &Tick) -> Option<usize> {
        let limit = float(tick.owner.max_temperature.into());
        let Some(temperature) = tick.seen.temperature.filter(|_| limit > 0.0) else {
            self.keep = None;
            return None;
        };
        let calm_for = tick.owner.calm_for.as_secs_f64();
        if self.stepped.is_some_and(|at| tick.now - at < calm_for) {
            return self.keep;
        }
        let keep = match self.keep {
            _ if temperature > limit => Some(tick.count(PilotState::Running).saturating_sub(1)),
            Some(keep) if temperature < limit - HEAT_HYSTERESIS => {
                Some(keep + 1).filter(|keep| *keep < tick.own.len())
            }
            keep => keep,
        };
        if keep != self.keep {
            (self.keep, self.stepped) = (keep, Some(tick.now));
        }
        keep
    }
}
