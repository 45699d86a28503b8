//! Capacity on the file system that holds a path.

use super::files::{self, ReadError};
use crate::units::Bytes;
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    pub total: Bytes,
    /// What a normal user can still write: blocks kept for root are not in it.
    pub free: Bytes,
}

pub fn read_disk(path: &Path) -> Result<Disk, ReadError> {
    let stat = rustix::fs::statvfs(path).map_err(|errno| ReadError::system(path, errno))?;
    let bytes = |blocks: u64| Bytes(blocks.saturating_mul(stat.f_frsize));
    Ok(Disk {
        total: bytes(stat.f_blocks),
        free: bytes(stat.f_bavail),
    })
}

/// Whether the file system that holds `path` can bound what is written below a directory: xfs with project quotas on.
pub fn has_project_quota(root: &Path, path: &Path) -> bool {
    let text =
        files::read_text_up_to(&root.join("proc/self/mountinfo"), 1 << 20).unwrap_or_default();
    // Fields as in proc_pid_mountinfo(5): the mount point is the fifth, and behind a dash come type, source, options.
    let mounts = text.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        path.starts_with(point)
            .then_some((point.len(), file_system))
    });
    mounts
        .max_by_key(|(length, _)| *length)
        .is_some_and(|(_, file_system)| {
            let mut fields = file_system.split(' ');
            let is_xfs = fields.next() == Some("xfs");
            is_xfs
                && fields.nth(1).is_some_and(|options| {
                    options.split(',').any(|o| o == "prjquota" || o == "pquota")
                })
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tree::Tree;

    #[test]
    fn project_quotas() {
        let tree = Tree::new(&[]);
        let line = |point: &str, rest: &str| {
            format!("36 35 98:0 / {point} rw,noatime shared:1 - {rest}\n")
        };
        for (lines, expected) in [
            (line("/", "xfs /dev/a rw,prjquota"), true),
            (
                line("/", "xfs /dev/a rw,pquota,x") + &line("/other", "ext4 /dev/b rw"),
                true,
            ),
            (
                line("/", "xfs /dev/a rw,prjquota") + &line("/data", "ext4 /dev/b rw"),
                false,
            ),
            (line("/", "xfs /dev/a rw,noquota"), false),
            (line("/", "ext4 /dev/a rw,prjquota"), false),
            ("garbage - \n".to_owned(), false),
        ] {
            tree.put("proc/self/mountinfo", &lines);
            assert_eq!(
                has_project_quota(tree.root(), Path::new("/data/engine")),
                expected,
                "{lines}"
            );
        }
    }

    #[test]
    fn room_of_a_path_or_why_not() {
        let tree = Tree::new(&[("file", "")]);
        let disk = read_disk(tree.root()).unwrap();
        assert!(disk.total.0 > 0 && disk.free <= disk.total);
        for absent in ["gone", "file/below"] {
            assert!(read_disk(&tree.path(absent)).unwrap_err().is_missing());
        }
    }
}
