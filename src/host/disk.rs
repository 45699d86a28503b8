//! Room on the file system that holds a path.

use super::files::ReadError;
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
    Ok(Disk { total: bytes(stat.f_blocks), free: bytes(stat.f_bavail) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tree::Tree;

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
