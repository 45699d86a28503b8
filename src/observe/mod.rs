//! Turns one tick's readings, of the host and of the engine, into an [`Observation`]. Reads files only, all bounded; what
//! cannot be read is `None`. Changes nothing and decides nothing.

mod groups;

use crate::config::{Config, Share};
use crate::decide::{CpuUse, Expiry, MemoryUse, Observation, Pilot};
use crate::engine::{Labels, Listed};
use crate::host::cpu::{self, Topology};
use crate::host::{files, programs, read_memory, read_pressure_percent, sensors};
use crate::site::{Facts, Site};
use crate::units::{PilotId, clean_line, float, parse_cpu_list};
use groups::Groups;
use serde::Deserialize;
use serde::de::value::{Error, StrDeserializer};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A rate over less than this is noise: /proc/stat counts hundredths of a second.
const SHORTEST_WINDOW: f64 = 0.9;
/// Where an administrator's programs put hold files; the owner's are in the run directory.
const HOLDS: &str = "/etc/plancton/inhibit.d";
/// Characters of the reason in a hold file.
const LONGEST_HOLD: usize = 120;
/// Of a pilot without a deadline of any kind, seconds after it was created.
const USUAL_TTL: f64 = 86_400.0;
/// Longer than any grace that a configuration may ask for, in seconds.
const LONGEST_GRACE: f64 = 3_600.0;

/// What is kept from reading to reading.
#[derive(Default)]
pub struct Observer {
    sensors: Vec<sensors::Sensor>,
    topology: Topology,
    /// The sample before, and the CPU seconds that pilots had used by then.
    before: Option<(cpu::CpuSample, Option<f64>)>,
    cpu: Option<CpuUse>,
    smooth: Option<f64>,
    given_seconds: f64,
    pub groups: Groups,
}

impl Observer {
    /// Of the machine below this root.
    pub fn new(root: &Path) -> Observer {
        Observer {
            sensors: sensors::find_sensors(root),
            topology: cpu::read_topology(root).unwrap_or_default(),
            ..Observer::default()
        }
    }

    /// Fills in what is read here. `seen` has what only the loop and its jobs know: the clocks, the engine's state and
    /// pilots, news and commands.
    pub fn observe(
        &mut self,
        site: &Site,
        mut seen: Observation,
        facts: Option<&Facts>,
        config: &Config,
    ) -> Observation {
        let (root, now) = (&site.root, seen.at.boot);
        let (share, owner, _) = config.effective(seen.local.weekday, seen.local.minute);
        if let Some(pilots) = &mut seen.pilots {
            self.groups.look(pilots, now);
        }
        let pilots = seen.pilots.as_deref().unwrap_or_default();
        seen.protection = self.groups.protection(pilots, facts, now);
        let (used, memory) = self.groups.used(facts, now);
        (seen.has_battery, seen.on_battery, seen.charge) = sensors::read_power(root);
        seen.temperature = sensors::read_celsius(&self.sensors).map(|(celsius, _)| celsius);
        seen.memory_pressure = read_pressure_percent(root);
        self.sample_cpu(root, now, used, config.interval());
        (seen.cpu, seen.given_seconds) = (self.cpu, self.given_seconds);
        seen.memory = read_memory(root).map(|(total, available)| MemoryUse {
            total,
            available,
            foreign: (total - available).saturating_sub(memory.unwrap_or(0)),
            pilots: memory,
        });
        (seen.cores, seen.threads) = self.count_cores(&share, facts);
        let names = &owner.pause_while_running;
        let own: Vec<&str> = self.groups.running.keys().map(PilotId::as_str).collect();
        let program = programs::find_running(root, names, &own);
        seen.hides_programs = program.is_err();
        seen.program = program.ok().flatten();
        seen.hold = read_hold(&site.dirs.run);
        seen
    }

    /// Cores that pilots may run on, and all that are online.
    fn count_cores(&self, share: &Share, facts: Option<&Facts>) -> (f64, f64) {
        let cpuset = parse_cpu_list(&share.cpuset).unwrap_or_default();
        let (cores, threads) = self.topology.count(&cpuset);
        let cores = if share.smt { threads } else { cores };
        let of_engine = facts.map(|facts| facts.info.cpus).filter(|cpus| *cpus > 0);
        let cores = (cores as u64).min(of_engine.unwrap_or(u64::MAX));
        let (_, online) = self.topology.count(&BTreeSet::new());
        (float(cores), float(online as u64))
    }

