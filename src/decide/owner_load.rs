//! Giving back and taking again: since when the owner needs the cores, which pilots are paused or stopped then, and since
//! when it has been calm enough to wake them.

use super::observation::{Pilot, PilotState, Protection};
use super::pilots::{Cause, Pilots};
use super::reason::{self, Code, Reason};
use super::rules::{How, Rules};
use super::tick::{Capacity, Tick};
use crate::config::WhenBusy;

/// While a need is new, the load is sampled this often (seconds), so that a burst over one tick's border is not taken
/// for a steady load.
const LOOK_AGAIN: f64 = 2.0;
/// Looks after the first one before anything is given back.
const CERTAIN: u32 = 2;

/// A need that lasts.
#[derive(Clone, Debug)]
struct Need {
    /// Boot-clock second.
    since: f64,
    looks: u32,
    /// The window in which it first showed, to be weighed by the next look: its length and the cores.
    first_look: (f64, f64),
}

#[derive(Clone, Debug)]
pub(super) struct OwnerLoad {
    /// The owner needs more than rides along.
    need: Option<Need>,
    /// End of the last window that was looked at.
    looked_at: f64,
    /// Seconds until the load is to be looked at again.
    pub look_again: Option<f64>,
    /// Since when nothing has held pilots back; `None`: something does.
    calm_since: Option<f64>,
    /// Last second at which one was given back without knowing the need.
    last_blind: Option<f64>,
    /// Something was given back to the owner's need and not taken again yet.
    recovering: bool,
    /// Some rule or need holds pilots back.
    pub holding: bool,
}

impl Default for OwnerLoad {
    /// Calm from the beginning: a daemon that starts on an idle machine need not wait.
    fn default() -> Self {
        OwnerLoad {
            need: None,
            looked_at: 0.0,
            look_again: None,
            calm_since: Some(f64::NEG_INFINITY),
            last_blind: None,
            recovering: false,
            holding: false,
        }
    }
}

impl OwnerLoad {
    /// Since when the need lasts. A need first seen in a long window began somewhere inside it: how the next, short look
    /// compares with it tells where, and one more look tells that it is not just ending.
    fn watch(&mut self, tick: &Tick, cores: f64) {
        let Some(cpu) = tick.seen.cpu.filter(|cpu| cpu.at > self.looked_at) else {
            return;
        };
        self.looked_at = cpu.at;
        self.look_again = None;
        if cores <= 0.0 {
            self.need = None;
            return;
        }
        let need = self.need.get_or_insert(Need {
            since: cpu.at,
            looks: 0,
            first_look: (cpu.window, cores),
        });
        if need.looks == 1 {
            let (window, before) = need.first_look;
            need.since -= window * (before / cores).clamp(0.0, 1.0);
        }
        need.looks += 1;
        let missing = tick.owner.busy_for.as_secs_f64() - (tick.now - need.since);
        let is_open = need.looks <= CERTAIN || missing > 0.0;
        self.look_again = is_open.then(|| missing.clamp(1.0, LOOK_AGAIN));
    }

    /// The owner needs the cores, and has for `busy-for`.
    fn is_busy(&self, tick: &Tick) -> bool {
        let busy_for = tick.owner.busy_for.as_secs_f64() - 1e-6;
        let is_long = |need: &Need| need.looks > CERTAIN && tick.now - need.since >= busy_for;
        self.need.as_ref().is_some_and(is_long)
    }

    /// A need is there, be it ever so new: nothing is launched into it.
    pub fn in_doubt(&self) -> bool {
        self.need.is_some()
    }

    /// The owner is short of CPU.
    pub fn is_contended(&self) -> bool {
        self.holding || self.in_doubt()
    }

    /// Calm begins when nothing holds pilots back, and what was given back would fit again.
    fn time_calm(&mut self, tick: &Tick, rules: &Rules, capacity: &Capacity) {
        let paused = tick
            .own
            .iter()
            .filter(|pilot| pilot.state == PilotState::Paused);
        let next = paused
            .map(|pilot| pilot.cpus)
            .chain(tick.config.pilots.iter().map(|class| class.cpus))
            .fold(f64::INFINITY, f64::min);
        let is_loose = |free: f64| free - next >= capacity.launch_floor;
        let is_tight = self.recovering && !capacity.free_now.is_some_and(is_loose);
        let is_held = rules.keep().is_some() && !rules.end_at_once();
        if is_tight || is_held || self.is_busy(tick) {
            self.calm_since = None;
            return;
        }
        self.calm_since.get_or_insert(tick.now);
        self.recovering &= !self.is_calm(tick);
    }

