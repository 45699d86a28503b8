//! One tick's readings, of the host and of the engine, as an [`Observation`]. Files only, all bounded; what cannot be
//! read is `None`. Changes nothing.

pub mod facts;

use crate::act::spec;
use crate::config::{Owner, Share, parse_cpuset};
use crate::decide::{
    Control, CpuUse, EngineState, MemoryUse, News, Observation, Pilot, PilotState, Protection,
};
use crate::engine::Listed;
use crate::host::cgroup::{Driver, Group, Limits, Setting, find_container};
use crate::host::topology::Topology;
use crate::host::{cpu, disk, files, memory, power, pressure, processes, thermal, topology};
use crate::units::{Bytes, LocalTime, Moment, PilotId, clean_line, float};
use facts::Facts;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A rate over less than this is noise: /proc/stat counts hundredths of a second.
const SHORTEST_WINDOW: f64 = 0.9;
/// A running pilot whose group is in no known place after this long is somewhere else, in seconds.
const FOUND_WITHIN: f64 = 10.0;

/// What is kept from reading to reading.
pub struct Observer {
    root: PathBuf,
    hold_dirs: Vec<PathBuf>,
    sensors: thermal::Sensors,
    topology: Option<Topology>,
    /// A pilot was seen to run in the idle group: true as long as the group stays idle.
    verified: bool,
    before: Option<Before>,
    cpu: Option<CpuUse>,
    smooth: cpu::Smoothed,
    given_seconds: f64,
    /// CPU seconds counted pilot by pilot, where no parent group counts them.
    counted: f64,
    programs: processes::Programs,
    pilots: BTreeMap<PilotId, Known>,
}

struct Before {
    sample: cpu::CpuSample,
    /// CPU seconds used by pilots so far.
    pilots: Option<f64>,
}

