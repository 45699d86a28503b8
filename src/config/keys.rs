//! Every key of the configuration, declared once: its type and its default. What is allowed is in `read`, what it means
//! for people in conf/plancton.toml; a test holds both together. No text here repeats a url or a secret.

use super::{values::*, *};
use crate::units::Bytes;
use percent_encoding::percent_decode_str;
use smart_default::SmartDefault;
use std::{collections::BTreeMap, time::Duration};

const HOUR: u64 = 3_600;
const GIB: u64 = 1 << 30;

/// The pace.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Loop {
    #[default(Period(Duration::from_secs(10)))]
    pub interval: Period,
    #[default = 4]
    pub launches_per_tick: u32,
}

/// What may be given away.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Share {
    pub cpus: Auto<f64>,
    pub reserve_cpus: Auto<f64>,
    #[default(Bytes(2 * GIB))]
    pub reserve_memory: Bytes,
    #[default(Bytes(10 * GIB))]
    pub reserve_disk: Bytes,
    pub max_pilots: Auto<u32>,
    /// 0: no bound.
    #[default(Bytes(20 * GIB))]
    pub pull_per_day: Bytes,
    pub smt: bool,
    /// A Linux CPU list, empty: any.
    pub cpuset: String,
    pub missing_limits: MissingLimits,
}

/// When pilots give way.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Owner {
    pub when_busy: WhenBusy,
    #[default(Period(Duration::from_secs(10)))]
    pub busy_for: Period,
    #[default(Period(Duration::from_secs(60)))]
    pub calm_for: Period,
    #[default(Period(Duration::from_secs(600)))]
    pub starve_limit: Period,
    pub on_battery: OnBattery,
    /// Percent.
    #[default = 30]
    pub min_battery: u32,
    /// Degrees Celsius; 0: not looked at.
    #[default = 85]
    pub max_temperature: u32,
    /// Names as the kernel has them: compare the first 15 bytes, it keeps no more.
    pub pause_while_running: Vec<String>,
}

/// Where the container engine is.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct EngineKeys {
    /// Empty: looked for.
    pub socket: String,
    #[default(Period(Duration::from_secs(30)))]
    pub timeout: Period,
    /// Empty: `system`, or `user-UID`.
    pub instance: String,
}

/// One class of pilots; the default is the built-in pilot.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PilotClass {
    #[default("builtin".to_owned())]
    pub name: String,
    pub image: Image,
    /// 0: never.
    #[default(Period(Duration::from_secs(12 * HOUR)))]
    pub image_refresh: Period,
    /// Empty: from its registry.
    pub image_archive: String,
    /// Empty: the `auths` of the user's own configuration of the engine.
    pub auth_file: String,
    pub command: Vec<String>,
    pub entrypoint: Vec<String>,
    #[default = 1.0]
    pub cpus: f64,
    #[default(Bytes(2 * GIB))]
    pub memory: Bytes,
    /// Beside the memory, not on top of it as the engine counts.
    pub swap: Bytes,
    #[default = 512]
    pub pids: u32,
    #[default(Period(Duration::from_secs(12 * HOUR)))]
    pub ttl: Period,
    #[default(Period(Duration::from_secs(10)))]
    pub stop_grace: Period,
    #[default(vec![75])]
    pub no_work_exit: Vec<u32>,
    /// A pilot that is done sooner had no work.
    #[default(Period(Duration::from_secs(1)))]
    pub min_runtime: Period,
    #[default(Period(Duration::from_secs(300)))]
    pub no_work_pause: Period,
    #[default = 1]
    pub weight: u32,
    /// 0: as many as fit.
    pub max: u32,
    #[default("65534:65534".to_owned())]
    pub user: String,
    pub env: BTreeMap<String, String>,
    pub files: Vec<Handed>,
    pub mounts: Vec<Mount>,
    pub tmpfs: Vec<String>,
    pub devices: Vec<String>,
    pub cap_add: Vec<String>,
    pub read_only: bool,
    #[default("bridge".to_owned())]
    pub network: String,
    #[default = true]
    pub pausable: bool,
    pub privileged: bool,
    /// More fields of the engine's HostConfig.
    pub host_config: serde_json::Map<String, serde_json::Value>,
}

