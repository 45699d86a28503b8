//! The owner's rules: commands, hours, battery, heat, programs, disk and memory. Each that holds says how many pilots may
//! run, what happens to the others, and why. The strictest counts; the first is the one that is told.

use super::observation::PilotState;
use super::reason::{self, Code, Reason};
use super::tick::{How, Rule, Tick};
use crate::config::{Auto, OnBattery, Owner};

/// Degrees below the limit at which heat no longer holds pilots back.
const HEAT_HYSTERESIS: f64 = 5.0;
/// Percent above the limit at which a charge counts as restored.
const CHARGE_HYSTERESIS: f64 = 5.0;
/// Percent of time in which the owner's processes waited for memory.
const PRESSURE_LIMIT: f64 = 20.0;
/// So long, in seconds, the first rate of a new daemon may take.
const UNREAD_LEAST: f64 = 5.0;

impl Tick<'_> {
    pub(super) fn find_rules(&mut self) {
        self.commands();
        self.owners();
        self.heat();
        self.number();
        self.scarce();
        self.find_void();
    }

    fn hold(&mut self, keep: usize, how: How, reason: Reason) {
        let keep = Some(keep);
        self.rules.push(Rule { keep, how, reason });
    }

    /// Own pilots that may run; `None`: no rule says how many.
    pub(super) fn keep(&self) -> Option<usize> {
        self.rules.iter().filter_map(|rule| rule.keep).min()
    }

    /// What the owner asks for by a command or a file: it ends at once, the other rules only after `calm-for`.
    pub(super) fn has_commands_alone(&self) -> bool {
        let commands = [Code::ForceStop, Code::Drain, Code::Snooze, Code::Hold];
        let mut rules = self.rules.iter();
        rules.all(|rule| commands.contains(&rule.reason.code))
    }

    fn commands(&mut self) {
        let (seen, epoch) = (self.seen, self.seen.at.epoch);
        if seen.control.force_stop {
            self.hold(0, How::Kill, reason::force_stop());
        }
        if let Some(drain) = seen.control.drain {
            let left = drain.by.map(|by| by - epoch);
            let is_over = left.is_some_and(|left| left <= 0.0);
            self.wake_at(self.now + left.unwrap_or(0.0));
            self.rules.push(Rule {
                keep: is_over.then_some(0),
                how: if is_over { How::Stop } else { How::Pause },
                reason: reason::drain(left, self.own.len()),
            });
        }
        let snooze = seen.control.snooze.map(|snooze| snooze.until - epoch);
        if let Some(left) = snooze.filter(|left| *left > 0.0) {
            self.wake_at(self.now + left);
            self.hold(0, How::Pause, reason::snooze(left));
        }
        if let Some(hold) = &seen.hold {
            self.hold(0, How::Pause, reason::hold(hold));
        }
    }

    fn owners(&mut self) {
        if let Some(program) = &self.seen.program {
            self.hold(0, How::Pause, reason::program(program));
        }
        self.unread();
        if !self.seen.on_battery {
            return;
        }
        let limit = f64::from(self.owner.min_battery);
        let was_held = self.state.load.holding;
        let restored = limit + if was_held { CHARGE_HYSTERESIS } else { 0.0 };
        let charge = self.seen.charge.map(f64::from);
        let how = match self.owner.on_battery {
            OnBattery::Run if charge.is_some_and(|charge| charge >= restored) => return,
            OnBattery::Run if self.owner.min_battery == 0 => return,
            OnBattery::Run | OnBattery::Pause => How::Pause,
            OnBattery::Stop => How::Stop,
        };
        self.hold(0, how, reason::battery(charge, limit));
    }

    /// Pilots whose use can't be read may be using anything.
    fn unread(&mut self) {
        if self.seen.cpu.is_some() || self.own.is_empty() {
            self.state.unread_since = None;
            return;
        }
        let since = *self.state.unread_since.get_or_insert(self.now);
        let patience = self.owner.busy_for.as_secs_f64().max(UNREAD_LEAST);
        self.wake_at(since + patience);
        if self.now - since >= patience {
            self.hold(0, How::Pause, reason::unread(self.now - since, patience));
        }
    }

    /// Rules that can't be kept, because what they go by is not known.
    fn find_void(&mut self) {
        let (seen, owner) = (self.seen, &self.owner);
        // The usual limit is nobody's wish on a machine without a sensor, such as a virtual one.
        let is_asked_for = owner.max_temperature != Owner::default().max_temperature;
        if owner.max_temperature > 0 && is_asked_for && seen.temperature.is_none() {
            self.out.void.push(reason::no_sensor(owner.max_temperature));
        }
        let is_watched = owner.on_battery == OnBattery::Run && owner.min_battery > 0;
        if is_watched && seen.has_battery && seen.charge.is_none() {
            self.out.void.push(reason::no_charge(owner.min_battery));
        }
        if self.share.reserve_disk.0 > 0 && seen.disk_free.is_none() {
            self.out.void.push(reason::no_disk(self.share.reserve_disk));
        }
    }

    /// Above the limit one pilot fewer each `calm-for`; well below it one more.
    fn heat(&mut self) {
        let limit = f64::from(self.owner.max_temperature);
        let mut thermal = self.state.thermal;
        let Some(value) = self.seen.temperature.filter(|_| limit > 0.0) else {
            self.state.thermal.keep = None;
            return;
        };
        let is_due = |at: f64| self.now - at >= self.calm_for();
        if thermal.stepped.is_none_or(is_due) {
            thermal.keep = match thermal.keep {
                _ if value > limit => Some(self.count(PilotState::Running).saturating_sub(1)),
                Some(keep) if value < limit - HEAT_HYSTERESIS => {
                    Some(keep + 1).filter(|keep| *keep < self.own.len())
                }
                keep => keep,
            };
            if thermal.keep != self.state.thermal.keep {
                thermal.stepped = Some(self.now);
            }
            self.state.thermal = thermal;
        }
        if let Some(keep) = thermal.keep {
            self.hold(keep, How::Pause, reason::temperature(value, limit, keep));
        }
    }

    fn number(&mut self) {
        let Auto::Fixed(most) = self.share.max_pilots else {
            return;
        };
        let running = self.own.len();
        if running as u64 <= u64::from(most) && most > 0 {
            return;
        }
        let mut when = self.when.and_then(|index| self.config.when.get(index));
        when = when.filter(|_| self.share.max_pilots != self.config.share.max_pilots);
        let hours = when.map(|when| when.hours.text.clone());
        let reason = reason::max_pilots(running, most, hours);
        self.hold(most as usize, How::Pause, reason);
    }

    /// What runs short is given back by the youngest first, one a tick; its end wakes the loop for the next look.
    fn scarce(&mut self) {
        let seen = self.seen;
        let fewer = self.own.len().saturating_sub(1);
        let (memory, disk) = (self.share.reserve_memory, self.share.reserve_disk);
        match seen.disk_free {
            Some(free) if free < disk.0 => {
                self.hold(fewer, How::Stop, reason::disk(Some(free), disk))
            }
            None if disk.0 > 0 => self.rules.push(Rule {
                keep: None,
                how: How::Pause,
                reason: reason::disk(None, disk),
            }),
            _ => {}
        }
        let given = self.out.capacity.memory_given > 0;
        let available = seen.memory.map(|memory| memory.available);
        if let Some(available) = available.filter(|bytes| given && *bytes < memory.0 / 2) {
            self.hold(fewer, How::Stop, reason::memory(available, memory));
        }
        let pressure = seen.memory_pressure;
        if let Some(pressure) = pressure.filter(|percent| given && *percent > PRESSURE_LIMIT) {
            let reason = reason::memory_pressure(pressure, PRESSURE_LIMIT);
            self.hold(fewer, How::Stop, reason);
        }
    }
}