/// A running pilot's group, and what was read from it.
struct Known {
    group: Option<Group>,
    in_parent: bool,
    first_seen: f64,
    unlimited: Option<String>,
    /// Its limits as the kernel holds them, for people.
    limits: String,
    /// (boot second, CPU seconds) of the last look.
    usage: Option<(f64, f64)>,
    /// CPU seconds of its group that are in the sum already.
    counted: f64,
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
            verified: false,
            before: None,
            cpu: None,
            smooth: cpu::Smoothed::default(),
            given_seconds: 0.0,
            counted: 0.0,
            programs: processes::Programs::default(),
            pilots: BTreeMap::new(),
        }
    }

    pub fn observe(&mut self, input: Input) -> Observation {
        let mut pilots = input.list.map(|(list, _)| {
            list.iter()
                .map(|listed| read_pilot(listed, input.instance, input.boot_id))
                .collect::<Vec<_>>()
        });
        if let (Some(pilots), Some(facts)) = (&mut pilots, input.facts) {
            self.look_at_pilots(pilots, facts, &input);
        }
        let protection = self.judge_protection(
            input.facts,
            pilots.as_deref().unwrap_or(&[]),
            input.now.boot,
        );
        let used = self.pilots_usage(input.facts, input.now.boot);
        let own = pilots
            .iter()
            .flatten()
            .filter(|pilot| pilot.own)
            .filter_map(|pilot| self.pilots.get(&pilot.id));
        let own_limits = own
            .map(|known| known.limits.clone())
            .find(|text| !text.is_empty())
            .unwrap_or_default();
        let shortest = if input.contended || self.cpu.is_none() {
            0.0
        } else {
            input.interval / 2.0
        };
        self.sample_cpu(input.now.boot, used, shortest);
        let power = power::read_power(&self.root);
        let cpuset = parse_cpuset(&input.share.cpuset).unwrap_or_default();
        let topology = self.topology.as_ref();
        let cores = topology.map_or(0, |t| {
            if input.share.smt {
                t.count_threads(&cpuset)
            } else {
                t.count_cores(&cpuset)
            }
        });
        Observation {
            at: input.now,
            local: input.local,
            cores: float(cores as u64),
            threads: float(topology.map_or(0, |t| t.count_threads(&[])) as u64),
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
            limits: own_limits,
            listed_at: input.list.map_or(0.0, |(_, asked_at)| asked_at),
            pilots,
            news: input.news,
            control: input.control,
        }
    }

    /// Finds the groups of pilots that have just started, and reads their limits back, once.
    fn look_at_pilots(&mut self, pilots: &mut [Pilot], facts: &Facts, input: &Input) {
        let has_group =
            |pilot: &Pilot| matches!(pilot.state, PilotState::Running | PilotState::Paused);
        self.pilots.retain(|id, _| {
            pilots
                .iter()
                .any(|pilot| pilot.id == *id && has_group(pilot))
        });
        for pilot in pilots.iter_mut().filter(|pilot| has_group(pilot)) {
            let known = self
                .pilots
                .entry(pilot.id.clone())
                .or_insert_with(|| Known {
                    group: None,
                    in_parent: false,
                    first_seen: input.now.boot,
                    unlimited: None,
                    limits: String::new(),
                    usage: None,
                    counted: 0.0,
                });
            // Again until its limits were read: a group that is just being made has not all of its files yet.
            if known.limits.is_empty() {
                known.find(&self.root, facts, pilot);
            }
            pilot.unlimited.clone_from(&known.unlimited);
            if input.contended {
                pilot.used = known.cores_used(input.now.boot);
            } else {
                known.usage = None;
            }
        }
    }

    fn judge_protection(
        &mut self,
        facts: Option<&Facts>,
        pilots: &[Pilot],
        now: f64,
    ) -> Protection {
        let protection = self.read_protection(facts, pilots, now);
        self.verified = match protection {
            Protection::Verified => true,
            Protection::Prepared => self.verified,
            Protection::Lost | Protection::None(_) => false,
        };
        if self.verified {
            Protection::Verified
        } else {
            protection
        }
    }

    fn read_protection(&self, facts: Option<&Facts>, pilots: &[Pilot], now: f64) -> Protection {
        let Some(facts) = facts else {
            return Protection::None("the engine was not asked yet".to_owned());
        };
        let parent = match &facts.parent {
            Ok(parent) => parent,
            Err(why) => return Protection::None(why.clone()),
        };
        match parent.read_cpu_idle() {
            Ok(Some(true)) => {}
            Ok(Some(false)) => return Protection::Lost,
            Ok(None) if parent.exists() => {
                return Protection::None(
                    "this kernel has no idle groups (Linux 5.15 and newer have)".to_owned(),
                );
            }
            Ok(None) => return Protection::Lost,
            Err(error) => return Protection::None(error.to_string()),
        }
        let running = || {
            pilots
                .iter()
                .filter(|pilot| pilot.own && pilot.state == PilotState::Running)
        };
        let known = |pilot: &Pilot| self.pilots.get(&pilot.id);
        let outside = |pilot: &&Pilot| {
            known(pilot).is_some_and(|k| !k.in_parent && now - k.first_seen > FOUND_WITHIN)
        };
        match running().find(outside) {
            Some(pilot) => {
                Protection::None(format!("{} does not run in the idle group", pilot.name))
            }
            None if running().any(|pilot| known(pilot).is_some_and(|known| known.in_parent)) => {
                Protection::Verified
            }
            None => Protection::Prepared,
        }
    }

    /// CPU seconds of all pilots so far: the parent group's counter where there is one, else what was counted pilot by
    /// pilot. `None`: pilots run whose use cannot be read.
    fn pilots_usage(&mut self, facts: Option<&Facts>, now: f64) -> Option<f64> {
        match facts.map(|facts| &facts.parent) {
            Some(Ok(parent)) if parent.exists() => return parent.read_usage_seconds().ok(),
            Some(Ok(_)) | None => return Some(0.0),
            Some(Err(_)) => {}
        }
        for known in self.pilots.values_mut() {
            // A group that is gone between the list and this look has ended: its last moments are not worth a gap.
            let used = known
                .group
                .as_ref()
                .and_then(|group| group.read_usage_seconds().ok())
                .unwrap_or(known.counted);
            self.counted += (used - known.counted).max(0.0);
            known.counted = used;
        }
        let hidden = |known: &Known| known.group.is_none() && now - known.first_seen > FOUND_WITHIN;
        (!self.pilots.values().any(hidden)).then_some(self.counted)
    }

    /// Between regular ticks the last rate stands, unless the owner's need is being watched: what the engine itself needs
    /// for a handful of starts would look like the owner's otherwise.
    fn sample_cpu(&mut self, now: f64, pilots: Option<f64>, shortest: f64) {
        let shortest = shortest.max(SHORTEST_WINDOW);
        if self
            .before
            .as_ref()
            .is_some_and(|before| now - before.sample.boot_seconds < shortest)
        {
            return;
        }
        let Ok(sample) = cpu::read_sample(&self.root, now) else {
            self.cpu = None;
            return;
        };
        let before = self.before.replace(Before { sample, pilots });
        let rates = before
            .as_ref()
            .and_then(|before| cpu::rates(&before.sample, &sample));
        let used = before.and_then(|before| Some((pilots? - before.pilots?).max(0.0)));
        self.cpu = rates.zip(used).map(|(rates, used)| {
            let (busy, window) = (rates.total_busy_cores, rates.elapsed_seconds);
            let pilots = (used / window).min(busy);
            let foreign = (busy - pilots).max(0.0);
            self.smooth.update(foreign, window);
            self.given_seconds += used;
            CpuUse {
                busy,
                pilots,
                foreign,
                foreign_smooth: self.smooth.value().unwrap_or(foreign),
                window,
                at: now,
            }
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
        let pilots = match facts.map(|facts| &facts.parent) {
            Some(Ok(parent)) if parent.exists() => parent.read_memory_used().ok(),
            Some(Ok(_)) | None => Some(0),
            Some(Err(_)) => {
                let read = |known: &Known| {
                    known
                        .group
                        .as_ref()
                        .and_then(|group| group.read_memory_used().ok())
                };
                Some(self.pilots.values().filter_map(read).sum())
            }
        };
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
        let ids: Vec<&str> = self.pilots.keys().map(PilotId::as_str).collect();
        self.programs
            .find_running(&self.root, &owner.pause_while_running, &ids)
            .ok()
            .flatten()
    }

    /// The first `*.hold` file: its first line says why.
    fn read_hold(&self) -> Option<String> {
        self.hold_dirs.iter().find_map(|dir| {
            let mut names = files::read_names(dir);
            names.retain(|name| name.ends_with(".hold"));
            names.sort();
            names.iter().find_map(|name| {
                let text = files::read_text(&dir.join(name)).ok()?;
                let line = clean_line(text.lines().next().unwrap_or(""), 120);
                Some(if line.is_empty() {
                    name.clone()
                } else {
                    format!("{name}: {line}")
                })
            })
        })
    }
}

impl Known {
    fn find(&mut self, root: &Path, facts: &Facts, pilot: &Pilot) {
        let Some(layout) = facts.layout else { return };
        let parent = facts.parent.is_ok().then(|| layout.parent_name());
        self.group =
            parent.and_then(|parent| find_container(root, layout, Some(parent), &pilot.id));
        self.in_parent = self.group.is_some();
        if self.group.is_none() {
            self.group = find_container(root, layout, None, &pilot.id);
        }
        self.counted = self
            .group
            .as_ref()
            .and_then(|group| group.read_usage_seconds().ok())
            .unwrap_or(0.0);
        if let Some(group) = &self.group
            && let Ok(limits) = group.read_limits()
        {
            self.unlimited = unlimited(&limits, pilot).filter(|_| group.has_processes());
            let said = |number: Option<String>| number.unwrap_or_else(|| "no limit".to_owned());
            self.limits = format!(
                "{} cores, {} of memory, {} processes",
                said(limits.cpus.number().map(|cpus| cpus.to_string())),
                said(
                    limits
                        .memory_bytes
                        .number()
                        .map(|bytes| Bytes(bytes).to_string())
                ),
                said(limits.pids.number().map(|pids| pids.to_string())),
            );
        }
    }

    fn cores_used(&mut self, now: f64) -> Option<f64> {
        let used = self.group.as_ref()?.read_usage_seconds().ok()?;
        let before = self.usage.replace((now, used));
        let (at, before) = before?;
        (now - at >= SHORTEST_WINDOW).then(|| (used - before).max(0.0) / (now - at))
    }
}

/// Names the first limit that was asked for and does not hold. Swap accounting alone is often off, and then the memory
/// limit holds all the same.
fn unlimited(limits: &Limits, pilot: &Pilot) -> Option<String> {
    let says = |what: &str, found: String| {
        Some(format!(
            "the {what} limit of {} does not hold (it is {found})",
            pilot.name
        ))
    };
    match limits.cpus {
        Setting::At(cpus) if cpus <= pilot.cpus * 1.02 + 0.01 => {}
        found => return says("CPU", format!("{found:?}")),
    }
    match limits.memory_bytes {
        _ if pilot.memory == 0 => {}
        Setting::At(bytes) if bytes <= pilot.memory => {}
        found => return says("memory", format!("{found:?}")),
    }
    match limits.pids {
        Setting::At(_) => None,
        found => says("pids", format!("{found:?}")),
    }
}

/// The parent for the engine's `CgroupParent`.
pub fn parent_for_engine(facts: &Facts) -> Option<String> {
    let layout = facts.layout.filter(|_| facts.parent.is_ok())?;
    Some(match layout.driver {
        Driver::Cgroupfs => format!("/{}", layout.parent_name()),
        Driver::Systemd => layout.parent_name().to_owned(),
    })
}

/// One line of the list, by its labels.
pub fn read_pilot(listed: &Listed, instance: &str, boot_id: &str) -> Pilot {
    let labels = &listed.labels;
    // Unknown is doubtful, and what is doubtful is not over.
    let created = listed.created.unwrap_or(f64::INFINITY);
    let name = listed
        .names
        .first()
        .map_or("", |name| name.trim_start_matches('/'));
    Pilot {
        id: listed.id.clone(),
        name: if name.is_empty() {
            listed.id.short().to_owned()
        } else {
            name.to_owned()
        },
        class: labels.class.clone().unwrap_or_default(),
        own: labels.instance.as_deref() == Some(instance),
        state: match listed.state.as_str() {
            "created" => PilotState::Created,
            "running" => PilotState::Running,
            "paused" => PilotState::Paused,
            "exited" | "stopped" => PilotState::Exited,
            "dead" => PilotState::Dead,
            "removing" => PilotState::Removing,
            _ => PilotState::Other,
        },
        created,
        expiry: spec::label_expiry(labels, created, boot_id),
        cpus: spec::label_cpus(labels.cpus.as_deref()),
        memory: spec::label_bytes(labels.memory.as_deref()),
        grace: spec::label_grace(labels.grace.as_deref()),
        used: None,
        unlimited: None,
    }
}
