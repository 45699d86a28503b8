//! From an observation and its decision to the status file. Pure.

use super::{
    Cpus, Disk, Engine, Loop, Memory, Others, Pilot, Protection, Remote, SCHEMA, Sink, Status, Told,
};
use crate::config::Config;
use crate::decide::{self, Decision, Expiry, Observation};
use crate::engine::Listed;
use crate::observe::facts::Facts;
use crate::site::Site;

/// What a status is made of.
pub struct Seen<'a> {
    pub site: &'a Site,
    pub config: &'a Config,
    pub observation: &'a Observation,
    pub decision: &'a Decision,
    pub list: &'a [Listed],
    /// The pilots of the status before: an engine that does not answer is not one without pilots.
    pub last_rows: &'a [Pilot],
    pub facts: Option<&'a Facts>,
    pub policy: &'a decide::PolicyState,
    pub told: &'a Told,
    pub cost: &'a LoopCost,
    pub sinks: &'a [Sink],
    pub remote: Option<&'a Remote>,
}

/// What the loop itself costs, measured around its wait.
#[derive(Clone, Copy, Debug)]
pub struct LoopCost {
    pub since: f64,
    pub turns: u64,
    pub longest_gap: f64,
    woken: f64,
    pub calls: u64,
    pub cpu: f64,
}

impl LoopCost {
    pub fn new(now: f64) -> LoopCost {
        LoopCost {
            since: now,
            turns: 0,
            longest_gap: 0.0,
            woken: now,
            calls: 0,
            cpu: 0.0,
        }
    }

    /// The loop goes to wait: what lay between is a gap in which nothing would have been noticed.
    pub fn turned(&mut self, now: f64, cpu: f64) {
        self.turns += 1;
        self.longest_gap = self.longest_gap.max(now - self.woken);
        self.cpu = cpu;
    }

    pub fn woke(&mut self, now: f64) {
        self.woken = now;
    }
}

/// The loop has turned within this many seconds, or it does not answer: three intervals, and a slow machine's grace.
pub fn patience(interval: f64) -> f64 {
    (3.0 * interval).max(90.0)
}

pub fn status(seen: &Seen) -> Status {
    let (observation, decision) = (seen.observation, seen.decision);
    let now = observation.at;
    let facts = seen.facts;
    let interval = seen.config.loop_.interval.as_secs_f64();
    let pilots = observation.pilots.as_deref().unwrap_or(&[]);
    let others = || {
        pilots
            .iter()
            .filter(|pilot| !pilot.own && pilot.state.holds_room())
    };
    Status {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: seen.site.instance.clone(),
        pid: std::process::id(),
        since: now.epoch - (now.boot - seen.cost.since),
        tick: now.epoch,
        due: decision.wake_in.map(|_| now.epoch + patience(interval)),
        state: decision.state,
        reason: decision.reason.clone(),
        drain: observation.control.drain,
        snooze: observation.control.snooze,
        protection: protection(&observation.protection, &observation.limits),
        cpus: cpus(seen),
        memory: memory(seen),
        disk: observation.disk_free.map(|free| Disk {
            free,
            reserve: seen.config.share.reserve_disk.0,
        }),
        pilots: match &observation.pilots {
            Some(pilots) => pilots
                .iter()
                .filter(|p| p.own && p.state.holds_room())
                .map(|p| row(seen, p))
                .collect(),
            None => seen.last_rows.to_vec(),
        },
        others: Others {
            pilots: u32::try_from(others().count()).unwrap_or(u32::MAX),
            // An empty sum of floats is -0.
            cpus: others().map(|pilot| pilot.cpus).sum::<f64>() + 0.0,
        },
        engine: Engine {
            name: facts.map_or(String::new(), |facts| facts.name.clone()),
            version: facts.map_or(String::new(), |facts| facts.version.clone()),
            api: facts.map_or(String::new(), |facts| facts.api.clone()),
            socket: seen.site.engine.socket().display().to_string(),
        },
        counts: seen.policy.counts.clone(),
        given_seconds: observation.given_seconds,
        gone: seen.policy.gone.iter().cloned().collect(),
        pull: seen.site.pull(),
        problems: seen.told.problems(),
        sinks: seen.sinks.to_vec(),
        remote: seen.remote.cloned(),
        turning: Loop {
            turns: seen.cost.turns,
            longest_gap_ms: seen.cost.longest_gap * 1e3,
            calls: seen.cost.calls,
            cpu_ms: seen.cost.cpu * 1e3,
        },
    }
}

fn protection(protection: &decide::Protection, limits: &str) -> Protection {
    let (level, text) = match protection {
        decide::Protection::Verified => (
            "verified",
            "pilots run in an idle group: the kernel gives them only what nobody else wants",
        ),
        decide::Protection::Prepared => (
            "prepared",
            "the idle group is there; the first pilot will show that it holds",
        ),
        decide::Protection::Lost => (
            "none",
            "the group of the pilots is not idle; it is being set again",
        ),
        decide::Protection::None(why) => ("none", why.as_str()),
    };
    let proof = if limits.is_empty() {
        String::new()
    } else {
        format!("; limits read back from one: {limits}")
    };
    Protection {
        level: level.to_owned(),
        text: format!("{text}{proof}"),
    }
}

fn cpus(seen: &Seen) -> Cpus {
    let cpu = seen.observation.cpu;
    let total = seen.observation.cores;
    Cpus {
        total,
        given: seen.decision.capacity.given,
        foreign: cpu.map(|cpu| cpu.foreign),
        pilots: cpu.map(|cpu| cpu.pilots),
        idle: cpu.map(|cpu| (seen.observation.threads - cpu.busy).max(0.0)),
        reserve: seen.decision.capacity.reserve,
    }
}

fn memory(seen: &Seen) -> Memory {
    let memory = seen.observation.memory;
    Memory {
        total: memory.map_or(0, |memory| memory.total),
        available: memory.map_or(0, |memory| memory.available),
        given: seen.decision.capacity.memory_given,
        pilots: memory.and_then(|memory| memory.pilots),
        foreign: memory.map(|memory| memory.foreign),
        reserve: seen.config.share.reserve_memory.0,
    }
}

fn row(seen: &Seen, pilot: &decide::Pilot) -> Pilot {
    let now = seen.observation.at;
    let listed = seen.list.iter().find(|listed| listed.id == pilot.id);
    Pilot {
        id: pilot.id.as_str().to_owned(),
        name: pilot.name.clone(),
        class: pilot.class.clone(),
        state: word(pilot.state),
        started: Some(pilot.created),
        deadline: Some(match pilot.expiry {
            Expiry::Awake(_) => now.epoch + pilot.expiry.left(now),
            Expiry::Epoch(second) => second,
        }),
        image: listed.map_or(String::new(), |listed| listed.image.clone()),
        cpus: pilot.cpus,
        memory: pilot.memory,
    }
}

/// The word by which a state or code is known outside.
pub fn word(value: impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).ok();
    value
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}
