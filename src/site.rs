//! What a daemon knows from its start to its end (this machine, its engine, its directories), shared by the loop and its jobs;
//! and what the engine says about itself, once a greeting: what it can hold, where its groups are, what is missing.

use crate::engine::{Engine, Error, Info};
use crate::host::cgroup::{Group, Layout, parent_group};
use crate::{host, state::Dirs, units::Bytes, units::lock};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Debug)]
pub struct Site {
    pub engine: Arc<Engine>,
    pub dirs: Dirs,
    pub instance: String,
    /// Name of this machine, as pilots are told.
    pub host: String,
    /// Where /proc and /sys are read.
    pub root: PathBuf,
    pub boot_id: String,
    /// Tag of the built-in image.
    pub builtin_tag: String,
    /// The pull under way: written by its job, read by the loop.
    pulling: Mutex<Option<Pull>>,
}

/// A pull under way, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pull {
    pub image: String,
    /// Bytes that came over the network, and that will in all as far as is known.
    pub bytes: u64,
    pub total: u64,
}

/// Of an engine, for `status`; empty strings while it cannot be reached.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EngineName {
    /// `Docker`, `Podman`, …
    pub name: String,
    pub version: String,
    pub api: String,
    pub socket: String,
}

impl Site {
    pub fn new(engine: Arc<Engine>, dirs: Dirs, instance: String, builtin_tag: String) -> Site {
        // Builds for tests can be shown a made-up machine; a release sees only its own.
        let made_up = std::env::var_os("PLANCTON_MADE_UP_ROOT").filter(|_| cfg!(debug_assertions));
        let root = PathBuf::from(made_up.unwrap_or("/".into()));
        Site {
            engine,
            dirs,
            instance,
            host: host::name(),
            boot_id: host::boot_id(&root),
            root,
            builtin_tag,
            pulling: Mutex::default(),
        }
    }

    pub fn pulling(&self) -> MutexGuard<'_, Option<Pull>> {
        lock(&self.pulling)
    }
}

const STORE: &str = "var/lib/containerd";
/// Why there is no parent group.
const NO_USER_SLICE: &str = "a rootless engine makes no idle group without the package's slice";
const NO_SLICE: &str = "only root or the package's plancton.slice makes an idle group beside yours";

/// An engine as it was greeted.
#[derive(Clone, Debug)]
pub struct Facts {
    pub engine: EngineName,
    pub info: Info,
    /// Whatever runs out there stops the engine.
    pub disks: Vec<PathBuf>,
    pub is_rootless: bool,
    /// How it makes groups.
    pub layout: Layout,
    /// The group that pilots are to run below, or why there is none.
    pub parent: Result<Group, String>,
    /// The parent group is ours to make and to mend.
    pub is_ours: bool,
    /// Why pilots cannot be run responsibly here.
    pub unsupported: Option<String>,
}

impl Facts {
    /// Where the ids of pilots' users and groups begin on this machine; `None`: they are its own. With user namespaces the
    /// engine keeps its data apart by them: `/var/lib/docker/231072.231072`.
    pub fn id_shift(&self) -> Option<(u32, u32)> {
        let (_, directory) = self.info.docker_root_dir.rsplit_once('/')?;
        let (user, group) = directory.split_once('.')?;
        let ids = Some((user.parse().ok()?, group.parse().ok()?));
        ids.filter(|_| self.info.has("name=userns"))
    }

    /// Bytes free on the fullest of its disks; `None`: one of them can't be seen from here.
    pub fn read_disk_free(&self) -> Option<u64> {
        let read = |disk: &PathBuf| Some(host::read_disk_free(disk).ok()?.0);
        self.disks.iter().map(read).min().flatten()
    }

    /// Limits that the engine says it cannot hold.
    pub fn missing(&self) -> Vec<&'static str> {
        let (info, mut missing) = (&self.info, vec!["memory", "CPU quota", "pids"]);
        let mut held = [info.memory_limit, info.cpu_cfs_quota, info.pids_limit].into_iter();
        missing.retain(|_| held.next() != Some(true));
        missing
    }
}

