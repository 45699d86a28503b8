//! Turns one tick's readings, of the host and of the engine, into an [`Observation`]. Reads files only, all bounded; what
//! cannot be read is `None`. Changes nothing and decides nothing.

pub mod facts;
mod groups;
mod pilots;

pub use pilots::read_pilot;

use crate::config::{Owner, Share, parse_cpuset};
use crate::decide::{Control, CpuUse, EngineState, MemoryUse, News, Observation};
use crate::engine::Listed;
use crate::host::topology::{self, Topology};
use crate::host::{cpu, disk, files, memory, power, pressure, processes, thermal};
use crate::units::{LocalTime, Moment, clean_line, float};
use facts::Facts;
use groups::Groups;
use std::path::{Path, PathBuf};

/// A rate over less than this is noise: /proc/stat counts hundredths of a second.
const SHORTEST_WINDOW: f64 = 0.9;
/// Characters of the reason in a hold file.
const LONGEST_HOLD: usize = 120;

/// What is kept from reading to reading.
pub struct Observer {
    root: PathBuf,
    hold_dirs: Vec<PathBuf>,
    sensors: thermal::Sensors,
    topology: Option<Topology>,
    /// The sample before, and the CPU seconds that pilots had used by then.
    before: Option<(cpu::CpuSample, Option<f64>)>,
    cpu: Option<CpuUse>,
    smooth: cpu::Smoothed,
    given_seconds: f64,
    programs: processes::Programs,
    groups: Groups,
}

/// What comes from elsewhere into an observation.
pub struct Input<'a> {
    pub now: Moment,
    pub local: LocalTime,
    pub facts: Option<&'a Facts>,
    pub engine: EngineState,
    /// The list, and the boot second at which it was asked for.
    pub list: Option<(&'a [Listed], f64)>,
    pub news: Vec<News>,
    pub control: Control,
    pub share: &'a Share,
    pub owner: &'a Owner,
    pub instance: &'a str,
    pub boot_id: &'a str,
    /// The owner is short of CPU: it matters what each pilot gets.
    pub contended: bool,
    /// Seconds between regular ticks.
    pub interval: f64,
}

impl Observer {
    pub fn new(root: &Path, hold_dirs: Vec<PathBuf>) -> Observer {
        Observer {
            root: root.to_owned(),
            hold_dirs,
            sensors: thermal::Sensors::discover(root),
            topology: topology::read_topology(root),
            before: None,
            cpu: None,
            smooth: cpu::Smoothed::default(),
            given_seconds: 0.0,
            programs: processes::Programs::default(),
            groups: Groups::default(),
        }
    }

    pub fn observe(&mut self, input: Input) -> Observation {
        let now = input.now.boot;
        let mut pilots = input.list.map(|(list, _)| {
            let read = |listed| read_pilot(listed, input.instance, input.boot_id);
            list.iter().map(read).collect::<Vec<_>>()
        });
        if let (Some(pilots), Some(facts)) = (&mut pilots, input.facts) {
            self.groups
                .look(&self.root, pilots, facts, input.contended, now);
        }
        let listed = pilots.as_deref().unwrap_or(&[]);
        let protection = self.groups.protection(input.facts, listed, now);
        let used = self.groups.used_seconds(input.facts, now);
        let shortest = if input.contended || self.cpu.is_none() {
            0.0
        } else {
            input.interval / 2.0
        };
        self.sample_cpu(now, used, shortest);
        let power = power::read_power(&self.root);
        let (cores, threads) = self.count_cores(input.share);
        Observation {
            at: input.now,
            local: input.local,
            cores,
            threads,
            has_battery: power.has_battery,
            cpu: self.cpu,
            given_seconds: self.given_seconds,
            memory: self.read_memory(input.facts),
            disk_free: input
                .facts
                .and_then(|facts| disk::read_disk(&facts.data_root).ok())
                .map(|disk| disk.free.0),
            on_battery: power.on_battery,
            charge: power.charge_percent,
            temperature: self.sensors.read_celsius(),
            memory_pressure: pressure::read_percent(&self.root, "memory"),
            program: self.read_program(input.owner),
            hold: self.read_hold(),
            engine: input.engine,
            protection,
            limits: self.groups.limits(listed),
            listed_at: input.list.map_or(0.0, |(_, asked_at)| asked_at),
            pilots,
            news: input.news,
            control: input.control,
        }
    }

    /// Cores that pilots may run on, and all that are online.
    fn count_cores(&self, share: &Share) -> (f64, f64) {
        let Some(topology) = &self.topology else {
            return (0.0, 0.0);
        };
        let cpuset = parse_cpuset(&share.cpuset).unwrap_or_default();
        let cores = match share.smt {
            true => topology.count_threads(&cpuset),
            false => topology.count_cores(&cpuset),
        };
        (
            float(cores as u64),
            float(topology.count_threads(&[]) as u64),
        )
    }

    /// Between regular ticks the last rate stands, unless the owner's need is being watched: what the engine itself needs
    /// for a handful of starts would look like the owner's otherwise.
    fn sample_cpu(&mut self, now: f64, used: Option<f64>, shortest: f64) {
        let shortest = shortest.max(SHORTEST_WINDOW);
        if self
            .before
            .is_some_and(|(sample, _)| now - sample.boot_seconds < shortest)
        {
            return;
        }
        let Ok(sample) = cpu::read_sample(&self.root, now) else {
            self.cpu = None;
            return;
        };
        let before = self.before.replace((sample, used));
        self.cpu = before.and_then(|(before, used_before)| {
            let rates = cpu::rates(&before, &sample)?;
            let used = (used? - used_before?).max(0.0);
            let (busy, window) = (rates.total_busy_cores, rates.elapsed_seconds);
            let pilots = (used / window).min(busy);
            let foreign = (busy - pilots).max(0.0);
            self.smooth.update(foreign, window);
            self.given_seconds += used;
            let foreign_smooth = self.smooth.value().unwrap_or(foreign);
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
            .is_none_or(|topology| topology.count_threads(&[]) != sample.cpus_online)
        {
            self.topology = topology::read_topology(&self.root);
        }
    }

    fn read_memory(&self, facts: Option<&Facts>) -> Option<MemoryUse> {
        let read = memory::read_memory(&self.root).ok()?;
        let (total, available) = (read.total.0, read.available.0);
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

    fn read_program(&mut self, owner: &Owner) -> Option<String> {
        let ids = self.groups.ids();
        self.programs
            .find_running(&self.root, &owner.pause_while_running, &ids)
            .ok()
            .flatten()
    }

    /// The first `*.hold` file: its first line says why.
    fn read_hold(&self) -> Option<String> {
        let holds = self.hold_dirs.iter().flat_map(|dir| {
            let names = files::read_names(dir).into_iter();
            names
                .filter(|name| name.ends_with(".hold"))
                .map(|name| (dir.join(&name), name))
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
