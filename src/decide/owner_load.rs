//! Giving back and taking again: which pilots are paused, stopped and woken when the owner needs the capacity.

use super::ends::Cause;
use super::reason::{Code, Reason};
use super::rules::{How, Rules};
use super::{Action, Capacity, Memory, Pilot, PilotState, Protection, Tick};
use crate::config::WhenBusy;
use crate::units::PilotId;
use std::collections::BTreeMap;

/// While a need is new, the load is sampled this often (seconds), so that a burst over one tick's border is not taken
/// for a steady load.
const LOOK_AGAIN: f64 = 2.0;
/// Looks after the first one before anything is given back.
const CERTAIN: u32 = 2;
/// A pilot that gets less than this share of its CPUs is starved.
const STARVED: f64 = 0.05;

#[derive(Clone, Debug)]
pub struct OwnerLoad {
    /// Boot-clock second since which the owner needs more than rides along.
    busy_since: Option<f64>,
    /// Looks at the load since the need first showed.
    looks: u32,
    /// The window in which it first showed, to be weighed by the next look: (its length, its need).
    first_look: (f64, f64),
    /// End of the last window that was looked at.
    looked_at: f64,
    /// Since when nothing has held pilots back; `None`: something does.
    calm_since: Option<f64>,
    /// Last second at which one was given back without knowing the need.
    last_blind: Option<f64>,
    /// Something was given back to the owner's need and not taken again yet.
    recovering: bool,
    /// Some rule or need holds pilots back.
    pub(super) holding: bool,
    starved: BTreeMap<PilotId, f64>,
    pub(super) look_again: Option<f64>,
}

impl Default for OwnerLoad {
    /// Calm from the beginning: a daemon that starts on an idle machine need not wait.
    fn default() -> Self {
        OwnerLoad {
            busy_since: None,
            looks: 0,
            first_look: (0.0, 0.0),
            looked_at: 0.0,
            calm_since: Some(f64::NEG_INFINITY),
            recovering: false,
            last_blind: None,
            holding: false,
            starved: BTreeMap::new(),
            look_again: None,
        }
    }
}

impl OwnerLoad {
    /// Since when the need lasts. A need first seen in a long window began somewhere inside it: how the next, short look
    /// compares with it tells where, and one more look tells that it is not just ending.
    fn watch(&mut self, tick: &Tick, need: f64) {
        let Some(cpu) = tick.seen.cpu.filter(|cpu| cpu.at > self.looked_at) else {
            return;
        };
        self.looked_at = cpu.at;
        self.look_again = None;
        if need <= 0.0 {
            (self.busy_since, self.looks) = (None, 0);
            return;
        }
        match self.busy_since {
            None => (self.busy_since, self.first_look) = (Some(cpu.at), (cpu.window, need)),
            Some(since) if self.looks == 1 => {
                let (window, before) = self.first_look;
                self.busy_since = Some(since - window * (before / need).clamp(0.0, 1.0));
            }
            Some(_) => {}
        }
        self.looks += 1;
        let lasting = self.busy_since.map_or(0.0, |since| tick.now - since);
        let missing = tick.owner.busy_for.as_secs_f64() - lasting;
        self.look_again =
            (self.looks <= CERTAIN || missing > 0.0).then(|| missing.clamp(1.0, LOOK_AGAIN));
    }

    /// The owner needs the capacity, and has for `busy-for`.
    fn is_busy(&self, tick: &Tick) -> bool {
        let busy_for = tick.owner.busy_for.as_secs_f64() - 1e-6;
        self.looks > CERTAIN
            && self
                .busy_since
                .is_some_and(|since| tick.now - since >= busy_for)
    }

    /// A need is there, be it ever so new: nothing is launched into it.
    pub(super) fn in_doubt(&self) -> bool {
        self.busy_since.is_some()
    }

    pub(super) fn is_contended(&self) -> bool {
        self.holding || self.in_doubt()
    }

    /// Calm begins when nothing holds pilots back, and what was given back would fit again.
    fn time_calm(&mut self, tick: &Tick, rules: &Rules, capacity: &Capacity, given_back: bool) {
        self.recovering |= given_back;
        let paused = tick
            .own()
            .filter(|pilot| pilot.state == PilotState::Paused)
            .map(|pilot| pilot.cpus);
        let next = paused
            .chain(tick.config.pilots.iter().map(|class| class.cpus))
            .fold(f64::INFINITY, f64::min);
        let tight = self.recovering
            && capacity
                .free_now
                .is_none_or(|free| free - next < capacity.launch_floor);
        if tight || self.is_busy(tick) || (rules.keep.is_some() && !rules.at_once) {
            self.calm_since = None;
            return;
        }
        self.calm_since.get_or_insert(tick.now);
        self.recovering &= !self.is_calm(tick);
    }

