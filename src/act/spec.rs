//! The body of a create call, pure: what a class says, and what every pilot gets whether its class says so or not
//! (limits, an idle parent, no capabilities, a bounded log, our labels).

use super::*;
use crate::{engine::Declared, units::Moment};
use serde_json::Map;

/// The whole body of `POST /containers/create`; null is what the engine or the image says.
pub(super) fn create_body(launch: &Launch<'_>, image: &Declared, now: Moment) -> Value {
    let (class, site) = (launch.class, launch.site);
    let given = |words: &[String]| (!words.is_empty()).then(|| json!(words));
    let after_ttl = |clock: f64| whole(clock + class.ttl.as_secs_f64());
    let deadline = after_ttl(now.epoch).to_string();
    let (cpus, memory) = (class.cpus.to_string(), class.memory.0.to_string());
    let env = [
        format!("PLANCTON_CLASS={}", class.name),
        format!("PLANCTON_DEADLINE={deadline}"),
        format!("PLANCTON_CPUS={cpus}"),
        format!("PLANCTON_MEMORY_BYTES={memory}"),
        format!("PLANCTON_HOST={}", site.host),
    ];
    let theirs = class.env.iter();
    let theirs = theirs.map(|(key, value)| format!("{key}={value}"));
    json!({
        "Image": images::name(&class.image, &site.builtin_tag),
        "Entrypoint": given(&class.entrypoint),
        "Cmd": given(&class.command),
        "User": class.user,
        "Hostname": hostname(launch),
        "Env": env.into_iter().chain(theirs).collect::<Vec<_>>(),
        "Labels": {
            "io.plancton.instance": site.instance,
            "io.plancton.class": class.name,
            "io.plancton.cpus": cpus,
            "io.plancton.memory": memory,
            "io.plancton.pids": class.pids.to_string(),
            "io.plancton.stop-grace": class.stop_grace.as_secs_f64().to_string(),
            "io.plancton.expires": format!("{}:{}", site.boot_id, after_ttl(now.awake)),
            "io.plancton.deadline": deadline,
            "io.plancton.version": env!("CARGO_PKG_VERSION"),
        },
        "StopTimeout": class.stop_grace.as_secs(),
        "HostConfig": host_config(launch, image),
    })
}

/// `plancton-HOST-ID`: the host is cut at 40 characters, so that the whole stays below the 63 a name may have. A pilot in
/// somebody else's network has that one's name.
fn hostname(launch: &Launch<'_>) -> Option<String> {
    let host = launch.site.host.split('.').next()?.chars().take(40);
    let host = host.map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
    let (host, id) = (host.collect::<String>(), launch.name.rsplit('-').next()?);
    let is_own = !launch.class.network.starts_with("container:");
    is_own.then(|| format!("plancton-{}-{id}", host.trim_matches('-')))
}

