//! The body of a create call, pure: what a class says, and what every pilot gets whether its class says so or not
//! (limits, an idle parent, no capabilities, a bounded log, our labels).

use super::handed;
use crate::config::PilotClass;
use crate::decide::Expiry;
use crate::engine::Labels;
use crate::units::{Moment, float, whole};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// The label a list is filtered by, and the others.
pub const LABEL_INSTANCE: &str = "io.plancton.instance";
pub const LABEL_CLASS: &str = "io.plancton.class";
pub const LABEL_CPUS: &str = "io.plancton.cpus";
pub const LABEL_MEMORY: &str = "io.plancton.memory";
pub const LABEL_GRACE: &str = "io.plancton.stop-grace";
pub const LABEL_PIDS: &str = "io.plancton.pids";
pub const LABEL_EXPIRES: &str = "io.plancton.expires";
pub const LABEL_DEADLINE: &str = "io.plancton.deadline";
pub const LABEL_VERSION: &str = "io.plancton.version";

/// What a launch needs to know besides its class.
#[derive(Clone, Debug)]
pub struct Setting {
    pub instance: String,
    /// Name of this machine, as pilots are told.
    pub host: String,
    pub boot_id: String,
    /// Parent group for the engine; `None`: the engine's own.
    pub parent: Option<String>,
    pub cpuset: String,
    /// A limit that the engine left out makes the launch fail.
    pub refuse_missing_limits: bool,
    /// The engine's disk can bound what a container writes.
    pub layer_quota: bool,
    /// Where copies of files are.
    pub run: PathBuf,
    /// Bytes; 0: no bound.
    pub pull_per_day: u64,
    pub now: Moment,
}

/// Where scratch is memory, the pilot needs some beside it.
const BESIDE_SCRATCH: u64 = 6 << 20;

/// Why a pilot can't get its scratch here; `None`: it can, or wants none.
pub fn scratch_problem(class: &PilotClass, setting: &Setting) -> Option<String> {
    let fits = class.scratch.0 + BESIDE_SCRATCH <= class.memory.0;
    (class.scratch.0 > 0 && !setting.layer_quota && !fits).then(|| {
        let (scratch, memory) = (class.scratch, class.memory);
        format!(
            "scratch {scratch}: the engine's disk holds no such bound (xfs with pquota would), and as memory it does not \
             fit into {memory}; make scratch smaller or memory larger"
        )
    })
}

/// The whole body of `POST /containers/create`.
pub fn create_body(name: &str, image: &str, class: &PilotClass, setting: &Setting) -> Value {
    let deadline = whole(setting.now.epoch + class.ttl.as_secs_f64());
    let mut body = json!({
        "Image": image,
        "User": class.user,
        "Env": env(class, setting, deadline),
        "Labels": labels(class, setting, deadline),
        "StopTimeout": class.stop_grace.as_secs(),
        "HostConfig": host_config(name, class, setting),
    });
    if let Some(map) = body.as_object_mut() {
        if !class.entrypoint.is_empty() {
            map.insert("Entrypoint".to_owned(), json!(class.entrypoint));
        }
        if !class.command.is_empty() {
            map.insert("Cmd".to_owned(), json!(class.command));
        }
        // A pilot in somebody else's network has that one's name.
        if !class.network.starts_with("container:") {
            map.insert("Hostname".to_owned(), json!(hostname(&setting.host, name)));
        }
    }
    body
}

/// `plancton-HOST-ID`: the host is cut at 40 characters, so that the whole stays below the 63 a name may have.
fn hostname(host: &str, name: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || c == '-' {
            c
        } else {
            '-'
        }
    };
    let host: String = host
        .split('.')
        .next()
        .unwrap_or("")
        .chars()
        .take(40)
        .map(plain)
        .collect();
    let id = name.rsplit('-').next().unwrap_or("");
    format!("plancton-{}-{id}", host.trim_matches('-'))
}

