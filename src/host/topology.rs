//! Which CPUs are online and which of them are threads of one core, from /sys/devices/system/cpu. A pilot on the sibling
//! thread slows the owner's thread whatever its priority, so that cores are what is given by default.
//! Read at start and when CPUs come or go (a file a CPU), not each tick.

use super::files;
use std::collections::BTreeMap;
use std::path::Path;

/// Above every kernel's NR_CPUS; a larger number in a list is garbage.
const MOST_CPUS: u32 = 16_384;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The online threads of each core, ascending; one entry a core. Cores with one thread and with two may be mixed.
    cores: Vec<Vec<u32>>,
}

/// Without a readable topology (some virtual machines, old kernels) every CPU of /proc/stat is a core of its own; `None`
/// where that cannot be read either.
pub fn read_topology(root: &Path) -> Option<Topology> {
    let dir = root.join("sys/devices/system/cpu");
    let online = files::read_text(&dir.join("online"))
        .ok()
        .and_then(|text| parse_cpu_list(&text));
    let online = online
        .filter(|cpus| !cpus.is_empty())
        .or_else(|| read_stat_cpus(root))?;
    let mut cores: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for cpu in online {
        let siblings =
            files::read_text(&dir.join(format!("cpu{cpu}/topology/thread_siblings_list"))).ok();
        let siblings = siblings
            .and_then(|text| parse_cpu_list(&text))
            .filter(|list| list.contains(&cpu));
        // The first thread, which may be offline, stands for the core.
        let core = siblings
            .and_then(|list| list.first().copied())
            .unwrap_or(cpu);
        cores.entry(core).or_default().push(cpu);
    }
    Some(Topology {
        cores: cores.into_values().collect(),
    })
}

impl Topology {
    /// Cores of which the cpuset holds at least one thread; all where it is empty.
    pub fn count_cores(&self, cpuset: &[u32]) -> usize {
        let inside = |core: &&Vec<u32>| core.iter().any(|cpu| holds(cpuset, *cpu));
        self.cores.iter().filter(inside).count()
    }

    /// Threads that the cpuset holds; all where it is empty.
    pub fn count_threads(&self, cpuset: &[u32]) -> usize {
        let threads = self.cores.iter().flatten();
        threads.filter(|cpu| holds(cpuset, **cpu)).count()
    }
}

fn holds(cpuset: &[u32], cpu: u32) -> bool {
    cpuset.is_empty() || cpuset.contains(&cpu)
}

/// Reads `0-3,8`, sorted and without doubles; `None` for anything else, or a CPU that no kernel has.
pub fn parse_cpu_list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|_| !text.trim().is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= MOST_CPUS {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

fn read_stat_cpus(root: &Path) -> Option<Vec<u32>> {
    let text = files::read_text_up_to(&root.join("proc/stat"), 1 << 20).ok()?;
    let number = |line: &str| line.split(' ').next()?.strip_prefix("cpu")?.parse().ok();
    let cpus: Vec<u32> = text.lines().filter_map(number).collect();
    (!cpus.is_empty()).then_some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tree::{GARBAGE, Tree};

    fn machine(online: &str, siblings: &[(u32, &str)]) -> Tree {
        let tree = Tree::new(&[("sys/devices/system/cpu/online", online)]);
        for (cpu, list) in siblings {
            let dir = format!("sys/devices/system/cpu/cpu{cpu}/topology");
            tree.put(&format!("{dir}/thread_siblings_list"), list);
        }
        tree
    }

    #[test]
    fn cores_and_threads() {
        let smt = machine("0-3\n", &[(0, "0,2"), (1, "1,3"), (2, "0,2"), (3, "1,3")]);
        let plain = machine("0-1\n", &[(0, "0"), (1, "1")]);
        // Two P cores with two threads each, four E cores.
        let mixed: Vec<(u32, &str)> = vec![
            (0, "0-1"),
            (1, "0-1"),
            (2, "2-3"),
            (3, "2-3"),
            (4, "4"),
            (5, "5"),
            (6, "6"),
            (7, "7"),
        ];
        let offline = machine("0,2-3\n", &[(0, "0,2"), (1, "1,3"), (2, "0,2"), (3, "1,3")]);
        let first_offline = machine("1-3\n", &[(1, "0-1"), (2, "2-3"), (3, "2-3")]);
        let mixed = machine("0-7\n", &mixed);
        let no_topology = machine("0-3\n", &[]);
        let cases: [(&Tree, &[u32], usize, usize); 12] = [
            (&smt, &[], 2, 4),
            (&smt, &[2, 3], 2, 2),
            (&smt, &[0, 2], 1, 2),
            (&smt, &[9], 0, 0),
            (&plain, &[], 2, 2),
            (&mixed, &[], 6, 8),
            (&mixed, &[4, 5, 6, 7], 4, 4),
            (&mixed, &[1, 4], 2, 2),
            (&offline, &[], 2, 3),
            (&first_offline, &[], 2, 3),
            (&no_topology, &[], 4, 4),
            (&no_topology, &[1], 1, 1),
        ];
        for (tree, cpuset, cores, threads) in cases {
            let found = read_topology(tree.root()).unwrap();
            assert_eq!(found.count_cores(cpuset), cores, "{found:?} {cpuset:?}");
            assert_eq!(found.count_threads(cpuset), threads, "{found:?} {cpuset:?}");
        }
        assert_eq!(
            read_topology(smt.root()).unwrap().cores,
            [vec![0, 2], vec![1, 3]]
        );
    }

    #[test]
    fn stat_where_there_is_nothing() {
        let stat = "cpu  1 2 3 4\ncpu0 1 2 3 4\ncpu3 1 2 3 4\nintr 5\n";
        let bare = Tree::new(&[("proc/stat", stat)]);
        for content in GARBAGE {
            bare.put("sys/devices/system/cpu/online", content);
            let found = read_topology(bare.root()).unwrap();
            assert_eq!(found.cores, [vec![0], vec![3]]);
        }
        bare.remove("proc/stat");
        assert_eq!(read_topology(bare.root()), None);
        assert!(read_topology(Path::new("/")).unwrap().count_cores(&[]) > 0);
    }

    #[test]
    fn cpu_lists() {
        for (text, expected) in [
            ("", Some(vec![])),
            ("0\n", Some(vec![0])),
            ("4-6,1, 5", Some(vec![1, 4, 5, 6])),
            ("3-1", None),
            ("0-4294967295", None),
            ("a", None),
            ("1,,2", None),
            ("-1", None),
        ] {
            assert_eq!(parse_cpu_list(text), expected, "{text}");
        }
    }
}
