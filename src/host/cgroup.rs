//! Control groups on disk: where the parent's and a pilot's are, on v1, v2 and hybrid, and what their files say. They are
//! written elsewhere. A file that this kernel lacks is `None`; a group that is gone is an error for which
//! `is_missing()` holds, because a pilot that ended must not look like one without limits.

use super::files::{self, ReadError, Why};
use crate::units::{PilotId, float};
use std::path::{Path, PathBuf};

const TOP: &str = "sys/fs/cgroup";

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

/// `None`: there is no limit, or the kernel has no such file (the accounting is missing), so that none holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Cores: quota over period.
    pub cpus: Option<f64>,
    pub memory_bytes: Option<u64>,
    pub pids: Option<u64>,
}

/// One group: the same place in each mounted hierarchy (on v2 there is one), whether it exists there or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    version: Version,
    /// /sys/fs/cgroup
    top: PathBuf,
    /// From there, or from a hierarchy's directory, without a leading slash.
    place: String,
}

/// Our parent group at top level.
pub fn parent_group(root: &Path, layout: Layout) -> Group {
    Group {
        version: layout.version,
        top: root.join(TOP),
        place: layout.parent_name().to_owned(),
    }
}

/// The group of the container that this process is the first of, as the kernel says. `None` where there is no such process
/// (any more), or where it is in no group of its own.
pub fn group_of_pid(root: &Path, pid: u32, id: &PilotId) -> Option<Group> {
    let text = files::read_text(&root.join(format!("proc/{pid}/cgroup"))).ok()?;
    // "4:cpu,cpuacct:/plancton/ID"; on v2 one line, without controllers.
    let line_of = |controller: &str| {
        let lines = text.lines();
        let mut lines = lines.filter_map(|line| line.split_once(':')?.1.split_once(':'));
        lines.find(|(controllers, _)| controllers.split(',').any(|name| name == controller))
    };
    let (version, (_, place)) = match line_of("cpu") {
        Some(line) => (Version::V1, line),
        None => (Version::V2, line_of("")?),
    };
    // From within a namespace of groups the way begins with as many `..` as lead to the top. Some runtimes and systemd in
    // a container put the process one level below.
    let place = place.trim_start_matches("/..").trim_start_matches('/');
    let group = Group {
        version,
        top: root.join(TOP),
        place: cut_behind(place, |name| name.contains(id.as_str()))?,
    };
    group.exists().then_some(group)
}

/// `path` up to the first name that is the wanted one.
fn cut_behind(path: &str, is_wanted: impl Fn(&str) -> bool) -> Option<String> {
    let mut names = path.split('/');
    let count = names.position(is_wanted)? + 1;
    let names: Vec<&str> = path.split('/').take(count).collect();
    Some(names.join("/"))
}

impl Group {
    /// The same place with another container's id in it; `None` if there is no such group.
    pub fn of_other(&self, from: &PilotId, to: &PilotId) -> Option<Group> {
        let other = self.at(self.place.replace(from.as_str(), to.as_str()));
        other.exists().then_some(other)
    }

    /// The group of the same name below another one.
    pub fn below(&self, place: &str) -> Group {
        self.at(format!("{place}/{}", self.place))
    }

    /// The group of this name that it is below, or is itself.
    pub fn ancestor(&self, name: &str) -> Option<Group> {
        Some(self.at(cut_behind(&self.place, |part| part == name)?))
    }

    fn at(&self, place: String) -> Group {
        Group {
            place,
            ..self.clone()
        }
    }

    /// In every hierarchy in which the group is or may be: what to make, or to remove.
    pub fn dirs(&self) -> Vec<PathBuf> {
        let tops = match self.version {
            Version::V1 => files::read_names(&self.top),
            Version::V2 => vec![String::new()],
        };
        let tops = tops.into_iter().map(|name| self.top.join(name));
        tops.map(|top| top.join(&self.place)).collect()
    }

    pub fn exists(&self) -> bool {
        self.dirs().iter().any(|dir| dir.is_dir())
    }

    /// Where a controller's file is; `None` where that controller is not mounted. On v2 all are in one directory.
    pub fn file(&self, controller: &str, name: &str) -> Option<PathBuf> {
        let top = match self.version {
            Version::V1 => self.top.join(controller),
            Version::V2 => self.top.clone(),
        };
        top.is_dir().then(|| top.join(&self.place).join(name))
    }

