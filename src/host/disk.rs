//! What can still be written to the file system that holds a path.

use super::files::ReadError;
use crate::units::{Bytes, float, whole};
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// What a normal user can still write: the least of blocks (those kept for root are not in it) and of files, these
    /// as their share of the whole size.
    pub free: Bytes,
    /// It is the files (inodes) that run out.
    pub by_files: bool,
}

pub fn read_disk(path: &Path) -> Result<Disk, ReadError> {
    let stat = rustix::fs::statvfs(path).map_err(|errno| ReadError::system(path, errno))?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(least(
        bytes(stat.f_bavail),
        bytes(stat.f_blocks),
        stat.f_favail,
        stat.f_files,
    ))
}

/// File systems that make inodes as they need them (btrfs) count none.
fn least(free: u64, size: u64, files_free: u64, files: u64) -> Disk {
    let by_files = match files {
        0 => u64::MAX,
        files => whole(float(size) * (float(files_free) / float(files))),
    };
    Disk {
        free: Bytes(free.min(by_files)),
        by_files: by_files < free,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn blocks_or_files_whichever_are_less() {
        for (files_free, files, free, by_files) in [
            (900, 1_000, 50, false),
            (10, 1_000, 1, true),
            (0, 1_000, 0, true),
            (0, 0, 50, false),
        ] {
            let free = Bytes(free);
            assert_eq!(least(50, 100, files_free, files), Disk { free, by_files });
        }
        assert!(read_disk(Path::new("/")).is_ok());
        assert!(read_disk(Path::new("/none/such")).unwrap_err().is_missing());
    }
}