fn host_config(launch: &Launch<'_>, image: &Declared) -> Map<String, Value> {
    let (class, facts) = (launch.class, launch.facts);
    // Copies are this pilot's alone, so that its label may be put on them; only this form of a mount can say so.
    let is_labelled = facts.info.has("name=selinux");
    let label = if is_labelled { ",Z" } else { "" };
    let copies = class.files.iter().enumerate().map(|(index, file)| {
        let copy = files::copy_path(&launch.site.dirs.run, &launch.name, index);
        format!("{}:{}:ro{label}", copy.display(), file.target)
    });
    // Of type bind: with it the engine refuses a missing source instead of making a directory.
    let mounts = class.mounts.iter().map(|mount| {
        let mut options = mount.options.split(',');
        let propagation = options.find(|option| !["ro", "rw"].contains(option));
        json!({
            "Type": "bind", "Source": mount.source, "Target": mount.target, "ReadOnly": mount.is_read_only(),
            "BindOptions": {"Propagation": propagation.unwrap_or("rprivate")},
        })
    });
    let devices = class.devices.iter().map(|device| {
        let (host, rest) = device.split_once(':').unwrap_or((device, device));
        let (inside, may) = rest.split_once(':').unwrap_or((rest, "rwm"));
        json!({"PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": may})
    });
    let security = class.host_config.get("SecurityOpt");
    let security = security.and_then(Value::as_array).into_iter().flatten();
    let cpuset = &launch.config.share.cpuset;
    let ours = json!({
        "CgroupParent": facts.parent.as_ref().ok().map(|_| facts.layout.parent_name()),
        "NanoCpus": whole((class.cpus * 1e9).round()),
        "CpusetCpus": (!cpuset.is_empty()).then_some(cpuset),
        "Memory": class.memory.0,
        "MemorySwap": class.memory.0 + class.swap.0,
        "PidsLimit": class.pids,
        "OomScoreAdj": 1000,
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": false,
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}},
        "Init": facts.info.init_commit.get("ID") != Some(&json!("N/A")),
        "NetworkMode": class.network,
        "ReadonlyRootfs": class.read_only,
        "Privileged": class.privileged,
        "CapDrop": ["ALL"],
        "CapAdd": class.cap_add,
        "SecurityOpt": security.chain([&json!("no-new-privileges")]).collect::<Vec<_>>(),
        "Binds": copies.collect::<Vec<_>>(),
        "Mounts": mounts.collect::<Vec<_>>(),
        "Devices": devices.collect::<Vec<_>>(),
        "Tmpfs": tmpfs(launch.class, image),
    });
    // The raw part first: what Plancton sets itself can't be overridden by it.
    let mut all = class.host_config.clone();
    all.extend(ours.as_object().cloned().unwrap_or_default());
    all
}

/// Those of the class, and what its image wants to write to where the class may not write elsewhere, or not without a bound.
fn tmpfs(class: &PilotClass, image: &Declared) -> BTreeMap<String, String> {
    let is_bounded = class.read_only || class.host_config.contains_key("StorageOpt");
    let is_mounted = |path: &str| class.mounts.iter().any(|mount| mount.target == path);
    let volumes = image.volumes.keys().map(|path| path.trim_end_matches('/'));
    let volumes = volumes.filter(|path| is_bounded && !is_mounted(path));
    let volumes = volumes.map(|path| (path, Some(Bytes(class.memory.0 / 2))));
    let named = class.tmpfs.iter().map(|tmpfs| {
        let (path, size) = tmpfs.split_once(':').unwrap_or((tmpfs, ""));
        (path, Bytes::parse(size))
    });
    let mount = |(path, size): (&str, Option<Bytes>)| {
        let size = size.map_or(String::new(), |size| format!(",size={}", size.0));
        let options = format!("rw,nosuid,nodev,exec,mode=1777{size}");
        (path.to_owned(), options)
    };
    volumes.chain(named).map(mount).collect()
}

