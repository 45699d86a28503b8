//! The owner's side. Rules: commands, hours, battery, heat, programs, disk and memory; each that holds says how many pilots
//! may run, what happens to the others, and why. The strictest counts; the first is the one that is told. And the need for
//! CPU: since when the owner needs the cores, which pilots are paused or stopped then, and since when it has been calm
//! enough to wake them.

use super::{state::Need, *};
use crate::config::{OnBattery, WhenBusy};

/// Degrees below the limit at which heat no longer holds pilots back.
const COOL: f64 = 5.0;
/// Percent above the limit at which a charge counts as restored.
const RESTORED: f64 = 5.0;
/// Percent of time in which the owner's processes waited for memory.
const PRESSURE_LIMIT: f64 = 20.0;
/// So long, in seconds, the first rate of a new daemon may take.
const UNREAD_LEAST: f64 = 5.0;
/// While a need is new, the load is sampled this often (seconds), so that a burst over one tick's border is not taken
/// for a steady load.
const LOOK_AGAIN: f64 = 2.0;
/// Looks after the first one before anything is given back.
const CERTAIN: u32 = 2;
/// A pilot that gets less than this share of its CPUs is starved.
const STARVED: f64 = 0.05;

/// A rule of the owner's that holds: own pilots that may run (`None`: all that do), and why. While any does, nothing is
/// started.
pub(super) type Rule = (Option<usize>, Reason);

/// What happens to pilots beyond the number that may run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum How {
    Pause,
    /// SIGTERM, and SIGKILL after the pilot's grace.
    Stop,
    /// SIGKILL now.
    Kill,
}

