//! Control groups on disk: where the parent's and a pilot's are, on v1, v2 and hybrid, and what their files say. They are
//! written elsewhere. `None` is what cannot be read, such as a group that is gone: a pilot that ended must not look like
//! one without limits.

use super::files;
use crate::units::{PilotId, float};
use std::path::{Path, PathBuf};

const TOP: &str = "sys/fs/cgroup";

/// A file of a group: its controller, and its name on v1 and on v2.
pub type File = (&'static str, &'static str, &'static str);

pub const CPU_IDLE: File = ("cpu", "cpu.idle", "cpu.idle");
const CPU_USE: File = ("cpuacct", "cpuacct.usage", "cpu.stat");
const CPU_QUOTA: File = ("cpu", "cpu.cfs_quota_us", "cpu.max");
const CPU_PERIOD: File = ("cpu", "cpu.cfs_period_us", "cpu.max");
const MEMORY_USE: File = ("memory", "memory.stat", "memory.stat");
pub const MEMORY_LIMIT: File = ("memory", "memory.limit_in_bytes", "memory.max");
const PIDS_LIMIT: File = ("pids", "pids.max", "pids.max");
pub const IO_WEIGHTS: [File; 2] = [
    ("blkio", "blkio.weight", "io.weight"),
    ("blkio", "blkio.bfq.weight", "io.bfq.weight"),
];

/// How the engine makes groups, as its /info says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// All controllers share one tree.
    pub is_v2: bool,
    /// systemd makes them, else the engine itself.
    pub is_systemd: bool,
}

impl Layout {
    /// By CgroupVersion and CgroupDriver; engines before API 1.41 give no version and know only the first. `None` for the
    /// driver "none" of a rootless engine without groups, and for anything unknown.
    pub fn parse(version: &str, driver: &str) -> Option<Layout> {
        let version = version.trim_start_matches('v');
        let (is_v2, is_systemd) = (version == "2", driver == "systemd");
        let is_known = is_v2 || ["", "1"].contains(&version);
        let is_known = is_known && (is_systemd || driver == "cgroupfs");
        is_known.then_some(Layout { is_v2, is_systemd })
    }

    /// The name of our parent group: the value of CgroupParent and, at top level, its directory.
    pub fn parent_name(self) -> &'static str {
        match self.is_systemd {
            true => "plancton.slice",
            false => "/plancton",
        }
    }
}

/// One group: the same place in each mounted hierarchy (on v2 there is one), whether it exists there or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    is_v2: bool,
    /// /sys/fs/cgroup
    top: PathBuf,
    /// From there, or from a hierarchy's directory, without a leading slash.
    place: String,
}

/// Our parent group, at top level or below the group of a user's `manager`.
pub fn parent_group(root: &Path, layout: Layout, manager: &str) -> Group {
    let place = format!("{manager}/{}", layout.parent_name());
    Group::new(root, layout.is_v2, place.trim_start_matches('/'))
}

/// The group of the container that this process is the first of, as the kernel says. `None` where there is no such process
/// (any more), or where it is in no group of its own.
pub fn group_of_pid(root: &Path, pid: u32, id: &PilotId) -> Option<Group> {
    let text = files::read_text(&root.join(format!("proc/{pid}/cgroup"))).ok()?;
    // "4:cpu,cpuacct:/plancton/ID"; on v2 one line, without controllers.
    let place_in = |controller: &str| {
        let lines = text.lines();
        let mut lines = lines.filter_map(|line| line.split_once(':')?.1.split_once(':'));
        lines.find(|(controllers, _)| controllers.split(',').any(|name| name == controller))
    };
    let on_v1 = place_in("cpu");
    let (_, place) = on_v1.or_else(|| place_in(""))?;
    // Some runtimes and systemd in a container put the process one level below.
    let place = cut_behind(place, |name| name.contains(id.as_str()))?;
    // Within a namespace of groups the way begins with as many `..` as lead to the top; in a container without one it is
    // the machine's, of which a part is mounted.
    let slashes = place.match_indices('/');
    let ways = slashes.filter_map(|(at, _)| place.get(at + 1..));
    let mut groups = ways.map(|way| Group::new(root, on_v1.is_none(), way));
    groups.find(Group::exists)
}

