//! The control groups of the running pilots, and of their parent: what they use, whether their limits hold and whether they
//! run at idle priority. A pilot's limits are read back once; its group is kept for as long as it runs.

use super::*;
use crate::decide::{PilotState, Protection};
use crate::{host::cgroup::Group, units::PilotId};
use std::collections::HashMap;

/// A running pilot whose group is in no known place after this long is somewhere else, in seconds.
const FOUND_WITHIN: f64 = 10.0;
/// Seconds between questions for a group that could not be found, at most.
const ASKED_AGAIN: f64 = 60.0;

#[derive(Default)]
pub struct Groups {
    /// Once a pilot was seen to run in the idle group this holds as long as the group stays idle.
    protection: Protection,
    /// A pilot whose group is known: the others of this engine are in the same place under their own ids.
    sample: Option<(PilotId, Group)>,
    /// Running pilots whose first process the engine is to be asked for: their groups are where the kernel says.
    pub unknown: Vec<PilotId>,
    /// CPU seconds counted pilot by pilot, where no parent group counts them.
    counted: f64,
    pub(super) running: HashMap<PilotId, Running>,
    /// The owner is short of CPU: it matters what each pilot gets.
    pub contended: bool,
}

/// A running pilot's group, and what was read from it.
#[derive(Default)]
pub(super) struct Running {
    group: Option<Group>,
    /// Boot seconds at which the engine was asked for its first process, and of the first list that showed it.
    asked_at: f64,
    first_seen: f64,
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
        let new = || Running {
            first_seen: now,
            ..Running::default()
        };
        let room = HashMap::with_capacity(self.running.len());
        let mut before = std::mem::replace(&mut self.running, room);
        for pilot in pilots.iter_mut().filter(holds) {
            let known = before.remove_entry(&pilot.id);
            let (id, mut running) = known.unwrap_or_else(|| (pilot.id.clone(), new()));
            if running.group.is_none() {
                let other = self.sample.as_ref();
                // Where another pilot's group is, under its own id; else the engine is asked, seldom once it is not new.
                running.group = other.and_then(|(other, group)| group.of_other(other, &id));
                let pause = (now - running.first_seen).clamp(1.0, ASKED_AGAIN);
                // One at a time while no place is known: the others' are most likely beside it.
                let is_first = other.is_some() || self.unknown.is_empty();
                if running.group.is_none() && is_first && now - running.asked_at >= pause {
                    running.asked_at = now;
                    self.unknown.push(id.clone());
                }
            }
            // Again until its limits were read: a group that is just being made has not all of its files yet.
            if !running.is_checked
                && let Some(group) = &running.group
                && let Some(limits) = group.read_limits()
            {
                running.unlimited = unlimited(limits, pilot).filter(|_| group.has_processes());
                running.is_checked = true;
            }
            pilot.unlimited.clone_from(&running.unlimited);
            pilot.used = running.rate;
            self.running.insert(id, running);
        }
    }

    /// `None`: it is not there (any more), and is looked for again, seldom once that pilot is no longer new.
    pub fn learn(&mut self, id: PilotId, group: Option<Group>) {
        if let Some(running) = self.running.get_mut(&id) {
            running.group.clone_from(&group);
        }
        self.sample = group.map(|group| (id, group)).or(self.sample.take());
    }

    pub fn protection(&mut self, pilots: &[Pilot], facts: Option<&Facts>, now: f64) -> Protection {
        let unknown = || Err("not known before the engine has answered".to_owned());
        let read = facts.map_or_else(unknown, |facts| self.read_protection(pilots, facts, now));
        let read = read.unwrap_or_else(Protection::None);
        let is_shown = matches!(self.protection, Protection::Verified | Protection::Session);
        if read != Protection::Prepared || !is_shown {
            self.protection = read;
        }
        self.protection.clone()
    }

    /// Errors: why there is none.
    fn read_protection(
        &self,
        pilots: &[Pilot],
        facts: &Facts,
        now: f64,
    ) -> Result<Protection, String> {
        let why = "this kernel has no idle groups (since Linux 5.15), or they are not delegated";
        let parent = self.parent(facts)?;
        if !parent.exists() && !facts.is_ours {
            // An engine makes it with the first pilot.
            return Ok(Protection::Prepared);
        } else if !parent.exists() || !parent.read_cpu_idle().ok_or(why)? {
            return Ok(Protection::Lost);
        }
        let mut protection = Protection::Prepared;
        let is_running = |pilot: &&Pilot| pilot.own && pilot.state == PilotState::Running;
        for pilot in pilots.iter().filter(is_running) {
            let Some(running) = self.running.get(&pilot.id) else {
                continue;
            };
            let group = running.group.as_ref();
            if group.is_some_and(|group| group.is_below(&parent)) {
                protection = match facts.is_rootless {
                    true => Protection::Session,
                    false => Protection::Verified,
                };
            } else if now - running.first_seen > FOUND_WITHIN {
                return Err(format!("{} does not run in the idle group", pilot.name));
            }
        }
        Ok(protection)
    }

    /// The parent group where a pilot was seen to run below it; the engine's own word for it until then, or why there is none.
    fn parent(&self, facts: &Facts) -> Result<Group, String> {
        let named = facts.parent.clone()?;
        let sample = self.sample.as_ref();
        let seen = sample.and_then(|(_, group)| {
            group.ancestor(facts.layout.parent_name().trim_start_matches('/'))
        });
        Ok(seen.unwrap_or(named))
    }

    /// CPU seconds of all pilots so far, and the bytes that they use without page cache: as the parent group counts them where
    /// there is one, else pilot by pilot. `None`: it cannot be read.
    pub fn used(&mut self, facts: Option<&Facts>, now: f64) -> (Option<f64>, Option<u64>) {
        let parent = facts.and_then(|facts| self.parent(facts).ok());
        let mut memory = 0;
        for running in self.running.values_mut() {
            let is_counted = self.contended || parent.is_none();
            running.sample = running.sample.filter(|_| is_counted);
            running.rate = None;
            // A group that is gone between the list and this look has ended: its last moments are not worth a gap.
            if is_counted
                && let Some(group) = &running.group
                && let Some(seconds) = group.read_usage_seconds()
            {
                let before = running.sample.replace((now, seconds));
                let (at, before) = before.unwrap_or((now, seconds));
                let used = (seconds - before).max(0.0);
                running.rate = (now - at >= SHORTEST_WINDOW).then(|| used / (now - at));
                self.counted += used;
            }
            let group = running.group.as_ref().filter(|_| parent.is_none());
            memory += group.and_then(Group::read_memory_used).unwrap_or(0);
        }
        if let Some(parent) = parent {
            return match parent.exists() {
                true => (parent.read_usage_seconds(), parent.read_memory_used()),
                false => (Some(0.0), Some(0)),
            };
        }
        let mut running = self.running.values();
        let is_hidden = running
            .any(|running| running.group.is_none() && now - running.first_seen > FOUND_WITHIN);
        // Without facts it is not known yet who counts: what comes later must not look like a leap.
        let seconds = Some(self.counted).filter(|_| facts.is_some() && !is_hidden);
        (seconds, Some(memory))
    }
}