    /// Seconds of calm that are still missing.
    pub(super) fn until_calm(&self, tick: &Tick) -> f64 {
        (tick.owner.calm_for.as_secs_f64() - self.calm_for(tick.now)).max(0.0)
    }

    fn calm_for(&self, now: f64) -> f64 {
        self.calm_since.map_or(0.0, |since| now - since)
    }

    /// Nothing held pilots back for `calm-for`.
    pub(super) fn is_calm(&self, tick: &Tick) -> bool {
        self.calm_for(tick.now) >= tick.owner.calm_for.as_secs_f64()
    }

    pub(super) fn reason(&self, tick: &Tick, capacity: &Capacity, paused: usize) -> Option<Reason> {
        let free = capacity.free_now?;
        let foreign = tick.seen.cpu.map_or(0.0, |cpu| cpu.foreign);
        let numbers = format!(
            "the owner uses {foreign:.1} of {:.0} cores, pilots were promised {:.1}",
            capacity.cores, capacity.given
        );
        if capacity.need_unknown && tick.own().next().is_some() {
            let text = format!(
                "{numbers}; all cores are busy and pilots are not protected, so they give way one by one"
            );
            return Some(Reason::new(Code::Busy, free, capacity.give_floor, text));
        }
        if self.busy_since.is_some() {
            return Some(Reason::new(
                Code::Busy,
                free,
                capacity.give_floor,
                format!("{numbers}; nothing is started"),
            ));
        }
        if paused > 0 && !self.is_calm(tick) {
            let left = self.until_calm(tick);
            let text = format!("{numbers}; paused pilots go on after {left:.0} s more of calm");
            return Some(Reason::new(Code::Calming, left, 0.0, text));
        }
        None
    }
}

/// The pilots that may run are the oldest; the others are paused or stopped, as many in one pass as are too many.
pub(super) fn give_back(tick: &mut Tick, memory: &mut Memory, rules: &Rules, capacity: &Capacity) {
    let mut owner_load = std::mem::take(&mut memory.owner_load);
    // Where nothing was promised there is nothing to give back.
    let need = if capacity.active > 0.0 {
        capacity.need()
    } else {
        0.0
    };
    owner_load.watch(tick, need);
    let (how, too_much) = busy_measure(tick, &mut owner_load, capacity, need);
    let mut own: Vec<Pilot> = tick
        .own()
        .filter(|p| rules.how == Some(How::Kill) || !memory.stopping.contains_key(&p.id))
        .cloned()
        .collect();
    own.sort_by(|a, b| {
        a.created
            .total_cmp(&b.created)
            .then_with(|| a.id.cmp(&b.id))
    });
    let running = own
        .iter()
        .filter(|pilot| pilot.state == PilotState::Running)
        .count();
    owner_load.holding = rules.keep.is_some() || too_much > 0.0;
    owner_load.time_calm(tick, rules, capacity, too_much > 0.0);
    let mut over_rules = rules.keep.map_or(0, |keep| match rules.how {
        // Paused ones hold memory and disk too.
        Some(How::Stop | How::Kill) => own.len().saturating_sub(keep),
        _ => running.saturating_sub(keep),
    });
    let mut over_need = too_much;
    for pilot in own.iter().rev() {
        if over_rules > 0 {
            let rule = rules.how.unwrap_or(How::Pause);
            if rule > How::Pause || pilot.state == PilotState::Running {
                over_rules -= 1;
                over_need -= pilot.cpus;
                measure(tick, memory, pilot, rule, rule_cause(rules));
            }
        } else if over_need > 1e-6 && pilot.state == PilotState::Running {
            over_need -= pilot.cpus;
            measure(tick, memory, pilot, how, Cause::Owner);
        }
    }
    stop_starved(tick, memory, &mut owner_load, rules, &own);
    if !owner_load.in_doubt() && (owner_load.is_calm(tick) || rules.wakes) {
        let most = rules
            .keep
            .map_or(usize::MAX, |keep| keep.saturating_sub(running));
        wake(tick, memory, capacity, &own, most);
    }
    memory.owner_load = owner_load;
}