/// `path` up to the first name that is the wanted one.
fn cut_behind(path: &str, is_wanted: impl Fn(&str) -> bool) -> Option<String> {
    let names: Vec<&str> = path.split('/').collect();
    let last = names.iter().position(|name| is_wanted(name))?;
    Some(names.get(..=last)?.join("/"))
}

impl Group {
    fn new(root: &Path, is_v2: bool, place: &str) -> Group {
        let (top, place) = (root.join(TOP), place.to_owned());
        Group { is_v2, top, place }
    }

    /// The same place with another container's id in it; `None` if there is no such group.
    pub fn of_other(&self, from: &PilotId, to: &PilotId) -> Option<Group> {
        let other = self.at(self.place.replace(from.as_str(), to.as_str()));
        other.exists().then_some(other)
    }

    /// The group of this name that it is below, or is itself.
    pub fn ancestor(&self, name: &str) -> Option<Group> {
        Some(self.at(cut_behind(&self.place, |part| part == name)?))
    }

    pub fn is_below(&self, other: &Group) -> bool {
        let rest = self.place.strip_prefix(&other.place);
        rest.is_some_and(|rest| rest.starts_with('/'))
    }

    fn at(&self, place: String) -> Group {
        let Group { is_v2, top, .. } = self.clone();
        Group { is_v2, top, place }
    }

    /// In every hierarchy in which the group is or may be: what to make, or to remove.
    pub fn dirs(&self) -> Vec<PathBuf> {
        let hierarchies = match self.is_v2 {
            true => vec![String::new()],
            false => files::read_names(&self.top),
        };
        let dir = |name| self.top.join(name).join(&self.place);
        hierarchies.into_iter().map(dir).collect()
    }

    /// In the hierarchy that counts.
    pub fn exists(&self) -> bool {
        self.file(("cpu", "", "")).is_dir()
    }

    /// On v2 the files of all controllers are in one directory; on v1 a controller may not be mounted.
    pub fn file(&self, (controller, v1, v2): File) -> PathBuf {
        match self.is_v2 {
            true => self.top.join(&self.place).join(v2),
            false => self.top.join(controller).join(&self.place).join(v1),
        }
    }

    /// Does a process live in it, or below it? A group that is on its way out loses its files one by one.
    pub fn has_processes(&self) -> bool {
        let (name, is_used): (&str, fn(&str) -> bool) = match self.is_v2 {
            true => ("cgroup.events", |text| text.contains("populated 1")),
            false => ("cgroup.procs", |text| !text.trim().is_empty()),
        };
        let dirs = self.dirs().into_iter();
        let mut texts = dirs.filter_map(|dir| files::read_text(&dir.join(name)).ok());
        texts.any(|text| is_used(&text))
    }

    /// CPU seconds used by the group and all below it, also by what ended.
    pub fn read_usage_seconds(&self) -> Option<f64> {
        let text = files::read_text(&self.file(CPU_USE)).ok()?;
        match self.is_v2 {
            true => files::find_number(&text, "usage_usec").map(|us| float(us) / 1e6),
            false => text.trim().parse().ok().map(|ns: u64| float(ns) / 1e9),
        }
    }

    /// Is the group's cpu.idle set? `None`: no such file (a kernel older than 5.15), so there is no idle priority.
    pub fn read_cpu_idle(&self) -> Option<bool> {
        files::read_value(&self.file(CPU_IDLE)).map(|value: u64| value != 0)
    }

    /// Bytes that cannot be dropped without swapping, of the group and all below it: what MemAvailable of the machine
    /// lacks because of it. On v1 shmem counts as cache; on v2 what the kernel needs for the group is counted too.
    pub fn read_memory_used(&self) -> Option<u64> {
        let keys = match self.is_v2 {
            true => "anon shmem kernel_stack pagetables slab_unreclaimable",
            false => "total_rss total_shmem",
        };
        let text = files::read_text(&self.file(MEMORY_USE)).ok()?;
        let sizes = keys.split(' ');
        let sizes = sizes.filter_map(|key| files::find_number(&text, key));
        sizes.reduce(u64::saturating_add)
    }

