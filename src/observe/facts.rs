//! What the engine says about itself, once a connection: what it can hold, where its groups are, what is missing.

use crate::engine::{Engine, Error, Info};
use crate::host;
use crate::host::cgroup::{Group, Layout, parent_group};
use crate::units::Bytes;
use std::path::{Path, PathBuf};

/// The package's slice, as systemd finds it.
pub const SLICES: [&str; 3] = [
    "etc/systemd/system/plancton.slice",
    "usr/lib/systemd/system/plancton.slice",
    "lib/systemd/system/plancton.slice",
];

const USER_SLICES: [&str; 2] = [
    "etc/systemd/user/plancton.slice",
    "usr/lib/systemd/user/plancton.slice",
];

#[derive(Clone, Debug)]
pub struct Facts {
    pub name: String,
    pub version: String,
    pub api: String,
    /// Whatever runs out there stops the engine.
    pub disks: Vec<PathBuf>,
    /// CPUs that the engine may use; 0: it does not say.
    pub cpus: u64,
    /// Where the ids of pilots' users and groups begin on this machine; `None`: they are its own.
    pub id_shift: Option<(u32, u32)>,
    pub is_selinux: bool,
    pub is_rootless: bool,
    /// `None`: no cgroups on this host that pilots would be in.
    pub layout: Option<Layout>,
    /// The group that pilots are to run below, or why there is none.
    pub parent: Result<Group, String>,
    /// The parent group is ours to make and to mend.
    pub is_ours: bool,
    /// Why pilots cannot be run responsibly here.
    pub unsupported: Option<String>,
    /// Limits that the engine says it cannot hold.
    pub missing: Vec<&'static str>,
    pub swap_limit: bool,
    /// The engine has no init program for containers, as far as it says.
    pub lacks_init: bool,
}

impl Facts {
    /// The layout of the parent group, if that is ours to make and mend.
    pub fn our_layout(&self) -> Option<Layout> {
        self.layout.filter(|_| self.is_ours && self.parent.is_ok())
    }

    /// Of a pilot's group, the one of our parent's name that it is below.
    pub fn parent_of(&self, group: &Group) -> Option<Group> {
        group.ancestor(self.layout.filter(|_| self.parent.is_ok())?.parent_name())
    }

    /// The parent group as the engine's `CgroupParent` names it; `None`: the engine's own.
    pub fn parent_name(&self) -> Option<String> {
        let layout = self.layout.filter(|_| self.parent.is_ok())?;
        Some(match layout.is_systemd {
            true => layout.parent_name().to_owned(),
            false => format!("/{}", layout.parent_name()),
        })
    }
}

/// Asks the engine. Errors: it cannot be reached or is too old.
pub fn read_facts(engine: &Engine, root: &Path, is_root: bool) -> Result<Facts, Error> {
    let (server, api) = engine.ping()?;
    let info = engine.info()?;
    Ok(facts_of(&info, &server, &api, root, is_root))
}

fn facts_of(info: &Info, server: &str, api: &str, root: &Path, is_root: bool) -> Facts {
    let layout = Layout::parse(&info.cgroup_version, &info.cgroup_driver);
    let held = [
        (info.memory_limit, "memory"),
        (info.cpu_cfs_quota, "CPU quota"),
        (info.pids_limit, "pids"),
    ];
    let missing = held.iter().filter(|(holds, _)| !holds);
    Facts {
        name: engine_name(server, info),
        version: info.server_version.clone(),
        api: api.to_owned(),
        disks: disks(info, root),
        cpus: info.cpus,
        id_shift: id_shift(info),
        is_selinux: info
            .security_options
            .iter()
            .any(|option| option.contains("name=selinux")),
        is_rootless: is_rootless(info),
        parent: parent(info, layout, root, is_root),
        layout,
        is_ours: is_root || is_rootless(info),
        unsupported: unsupported(info, layout, root),
        missing: missing.map(|(_, what)| *what).collect(),
        swap_limit: info.swap_limit,
        lacks_init: info.lacks_init(),
    }
}

fn is_rootless(info: &Info) -> bool {
    info.security_options
        .iter()
        .any(|option| option.contains("rootless"))
}

/// The engine must run on this kernel and see this machine's memory: else what the owner uses here is not seen there.
fn unsupported(info: &Info, layout: Option<Layout>, root: &Path) -> Option<String> {
    let ours: Option<String> = host::files::read_value(&root.join("proc/sys/kernel/osrelease"));
    let is_other =
        !info.kernel_version.is_empty() && ours.is_some_and(|ours| ours != info.kernel_version);
    let total = host::read_memory(root).map_or(0, |memory| memory.0);
    let is_elsewhere =
        info.mem_total > 0 && total > 0 && info.mem_total.abs_diff(total) > total / 20;
    if is_other || is_elsewhere {
        return Some(format!(
            "the engine runs on another machine or in a virtual one (kernel {}, {} of memory), where what you use here \
             is not seen; use an engine of this machine",
            info.kernel_version,
            Bytes(info.mem_total)
        ));
    }
    if layout.is_some() {
        return None;
    }
    Some(format!(
        "the engine has no cgroups on this host (driver '{}'), so that no limit holds; \
         use an engine with cgroups, or delegate them to the rootless one",
        info.cgroup_driver
    ))
}

