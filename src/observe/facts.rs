//! What the engine says about itself, once a connection: what it can hold, where its groups are, what is missing.

use crate::engine::{Engine, Error, Info};
use crate::host::cgroup::{Driver, Group, Layout, parent_group};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
pub struct Facts {
    pub name: String,
    pub version: String,
    pub api: String,
    pub data_root: PathBuf,
    /// Where the ids of pilots' users and groups begin on this machine; `None`: they are its own.
    pub id_shift: Option<(u32, u32)>,
    /// `None`: no cgroups on this host that pilots would be in.
    pub layout: Option<Layout>,
    /// The parent group is ours to write.
    pub parent: Result<Group, String>,
    /// Why pilots cannot be run responsibly here.
    pub unsupported: Option<String>,
    /// Limits that the engine says it cannot hold.
    pub missing: Vec<&'static str>,
    pub swap_limit: bool,
}

impl Facts {
    /// The layout of the parent group, if that is ours to make and mend.
    pub fn our_layout(&self) -> Option<Layout> {
        self.layout.filter(|_| self.parent.is_ok())
    }

    /// The parent group as the engine's `CgroupParent` names it; `None`: the engine's own.
    pub fn parent_name(&self) -> Option<String> {
        let layout = self.our_layout()?;
        Some(match layout.driver {
            Driver::Cgroupfs => format!("/{}", layout.parent_name()),
            Driver::Systemd => layout.parent_name().to_owned(),
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
    let rootless = info
        .security_options
        .iter()
        .any(|option| option.contains("rootless"));
    let layout = Layout::parse(&info.cgroup_version, &info.cgroup_driver);
    let in_vm = info.operating_system.contains("Docker Desktop");
    let unsupported = match layout {
        _ if in_vm => Some(
            "the engine runs in a virtual machine (Docker Desktop): what the owner uses here is not seen there; \
             use an engine of this machine"
                .to_owned(),
        ),
        None => Some(format!(
            "the engine has no cgroups on this host (driver '{}'), so that no limit holds; \
             use an engine with cgroups, or delegate them to the rootless one",
            info.cgroup_driver
        )),
        Some(_) => None,
    };
    let parent = match layout {
        None => Err("the engine has no cgroups on this host".to_owned()),
        Some(_) if rootless => Err(
            "a rootless engine's groups are below its user's: protected within the session at best"
                .to_owned(),
        ),
        Some(_) if !is_root => Err(
            "only root can make an idle group beside the owner's; pilots run in the engine's own"
                .to_owned(),
        ),
        Some(layout) => Ok(parent_group(root, layout)),
    };
    let held = [
        (info.memory_limit, "memory"),
        (info.cpu_cfs_quota, "CPU quota"),
        (info.pids_limit, "pids"),
    ];
    Facts {
        name: engine_name(server, info),
        version: info.server_version.clone(),
        api: api.to_owned(),
        data_root: PathBuf::from(&info.docker_root_dir),
        id_shift: id_shift(info),
        layout,
        parent,
        unsupported,
        missing: held
            .iter()
            .filter(|(holds, _)| !holds)
            .map(|(_, what)| *what)
            .collect(),
        swap_limit: info.swap_limit,
    }
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
        let mut desktop = info("cgroupfs", "2");
        desktop.operating_system = "Docker Desktop".to_owned();
        assert!(
            facts(&desktop, true)
                .unsupported
                .unwrap()
                .contains("virtual machine")
        );
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
