//! What the engine says, as types: only the fields that are used, and tolerant, because engines differ in what they leave out
//! or send as null. Pure. Ids are checked here, so a list with an unreadable id is an error and not a shorter list.

use super::error::Fault;
use crate::units::PilotId;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::fmt;

/// `1.41`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion(pub u16, pub u16);

impl ApiVersion {
    pub fn parse(text: &str) -> Option<ApiVersion> {
        let (major, minor) = text.trim().split_once('.')?;
        Some(ApiVersion(major.parse().ok()?, minor.parse().ok()?))
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ping {
    /// What both sides speak, not the engine's maximum.
    pub api_version: ApiVersion,
    /// `Docker/20.10.24 (linux)`, `Libpod/4.3.1 (linux)`; may be empty.
    pub server: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Info {
    pub server_version: String,
    /// `systemd`, `cgroupfs` or `none`.
    pub cgroup_driver: String,
    /// `1` or `2`; engines that do not say have version 1.
    #[serde(default = "first_version")]
    pub cgroup_version: String,
    #[serde(rename = "NCPU")]
    pub cpus: u64,
    pub docker_root_dir: String,
    /// The storage driver.
    pub driver: String,
    pub operating_system: String,
    #[serde(deserialize_with = "or_default")]
    pub security_options: Vec<String>,
    pub memory_limit: bool,
    pub swap_limit: bool,
    pub cpu_cfs_quota: bool,
    pub pids_limit: bool,
}

fn first_version() -> String {
    "1".to_owned()
}

/// One container of a list.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Listed {
    #[serde(deserialize_with = "checked_id")]
    pub id: PilotId,
    /// With a leading slash; may be empty.
    #[serde(default, deserialize_with = "or_default")]
    pub names: Vec<String>,
    /// The engine's word, `running` or `exited` and so on; other words exist and mean "leave it alone".
    #[serde(default)]
    pub state: String,
    /// Seconds since 1970.
    #[serde(default)]
    pub created: Option<f64>,
    #[serde(default, deserialize_with = "or_default")]
    pub labels: Labels,
    #[serde(default)]
    pub image: String,
}

/// Those that are ours, as `act::spec` writes them; a list is read at each tick, so that the others cost nothing.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
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

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Inspected {
    #[serde(deserialize_with = "checked_id")]
    pub id: PilotId,
    #[serde(default, deserialize_with = "or_default")]
    pub state: State,
    #[serde(default, deserialize_with = "or_default")]
    pub config: ContainerConfig,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct State {
    pub running: bool,
    #[serde(rename = "OOMKilled")]
    pub oom_killed: bool,
    pub exit_code: i64,
    pub error: String,
    /// Seconds since 1970; `None` before the start.
    #[serde(deserialize_with = "epoch")]
    pub started_at: Option<f64>,
    /// Seconds since 1970; `None` before the first end.
    #[serde(deserialize_with = "epoch")]
    pub finished_at: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    pub image: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Created {
    #[serde(deserialize_with = "checked_id")]
    pub id: PilotId,
    /// May say that a limit was dropped.
    #[serde(default, deserialize_with = "or_default")]
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Image {
    /// Differs by image store: a config digest or a manifest digest.
    pub id: String,
    /// The names it has.
    #[serde(default, deserialize_with = "or_default")]
    pub repo_tags: Vec<String>,
}

pub fn parse_json<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, Fault> {
    serde_json::from_slice(text).map_err(|error| Fault::garbage(error.to_string()))
}

/// RFC 3339 to seconds since 1970; `None` for what is not a time or, like the engine's zero `0001-01-01T00:00:00Z`, before 1970.
pub fn parse_time(text: &str) -> Option<f64> {
    let seconds = text
        .parse::<jiff::Timestamp>()
        .ok()?
        .as_duration()
        .as_secs_f64();
    (seconds >= 0.0).then_some(seconds)
}

fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

fn checked_id<'de, D: Deserializer<'de>>(from: D) -> Result<PilotId, D::Error> {
    let text = String::deserialize(from)?;
    PilotId::new(&text).ok_or_else(|| D::Error::custom("an id is not 64 hexadecimal digits"))
}

fn epoch<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.and_then(|text| parse_time(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", Some(0.0)),
            ("2015-01-06T15:47:31Z", Some(1_420_559_251.0)),
            ("2015-01-06T15:47:31.5Z", Some(1_420_559_251.5)),
            ("2015-01-06T15:47:31.250000000Z", Some(1_420_559_251.25)),
            ("2015-01-06T17:47:31.5+02:00", Some(1_420_559_251.5)),
            ("2015-01-06T10:17:31-05:30", Some(1_420_559_251.0)),
            ("0001-01-01T00:00:00Z", None),
            ("", None),
            ("yesterday", None),
        ] {
            assert_eq!(parse_time(text), seconds, "{text}");
        }
    }

    #[test]
    fn a_list_of_each_engine() {
        let id = "ab".repeat(32);
        let docker = format!(
            r#"[{{"Id":"{id}","Names":["/p"],"State":"running","Created":1700000000,"Labels":{{"a":"b","io.plancton.class":"c"}},
            "Image":"x","ImageID":"sha256:1","Ports":[],"HostConfig":{{"NetworkMode":"bridge"}}}}]"#
        );
        let listed: Vec<Listed> = parse_json(docker.as_bytes()).unwrap();
        assert_eq!(listed[0].names, ["/p"]);
        assert_eq!(listed[0].created, Some(1.7e9));
        assert_eq!(listed[0].labels.class.as_deref(), Some("c"));
        let sparse = format!(r#"[{{"Id":"{id}","Names":null,"Labels":null,"Created":null}}]"#);
        let listed: Vec<Listed> = parse_json(sparse.as_bytes()).unwrap();
        assert_eq!((listed[0].names.len(), listed[0].created), (0, None));
        for bad in [r#"[{"Names":[]}]"#, r#"[{"Id":"../x"}]"#, "{}", "[", "null"] {
            assert!(parse_json::<Vec<Listed>>(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn inspected_and_info() {
        let text = format!(
            r#"{{"Id":"{}","Created":"2015-01-06T15:47:31Z","State":{{"OOMKilled":true,"ExitCode":137,
            "StartedAt":"0001-01-01T00:00:00Z","FinishedAt":"2015-01-06T15:47:32Z"}},"Config":null}}"#,
            "0".repeat(64)
        );
        let found: Inspected = parse_json(text.as_bytes()).unwrap();
        assert!(found.state.oom_killed && !found.state.running);
        assert_eq!(found.state.exit_code, 137);
        assert_eq!(found.state.started_at, None);
        assert_eq!(found.state.finished_at, Some(1_420_559_252.0));
        let info: Info = parse_json(br#"{"NCPU":4,"Warnings":null}"#).unwrap();
        assert_eq!((info.cpus, info.cgroup_version.as_str()), (4, "1"));
        let info: Info = parse_json(br#"{"CgroupVersion":"2","CpuCfsQuota":true}"#).unwrap();
        assert!(info.cpu_cfs_quota && info.cgroup_version == "2");
    }

    #[test]
    fn versions() {
        assert!(ApiVersion::parse("1.9") < ApiVersion::parse("1.41"));
        assert_eq!(ApiVersion::parse(" 1.41").unwrap().to_string(), "1.41");
        for bad in ["", "1", "1.x", "v1.41"] {
            assert_eq!(ApiVersion::parse(bad), None, "{bad}");
        }
    }
}
