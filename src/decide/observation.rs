//! One tick's readings as plain values: what `observe` fills in, what `decide` reads, what `run --record` writes
//! and `replay` reads back. What could not be read is `None`, never 0.

use crate::units::{LocalTime, Moment, PilotId};
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Observation {
    pub at: Moment,
    pub local: LocalTime,
    /// Cores a pilot may run on: physical ones unless `smt`, within `cpuset`.
    pub cores: f64,
    /// Logical processors that are online: what the busy time of /proc/stat is a sum over.
    pub threads: f64,
    /// The machine runs on a battery at times: half of the cores are given by default.
    pub has_battery: bool,
    /// `None` on the first tick.
    pub cpu: Option<CpuUse>,
    /// CPU seconds that pilots used since the daemon started.
    pub given_seconds: f64,
    pub memory: Option<MemoryUse>,
    /// Bytes free below the engine's data root.
    pub disk_free: Option<u64>,
    pub on_battery: bool,
    /// Percent.
    pub charge: Option<u8>,
    /// Hottest CPU package, °C.
    pub temperature: Option<f64>,
    /// Memory pressure on the owner's side: percent of time in which somebody waited, 10 s average.
    pub memory_pressure: Option<f64>,
    /// A running program of `pause-while-running`.
    pub program: Option<String>,
    /// Other users' programs can't be seen from here.
    pub hides_programs: bool,
    /// First line of a hold file, with its name.
    pub hold: Option<String>,
    pub engine: EngineState,
    /// Epoch second since which the present engine is known: a pilot from before may have died with the one before it.
    pub engine_since: f64,
    pub protection: Protection,
    /// `None`: the list could not be read.
    pub pilots: Option<Vec<Pilot>>,
    /// Boot-clock second at which the list was asked for: what ended before is in it.
    pub listed_at: f64,
    /// What the calls in flight brought back since the last tick.
    pub news: Vec<News>,
    pub control: Control,
}

/// All in cores (2.0 is two cores busy all the time).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuUse {
    /// Everything that was not idle.
    pub busy: f64,
    /// The pilots' part of it.
    pub pilots: f64,
    /// The owner's part over the last window.
    pub foreign: f64,
    /// The owner's part, smoothed: fast rise, slow fall. Launches go by the larger of the two.
    pub foreign_smooth: f64,
    /// Length of the last window, seconds.
    pub window: f64,
    /// Boot-clock second at which it ended.
    pub at: f64,
}

/// All in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryUse {
    pub total: u64,
    pub available: u64,
    /// In use and not by pilots.
    pub foreign: u64,
    /// In use by pilots, without page cache.
    pub pilots: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineState {
    /// Not asked yet.
    #[default]
    Unknown,
    Up,
    /// Unreachable, hanging or answering with errors: the text says which.
    Down(String),
    /// Too old, or without cgroups on this host.
    Unsupported(String),
}

/// How well the kernel keeps pilots out of the owner's way.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protection {
    /// Read back from the cgroup files of a running pilot.
    Verified,
    /// Likewise, but below one user's manager: what others run, or that user outside of it, is not protected.
    Session,
    /// The idle group is there; no pilot has run in it yet.
    Prepared,
    /// The group is there and not idle: something has reset it, and it is set again.
    Lost,
    /// Why not.
    #[default]
    None(#[default("not looked at yet".to_owned())] String),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PilotState {
    Created,
    Running,
    Paused,
    #[serde(alias = "stopped")]
    Exited,
    /// The engine failed to remove it once.
    Dead,
    Removing,
    /// States that other engines have: left alone, counted as taken.
    #[default]
    #[serde(other)]
    Other,
}

impl PilotState {
    /// CPU and memory are taken by it, or will be in a moment.
    pub fn holds_room(self) -> bool {
        let gone = [PilotState::Exited, PilotState::Dead, PilotState::Removing];
        !gone.contains(&self)
    }
}

/// When a pilot's time is up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expiry {
    /// Second of this boot's awake clock.
    Awake(f64),
    /// Of another boot, or unreadable: only the wall clock is left.
    Epoch(f64),
}

impl Expiry {
    /// Seconds left; negative when it is over.
    pub fn left(self, now: Moment) -> f64 {
        match self {
            Expiry::Awake(second) => second - now.awake,
            Expiry::Epoch(second) => second - now.epoch,
        }
    }
}

/// One container with our label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pilot {
    pub id: PilotId,
    pub name: String,
    pub class: String,
    /// Its instance label is ours, to the letter. Others count as taken and are never touched.
    pub own: bool,
    pub state: PilotState,
    /// Epoch seconds.
    pub created: f64,
    pub expiry: Expiry,
    pub cpus: f64,
    /// Memory limit, bytes.
    pub memory: u64,
    /// Seconds between SIGTERM and SIGKILL.
    pub grace: f64,
    /// Cores it used over the last window; `None` when it was not looked at.
    pub used: Option<f64>,
    /// Limits that were read back and do not hold.
    pub unlimited: Option<String>,
    #[serde(default)]
    pub image: String,
}

/// What a call in flight brought back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum News {
    /// Class and name of the pilot, and the boot-clock second of the answer: a list asked for later shows it if there is one.
    Launched(String, String, f64, LaunchResult),
    /// The image of a class.
    Fetched(String, Result<(), String>),
    /// With how it ended, if it ever ran.
    Removed(Pilot, Option<Ended>),
    /// A pause or its end was carried out: look again.
    Changed(PilotId),
    /// A call failed that will be decided about again: signal, pause, removal.
    Failed(PilotId, String),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LaunchResult {
    Started(PilotId),
    NoImage,
    /// The source of a mount is not there; the engine must not make it.
    MountMissing(String),
    /// Nothing of it is left.
    Failed(String),
    /// The reply to its start was lost: it may run; the list tells.
    Lost(String),
}

/// How a pilot ended, as the engine says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    pub exit_code: i64,
    pub out_of_memory: bool,
    /// Seconds between start and end; `None`: it never started.
    pub lived: Option<f64>,
    pub error: String,
    /// The end of its log, where it is of use.
    pub log_tail: String,
}

/// What was asked for through the control directory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Control {
    pub drain: Option<Drain>,
    pub snooze: Option<Snooze>,
    pub force_stop: bool,
    /// Look for newer images now.
    pub pull: bool,
}

/// Launch nothing more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Drain {
    /// End the daemon when the last pilot is gone.
    pub stop: bool,
    /// Epoch second at which what still runs is stopped.
    pub by: Option<f64>,
    pub since: f64,
}

/// Pause pilots and launch nothing until then (epoch seconds).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snooze {
    pub until: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndKind {
    Done,
    /// By its exit code, or done at once.
    NoWork,
    Failed,
    OutOfMemory,
    Ttl,
    /// The owner needs the CPU, the memory or the disk, or set a rule.
    Owner,
    Drained,
    /// By somebody else: a signal that we did not send.
    Killed,
    /// Removed before it was started.
    NeverRan,
}

impl EndKind {
    /// It did what it was to do, or was told to end.
    pub fn is_well(self) -> bool {
        let bad = [EndKind::Failed, EndKind::OutOfMemory, EndKind::NeverRan];
        !bad.contains(&self)
    }
}

/// A pilot that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    pub name: String,
    pub class: String,
    pub kind: EndKind,
    /// Epoch seconds.
    pub at: f64,
    /// Seconds.
    pub lived: f64,
    pub exit_code: i64,
    /// The end of its log, where it is of use.
    pub log_tail: String,
}
