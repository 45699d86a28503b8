//! Control groups on disk: where the parent's and a container's are, on v1, v2 and hybrid, with both drivers. What their
//! files say is read in `readings`; they are written elsewhere.

mod readings;

pub use readings::{Limits, Setting};

use super::files;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What the engine's /info calls CgroupVersion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// What the engine's /info calls CgroupDriver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    Cgroupfs,
    Systemd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub version: Version,
    pub driver: Driver,
}

impl Layout {
    /// From /info; engines before API 1.41 give no version and know only the first. `None` for the driver "none" of a
    /// rootless engine without groups, and for anything unknown.
    pub fn parse(version: &str, driver: &str) -> Option<Layout> {
        let version = match version {
            "" | "1" | "v1" => Version::V1,
            "2" | "v2" => Version::V2,
            _ => return None,
        };
        let driver = match driver {
            "cgroupfs" => Driver::Cgroupfs,
            "systemd" => Driver::Systemd,
            _ => return None,
        };
        Some(Layout { version, driver })
    }

    /// The name of our parent group: the value of CgroupParent and, at top level, its directory.
    pub fn parent_name(self) -> &'static str {
        match self.driver {
            Driver::Cgroupfs => "plancton",
            Driver::Systemd => "plancton.slice",
        }
    }
}

/// One group: its directory in each mounted hierarchy, whether it exists there or not (one on v2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    version: Version,
    /// The hierarchy's name ("cpu,cpuacct", "systemd"; empty on v2), and the directory.
    dirs: Vec<(String, PathBuf)>,
}

/// The mounted hierarchies, from the directories themselves: `cpu` may be a link to, or another mount of, `cpu,cpuacct`.
fn read_hierarchies(root: &Path, version: Version) -> Vec<(String, PathBuf)> {
    let top = root.join("sys/fs/cgroup");
    if version == Version::V2 {
        return vec![(String::new(), top)];
    }
    let names = files::read_names(&top).into_iter();
    let (links, real): (Vec<_>, Vec<_>) = names
        .map(|name| (top.join(&name), name))
        .partition(|(path, _)| path.is_symlink());
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for (path, name) in real.into_iter().chain(links) {
        if let Ok(meta) = std::fs::metadata(&path)
            && meta.is_dir()
            && seen.insert((meta.dev(), meta.ino()))
        {
            found.push((name, path));
        }
    }
    found
}

/// Our parent group at top level.
pub fn find_parent(root: &Path, layout: Layout) -> Group {
    let hierarchies = read_hierarchies(root, layout.version);
    Group::below(&hierarchies, layout.version, layout.parent_name())
}

/// A container's group, wherever this engine and driver put it; `None` where it is in no known place (not started,
/// ended, rootless). `parent` is the CgroupParent it was created with.
pub fn find_container(
    root: &Path,
    layout: Layout,
    parent: Option<&str>,
    id: &crate::units::PilotId,
) -> Option<Group> {
    let id = id.as_str();
    let places = match parent {
        Some(parent) => {
            let parent = parent.trim_matches('/');
            let names = ["ID", "docker-ID.scope", "libpod-ID", "libpod-ID.scope"];
            names.map(|name| format!("{parent}/{name}"))
        }
        None => [
            "docker/ID",
            "system.slice/docker-ID.scope",
            "libpod_parent/libpod-ID",
            "machine.slice/libpod-ID.scope",
        ]
        .map(str::to_owned),
    };
    let hierarchies = read_hierarchies(root, layout.version);
    let mut groups = places
        .iter()
        .map(|place| Group::below(&hierarchies, layout.version, &place.replace("ID", id)));
    groups.find(Group::exists)
}

impl Group {
    fn below(hierarchies: &[(String, PathBuf)], version: Version, place: &str) -> Group {
        let dirs = hierarchies.iter();
        Group {
            version,
            dirs: dirs
                .map(|(name, top)| (name.clone(), top.join(place)))
                .collect(),
        }
    }

    /// In every hierarchy in which the group is or may be: what to make, or to remove.
    pub fn dirs(&self) -> impl Iterator<Item = &Path> {
        self.dirs.iter().map(|(_, dir)| dir.as_path())
    }

    pub fn exists(&self) -> bool {
        self.dirs().any(Path::is_dir)
    }