/// The engine says that it left a limit out; swap accounting alone is common and only a warning.
pub fn is_dropped_limit(warning: &str) -> bool {
    let warning = warning.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| warning.contains(word));
    says(&["discarded", "not support", "unlimited", "ignored"])
        && says(&["memory", "cpu", "pids"])
        && (!says(&["swap"]) || says(&["memory limit capabilities"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, parse};
    use crate::engine::Inspected;
    use crate::engine::tests::{Fake, PING, answer};
    use crate::site::{Site, read_facts};
    use crate::state::Dirs;
    use std::path::Path;
    use std::sync::Arc;

    /// The body for a class with these keys, of an image that declares this.
    fn body(keys: &str, declared: &str) -> Value {
        body_for("{}", keys, declared)
    }

    /// And of an engine that says this of itself.
    fn body_for(info: &str, keys: &str, declared: &str) -> Value {
        let (fake, engine) = Fake::start(&[PING, &answer(200, info)]);
        let facts = read_facts(&engine, Path::new("/nonexistent"), true).unwrap();
        fake.finish();
        let site = Site::new(
            Arc::new(engine),
            Dirs::machine(),
            "t".to_owned(),
            "1".to_owned(),
        );
        let text =
            format!("[[pilot]]\nname = \"a\"\nimage = \"i:1\"\nmemory = \"64MiB\"\n{keys}\n");
        let config: Config = parse(&text, "c").unwrap();
        let image: Inspected =
            serde_json::from_str(&format!(r#"{{"Id":"i","Config":{declared}}}"#)).unwrap();
        let launch = Launch {
            class: &config.pilots[0],
            name: "plancton-a-1".to_owned(),
            facts: &facts,
            site: &site,
            config: &config,
        };
        create_body(&launch, &image.config, Moment::default())
    }

    /// What images declare, and what becomes of it: writable places are memory where the class bounds what is written
    /// (containerd/cri #1504), also where a slash ends their name (docker/compose #1785), a user by name is not the pilot's
    /// (prom/prometheus has `USER nobody`), and how to be stopped and whether it is healthy stays the engine's business (httpd
    /// has `STOPSIGNAL SIGWINCH`).
    #[test]
    fn what_an_image_declares() {
        let data = r#"{"Volumes":{"/data":{}}}"#;
        let memory = "rw,nosuid,nodev,exec,mode=1777,size=33554432";
        let own = r#"{"User":"nobody","StopSignal":"SIGWINCH","Healthcheck":{"Test":["CMD","x"]},"Volumes":null}"#;
        for (keys, declared, place, expected) in [
            (
                "read-only = true",
                data,
                "/HostConfig/Tmpfs/~1data",
                json!(memory),
            ),
            (
                "host-config = { StorageOpt = { size = \"1G\" } }",
                data,
                "/HostConfig/Tmpfs/~1data",
                json!(memory),
            ),
            ("", data, "/HostConfig/Tmpfs", json!({})),
            (
                "read-only = true\nmounts = [\"/srv:/data\"]",
                data,
                "/HostConfig/Tmpfs",
                json!({}),
            ),
            (
                "read-only = true\nmounts = [\"/srv:/data\"]",
                r#"{"Volumes":{"/data/":{}}}"#,
                "/HostConfig/Tmpfs",
                json!({}),
            ),
            (
                "read-only = true\ntmpfs = [\"/data:1MiB\"]",
                r#"{"Volumes":{"/data/":{}}}"#,
                "/HostConfig/Tmpfs",
                json!({"/data": "rw,nosuid,nodev,exec,mode=1777,size=1048576"}),
            ),
            ("read-only = true", own, "/HostConfig/Tmpfs", json!({})),
            ("", own, "/User", json!("65534:65534")),
            ("", own, "/Entrypoint", Value::Null),
        ] {
            let body = body(keys, declared);
            assert_eq!(body.pointer(place), Some(&expected), "{keys} {place}");
            let theirs = ["StopSignal", "Healthcheck"].map(|key| body.get(key));
            assert_eq!(theirs, [None, None]);
        }
    }

    /// Copies are their pilot's alone and get its label; what others see, too, is never given another. What dockerd says of
    /// itself on Fedora with `selinux-enabled` (nextcloud/all-in-one #7134), Podman on RHEL, and Debian's Docker.
    #[test]
    fn labels_where_there_is_selinux() {
        let class = "files = [{ source = \"/etc/t\", target = \"/run/secrets/t\" }]\nmounts = [\"/srv:/srv:rw\"]";
        let copy = "/run/plancton/files/plancton-a-1/0:/run/secrets/t:ro";
        for (options, label) in [
            (
                r#""name=seccomp,profile=builtin","name=selinux","name=cgroupns""#,
                ",Z",
            ),
            (r#""name=selinux,profile=default","name=rootless""#, ",Z"),
            (r#""name=apparmor","name=seccomp,profile=default""#, ""),
        ] {
            let info = format!(r#"{{"SecurityOptions":[{options}]}}"#);
            let body = body_for(&info, class, "{}");
            let binds = &body["HostConfig"]["Binds"];
            assert_eq!(binds, &json!([format!("{copy}{label}")]));
            let mount = json!({"Type": "bind", "Source": "/srv", "Target": "/srv", "ReadOnly": false,
                "BindOptions": {"Propagation": "rprivate"}});
            assert_eq!(body["HostConfig"]["Mounts"], json!([mount]));
        }
    }
}
