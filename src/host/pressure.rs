//! Pressure stall information (Linux 4.20+, Documentation/accounting/psi.rst): the share of time in which tasks waited.
//! The machine's own files count throttled containers too, so the owner's slices are read where there are any.

use super::files;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Percent of the last 10 s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stall {
    /// At least one task waited.
    pub some_percent: f64,
    /// All tasks waited at once; 0 where the kernel does not say (the CPU before 5.13).
    pub full_percent: f64,
}

/// `None` where the kernel has none, or it is switched off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    pub cpu: Option<Stall>,
    pub memory: Option<Stall>,
    pub io: Option<Stall>,
}

/// Of the whole machine, pilots included.
pub fn read_machine(root: &Path) -> Pressure {
    let dir = root.join("proc/pressure");
    read_each(|name| read_stall(dir.join(name)))
}

/// Of user.slice and system.slice, whichever waits more: without pilots, which have a group of their own. On
/// cgroup v2 with systemd only.
pub fn read_owner(root: &Path) -> Pressure {
    let slices = ["user.slice", "system.slice"].map(|s| root.join("sys/fs/cgroup").join(s));
    read_each(|name| {
        let files = slices.iter().map(|s| s.join(format!("{name}.pressure")));
        files.filter_map(read_stall).reduce(|a, b| Stall {
            some_percent: a.some_percent.max(b.some_percent),
            full_percent: a.full_percent.max(b.full_percent),
        })
    })
}

fn read_each(read: impl Fn(&str) -> Option<Stall>) -> Pressure {
    Pressure { cpu: read("cpu"), memory: read("memory"), io: read("io") }
}

fn read_stall(path: PathBuf) -> Option<Stall> {
    parse_stall(&files::read_text(&path).ok()?)
}

/// Not through `procfs`, which panics on a line that is only "some".
fn parse_stall(text: &str) -> Option<Stall> {
    let percent = |kind| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let mut words = line.split_whitespace();
        let value: f64 = words.find_map(|w| w.strip_prefix("avg10="))?.parse().ok()?;
        (0.0..=100.0).contains(&value).then_some(value)
    };
    Some(Stall { some_percent: percent("some ")?, full_percent: percent("full ").unwrap_or(0.0) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tree::{GARBAGE, Tree};

    fn stall(some_percent: f64, full_percent: f64) -> Option<Stall> {
        Some(Stall { some_percent, full_percent })
    }

    #[test]
    fn lines() {
        let both = "some avg10=2.50 avg60=0.1 avg300=0.0 total=9\nfull avg10=1.25 avg60=0.0 avg300=0.0 total=3\n";
        for (text, expected) in [
            (both, stall(2.5, 1.25)),
            ("some avg10=2.50 avg60=0.12\n", stall(2.5, 0.0)),
            ("full avg10=2.50\n", None),
            ("some avg10=-1\n", None),
            ("some avg10=nan\n", None),
            ("some avg60=1\n", None),
        ] {
            assert_eq!(parse_stall(text), expected, "{text}");
        }
        for content in GARBAGE {
            assert_eq!(parse_stall(&String::from_utf8_lossy(content)), None);
        }
    }

    #[test]
    fn the_owner_is_the_worse_of_their_slices() {
        let tree = Tree::new(&[
            ("proc/pressure/memory", "some avg10=9\nfull avg10=8\n"),
            ("sys/fs/cgroup/user.slice/memory.pressure", "some avg10=1\nfull avg10=1\n"),
            ("sys/fs/cgroup/system.slice/memory.pressure", "some avg10=3\nfull avg10=0\n"),
        ]);
        tree.fifo("proc/pressure/io");
        let machine = Pressure { memory: stall(9.0, 8.0), ..Pressure::default() };
        let owner = Pressure { memory: stall(3.0, 1.0), ..Pressure::default() };
        assert_eq!(read_machine(tree.root()), machine);
        assert_eq!(read_owner(tree.root()), owner);
        assert_eq!(read_owner(&tree.path("proc")), Pressure::default());
    }
}