/// Asks the engine. Errors: it cannot be reached or is too old.
pub fn read_facts(engine: &Engine, root: &Path, is_root: bool) -> Result<Facts, Error> {
    let (server, minor) = engine.ping()?;
    let mut facts = facts_of(engine.info()?, root, is_root);
    // `Libpod/4.3.1 (linux)` is Podman; Docker calls itself by its name, or says nothing.
    let name = match server.split('/').next().unwrap_or_default() {
        "Libpod" => "Podman",
        "" => "Docker",
        name => name,
    };
    // Podman looks for both among the files of version 1 only; the first pilot shows whether its limits hold.
    let is_unseen = name == "Podman" && facts.layout.is_v2;
    facts.info.cpu_cfs_quota |= is_unseen;
    facts.info.swap_limit |= is_unseen;
    facts.engine = EngineName {
        name: name.to_owned(),
        version: facts.info.server_version.clone(),
        api: format!("1.{minor}"),
        socket: engine.socket.display().to_string(),
    };
    Ok(facts)
}

fn facts_of(info: Info, root: &Path, is_root: bool) -> Facts {
    let known = Layout::parse(&info.cgroup_version, &info.cgroup_driver);
    let (layout, is_rootless) = (known.unwrap_or_default(), info.has("rootless"));
    let (whose, manager, why) = match (known, is_rootless) {
        (None, _) => ("", String::new(), "the engine has no cgroups on this host"),
        (_, true) => ("user", user_manager(), NO_USER_SLICE),
        (_, false) => ("system", String::new(), NO_SLICE),
    };
    // Anybody who may talk to an engine with the systemd driver gets our parent group by the name of the package's slice,
    // from the machine's manager or their own.
    let is_packaged = layout.is_systemd && has_slice(root, whose);
    let is_possible = known.is_some() && (is_packaged || is_root && !is_rootless);
    let parent = is_possible.then(|| parent_group(root, layout, &manager));
    // Images and what pilots write; the containerd store has a place of its own, which the engine does not name.
    let (mut words, store) = (info.driver_status.iter().flatten(), root.join(STORE));
    let has_store = words.any(|word| word.starts_with("io.containerd.snapshotter"));
    let store = Some(store).filter(|store| has_store && store.exists());
    let disks = [PathBuf::from(&info.docker_root_dir)];
    Facts {
        engine: EngineName::default(),
        disks: disks.into_iter().chain(store).collect(),
        is_rootless,
        layout,
        parent: parent.ok_or_else(|| why.to_owned()),
        is_ours: is_root || is_rootless,
        unsupported: unsupported(&info, known.is_some(), root),
        info,
    }
}

/// The engine must run on this kernel and see this machine's memory: else what the owner uses here is not seen there.
fn unsupported(info: &Info, has_groups: bool, root: &Path) -> Option<String> {
    let (theirs, total) = (&info.kernel_version, info.mem_total);
    let ours: Option<String> = host::files::read_value(&root.join("proc/sys/kernel/osrelease"));
    let is_other = !theirs.is_empty() && ours.is_some_and(|ours| ours != *theirs);
    let memory = host::read_memory(root).map_or(total, |(memory, _)| memory);
    if is_other || total > 0 && total.abs_diff(memory) > memory / 20 {
        return Some(format!(
            "the engine runs on another machine or in a virtual one (kernel {theirs}, {} of memory), where what you use here \
             is not seen; use an engine of this machine",
            Bytes(total)
        ));
    }
    let driver = &info.cgroup_driver;
    (!has_groups).then(|| {
        format!(
            "the engine has no cgroups on this host (driver '{driver}'), so that no limit holds; \
             use an engine with cgroups, or delegate them to the rootless one"
        )
    })
}

/// The package's slice, where systemd finds it; `whose`: `system` or `user`.
pub fn has_slice(root: &Path, whose: &str) -> bool {
    let slice = format!("systemd/{whose}/plancton.slice");
    let mut places = ["etc", "usr/lib", "lib"].into_iter();
    places.any(|place| root.join(place).join(&slice).exists())
}

/// The group of this user's own manager.
fn user_manager() -> String {
    let user = rustix::process::geteuid().as_raw();
    format!("user.slice/user-{user}.slice/user@{user}.service")
}

