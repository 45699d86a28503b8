//! What the values of keys may be: each alone, and those of a class of pilots together. Pure: a problem says what to
//! write instead.

use super::keys::PilotClass;
use super::values::absolute;
use crate::units::{Bytes, float, parse_cpu_list, parse_duration};
use toml::Value;

/// Whether a value is one that the key can have. What is of another type is left to serde.
pub fn judge(key: &str, value: &Value) -> Result<(), String> {
    match (key, value.as_str().unwrap_or_default()) {
        ("interval" | "flush", _) => within(value, "1s", "1h"),
        ("launches-per-tick", _) => within(value, 1, 64),
        ("cpus", _) => within(value, 0.01, 8_192.0),
        ("reserve-cpus", _) => within(value, 0.0, 8_192.0),
        ("min-battery", _) => within(value, 0, 100),
        ("max-temperature", _) => within(value, 0, 150),
        ("timeout", _) => within(value, "1s", "10m"),
        ("memory", _) => within(value, "6MiB", "1000000TiB"),
        ("pids", _) => within(value, 8, 4_194_304),
        ("ttl", _) => within(value, "1s", "36500d"),
        ("stop-grace", _) => within(value, "0s", "10m"),
        ("weight", _) => within(value, 1, 1_000),
        ("refresh", _) => within(value, "1s", "168h"),
        ("cpuset", text) => cpuset(text),
        ("socket" | "instance" | "image-archive" | "auth-file" | "ca-file", "") => Ok(()),
        ("image-archive" | "auth-file" | "ca-file", path) => absolute(path).map(drop),
        ("socket", path) => socket_path(path),
        ("name" | "instance", name) => label(name),
        ("pause-while-running", _) => program_names(value),
        ("host-config", _) => host_config(value),
        _ => Ok(()),
    }
}

/// Seconds of a duration, bytes of a size; `None`: neither, and no number.
fn measure(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) => match parse_duration(text) {
            Ok(duration) => Some(duration.as_secs_f64()),
            Err(_) => Bytes::parse(text).ok().map(|size| float(size.0)),
        },
        // What is no number is less than any.
        Value::Float(number) => Some(number.max(f64::MIN)),
        other => other.to_string().parse().ok(),
    }
}

fn within(value: &Value, low: impl Into<Value>, high: impl Into<Value>) -> Result<(), String> {
    let (low, high) = (low.into(), high.into());
    match (measure(value), measure(&low), measure(&high)) {
        (Some(number), Some(least), _) if number < least => {
            Err(format!("{value} is too little; write {low} or more"))
        }
        (Some(number), _, Some(most)) if number > most => {
            Err(format!("{value} is too much; write {high} or less"))
        }
        _ => Ok(()),
    }
}

fn cpuset(text: &str) -> Result<(), String> {
    let is_list = parse_cpu_list(text).is_some() && !text.contains(['+', ' ']);
    is_list.then_some(()).ok_or_else(|| {
        format!(
            "'{text}' is not a list of CPU numbers; write one such as \"4-7,9\", or \"\" for any"
        )
    })
}

fn socket_path(text: &str) -> Result<(), String> {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    path.starts_with('/').then_some(()).ok_or_else(|| {
        format!("'{text}' is not a Unix socket; write \"/path\" or \"unix:///path\", or \"\" to have it found")
    })
}

/// Names of instances and classes: they go into labels, container names and paths.
fn label(text: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_name = text.starts_with(plain) && text.chars().all(|c| plain(c) || c == '-');
    (is_name && text.len() <= 32).then_some(()).ok_or_else(|| {
        format!("'{text}' is not a name; write 1 to 32 of a-z, 0-9 and '-', not starting with '-'")
    })
}

/// With its folder a program would never be found.
fn program_names(value: &Value) -> Result<(), String> {
    let mut names = value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    names
        .find(|name| name.contains('/'))
        .map_or(Ok(()), |name| {
            Err(format!(
                "'{name}' is not a program's name; write it without its folder"
            ))
        })
}

/// Fields of the engine's HostConfig that Plancton sets itself.
const OWN_FIELDS: &str = "NanoCpus CpuQuota CpuPeriod CpuShares CpusetCpus Memory MemorySwap PidsLimit CgroupParent \
    OomScoreAdj OomKillDisable RestartPolicy AutoRemove Labels LogConfig Init Binds Mounts Tmpfs Devices CapAdd CapDrop \
    Privileged NetworkMode ReadonlyRootfs";

fn host_config(value: &Value) -> Result<(), String> {
    let mut fields = value.as_table().into_iter().flat_map(|table| table.keys());
    let is_own = |field: &&String| {
        OWN_FIELDS
            .split(' ')
            .any(|own| own.eq_ignore_ascii_case(field))
    };
    fields.find(is_own).map_or(Ok(()), |field| {
        Err(format!(
            "'{field}' is set by Plancton itself; use the key for it, or leave it out"
        ))
    })
}

impl PilotClass {
    /// As it is, if its keys go together.
    pub(super) fn settle(self) -> Result<PilotClass, String> {
        let is_number = |id: &str| id.parse::<u32>().is_ok();
        if !self.files.is_empty() && !self.user.split(':').all(is_number) {
            return Err(
                "files: copies belong to the pilot's user, so write user as numbers, \"UID:GID\""
                    .to_owned(),
            );
        }
        for file in &self.files {
            absolute(&file.source)?;
            absolute(&file.target)?;
        }
        Ok(self)
    }
}
