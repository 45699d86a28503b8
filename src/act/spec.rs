//! The body of a create call, pure: what a class says, and what every pilot gets whether its class says so or not
//! (limits, an idle parent, no capabilities, a bounded log, our labels).

use super::{Launch, files, images};
use crate::config::{Device, Mount, PilotClass};
use crate::engine::Labels;
use crate::site::Site;
use crate::units::{Moment, whole};
use serde_json::{Map, Value, json};

/// The whole body of `POST /containers/create`.
pub(super) fn create_body(launch: &Launch, now: Moment) -> Value {
    let (class, site) = (&launch.class, &launch.site);
    let mut body = json!({
        "Image": images::name(class, &site.builtin_tag),
        "User": class.user,
        "Env": env(class, site, now),
        "Labels": labels(class, site, now),
        "StopTimeout": class.stop_grace.as_secs(),
        "HostConfig": host_config(launch),
    });
    let mut set = |key: &str, value: Value| {
        if let Some(body) = body.as_object_mut() {
            body.insert(key.to_owned(), value);
        }
    };
    if !class.entrypoint.is_empty() {
        set("Entrypoint", json!(class.entrypoint));
    }
    if !class.command.is_empty() {
        set("Cmd", json!(class.command));
    }
    // A pilot in somebody else's network has that one's name.
    if !class.network.starts_with("container:") {
        set("Hostname", json!(hostname(&site.host, &launch.name)));
    }
    body
}

fn deadline(class: &PilotClass, now: Moment) -> u64 {
    whole(now.epoch + class.ttl.as_secs_f64())
}

/// `plancton-HOST-ID`: the host is cut at 40 characters, so that the whole stays below the 63 a name may have.
fn hostname(host: &str, name: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() { c } else { '-' }
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

fn env(class: &PilotClass, site: &Site, now: Moment) -> Vec<String> {
    let ours = [
        ("PLANCTON_CLASS", class.name.clone()),
        ("PLANCTON_DEADLINE", deadline(class, now).to_string()),
        ("PLANCTON_CPUS", class.cpus.to_string()),
        ("PLANCTON_MEMORY_BYTES", class.memory.0.to_string()),
        ("PLANCTON_HOST", site.host.clone()),
    ];
    let ours = ours.iter().map(|(key, value)| format!("{key}={value}"));
    let theirs = class
        .env
        .iter()
        .map(|(key, value)| format!("{key}={value}"));
    ours.chain(theirs).collect()
}

fn labels(class: &PilotClass, site: &Site, now: Moment) -> Labels {
    let expires = whole(now.awake + class.ttl.as_secs_f64());
    Labels {
        instance: Some(site.instance.clone()),
        class: Some(class.name.clone()),
        cpus: Some(class.cpus.to_string()),
        memory: Some(class.memory.0.to_string()),
        pids: Some(class.pids.to_string()),
        grace: Some(class.stop_grace.as_secs_f64().to_string()),
        expires: Some(format!("{}:{expires}", site.boot_id)),
        deadline: Some(deadline(class, now).to_string()),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
    }
}

fn host_config(launch: &Launch) -> Value {
    let class = &launch.class;
    let (binds, mut mounts) = copies(launch);
    mounts.extend(class.mounts.iter().map(mount));
    let tmpfs = class.tmpfs.iter().map(|tmpfs| {
        let size = tmpfs.size.map(|size| format!(",size={}", size.0));
        (&tmpfs.target, size.unwrap_or_default())
    });
    let tmpfs = volumes(launch).chain(tmpfs).map(|(target, size)| {
        let options = format!("rw,nosuid,nodev,exec,mode=1777{size}");
        (target.clone(), json!(options))
    });
    let options = class.host_config.get("SecurityOpt");
    let mut options = options
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    options.push(json!("no-new-privileges"));
    let ours = json!({
        "NanoCpus": whole((class.cpus * 1e9).round()),
        "Memory": class.memory.0,
        "MemorySwap": class.memory.0 + class.swap.0,
        "PidsLimit": class.pids,
        "OomScoreAdj": 1000,
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": false,
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}},
        "Init": true,
        "NetworkMode": class.network,
        "ReadonlyRootfs": class.read_only,
        "Privileged": class.privileged,
        "CapDrop": ["ALL"],
        "CapAdd": class.cap_add,
        "SecurityOpt": options,
        "Mounts": mounts,
        "Devices": class.devices.iter().map(device).collect::<Vec<Value>>(),
        "Tmpfs": tmpfs.collect::<Map<String, Value>>(),
    });
    let cpuset = &launch.config.share.cpuset;
    let wanted = [
        ("CgroupParent", launch.facts.parent_name().map(Value::from)),
        ("Binds", (!binds.is_empty()).then(|| json!(binds))),
        ("CpusetCpus", (!cpuset.is_empty()).then(|| json!(cpuset))),
    ];
    let wanted = wanted
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)));
    // The raw part first: what Plancton sets itself can't be overridden by it.
    let mut map = class.host_config.clone();
    map.extend(ours.as_object().cloned().unwrap_or_default());
    map.extend(wanted);
    Value::Object(map)
}

/// The files of a class, as binds or as mounts. They are this pilot's alone, so that its label may be put on them; only the
/// older form can say so.
fn copies(launch: &Launch) -> (Vec<String>, Vec<Value>) {
    let (mut binds, mut mounts) = (Vec::new(), Vec::new());
    for (index, file) in launch.class.files.iter().enumerate() {
        let source = files::copy_path(&launch.site.dirs.run, &launch.name, index);
        let target = &file.target;
        match launch.facts.is_selinux {
            true => binds.push(format!("{}:{target}:ro,Z", source.display())),
            false => mounts.push(
                json!({"Type": "bind", "Source": source, "Target": target, "ReadOnly": true}),
            ),
        }
    }
    (binds, mounts)
}

/// What the image wants to write to is memory where the class may not write elsewhere, or not without a bound.
fn volumes(launch: &Launch) -> impl Iterator<Item = (&String, String)> {
    let class = &launch.class;
    let is_bounded = class.read_only || class.host_config.get("StorageOpt").is_some();
    let is_mounted = |path: &str| class.mounts.iter().any(|mount| mount.target == path);
    let volumes = launch.volumes.iter();
    let volumes = volumes.filter(move |path| is_bounded && !is_mounted(path));
    volumes.map(|path| (path, format!(",size={}", class.memory.0 / 2)))
}

/// Always of type bind: with it the engine refuses a missing source instead of making a directory.
fn mount(mount: &Mount) -> Value {
    json!({
        "Type": "bind", "Source": mount.source, "Target": mount.target, "ReadOnly": mount.read_only,
        "BindOptions": {"Propagation": mount.propagation},
    })
}

fn device(device: &Device) -> Value {
    json!({
        "PathOnHost": device.host, "PathInContainer": device.container, "CgroupPermissions": device.permissions,
    })
}

/// A limit that the engine said it left out; swap accounting alone is common and only a warning.
pub fn dropped_limit(warnings: &[String]) -> Option<&str> {
    let about_limits = |text: &&String| {
        let text = text.to_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let swap_only = text.contains("swap") && !text.contains("memory limit capabilities");
        says(&["discarded", "not support", "unlimited", "ignored"])
            && says(&["memory", "cpu", "pids"])
            && !swap_only
    };
    warnings.iter().find(about_limits).map(String::as_str)
}
