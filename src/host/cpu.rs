//! How busy the machine is (/proc/stat to counters, two samples to a rate, rates to a smoothed load), and which CPUs may
//! be used and are threads of one core. The difference of kernel counters is clamped at 0, because hotplugged CPUs may
//! count backwards. A pilot on the sibling thread slows the owner's thread whatever its priority: so cores are given.

use super::files;
use crate::units::{float, parse_cpu_list};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// One line a CPU and one number an interrupt: some 20 KiB at 96 CPUs.
const STAT_LIMIT: usize = 1 << 20;

/// CPU time of all CPUs since boot, as read at one instant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpuSample {
    /// User (guests are in it already), nice, system and interrupts. Stolen time is nobody's here: it would count the
    /// pilots' own wish to run as foreign load.
    pub busy_seconds: f64,
    pub cpus_online: usize,
    /// The caller's boot clock, sleep included.
    pub boot_seconds: f64,
}

pub fn read_sample(root: &Path, boot_seconds: f64) -> Option<CpuSample> {
    let text = files::read_text_up_to(&root.join("proc/stat"), STAT_LIMIT).ok()?;
    // Only the lines that are needed: a kernel or lxcfs may leave out the others.
    let total = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Result<Vec<u64>, _> = total.split_whitespace().map(str::parse).collect();
    let ticks = ticks.ok().filter(|ticks| ticks.len() >= 4)?;
    // User, nice, system, (idle, iowait,) irq, softirq.
    let busy = [0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at));
    let busy: f64 = busy.map(|ticks| float(*ticks)).sum();
    let cpus_online = parse_stat_cpus(&text).len();
    (cpus_online > 0).then_some(CpuSample {
        busy_seconds: busy / float(rustix::param::clock_ticks_per_second()),
        cpus_online,
        boot_seconds,
    })
}

fn parse_stat_cpus(text: &str) -> BTreeSet<u32> {
    let number = |line: &str| line.split(' ').next()?.strip_prefix("cpu")?.parse().ok();
    text.lines().filter_map(number).collect()
}

/// Mean number of busy CPUs between the samples, pilots included; never more than there were. `None` where no time has
/// passed.
pub fn busy_cores(before: &CpuSample, after: &CpuSample) -> Option<f64> {
    let elapsed = after.boot_seconds - before.boot_seconds;
    let busy = (after.busy_seconds - before.busy_seconds).max(0.0);
    let cpus = before.cpus_online.max(after.cpus_online);
    (elapsed > 0.0).then(|| (busy / elapsed).min(float(cpus as u64)))
}

/// A load with fast rise and slow fall, at any interval: both are time constants, not shares a tick. The first value is
/// taken as it is; what is not a number, or took no time, changes nothing.
pub fn smoothed(before: Option<f64>, value: f64, elapsed_seconds: f64) -> Option<f64> {
    let current = before.unwrap_or(value);
    // What rises is believed to 86 % after 10 s, what falls to 28 %: the owner gets room at once, and a short lull is not
    // taken for the end of their work.
    let constant = if value > current { 5.0 } else { 30.0 };
    let weight = 1.0 - (-elapsed_seconds.max(0.0) / constant).exp();
    let next = current + weight * (value - current);
    Some(next).filter(|next| next.is_finite()).or(before)
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// The threads of each core that are online and on which this program (and so the pilots) may run, ascending; one entry
    /// a core. Cores with one thread and with two may be mixed.
    cores: Vec<Vec<u32>>,
    /// CPUs in /proc/stat at that time: when there are others, it is time to read again. In a container of lxc there are
    /// fewer than in /sys, and the owner's load is seen on those alone.
    pub in_stat: usize,
}

/// Without a readable topology (some virtual machines, old kernels) every CPU of /proc/stat is a core of its own; `None`
/// where that cannot be read either.
pub fn read_topology(root: &Path) -> Option<Topology> {
    let dir = root.join("sys/devices/system/cpu");
    let read_list = |path: &Path| parse_cpu_list(&files::read_text(path).ok()?);
    let stat = files::read_text_up_to(&root.join("proc/stat"), STAT_LIMIT).ok()?;
    let in_stat = parse_stat_cpus(&stat);
    let online = read_list(&dir.join("online")).filter(|cpus| !cpus.is_empty());
    let status = files::read_text(&root.join("proc/self/status")).unwrap_or_default();
    let mut status = status.lines();
    let allowed = status.find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let allowed = allowed.and_then(parse_cpu_list);
    let online = online.as_ref().unwrap_or(&in_stat);
    let mut cores: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for cpu in online & allowed.as_ref().unwrap_or(online) {
        let siblings = read_list(&dir.join(format!("cpu{cpu}/topology/thread_siblings_list")));
        // The first thread, which may be offline, stands for the core.
        let siblings = siblings.filter(|list| list.contains(&cpu));
        let core = siblings.and_then(|list| list.first().copied());
        cores.entry(core.unwrap_or(cpu)).or_default().push(cpu);
    }
    Some(Topology {
        cores: cores.into_values().collect(),
        in_stat: in_stat.len(),
    })
}

