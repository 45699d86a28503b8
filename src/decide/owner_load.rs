//! Giving back and taking again: since when the owner needs the cores, which pilots are paused or stopped then, and since
//! when it has been calm enough to wake them.

use super::observation::{EndKind, Pilot, PilotState, Protection};
use super::reason::{self, Code, Reason};
use super::state::Need;
use super::tick::{Action, How, Rule, Tick};
use crate::config::WhenBusy;

/// While a need is new, the load is sampled this often (seconds), so that a burst over one tick's border is not taken
/// for a steady load.
const LOOK_AGAIN: f64 = 2.0;
/// Looks after the first one before anything is given back.
const CERTAIN: u32 = 2;
/// A pilot that gets less than this share of its CPUs is starved.
const STARVED: f64 = 0.05;

impl Tick<'_> {
    /// Since when the need lasts. A need first seen in a long window began somewhere inside it: how the next, short look
    /// compares with it tells where, and one more look tells that it is not just ending.
    fn watch(&mut self) {
        let (cores, busy_for) = (self.out.capacity.need, self.owner.busy_for.as_secs_f64());
        let load = &mut self.state.load;
        let is_newer = |at: f64| at > load.looked_at;
        if let Some(cpu) = self.seen.cpu.filter(|cpu| is_newer(cpu.at)) {
            load.looked_at = cpu.at;
            let need = load.need.get_or_insert(Need {
                since: cpu.at,
                looks: 0,
                first_look: (cpu.window, cores),
            });
            if need.looks == 1 {
                let (window, before) = need.first_look;
                need.since -= window * (before / cores).clamp(0.0, 1.0);
            }
            need.looks += 1;
            if cores <= 0.0 {
                load.need = None;
            }
        }
        let Some(need) = &load.need else {
            return;
        };
        let missing = busy_for - (self.now - need.since);
        if need.looks <= CERTAIN || missing > 0.0 {
            self.wake_at(self.now + missing.clamp(1.0, LOOK_AGAIN));
        }
    }

    /// The owner needs the cores, and has for `busy-for`.
    fn is_busy(&self) -> bool {
        let busy_for = self.owner.busy_for.as_secs_f64() - 1e-6;
        let is_long = |need: &Need| need.looks > CERTAIN && self.now - need.since >= busy_for;
        self.state.load.need.as_ref().is_some_and(is_long)
    }

    /// A need is there, be it ever so new: nothing is launched into it.
    pub(super) fn in_doubt(&self) -> bool {
        self.state.load.need.is_some()
    }

    /// The owner is short of CPU.
    pub(super) fn is_contended(&self) -> bool {
        self.state.load.holding || self.in_doubt()
    }

    /// What the next pilot needs: free cores down to which it may start or be woken.
    fn least_free(&self) -> f64 {
        let sizes = self.of_state(PilotState::Paused).map(|pilot| pilot.cpus);
        let classes = self.config.pilots.iter().map(|class| class.cpus);
        sizes.chain(classes).fold(f64::INFINITY, f64::min) + self.out.capacity.launch_floor
    }

    /// Calm begins when nothing holds pilots back, and what was given back would fit again.
    fn time_calm(&mut self) {
        let least = self.least_free();
        let is_loose = self.out.capacity.free_now.is_some_and(|free| free >= least);
        let is_held = self.keep().is_some() && !self.has_commands_alone();
        let is_busy = self.is_busy();
        let load = &mut self.state.load;
        if is_held || is_busy || load.recovering && !is_loose {
            load.calm_since = Some(f64::INFINITY);
            return;
        }
        load.calm_since = load.calm_since.map(|since| since.min(self.now));
        if self.is_calm() {
            self.state.load.recovering = false;
        }
    }

    /// Seconds of calm that are still missing; 0: nothing held pilots back for `calm-for`.
    pub(super) fn until_calm(&self) -> f64 {
        let calm_for = self.calm_for();
        let since = self.state.load.calm_since;
        since.map_or(0.0, |since| {
            (calm_for - (self.now - since)).clamp(0.0, calm_for)
        })
    }

    pub(super) fn is_calm(&self) -> bool {
        self.until_calm() <= 0.0
    }

    /// Why the owner's need, or the wait for calm after it, holds pilots back; `None`: it does not.
    pub(super) fn owner_reason(&self) -> Option<Reason> {
        let (seen, room, left) = (self.seen, &self.out.capacity, self.until_calm());
        let (least, is_paused) = (self.least_free(), self.count(PilotState::Paused) > 0);
        let gives_way = room.need_unknown && !self.own.is_empty();
        let calm_since = self.state.load.calm_since;
        let is_held = calm_since.is_some_and(f64::is_infinite);
        let is_cramped = is_paused && room.free.is_some_and(|free| free < least - 1e-6);
        match () {
            () if gives_way || self.in_doubt() => Some(reason::busy(seen, room)),
            // The wait does not get shorter.
            () if is_held || left <= 0.0 && is_cramped => Some(reason::tight(seen, room, least)),
            () if left <= 0.0 => None,
            () if is_paused => Some(reason::calming(seen, room, left)),
            () => Some(reason::calming_to_launch(self.holding(), left)),
        }
    }

    /// How the owner's need for CPU is met, and how many cores have to be given back now.
    fn measure(&mut self) -> (How, f64) {
        let is_verified = self.seen.protection == Protection::Verified;
        let how = match self.owner.when_busy {
            // The kernel yields for us within a scheduling tick: there is nothing to give back.
            WhenBusy::Yield => return (How::Pause, 0.0),
            WhenBusy::Auto if is_verified => return (How::Pause, 0.0),
            WhenBusy::Auto | WhenBusy::Pause => How::Pause,
            WhenBusy::Stop => How::Stop,
        };
        if self.out.capacity.need > 0.0 && self.is_busy() {
            return (how, self.out.capacity.need);
        }
        let last = self.state.load.last_blind;
        let is_due = last.is_none_or(|last| self.now - last >= self.calm_for());
        if self.out.capacity.need_unknown && is_due {
            self.state.load.last_blind = Some(self.now);
            // However small: one pilot.
            return (how, f64::EPSILON.sqrt());
        }
        (how, 0.0)
    }

    /// The pilots that may run are the oldest; the others are paused or stopped, as many in one pass as are too many.
    pub(super) fn give_back(&mut self) {
        self.watch();
        let (by_need, mut cores) = self.measure();
        let keep = self.keep();
        self.state.load.holding = keep.is_some() || cores > 0.0;
        self.state.load.recovering |= cores > 0.0;
        self.time_calm();
        let hows = self.rules.iter().map(|rule| rule.how);
        let by_rule = hows.max().unwrap_or_default();
        let mut own = self.own.clone();
        own.retain(|pilot| by_rule == How::Kill || !self.is_stopping(pilot));
        let is_running = |pilot: &Pilot| pilot.state == PilotState::Running;
        let running = own.iter().filter(|pilot| is_running(pilot)).count();
        // Paused ones hold memory and disk too.
        let counted = match by_rule {
            How::Pause => running,
            How::Stop | How::Kill => own.len(),
        };
        let mut too_many = keep.map_or(0, |keep| counted.saturating_sub(keep));
        let cause = match self.has_rule(Code::Drain) {
            true => EndKind::Drained,
            false => EndKind::Owner,
        };
        for pilot in own.iter().rev() {
            if too_many > 0 && (by_rule > How::Pause || is_running(pilot)) {
                too_many -= 1;
                self.hold_back(pilot, by_rule, cause);
            } else if too_many == 0 && cores > 1e-6 && is_running(pilot) {
                self.hold_back(pilot, by_need, EndKind::Owner);
            } else {
                continue;
            }
            cores -= pilot.cpus;
        }
        self.stop_starved(&own);
        let is_heat = |rule: &Rule| rule.reason.code == Code::Temperature;
        let by_heat = keep.is_some() && self.rules.iter().all(is_heat);
        if !self.in_doubt() && (by_heat || self.is_calm()) {
            let most = keep.map_or(usize::MAX, |keep| keep.saturating_sub(running));
            self.wake(&own, most);
        }
    }

    pub(super) fn is_stopping(&self, pilot: &Pilot) -> bool {
        let handled = self.state.handled.get(&pilot.id);
        handled.is_some_and(|handled| handled.cause.is_some())
    }

    fn hold_back(&mut self, pilot: &Pilot, how: How, cause: EndKind) {
        let mut classes = self.config.pilots.iter();
        let class = classes.find(|class| class.name == pilot.class);
        let is_pausable = class.is_none_or(|class| class.pausable);
        match how {
            _ if !self.is_free(pilot) => {}
            How::Pause if pilot.state == PilotState::Created => {}
            How::Pause if is_pausable => {
                let id = pilot.id.clone();
                self.ask(pilot, Action::Pause { id });
            }
            How::Pause | How::Stop => self.stop(pilot, cause, pilot.grace),
            How::Kill => self.stop(pilot, cause, 0.0),
        }
    }

    /// Asked for once; asked again only when the list does not show it by then.
    fn ask(&mut self, pilot: &Pilot, action: Action) {
        let busy_until = self.now + self.interval() / 2.0;
        let handled = self.handled(pilot);
        (handled.busy_until, handled.asked_in) = (busy_until, Some(pilot.state));
        self.out.actions.push(action);
    }

    /// A pilot that stands still for `starve-limit` holds its memory for nothing. One that merely waits for a job on a
    /// machine that has room is not starved: that is told apart only while the owner is short of CPU.
    fn stop_starved(&mut self, own: &[&Pilot]) {
        let limit = self.owner.starve_limit.as_secs_f64();
        let (contended, snoozed) = (self.is_contended(), self.has_rule(Code::Snooze));
        for pilot in own {
            let is_idle = pilot.used.is_some_and(|used| used < STARVED * pilot.cpus);
            let is_starved = match pilot.state {
                PilotState::Paused => true,
                PilotState::Running => contended && is_idle,
                _ => false,
            };
            if !is_starved {
                if let Some(handled) = self.state.handled.get_mut(&pilot.id) {
                    handled.starved_since = None;
                }
                continue;
            }
            let now = self.now;
            let since = *self.handled(pilot).starved_since.get_or_insert(now);
            // A snooze is the owner's own word for "not now, but later".
            if now - since >= limit && !snoozed && self.is_free(pilot) {
                self.stop(pilot, EndKind::Owner, pilot.grace);
            }
        }
    }

    /// Paused pilots go on, the oldest first, while they fit.
    fn wake(&mut self, own: &[&Pilot], most: usize) {
        let mut free = self.out.capacity.free;
        let paused = own.iter().filter(|pilot| pilot.state == PilotState::Paused);
        for pilot in paused.take(most) {
            free = free.map(|free| free - pilot.cpus);
            if free.is_none_or(|free| free < self.out.capacity.launch_floor - 1e-6) {
                return;
            }
            if self.is_free(pilot) {
                let id = pilot.id.clone();
                self.ask(pilot, Action::Unpause { id });
            }
        }
    }
}