fn env(class: &PilotClass, setting: &Setting, deadline: u64) -> Vec<String> {
    let told = [
        ("PLANCTON_CLASS", class.name.clone()),
        ("PLANCTON_DEADLINE", deadline.to_string()),
        ("PLANCTON_CPUS", class.cpus.to_string()),
        ("PLANCTON_MEMORY_BYTES", class.memory.0.to_string()),
        ("PLANCTON_HOST", setting.host.clone()),
    ];
    let told = told
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"));
    told.chain(
        class
            .env
            .iter()
            .map(|(key, value)| format!("{key}={value}")),
    )
    .collect()
}

fn labels(class: &PilotClass, setting: &Setting, deadline: u64) -> Value {
    let expires = whole(setting.now.awake + class.ttl.as_secs_f64());
    json!({
        LABEL_INSTANCE: setting.instance,
        LABEL_CLASS: class.name,
        LABEL_CPUS: class.cpus.to_string(),
        LABEL_MEMORY: class.memory.0.to_string(),
        LABEL_PIDS: class.pids.to_string(),
        LABEL_GRACE: class.stop_grace.as_secs_f64().to_string(),
        LABEL_EXPIRES: format!("{}:{expires}", setting.boot_id),
        LABEL_DEADLINE: deadline.to_string(),
        LABEL_VERSION: env!("CARGO_PKG_VERSION"),
    })
}

