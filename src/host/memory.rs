//! /proc/meminfo to the few sizes that the share is computed from, and how much the owner waits for memory.

use super::files::{self, ReadError};
use crate::units::Bytes;
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub total: Bytes,
    /// What could be had without swapping .
    pub available: Bytes,
}

pub fn read_memory(root: &Path) -> Result<Memory, ReadError> {
    let path = root.join("proc/meminfo");
    let text = files::read_text(&path)?;
    parse_meminfo(&text).ok_or_else(|| ReadError::malformed(&path, "memory sizes"))
}

fn parse_meminfo(text: &str) -> Option<Memory> {
    let size = |key| Some(Bytes(files::find_number(text, key)?.saturating_mul(1024)));
    let total = size("MemTotal").filter(|total| total.0 > 0)?;
    let available = size("MemAvailable")?.min(total);
    Some(Memory { total, available })
}

/// Percent of the last 10 s in which at least one task waited for memory (Documentation/accounting/psi.rst). Of user.slice
/// or system.slice, whichever waited more: without pilots, which have a group of their own; of the machine, throttled
/// pilots included, where there are no such files. `None`: the kernel has none (before 4.20), or it is switched off.
pub fn read_pressure_percent(root: &Path) -> Option<f64> {
    let read = |path: &str| parse_pressure(&files::read_text(&root.join(path)).ok()?);
    let owner = [
        "sys/fs/cgroup/user.slice/memory.pressure",
        "sys/fs/cgroup/system.slice/memory.pressure",
    ];
    let worst = owner.into_iter().filter_map(read).reduce(f64::max);
    worst.or_else(|| read("proc/pressure/memory"))
}

fn parse_pressure(text: &str) -> Option<f64> {
    let mut words = text
        .lines()
        .find_map(|line| line.strip_prefix("some "))?
        .split_whitespace();
    let percent = words.find_map(|word| word.strip_prefix("avg10="))?.parse();
    percent
        .ok()
        .filter(|percent| (0.0..=100.0).contains(percent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::{GARBAGE, Tree};

    #[test]
    fn sizes_and_pressure() {
        let tree = Tree::new(&[]);
        assert!(read_memory(tree.root()).unwrap_err().is_missing());
        for content in GARBAGE {
            tree.put("proc/meminfo", content);
            tree.put("proc/pressure/memory", content);
            assert!(read_memory(tree.root()).is_err());
            assert_eq!(read_pressure_percent(tree.root()), None);
        }
        for (text, expected) in [
            (
                "MemTotal: 9 kB\nMemFree: 1 kB\nMemAvailable: 6 kB\n",
                Some([9, 6]),
            ),
            ("MemTotal: 0 kB\nMemAvailable: 0 kB\n", None),
            ("MemTotal: 10 kB\nMemAvailable: 600 kB\n", Some([10, 10])),
        ] {
            let found = parse_meminfo(text).map(|m| [m.total.0 / 1024, m.available.0 / 1024]);
            assert_eq!(found, expected, "{text}");
        }
        let [user, system] =
            ["user", "system"].map(|s| format!("sys/fs/cgroup/{s}.slice/memory.pressure"));
        for (file, text, expected) in [
            (
                "proc/pressure/memory",
                "some avg10=9.50 avg60=0\nfull avg10=8",
                9.5,
            ),
            (&user, "some avg10=1", 1.0),
            (&system, "some avg10=3 total=1", 3.0),
            (&system, "some avg10=nan", 1.0),
            (&system, "full avg10=7", 1.0),
        ] {
            tree.put(file, text);
            assert_eq!(read_pressure_percent(tree.root()), Some(expected), "{text}");
        }
    }
}
