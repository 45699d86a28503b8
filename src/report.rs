//! What the daemon tells about itself: the status file, field by field. Pure.
//! The names are a contract with scripts (`status --json`): fields are added, never renamed; a reader of another version
//! fills what it does not find with defaults.

mod build;
mod told;

pub use build::{LoopCost, Seen, patience, status, word};
pub use told::Told;

pub use crate::decide::{Drain, Finished, Reason, Snooze, State};
pub use crate::site::Pull;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The whole of `status.json`. Times are seconds since 1970, sizes are bytes, CPU is in cores.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
pub struct Status {
    /// Raised when a field changes its meaning.
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

/// The meaning that this version gives to the fields.
pub const SCHEMA: u32 = 1;

/// How late a turn may be before the daemon counts as silent, in seconds: a loaded machine writes late.
const LATE: f64 = 5.0;

impl Status {
    /// Whether the daemon should have turned by now and did not.
    pub fn is_stale(&self, now: f64) -> bool {
        self.due.is_some_and(|due| now > due + LATE)
    }
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
pub struct Protection {
    /// `verified`, `prepared` or `none`.
    pub level: String,
    pub text: String,
}

/// `None` where it was not measured (yet).
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
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
#[serde(default)]
pub struct Memory {
    pub total: u64,
    pub available: u64,
    pub given: u64,
    pub pilots: Option<u64>,
    pub foreign: Option<u64>,
    pub reserve: u64,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
pub struct Disk {
    pub free: u64,
    pub reserve: u64,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
pub struct Pilot {
    pub id: String,
    pub name: String,
    pub class: String,
    pub state: String,
    pub started: Option<f64>,
    pub deadline: Option<f64>,
    pub image: String,
    pub cpus: f64,
    pub memory: u64,
}

/// Pilots of other instances on the same engine.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
pub struct Others {
    pub pilots: u32,
    pub cpus: f64,
}

/// Empty strings while it cannot be reached.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
pub struct Engine {
    pub name: String,
    pub version: String,
    pub api: String,
    pub socket: String,
}

/// One target of metrics since the daemon started, or since it is configured; counts are points.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
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
#[serde(default)]
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

/// What the loop itself costs.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
pub struct Loop {
    pub turns: u64,
    pub longest_gap_ms: f64,
    /// Engine calls.
    pub calls: u64,
    pub cpu_ms: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_round_trip() {
        let status = Status {
            schema: SCHEMA,
            version: "1".to_owned(),
            pid: 7,
            due: Some(12.5),
            state: State::Snoozed,
            drain: Some(Drain {
                stop: true,
                by: None,
                since: 3.25,
            }),
            snooze: Some(Snooze { until: 1e9 }),
            pilots: vec![Pilot {
                id: "ab".repeat(32),
                started: Some(1.5),
                ..Pilot::default()
            }],
            counts: BTreeMap::from([("done".to_owned(), 3)]),
            ..Status::default()
        };
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
        for needle in [
            "\"state\":\"snoozed\"",
            "\"loop\":{\"turns\":0",
            "\"drain\":{\"stop\":true,\"by\":null",
            "\"counts\":{\"done\":3}",
        ] {
            assert!(text.contains(needle), "{needle} in {text}");
        }
    }

    /// A newer or older daemon's file is still readable.
    #[test]
    fn other_versions() {
        let status: Status = serde_json::from_str(r#"{"pid":5,"new":{"x":1}}"#).unwrap();
        assert_eq!(status.pid, 5);
        assert_eq!(status.state, State::Waiting);
        for state in [
            State::Active,
            State::Draining,
            State::Snoozed,
            State::Paused,
            State::Waiting,
        ] {
            let json = serde_json::to_string(&state).unwrap();
            assert_eq!(json, format!("\"{}\"", state.name()));
        }
    }

    #[test]
    fn stale() {
        let at = |due| Status {
            due,
            ..Status::default()
        };
        assert!(!at(None).is_stale(1e12));
        assert!(!at(Some(100.0)).is_stale(104.0));
        assert!(at(Some(100.0)).is_stale(106.0));
    }
}