impl Topology {
    /// Cores of which the cpuset holds at least one thread, and all threads that it holds; an empty one holds all.
    pub fn count(&self, cpuset: &BTreeSet<u32>) -> (usize, usize) {
        let is_inside = |cpu: &&u32| cpuset.is_empty() || cpuset.contains(cpu);
        let cores = self.cores.iter();
        let threads = cores.map(|core| core.iter().filter(is_inside).count());
        let threads: Vec<usize> = threads.filter(|count| *count > 0).collect();
        let count = |number: usize| number.min(self.in_stat);
        (count(threads.len()), count(threads.iter().sum()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::{GARBAGE, Tree};

    const STAT: &str = "cpu  100 20 30 1000 50 3 2 500 80 10\ncpu0 50 10 15 500 25 1 1 250 40 5\n\
        cpu2 50 10 15 500 25 2 1 250 40 5\nintr 5 1 0\nctxt 9\nbtime 1700000000\n";

    #[test]
    fn what_is_needed_of_stat() {
        let tree = Tree::new(&[]);
        let read = |text: &[u8]| {
            tree.put("proc/stat", text);
            read_sample(tree.root(), 5.0)
        };
        let ticks = |text: &str| {
            let seconds = read(text.as_bytes()).unwrap().busy_seconds;
            crate::units::whole((seconds * float(rustix::param::clock_ticks_per_second())).round())
        };
        // Whole; without btime and ctxt (lxcfs); of a kernel that counted four kinds of time.
        assert_eq!((ticks(STAT), ticks(&STAT[..120])), (155, 155));
        assert_eq!(ticks("cpu 100 20 30 9\ncpu0 1 2 3 4\n"), 150);
        assert!(GARBAGE.iter().all(|content| read(content).is_none()));
        let prefixes = (0..STAT.len()).filter_map(|end| read(&STAT.as_bytes()[..end]));
        assert!(prefixes.count() > 0);
    }

    #[test]
    fn busy_cores_are_clamped() {
        let at = |busy_seconds, cpus_online, boot_seconds| CpuSample {
            busy_seconds,
            cpus_online,
            boot_seconds,
        };
        for (after, expected) in [
            (at(20.0, 2, 60.0), Some(1.0)),
            (at(20.0, 1, 60.0), Some(1.0)), // a CPU was unplugged
            (at(90.0, 8, 60.0), Some(8.0)), // CPUs were plugged in
            (at(90.0, 2, 60.0), Some(2.0)), // more than there were CPUs
            (at(5.0, 2, 60.0), Some(0.0)),  // backwards
            (at(20.0, 2, 50.0), None),
            (at(20.0, 2, f64::NAN), None),
        ] {
            let busy = busy_cores(&at(10.0, 2, 50.0), &after);
            assert_eq!(busy, expected, "{after:?}");
        }
    }

    #[test]
    fn load_rises_fast_and_falls_slowly_at_any_interval() {
        let after = |updates: &[(f64, f64)]| {
            let next = |load, (value, elapsed): &(f64, f64)| smoothed(load, *value, *elapsed);
            updates.iter().fold(None, next)
        };
        for (interval, times) in [(10.0, 1), (5.0, 2), (1.0, 10)] {
            for (from, to, expected) in [(0.0, 1.0, 0.8647), (1.0, 0.0, 0.7165)] {
                let updates = [vec![(from, interval)], vec![(to, interval); times]].concat();
                assert!((after(&updates).unwrap() - expected).abs() < 1e-3);
            }
        }
        assert_eq!(after(&[(f64::NAN, 10.0)]), None);
        for odd in [
            (f64::INFINITY, 10.0),
            (9.0, 0.0),
            (9.0, -5.0),
            (9.0, f64::NAN),
        ] {
            assert_eq!(after(&[(2.0, 10.0), odd]), Some(2.0));
        }
    }

    /// Online CPUs, siblings by CPU, those on which we may run, a cpuset; cores and threads in it. The last five: a first
    /// thread offline, no topology, `taskset` or CPUAffinity=, lxc with two CPUs of 56, and no such CPU.
    #[test]
    fn cores_and_threads() {
        for (online, siblings, allowed, cpuset, counts) in [
            ("0-3", "0,2 1,3 0,2 1,3", "0-3", "", (2, 4)),
            ("0-3", "0,2 1,3 0,2 1,3", "0-3", "2-3", (2, 2)),
            ("0-1", "0 1", "0-1", "", (2, 2)),
            ("0-7", "0-1 0-1 2-3 2-3 4 5 6 7", "0-7", "", (6, 8)),
            ("0-7", "0-1 0-1 2-3 2-3 4 5 6 7", "0-7", "1,4", (2, 2)),
            ("0,2-3", "0,2 1,3 0,2 1,3", "0-63", "", (2, 3)),
            ("1-3", "0-1 0-1 2-3 2-3", "1-3", "", (2, 3)),
            ("0-3", "", "x", "", (4, 4)),
            ("0-7", "0-1 0-1 2-3 2-3 4 5 6 7", "1-2,6", "", (3, 3)),
            ("0-55", "", "0-55", "", (8, 8)),
            ("0-3", "", "0-3", "9", (0, 0)),
        ] {
            let stat = (0..8).map(|cpu| format!("cpu{cpu} 1 2 3 4\n"));
            let tree = Tree::new(&[("proc/stat", &stat.collect::<String>())]);
            tree.put("sys/devices/system/cpu/online", online);
            tree.put(
                "proc/self/status",
                format!("Cpus_allowed_list:\t{allowed}\n"),
            );
            for (cpu, list) in siblings.split_whitespace().enumerate() {
                let dir = format!("sys/devices/system/cpu/cpu{cpu}/topology");
                tree.put(&format!("{dir}/thread_siblings_list"), list);
            }
            let (found, cpuset) = (
                read_topology(tree.root()).unwrap(),
                parse_cpu_list(cpuset).unwrap(),
            );
            assert_eq!(found.count(&cpuset), counts, "{found:?} {cpuset:?}");
        }
        let bare = Tree::new(&[("proc/stat", STAT)]);
        for content in GARBAGE {
            bare.put("sys/devices/system/cpu/online", content);
            assert_eq!(read_topology(bare.root()).unwrap().cores, [[0], [2]]);
        }
        bare.remove("proc/stat");
        assert_eq!(read_topology(bare.root()), None);
    }
}
