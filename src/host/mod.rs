//! Readers of /proc, /sys and cgroup files below a root path: "/" in production, a made-up tree in tests. The small facts
//! of a machine are here, those with a rule behind them in the files beside. They only read, know no clock (time is an
//! argument), write no log, and survive any content: a missing, empty or garbage file, or a fifo in its place, is `None`
//! or an error that says which file and why.

pub mod cgroup;
pub mod cpu;
pub mod files;
pub mod programs;
pub mod sensors;

#[cfg(test)]
pub mod tests;

use crate::units::{Bytes, float, whole};
use std::{io, path::Path};

/// The machine's own name.
pub fn name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into()
}

/// Tells one boot from the next, so that a ttl in awake seconds is never read on another boot's clock. Empty when it
/// cannot be read: then only the wall clock counts.
pub fn boot_id(root: &Path) -> String {
    files::read_value(&root.join("proc/sys/kernel/random/boot_id")).unwrap_or_default()
}

/// The id of a group of this machine's own file; others (of a directory service) are not asked.
pub fn group_id(root: &Path, name: &str) -> Option<u32> {
    let text = files::read_text_up_to(&root.join("etc/group"), 1 << 20).ok()?;
    let mut lines = text.lines().map(|line| line.split(':'));
    let mut fields = lines.find(|fields| fields.clone().next() == Some(name))?;
    fields.nth(2)?.parse().ok()
}

/// Bytes that there are, and that could be had without swapping.
pub fn read_memory(root: &Path) -> Option<(u64, u64)> {
    let text = files::read_text(&root.join("proc/meminfo")).ok()?;
    let size = |key| Some(files::find_number(&text, key)?.saturating_mul(1024));
    let total = size("MemTotal").filter(|total| *total > 0)?;
    Some((total, size("MemAvailable")?.min(total)))
}

/// Percent of the last 10 s in which at least one task waited for memory (Documentation/accounting/psi.rst). Of user.slice
/// or system.slice, whichever waited more: without pilots, which have a group of their own; of the machine, throttled
/// pilots included, where there are no such files. `None`: the kernel has none (before 4.20), or it is switched off.
pub fn read_pressure_percent(root: &Path) -> Option<f64> {
    let read = |path: &str| {
        let text = files::read_text(&root.join(path)).ok()?;
        let average = text.strip_prefix("some avg10=")?.split(' ').next()?;
        let percent = average.parse().ok();
        percent.filter(|percent| (0.0..=100.0).contains(percent))
    };
    let owner =
        ["user", "system"].map(|slice| format!("sys/fs/cgroup/{slice}.slice/memory.pressure"));
    let worst = owner.iter().filter_map(|path| read(path)).reduce(f64::max);
    worst.or_else(|| read("proc/pressure/memory"))
}

/// What a normal user can still write to the file system that holds a path.
pub fn read_disk_free(path: &Path) -> io::Result<Bytes> {
    let stat = rustix::fs::statvfs(path).map_err(|errno| files::failed(path, errno))?;
    let [free, size] =
        [stat.f_bavail, stat.f_blocks].map(|blocks| blocks.saturating_mul(stat.f_frsize));
    Ok(least_free(free, size, stat.f_favail, stat.f_files))
}

/// The least of blocks (those kept for root are not in it) and of files (inodes), these as their share of the whole size.
/// File systems that make inodes as they need them (btrfs) count none.
fn least_free(free: u64, size: u64, files_free: u64, files: u64) -> Bytes {
    let share = float(files_free) / float(files);
    let by_files = (files > 0).then(|| whole(float(size) * share));
    Bytes(free.min(by_files.unwrap_or(free)))
}
