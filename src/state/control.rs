//! What the owner asks for while the daemon runs, as small files in `STATE/control`, which the daemon watches. What that
//! disk refuses goes to `RUN/control`, which counts first and is forgotten at the next boot. `drain` and `snooze` stay until
//! `resume`; `force-stop` and `pull` are consumed when carried out. In doubt the owner wins: a drain file that cannot be
//! understood is still a drain.

use super::{
    Dirs, Durable, StateError, failed, make_directory, remove_if_there, replace, set_mode,
};
use crate::clock;
use crate::decide::{Control, Drain, Snooze};
use crate::host::{boot_id, files};
use crate::units::{Moment, float};
use rustix::fs::{self as sys, FileType};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The requests, by the names of their files.
pub const DRAIN: &str = "drain";
pub const SNOOZE: &str = "snooze";
pub const FORCE_STOP: &str = "force-stop";
/// Look for newer images now.
pub const PULL: &str = "pull";

const LIMIT: usize = 4096;
/// How long a snooze lasts whose end cannot be read, in seconds after the file was written.
const UNREADABLE_SNOOZE: f64 = 3600.0;
/// In `RUN/control`, over a file that cannot be removed from its disk: nothing is asked for.
const NOTHING: &str = "false";

/// What is asked for at this moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Requests {
    pub asked: Control,
    /// One line each, with what was made of it.
    pub problems: Vec<String>,
}

/// How long a request is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    Always,
    UntilReboot,
}

/// A request as it is written: with the clocks of that moment, so that a clock that is set makes nothing longer or shorter.
#[derive(Serialize, Deserialize)]
struct Written<T> {
    #[serde(flatten)]
    asked: T,
    #[serde(default)]
    boot_id: String,
    #[serde(default)]
    at: Moment,
}

/// The directories to watch: a request is a file moved into one, its end a file removed. The first counts first.
pub fn directories(dirs: &Dirs) -> [PathBuf; 2] {
    [&dirs.run, &dirs.state].map(|directory| directory.join("control"))
}

fn paths(dirs: &Dirs, name: &str) -> [PathBuf; 2] {
    directories(dirs).map(|directory| directory.join(name))
}

/// 2770 for the group, so that each member can replace and remove the files of another; else ours alone.
pub(super) fn prepare(dirs: &Dirs, group: Option<u32>) -> Result<(), StateError> {
    for path in directories(dirs) {
        make_directory(&path, 0o700)?;
        let found = sys::stat(&path).map_err(failed(&path, "look at the directory"))?;
        match group {
            None => set_mode(&path, 0o700)?,
            // Made beforehand by a service manager that lets nobody else set the setgid bit.
            Some(group) if found.st_gid == group && found.st_mode & 0o7777 == 0o2770 => {}
            Some(group) => {
                std::os::unix::fs::chown(&path, None, Some(group))
                    .map_err(failed(&path, "give it to the group plancton"))?;
                set_mode(&path, 0o2770)?;
            }
        }
    }
    Ok(())
}

/// `asked`: a [`Drain`] or a [`Snooze`]; of other requests only the name counts.
pub fn request(dirs: &Dirs, name: &str, asked: &impl Serialize) -> Result<Kept, StateError> {
    let [brief, kept] = paths(dirs, name);
    let written = Written {
        asked,
        boot_id: boot_id(Path::new("/")),
        at: clock::now(),
    };
    let content = serde_json::to_vec(&written).map_err(failed(&kept, "encode the request"))?;
    let Err(error) = replace(&kept, &content, 0o660, Durable::Yes) else {
        remove_if_there(&brief).map_err(failed(&brief, "write"))?;
        return Ok(Kept::Always);
    };
    let is_ours = !matches!(
        error.kind(),
        ErrorKind::PermissionDenied | ErrorKind::NotFound
    );
    if is_ours && replace(&brief, &content, 0o660, Durable::No).is_ok() {
        return Ok(Kept::UntilReboot);
    }
    Err(failed(&kept, "write")(error))
}

