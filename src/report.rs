//! What the daemon says about itself: from an observation and its decision to the status file, field by field, and to what
//! is logged. Pure. The names are a contract with scripts (`status --json`): fields are added, never renamed; a reader of
//! another version fills what it does not find with defaults.

pub use crate::decide::{Drain, Finished, Reason, Snooze, State};

use crate::decide::{self, Code, Decision, LaunchResult, News, Observation, PilotState};
pub use crate::site::EngineName as Engine;
use crate::units::{Moment, word};
use crate::{config::Config, site::Pull, state};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, io, path::Path};

/// The whole of `status.json`. Times are seconds since 1970, sizes are bytes, CPU is in cores.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
pub struct Status {
    /// 1; raised when a field changes its meaning.
    pub schema: u32,
    pub version: String,
    pub instance: String,
    pub pid: u32,
    /// When the daemon started.
    pub since: f64,
    /// The last turn of the loop.
    pub tick: f64,
    /// When it turns again at the latest; `None`: there are no ticks, because no pilot is configured.
    pub due: Option<f64>,
    pub state: State,
    pub reason: Reason,
    pub drain: Option<Drain>,
    pub snooze: Option<Snooze>,
    pub protection: Protection,
    pub cpus: Cpus,
    pub memory: Memory,
    /// `None`: the engine did not say where its data are.
    pub disk: Option<Disk>,
    pub pilots: Vec<Pilot>,
    pub others: Others,
    pub engine: Engine,
    /// Ends by kind (`done`, `failed`, …) and `launches`, since the daemon started.
    pub counts: BTreeMap<String, u64>,
    /// CPU seconds that pilots used since then.
    pub given_seconds: f64,
    /// The last pilots that ended, the latest first.
    pub gone: Vec<Finished>,
    /// The image that is being pulled.
    pub pull: Option<Pull>,
    pub problems: Vec<String>,
    /// Targets of metrics.
    pub sinks: Vec<Sink>,
    /// The configuration that was joined.
    pub remote: Option<Remote>,
    #[serde(rename = "loop")]
    pub turning: Loop,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Protection {
    /// `verified`, `session`, `prepared` or `none`.
    pub level: String,
    pub text: String,
}

/// `None` where it was not measured (yet).
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Cpus {
    pub total: f64,
    /// Promised to pilots.
    pub given: f64,
    /// Used by anything but pilots: the owner.
    pub foreign: Option<f64>,
    /// Used by pilots.
    pub pilots: Option<f64>,
    pub idle: Option<f64>,
    pub reserve: f64,
}

/// As [`Cpus`], in bytes.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Memory {
    pub total: u64,
    pub available: u64,
    pub given: u64,
    pub pilots: Option<u64>,
    pub foreign: Option<u64>,
    pub reserve: u64,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Disk {
    pub free: u64,
    pub reserve: u64,
}

/// What others need to know of a [`decide::Pilot`].
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Pilot {
    pub id: String,
    pub name: String,
    pub class: String,
    pub state: PilotState,
    pub started: Option<f64>,
    pub deadline: Option<f64>,
    pub image: String,
    pub cpus: f64,
    pub memory: u64,
}

/// Pilots of other instances on the same engine.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Others {
    pub pilots: usize,
    pub cpus: f64,
}

/// One target of metrics since the daemon started, or since it is configured; counts are points.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Sink {
    /// `http://host:8086#database`, without user and password.
    pub url: String,
    pub sent: u64,
    /// Refused by the server, or the oldest of too many.
    pub dropped: u64,
    /// Requests that failed.
    pub errors: u64,
    pub waiting_bytes: usize,
    /// Why the last request failed.
    pub error: Option<String>,
}

/// A configuration from elsewhere.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Remote {
    pub url: String,
    /// Of the text in force: the first digits of its SHA-256; empty: none is.
    pub hash: String,
    /// When the server was asked last with success, and when what it said last had changed.
    pub looked: f64,
    pub changed: f64,
    /// What a newer one asks for that was not accepted.
    pub waiting: Vec<String>,
    /// What it does not get.
    pub refused: Vec<String>,
}

/// What the loop itself costs, measured around its wait.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
pub struct Loop {
    pub turns: u64,
    pub longest_gap_ms: f64,
    /// Engine calls.
    pub calls: u64,
    pub cpu_ms: f64,
    /// The tick on the clock that stands still while the machine sleeps, and the seconds between two of them.
    pub awake: f64,
    pub interval: f64,
    /// Boot second.
    #[serde(skip)]
    pub woken: f64,
}

/// The loop has turned within this many seconds, or it does not answer: three intervals, and a slow machine's grace.
pub fn patience(interval: f64) -> f64 {
    (3.0 * interval).max(90.0)
}

