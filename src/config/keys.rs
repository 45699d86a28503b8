//! Every key of the configuration, declared once: its type, its default and what is allowed. From the declaration come
//! the struct, `Default`, the list of keys, reading and writing. conf/plancton.toml explains them; a test holds both together.

use super::mounts::{Device, Mount, Tmpfs};
use super::values::{Auto, Image, MissingLimits, OnBattery, Read, Toml, Value, WhenBusy, wrong};
use crate::units::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

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

        impl $name {
            pub const KEYS: &'static [&'static str] = &[$($key),+];

            /// `None`: no such key.
            pub(super) fn set(&mut self, key: &str, value: &Toml<'_>) -> Option<Read<()>> {
                Some(match key {
                    $($key => <$type>::read(value).and_then(|read| {
                        $(($check)(&read).map_err(|why: String| wrong(value.span().start, why))?;)?
                        self.$field = read;
                        Ok(())
                    }),)+
                    _ => return None,
                })
            }

            /// The value as TOML. `None`: no such key.
            pub(super) fn write(&self, key: &str) -> Option<String> {
                match key {
                    $($key => Some(self.$field.write()),)+
                    _ => None,
                }
            }

            /// Takes one key's value from another table of the kind; a key of another section changes nothing.
            pub(super) fn take(&mut self, key: &str, from: &Self) {
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
        "cpus" cpus: Auto<f64> = Auto::Auto, cores_to_give;
        "reserve-cpus" reserve_cpus: Auto<f64> = Auto::Auto, cores_to_keep;
        "reserve-memory" reserve_memory: Bytes = Bytes(2 * GIB);
        "reserve-disk" reserve_disk: Bytes = Bytes(10 * GIB);
        "max-pilots" max_pilots: Auto<u32> = Auto::Auto;
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
    Pilot {
        "name" name: String = "builtin".to_owned(), label;
        "image" image: Image = Image::Builtin;
        "command" command: Vec<String> = Vec::new();
        "entrypoint" entrypoint: Vec<String> = Vec::new();
        "cpus" cpus: f64 = 1.0, |v| within(v, 0.01, MAX_CPUS);
        "memory" memory: Bytes = Bytes(2 * GIB), |v| at_least(v, Bytes(6 * MIB), ", the least that engines accept");
        /// Beside the memory, not on top of it as the engine counts.
        "swap" swap: Bytes = Bytes(0);
        "pids" pids: u32 = 512, |v| at_least(v, 8, ", or nothing can run");
        "ttl" ttl: Duration = 12 * HOUR, |v| at_least(v, SECOND, "; every pilot has an end");
        "stop-grace" stop_grace: Duration = 10 * SECOND, |v| within(v, Duration::ZERO, 10 * MINUTE);
        "weight" weight: u32 = 1, |v| within(v, 1, 1_000);
        /// 0: as many as fit.
        "max" max: u32 = 0;
        "user" user: String = "65534:65534".to_owned(), |v: &String| spelled(v.split(':'), "_.-", "a user; write \"UID:GID\" such as \"65534:65534\"");
        "env" env: BTreeMap<String, String> = BTreeMap::new();
        "mounts" mounts: Vec<Mount> = Vec::new();
        "tmpfs" tmpfs: Vec<Tmpfs> = Vec::new();
        "devices" devices: Vec<Device> = Vec::new();
        "cap-add" cap_add: Vec<String> = Vec::new(), |v: &Vec<String>| spelled(v.iter().map(String::as_str), "_", "a capability; write one such as \"SYS_PTRACE\"");
        "read-only" read_only: bool = false;
        "network" network: String = "bridge".to_owned(), |v: &String| spelled([v.as_str()].into_iter(), "_.:-", "a network; write \"bridge\", \"none\", \"host\" or the name of one");
        "pausable" pausable: bool = true;
        "privileged" privileged: bool = false;
        /// An object: more fields of the engine's HostConfig.
        "host-config" host_config: serde_json::Value = serde_json::Value::Object(serde_json::Map::new());
    }
}

impl EngineKeys {
    /// `None`: to be looked for.
    pub fn socket_path(&self) -> Option<&str> {
        socket_path(&self.socket).ok().filter(|path| !path.is_empty())
    }
}

/// More cores than any machine has.
const MAX_CPUS: f64 = 8_192.0;

fn within<T: Value + PartialOrd>(value: &T, low: T, high: T) -> Result<(), String> {
    if *value >= low && *value <= high {
        return Ok(());
    }
    Err(format!("{} is out of range; write a value from {} to {}", value.write(), low.write(), high.write()))
}

fn at_least<T: Value + PartialOrd>(value: &T, low: T, why: &str) -> Result<(), String> {
    if *value >= low {
        return Ok(());
    }
    let (value, low) = (value.write(), low.write());
    Err(format!("{value} is too little; write {low} or more{why}"))
}

fn cores_to_give(cpus: &Auto<f64>) -> Result<(), String> {
    match cpus {
        Auto::Fixed(n) if *n <= 0.0 || *n > MAX_CPUS => {
            Err(format!("{n} is out of range; write a number of cores above 0, or \"auto\""))
        }
        _ => Ok(()),
    }
}

fn cores_to_keep(cpus: &Auto<f64>) -> Result<(), String> {
    match cpus {
        Auto::Fixed(n) if *n < 0.0 || *n > MAX_CPUS => {
            Err(format!("{n} is out of range; write a number of cores of 0 or more, or \"auto\""))
        }
        _ => Ok(()),
    }
}

/// A Linux CPU list such as `4-7,9`, sorted and without repetitions; empty for an empty text.
pub fn parse_cpuset(text: &str) -> Result<Vec<u32>, String> {
    const MAX: u32 = 8_191;
    let hint =
        || format!("'{text}' is not a list of CPU numbers up to {MAX}; write one such as \"4-7,9\", or \"\" for any");
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let number = digits.parse().ok().filter(|n| plain && *n <= MAX);
        number.ok_or_else(hint)
    };
    let mut cpus = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (number(first)?, number(last)?);
        if first > last {
            return Err(hint());
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Ok(cpus)
}

/// `/path` or `unix:///path` to the path; empty stays empty. For the key, the option and `DOCKER_HOST` alike.
pub fn socket_path(text: &str) -> Result<&str, String> {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    if text.is_empty() || path.starts_with('/') {
        return Ok(path);
    }
    Err(format!("'{text}' is not a Unix socket; write \"/path\" or \"unix:///path\", or \"\" to have it found"))
}

/// Names of instances and classes: they go into labels, container names and paths.
fn label(text: &String) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if text.starts_with(plain) && text.len() <= 32 && text.chars().all(|c| plain(c) || c == '-') {
        return Ok(());
    }
    Err(format!("'{text}' is not a name; write 1 to 32 of a-z, 0-9 and '-', not starting with '-'"))
}

/// Each part is one or more characters out of ASCII letters, digits and `others`.
fn spelled<'a>(mut parts: impl Iterator<Item = &'a str>, others: &str, expected: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
    match parts.find(|part| part.is_empty() || !part.chars().all(allowed)) {
        Some(part) => Err(format!("'{part}' is not {expected}")),
        None => Ok(()),
    }
}

/// A program's name may hold any character but the slash.
fn program_names(names: &[String]) -> Result<(), String> {
    match names.iter().find(|name| name.is_empty() || name.contains('/')) {
        Some(name) => Err(format!("'{name}' is not a program's name; write it without its folder")),
        None => Ok(()),
    }
}
