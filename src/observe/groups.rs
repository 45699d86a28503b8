//! The control groups of the running pilots, and of their parent: what they use, whether their limits hold and whether they
//! run at idle priority. A pilot's limits are read back once; its group is kept for as long as it runs.

use super::SHORTEST_WINDOW;
use super::facts::Facts;
use crate::decide::{Pilot, PilotState, Protection};
use crate::host::cgroup::{Group, Limits};
use crate::units::{Bytes, PilotId, float, whole};
use std::collections::BTreeMap;

/// A running pilot whose group is in no known place after this long is somewhere else, in seconds.
const FOUND_WITHIN: f64 = 10.0;

/// Seconds between questions for a group that could not be found.
const ASKED_AGAIN: f64 = 60.0;

#[derive(Default)]
pub struct Groups {
    /// A pilot was seen to run in the idle group: true as long as the group stays idle.
    verified: bool,
    /// Our parent group, where a pilot was seen to run below it; the engine's own word for it until then.
    parent: Option<Group>,
    /// A pilot whose group is known: the others of this engine are in the same place under their own ids.
    sample: Option<(PilotId, Group)>,
    /// Running pilots whose groups are to be asked for.
    unknown: Vec<PilotId>,
    /// CPU seconds counted pilot by pilot, where no parent group counts them.
    counted: f64,
    running: BTreeMap<PilotId, Running>,
}

/// A running pilot's group, and what was read from it.
#[derive(Default)]
struct Running {
    group: Option<Group>,
    /// Boot second at which the engine was asked for its first process.
    asked_at: Option<f64>,
    first_seen: f64,
    unlimited: Option<String>,
    /// Its limits as the kernel holds them, for people; empty: not read yet.
    limits: String,
    /// Boot second and CPU seconds of the last look.
    usage: Option<(f64, f64)>,
    /// CPU seconds of its group that are in the sum already.
    counted: f64,
}

impl Groups {
    /// Finds the groups of pilots that have just started, and reads their limits back.
    pub fn look(&mut self, pilots: &mut [Pilot], facts: &Facts, contended: bool, now: f64) {
        let mut before = std::mem::take(&mut self.running);
        let sample = self.sample.as_ref();
        self.parent = sample.and_then(|(_, group)| facts.parent_of(group));
        for pilot in pilots.iter_mut() {
            if !matches!(pilot.state, PilotState::Running | PilotState::Paused) {
                continue;
            }
            let new = || Running {
                first_seen: now,
                ..Running::default()
            };
            let mut running = before.remove(&pilot.id).unwrap_or_else(new);
            if running.group.is_none() {
                let sample = self.sample.as_ref();
                running.group = sample.and_then(|(id, group)| group.of_other(id, &pilot.id));
                let pause = if now - running.first_seen > FOUND_WITHIN {
                    ASKED_AGAIN
                } else {
                    1.0
                };
                let is_asked = running.asked_at.is_some_and(|at| now - at < pause);
                if running.group.is_none() && !is_asked {
                    running.asked_at = Some(now);
                    self.unknown.push(pilot.id.clone());
                }
            }
            // Again until its limits were read: a group that is just being made has not all of its files yet.
            if running.limits.is_empty() {
                running.read_limits(pilot);
            }
            pilot.unlimited.clone_from(&running.unlimited);
            pilot.used = if contended {
                running.cores_used(now)
            } else {
                None
            };
            running.usage = running.usage.filter(|_| contended);
            self.running.insert(pilot.id.clone(), running);
        }
    }