impl Status {
    /// As a daemon has written it, with the ends of logs if we may read them.
    pub fn read(run: &Path) -> io::Result<Option<Status>> {
        let mut status: Option<Status> = state::read_json(run, state::STATUS)?;
        let whole = state::read_json::<Vec<Finished>>(run, state::LOG_TAILS);
        let whole = whole.ok().flatten().unwrap_or_default();
        for finished in status.iter_mut().flat_map(|status| &mut status.gone) {
            if let Some(known) = whole.iter().find(|known| known.name == finished.name) {
                finished.clone_from(known);
            }
        }
        Ok(status)
    }

    /// It was not written for three intervals, or half a minute: the daemon stands still. A machine that sleeps does not
    /// count, and neither does a wall clock that is set.
    pub fn is_stale(&self, now: Moment) -> bool {
        self.is_older(now, (3.0 * self.turning.interval).max(30.0))
    }

    /// The loop should have got on by now and did not; it may turn all the same.
    pub fn is_stuck(&self, now: Moment) -> bool {
        // A loaded machine writes late, by seconds.
        self.is_older(now, self.due.map_or(0.0, |due| due - self.tick) + 5.0)
    }

    fn is_older(&self, now: Moment, patience: f64) -> bool {
        let age = now.awake - self.turning.awake;
        // Below 0: it is of another boot.
        self.due.is_some() && !(0.0..=patience).contains(&age)
    }

    /// What a tick says; the rest (engine, sinks, …) is known to the daemon alone. `last`: the pilots of the status before,
    /// because an engine that does not answer is not one without pilots.
    pub fn of(config: &Config, seen: &Observation, decision: &Decision, last: &[Pilot]) -> Status {
        let (at, share, capacity) = (seen.at, &config.share, &decision.capacity);
        let (cpu, used) = (seen.cpu, seen.memory.unwrap_or_default());
        let listed = seen.pilots.iter().flatten();
        let holding = listed.filter(|pilot| pilot.state.holds_room());
        let (own, others): (Vec<_>, Vec<_>) = holding.partition(|pilot| pilot.own);
        let own = own.into_iter().map(|pilot| row(pilot, at)).collect();
        let reserve = share.reserve_disk.0;
        let patience = patience(config.interval());
        Status {
            schema: 1,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            tick: at.epoch,
            due: decision.wake_in.map(|_| at.epoch + patience),
            state: decision.state,
            reason: decision.reason.clone(),
            drain: seen.control.drain,
            snooze: seen.control.snooze,
            protection: protection(&seen.protection),
            cpus: Cpus {
                total: seen.cores,
                given: capacity.given,
                foreign: cpu.map(|cpu| cpu.foreign),
                pilots: cpu.map(|cpu| cpu.pilots),
                idle: cpu.map(|cpu| (seen.threads - cpu.busy).max(0.0)),
                reserve: capacity.reserve,
            },
            memory: Memory {
                total: used.total,
                available: used.available,
                given: capacity.memory_given,
                pilots: used.pilots,
                foreign: seen.memory.map(|used| used.foreign),
                reserve: share.reserve_memory.0,
            },
            disk: seen.disk_free.map(|free| Disk { free, reserve }),
            pilots: seen.pilots.as_ref().map_or_else(|| last.to_vec(), |_| own),
            others: Others {
                pilots: others.len(),
                cpus: others.iter().fold(0.0, |sum, pilot| sum + pilot.cpus),
            },
            given_seconds: seen.given_seconds,
            ..Status::default()
        }
    }
}

fn protection(known: &decide::Protection) -> Protection {
    use decide::Protection::{Lost, None, Prepared, Session, Verified};
    let text = match known {
        Verified => "pilots get only what nobody else wants",
        Session => "within your session; they are paused when you need the machine",
        Prepared => "the first pilot will show that it holds",
        Lost => "the pilots' group is not idle yet; the daemon sets that at its next look",
        None(why) => why,
    };
    let level = match known {
        Lost | None(_) => "none".to_owned(),
        held => word(held),
    };
    let text = text.to_owned();
    Protection { level, text }
}

fn row(pilot: &decide::Pilot, now: Moment) -> Pilot {
    Pilot {
        id: pilot.id.as_str().to_owned(),
        name: pilot.name.clone(),
        class: pilot.class.clone(),
        state: pilot.state,
        started: Some(pilot.created),
        deadline: Some(now.epoch + pilot.expiry.left(now)),
        image: pilot.image.clone(),
        cpus: pilot.cpus,
        memory: pilot.memory,
    }
}

/// What is logged: a problem when it begins, when its cause changes and when it ends; the state when it or its reason changes;
/// what became of a pilot.
#[derive(Debug, Default)]
pub struct Changes {
    /// By subject: the text, and how often it was met.
    problems: BTreeMap<&'static str, (String, u64)>,
    state: Option<(State, Code)>,
    /// The last failing call, so that one that fails at each tick is logged once.
    failed: Option<News>,
}