/// Names the first limit that was asked for and does not hold. Swap accounting alone is often off, and then the memory
/// limit holds all the same.
fn unlimited([cpus, memory, pids]: [f64; 3], pilot: &Pilot) -> Option<String> {
    let asked = Some(float(pilot.memory)).filter(|bytes| *bytes > 0.0);
    let checks = [
        ("CPU", cpus, pilot.cpus * 1.02 + 0.01),
        ("memory", memory, asked.unwrap_or(f64::INFINITY)),
        ("pids", pids, f64::MAX),
    ];
    // What is no number does not hold either.
    let is_broken = |(_, found, most): &(&str, f64, f64)| found > most || found.is_nan();
    let (what, found, _) = checks.into_iter().find(is_broken)?;
    let name = &pilot.name;
    Some(format!(
        "the {what} limit of {name} does not hold (it is {found})"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Info;
    use crate::host::cgroup::{Layout, group_of_pid, parent_group};
    use crate::host::tests::Tree;
    use crate::site::EngineName;
    use serde_json::{from_value, json};

    /// What a pilot was seen to have holds while it is paused and when it is gone, as long as the group stays idle: a
    /// rootless engine's pilots must not find more room once they have been paused.
    #[test]
    fn protection_outlasts_its_pilot() {
        const IDLE: &str = "sys/fs/cgroup/plancton.slice/cpu.idle";
        let id = PilotId::new(&"a1".repeat(32)).unwrap();
        let layout = Layout::parse("2", "systemd").unwrap();
        let place = format!("plancton.slice/docker-{}.scope", id.as_str());
        for (is_rootless, shown) in [(false, Protection::Verified), (true, Protection::Session)] {
            let tree = Tree::new(&[(IDLE, "1")]);
            tree.put("proc/77/cgroup", format!("0::/{place}\n"));
            tree.put(&format!("sys/fs/cgroup/{place}/cpu.stat"), "");
            let facts = Facts {
                engine: EngineName::default(),
                info: Info::default(),
                disks: Vec::new(),
                is_rootless,
                layout,
                parent: Ok(parent_group(tree.root(), layout, "")),
                is_ours: true,
                unsupported: None,
            };
            let mut groups = Groups::default();
            let mut see = |state: &str| {
                let pilot = json!({
                    "id": id, "name": "p", "class": "a", "own": true, "state": state, "created": 0.0, "expiry": {"epoch": 1.0},
                    "cpus": 1.0, "memory": 1, "grace": 1.0, "used": null, "unlimited": null,
                });
                let mut pilots = [from_value::<Pilot>(pilot).unwrap()];
                groups.look(&mut pilots, 1.0);
                if state == "running" {
                    groups.learn(id.clone(), group_of_pid(tree.root(), 77, &id));
                }
                groups.protection(&pilots, Some(&facts), 1.0)
            };
            assert_eq!(see("created"), Protection::Prepared);
            for state in ["running", "paused", "exited"] {
                assert_eq!(see(state), shown, "{state}");
            }
            tree.put(IDLE, "0");
            assert_eq!(see("exited"), Protection::Lost);
            tree.put(IDLE, "1");
            assert_eq!(see("exited"), Protection::Prepared);
        }
    }
}
