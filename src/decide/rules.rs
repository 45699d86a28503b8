//! The owner's rules: commands, hours, battery, heat, programs, disk and memory. Each says how many pilots may run
//! and whether any may start, with its own reason; the strictest counts.

use super::reason::{Code, Reason};
use super::{Capacity, Memory, PilotState, Tick};
use crate::config::{Auto, OnBattery};
use crate::units::{Bytes, count_pilots, float, format_rough};
use std::time::Duration;

/// What happens to pilots beyond the number that may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum How {
    Pause,
    /// SIGTERM, and SIGKILL after the pilot's grace.
    Stop,
    /// SIGKILL now.
    Kill,
}

/// ThermalLimit goes down by one pilot at a time; this is how far it has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThermalLimit {
    /// Pilots that may run; `None`: as many as fit.
    keep: Option<usize>,
    /// Boot-clock second of the last step.
    stepped: f64,
}

/// Degrees below the limit at which heat no longer holds pilots back.
const HEAT_HYSTERESIS: f64 = 5.0;
/// Percent above the limit at which a charge counts as restored.
const CHARGE_HYSTERESIS: f64 = 5.0;
/// Percent of time in which the owner's processes waited for memory.
const PRESSURE_LIMIT: f64 = 20.0;

#[derive(Debug, Default)]
pub(super) struct Rules {
    reasons: Vec<Reason>,
    /// Own pilots that may run.
    pub keep: Option<usize>,
    pub how: Option<How>,
    /// `false`: nothing is started.
    pub launches: bool,
    pub draining: bool,
    pub snoozed: bool,
    pub ends_when_empty: bool,
    /// Seconds until a timed rule (snooze, `drain --by`) changes by itself.
    pub ends_in: Option<f64>,
    /// Only heat holds pilots back, and its own steps are slow enough to let one more run.
    pub wakes: bool,
    /// A rule that the owner ends with a command ends at once; the others only after `calm-for`.
    pub at_once: bool,
}

impl Rules {
    pub(super) fn first(&self) -> Option<&Reason> {
        self.reasons.first()
    }

    fn hold(&mut self, keep: usize, how: How, reason: Reason) {
        self.launches = false;
        self.keep = Some(self.keep.map_or(keep, |other| other.min(keep)));
        self.how = self.how.max(Some(how));
        self.reasons.push(reason);
    }

    pub(super) fn of(tick: &Tick, memory: &mut Memory, capacity: &Capacity) -> Rules {
        let mut rules = Rules {
            launches: true,
            at_once: true,
            ..Rules::default()
        };
        rules.commands(tick);
        let commands = rules.reasons.len();
        rules.owner(tick, memory);
        rules.scarce(tick, capacity);
        rules.at_once = rules.reasons.len() == commands;
        let holding = rules
            .reasons
            .iter()
            .filter(|reason| reason.code != Code::Drain);
        rules.wakes = rules.keep.is_some()
            && holding
                .clone()
                .all(|reason| reason.code == Code::Temperature);
        rules
    }

    fn commands(&mut self, tick: &Tick) {
        let epoch = tick.seen.at.epoch;
        if tick.seen.control.force_stop {
            self.ends_when_empty = true;
            self.hold(
                0,
                How::Kill,
                Reason::new(
                    Code::ForceStop,
                    0.0,
                    0.0,
                    "force-stop: removing every pilot",
                ),
            );
        }
        if let Some(drain) = tick.seen.control.drain {
            self.draining = true;
            self.launches = false;
            self.ends_when_empty |= drain.stop;
            let left = drain.by.map(|by| by - epoch);
            self.ends_in = left.filter(|left| *left > 0.0);
            let running = tick.own().count();
            let pilots = count_pilots(running);
            let text = match left {
                Some(left) if left > 0.0 => {
                    format!(
                        "{} more for {pilots} to finish, then they are stopped",
                        rough(left)
                    )
                }
                Some(_) => format!("the time is over, stopping {pilots}"),
                None => format!("nothing is started, {pilots} may finish"),
            };
            let reason = Reason::new(Code::Drain, float(running as u64), 0.0, text);
            match left {
                Some(left) if left <= 0.0 => self.hold(0, How::Stop, reason),
                _ => self.reasons.push(reason),
            }
        }
        if let Some(snooze) = tick
            .seen
            .control
            .snooze
            .filter(|snooze| snooze.until > epoch)
        {
            let left = snooze.until - epoch;
            self.snoozed = true;
            self.ends_in = Some(self.ends_in.map_or(left, |other| other.min(left)));
            let text = format!("pilots are paused for {} more", rough(left));
            self.hold(0, How::Pause, Reason::new(Code::Snooze, left, 0.0, text));
        }
        if let Some(hold) = &tick.seen.hold {
            self.hold(
                0,
                How::Pause,
                Reason::new(Code::Hold, 0.0, 0.0, format!("held back by {hold}")),
            );
        }
    }