fn host_config(name: &str, class: &PilotClass, setting: &Setting) -> Value {
    // The raw part first: what Plancton sets itself can't be overridden by it.
    let mut map: Map<String, Value> = class.host_config.as_object().cloned().unwrap_or_default();
    let mut set = |key: &str, value: Value| map.insert(key.to_owned(), value);
    set("NanoCpus", json!(whole((class.cpus * 1e9).round())));
    set("Memory", json!(class.memory.0));
    set("MemorySwap", json!(class.memory.0 + class.swap.0));
    set("PidsLimit", json!(class.pids));
    set("OomScoreAdj", json!(1000));
    set("RestartPolicy", json!({"Name": "no"}));
    set("AutoRemove", json!(false));
    set(
        "LogConfig",
        json!({"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}}),
    );
    set("Init", json!(true));
    set("NetworkMode", json!(class.network));
    set("ReadonlyRootfs", json!(class.read_only));
    set("Privileged", json!(class.privileged));
    set("CapDrop", json!(["ALL"]));
    set("CapAdd", json!(class.cap_add));
    if let Some(parent) = &setting.parent {
        set("CgroupParent", json!(parent));
    }
    if !setting.cpuset.is_empty() {
        set("CpusetCpus", json!(setting.cpuset));
    }
    let copies = class.files.iter().enumerate().map(|(index, file)| {
        let source = handed::copy_path(&setting.run, name, index);
        json!({"Type": "bind", "Source": source, "Target": file.target, "ReadOnly": true})
    });
    set(
        "Mounts",
        class.mounts.iter().map(mount).chain(copies).collect(),
    );
    set("Devices", class.devices.iter().map(device).collect());
    let tmpfs = class.tmpfs.iter().map(|tmpfs| {
        let size = tmpfs
            .size
            .map_or(String::new(), |size| format!(",size={}", size.0));
        (
            tmpfs.target.clone(),
            json!(format!("rw,nosuid,nodev{size}")),
        )
    });
    let mut tmpfs: Map<String, Value> = tmpfs.collect();
    if class.scratch.0 > 0 && setting.layer_quota {
        set("StorageOpt", json!({"size": class.scratch.0.to_string()}));
    } else if class.scratch.0 > 0 {
        set("ReadonlyRootfs", json!(true));
        tmpfs.insert(
            "/tmp".to_owned(),
            json!(format!(
                "rw,nosuid,nodev,exec,mode=1777,size={}",
                class.scratch.0
            )),
        );
    }
    set("Tmpfs", Value::Object(tmpfs));
    let mut options = map
        .remove("SecurityOpt")
        .and_then(|value| value.as_array().cloned())
        .unwrap_or_default();
    options.push(json!("no-new-privileges"));
    map.insert("SecurityOpt".to_owned(), Value::Array(options));
    Value::Object(map)
}

/// Always of type bind: with it the engine refuses a missing source instead of making a directory.
fn mount(mount: &crate::config::Mount) -> Value {
    json!({
        "Type": "bind", "Source": mount.source, "Target": mount.target, "ReadOnly": mount.read_only,
        "BindOptions": {"Propagation": mount.propagation},
    })
}

fn device(device: &crate::config::Device) -> Value {
    json!({
        "PathOnHost": device.host, "PathInContainer": device.container, "CgroupPermissions": device.permissions,
    })
}

/// A limit that the engine said it left out; swap accounting alone is common and only a warning.
pub fn dropped_limit(warnings: &[String]) -> Option<&str> {
    let about_limits = |text: &&String| {
        let text = text.to_lowercase();
        let dropped = ["discarded", "not support", "unlimited", "ignored"]
            .iter()
            .any(|word| text.contains(word));
        let swap_only = text.contains("swap") && !text.contains("memory limit capabilities");
        let ours = ["memory", "cpu", "pids"]
            .iter()
            .any(|word| text.contains(word));
        dropped && ours && !swap_only
    };
    warnings.iter().find(about_limits).map(String::as_str)
}

/// Cores as the label has them; what cannot be read counts as one core, so that room is never given twice.
pub fn label_cpus(text: Option<&str>) -> f64 {
    text.and_then(|text| text.parse().ok())
        .filter(|cpus: &f64| cpus.is_finite() && *cpus > 0.0)
        .unwrap_or(1.0)
}

/// Bytes as the label has them; 0 when there is none (a pilot of an older version).
pub fn label_bytes(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Seconds as the label has them, 10 when there is none; never more than an hour.
pub fn label_grace(text: Option<&str>) -> f64 {
    let grace = text
        .and_then(|text| text.parse::<f64>().ok())
        .filter(|grace| grace.is_finite());
    grace.unwrap_or(10.0).clamp(0.0, 3_600.0)
}

/// `BOOT_ID:SECONDS` of this boot's awake clock, else the epoch second of the deadline label, else `created` plus a day.
pub fn label_expiry(labels: &Labels, created: f64, boot_id: &str) -> Expiry {
    let of_boot = labels
        .expires
        .as_deref()
        .and_then(|text| text.rsplit_once(':'));
    let of_boot = of_boot.filter(|(boot, _)| !boot.is_empty() && *boot == boot_id);
    if let Some(second) = of_boot.and_then(|(_, second)| second.parse::<u64>().ok()) {
        return Expiry::Awake(float(second));
    }
    let deadline = labels
        .deadline
        .as_deref()
        .and_then(|text| text.parse::<u64>().ok())
        .map(float);
    Expiry::Epoch(deadline.unwrap_or(created + 86_400.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_back_as_they_are_written() {
        let class = PilotClass {
            cpus: 0.5,
            ..PilotClass::default()
        };
        let setting = Setting {
            instance: "i".to_owned(),
            host: "h".to_owned(),
            boot_id: "b".to_owned(),
            parent: None,
            cpuset: String::new(),
            refuse_missing_limits: true,
            layer_quota: false,
            run: PathBuf::new(),
            pull_per_day: 0,
            now: Moment {
                awake: 100.0,
                boot: 200.0,
                epoch: 300.0,
            },
        };
        let read: Labels = serde_json::from_value(labels(&class, &setting, 7)).unwrap();
        assert_eq!(
            (read.instance.as_deref(), read.class.as_deref()),
            (Some("i"), Some("builtin"))
        );
        assert!((label_cpus(read.cpus.as_deref()) - 0.5).abs() < 1e-9);
        assert_eq!(label_bytes(read.memory.as_deref()), class.memory.0);
        assert!((label_grace(read.grace.as_deref()) - class.stop_grace.as_secs_f64()).abs() < 1e-9);
        let awake = Expiry::Awake(100.0 + class.ttl.as_secs_f64());
        assert_eq!(label_expiry(&read, 0.0, "b"), awake);
        assert_eq!(label_expiry(&read, 0.0, "another boot"), Expiry::Epoch(7.0));
    }
}