    /// Does a process live in it, or below it? A group that is on its way out loses its files one by one.
    pub fn has_processes(&self) -> bool {
        let name = self.pick("cgroup.procs", "cgroup.events");
        let texts = self.dirs().into_iter();
        let mut texts = texts.filter_map(|dir| files::read_text(&dir.join(name)).ok());
        texts.any(|text| match self.version {
            Version::V1 => !text.trim().is_empty(),
            Version::V2 => files::find_number(&text, "populated") == Some(1),
        })
    }

    /// CPU seconds used by the group and all below it, also by what ended.
    pub fn read_usage_seconds(&self) -> Result<f64, ReadError> {
        let (controller, name) = self.pick(("cpuacct", "cpuacct.usage"), ("cpu", "cpu.stat"));
        let (path, text) = self.read(controller, name)?;
        let seconds = match self.version {
            Version::V1 => text.trim().parse().ok().map(|ns: u64| float(ns) / 1e9),
            Version::V2 => files::find_number(&text, "usage_usec").map(|us| float(us) / 1e6),
        };
        seconds.ok_or_else(|| ReadError::malformed(&path, "cpu usage"))
    }

    /// Is the group's cpu.idle set? `None`: no such file (a kernel older than 5.15), so there is no idle priority.
    pub fn read_cpu_idle(&self) -> Result<Option<bool>, ReadError> {
        let value = self.read_number("cpu", "cpu.idle")?;
        Ok(value.map(|value| value != 0))
    }

    /// Bytes that cannot be dropped without swapping, of the group and all below it: what MemAvailable of the machine
    /// lacks because of it. On v1 shmem counts as cache; on v2 what the kernel needs for the group is counted too.
    pub fn read_memory_used(&self) -> Result<u64, ReadError> {
        const V1: &[&str] = &["total_rss", "total_shmem"];
        const V2: &[&str] = &[
            "anon",
            "shmem",
            "kernel_stack",
            "pagetables",
            "slab_unreclaimable",
        ];
        let (path, text) = self.read("memory", "memory.stat")?;
        let keys = self.pick(V1, V2);
        let sizes = keys.iter().filter_map(|key| files::find_number(&text, key));
        let used = sizes.reduce(u64::saturating_add);
        used.ok_or_else(|| ReadError::malformed(&path, "memory sizes"))
    }

    pub fn read_limits(&self) -> Result<Limits, ReadError> {
        let memory = self.pick("memory.limit_in_bytes", "memory.max");
        Ok(Limits {
            cpus: self.read_cpu_quota()?,
            memory_bytes: self.read_number("memory", memory)?,
            pids: self.read_number("pids", "pids.max")?,
        })
    }

    /// The files that hold a default I/O weight; none where the kernel has no I/O weights.
    pub fn io_weights(&self) -> Vec<PathBuf> {
        let (controller, names) = self.pick(
            ("blkio", ["blkio.weight", "blkio.bfq.weight"]),
            ("io", ["io.weight", "io.bfq.weight"]),
        );
        let files = names.iter().filter_map(|name| self.file(controller, name));
        files.filter(|file| file.exists()).collect()
    }

    fn read_cpu_quota(&self) -> Result<Option<f64>, ReadError> {
        let (quota, period) = match self.version {
            Version::V1 => (
                self.read_number("cpu", "cpu.cfs_quota_us")?,
                self.read_number("cpu", "cpu.cfs_period_us")?,
            ),
            Version::V2 => {
                let Some((path, text)) = self.read_if_there("cpu", "cpu.max")? else {
                    return Ok(None);
                };
                let (quota, period) = text.split_once(' ').unwrap_or((&text, ""));
                (parse_number(&path, quota)?, parse_number(&path, period)?)
            }
        };
        let quota = quota.zip(period.filter(|period| *period > 0));
        Ok(quota.map(|(quota, period)| float(quota) / float(period)))
    }

    /// `None` where there is no such file, or no limit.
    fn read_number(&self, controller: &str, name: &str) -> Result<Option<u64>, ReadError> {
        match self.read_if_there(controller, name)? {
            Some((path, text)) => parse_number(&path, &text),
            None => Ok(None),
        }
    }

    fn read(&self, controller: &str, name: &str) -> Result<(PathBuf, String), ReadError> {
        let path = self.file(controller, name);
        let path = path.ok_or_else(|| ReadError::new(Path::new(name), Why::Missing))?;
        files::read_text(&path).map(|text| (path, text))
    }