    fn owner(&mut self, tick: &Tick, memory: &mut Memory) {
        let (seen, owner) = (tick.seen, &tick.owner);
        if let Some(program) = &seen.program {
            let text = format!("'{program}' is running and is to have the machine alone");
            self.hold(0, How::Pause, Reason::new(Code::Program, 0.0, 0.0, text));
        }
        if seen.on_battery {
            self.battery(tick, memory);
        }
        if let Some(keep) = memory.thermal.step(tick) {
            let (value, limit) = (
                seen.temperature.unwrap_or(0.0),
                float(owner.max_temperature.into()),
            );
            let text = format!(
                "the processor is at {value:.0} °C, the limit is {limit:.0} °C; {} may run",
                count_pilots(keep)
            );
            self.hold(
                keep,
                How::Pause,
                Reason::new(Code::Temperature, value, limit, text),
            );
        }
        if let Auto::Fixed(most) = tick.share.max_pilots {
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            let running = tick.own().count();
            if running > most || most == 0 {
                let (value, limit) = (float(running as u64), float(most as u64));
                let (code, by) = match tick.when.and_then(|index| tick.config.when.get(index)) {
                    Some(when) if tick.share.max_pilots != tick.config.share.max_pilots => {
                        (Code::Hours, format!("at these hours ({})", when.hours))
                    }
                    _ => (Code::MaxPilots, "(max-pilots)".to_owned()),
                };
                let text = format!("{} of {most} that are allowed {by}", count_pilots(running));
                self.hold(most, How::Pause, Reason::new(code, value, limit, text));
            }
        }
    }

    fn battery(&mut self, tick: &Tick, memory: &mut Memory) {
        let limit = f64::from(tick.owner.min_battery);
        let held = memory.owner_load.holding;
        let charge = tick.seen.charge.map(f64::from);
        let low = charge
            .is_some_and(|charge| charge < limit + if held { CHARGE_HYSTERESIS } else { 0.0 });
        let how = match tick.owner.on_battery {
            OnBattery::Run if low => How::Pause,
            OnBattery::Run => return,
            OnBattery::Pause => How::Pause,
            OnBattery::Stop => How::Stop,
        };
        let value = charge.unwrap_or(0.0);
        let text = match charge {
            Some(charge) => format!(
                "the machine runs on its battery, at {charge:.0} % (min-battery {limit:.0} %)"
            ),
            None => "the machine runs on its battery".to_owned(),
        };
        self.hold(0, how, Reason::new(Code::Battery, value, limit, text));
    }

    /// What runs short is given back by the youngest first, one a tick; its end wakes the loop for the next look.
    fn scarce(&mut self, tick: &Tick, capacity: &Capacity) {
        let seen = tick.seen;
        let fewer = tick.own().count().saturating_sub(1);
        let reserve = tick.share.reserve_disk;
        if let Some(free) = seen.disk_free.filter(|free| *free < reserve.0) {
            let text = format!(
                "{} are free on the engine's disk, {reserve} are reserved",
                Bytes(free)
            );
            self.hold(
                fewer,
                How::Stop,
                Reason::new(Code::Disk, float(free), float(reserve.0), text),
            );
        }
        let pilots_hold_memory = capacity.memory_given > 0;
        let reserve = tick.share.reserve_memory;
        if let Some(m) = seen
            .memory
            .filter(|m| pilots_hold_memory && m.available < reserve.0 / 2)
        {
            let text = format!(
                "{} of memory are available, half of the reserve of {reserve} is the least",
                Bytes(m.available)
            );
            let reason = Reason::new(Code::Memory, float(m.available), float(reserve.0 / 2), text);
            self.hold(fewer, How::Stop, reason);
        }
        if let Some(pressure) = seen
            .memory_pressure
            .filter(|p| pilots_hold_memory && *p > PRESSURE_LIMIT)
        {
            let text =
                format!("memory is short: somebody waited for it {pressure:.0} % of the time");
            self.hold(
                fewer,
                How::Stop,
                Reason::new(Code::MemoryPressure, pressure, PRESSURE_LIMIT, text),
            );
        }
    }
}

impl ThermalLimit {
    /// Above the limit one pilot fewer each `calm-for`; well below it one more.
    fn step(&mut self, tick: &Tick) -> Option<usize> {
        let limit = float(tick.owner.max_temperature.into());
        let Some(temperature) = tick.seen.temperature.filter(|_| limit > 0.0) else {
            self.keep = None;
            return None;
        };
        let due =
            self.stepped <= 0.0 || tick.now - self.stepped >= tick.owner.calm_for.as_secs_f64();
        if !due {
            return self.keep;
        }
        let all = tick.own().count();
        let running = tick
            .own()
            .filter(|pilot| pilot.state == PilotState::Running)
            .count();
        let keep = match self.keep {
            _ if temperature > limit => Some(running.saturating_sub(1)),
            Some(keep) if temperature < limit - HEAT_HYSTERESIS => {
                Some(keep + 1).filter(|keep| *keep < all)
            }
            keep => keep,
        };
        if keep != self.keep {
            self.stepped = tick.now;
        }
        self.keep = keep;
        keep
    }
}

fn rough(seconds: f64) -> String {
    format_rough(Duration::from_secs_f64(seconds.clamp(0.0, 1e9).ceil()))
}