    /// Pilots whose first process the engine is to be asked for: its group is where the kernel says.
    pub fn take_unknown(&mut self) -> Vec<PilotId> {
        std::mem::take(&mut self.unknown)
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

    /// Limits as read back from one of our own pilots; empty: from none yet.
    pub fn limits(&self, own: &[&Pilot]) -> String {
        let mut limits = own
            .iter()
            .filter_map(|pilot| Some(&self.running.get(&pilot.id)?.limits));
        limits
            .find(|text| !text.is_empty())
            .cloned()
            .unwrap_or_default()
    }

    pub fn protection(&mut self, facts: Option<&Facts>, own: &[&Pilot], now: f64) -> Protection {
        let protection = self.read_protection(facts, own, now);
        self.verified = match protection {
            Protection::Verified => true,
            Protection::Prepared => self.verified,
            Protection::Session | Protection::Lost | Protection::None(_) => false,
        };
        if self.verified {
            Protection::Verified
        } else {
            protection
        }
    }

    /// The parent group where it really is.
    fn parent<'a>(&'a self, facts: Option<&'a Facts>) -> Option<&'a Group> {
        self.parent.as_ref().or(facts?.parent.as_ref().ok())
    }

    fn read_protection(&self, facts: Option<&Facts>, own: &[&Pilot], now: f64) -> Protection {
        let Some(facts) = facts else {
            return Protection::None("the engine was not asked yet".to_owned());
        };
        if let Err(why) = &facts.parent {
            return Protection::None(why.clone());
        }
        let parent = self.parent(Some(facts)).filter(|parent| parent.exists());
        match parent.map(Group::read_cpu_idle) {
            Some(Some(true)) => {}
            Some(Some(false)) => return Protection::Lost,
            Some(None) => {
                let why = "this kernel has no idle groups (Linux 5.15 and newer have), or they are not delegated";
                return Protection::None(why.to_owned());
            }
            None if facts.is_ours => return Protection::Lost,
            // The engine makes it with the first pilot.
            None => return Protection::Prepared,
        }
        let running = own
            .iter()
            .filter(|pilot| pilot.state == PilotState::Running);
        let known: Vec<_> = running
            .filter_map(|pilot| Some((pilot, self.running.get(&pilot.id)?)))
            .collect();
        let is_inside = |running: &Running| {
            running
                .group
                .as_ref()
                .is_some_and(|group| facts.parent_of(group).is_some())
        };
        let is_outside =
            |running: &Running| !is_inside(running) && now - running.first_seen > FOUND_WITHIN;
        match known.iter().find(|(_, running)| is_outside(running)) {
            Some((pilot, _)) => {
                Protection::None(format!("{} does not run in the idle group", pilot.name))
            }
            None if !known.iter().any(|(_, running)| is_inside(running)) => Protection::Prepared,
            None if facts.is_rootless => Protection::Session,
            None => Protection::Verified,
        }
    }

    /// CPU seconds of all pilots so far: the parent group's counter where there is one, else what was counted pilot by
    /// pilot. `None`: pilots run whose use cannot be read.
    pub fn used_seconds(&mut self, facts: Option<&Facts>, now: f64) -> Option<f64> {
        // Without facts it is not known yet who counts: what comes later must not look like a leap.
        facts?;
        match self.parent(facts) {
            Some(parent) if parent.exists() => return parent.read_usage_seconds(),
            Some(_) => return Some(0.0),
            None => {}
        }
        for running in self.running.values_mut() {
            // A group that is gone between the list and this look has ended: its last moments are not worth a gap.
            let used = running.used_seconds().unwrap_or(running.counted);
            self.counted += (used - running.counted).max(0.0);
            running.counted = used;
        }
        let is_hidden =
            |running: &Running| running.group.is_none() && now - running.first_seen > FOUND_WITHIN;
        (!self.running.values().any(is_hidden)).then_some(self.counted)
    }

    /// Bytes that pilots use, without page cache.
    pub fn used_memory(&self, facts: Option<&Facts>) -> Option<u64> {
        match self.parent(facts) {
            Some(parent) if parent.exists() => parent.read_memory_used(),
            Some(_) => Some(0),
            None => {
                let read = |running: &Running| running.group.as_ref()?.read_memory_used();
                Some(self.running.values().filter_map(read).sum())
            }
        }
    }
}

impl Running {
    fn read_limits(&mut self, pilot: &Pilot) {
        self.counted = self.used_seconds().unwrap_or(0.0);
        let Some(group) = &self.group else { return };
        if let Some(limits) = group.read_limits() {
            self.unlimited = unlimited(&limits, pilot).filter(|_| group.has_processes());
            let Limits {
                cpus,
                memory_bytes,
                pids,
            } = limits;
            let shown = |limit: f64, text: String| match limit.is_finite() {
                true => text,
                false => "no limit".to_owned(),
            };
            self.limits = format!(
                "{} cores, {} of memory, {} processes",
                shown(cpus, cpus.to_string()),
                shown(memory_bytes, Bytes(whole(memory_bytes)).to_string()),
                shown(pids, pids.to_string()),
            );
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
    let wanted = float(pilot.memory);
    let checks = [
        ("CPU", limits.cpus, pilot.cpus * 1.02 + 0.01),
        (
            "memory",
            limits.memory_bytes,
            if pilot.memory == 0 {
                f64::INFINITY
            } else {
                wanted
            },
        ),
        ("pids", limits.pids, f64::MAX),
    ];
    let (what, found, _) = checks.iter().find(|(_, found, most)| found > most)?;
    let name = &pilot.name;
    Some(format!(
        "the {what} limit of {name} does not hold (it is {found})"
    ))
}