    /// `None` where the group is there, but not this file of it (or its controller is not mounted).
    fn read_if_there(
        &self,
        controller: &str,
        name: &str,
    ) -> Result<Option<(PathBuf, String)>, ReadError> {
        match self.read(controller, name) {
            Err(error) if error.is_missing() && self.exists() => Ok(None),
            read => read.map(Some),
        }
    }

    fn pick<T>(&self, v1: T, v2: T) -> T {
        match self.version {
            Version::V1 => v1,
            Version::V2 => v2,
        }
    }
}

/// `None` for "max", and for what v1 writes for it: -1, or the largest multiple of the page size.
fn parse_number(path: &Path, text: &str) -> Result<Option<u64>, ReadError> {
    match text.trim() {
        "max" | "-1" => Ok(None),
        number => match number.parse::<u64>() {
            Ok(value) => Ok(Some(value).filter(|value| *value < 1 << 62)),
            Err(_) => Err(ReadError::malformed(path, "number")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::{GARBAGE, Tree};

    const V1: Layout = Layout {
        version: Version::V1,
        driver: Driver::Cgroupfs,
    };
    const V2: Layout = Layout {
        version: Version::V2,
        driver: Driver::Systemd,
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
    /// drivers, a container in a container, another runtime.
    const PLACES: &str = "user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope
        user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope
        docker_limit.slice/docker-ID.scope
        machine.slice/libpod-ID.scope /container
        system.slice/docker-ID.scope /init.scope
        plancton.slice/docker-ID.scope
        plancton/ID
        docker/0123456789ab/docker/ID
        kubepods.slice/cri-containerd-ID.scope";
    /// On v2, seen from within a namespace, on v1.
    const LINES: [(Layout, &str, &str); 3] = [
        (V2, "", "0::/"),
        (V2, "", "0::/../../"),
        (V1, "cpu/", "9:name=systemd:/x\n4:cpuacct,cpu:/"),
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
            assert_eq!(group.file("cpu", "cpu.stat"), Some(tree.path(&file)));
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
        let limits = |cpus, memory_bytes, pids| Limits {
            cpus,
            memory_bytes,
            pids,
        };
        for (layout, files) in [(V1, V1_FILES), (V2, V2_FILES)] {
            let tree = tree_of(layout);
            let group = parent_group(tree.root(), layout);
            let files = files.replace("GROUP", layout.parent_name());
            let put_all = |content: &dyn Fn(&[&str]) -> Option<Vec<u8>>| {
                for line in files.lines() {
                    let parts: Vec<&str> = line.trim().split('|').collect();
                    let path = format!("sys/fs/cgroup/{}", parts[0]);
                    content(&parts)
                        .into_iter()
                        .for_each(|bytes| tree.put(&path, bytes));
                }
            };
            let lines = |text: &str| Some((text.replace(';', "\n") + "\n").into_bytes());
            // Gone is an error, what the kernel lacks is none.
            assert!(group.read_limits().unwrap_err().is_missing() && !group.exists());
            assert!(group.read_cpu_idle().unwrap_err().is_missing());
            group
                .dirs()
                .iter()
                .for_each(|dir| drop(std::fs::create_dir_all(dir)));
            assert_eq!(group.read_limits(), Ok(limits(None, None, None)));
            assert_eq!(group.read_cpu_idle(), Ok(None));
            assert!(group.read_memory_used().unwrap_err().is_missing());
            put_all(&|parts| lines(parts[1]));
            assert!(group.has_processes() && group.io_weights().is_empty());
            assert_eq!(group.read_usage_seconds(), Ok(2.5));
            assert_eq!(group.read_memory_used(), Ok(132));
            assert_eq!(
                group.read_limits(),
                Ok(limits(Some(1.5), Some(1000), Some(512)))
            );
            assert_eq!(group.read_cpu_idle(), Ok(Some(true)));
            put_all(&|parts| lines(parts.get(2)?));
            assert_eq!(group.read_limits(), Ok(limits(None, None, None)));
            for content in GARBAGE {
                put_all(&|_| Some(content.to_vec()));
                assert!(group.read_memory_used().is_err());
                // "-1" is no limit.
                assert!(group.read_limits().is_err() || content == b"-1");
                assert_ne!(group.read_cpu_idle(), Ok(Some(true)));
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