impl Tick<'_> {
    /// The rules that hold, in the order in which they are told.
    pub(super) fn find_rules(&mut self) {
        let (seen, own, epoch) = (self.seen, self.own.len(), self.seen.at.epoch);
        let (control, none, mut rules) = (&seen.control, Some(0), Vec::new());
        let mut rule = |holds: bool, keep, why| rules.extend(holds.then_some((keep, why)));
        let reason = Reason::of(Code::ForceStop, 0.0, 0.0, "");
        rule(control.force_stop, none, reason);
        let left = |end: f64| end - epoch;
        let by = control.drain.and_then(|drain| drain.by).map(left);
        let keep = by.filter(|left| *left <= 0.0).and(none);
        rule(control.drain.is_some(), keep, reason::drain(by, own));
        let snooze = control.snooze.map_or(0.0, |snooze| left(snooze.until));
        let reason = Reason::of(Code::Snooze, snooze, 0.0, "");
        rule(snooze > 0.0, none, reason);
        self.wake_at(self.now + by.unwrap_or(0.0));
        self.wake_at(self.now + snooze);
        for (code, what) in [(Code::Hold, &seen.hold), (Code::Program, &seen.program)] {
            let what = what.as_deref().unwrap_or("");
            rule(!what.is_empty(), none, Reason::of(code, 0.0, 0.0, what));
        }
        let patience = self.owner.busy_for.as_secs_f64().max(UNREAD_LEAST);
        let unread = self.time_unread(patience);
        rule(unread >= patience, none, reason::unread(unread, patience));
        let charge = seen.charge.map(f64::from);
        let least = f64::from(self.owner.min_battery);
        let enough = least + if self.state.holding { RESTORED } else { 0.0 };
        let is_charged = least == 0.0 || charge >= Some(enough);
        let may_run = self.owner.on_battery == OnBattery::Run && is_charged;
        let binds = seen.on_battery && !may_run;
        rule(binds, none, reason::battery(charge, &self.owner));
        let limit = f64::from(self.owner.max_temperature);
        let keep = self.cool(limit);
        let reason = reason::temperature(seen.temperature, limit, keep.unwrap_or(0));
        rule(keep.is_some(), keep, reason);
        let (most, usual) = (self.share.max_pilots, self.config.share.max_pilots);
        let (code, hours) = match self.hours.filter(|_| most != usual) {
            Some(hours) => (Code::Hours, format!("during these hours ({hours})")),
            None => (Code::MaxPilots, reason::MAX_PILOTS.to_owned()),
        };
        let most = most.or(u32::MAX) as usize;
        let number = Reason::of(code, float(own as u64), float(most as u64), hours);
        rule(own > most || most == 0, Some(most), number);
        // What runs short is given back by the youngest first, one a tick; its end wakes the loop for the next look.
        let fewer = Some(own.saturating_sub(1));
        let (free, reserve) = (seen.disk_free, self.share.reserve_disk);
        let is_short = reserve.0 > 0 && free.is_none_or(|free| free < reserve.0);
        rule(is_short, free.and(fewer), reason::disk(free, reserve));
        let is_given = self.out.capacity.memory_given > 0;
        let reserve = self.share.reserve_memory;
        let available = seen.memory.map_or(u64::MAX, |memory| memory.available);
        let is_short = is_given && available < reserve.0 / 2;
        rule(is_short, fewer, reason::memory(available, reserve));
        let (stalled, limit) = (seen.memory_pressure.unwrap_or(0.0), PRESSURE_LIMIT);
        let pressure = Reason::of(Code::MemoryPressure, stalled, limit, "");
        rule(is_given && stalled > limit, fewer, pressure);
        self.rules = rules;
        let mut void = reason::void(seen, &self.owner, self.share.reserve_disk);
        void.extend((unread >= patience).then(|| reason::UNREAD.to_owned()));
        self.out.void = void;
    }

    pub(super) fn has_rule(&self, code: Code) -> bool {
        self.rules.iter().any(|(_, reason)| reason.code == code)
    }

    /// What becomes of those that a rule does not keep.
    fn how(&self, code: Code) -> How {
        match code {
            Code::ForceStop => How::Kill,
            Code::Drain | Code::Disk | Code::Memory | Code::MemoryPressure => How::Stop,
            Code::Battery if self.owner.on_battery == OnBattery::Stop => How::Stop,
            _ => How::Pause,
        }
    }

    /// Seconds for which pilots' use can't be read: they may be using anything.
    fn time_unread(&mut self, patience: f64) -> f64 {
        if self.seen.cpu.is_some() || self.own.is_empty() {
            self.state.unread_since = None;
            return 0.0;
        }
        let since = *self.state.unread_since.get_or_insert(self.now);
        self.wake_at(since + patience);
        self.now - since
    }

    /// Above the limit one pilot fewer each `calm-for`; well below it one more. No pilot at all where a limit of the owner's own
    /// can't be held, since nothing tells the temperature.
    fn cool(&mut self, limit: f64) -> Option<usize> {
        let Some(value) = self.seen.temperature.filter(|_| limit > 0.0) else {
            self.state.cool = None;
            return reason::needs_sensor(&self.owner).then_some(0);
        };
        let (own, running) = (self.own.len(), self.own_in(PilotState::Running).len());
        let keep = match self.state.cool {
            keep if !self.is_due(self.state.cooled_at) => keep,
            _ if value > limit => Some(running.saturating_sub(1)),
            Some(keep) if value < limit - COOL => Some(keep + 1).filter(|keep| *keep < own),
            keep => keep,
        };
        if keep != self.state.cool {
            (self.state.cool, self.state.cooled_at) = (keep, Some(self.now));
        }
        keep
    }

    /// Nothing was done of a kind that is done once in `calm-for`.
    fn is_due(&self, last: Option<f64>) -> bool {
        let calm_for = self.owner.calm_for.as_secs_f64();
        last.is_none_or(|last| self.now - last >= calm_for)
    }

    /// Since when the need lasts. A need first seen in a long window began somewhere inside it: how the next, short look
    /// compares with it tells where, and one more look tells that it is not just ending.
    fn watch(&mut self) {
        let (cores, busy_for) = (self.out.capacity.need, self.owner.busy_for.as_secs_f64());
        let looked_at = self.state.looked_at;
        if let Some(cpu) = self.seen.cpu.filter(|cpu| cpu.at > looked_at) {
            self.state.looked_at = cpu.at;
            let need = self.state.need.get_or_insert(Need {
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
                self.state.need = None;
            }
        }
        if let Some(need) = &self.state.need {
            let missing = busy_for - (self.now - need.since);
            if need.looks <= CERTAIN || missing > 0.0 {
                self.wake_at(self.now + missing.clamp(1.0, LOOK_AGAIN));
            }
        }
    }

    /// The owner needs the cores, and has for `busy-for`.
    fn is_busy(&self) -> bool {
        let busy_for = self.owner.busy_for.as_secs_f64() - 1e-6;
        let is_long = |need: &Need| need.looks > CERTAIN && self.now - need.since >= busy_for;
        self.state.need.as_ref().is_some_and(is_long)
    }

    /// What the next pilot needs: free cores down to which it may start or be woken.
    pub(super) fn least_free(&self) -> f64 {
        let paused = self.own_in(PilotState::Paused);
        let classes = self.config.pilots.iter().map(|class| class.cpus);
        let sizes = paused.iter().map(|pilot| pilot.cpus).chain(classes);
        sizes.fold(f64::INFINITY, f64::min) + self.out.capacity.launch_floor
    }

    /// Calm begins when nothing holds pilots back, and what was given back would fit again. What the owner asks for by a
    /// command or a file ends at once.
    fn time_calm(&mut self, keep: Option<usize>) {
        let commands = [Code::ForceStop, Code::Drain, Code::Snooze, Code::Hold];
        let is_command = |(_, reason): &Rule| commands.contains(&reason.code);
        let is_held = keep.is_some() && !self.rules.iter().all(is_command);
        let least = self.least_free();
        let is_tight = self.out.capacity.free_now.is_none_or(|free| free < least);
        if is_held || self.is_busy() || self.state.recovering && is_tight {
            self.state.calm_since = Some(f64::INFINITY);
            return;
        }
        self.state.calm_since = self.state.calm_since.map(|since| since.min(self.now));
        self.state.recovering &= self.until_calm() > 0.0;
    }

    /// Seconds of calm that are still missing; 0: nothing held pilots back for `calm-for`.
    pub(super) fn until_calm(&self) -> f64 {
        let calm_for = self.owner.calm_for.as_secs_f64();
        let left = |since: f64| (calm_for - (self.now - since)).clamp(0.0, calm_for);
        self.state.calm_since.map_or(0.0, left)
    }

    /// How the owner's need for CPU is met, and how many cores have to be given back now.
    fn measure_need(&mut self) -> (How, f64) {
        let room = &self.out.capacity;
        let is_verified = self.seen.protection == Protection::Verified;
        let how = match self.owner.when_busy {
            // The kernel yields for us within a scheduling tick: there is nothing to give back.
            WhenBusy::Yield => return (How::Pause, 0.0),
            WhenBusy::Auto if is_verified => return (How::Pause, 0.0),
            WhenBusy::Auto | WhenBusy::Pause => How::Pause,
            WhenBusy::Stop => How::Stop,
        };
        if room.need > 0.0 && self.is_busy() {
            return (how, room.need);
        }
        if room.need_unknown && self.is_due(self.state.last_blind) {
            self.state.last_blind = Some(self.now);
            // However small: one pilot.
            return (how, f64::EPSILON.sqrt());
        }
        (how, 0.0)
    }

    /// The pilots that may run are the oldest; the others are paused or stopped, as many in one pass as are too many.
    pub(super) fn give_back(&mut self) {
        self.watch();
        let (by_need, mut cores) = self.measure_need();
        let binding = self.rules.iter().filter(|(keep, _)| keep.is_some());
        let hows = binding.clone().map(|(_, reason)| self.how(reason.code));
        let by_rule = hows.max().unwrap_or(How::Pause);
        let keep = binding.filter_map(|(keep, _)| *keep).min();
        self.state.holding = keep.is_some() || cores > 0.0;
        self.state.recovering |= cores > 0.0;
        self.time_calm(keep);
        let mut own = self.own.clone();
        own.retain(|pilot| by_rule == How::Kill || self.known(pilot).cause.is_none());
        let is_running = |pilot: &&Pilot| pilot.state == PilotState::Running;
        // Paused ones hold memory and disk too.
        let is_counted = |pilot: &&Pilot| by_rule > How::Pause || is_running(pilot);
        let counted = own.iter().copied().filter(is_counted).count();
        let mut too_many = keep.map_or(0, |keep| counted.saturating_sub(keep));
        let cause = match self.has_rule(Code::Drain) {
            true => EndKind::Drained,
            false => EndKind::Owner,
        };
        for pilot in own.iter().rev() {
            if too_many > 0 && is_counted(pilot) {
                too_many -= 1;
                self.hold_back(pilot, by_rule, cause);
            } else if too_many == 0 && cores > 1e-6 && is_running(pilot) {
                self.hold_back(pilot, by_need, EndKind::Owner);
            } else {
                continue;
            }
            cores -= pilot.cpus;
        }
        self.out.contended = self.state.holding || self.state.need.is_some();
        self.stop_starved(&own);
        let is_heat = |(_, reason): &Rule| reason.code == Code::Temperature;
        let by_heat = keep.is_some() && self.rules.iter().all(is_heat);
        if self.state.need.is_none() && (by_heat || self.until_calm() <= 0.0) {
            let running = own.iter().copied().filter(is_running).count();
            self.wake(&own, keep.map(|keep| keep.saturating_sub(running)));
        }
    }

    fn hold_back(&mut self, pilot: &Pilot, how: How, cause: EndKind) {
        let is_pausable = find(self.config, &pilot.class).is_none_or(|class| class.pausable);
        match how {
            _ if !self.is_free(pilot) => {}
            How::Pause if pilot.state == PilotState::Created => {}
            How::Pause if is_pausable => self.ask(pilot, Action::Pause),
            How::Pause | How::Stop => self.stop(pilot, cause, pilot.grace),
            How::Kill => self.stop(pilot, cause, 0.0),
        }
    }

    /// Asked for once; asked again only when the list does not show it by then.
    fn ask(&mut self, pilot: &Pilot, action: fn(Pilot) -> Action) {
        let busy_until = self.now + self.config.interval() / 2.0;
        let handled = self.handled(pilot);
        (handled.busy_until, handled.asked_in) = (busy_until, Some(pilot.state));
        self.out.actions.push(action(pilot.clone()));
    }

    /// A pilot that stands still for `starve-limit` holds its memory for nothing. One that merely waits for a job on a
    /// machine that has room is not starved: that is told apart only while the owner is short of CPU.
    fn stop_starved(&mut self, own: &[&Pilot]) {
        let (contended, snoozed) = (self.out.contended, self.has_rule(Code::Snooze));
        let limit = self.owner.starve_limit.as_secs_f64();
        let is_idle = |pilot: &Pilot| pilot.used.is_some_and(|used| used < STARVED * pilot.cpus);
        let is_paused = |pilot: &Pilot| pilot.state == PilotState::Paused;
        let is_starved = |pilot: &&&Pilot| is_paused(pilot) || contended && is_idle(pilot);
        let before = std::mem::take(&mut self.state.starved);
        for pilot in own.iter().filter(is_starved) {
            let since = before.get(&pilot.id).copied().unwrap_or(self.now);
            self.state.starved.insert(pilot.id.clone(), since);
            // A snooze is the owner's own word for "not now, but later".
            if self.now - since >= limit && !snoozed && self.is_free(pilot) {
                self.stop(pilot, EndKind::Owner, pilot.grace);
            }
        }
    }

    /// Paused pilots go on, the oldest first, while they fit.
    fn wake(&mut self, own: &[&Pilot], most: Option<usize>) {
        let mut free = self.out.capacity.free;
        let paused = own.iter().filter(|pilot| pilot.state == PilotState::Paused);
        for pilot in paused.take(most.unwrap_or(usize::MAX)) {
            free = free.map(|free| free - pilot.cpus);
            if free.is_none_or(|free| free < self.out.capacity.launch_floor - 1e-6) {
                return;
            }
            if self.is_free(pilot) {
                self.ask(pilot, Action::Unpause);
            }
        }
    }
}
