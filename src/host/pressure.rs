//! Pressure stall information (Linux 4.20+, Documentation/accounting/psi.rst): the share of time in which tasks waited.
//! The machine's own files count throttled containers too, so the owner's slices are read where there are any.

use super::files;
use std::path::Path;

/// Percent of the last 10 s in which at least one task waited for `resource` (`cpu`, `memory`, `io`). Of user.slice or
/// system.slice, whichever waited more: without pilots, which have a group of their own; of the machine, pilots
/// included, where there are no such files (no cgroup v2, or no systemd). `None`: the kernel has none, or it is switched off.
pub fn read_percent(root: &Path, resource: &str) -> Option<f64> {
    let read = |path: String| parse_percent(&files::read_text(&root.join(path)).ok()?);
    let slices = ["user.slice", "system.slice"].iter();
    let owner =
        slices.filter_map(|slice| read(format!("sys/fs/cgroup/{slice}/{resource}.pressure")));
    owner
        .reduce(f64::max)
        .or_else(|| read(format!("proc/pressure/{resource}")))
}

/// Not through `procfs`, which panics on a line that is only "some".
fn parse_percent(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let percent: f64 = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("avg10="))?
        .parse()
        .ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tree::{GARBAGE, Tree};

    #[test]
    fn lines() {
        let both = "some avg10=2.50 avg60=0.1 avg300=0.0 total=9\nfull avg10=1.25 avg60=0.0 avg300=0.0 total=3\n";
        for (text, expected) in [
            (both, Some(2.5)),
            ("some avg10=2.50 avg60=0.12\n", Some(2.5)),
            ("full avg10=2.50\n", None),
            ("some avg10=-1\n", None),
            ("some avg10=nan\n", None),
            ("some avg60=1\n", None),
        ] {
            assert_eq!(parse_percent(text), expected, "{text}");
        }
        for content in GARBAGE {
            assert_eq!(parse_percent(&String::from_utf8_lossy(content)), None);
        }
    }

    #[test]
    fn the_owner_is_the_worse_of_their_slices() {
        let tree = Tree::new(&[
            ("proc/pressure/memory", "some avg10=9\nfull avg10=8\n"),
            (
                "sys/fs/cgroup/user.slice/memory.pressure",
                "some avg10=1\nfull avg10=1\n",
            ),
            (
                "sys/fs/cgroup/system.slice/memory.pressure",
                "some avg10=3\nfull avg10=0\n",
            ),
        ]);
        tree.fifo("proc/pressure/io");
        assert_eq!(read_percent(tree.root(), "memory"), Some(3.0));
        assert_eq!(read_percent(tree.root(), "io"), None);
        tree.put("proc/pressure/cpu", "some avg10=9\n");
        assert_eq!(read_percent(tree.root(), "cpu"), Some(9.0));
        assert_eq!(read_percent(&tree.path("proc"), "memory"), None);
    }
}