    /// Cores (quota over period), bytes of memory, processes. Infinite: there is no limit, or the kernel has no such file (the
    /// accounting is missing), so that none holds.
    pub fn read_limits(&self) -> Option<[f64; 3]> {
        let quota = self.read_limit(CPU_QUOTA, 0)?;
        let period = self.read_limit(CPU_PERIOD, usize::from(self.is_v2))?;
        // A quota without a period is none.
        let period = if period.is_finite() { period } else { 0.0 };
        let memory = self.read_limit(MEMORY_LIMIT, 0)?;
        Some([quota / period, memory, self.read_limit(PIDS_LIMIT, 0)?])
    }

    /// The number at that place in a file. Without a limit it is "max", or what v1 writes for it: -1, or the largest
    /// multiple of the page size.
    fn read_limit(&self, file: File, place: usize) -> Option<f64> {
        let path = self.file(file);
        if path.try_exists().is_ok_and(|is_there| !is_there) && self.exists() {
            return Some(f64::INFINITY);
        }
        let text = files::read_text(&path).ok()?;
        let word = text.split_whitespace().nth(place)?;
        let number = word.replace("max", "-1").parse::<i64>().ok()?;
        let limit = u64::try_from(number).ok().filter(|n| *n < 1 << 62);
        Some(limit.map_or(f64::INFINITY, float))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::{GARBAGE, Tree};

    const V1: Layout = Layout {
        is_v2: false,
        is_systemd: false,
    };
    const V2: Layout = Layout {
        is_v2: true,
        is_systemd: true,
    };

    fn tree_of(layout: Layout) -> Tree {
        let tree = Tree::new(&[("sys/fs/cgroup/README", "not a hierarchy")]);
        if layout == V1 {
            tree.link("sys/fs/cgroup/cpu", "cpu,cpuacct");
            tree.link("sys/fs/cgroup/cpuacct", "cpu,cpuacct");
            for dir in ["cpu,cpuacct", "memory", "pids", "systemd"] {
                tree.put(&format!("sys/fs/cgroup/{dir}/tasks"), "");
            }
        }
        tree
    }

    /// Where a container's group is, and where below it its first process. The first three are
    /// shared/cases/group-of-a-rootless-engine; then Podman with crun, systemd in a container, our parent with both
    /// drivers, a container in a container, another runtime, Docker in a container of LXD, a pod of Podman.
    const PLACES: &str = "user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope
        user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope
        docker_limit.slice/docker-ID.scope
        machine.slice/libpod-ID.scope /container
        system.slice/docker-ID.scope /init.scope
        plancton.slice/docker-ID.scope
        plancton/ID
        docker/0123456789ab/docker/ID
        kubepods.slice/cri-containerd-ID.scope
        lxc.payload.web/docker/ID
        machine.slice/machine-libpod_pod_0123.slice/libpod-ID.scope /container";
    /// On v2, seen from within a namespace, on v1, in a container without a namespace (kata-containers/cgroups-rs #131).
    const LINES: [(Layout, &str, &str); 4] = [
        (V2, "", "0::/"),
        (V2, "", "0::/../../"),
        (V1, "cpu/", "9:name=systemd:/x\n4:cpuacct,cpu:/"),
        (V1, "cpu/", "4:cpu,cpuacct:/docker/6b2050427c40/"),
    ];

    #[test]
    fn groups_are_where_the_kernel_says() {
        let [id, other] = ["a1", "b2"].map(|digits| PilotId::new(&digits.repeat(32)).unwrap());
        let places = PLACES.replace("ID", id.as_str());
        for (line, (layout, hierarchy, before)) in places
            .lines()
            .flat_map(|line| LINES.map(|lines| (line.trim(), lines)))
        {
            let (place, tree) = (line.split(' ').next().unwrap(), tree_of(layout));
            let own = format!("{before}{}\n0::/x\n", line.replace(' ', ""));
            tree.put("proc/77/cgroup", own);
            assert_eq!(group_of_pid(tree.root(), 77, &id), None, "{line}");
            let file = format!("sys/fs/cgroup/{hierarchy}{place}/cpu.stat");
            tree.put(&file, "");
            let group = group_of_pid(tree.root(), 77, &id).unwrap();
            assert_eq!(
                group.file(("cpu", "cpu.stat", "cpu.stat")),
                tree.path(&file)
            );
            // Another process has the number since; another pilot of the same kind.
            assert_eq!(group_of_pid(tree.root(), 77, &other), None);
            assert_eq!(group.of_other(&id, &other), None);
            tree.put(&file.replace(id.as_str(), other.as_str()), "");
            assert!(group.of_other(&id, &other).is_some());
            let is_ours = place.starts_with("plancton.slice/");
            assert_eq!(group.ancestor("plancton.slice").is_some(), is_ours);
        }
    }

    /// A file below the hierarchies ("GROUP" is its group), its lines, and what they are without a limit.
    const V1_FILES: &str = "cpuacct/GROUP/cpuacct.usage|2500000000
        cpu/GROUP/cpu.idle|1
        cpu/GROUP/cpu.cfs_quota_us|150000|-1
        cpu/GROUP/cpu.cfs_period_us|100000
        memory/GROUP/memory.stat|rss 1;total_rss 100;total_shmem 32
        memory/GROUP/memory.limit_in_bytes|1000|9223372036854771712
        pids/GROUP/pids.max|512|max
        pids/GROUP/cgroup.procs|17;18";
    const V2_FILES: &str = "GROUP/cpu.stat|usage_usec 2500000;user_usec 1
        GROUP/cpu.idle|1
        GROUP/cpu.max|150000 100000|max 100000
        GROUP/memory.stat|anon 100;file 5000;kernel_stack 3;pagetables 4;shmem 20;slab_unreclaimable 5
        GROUP/memory.max|1000|max
        GROUP/pids.max|512|max
        GROUP/cgroup.events|populated 1;frozen 0";

    #[test]
    fn files_of_both_versions() {
        let none = Some([f64::INFINITY; 3]);
        for (layout, files) in [(V1, V1_FILES), (V2, V2_FILES)] {
            let tree = tree_of(layout);
            let group = parent_group(tree.root(), layout, "");
            let files = files.replace("GROUP", layout.parent_name());
            let put_all = |content: &dyn Fn(&[&str]) -> Option<Vec<u8>>| {
                for line in files.lines() {
                    let parts: Vec<&str> = line.trim().split('|').collect();
                    if let Some(bytes) = content(&parts) {
                        tree.put(&format!("sys/fs/cgroup/{}", parts[0]), bytes);
                    }
                }
            };
            let lines = |text: &str| Some((text.replace(';', "\n") + "\n").into_bytes());
            // What is gone is not known, what the kernel lacks is no limit.
            assert!(group.read_limits().is_none() && !group.exists());
            for dir in group.dirs() {
                let _ = std::fs::create_dir_all(dir);
            }
            assert_eq!((group.read_limits(), group.read_cpu_idle()), (none, None));
            assert_eq!(group.read_memory_used(), None);
            put_all(&|parts| lines(parts[1]));
            assert!(group.has_processes());
            assert_eq!(group.read_usage_seconds(), Some(2.5));
            assert_eq!(group.read_memory_used(), Some(132));
            assert_eq!(group.read_limits(), Some([1.5, 1000.0, 512.0]));
            assert_eq!(group.read_cpu_idle(), Some(true));
            put_all(&|parts| lines(parts.get(2)?));
            assert_eq!(group.read_limits(), none);
            for content in GARBAGE {
                put_all(&|_| Some(content.to_vec()));
                // "-1" is no limit.
                assert!(group.read_limits().is_none() || content == b"-1");
                assert_eq!(group.read_memory_used(), None);
                assert_ne!(group.read_cpu_idle(), Some(true));
            }
        }
    }

    #[test]
    fn layouts() {
        let found = [
            ("2", "systemd"),
            ("", "cgroupfs"),
            ("2", "none"),
            ("3", "systemd"),
        ]
        .map(|(version, driver)| Layout::parse(version, driver));
        assert_eq!(found, [Some(V2), Some(V1), None, None]);
    }
}
