//! /proc/meminfo to the few sizes that the share is computed from.

use super::files::{self, ReadError};
use crate::units::Bytes;
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub total: Bytes,
    /// What could be had without swapping (kernels before 3.14: free, buffers and cache).
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
    let old_available = || {
        let parts = ["MemFree", "Buffers", "Cached"].map(size);
        let sum = |sum: u64, part: Option<Bytes>| Some(sum.saturating_add(part?.0));
        parts.into_iter().try_fold(0, sum).map(Bytes)
    };
    Some(Memory {
        total,
        available: size("MemAvailable").or_else(old_available)?.min(total),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tree::{GARBAGE, Tree};

    #[test]
    fn sizes_with_and_without_the_newer_lines() {
        let new = "MemTotal:  1000 kB\nMemFree: 100 kB\nMemAvailable:  600 kB\n";
        let old = "MemTotal:  1000 kB\nMemFree: 100 kB\nBuffers: 20 kB\nCached:  300 kB\nSwapCached: 9 kB\n";
        for (text, expected) in [
            (new, Some([1000, 600])),
            (old, Some([1000, 420])),
            ("MemTotal: 1000 kB\nMemFree: 100 kB\n", None),
            ("MemTotal: 0 kB\nMemAvailable: 0 kB\n", None),
            ("MemAvailable: 600 kB\n", None),
            ("MemTotal: 10 kB\nMemAvailable: 600 kB\n", Some([10, 10])),
        ] {
            let found = parse_meminfo(text).map(|m| [m.total, m.available]);
            let expected = expected.map(|sizes| sizes.map(|kib: u64| Bytes(kib * 1024)));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn missing_and_garbage_files() {
        let tree = Tree::new(&[]);
        assert!(read_memory(tree.root()).unwrap_err().is_missing());
        for content in GARBAGE {
            tree.put("proc/meminfo", content);
            assert!(read_memory(tree.root()).is_err());
        }
        assert!(read_memory(Path::new("/")).unwrap().total.0 > 0);
    }
}
