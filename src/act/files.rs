//! Files handed to a pilot: a copy on the run directory's tmpfs, owned by the pilot's user, bound read-only into it, gone
//! with it. What is secret stays in memory, and out of images, layers, environments and logs.

use crate::config::PilotClass;
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

/// Whom the copies are given to: the pilot's user as this machine knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Recipient {
    user: Option<u32>,
    group: Option<u32>,
    /// It has an id that only the engine may use (a rootless one): everybody may read the copy, behind a directory that is
    /// closed to all but us.
    is_hidden: bool,
}

impl Recipient {
    /// `shift`: where the engine's user namespace begins, as it says; `None`: ids are those of this machine.
    pub fn of(class: &PilotClass, shift: Option<(u32, u32)>, is_root: bool) -> Recipient {
        let mut ids = class.user.split(':').map(|id| id.parse::<u32>().ok());
        let user = ids.next().flatten();
        let group = ids.next().flatten().or(user);
        let own = class
            .host_config
            .get("UsernsMode")
            .is_some_and(|mode| mode == "host");
        let (users, groups) = shift.filter(|_| !own).unwrap_or_default();
        Recipient {
            user: user
                .and_then(|id| users.checked_add(id))
                .filter(|_| is_root),
            group: group
                .and_then(|id| groups.checked_add(id))
                .filter(|_| is_root),
            is_hidden: !is_root,
        }
    }
}

/// Makes the copies of one pilot; on failure none is left.
pub fn hand_out(run: &Path, pilot: &str, class: &PilotClass, to: Recipient) -> Result<(), Fault> {
    if class.files.is_empty() {
        return Ok(());
    }
    let copied = copy_all(run, pilot, class, to);
    if copied.is_err() {
        take_back(run, pilot);
    }
    copied
}

fn copy_all(run: &Path, pilot: &str, class: &PilotClass, to: Recipient) -> Result<(), Fault> {
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
    for (index, file) in class.files.iter().enumerate() {
        let source = Path::new(&file.source);
        let content = files::read(source, LARGEST).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Fault::Missing(file.source.clone()),
            _ => Fault::Refused(format!("{error}; see to `files` of this class")),
        })?;
        let copy = copy_path(run, pilot, index);
        let written = write_copy(&copy, &content, file.mode.0, to);
        written.map_err(|error| refused(&copy, &error))?;
    }
    Ok(())
}

fn write_copy(copy: &Path, content: &[u8], mode: u32, to: Recipient) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(copy, flags, Mode::RUSR | Mode::WUSR)?);
    io::Write::write_all(&mut file, content)?;
    let owners = mode >> 6 & 0o7;
    let mode = if to.is_hidden {
        mode | owners << 3 | owners
    } else {
        mode
    };
    // Given away last: whoever is not its owner may not change its mode.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    rustix::fs::fchown(
        &file,
        to.user.map(Uid::from_raw),
        to.group.map(Gid::from_raw),
    )?;
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipients() {
        let class = |user: &str, host_config: &serde_json::Value| PilotClass {
            user: user.to_owned(),
            host_config: host_config.as_object().cloned().unwrap_or_default(),
            ..PilotClass::default()
        };
        let (none, host) = (
            serde_json::json!({}),
            serde_json::json!({"UsernsMode": "host"}),
        );
        let shift = Some((231_072, 331_072));
        for (user, host_config, shift, is_root, expected) in [
            (
                "65534:65534",
                &none,
                None,
                true,
                (Some(65_534), Some(65_534), false),
            ),
            ("1000", &none, None, true, (Some(1_000), Some(1_000), false)),
            (
                "1000:7",
                &none,
                shift,
                true,
                (Some(232_072), Some(331_079), false),
            ),
            ("1000:7", &host, shift, true, (Some(1_000), Some(7), false)),
            ("nobody", &none, None, true, (None, None, false)),
            ("1000:7", &none, None, false, (None, None, true)),
        ] {
            let found = Recipient::of(&class(user, host_config), shift, is_root);
            assert_eq!(
                (found.user, found.group, found.is_hidden),
                expected,
                "{user}"
            );
        }
    }
}
