//! The control groups of the running pilots, and of their parent: what they use, whether their limits hold and whether they
//! run at idle priority. A pilot's limits are read back once; its group is kept for as long as it runs.

use super::SHORTEST_WINDOW;
use crate::decide::{Pilot, PilotState, Protection};
use crate::host::cgroup::Group;
use crate::site::Facts;
use crate::units::{PilotId, float};
use std::collections::HashMap;

/// A running pilot whose group is in no known place after this long is somewhere else, in seconds.
const FOUND_WITHIN: f64 = 10.0;
/// Seconds between questions for a group that could not be found, at most.
const ASKED_AGAIN: f64 = 60.0;

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
    /// The owner is short of CPU: it matters what each pilot gets.
    pub contended: bool,
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
    /// Boot second and CPU seconds of the last look, and the cores that it used since the one before.
    sample: Option<(f64, f64)>,
    rate: Option<f64>,
}

impl Groups {
    /// Finds the groups of pilots that have just started, and reads their limits back.
    pub fn look(&mut self, pilots: &mut [Pilot], now: f64) {
        let holds =
            |pilot: &&mut Pilot| matches!(pilot.state, PilotState::Running | PilotState::Paused);
        for pilot in pilots.iter_mut().filter(holds) {
            if !self.running.contains_key(&pilot.id) {
                let first_seen = now;
                let running = Running {
                    first_seen,
                    ..Running::default()
                };
                self.running.insert(pilot.id.clone(), running);
            }
            let Some(running) = self.running.get_mut(&pilot.id) else {
                continue;
            };
            running.last_seen = now;
            if running.group.is_none() && running.is_to_be_asked(&pilot.id, self.sample.as_ref()) {
                self.unknown.push(pilot.id.clone());
            }
            // Again until its limits were read: a group that is just being made has not all of its files yet.
            if !running.is_checked {
                running.check_limits(pilot);
            }
            pilot.unlimited.clone_from(&running.unlimited);
            pilot.used = running.rate;
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
        let protection = protection.unwrap_or_else(Protection::None);
        let is_prepared = protection == Protection::Prepared;
        self.verified = protection == Protection::Verified || is_prepared && self.verified;
        match self.verified {
            true => Protection::Verified,
            false => protection,
        }
    }

    /// Errors: why there is none.
    fn read_protection(
        &self,
        pilots: &[Pilot],
        facts: Option<&Facts>,
        now: f64,
    ) -> Result<Protection, String> {
        let facts = facts.ok_or("the engine was not asked yet")?;
        facts.parent.as_ref().map_err(String::clone)?;
        let why =
            "this kernel has no idle groups (Linux 5.15 and newer have), or they are not delegated";
        let parent = match self.parent(Some(facts)).filter(Group::exists) {
            Some(parent) if parent.read_cpu_idle().ok_or(why)? => parent,
            // An engine makes it with the first pilot.
            None if !facts.is_ours => return Ok(Protection::Prepared),
            _ => return Ok(Protection::Lost),
        };
        let is_inside =
            |running: &Running| running.group.iter().any(|group| group.is_below(&parent));
        let is_running = |pilot: &&Pilot| pilot.own && pilot.state == PilotState::Running;
        let mut protection = Protection::Prepared;
        for pilot in pilots.iter().filter(is_running) {
            match self.running.get(&pilot.id) {
                Some(running) if is_inside(running) && facts.is_rootless => {
                    protection = Protection::Session;
                }
                Some(running) if is_inside(running) => protection = Protection::Verified,
                Some(running) if running.is_old(now) => {
                    return Err(format!("{} does not run in the idle group", pilot.name));
                }
                _ => {}
            }
        }
        Ok(protection)
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
        let (parent, mut memory) = (self.parent(facts), 0);
        for running in self.running.values_mut() {
            if self.contended || parent.is_none() {
                self.counted += running.use_since(now);
            } else {
                (running.sample, running.rate) = (None, None);
            }
            let group = running.group.as_ref().filter(|_| parent.is_none());
            memory += group.and_then(Group::read_memory_used).unwrap_or(0);
        }
        match parent {
            Some(parent) if parent.exists() => {
                return (parent.read_usage_seconds(), parent.read_memory_used());
            }
            Some(_) => return (Some(0.0), Some(0)),
            None => {}
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
    /// asked, if it is time for that: seldom once it is no longer new.
    fn is_to_be_asked(&mut self, id: &PilotId, sample: Option<&(PilotId, Group)>) -> bool {
        let now = self.last_seen;
        self.group = sample.and_then(|(other, group)| group.of_other(other, id));
        let pause = (now - self.first_seen).clamp(1.0, ASKED_AGAIN);
        let is_due = self.group.is_none() && now - self.asked_at >= pause;
        self.asked_at = if is_due { now } else { self.asked_at };
        is_due
    }

    fn check_limits(&mut self, pilot: &Pilot) {
        if let Some(group) = &self.group
            && let Some(limits) = group.read_limits()
        {
            self.unlimited = unlimited(limits, pilot).filter(|_| group.has_processes());
            self.is_checked = true;
        }
    }

    /// CPU seconds since the last look. A group that is gone between the list and this look has ended: its last moments are
    /// not worth a gap.
    fn use_since(&mut self, now: f64) -> f64 {
        self.rate = None;
        let Some(seconds) = self.group.as_ref().and_then(Group::read_usage_seconds) else {
            return 0.0;
        };
        let before = self.sample.replace((now, seconds));
        let (at, before) = before.unwrap_or((now, seconds));
        let used = (seconds - before).max(0.0);
        self.rate = (now - at >= SHORTEST_WINDOW).then(|| used / (now - at));
        used
    }
}

/// Names the first limit that was asked for and does not hold. Swap accounting alone is often off, and then the memory
/// limit holds all the same.
fn unlimited([cpus, memory, pids]: [f64; 3], pilot: &Pilot) -> Option<String> {
    let wanted = match pilot.memory {
        0 => f64::INFINITY,
        bytes => float(bytes),
    };
    let checks = [
        ("CPU", cpus, pilot.cpus * 1.02 + 0.01),
        ("memory", memory, wanted),
        ("pids", pids, f64::MAX),
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
