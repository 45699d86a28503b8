//! Turns one tick's readings, of the host and of the engine, into an [`Observation`]. Reads files only, all bounded; what
//! cannot be read is `None`. Changes nothing and decides nothing.

pub mod facts;
pub mod groups;
mod pilots;

pub use pilots::read_pilot;

use crate::config::{Config, Owner, Share};
use crate::decide::{CpuUse, MemoryUse, Observation, Pilot};
use crate::engine::Listed;
use crate::host::cpu::Topology;
use crate::host::{self, cpu, files, programs, sensors};
use crate::site::Site;
use crate::units::{clean_line, float};
use facts::Facts;
use groups::Groups;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// A rate over less than this is noise: /proc/stat counts hundredths of a second.
const SHORTEST_WINDOW: f64 = 0.9;
/// Where an administrator's programs put hold files; the owner's are in the run directory.
const HOLDS: &str = "/etc/plancton/inhibit.d";
/// Characters of the reason in a hold file.
const LONGEST_HOLD: usize = 120;

/// What is kept from reading to reading.
pub struct Observer {
    site: Arc<Site>,
    sensors: Vec<sensors::Sensor>,
    topology: Option<Topology>,
    /// The sample before, and the CPU seconds that pilots had used by then.
    before: Option<(cpu::CpuSample, Option<f64>)>,
    cpu: Option<CpuUse>,
    smooth: Option<f64>,
    given_seconds: f64,
    pub groups: Groups,
    /// The owner is short of CPU: it matters what each pilot gets.
    pub contended: bool,
}

impl Observer {
    pub fn new(site: Arc<Site>) -> Observer {
        Observer {
            sensors: sensors::find_sensors(&site.root),
            topology: cpu::read_topology(&site.root),
            site,
            before: None,
            cpu: None,
            smooth: None,
            given_seconds: 0.0,
            groups: Groups::default(),
            contended: false,
        }
    }

    /// Fills in what is read here. `seen` has what only the loop knows: the clocks, the engine's state, news and commands.
    pub fn observe(
        &mut self,
        mut seen: Observation,
        list: Option<&[Listed]>,
        facts: Option<&Facts>,
        config: &Config,
    ) -> Observation {
        let now = seen.at.boot;
        let (share, owner, _) = config.effective(seen.local.weekday, seen.local.minute);
        let read = |listed| read_pilot(listed, &self.site.instance, &self.site.boot_id);
        let mut pilots: Option<Vec<Pilot>> = list.map(|list| list.iter().map(read).collect());
        if let (Some(pilots), Some(facts)) = (&mut pilots, facts) {
            self.groups.look(pilots, facts, self.contended, now);
        }
        let own: Vec<&Pilot> = pilots.iter().flatten().filter(|pilot| pilot.own).collect();
        seen.protection = self.groups.protection(facts, &own, now);
        seen.limits = self.groups.limits(&own);
        let is_watched = self.contended || self.cpu.is_none();
        let shortest = if is_watched {
            0.0
        } else {
            config.loop_.interval.as_secs_f64() / 2.0
        };
        self.sample_cpu(now, facts, shortest.max(SHORTEST_WINDOW));
        seen.pilots = pilots;
        seen.cpu = self.cpu;
        seen.given_seconds = self.given_seconds;
        seen.memory = self.read_memory(facts);
        (seen.cores, seen.threads) = self.count_cores(&share, facts);
        seen.disk_free = facts.and_then(read_disks);
        let power = sensors::read_power(&self.site.root);
        seen.has_battery = power.has_battery;
        seen.on_battery = power.on_battery;
        seen.charge = power.charge_percent;
        seen.temperature = sensors::read_celsius(&self.sensors).map(|(celsius, _)| celsius);
        seen.memory_pressure = host::read_pressure_percent(&self.site.root);
        seen.program = self.read_program(&owner);
        seen.hold = self.read_hold();
        seen
    }

    /// Cores that pilots may run on, and all that are online.
    fn count_cores(&self, share: &Share, facts: Option<&Facts>) -> (f64, f64) {
        let Some(topology) = &self.topology else {
            return (0.0, 0.0);
        };
        let cpuset = crate::units::parse_cpu_list(&share.cpuset).unwrap_or_default();
        let (cores, threads) = topology.count(&cpuset);
        let cores = if share.smt { threads } else { cores };
        let of_engine = facts.map(|facts| facts.cpus).filter(|cpus| *cpus > 0);
        let cores = (cores as u64).min(of_engine.unwrap_or(u64::MAX));
        let (_, online) = topology.count(&BTreeSet::new());
        (float(cores), float(online as u64))
    }

    /// Between regular ticks the last rate stands, unless the owner's need is being watched: what the engine itself needs
    /// for a handful of starts would look like the owner's otherwise.
    fn sample_cpu(&mut self, now: f64, facts: Option<&Facts>, shortest: f64) {
        let used = self.groups.used_seconds(facts, now);
        if self
            .before
            .is_some_and(|(sample, _)| now - sample.boot_seconds < shortest)
        {
            return;
        }
        let Some(sample) = cpu::read_sample(&self.site.root, now) else {
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
            let foreign_smooth = self.smooth.unwrap_or(foreign);
            Some(CpuUse {
                busy,
                pilots,
                foreign,
                foreign_smooth,
                window,
                at: now,
            })
        });
        if self
            .topology
            .as_ref()
            .is_none_or(|topology| topology.in_stat != sample.cpus_online)
        {
            self.topology = cpu::read_topology(&self.site.root);
        }
    }

    fn read_memory(&self, facts: Option<&Facts>) -> Option<MemoryUse> {
        let (total, available) = host::read_memory(&self.site.root)?;
        let pilots = self.groups.used_memory(facts);
        let foreign = total
            .saturating_sub(available)
            .saturating_sub(pilots.unwrap_or(0));
        Some(MemoryUse {
            total,
            available,
            foreign,
            pilots,
        })
    }

    fn read_program(&self, owner: &Owner) -> Option<String> {
        let ids = self.groups.ids();
        programs::find_running(&self.site.root, &owner.pause_while_running, &ids)
            .ok()
            .flatten()
    }

    /// The first `*.hold` file: its first line says why.
    fn read_hold(&self) -> Option<String> {
        let dirs = [self.site.dirs.run.join("inhibit.d"), PathBuf::from(HOLDS)];
        let holds = dirs.iter().flat_map(|dir| {
            let names = files::read_names(dir).into_iter();
            let names = names.filter(|name| name.ends_with(".hold"));
            names.map(|name| (dir.join(&name), name))
        });
        let mut read = holds.filter_map(|(file, name)| Some((files::read_text(&file).ok()?, name)));
        let (text, name) = read.next()?;
        let line = clean_line(text.lines().next().unwrap_or(""), LONGEST_HOLD);
        Some(if line.is_empty() {
            name
        } else {
            format!("{name}: {line}")
        })
    }
}

/// Bytes free on the fullest of the engine's disks; `None`: one of them cannot be seen from here.
fn read_disks(facts: &Facts) -> Option<u64> {
    let free = facts
        .disks
        .iter()
        .map(|disk| Some(host::read_disk_free(disk).ok()?.0));
    free.collect::<Option<Vec<u64>>>()?.into_iter().min()
}