/// Ends a request; does nothing if there is none.
pub fn clear(dirs: &Dirs, name: &str) -> Result<(), StateError> {
    let [brief, kept] = paths(dirs, name);
    match remove_if_there(&kept) {
        Ok(()) => remove_if_there(&brief).map_err(failed(&brief, "write")),
        Err(error) if error.kind() != ErrorKind::PermissionDenied => {
            replace(&brief, NOTHING.as_bytes(), 0o660, Durable::No).map_err(failed(&brief, "write"))
        }
        Err(error) => Err(failed(&kept, "write")(error)),
    }
}

/// Reads the directories; never fails, because what cannot be read has a meaning too. All ends are seconds since 1970 as
/// the wall clock says now.
pub fn read(dirs: &Dirs, now: Moment, boot_id: &str) -> Requests {
    let mut problems = Vec::new();
    let [drain, snooze, force_stop, pull] = [DRAIN, SNOOZE, FORCE_STOP, PULL]
        .map(|name| {
            paths(dirs, name)
                .iter()
                .find_map(|path| look(path, now, &mut problems))
        })
        .map(|found| found.filter(|file| file.text != NOTHING));
    let drain = drain.map(|file| {
        let then = "draining until `plancton resume`";
        let (drain, shift): (Drain, f64) = file
            .parse(now, boot_id, then, &mut problems)
            .unwrap_or_default();
        let since = if drain.since > 0.0 {
            drain.since + shift
        } else {
            file.modified
        };
        Drain {
            since,
            by: drain.by.map(|by| by + shift),
            ..drain
        }
    });
    let snooze = snooze.map(|file| {
        let then = "snoozing for an hour at most";
        let parsed: Option<(Snooze, f64)> = file.parse(now, boot_id, then, &mut problems);
        let an_hour = file.modified.min(now.epoch) + UNREADABLE_SNOOZE;
        Snooze {
            until: parsed.map_or(an_hour, |(snooze, shift)| snooze.until + shift),
        }
    });
    let asked = Control {
        drain,
        snooze: snooze.filter(|snooze| snooze.until > now.epoch),
        force_stop: force_stop.is_some(),
        pull: pull.is_some(),
    };
    Requests { asked, problems }
}

struct RequestFile {
    path: PathBuf,
    text: String,
    /// Seconds since 1970.
    modified: f64,
}

/// What is no plain file is no request, and in the way of one.
fn look(path: &Path, now: Moment, problems: &mut Vec<String>) -> Option<RequestFile> {
    let mut complain = |what: &str| problems.push(format!("{}: {what}", path.display()));
    let file = |text, modified| {
        Some(RequestFile {
            path: path.to_owned(),
            text,
            modified,
        })
    };
    match sys::lstat(path) {
        Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile => {
            let modified = float(u64::try_from(found.st_mtime).unwrap_or(0));
            file(
                files::read_text_up_to(path, LIMIT).unwrap_or_default(),
                modified,
            )
        }
        Ok(_) => {
            let removed = std::fs::remove_file(path).or_else(|_| std::fs::remove_dir(path));
            let then = if removed.is_ok() {
                "removed"
            } else {
                "ignored, remove it"
            };
            complain(&format!("it is not a plain file; {then}"));
            None
        }
        Err(Errno::NOENT | Errno::NOTDIR) => None,
        // Of all that may be asked for, a drain takes least away.
        Err(errno) => {
            complain(&format!("{errno}; launching nothing until it can be read"));
            file("{}".to_owned(), now.epoch).filter(|_| path.ends_with(DRAIN))
        }
    }
}

impl RequestFile {
    /// What it says, and by how many seconds the wall clock was set since: 0 across a boot, when no other clock is left.
    fn parse<T: DeserializeOwned>(
        &self,
        now: Moment,
        boot_id: &str,
        then: &str,
        problems: &mut Vec<String>,
    ) -> Option<(T, f64)> {
        let Ok(written) = serde_json::from_str::<Written<T>>(&self.text) else {
            problems.push(format!(
                "{}: cannot be understood; {then}",
                self.path.display()
            ));
            return None;
        };
        let is_of_this_boot = !boot_id.is_empty() && written.boot_id == boot_id;
        // Whole seconds: clocks that are read one after the other differ by less.
        let shift = ((now.epoch - now.boot) - (written.at.epoch - written.at.boot)).round();
        Some((written.asked, if is_of_this_boot { shift } else { 0.0 }))
    }
}
