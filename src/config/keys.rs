//! Every key of the configuration, declared once: its type, its default and what is allowed. From the declaration come
//! the struct, `Default`, the list of keys, reading and writing. conf/plancton.toml explains them; a test holds both together.

use super::mounts::{Device, Handed, Mount, Tmpfs, absolute};
use super::sink::split_url;
use super::values::{
    Auto, Image, MissingLimits, OnBattery, Read, Secret, Toml, Value, WhenBusy, wrong,
};
use crate::units::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What each table can do with its keys; `None`: it has no such key.
pub trait Section {
    const KEYS: &'static [&'static str];

    /// The key that was set, or all that is wrong with the value.
    fn set(&mut self, key: &str, value: &Toml<'_>) -> Option<Read<&'static str>>;

    /// The value as TOML.
    fn write(&self, key: &str) -> Option<String>;

    /// Takes one key's value from another table of the kind; a key of another section changes nothing.
    fn take(&mut self, key: &str, from: &Self);
}

/// `"key" field: Type = default, check;`
macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$key_doc:meta])* $key:literal $field:ident: $type:ty = $default:expr $(, $check:expr)?;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($(#[$key_doc])* pub $field: $type,)+
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $default,)+ }
            }
        }

        impl Section for $name {
            const KEYS: &'static [&'static str] = &[$($key),+];

            fn set(&mut self, key: &str, value: &Toml<'_>) -> Option<Read<&'static str>> {
                Some(match key {
                    $($key => <$type>::read(value).and_then(|read| {
                        $(($check)(&read).map_err(|why: String| wrong(value.span().start, why))?;)?
                        self.$field = read;
                        Ok($key)
                    }),)+
                    _ => return None,
                })
            }

            fn write(&self, key: &str) -> Option<String> {
                match key {
                    $($key => Some(self.$field.write()),)+
                    _ => None,
                }
            }

            fn take(&mut self, key: &str, from: &Self) {
                match key {
                    $($key => self.$field.clone_from(&from.$field),)+
                    _ => {}
                }
            }
        }
    };
}

section! {
    /// The pace.
    Loop {
        "interval" interval: Duration = 10 * SECOND, |v| within(v, SECOND, HOUR);
        "launches-per-tick" launches_per_tick: u32 = 4, |v| within(v, 1, 64);
    }
}

section! {
    /// What may be given away.
    Share {
        "cpus" cpus: Auto<f64> = Auto::Auto, |v| cores(v, 0.01);
        "reserve-cpus" reserve_cpus: Auto<f64> = Auto::Auto, |v| cores(v, 0.0);
        "reserve-memory" reserve_memory: Bytes = Bytes(2 * GIB);
        "reserve-disk" reserve_disk: Bytes = Bytes(10 * GIB);
        "max-pilots" max_pilots: Auto<u32> = Auto::Auto;
        /// 0: no bound.
        "pull-per-day" pull_per_day: Bytes = Bytes(20 * GIB);
        "smt" smt: bool = false;
        /// A Linux CPU list, see [`parse_cpuset`]; empty: any.
        "cpuset" cpuset: String = String::new(), |v: &String| parse_cpuset(v).map(drop);
        "missing-limits" missing_limits: MissingLimits = MissingLimits::Refuse;
    }
}

section! {
    /// When pilots give way.
    Owner {
        "when-busy" when_busy: WhenBusy = WhenBusy::Auto;
        "busy-for" busy_for: Duration = 10 * SECOND;
        "calm-for" calm_for: Duration = 60 * SECOND;
        "starve-limit" starve_limit: Duration = 10 * MINUTE;
        "on-battery" on_battery: OnBattery = OnBattery::Pause;
        /// Percent.
        "min-battery" min_battery: u32 = 30, |v| within(v, 0, 100);
        /// Degrees Celsius; 0: not looked at.
        "max-temperature" max_temperature: u32 = 85, |v| within(v, 0, 150);
        /// Names as the kernel has them: compare the first 15 bytes, it keeps no more.
        "pause-while-running" pause_while_running: Vec<String> = Vec::new(), |v: &Vec<String>| program_names(v);
    }
}

section! {
    /// Where the container engine is.
    EngineKeys {
        /// Empty: looked for; see [`EngineKeys::socket_path`].
        "socket" socket: String = String::new(), |v: &String| socket_path(v).map(drop);
        "timeout" timeout: Duration = 30 * SECOND, |v| within(v, SECOND, 10 * MINUTE);
        /// Empty: `system`, or `user-UID`.
        "instance" instance: String = String::new(), |v: &String| if v.is_empty() { Ok(()) } else { label(v) };
    }
}

