//! What the files of a control group say: use, limits and weights. "Not there" has two meanings that are kept apart:
//! a file that this kernel lacks is a value ([`Setting::Absent`], `None`); a group that is gone is an error for which
//! `is_missing()` holds, because a pilot that ended must not look like one without limits.

use super::{Group, Version};
use crate::host::files::{self, ReadError};
use crate::units::float;
use std::path::{Path, PathBuf};

/// A limit as the kernel holds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Setting<T> {
    /// This kernel has no such file: the controller or the accounting is missing, so nothing can hold.
    Absent,
    /// "max", or the v1 number that means it.
    Unlimited,
    At(T),
}

impl<T> Setting<T> {
    /// `None` for both "no limit" and "no such file".
    pub fn number(self) -> Option<T> {
        if let Setting::At(value) = self {
            Some(value)
        } else {
            None
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Cores: quota over period.
    pub cpus: Setting<f64>,
    pub memory_bytes: Setting<u64>,
    /// Swap alone, without memory; `Absent` where swap accounting is off.
    pub swap_bytes: Setting<u64>,
    pub pids: Setting<u64>,
}

impl Group {
    /// Does a process live in it, or below it? A group that is on its way out loses its files one by one.
    pub fn has_processes(&self) -> bool {
        let name = self.pick("cgroup.procs", "cgroup.events");
        let mut texts = self
            .dirs()
            .filter_map(|dir| files::read_text(&dir.join(name)).ok());
        texts.any(|text| match self.version {
            Version::V1 => !text.trim().is_empty(),
            Version::V2 => files::find_number(&text, "populated") == Some(1),
        })
    }

    /// CPU seconds used by the group and all below it, also by what ended.
    pub fn read_usage_seconds(&self) -> Result<f64, ReadError> {
        let (controller, name) = self.pick(("cpuacct", "cpuacct.usage"), ("cpu", "cpu.stat"));
        let path = self.file_or_missing(controller, name)?;
        let text = files::read_text(&path)?;
        let seconds = match self.version {
            Version::V1 => text.trim().parse().ok().map(|ns: u64| float(ns) / 1e9),
            Version::V2 => files::find_number(&text, "usage_usec").map(|us| float(us) / 1e6),
        };
        seconds.ok_or_else(|| ReadError::malformed(&path, "cpu usage"))
    }

    /// Is the group's cpu.idle set? `None`: no such file (a kernel older than 5.15), so there is no idle priority.
    pub fn read_cpu_idle(&self) -> Result<Option<bool>, ReadError> {
        Ok(match self.read_setting("cpu", "cpu.idle")? {
            Setting::At(value) => Some(value != 0),
            Setting::Absent | Setting::Unlimited => None,
        })
    }

    /// Bytes that cannot be dropped without swapping, of the group and all below it: what MemAvailable of the machine
    /// lacks because of it. v1: total_rss + total_shmem (shmem counts as cache there); v2: anon, shmem and the kernel's
    /// stacks, page tables and unreclaimable slab.
    pub fn read_memory_used(&self) -> Result<u64, ReadError> {
        let path = self.file_or_missing("memory", "memory.stat")?;
        let text = files::read_text(&path)?;
        let (first, rest): (_, &[_]) = match self.version {
            Version::V1 => ("total_rss", &["total_shmem"]),
            Version::V2 => (
                "anon",
                &["shmem", "kernel_stack", "pagetables", "slab_unreclaimable"],
            ),
        };
        let number = |key: &str| files::find_number(&text, key);
        let first = number(first).ok_or_else(|| ReadError::malformed(&path, "memory sizes"))?;
        let rest = rest.iter().filter_map(|key| number(key));
        Ok(rest.fold(first, u64::saturating_add))
    }

    pub fn read_limits(&self) -> Result<Limits, ReadError> {
        let name = self.pick("memory.limit_in_bytes", "memory.max");
        let memory_bytes = self.read_setting("memory", name)?;
        Ok(Limits {
            cpus: self.read_cpu_quota()?,
            memory_bytes,
            swap_bytes: self.read_swap_limit(memory_bytes)?,
            pids: self.read_setting("pids", "pids.max")?,
        })
    }

    /// The files that hold a default I/O weight, with their values; none where the kernel has no I/O weights.
    pub fn read_io_weights(&self) -> Vec<(PathBuf, u64)> {
        let (controller, names) = self.pick(
            ("blkio", ["blkio.weight", "blkio.bfq.weight"]),
            ("io", ["io.weight", "io.bfq.weight"]),
        );
        let files = names.iter().filter_map(|name| self.file(controller, name));
        let read = |path: PathBuf| {
            let text = files::read_text(&path).ok()?;
            // "100", or "default 100" and lines of single devices below it.
            let value = text.lines().next()?.split_whitespace().last()?.parse();
            Some((path, value.ok()?))
        };
        files.filter_map(read).collect()
    }

    fn read_cpu_quota(&self) -> Result<Setting<f64>, ReadError> {
        let Some((path, mut text)) =
            self.read_if_there("cpu", self.pick("cpu.cfs_quota_us", "cpu.max"))?
        else {
            return Ok(Setting::Absent);
        };
        if self.version == Version::V1 {
            text = format!(
                "{} {}",
                text.trim(),
                files::read_text(&path.with_file_name("cpu.cfs_period_us"))?
            );
        }
        parse_quota(&text).ok_or_else(|| ReadError::malformed(&path, "cpu quota"))
    }

    /// v1 limits memory and swap together.
    fn read_swap_limit(&self, memory_bytes: Setting<u64>) -> Result<Setting<u64>, ReadError> {
        let name = self.pick("memory.memsw.limit_in_bytes", "memory.swap.max");
        let swap = self.read_setting("memory", name)?;
        Ok(match (self.version, swap, memory_bytes) {
            (Version::V1, Setting::At(both), Setting::At(memory)) => {
                Setting::At(both.saturating_sub(memory))
            }
            (_, swap, _) => swap,
        })
    }

    fn read_setting(&self, controller: &str, name: &str) -> Result<Setting<u64>, ReadError> {
        let Some((path, text)) = self.read_if_there(controller, name)? else {
            return Ok(Setting::Absent);
        };
        match text.trim() {
            "max" => Ok(Setting::Unlimited),
            number => match number.parse::<u64>() {
                // v1 writes the largest multiple of the page size for "no limit".
                Ok(value) if value >= 1 << 62 => Ok(Setting::Unlimited),
                Ok(value) => Ok(Setting::At(value)),
                Err(_) => Err(ReadError::malformed(&path, "number")),
            },
        }
    }

    /// `None` where the group is there, but not this file of it (or its controller is not mounted).
    fn read_if_there(
        &self,
        controller: &str,
        name: &str,
    ) -> Result<Option<(PathBuf, String)>, ReadError> {
        let Some(path) = self.file(controller, name) else {
            return Ok(None);
        };
        match files::read_text(&path) {
            Ok(text) => Ok(Some((path, text))),
            Err(error) if error.is_missing() && path.parent().is_some_and(Path::is_dir) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn file_or_missing(&self, controller: &str, name: &str) -> Result<PathBuf, ReadError> {
        self.file(controller, name)
            .ok_or_else(|| ReadError::new(Path::new(name), files::Why::Missing))
    }

    fn pick<T>(&self, v1: T, v2: T) -> T {
        match self.version {
            Version::V1 => v1,
            Version::V2 => v2,
        }
    }
}

/// Quota and period.
fn parse_quota(text: &str) -> Option<Setting<f64>> {
    let (quota, period) = text.split_once(char::is_whitespace)?;
    let period: u32 = period.trim().parse().ok().filter(|period| *period > 0)?;
    match quota {
        "max" | "-1" => Some(Setting::Unlimited),
        quota => Some(Setting::At(
            f64::from(quota.parse::<u32>().ok()?) / f64::from(period),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::cgroup::find_parent;
    use crate::host::cgroup::tests::{V1, V2, v1_tree};
    use crate::host::tree::{GARBAGE, Tree};

    /// Files of one group; on v1 below the hierarchy that the pair names.
    fn fill(tree: &Tree, group: &str, files: &[(&str, &str, &str)]) {
        for (hierarchy, name, content) in files {
            let path = format!("sys/fs/cgroup/{hierarchy}/{group}/{name}");
            tree.put(&path.replace("//", "/"), *content);
        }
    }

    #[test]
    fn v1_files() {
        let tree = v1_tree();
        fill(
            &tree,
            "plancton",
            &[
                ("cpu,cpuacct", "cpuacct.usage", "2500000000\n"),
                ("cpu,cpuacct", "cpu.idle", "1\n"),
                ("cpu,cpuacct", "cpu.cfs_quota_us", "150000\n"),
                ("cpu,cpuacct", "cpu.cfs_period_us", "100000\n"),
                (
                    "memory",
                    "memory.stat",
                    "rss 1\ntotal_rss 100\ntotal_shmem 20\ntotal_swap 7\n",
                ),
                ("memory", "memory.limit_in_bytes", "1000\n"),
                ("memory", "memory.memsw.limit_in_bytes", "1500\n"),
                ("pids", "pids.max", "512\n"),
                ("blkio", "blkio.bfq.weight", "default 100\n8:0 200\n"),
            ],
        );
        let group = find_parent(tree.root(), V1);
        assert!(!group.has_processes());
        fill(
            &tree,
            "plancton",
            &[
                ("memory", "cgroup.procs", ""),
                ("pids", "cgroup.procs", "17\n18\n"),
            ],
        );
        assert!(group.has_processes());
        assert_eq!(group.read_usage_seconds(), Ok(2.5));
        assert_eq!(group.read_cpu_idle(), Ok(Some(true)));
        assert_eq!(group.read_memory_used(), Ok(120));
        let weight = tree.path("sys/fs/cgroup/blkio/plancton/blkio.bfq.weight");
        assert_eq!(group.read_io_weights(), [(weight, 100)]);
        let limits = Limits {
            cpus: Setting::At(1.5),
            memory_bytes: Setting::At(1000),
            swap_bytes: Setting::At(500),
            pids: Setting::At(512),
        };
        assert_eq!(group.read_limits(), Ok(limits));
        let unlimited = "9223372036854771712\n";
        fill(
            &tree,
            "plancton",
            &[
                ("cpu,cpuacct", "cpu.cfs_quota_us", "-1"),
                ("memory", "memory.limit_in_bytes", unlimited),
                ("memory", "memory.memsw.limit_in_bytes", unlimited),
                ("pids", "pids.max", "max\n"),
            ],
        );
        let limits = Limits {
            cpus: Setting::Unlimited,
            memory_bytes: Setting::Unlimited,
            swap_bytes: Setting::Unlimited,
            pids: Setting::Unlimited,
        };
        assert_eq!(group.read_limits(), Ok(limits));
    }

    #[test]
    fn v2_files() {
        let tree = Tree::new(&[]);
        let stat = "anon 100\nfile 5000\nkernel 99\nkernel_stack 3\npagetables 4\nshmem 20\nslab_reclaimable 900\nslab_unreclaimable 5\n";
        fill(
            &tree,
            "plancton.slice",
            &[
                ("", "cpu.stat", "usage_usec 2500000\nuser_usec 1\n"),
                ("", "cpu.idle", "0\n"),
                ("", "cpu.max", "50000 100000\n"),
                ("", "memory.stat", stat),
                ("", "memory.max", "max\n"),
                ("", "memory.swap.max", "0\n"),
                ("", "pids.max", "max\n"),
                ("", "io.weight", "default 100\n"),
            ],
        );
        let group = find_parent(tree.root(), V2);
        for (events, is_alive) in [
            ("populated 0\nfrozen 0\n", false),
            ("populated 1\nfrozen 0\n", true),
        ] {
            fill(
                &tree,
                "plancton.slice",
                &[("", "cgroup.events", events), ("", "cgroup.procs", "")],
            );
            assert_eq!(group.has_processes(), is_alive);
        }
        assert_eq!(group.read_usage_seconds(), Ok(2.5));
        assert_eq!(group.read_cpu_idle(), Ok(Some(false)));
        assert_eq!(group.read_memory_used(), Ok(132));
        let weight = tree.path("sys/fs/cgroup/plancton.slice/io.weight");
        assert_eq!(group.read_io_weights(), [(weight, 100)]);
        let limits = Limits {
            cpus: Setting::At(0.5),
            memory_bytes: Setting::Unlimited,
            swap_bytes: Setting::At(0),
            pids: Setting::Unlimited,
        };
        assert_eq!(group.read_limits(), Ok(limits));
    }

    #[test]
    fn absent_is_a_value_and_gone_is_an_error() {
        let absent = Limits {
            cpus: Setting::Absent,
            memory_bytes: Setting::Absent,
            swap_bytes: Setting::Absent,
            pids: Setting::Absent,
        };
        for (tree, layout, hierarchies) in [
            (v1_tree(), V1, ["cpu,cpuacct", "memory", "pids"].as_slice()),
            (Tree::new(&[]), V2, &[""]),
        ] {
            let group = find_parent(tree.root(), layout);
            assert!(group.read_limits().unwrap_err().is_missing());
            assert!(group.read_cpu_idle().unwrap_err().is_missing());
            assert!(group.read_usage_seconds().unwrap_err().is_missing());
            for hierarchy in hierarchies {
                let place = format!("sys/fs/cgroup/{hierarchy}/{}/", layout.parent_name());
                tree.put(&place, "");
            }
            assert_eq!(group.read_limits(), Ok(absent));
            assert_eq!(group.read_cpu_idle(), Ok(None));
            assert!(group.read_io_weights().is_empty());
            assert!(group.read_memory_used().unwrap_err().is_missing());
        }
    }

    #[test]
    fn garbage_in_any_file() {
        let tree = Tree::new(&[]);
        let files = [
            "cpu.stat",
            "cpu.idle",
            "cpu.max",
            "memory.stat",
            "memory.max",
        ];
        let group = find_parent(tree.root(), V2);
        for content in GARBAGE {
            for name in files.iter().chain(&["io.weight"]) {
                tree.put(&format!("sys/fs/cgroup/plancton.slice/{name}"), content);
            }
            assert!(group.read_usage_seconds().is_err());
            assert!(group.read_cpu_idle().is_err());
            assert!(group.read_memory_used().is_err());
            assert!(group.read_limits().is_err());
            assert!(group.read_io_weights().is_empty());
        }
        for (text, expected) in [
            ("50000 0", None),
            ("max", None),
            ("max 100000 1", None),
            ("-5 100000", None),
            ("1 100000", Some(Setting::At(0.00001))),
            ("max 100000", Some(Setting::Unlimited)),
        ] {
            tree.put("sys/fs/cgroup/plancton.slice/cpu.max", text);
            assert_eq!(group.read_cpu_quota().ok(), expected, "{text}");
        }
    }
}
