//! Readers of /proc, /sys and cgroup files below a root path: "/" in production, a made-up tree in tests.
//! They only read, know no clock (time is an argument), write no log, and survive any content: a missing, empty
//! or garbage file, or a fifo in its place, is `None` or a [`files::ReadError`] that says which file and why.

pub mod cgroup;
pub mod cpu;
pub mod disk;
pub mod files;
pub mod memory;
pub mod power;
pub mod programs;
pub mod thermal;

#[cfg(test)]
pub mod tests;

use std::path::Path;

/// The machine's own name.
pub fn name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Tells one boot from the next, so that a ttl in awake seconds is never read on another boot's clock. Empty when it
/// cannot be read: then only the wall clock counts.
pub fn boot_id(root: &Path) -> String {
    files::read_word(&root.join("proc/sys/kernel/random/boot_id")).unwrap_or_default()
}

/// The id of a group of this machine's own file; others (of a directory service) are not asked.
pub fn group_id(root: &Path, name: &str) -> Option<u32> {
    let text = files::read_text_up_to(&root.join("etc/group"), 1 << 20).ok()?;
    let fields = |line: &str| {
        let mut fields = line.split(':');
        let is_it = fields.next()? == name;
        fields.nth(1)?.parse().ok().filter(|_| is_it)
    };
    text.lines().find_map(fields)
}