fn rule_cause(rules: &Rules) -> Cause {
    if rules.draining {
        Cause::Drain
    } else {
        Cause::Owner
    }
}

/// How the owner's need for CPU is met, and how many cores have to be given back now.
fn busy_measure(
    tick: &Tick,
    owner_load: &mut OwnerLoad,
    capacity: &Capacity,
    need: f64,
) -> (How, f64) {
    let verified = tick.seen.protection == Protection::Verified;
    let how = match tick.owner.when_busy {
        // The kernel yields for us within a scheduling tick: there is nothing to give back.
        WhenBusy::Yield => return (How::Pause, 0.0),
        WhenBusy::Auto if verified => return (How::Pause, 0.0),
        WhenBusy::Auto | WhenBusy::Pause => How::Pause,
        WhenBusy::Stop => How::Stop,
    };
    if owner_load.is_busy(tick) && need > 0.0 {
        return (how, need);
    }
    let waited = owner_load
        .last_blind
        .is_none_or(|last| tick.now - last >= tick.owner.calm_for.as_secs_f64());
    if capacity.need_unknown && waited {
        owner_load.last_blind = Some(tick.now);
        return (how, f64::EPSILON.sqrt());
    }
    (how, 0.0)
}

fn measure(tick: &mut Tick, memory: &mut Memory, pilot: &Pilot, how: How, cause: Cause) {
    if !memory.is_free(&pilot.id, tick.now) {
        return;
    }
    let pausable = tick
        .config
        .pilots
        .iter()
        .find(|class| class.name == pilot.class)
        .is_none_or(|class| class.pausable);
    match how {
        How::Pause if pilot.state == PilotState::Created => {}
        How::Pause if pausable => hand_on(
            tick,
            memory,
            pilot,
            Action::Pause {
                id: pilot.id.clone(),
            },
        ),
        How::Pause | How::Stop => super::upkeep::stop(tick, memory, pilot, cause),
        How::Kill => super::upkeep::kill(tick, memory, pilot, cause),
    }
}

/// Asked for once; asked again only when the state did not follow by then.
fn hand_on(tick: &mut Tick, memory: &mut Memory, pilot: &Pilot, action: Action) {
    memory.busy.insert(
        pilot.id.clone(),
        tick.now + tick.config.loop_.interval.as_secs_f64() / 2.0,
    );
    memory.asked.insert(pilot.id.clone(), pilot.state);
    tick.actions.push(action);
}

/// A pilot that stands still for `starve-limit` holds its memory for nothing. One that merely waits for a job on a
/// machine with capacity is not starved.
fn stop_starved(
    tick: &mut Tick,
    memory: &mut Memory,
    owner_load: &mut OwnerLoad,
    rules: &Rules,
    own: &[Pilot],
) {
    let contended = owner_load.is_contended();
    let starved = |pilot: &Pilot| match pilot.state {
        PilotState::Paused => true,
        PilotState::Running => {
            contended && pilot.used.is_some_and(|used| used < STARVED * pilot.cpus)
        }
        _ => false,
    };
    owner_load
        .starved
        .retain(|id, _| own.iter().any(|pilot| pilot.id == *id && starved(pilot)));
    let limit = tick.owner.starve_limit.as_secs_f64();
    for pilot in own.iter().filter(|pilot| starved(pilot)) {
        let since = *owner_load
            .starved
            .entry(pilot.id.clone())
            .or_insert(tick.now);
        // A snooze is the owner's own word for "not now, but later".
        if tick.now - since >= limit && !rules.snoozed && memory.is_free(&pilot.id, tick.now) {
            super::upkeep::stop(tick, memory, pilot, Cause::Owner);
        }
    }
}

/// Paused pilots go on, the oldest first, while they fit.
fn wake(tick: &mut Tick, memory: &mut Memory, capacity: &Capacity, own: &[Pilot], most: usize) {
    let mut capacity = capacity.clone();
    for pilot in own
        .iter()
        .filter(|pilot| pilot.state == PilotState::Paused)
        .take(most)
    {
        if !capacity.fits_cpu(pilot.cpus) {
            break;
        }
        capacity.wake(pilot.cpus);
        if memory.is_free(&pilot.id, tick.now) {
            hand_on(
                tick,
                memory,
                pilot,
                Action::Unpause {
                    id: pilot.id.clone(),
                },
            );
        }
    }
}