impl Changes {
    /// Without a text the subject is well again.
    pub fn problem(&mut self, subject: &'static str, texts: impl IntoIterator<Item: ToString>) {
        let texts = texts.into_iter().map(|text| text.to_string());
        let text = texts.collect::<Vec<_>>().join("; ");
        let (before, count) = self.problems.remove(subject).unwrap_or_default();
        if text.is_empty() {
            if count > 0 {
                log::info!("{subject}: recovered (failures: {count})");
            }
            return;
        }
        if text != before {
            log::warn!("{subject}: {text}");
        }
        self.problems.insert(subject, (text, count + 1));
    }

    pub fn sinks(&mut self, sinks: &[Sink]) {
        let failing = |sink: &Sink| Some(format!("{}: {}", sink.url, sink.error.as_ref()?));
        self.problem("metrics", sinks.iter().filter_map(failing));
    }

    /// What the owner has to know of a configuration from elsewhere.
    pub fn remote(&mut self, remote: Option<&Remote>) {
        let subject = "joined, and waiting for `plancton join` to be accepted";
        self.problem(subject, remote.iter().flat_map(|remote| &remote.waiting));
        let refused = remote.iter().flat_map(|remote| &remote.refused);
        self.problem("joined, and not granted", refused);
    }

    /// One line each, for `status`.
    pub fn problems(&self) -> Vec<String> {
        let said = self.problems.iter();
        let said = said.map(|(subject, (text, _))| format!("{subject}: {text}"));
        said.collect()
    }

    pub fn state(&mut self, status: &Status) {
        let now = Some((status.state, status.reason.code));
        if std::mem::replace(&mut self.state, now) != now {
            log::info!("{}: {}", word(status.state), status.reason.text);
        }
    }

    /// What calls in flight brought back.
    pub fn news(&mut self, all: &[News]) {
        for news in all {
            if self.failed.as_ref() != Some(news) {
                log_news(news);
            }
            if matches!(news, News::Failed(..)) {
                self.failed = Some(news.clone());
            }
        }
    }
}

fn log_news(news: &News) {
    match news {
        News::Launched(_, name, _, result) => match result {
            LaunchResult::Started(id) => log::info!("{name} started ({id})"),
            LaunchResult::NoImage => log::info!("{name}: its image is not here yet"),
            LaunchResult::MountMissing(source) => {
                log::warn!("{name}: {source} is not on this machine; trying again later")
            }
            LaunchResult::Failed(why) | LaunchResult::Lost(why) => {
                log::warn!("{name} was not started: {why}")
            }
        },
        News::Fetched(class, result) => match result {
            Ok(()) => log::info!("the image of '{class}' is here"),
            Err(why) => log::warn!("the image of '{class}': {why}; trying again later"),
        },
        News::Removed(decide::Pilot { name, .. }, Some(ended)) => {
            let (lived, code) = (ended.lived.unwrap_or(0.0), ended.exit_code);
            log::info!("{name} ended after {lived:.0} s with exit code {code}");
        }
        News::Failed(id, what) => {
            log::warn!("{id}: {what}; decided about again at the next tick")
        }
        News::Removed(..) | News::Changed(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_or_older_daemon_is_understood() {
        let text = r#"{"pid":5,"state":"snoozed","new":{"x":1},"pilots":[],"loop":{"turns":2,
            "longest_gap_ms":0.5,"calls":1,"cpu_ms":3}}"#;
        let status: Status = serde_json::from_str(text).unwrap();
        assert_eq!((status.pid, status.state), (5, State::Snoozed));
        let again = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&again).unwrap(), status);
    }

    /// A daemon that stands still is found out by the time the machine was awake, whatever the wall clock says: a night's
    /// sleep, or a clock that is set, makes nothing late.
    #[test]
    fn who_stands_still() {
        let written = |interval: f64| {
            let mut status = Status {
                tick: 1000.0,
                due: Some(1000.0 + patience(interval)),
                ..Status::default()
            };
            (status.turning.awake, status.turning.interval) = (500.0, interval);
            status
        };
        let at = |awake, epoch| Moment {
            awake,
            epoch,
            ..Moment::default()
        };
        for (interval, now, stale, stuck) in [
            (10.0, at(501.0, 1001.0), false, false),
            (10.0, at(529.0, 1029.0), false, false),
            (10.0, at(531.0, 1031.0), true, false),
            (10.0, at(594.0, 1094.0), true, false),
            (10.0, at(596.0, 1096.0), true, true),
            (3600.0, at(11_299.0, 11_799.0), false, false),
            (3600.0, at(11_306.0, 11_806.0), true, true),
            // Eight hours of sleep; the clock a day forward, and two hours back.
            (10.0, at(502.0, 29_802.0), false, false),
            (10.0, at(502.0, 87_402.0), false, false),
            (10.0, at(600.0, -6_000.0), true, true),
            // Another boot.
            (10.0, at(20.0, 1020.0), true, true),
        ] {
            let status = written(interval);
            assert_eq!(status.is_stale(now), stale, "{now:?}");
            assert_eq!(status.is_stuck(now), stuck, "{now:?}");
            let idle = Status {
                due: None,
                ..status
            };
            assert!(!idle.is_stale(now) && !idle.is_stuck(now));
        }
    }
}
