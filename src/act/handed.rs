//! Files handed to a pilot: a copy on the run directory's tmpfs, owned by the pilot's user, bound read-only into it, gone
//! with it. What is secret stays in memory, and out of images, layers, environments and logs.

use crate::config::{Handed, PilotClass};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Configuration and credentials, no data.
const LARGEST: u64 = 16 << 20;
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
    let copied = check_in_memory(run).and_then(|()| copy_all(run, pilot, class));
    if copied.is_err() {
        take_back(run, pilot);
    }
    copied
}

fn check_in_memory(run: &Path) -> Result<(), Fault> {
    let found = rustix::fs::statfs(run).map_err(|error| refused(run, &error.into()))?;
    if u64::try_from(found.f_type).is_ok_and(|kind| IN_MEMORY.contains(&kind)) {
        return Ok(());
    }
    let text = "files are handed over in memory only, and this is a disk; give a --run-dir on a tmpfs such as below /run";
    Err(Fault::Refused(format!("{}: {text}", run.display())))
}

fn copy_all(run: &Path, pilot: &str, class: &PilotClass) -> Result<(), Fault> {
    let place = directory(run).join(pilot);
    // The directory is for us alone: the pilot reaches its copies through the mounts.
    for dir in [directory(run), place] {
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
    let content = read_source(source).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Fault::Missing(file.source.clone()),
        _ => refused(source, &error),
    })?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let write = || -> io::Result<()> {
        let to = rustix::fs::open(copy, flags, Mode::RUSR | Mode::WUSR)?;
        rustix::fs::fchown(&to, user.map(Uid::from_raw), group.map(Gid::from_raw))?;
        rustix::fs::fchmod(&to, Mode::from_raw_mode(file.mode))?;
        io::Write::write_all(&mut File::from(to), &content)
    };
    write().map_err(|error| refused(copy, &error))
}

fn read_source(source: &Path) -> io::Result<Vec<u8>> {
    // A fifo in its place must not hold the start up.
    let file = File::from(rustix::fs::open(
        source,
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )?);
    let refuse = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    if !file.metadata()?.is_file() {
        return refuse("not a plain file");
    }
    let mut content = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST {
        refuse("larger than 16MiB; mount it instead")
    } else {
        Ok(content)
    }
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
    for name in crate::host::files::read_names(&directory(run)) {
        if !pilots.contains(name.as_str()) {
            take_back(run, &name);
        }
    }
}