section! {
    /// One class of pilots; the default is the built-in pilot.
    PilotClass {
        "name" name: String = "builtin".to_owned(), label;
        "image" image: Image = Image::Builtin;
        /// 0: never.
        "image-refresh" image_refresh: Duration = 12 * HOUR;
        /// Empty: from its registry.
        "image-archive" image_archive: String = String::new(), path_or_empty;
        /// Empty: the `auths` of the user's own configuration of the engine.
        "auth-file" auth_file: String = String::new(), path_or_empty;
        "command" command: Vec<String> = Vec::new();
        "entrypoint" entrypoint: Vec<String> = Vec::new();
        "cpus" cpus: f64 = 1.0, |v| within(v, 0.01, MOST_CPUS);
        "memory" memory: Bytes = Bytes(2 * GIB), |v| at_least(v, Bytes(6 * MIB));
        /// Beside the memory, not on top of it as the engine counts.
        "swap" swap: Bytes = Bytes(0);
        "pids" pids: u32 = 512, |v| at_least(v, 8);
        "ttl" ttl: Duration = 12 * HOUR, |v| at_least(v, SECOND);
        "stop-grace" stop_grace: Duration = 10 * SECOND, |v| within(v, Duration::ZERO, 10 * MINUTE);
        "no-work-exit" no_work_exit: Vec<u32> = vec![75];
        /// A pilot that is done sooner had no work.
        "min-runtime" min_runtime: Duration = SECOND;
        "no-work-pause" no_work_pause: Duration = 5 * MINUTE;
        "weight" weight: u32 = 1, |v| within(v, 1, 1_000);
        /// 0: as many as fit.
        "max" max: u32 = 0;
        "user" user: String = "65534:65534".to_owned();
        "env" env: BTreeMap<String, String> = BTreeMap::new();
        "files" files: Vec<Handed> = Vec::new();
        "mounts" mounts: Vec<Mount> = Vec::new();
        "tmpfs" tmpfs: Vec<Tmpfs> = Vec::new();
        /// 0: as much as the engine's disk has.
        "scratch" scratch: Bytes = Bytes(0);
        "devices" devices: Vec<Device> = Vec::new();
        "cap-add" cap_add: Vec<String> = Vec::new();
        "read-only" read_only: bool = false;
        "network" network: String = "bridge".to_owned();
        "pausable" pausable: bool = true;
        "privileged" privileged: bool = false;
        /// An object: more fields of the engine's HostConfig.
        "host-config" host_config: serde_json::Value = serde_json::Value::Object(serde_json::Map::new()), foreign_fields;
    }
}

impl PilotClass {
    /// Key by key, as it is written.
    pub fn is_configured_as(&self, other: &PilotClass) -> bool {
        Self::KEYS
            .iter()
            .all(|key| self.write(key) == other.write(key))
    }

    /// Whether its image can become another one under the same name.
    pub fn is_refreshable(&self) -> bool {
        matches!(&self.image, Image::Named(image) if image.digest.is_none())
    }

    /// Seconds between two looks for a newer image; infinite: only when asked to.
    pub fn refresh_seconds(&self) -> f64 {
        let never = self.image_refresh.is_zero() || !self.image_archive.is_empty();
        if never {
            f64::INFINITY
        } else {
            self.image_refresh.as_secs_f64()
        }
    }
}

section! {
    /// One server that takes metrics; what of the url belongs into other keys is there once it is read.
    Influx {
        "url" url: String = "http://127.0.0.1:8086".to_owned(), |v: &String| split_url(v).map(drop);
        /// Of version 1; empty: `bucket` says where.
        "database" database: String = String::new();
        "retention-policy" retention_policy: String = String::new();
        "user" user: String = String::new();
        "password" password: Secret = Secret::default();
        "password-file" password_file: String = String::new();
        "org" org: String = String::new();
        /// Of version 2.
        "bucket" bucket: String = String::new();
        "token" token: Secret = Secret::default();
        "token-file" token_file: String = String::new();
        "flush" flush: Duration = 30 * SECOND, |v| within(v, SECOND, HOUR);
        "ca-file" ca_file: String = String::new();
        "insecure" insecure: bool = false;
        "owner-metrics" owner_metrics: bool = true;
        "host-alias" host_alias: String = String::new();
    }
}