/// What has to be handed down to this user's manager before pilots can be held to their limits there; empty: nothing.
pub fn not_delegated(root: &Path) -> Vec<&'static str> {
    let group = root.join("sys/fs/cgroup").join(user_manager());
    let there = host::files::read_text(&group.join("cgroup.controllers")).unwrap_or_default();
    let mut needed = vec!["cpu", "memory", "pids"];
    needed.retain(|name| there.split_whitespace().all(|other| other != *name));
    needed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::{Fake, PING, answer};
    use crate::host::tests::Tree;

    fn info(driver: &str, version: &str) -> Info {
        Info {
            cgroup_driver: driver.to_owned(),
            cgroup_version: version.to_owned(),
            ..Info::default()
        }
    }

    #[test]
    fn where_a_parent_is_ours() {
        let nowhere = Path::new("/nonexistent");
        let plain = facts_of(info("cgroupfs", "1"), nowhere, true);
        assert!(plain.parent.is_ok() && plain.unsupported.is_none());
        assert_eq!(plain.missing(), ["memory", "CPU quota", "pids"]);
        let user = facts_of(info("systemd", "2"), nowhere, false);
        assert!(user.parent.unwrap_err().contains("only root"));
        let none = facts_of(info("none", "2"), nowhere, true).unsupported;
        assert!(none.unwrap().contains("no cgroups"));
        let mut rootless = info("systemd", "2");
        rootless.security_options = vec!["name=seccomp".to_owned(), "name=rootless".to_owned()];
        let rootless = facts_of(rootless, nowhere, true);
        assert!(rootless.parent.unwrap_err().contains("rootless"));
    }

    /// Podman says on version 2 that it can limit no CPU.
    #[test]
    fn what_podman_does_not_see() {
        let ping = PING.replace("Fake/1", "Libpod/5.4.2 (linux)");
        for (version, missing) in [("2", vec![]), ("1", vec!["CPU quota"])] {
            let info = format!(
                r#"{{"CgroupVersion":"{version}","CgroupDriver":"systemd","MemoryLimit":true,"PidsLimit":true}}"#
            );
            let (fake, engine) = Fake::start(&[&ping, &answer(200, &info)]);
            let facts = read_facts(&engine, Path::new("/nonexistent"), true).unwrap();
            fake.finish();
            assert_eq!(facts.missing(), missing);
            assert_eq!(facts.info.swap_limit, version == "2");
        }
    }

    /// What Docker 20.10 says with userns-remap, Docker 29 with its own store (docker/cli #6645), Podman 4, and who says null.
    #[test]
    fn where_it_keeps_things_and_as_whom() {
        let tree = Tree::new(&[("var/lib/containerd/", "")]);
        for (info, disks, shift) in [
            (
                r#"{"DockerRootDir":"/d/231072.331072","SecurityOptions":["name=seccomp","name=userns"]}"#,
                1,
                Some((231_072, 331_072)),
            ),
            (
                r#"{"DockerRootDir":"/d","DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]]}"#,
                2,
                None,
            ),
            (
                r#"{"DockerRootDir":"/home/u/1.2","DriverStatus":[["Native Overlay Diff","true"]],"SecurityOptions":["name=rootless"]}"#,
                1,
                None,
            ),
            (
                r#"{"DockerRootDir":"/d/1.2","SecurityOptions":null,"DriverStatus":null}"#,
                1,
                None,
            ),
        ] {
            let facts = facts_of(serde_json::from_str(info).unwrap(), tree.root(), true);
            assert_eq!(
                (facts.disks.len(), facts.id_shift()),
                (disks, shift),
                "{info}"
            );
        }
    }

    #[test]
    fn an_engine_of_another_machine() {
        let tree = Tree::new(&[]);
        tree.put(
            "proc/meminfo",
            "MemTotal: 67108864 kB\nMemFree: 60000000 kB\nMemAvailable: 60000000 kB\n",
        );
        for (ours, memory, is_elsewhere) in [
            ("6.6.12-linuxkit", 0, false),
            ("6.6.12-other", 0, true),
            ("6.6.12-linuxkit", 2 << 30, true),
            ("6.6.12-linuxkit", 64 << 30, false),
        ] {
            tree.put("proc/sys/kernel/osrelease", format!("{ours}\n"));
            let info = Info {
                kernel_version: "6.6.12-linuxkit".to_owned(),
                mem_total: memory,
                ..info("cgroupfs", "2")
            };
            let facts = facts_of(info, tree.root(), true);
            assert_eq!(facts.unsupported.is_some(), is_elsewhere, "{ours} {memory}");
        }
    }
}