    /// Between regular ticks the last rate stands, unless the owner's need is being watched: what the engine itself needs
    /// for a handful of starts would look like the owner's otherwise.
    fn sample_cpu(&mut self, root: &Path, now: f64, used: Option<f64>, interval: f64) {
        let is_watched = self.groups.contended || self.cpu.is_none();
        let shortest = if is_watched { 0.0 } else { interval / 2.0 };
        let before = self.before.as_ref();
        if before.is_some_and(|(at, _)| now - at.boot_seconds < shortest.max(SHORTEST_WINDOW)) {
            return;
        }
        let Some(sample) = cpu::read_sample(root, now) else {
            self.cpu = None;
            return;
        };
        let before = self.before.replace((sample, used));
        self.cpu = before.and_then(|(before, used_before)| {
            let busy = cpu::busy_cores(&before, &sample)?;
            let used = (used? - used_before?).max(0.0);
            let window = now - before.boot_seconds;
            let pilots = (used / window).min(busy);
            let foreign = (busy - pilots).max(0.0);
            self.smooth = cpu::smoothed(self.smooth, foreign, window);
            self.given_seconds += used;
            Some(CpuUse {
                busy,
                pilots,
                foreign,
                foreign_smooth: self.smooth.unwrap_or(foreign),
                window,
                at: now,
            })
        });
        if self.topology.in_stat != sample.cpus_online {
            self.topology = cpu::read_topology(root).unwrap_or_default();
        }
    }
}

/// The first `*.hold` file: its first line says why.
fn read_hold(run: &Path) -> Option<String> {
    let dirs = [run.join("inhibit.d"), PathBuf::from(HOLDS)];
    let read = |dir: &PathBuf, name: &String| {
        let text = files::read_text(&dir.join(name)).ok()?;
        let line = clean_line(text.lines().next().unwrap_or(""), LONGEST_HOLD);
        let line = format!("{name}: {line}");
        Some(line.trim_end_matches(": ").to_owned())
    };
    dirs.iter().find_map(|dir| {
        let names = files::read_names(dir);
        let mut holds = names.iter().filter(|name| name.ends_with(".hold"));
        holds.find_map(|name| read(dir, name))
    })
}

/// A line of the engine's list as a pilot, by its labels. What cannot be read errs towards leaving it alone.
pub fn read_pilot(listed: Listed, instance: &str, boot_id: &str) -> Pilot {
    let labels = listed.labels;
    // Unknown is doubtful, and what is doubtful is not over.
    let created = listed.created.unwrap_or(f64::INFINITY);
    let names = listed.names.iter().map(|name| name.trim_start_matches('/'));
    let name = names.take(1).find(|name| !name.is_empty());
    let number = |text: Option<String>| {
        let number = text.and_then(|text| text.parse::<f64>().ok());
        number.filter(|number| number.is_finite())
    };
    let expiry = expiry(&labels, created, boot_id);
    let grace = number(labels.grace).unwrap_or(10.0);
    let cpus = number(labels.cpus).filter(|cpus| *cpus > 0.0);
    let memory = labels.memory.and_then(|text| text.parse().ok());
    let state = StrDeserializer::<Error>::new(&listed.state);
    Pilot {
        name: name.map_or_else(|| listed.id.to_string(), str::to_owned),
        own: labels.instance.as_deref() == Some(instance),
        state: Deserialize::deserialize(state).unwrap_or_default(),
        created,
        expiry,
        // One core, so that room is never given twice.
        cpus: cpus.unwrap_or(1.0),
        memory: memory.unwrap_or(0),
        grace: grace.clamp(0.0, LONGEST_GRACE),
        class: labels.class.unwrap_or_default(),
        image: listed.image,
        id: listed.id,
        used: None,
        unlimited: None,
    }
}

/// `BOOT_ID:SECONDS` of this boot's awake clock, else the epoch second of the deadline label, else `created` plus a day.
fn expiry(labels: &Labels, created: f64, boot_id: &str) -> Expiry {
    let second = |text: &str| text.parse::<u64>().ok().map(float);
    let expires = labels.expires.as_deref().unwrap_or_default();
    let of_boot = expires.rsplit_once(':');
    let of_boot = of_boot.filter(|(boot, _)| !boot.is_empty() && *boot == boot_id);
    let deadline = labels.deadline.as_deref().and_then(second);
    let epoch = Expiry::Epoch(deadline.unwrap_or(created + USUAL_TTL));
    let awake = of_boot.and_then(|(_, text)| second(text));
    awake.map_or(epoch, Expiry::Awake)
}
