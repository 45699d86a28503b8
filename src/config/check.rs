//! What the values of keys may be: each alone, and those of a class of pilots together. Pure: a problem says what to
//! write instead.

use super::keys::PilotClass;
use super::values::absolute;
use crate::units::{Bytes, float, parse_cpu_list, parse_duration};
use toml::Value;

/// What is wrong with a value for that key, and what to write. What is of another type is left to serde.
pub fn judge(key: &str, value: &Value) -> Option<String> {
    let (is_fine, what) = match (key, value.as_str().unwrap_or_default()) {
        ("interval" | "flush", _) => return within(value, "1s", "1h"),
        ("launches-per-tick", _) => return within(value, 1, 64),
        ("cpus", _) => return within(value, 0.01, 8_192.0),
        ("reserve-cpus", _) => return within(value, 0.0, 8_192.0),
        ("min-battery", _) => return within(value, 0, 100),
        ("max-temperature", _) => return within(value, 0, 150),
        ("timeout", _) => return within(value, "1s", "10m"),
        ("memory", _) => return within(value, "6MiB", "1000000TiB"),
        ("pids", _) => return within(value, 8, 4_194_304),
        ("ttl", _) => return within(value, "1s", "36500d"),
        ("stop-grace", _) => return within(value, "0s", "10m"),
        ("weight", _) => return within(value, 1, 1_000),
        ("refresh", _) => return within(value, "1s", "168h"),
        ("host-config", _) => return host_config(value),
        ("name", name) => (is_label(name), "1 to 32 of a-z, 0-9 and '-'"),
        (_, "") if key != "pause-while-running" => return None,
        ("instance", name) => (is_label(name), "1 to 32 of a-z, 0-9 and '-'"),
        ("image-archive" | "auth-file" | "ca-file", path) => {
            (is_path(path), "a path from the root")
        }
        ("socket", path) => (
            is_path(path.trim_start_matches("unix://")),
            "\"/path\" or \"unix:///path\"",
        ),
        ("cpuset", list) => (is_cpu_list(list), "a list of CPUs such as \"4-7,9\""),
        ("pause-while-running", _) => (
            !value.to_string().contains('/'),
            "programs without their folders",
        ),
        _ => return None,
    };
    (!is_fine).then(|| format!("{value} can't be; write {what}"))
}

fn is_path(path: &str) -> bool {
    absolute(path).is_some()
}

fn is_cpu_list(list: &str) -> bool {
    parse_cpu_list(list).is_some() && !list.contains(['+', ' '])
}

/// Seconds of a duration, bytes of a size; `None`: neither, and no number.
fn measure(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) => match parse_duration(text) {
            Ok(duration) => Some(duration.as_secs_f64()),
            Err(_) => Bytes::parse(text).map(|size| float(size.0)),
        },
        // What is no number is less than any.
        Value::Float(number) => Some(number.max(f64::MIN)),
        other => other.to_string().parse().ok(),
    }
}

fn within(value: &Value, low: impl Into<Value>, high: impl Into<Value>) -> Option<String> {
    let (low, high, number) = (low.into(), high.into(), measure(value)?);
    if number < measure(&low)? {
        return Some(format!("{value} is too little; write {low} or more"));
    }
    (number > measure(&high)?).then(|| format!("{value} is too much; write {high} or less"))
}

/// Names of instances and classes: they go into labels, container names and paths.
fn is_label(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let all = text.chars().all(|c| plain(c) || c == '-');
    text.starts_with(plain) && text.len() <= 32 && all
}

/// Fields of the engine's HostConfig that Plancton sets itself.
const OWN_FIELDS: &str = "NanoCpus CpuQuota CpuPeriod CpuShares CpusetCpus Memory MemorySwap PidsLimit CgroupParent \
    OomScoreAdj OomKillDisable RestartPolicy AutoRemove Labels LogConfig Init Binds Mounts Tmpfs Devices CapAdd CapDrop \
    Privileged NetworkMode ReadonlyRootfs";

fn host_config(value: &Value) -> Option<String> {
    let mut fields = value.as_table()?.keys();
    let is_own = |field: &str| {
        OWN_FIELDS
            .split(' ')
            .any(|own| own.eq_ignore_ascii_case(field))
    };
    let field = fields.find(|field| is_own(field))?;
    Some(format!("'{field}' is set by Plancton itself; leave it out"))
}

impl PilotClass {
    /// As it is, if its keys go together.
    pub(super) fn settle(self) -> Result<PilotClass, String> {
        let is_number = |id: &str| id.parse::<u32>().is_ok();
        if !self.files.is_empty() && !self.user.split(':').all(is_number) {
            return Err(
                "files are copied for its user; write user as numbers, \"UID:GID\"".to_owned(),
            );
        }
        for path in self
            .files
            .iter()
            .flat_map(|file| [&file.source, &file.target])
        {
            absolute(path)
                .ok_or_else(|| format!("'{path}' in files is not a path from the root"))?;
        }
        Ok(self)
    }
}
