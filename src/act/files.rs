//! Files handed to a pilot: a copy on the run directory's tmpfs, owned by the pilot's user, bound read-only into it, gone
//! with it. What is secret stays in memory, and out of images, layers, environments and logs.

use crate::config::{Handed, PilotClass};
use crate::host::files;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Configuration and credentials, no data.
const LARGEST: usize = 16 << 20;
/// TMPFS_MAGIC and RAMFS_MAGIC of include/uapi/linux/magic.h.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// Why a pilot can't be given its files.
pub enum Fault {
    /// This file is not there (yet).
    Missing(String),
    Refused(String),
}

fn directory(run: &Path) -> PathBuf {
    run.join("files")
}

/// Where the copy for a pilot is; the engine binds it from there.
pub fn copy_path(run: &Path, pilot: &str, index: usize) -> PathBuf {
    directory(run).join(pilot).join(index.to_string())
}

/// Makes the copies of one pilot; on failure none is left.
pub fn hand_out(run: &Path, pilot: &str, class: &PilotClass) -> Result<(), Fault> {
    if class.files.is_empty() {
        return Ok(());
    }
    let copied = copy_all(run, pilot, class);
    if copied.is_err() {
        take_back(run, pilot);
    }
    copied
}

fn copy_all(run: &Path, pilot: &str, class: &PilotClass) -> Result<(), Fault> {
    let found = rustix::fs::statfs(run).map_err(|error| refused(run, &error.into()))?;
    if !u64::try_from(found.f_type).is_ok_and(|kind| IN_MEMORY.contains(&kind)) {
        let text = "files are handed over in memory only, and this is a disk; give a --run-dir on a tmpfs such as below /run";
        return Err(Fault::Refused(format!("{}: {text}", run.display())));
    }
    // The directory is for us alone: the pilot reaches its copies through the mounts.
    for dir in [directory(run), directory(run).join(pilot)] {
        match rustix::fs::mkdir(&dir, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(refused(&dir, &error.into())),
        }
    }
    let mut ids = class.user.split(':').map(|id| id.parse::<u32>().ok());
    let user = ids.next().flatten();
    let group = ids.next().flatten().or(user);
    for (index, file) in class.files.iter().enumerate() {
        copy_one(file, &copy_path(run, pilot, index), user, group)?;
    }
    Ok(())
}

fn copy_one(
    file: &Handed,
    copy: &Path,
    user: Option<u32>,
    group: Option<u32>,
) -> Result<(), Fault> {
    let source = Path::new(&file.source);
    let content = files::read(source, LARGEST).map_err(|error| match error.is_missing() {
        true => Fault::Missing(file.source.clone()),
        false => Fault::Refused(format!("{error}; see to `files` of this class")),
    })?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let write = || -> io::Result<()> {
        let to = rustix::fs::open(copy, flags, Mode::RUSR | Mode::WUSR)?;
        io::Write::write_all(&mut File::from(to.try_clone()?), &content)?;
        // Given away last: whoever is not its owner may not change its mode.
        rustix::fs::fchmod(&to, Mode::from_raw_mode(file.mode))?;
        rustix::fs::fchown(&to, user.map(Uid::from_raw), group.map(Gid::from_raw))?;
        Ok(())
    };
    write().map_err(|error| refused(copy, &error))
}

fn refused(path: &Path, error: &io::Error) -> Fault {
    Fault::Refused(format!(
        "{}: {error}; see to `files` of this class",
        path.display()
    ))
}

/// The pilot is gone.
pub fn take_back(run: &Path, pilot: &str) {
    let place = directory(run).join(pilot);
    if pilot.is_empty() || !place.exists() {
        return;
    }
    if let Err(error) = fs::remove_dir_all(&place) {
        log::warn!("{}: {error}; remove it by hand", place.display());
    }
}

/// What was left behind by a crash: copies for pilots that are not there.
pub fn sweep(run: &Path, pilots: &BTreeSet<&str>) {
    for name in files::read_names(&directory(run)) {
        if !pilots.contains(name.as_str()) {
            take_back(run, &name);
        }
    }
}