section! {
    /// What a remote configuration may have beyond plain containers, and how it is fetched.
    Allow {
        "refresh" refresh: Duration = HOUR, |v| within(v, SECOND, 7 * 24 * HOUR);
        /// Else https only.
        "plain-http" plain_http: bool = false;
        /// Empty: the certificates that browsers know.
        "ca-file" ca_file: String = String::new(), path_or_empty;
        /// From these nothing has to be accepted.
        "registries" registries: Vec<String> = Vec::new();
        /// `/path` with all below it, read-only, or `/path:rw`.
        "mounts" mounts: Vec<String> = Vec::new();
        "devices" devices: Vec<String> = Vec::new();
        /// Of this machine: to hand over, credentials, archives of images.
        "files" files: Vec<String> = Vec::new();
        "networks" networks: Vec<String> = Vec::new();
        "cap-add" cap_add: Vec<String> = Vec::new();
        "privileged" privileged: bool = false;
        "host-config" host_config: bool = false;
    }
}

/// More cores than any machine has.
const MOST_CPUS: f64 = 8_192.0;

fn within<T: Value + PartialOrd>(value: &T, low: T, high: T) -> Result<(), String> {
    if *value >= low && *value <= high {
        return Ok(());
    }
    Err(format!(
        "{} is out of range; write a value from {} to {}",
        value.write(),
        low.write(),
        high.write()
    ))
}

fn at_least<T: Value + PartialOrd>(value: &T, low: T) -> Result<(), String> {
    match *value >= low {
        true => Ok(()),
        false => Err(format!(
            "{} is too little; write {} or more",
            value.write(),
            low.write()
        )),
    }
}

fn cores(cpus: &Auto<f64>, low: f64) -> Result<(), String> {
    match cpus {
        Auto::Fixed(number) => {
            within(number, low, MOST_CPUS).map_err(|text| text + ", or \"auto\"")
        }
        Auto::Auto => Ok(()),
    }
}

/// A Linux CPU list such as `4-7,9`, sorted and without repetitions; empty for an empty text.
pub fn parse_cpuset(text: &str) -> Result<Vec<u32>, String> {
    const MOST: u32 = 8_191;
    let number = |digits: &str| {
        digits
            .parse::<u32>()
            .ok()
            .filter(|n| *n <= MOST && !digits.starts_with('+'))
    };
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = number(first)?..=number(last)?;
        (!range.is_empty()).then_some(range)
    };
    let ranges: Option<Vec<_>> = text
        .split(',')
        .filter(|_| !text.is_empty())
        .map(range)
        .collect();
    let cpus: Option<BTreeSet<u32>> = ranges.map(|ranges| ranges.into_iter().flatten().collect());
    cpus.map(Vec::from_iter).ok_or_else(|| {
        format!("'{text}' is not a list of CPU numbers up to {MOST}; write one such as \"4-7,9\", or \"\" for any")
    })
}

/// Empty, `/path` or `unix:///path`.
fn socket_path(text: &String) -> Result<(), String> {
    match text.is_empty()
        || text
            .strip_prefix("unix://")
            .unwrap_or(text)
            .starts_with('/')
    {
        true => Ok(()),
        false => Err(format!(
            "'{text}' is not a Unix socket; write \"/path\" or \"unix:///path\", or \"\" to have it found"
        )),
    }
}

fn path_or_empty(text: &str) -> Result<(), String> {
    if text.is_empty() {
        Ok(())
    } else {
        absolute(text, text).map(drop)
    }
}

/// Names of instances and classes: they go into labels, container names and paths.
fn label(text: &String) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if text.starts_with(plain) && text.len() <= 32 && text.chars().all(|c| plain(c) || c == '-') {
        return Ok(());
    }
    Err(format!(
        "'{text}' is not a name; write 1 to 32 of a-z, 0-9 and '-', not starting with '-'"
    ))
}

/// With its folder a program would never be found.
fn program_names(names: &[String]) -> Result<(), String> {
    match names.iter().find(|name| name.contains('/')) {
        Some(name) => Err(format!(
            "'{name}' is not a program's name; write it without its folder"
        )),
        None => Ok(()),
    }
}

/// Fields of the engine's HostConfig that Plancton sets itself.
const OWN_FIELDS: &str = "NanoCpus CpuQuota CpuPeriod CpuShares CpusetCpus Memory MemorySwap PidsLimit CgroupParent \
    OomScoreAdj OomKillDisable RestartPolicy AutoRemove Labels LogConfig Init Binds Mounts Tmpfs Devices CapAdd CapDrop \
    Privileged NetworkMode ReadonlyRootfs StorageOpt";

fn foreign_fields(fields: &serde_json::Value) -> Result<(), String> {
    let Some(fields) = fields.as_object() else {
        return Err("expects a table such as { ShmSize = 67108864 }".to_owned());
    };
    let is_own = |name: &&String| {
        OWN_FIELDS
            .split(' ')
            .any(|own| own.eq_ignore_ascii_case(name))
    };
    match fields.keys().find(is_own) {
        Some(name) => Err(format!(
            "'{name}' is set by Plancton itself; use the key for it, or leave it out"
        )),
        None => Ok(()),
    }
}