/// One server that takes metrics; what of the url belongs into other keys is there once it is read.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Influx {
    #[default("http://127.0.0.1:8086".to_owned())]
    pub url: String,
    /// Of version 1; empty: `bucket` says where.
    pub database: String,
    pub retention_policy: String,
    pub user: String,
    pub password: Secret,
    pub password_file: String,
    pub org: String,
    /// Of version 2.
    pub bucket: String,
    pub token: Secret,
    pub token_file: String,
    #[default(Period(Duration::from_secs(30)))]
    pub flush: Period,
    pub ca_file: String,
    pub insecure: bool,
    #[default = true]
    pub owner_metrics: bool,
    /// Empty: the host's name.
    pub host_alias: String,
}

/// What a remote configuration may have beyond plain containers, and how it is fetched.
#[derive(Clone, Debug, PartialEq, SmartDefault, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Allow {
    #[default(Period(Duration::from_secs(HOUR)))]
    pub refresh: Period,
    /// Else https only.
    pub plain_http: bool,
    /// Empty: the certificates that browsers know.
    pub ca_file: String,
    /// From these nothing has to be accepted.
    pub registries: Vec<String>,
    /// `/path` with all below it, read-only, or `/path:rw`.
    pub mounts: Vec<String>,
    pub devices: Vec<String>,
    /// Of this machine: to hand over, credentials, archives of images.
    pub files: Vec<String>,
    pub networks: Vec<String>,
    pub cap_add: Vec<String>,
    pub privileged: bool,
    pub host_config: bool,
}

impl PilotClass {
    /// Seconds between two looks for a newer image; infinite: only when asked to.
    pub fn refresh_seconds(&self) -> f64 {
        match self.image_refresh.is_zero() || !self.image_archive.is_empty() {
            true => f64::INFINITY,
            false => self.image_refresh.as_secs_f64(),
        }
    }
}

impl Influx {
    /// What it is called: `http://host:8086#plancton`. Nothing of it is secret.
    pub fn title(&self) -> String {
        format!("{}#{}{}", self.url, self.database, self.bucket)
    }

    /// What the url says goes to the keys for it: `[insecure_]http[s]://[USER[:PASSWORD]@]HOST[:PORT][/PATH][#DATABASE]`.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        let url = std::mem::take(&mut self.url);
        let (url, database) = url.split_once('#').unwrap_or((&url, ""));
        let safe = url.strip_prefix("insecure_");
        let (scheme, rest) = safe.unwrap_or(url).split_once("://").unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (login, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let is_plain = |c: char| c.is_ascii_graphic() && !"\"<>\\^`{|}?".contains(c);
        let is_host = !host.is_empty() && !host.starts_with(':') && host.chars().all(is_plain);
        if !is_host || !path.chars().all(is_plain) || !["http", "https"].contains(&scheme) {
            return Err("url: expects http://HOST:PORT or https://HOST:PORT".to_owned());
        }
        self.url = format!("{scheme}://{host}{}", path.trim_end_matches('/'));
        self.insecure |= safe.is_some();
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let own = [&mut self.user, &mut self.password.0, &mut self.database];
        let of_url = [decode(user), decode(password), database.to_owned()];
        for (own, of_url) in own.into_iter().zip(of_url) {
            if own.is_empty() {
                *own = of_url;
            }
        }
        self.check()
    }

    /// If its keys go together.
    fn check(&self) -> Result<(), String> {
        let given = |texts: &[&str]| texts.iter().filter(|text| !text.is_empty()).count();
        let passwords = given(&[&self.password.0, &self.password_file]);
        let tokens = given(&[&self.token.0, &self.token_file]);
        let of_v1 = given(&[&self.user, &self.retention_policy]) + passwords;
        let of_v2 = given(&[&self.org]) + tokens;
        let why = match (given(&[&self.database]), given(&[&self.bucket])) {
            _ if self.insecure && !self.ca_file.is_empty() => "ca-file is void when insecure",
            (1, 0) if of_v2 == 0 && passwords <= given(&[&self.user]) => return Ok(()),
            (0, 1) if of_v1 == 0 && tokens < 2 => return Ok(()),
            (0, 0) => "nowhere to write to; give a database (version 1) or a bucket (2)",
            (1, 0) => {
                "with a database go retention-policy, user and one of password, password-file"
            }
            (0, 1) => "with a bucket go org and one of token, token-file",
            _ => "a database is of version 1 and a bucket of version 2; write one of them",
        };
        Err(why.to_owned())
    }
}