    /// Seconds of calm that are still missing; 0: nothing held pilots back for `calm-for`.
    pub fn until_calm(&self, tick: &Tick) -> f64 {
        let calm_for = self.calm_since.map_or(0.0, |since| tick.now - since);
        (tick.owner.calm_for.as_secs_f64() - calm_for).max(0.0)
    }

    pub fn is_calm(&self, tick: &Tick) -> bool {
        self.until_calm(tick) <= 0.0
    }

    /// Why the owner's need holds pilots back; `None`: it does not.
    pub fn reason(&self, tick: &Tick, capacity: &Capacity) -> Option<Reason> {
        capacity.free_now?;
        let gives_way = capacity.need_unknown && !tick.own.is_empty();
        if gives_way || self.in_doubt() {
            return Some(reason::busy(tick, capacity));
        }
        let waits = tick.count(PilotState::Paused) > 0 && !self.is_calm(tick);
        waits.then(|| reason::calming(tick, capacity, self.until_calm(tick)))
    }

    /// How the owner's need for CPU is met, and how many cores have to be given back now.
    fn measure(&mut self, tick: &Tick, capacity: &Capacity, need: f64) -> (How, f64) {
        let is_verified = tick.seen.protection == Protection::Verified;
        let how = match tick.owner.when_busy {
            // The kernel yields for us within a scheduling tick: there is nothing to give back.
            WhenBusy::Yield => return (How::Pause, 0.0),
            WhenBusy::Auto if is_verified => return (How::Pause, 0.0),
            WhenBusy::Auto | WhenBusy::Pause => How::Pause,
            WhenBusy::Stop => How::Stop,
        };
        if need > 0.0 && self.is_busy(tick) {
            return (how, need);
        }
        let calm_for = tick.owner.calm_for.as_secs_f64();
        let is_due = self
            .last_blind
            .is_none_or(|last| tick.now - last >= calm_for);
        if capacity.need_unknown && is_due {
            self.last_blind = Some(tick.now);
            // However small: one pilot.
            return (how, f64::EPSILON.sqrt());
        }
        (how, 0.0)
    }

    /// The pilots that may run are the oldest; the others are paused or stopped, as many in one pass as are too many.
    pub fn give_back(
        &mut self,
        tick: &Tick,
        rules: &Rules,
        capacity: &Capacity,
        pilots: &mut Pilots,
    ) {
        let need = capacity.need();
        self.watch(tick, need);
        let (how, mut cores) = self.measure(tick, capacity, need);
        let (rule, keep) = (rules.how(), rules.keep());
        self.holding = keep.is_some() || cores > 0.0;
        self.recovering |= cores > 0.0;
        self.time_calm(tick, rules, capacity);
        let own = tick.own.iter().copied();
        let own: Vec<&Pilot> = own
            .filter(|pilot| rule == How::Kill || !pilots.is_stopping(pilot))
            .collect();
        let is_running = |pilot: &&&Pilot| pilot.state == PilotState::Running;
        let running = own.iter().filter(is_running).count();
        // Paused ones hold memory and disk too.
        let counted = if rule > How::Pause {
            own.len()
        } else {
            running
        };
        let mut too_many = keep.map_or(0, |keep| counted.saturating_sub(keep));
        for pilot in own.iter().rev() {
            let is_running = pilot.state == PilotState::Running;
            let (how, cause) = match () {
                () if too_many > 0 && (rule > How::Pause || is_running) => {
                    too_many -= 1;
                    let is_drain = rules.has(Code::Drain);
                    (rule, if is_drain { Cause::Drain } else { Cause::Owner })
                }
                () if too_many == 0 && cores > 1e-6 && is_running => (how, Cause::Owner),
                () => continue,
            };
            cores -= pilot.cpus;
            match how {
                How::Pause => pilots.pause(tick, pilot, cause),
                How::Stop => pilots.stop(tick, pilot, cause),
                How::Kill => pilots.kill(tick, pilot, cause),
            }
        }
        pilots.stop_starved(tick, self.is_contended(), rules.has(Code::Snooze));
        if !self.in_doubt() && (self.is_calm(tick) || rules.are_heat_alone()) {
            let most = keep.map_or(usize::MAX, |keep| keep.saturating_sub(running));
            wake(tick, capacity, &own, most, pilots);
        }
    }
}

/// Paused pilots go on, the oldest first, while they fit.
fn wake(tick: &Tick, capacity: &Capacity, own: &[&Pilot], most: usize, pilots: &mut Pilots) {
    let mut capacity = capacity.clone();
    let paused = own.iter().filter(|pilot| pilot.state == PilotState::Paused);
    for pilot in paused.take(most) {
        if !capacity.fits_cpu(pilot.cpus) {
            return;
        }
        capacity.wake(pilot.cpus);
        pilots.wake(tick, pilot);
    }
}