/// Our parent group, or why there is none. Anybody who may talk to an engine with the systemd driver gets it by the name of
/// the package's slice, from the machine's manager or their own.
fn parent(
    info: &Info,
    layout: Option<Layout>,
    root: &Path,
    is_root: bool,
) -> Result<Group, String> {
    let layout = layout.ok_or("the engine has no cgroups on this host")?;
    let is_packaged =
        |files: &[&str]| layout.is_systemd && files.iter().any(|file| root.join(file).exists());
    if is_rootless(info) {
        return match is_packaged(&USER_SLICES) {
            true => Ok(parent_group(root, layout, &user_manager())),
            false => Err(
                "a rootless engine makes no idle group without the package's user slice".to_owned(),
            ),
        };
    }
    match is_root || is_packaged(&SLICES) {
        true => Ok(parent_group(root, layout, "")),
        false => Err(
            "only root, or the package's plancton.slice, makes an idle group beside the owner's; \
             pilots run in the engine's own"
                .to_owned(),
        ),
    }
}

/// The group of this user's own manager.
fn user_manager() -> String {
    let user = rustix::process::geteuid().as_raw();
    format!("user.slice/user-{user}.slice/user@{user}.service")
}

/// What has to be handed down to this user's manager before pilots can be held to their limits there; empty: nothing.
pub fn not_delegated(root: &Path) -> Vec<&'static str> {
    let file = root
        .join("sys/fs/cgroup")
        .join(user_manager())
        .join("cgroup.controllers");
    let there = host::files::read_text(&file).unwrap_or_default();
    let is_there = |name: &str| there.split_whitespace().any(|other| other == name);
    ["cpu", "memory", "pids"]
        .into_iter()
        .filter(|name| !is_there(name))
        .collect()
}

/// Where images and what pilots write are. The containerd store has a place of its own, which the engine does not name.
fn disks(info: &Info, root: &Path) -> Vec<PathBuf> {
    let data = PathBuf::from(&info.docker_root_dir);
    let mut words = info.driver_status.iter().flatten();
    let is_containerd = words.any(|word| word.starts_with("io.containerd.snapshotter"));
    let store = root.join("var/lib/containerd");
    let store = is_containerd
        .then_some(store)
        .filter(|store| store.exists());
    std::iter::once(data).chain(store).collect()
}

/// With user namespaces the engine keeps its data apart by their first ids: `/var/lib/docker/231072.231072`.
fn id_shift(info: &Info) -> Option<(u32, u32)> {
    let mut options = info.security_options.iter();
    options.find(|option| option.split(',').any(|part| part == "name=userns"))?;
    let (user, group) = info.docker_root_dir.rsplit('/').next()?.split_once('.')?;
    Some((user.parse().ok()?, group.parse().ok()?))
}

/// `Libpod/4.3.1 (linux)` is Podman; Docker calls itself by its name.
fn engine_name(server: &str, info: &Info) -> String {
    let known = server.split('/').next().filter(|name| !name.is_empty());
    match known {
        Some("Libpod") => "Podman".to_owned(),
        Some(name) => name.to_owned(),
        None if info.server_version.is_empty() => String::new(),
        None => "Docker".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::Tree;

    fn info(driver: &str, version: &str) -> Info {
        Info {
            cgroup_driver: driver.to_owned(),
            cgroup_version: version.to_owned(),
            memory_limit: true,
            cpu_cfs_quota: true,
            ..Info::default()
        }
    }

    #[test]
    fn where_a_parent_is_ours() {
        let root = Path::new("/nonexistent");
        let facts =
            |info: &Info, is_root| facts_of(info, "Docker/26.1 (linux)", "1.45", root, is_root);
        let plain = facts(&info("cgroupfs", "1"), true);
        assert!(plain.parent.is_ok() && plain.unsupported.is_none());
        assert_eq!(
            (plain.name.as_str(), plain.missing),
            ("Docker", vec!["pids"])
        );
        assert!(
            facts(&info("systemd", "2"), false)
                .parent
                .unwrap_err()
                .contains("only root")
        );
        assert!(
            facts(&info("none", "2"), true)
                .unsupported
                .unwrap()
                .contains("no cgroups")
        );
        let mut elsewhere = info("cgroupfs", "2");
        elsewhere.kernel_version = "6.6.12-linuxkit".to_owned();
        let tree = Tree::new(&[("proc/sys/kernel/osrelease", "6.6.12-linuxkit\n")]);
        let in_vm =
            |info: &Info, root| facts_of(info, "", "1.45", root, true).unsupported.is_some();
        assert!(!in_vm(&elsewhere, tree.root()));
        tree.put("proc/sys/kernel/osrelease", "6.6.12-other\n");
        assert!(in_vm(&elsewhere, tree.root()));
        let mut small = info("systemd", "2");
        small.mem_total = 2 << 30;
        tree.put(
            "proc/meminfo",
            "MemTotal: 67108864 kB\nMemFree: 60000000 kB\nMemAvailable: 60000000 kB\n",
        );
        assert!(in_vm(&small, tree.root()));
        small.mem_total = 64 << 30;
        assert!(!in_vm(&small, tree.root()));
        let mut rootless = info("systemd", "2");
        rootless.security_options = vec!["name=seccomp".to_owned(), "name=rootless".to_owned()];
        assert!(
            facts(&rootless, true)
                .parent
                .unwrap_err()
                .contains("rootless")
        );
    }
}
