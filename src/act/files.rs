//! Files handed to a pilot: a copy on the run directory's tmpfs, owned by the pilot's user, bound read-only into it, gone
//! with it. What is secret stays in memory, and out of images, layers, environments and logs.

use super::*;
use crate::host::files;
use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};

/// Configuration and credentials, no data.
const LARGEST: usize = 16 << 20;
/// TMPFS_MAGIC and RAMFS_MAGIC of include/uapi/linux/magic.h.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

fn directory(run: &Path) -> PathBuf {
    run.join("files")
}

/// Where the copy for a pilot is; the engine binds it from there.
pub fn copy_path(run: &Path, pilot: &str, index: usize) -> PathBuf {
    directory(run).join(pilot).join(index.to_string())
}

/// The pilot's user and group as this machine knows them. `shift`: where the engine's user namespace begins, as it says;
/// `None`: ids are those of this machine.
fn owners(class: &PilotClass, shift: Option<(u32, u32)>) -> (Option<u32>, Option<u32>) {
    let mode = class.host_config.get("UsernsMode");
    let shift = shift.filter(|_| !mode.is_some_and(|mode| mode == "host"));
    let (users, groups) = shift.unwrap_or_default();
    let mut ids = class.user.split(':').map(|id| id.parse::<u32>().ok());
    let user = ids.next().flatten();
    let group = ids.next().flatten().or(user);
    let shifted = |id: Option<u32>, by| id?.checked_add(by);
    (shifted(user, users), shifted(group, groups))
}

/// Makes the copies of one pilot. After a failure some may be left.
pub(super) fn hand_out(launch: &Launch<'_>) -> Result<(), LaunchResult> {
    let (run, pilot, class) = (&launch.site.dirs.run, &launch.name, launch.class);
    if class.files.is_empty() {
        return Ok(());
    }
    let refused = |error| LaunchResult::Failed(format!("{error}; see to `files` of this class"));
    let found = rustix::fs::statfs(run).map_err(|error| refused(files::failed(run, error)))?;
    if !u64::try_from(found.f_type).is_ok_and(|kind| IN_MEMORY.contains(&kind)) {
        let why = "files are handed over in memory only, and this is a disk; give a --run-dir on a tmpfs such as below /run";
        return Err(LaunchResult::Failed(format!("{}: {why}", run.display())));
    }
    // The directory is for us alone: the pilot reaches its copies through the mounts.
    for dir in [directory(run), directory(run).join(pilot)] {
        state::make_directory(&dir, 0o700).map_err(refused)?;
    }
    let is_root = rustix::process::geteuid().is_root();
    for (index, file) in class.files.iter().enumerate() {
        let content = files::read(Path::new(&file.source), LARGEST);
        let content = content.map_err(|error| match error.kind() {
            ErrorKind::NotFound => LaunchResult::MountMissing(file.source.clone()),
            _ => refused(error),
        })?;
        // Where the pilot has an id that only the engine may use (a rootless one), everybody may read the copy.
        let read = file.mode.0 >> 6 & 0o7;
        let (mode, (user, group)) = match is_root {
            true => (file.mode.0, owners(class, launch.facts.id_shift())),
            false => (file.mode.0 | read << 3 | read, (None, None)),
        };
        let (copy, mut options) = (copy_path(run, pilot, index), OpenOptions::new());
        options.write(true).create_new(true).mode(0o600);
        let written = options.open(&copy).and_then(|mut file| {
            file.write_all(&content)?;
            // Given away last: whoever is not its owner may not change its mode.
            file.set_permissions(Permissions::from_mode(mode))?;
            fchown(&file, user, group)
        });
        written.map_err(|error| refused(files::failed(&copy, error)))?;
    }
    Ok(())
}

/// The pilot is gone.
pub fn take_back(run: &Path, pilot: &str) {
    let place = directory(run).join(pilot);
    let failed = fs::remove_dir_all(&place).err();
    if let Some(error) = failed.filter(|error| error.kind() != ErrorKind::NotFound) {
        log::warn!("{}: {error}; remove it by hand", place.display());
    }
}

/// What was left behind by a crash: copies for pilots that are not there.
pub fn sweep(run: &Path, pilots: &[&str]) {
    let mut left = files::read_names(&directory(run));
    left.retain(|name| !pilots.contains(&name.as_str()));
    left.iter().for_each(|name| take_back(run, name));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Engines with `userns-remap` by the name or the number of a user: where their ids begin is in the path of their data
    /// either way (shared/cases/files-userns-remap, and a 20.10 with `--userns-remap=daemon:daemon`).
    #[test]
    fn owners_of_copies() {
        let (none, host) = (json!({}), json!({"UsernsMode": "host"}));
        let shift = Some((231_072, 331_072));
        for (user, host_config, shift, expected) in [
            ("65534:65534", &none, None, (Some(65_534), Some(65_534))),
            ("1000", &none, None, (Some(1_000), Some(1_000))),
            ("1000:7", &none, shift, (Some(232_072), Some(331_079))),
            ("1000:7", &host, shift, (Some(1_000), Some(7))),
            ("1234:1235", &none, shift, (Some(232_306), Some(332_307))),
            ("4294967295", &none, shift, (None, None)),
            ("0", &none, shift, (Some(231_072), Some(331_072))),
            ("nobody", &none, None, (None, None)),
        ] {
            let class = PilotClass {
                user: user.to_owned(),
                host_config: host_config.as_object().cloned().unwrap(),
                ..PilotClass::default()
            };
            assert_eq!(owners(&class, shift), expected, "{user}");
        }
    }
}