    /// Where a controller's file is; `None` where that controller is not mounted. On v2 all are in one directory.
    pub fn file(&self, controller: &str, name: &str) -> Option<PathBuf> {
        let serves = |hierarchy: &str| hierarchy.split(',').any(|part| part == controller);
        let mut dirs = self.dirs.iter();
        let (_, dir) =
            dirs.find(|(hierarchy, _)| self.version == Version::V2 || serves(hierarchy))?;
        Some(dir.join(name))
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::host::tree::Tree;
    use crate::units::PilotId;

    pub const V1: Layout = Layout {
        version: Version::V1,
        driver: Driver::Cgroupfs,
    };
    pub const V2: Layout = Layout {
        version: Version::V2,
        driver: Driver::Systemd,
    };

    pub fn v1_tree() -> Tree {
        let dirs = [
            "cpu,cpuacct",
            "memory",
            "pids",
            "blkio",
            "systemd",
            "unified",
        ];
        let tree = Tree::new(&[("sys/fs/cgroup/README", "not a hierarchy")]);
        for dir in dirs {
            tree.put(&format!("sys/fs/cgroup/{dir}/tasks"), "");
        }
        tree.link("sys/fs/cgroup/cpu", "cpu,cpuacct");
        tree.link("sys/fs/cgroup/cpuacct", "cpu,cpuacct");
        tree
    }

    #[test]
    fn layouts() {
        for (version, driver, expected) in [
            ("2", "systemd", Some(V2)),
            ("1", "cgroupfs", Some(V1)),
            ("", "cgroupfs", Some(V1)),
            ("v2", "systemd", Some(V2)),
            ("2", "none", None),
            ("3", "systemd", None),
        ] {
            assert_eq!(Layout::parse(version, driver), expected);
        }
    }

    #[test]
    fn the_parent_is_in_every_hierarchy_once() {
        let tree = v1_tree();
        let at = |layout| -> Vec<String> {
            let top = tree.path("sys/fs/cgroup");
            let group = find_parent(tree.root(), layout);
            let below = group.dirs().map(|dir| dir.strip_prefix(&top).unwrap());
            below.map(|dir| dir.to_str().unwrap().to_owned()).collect()
        };
        let hierarchies = [
            "blkio",
            "cpu,cpuacct",
            "memory",
            "pids",
            "systemd",
            "unified",
        ];
        let (name, slice) = ("plancton", "plancton.slice");
        assert_eq!(at(V1), hierarchies.map(|h| format!("{h}/{name}")));
        let v1_systemd = Layout {
            driver: Driver::Systemd,
            ..V1
        };
        assert_eq!(at(v1_systemd), hierarchies.map(|h| format!("{h}/{slice}")));
        assert_eq!(at(V2), [slice]);
        // Separate mounts, as on the build machine, and no hierarchy at all.
        let separate = Tree::new(&[("sys/fs/cgroup/cpu/", ""), ("sys/fs/cgroup/cpuacct/", "")]);
        let group = find_parent(separate.root(), V1);
        let usage = separate.path("sys/fs/cgroup/cpuacct/plancton/cpuacct.usage");
        assert_eq!(group.file("cpuacct", "cpuacct.usage"), Some(usage));
        assert_eq!(group.file("memory", "memory.stat"), None);
        assert!(group.read_memory_used().unwrap_err().is_missing());
        let none = find_parent(&separate.path("sys"), V1);
        assert!(!none.exists() && none.dirs().next().is_none());
    }

    #[test]
    fn containers_of_each_engine_and_driver() {
        let id = PilotId::new(&"a1".repeat(32)).unwrap();
        for (parent, place) in [
            (Some("plancton"), "plancton/ID"),
            (Some("/plancton/"), "plancton/ID"),
            (Some("plancton.slice"), "plancton.slice/docker-ID.scope"),
            (Some("plancton"), "plancton/libpod-ID"),
            (Some("plancton.slice"), "plancton.slice/libpod-ID.scope"),
            (None, "docker/ID"),
            (None, "system.slice/docker-ID.scope"),
            (None, "libpod_parent/libpod-ID"),
            (None, "machine.slice/libpod-ID.scope"),
        ] {
            let place = place.replace("ID", id.as_str());
            for (tree, layout, hierarchy) in
                [(v1_tree(), V1, "cpu,cpuacct/"), (Tree::new(&[]), V2, "")]
            {
                assert_eq!(find_container(tree.root(), layout, parent, &id), None);
                tree.put(&format!("sys/fs/cgroup/{hierarchy}{place}/"), "");
                let group = find_container(tree.root(), layout, parent, &id).unwrap();
                let dir = tree.path(&format!("sys/fs/cgroup/{hierarchy}{place}"));
                assert!(group.dirs().any(|d| d == dir), "{place}");
                assert_eq!(group.file("cpu", "x"), Some(dir.join("x")));
            }
        }
    }
}
