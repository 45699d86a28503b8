//! What the engine says, as types: only the fields that are used, and tolerant, because engines differ in what they leave out
//! or send as null. Pure. Ids are checked here, so a list with an unreadable id is an error and not a shorter list.

use super::*;
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// Why a call gave no outcome; names the socket, the call and what to do, because it ends up in `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// No connection, or no common language. That is wrong with the engine as a whole: the text names no call, so that
    /// it is one problem and not one a call.
    Unreachable(String),
    /// The request may have been carried out all the same: look before asking again.
    ReplyLost(String),
    /// The engine says no: the call, the status, and the engine's words.
    Refused(String, u16, String),
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unreachable(text) | Error::ReplyLost(text) => f.write_str(text),
            Error::Refused(call, 200, why) => write!(f, "{call}: {why}"),
            Error::Refused(call, status, why) => write!(f, "{call}: {why} (status {status})"),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Info {
    #[serde(deserialize_with = "words")]
    pub server_version: String,
    /// `systemd`, `cgroupfs` or `none`.
    pub cgroup_driver: String,
    /// `1` or `2`.
    pub cgroup_version: String,
    #[serde(rename = "NCPU")]
    pub cpus: u64,
    pub docker_root_dir: String,
    /// Pairs of words; with the containerd store one is its snapshotter.
    #[serde(deserialize_with = "lax")]
    pub driver_status: Vec<Vec<String>>,
    /// Of the kernel that containers run on.
    pub kernel_version: String,
    /// Bytes.
    pub mem_total: u64,
    #[serde(deserialize_with = "lax")]
    pub security_options: Vec<String>,
    pub memory_limit: bool,
    pub swap_limit: bool,
    pub cpu_cfs_quota: bool,
    pub pids_limit: bool,
    /// Its `ID` is `N/A` where Docker can't run its `docker-init`; Podman says nothing.
    pub init_commit: Value,
}

impl Info {
    /// Of its security options.
    pub fn has(&self, name: &str) -> bool {
        let mut options = self.security_options.iter();
        options.any(|option| option.contains(name))
    }
}

/// One container of a list.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Listed {
    #[serde(deserialize_with = "checked_id")]
    pub id: PilotId,
    /// With a leading slash; may be empty.
    #[serde(default, deserialize_with = "list_of_words")]
    pub names: Vec<String>,
    /// The engine's word, `running` or `exited` and so on; other words exist and mean "leave it alone".
    #[serde(default)]
    pub state: String,
    /// Seconds since 1970.
    pub created: Option<f64>,
    #[serde(default, deserialize_with = "lax")]
    pub labels: Labels,
    #[serde(default, deserialize_with = "words")]
    pub image: String,
}

/// Every container of ours has it, whatever the instance.
pub const INSTANCE_LABEL: &str = "io.plancton.instance";

/// Those that are ours; a list is read at each tick, so that the others cost nothing.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Labels {
    #[serde(rename = "io.plancton.instance")]
    pub instance: Option<String>,
    #[serde(rename = "io.plancton.class")]
    pub class: Option<String>,
    #[serde(rename = "io.plancton.cpus")]
    pub cpus: Option<String>,
    #[serde(rename = "io.plancton.memory")]
    pub memory: Option<String>,
    #[serde(rename = "io.plancton.stop-grace")]
    pub grace: Option<String>,
    #[serde(rename = "io.plancton.expires")]
    pub expires: Option<String>,
    #[serde(rename = "io.plancton.deadline")]
    pub deadline: Option<String>,
}

/// One container, or one image, which has no state.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Inspected {
    /// Of an image it differs by store: a config digest or a manifest digest.
    pub id: String,
    #[serde(default, deserialize_with = "lax")]
    pub state: State,
    #[serde(default, deserialize_with = "lax")]
    pub config: Declared,
    /// The names that an image has.
    #[serde(default, deserialize_with = "lax")]
    pub repo_tags: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct State {
    pub running: bool,
    /// Of the container's first process; 0 while it has none.
    pub pid: u32,
    #[serde(rename = "OOMKilled")]
    pub oom_killed: bool,
    pub exit_code: i64,
    #[serde(deserialize_with = "words")]
    pub error: String,
    /// Seconds since 1970; `None` before the start.
    #[serde(deserialize_with = "epoch")]
    pub started_at: Option<f64>,
    /// Seconds since 1970; `None` before the first end.
    #[serde(deserialize_with = "epoch")]
    pub finished_at: Option<f64>,
}

/// What an image declares for itself, and its containers inherit.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Declared {
    pub image: String,
    /// How it wants to be stopped; empty: SIGTERM.
    #[serde(deserialize_with = "lax")]
    pub stop_signal: String,
    /// Paths that are to be written to, whatever the root is.
    #[serde(deserialize_with = "lax")]
    pub volumes: BTreeMap<String, IgnoredAny>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Created {
    #[serde(deserialize_with = "checked_id")]
    pub id: PilotId,
    /// May say that a limit was dropped.
    #[serde(default, deserialize_with = "list_of_words")]
    pub warnings: Vec<String>,
}

/// RFC 3339 to seconds since 1970; `None` for what is not a time or, like the engine's zero `0001-01-01T00:00:00Z`, before 1970.
fn epoch<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    let text: String = lax(from)?;
    let seconds = text.parse::<jiff::Timestamp>();
    let seconds = seconds.map(|time| time.as_duration().as_secs_f64());
    Ok(seconds.ok().filter(|seconds| *seconds >= 0.0))
}

/// Null is as good as nothing.
fn lax<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// What comes before people's eyes.
fn words<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text: String = lax(from)?;
    Ok(clean_line(&text, LONGEST_MESSAGE))
}

fn list_of_words<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let list: Vec<String> = lax(from)?;
    let clean = |text: &String| clean_line(text, LONGEST_MESSAGE);
    Ok(list.iter().map(clean).collect())
}

fn checked_id<'de, D: Deserializer<'de>>(from: D) -> Result<PilotId, D::Error> {
    let text = String::deserialize(from)?;
    PilotId::new(&text).ok_or_else(|| D::Error::custom("an id is not 64 hexadecimal digits"))
}
