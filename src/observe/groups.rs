//! The control groups of the running pilots, and of their parent: what they use, whether their limits hold and whether they
//! run at idle priority. A pilot's limits are read back once; its group is kept for as long as it runs.

use super::SHORTEST_WINDOW;
use crate::decide::{Pilot, PilotState, Protection};
use crate::host::cgroup::{Group, Limits};
use crate::site::Facts;
use crate::units::{PilotId, float};
use std::collections::HashMap;

/// A running pilot whose group is in no known place after this long is somewhere else, in seconds.
const FOUND_WITHIN: f64 = 10.0;
/// Seconds between questions for the group of a pilot, and for one that could not be found within that time.
const ASKED_AGAIN: f64 = 1.0;
const ASKED_SELDOM: f64 = 60.0;

#[derive(Default)]
pub struct Groups {
    /// A pilot was seen to run in the idle group: true as long as the group stays idle.
    verified: bool,
    /// A pilot whose group is known: the others of this engine are in the same place under their own ids.
    sample: Option<(PilotId, Group)>,
    /// Running pilots whose first process the engine is to be asked for: their groups are where the kernel says.
    pub unknown: Vec<PilotId>,
    /// CPU seconds counted pilot by pilot, where no parent group counts them.
    counted: f64,
    running: HashMap<PilotId, Running>,
}

/// A running pilot's group, and what was read from it.
#[derive(Default)]
struct Running {
    group: Option<Group>,
    /// Boot seconds at which the engine was asked for its first process, and of the first and the last list that showed it.
    asked_at: f64,
    first_seen: f64,
    last_seen: f64,
    unlimited: Option<String>,
    /// Its limits were read back.
    is_checked: bool,
    /// Boot second and CPU seconds of the last look.
    usage: Option<(f64, f64)>,
    /// CPU seconds of its group that are in the sum already.
    counted: f64,
}

impl Groups {
    /// Finds the groups of pilots that have just started, and reads their limits back.
    pub fn look(&mut self, pilots: &mut [Pilot], contended: bool, now: f64) {
        let holds =
            |pilot: &&mut Pilot| matches!(pilot.state, PilotState::Running | PilotState::Paused);
        for pilot in pilots.iter_mut().filter(holds) {
            let running = self.running.entry(pilot.id.clone()).or_default();
            if running.first_seen <= 0.0 {
                running.first_seen = now;
            }
            running.last_seen = now;
            if running.group.is_none() && running.is_to_be_asked(&pilot.id, self.sample.as_ref()) {
                self.unknown.push(pilot.id.clone());
            }
            // Again until its limits were read: a group that is just being made has not all of its files yet.
            if !running.is_checked {
                running.check_limits(pilot);
            }
            pilot.unlimited.clone_from(&running.unlimited);
            match contended {
                true => pilot.used = running.cores_used(now),
                false => running.usage = None,
            }
        }
        self.running.retain(|_, running| running.last_seen >= now);
    }

    /// `None`: it is not there (any more), and is looked for again, seldom once that pilot is no longer new.
    pub fn learn(&mut self, id: PilotId, group: Option<Group>) {
        if let Some(running) = self.running.get_mut(&id) {
            running.group.clone_from(&group);
        }
        self.sample = group.map(|group| (id, group)).or(self.sample.take());
    }

    pub fn ids(&self) -> Vec<&str> {
        self.running.keys().map(PilotId::as_str).collect()
    }

    pub fn protection(&mut self, pilots: &[Pilot], facts: Option<&Facts>, now: f64) -> Protection {
        let protection = self.read_protection(pilots, facts, now);
        let is_prepared = protection == Protection::Prepared;
        self.verified = protection == Protection::Verified || is_prepared && self.verified;
        match self.verified {
            true => Protection::Verified,
            false => protection,
        }
    }

    fn read_protection(&self, pilots: &[Pilot], facts: Option<&Facts>, now: f64) -> Protection {
        let none = |why: &str| Protection::None(why.to_owned());
        let Some(facts) = facts else {
            return none("the engine was not asked yet");
        };
        if let Err(why) = &facts.parent {
            return none(why);
        }
        let parent = self.parent(Some(facts)).filter(Group::exists);
        match parent.map(|parent| parent.read_cpu_idle()) {
            Some(Some(true)) => {}
            Some(Some(false)) => return Protection::Lost,
            Some(None) => {
                let why = "this kernel has no idle groups (Linux 5.15 and newer have), or they are not delegated";
                return none(why);
            }
            None if facts.is_ours => return Protection::Lost,
            // The engine makes it with the first pilot.
            None => return Protection::Prepared,
        }
        let is_running = |pilot: &&Pilot| pilot.own && pilot.state == PilotState::Running;
        let own = pilots.iter().filter(is_running);
        let mut known = own.filter_map(|pilot| Some((pilot, self.running.get(&pilot.id)?)));
        let is_inside = |running: &Running| {
            let group = running.group.as_ref();
            group.is_some_and(|group| facts.parent_of(group).is_some())
        };
        let is_outside =
            |(_, running): &(&Pilot, &Running)| !is_inside(running) && running.is_old(now);
        match known.clone().find(is_outside) {
            Some((pilot, _)) => none(&format!("{} does not run in the idle group", pilot.name)),
            None if !known.any(|(_, running)| is_inside(running)) => Protection::Prepared,
            None if facts.is_rootless => Protection::Session,
            None => Protection::Verified,
        }
    }

    /// The parent group where a pilot was seen to run below it; the engine's own word for it until then.
    fn parent(&self, facts: Option<&Facts>) -> Option<Group> {
        let facts = facts?;
        let sample = self.sample.as_ref();
        let seen = sample.and_then(|(_, group)| facts.parent_of(group));
        seen.or_else(|| facts.parent.as_ref().ok().cloned())
    }

    /// CPU seconds of all pilots so far, and the bytes that they use without page cache: as the parent group counts them where
    /// there is one, else pilot by pilot. `None`: it cannot be read.
    pub fn used(&mut self, facts: Option<&Facts>, now: f64) -> (Option<f64>, Option<u64>) {
        match self.parent(facts) {
            Some(parent) if parent.exists() => {
                return (parent.read_usage_seconds(), parent.read_memory_used());
            }
            Some(_) => return (Some(0.0), Some(0)),
            None => {}
        }
        let mut memory = 0;
        for running in self.running.values_mut() {
            let Some(group) = &running.group else {
                continue;
            };
            memory += group.read_memory_used().unwrap_or(0);
            // A group that is gone between the list and this look has ended: its last moments are not worth a gap.
            let used = group.read_usage_seconds().unwrap_or(running.counted);
            self.counted += (used - running.counted).max(0.0);
            running.counted = used;
        }
        let mut running = self.running.values();
        let is_hidden = running.any(|running| running.group.is_none() && running.is_old(now));
        // Without facts it is not known yet who counts: what comes later must not look like a leap.
        let seconds = Some(self.counted).filter(|_| facts.is_some() && !is_hidden);
        (seconds, Some(memory))
    }
}

impl Running {
    /// It has run for long enough for its group to be found.
    fn is_old(&self, now: f64) -> bool {
        now - self.first_seen > FOUND_WITHIN
    }

    /// Which group has this pilot: that in the same place as another pilot's, under its own id. Else the engine is to be
    /// asked, if it is time for that.
    fn is_to_be_asked(&mut self, id: &PilotId, sample: Option<&(PilotId, Group)>) -> bool {
        let now = self.last_seen;
        self.group = sample.and_then(|(other, group)| group.of_other(other, id));
        let pause = match self.is_old(now) {
            true => ASKED_SELDOM,
            false => ASKED_AGAIN,
        };
        let is_due = self.group.is_none() && now - self.asked_at >= pause;
        if is_due {
            self.asked_at = now;
        }
        is_due
    }

    fn check_limits(&mut self, pilot: &Pilot) {
        self.counted = self.used_seconds().unwrap_or(0.0);
        if let Some(group) = &self.group
            && let Some(limits) = group.read_limits()
        {
            self.unlimited = unlimited(&limits, pilot).filter(|_| group.has_processes());
            self.is_checked = true;
        }
    }

    fn used_seconds(&self) -> Option<f64> {
        self.group.as_ref()?.read_usage_seconds()
    }

    fn cores_used(&mut self, now: f64) -> Option<f64> {
        let used = self.used_seconds()?;
        let (at, before) = self.usage.replace((now, used))?;
        (now - at >= SHORTEST_WINDOW).then(|| (used - before).max(0.0) / (now - at))
    }
}

/// Names the first limit that was asked for and does not hold. Swap accounting alone is often off, and then the memory
/// limit holds all the same.
fn unlimited(limits: &Limits, pilot: &Pilot) -> Option<String> {
    let memory = match pilot.memory {
        0 => f64::INFINITY,
        bytes => float(bytes),
    };
    let checks = [
        ("CPU", limits.cpus, pilot.cpus * 1.02 + 0.01),
        ("memory", limits.memory_bytes, memory),
        ("pids", limits.pids, f64::MAX),
    ];
    // What is no number does not hold either.
    let (what, found, _) = checks
        .into_iter()
        .find(|(_, found, most)| found > most || found.is_nan())?;
    let name = &pilot.name;
    Some(format!(
        "the {what} limit of {name} does not hold (it is {found})"
    ))
}
