//! What the owner asks for while the daemon runs, as small files in `STATE/control`, which the daemon watches. What that
//! disk refuses goes to `RUN/control`, which counts first and is forgotten at the next boot. `drain` and `snooze` stay until
//! `resume`; `force-stop` and `pull` are consumed when carried out. In doubt the owner wins: a drain file that cannot be
//! understood is still a drain.

use super::{Dirs, Durable, chown, failed, make_directory, remove_file, set_mode, write_file};
use crate::clock;
use crate::decide::{Control, Drain, Snooze};
use crate::host::{boot_id, files};
use crate::units::{Moment, float};
use rustix::fs::{self as sys, FileType};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The requests, by the names of their files.
pub const DRAIN: &str = "drain";
pub const SNOOZE: &str = "snooze";
pub const FORCE_STOP: &str = "force-stop";
/// Look for newer images now.
pub const PULL: &str = "pull";

/// In `RUN/control`, over a file that cannot be removed from its disk: nothing is asked for.
const NOTHING: &str = "false";

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

/// What any of them may say.
#[derive(Default, Deserialize)]
struct Asked {
    #[serde(flatten)]
    drain: Drain,
    until: Option<f64>,
}

/// The directories to watch: a request is a file moved into one, its end a file removed. The first counts first.
pub fn directories(dirs: &Dirs) -> [PathBuf; 2] {
    [&dirs.run, &dirs.state].map(|directory| directory.join("control"))
}

fn paths(dirs: &Dirs, name: &str) -> [PathBuf; 2] {
    directories(dirs).map(|directory| directory.join(name))
}

/// 2770 for the group, so that each member can replace and remove the files of another; else ours alone.
pub(super) fn prepare(dirs: &Dirs, group: Option<u32>) -> io::Result<()> {
    for path in directories(dirs) {
        make_directory(&path, 0o700)?;
        let found = sys::stat(&path).map_err(failed(&path, "look at the directory"))?;
        let Some(group) = group else {
            set_mode(&path, 0o700)?;
            continue;
        };
        // It may have been made by a service manager that lets nobody else set the setgid bit.
        if (found.st_gid, found.st_mode & 0o7777) != (group, 0o2770) {
            chown(&path, None, Some(group)).map_err(failed(&path, "give to the group plancton"))?;
            set_mode(&path, 0o2770)?;
        }
    }
    Ok(())
}

/// `asked`: a [`Drain`] or a [`Snooze`]; of other requests only the name counts. Whether it outlasts the next boot.
pub fn request(dirs: &Dirs, name: &str, asked: &impl Serialize) -> io::Result<bool> {
    let [brief, kept] = paths(dirs, name);
    let written = Written {
        asked,
        boot_id: boot_id(Path::new("/")),
        at: clock::now(),
    };
    let content = serde_json::to_vec(&written)?;
    let Err(error) = write_file(&kept, &content, 0o660, Durable::Yes) else {
        return remove_file(&brief).map(|()| true);
    };
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::NotFound => Err(error),
        _ => write_file(&brief, &content, 0o660, Durable::No).map_or(Err(error), |()| Ok(false)),
    }
}

/// Ends a request; does nothing if there is none.
pub fn clear(dirs: &Dirs, name: &str) -> io::Result<()> {
    let [brief, kept] = paths(dirs, name);
    match remove_file(&kept) {
        Ok(()) => remove_file(&brief),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(error),
        Err(_) => write_file(&brief, NOTHING.as_bytes(), 0o660, Durable::No),
    }
}

/// What is asked for at this moment, and what was made of what cannot be read, one line each. Never fails, because that has
/// a meaning too. All ends are seconds since 1970 as the wall clock says now.
pub fn read(dirs: &Dirs, now: Moment, boot_id: &str) -> (Control, Vec<String>) {
    let mut problems = Vec::new();
    let mut read = |name: &str, then: &str| {
        let mut places = paths(dirs, name).into_iter();
        let (path, text, modified) = places.find_map(|path| look(path, now, &mut problems))?;
        if text == NOTHING {
            return None;
        }
        let written = serde_json::from_slice(text.as_bytes()).ok();
        if written.is_none() && !then.is_empty() {
            problems.push(format!("{}: cannot be understood; {then}", path.display()));
        }
        let asked = written.map(|written| asked_now(written, now, boot_id));
        Some((asked.unwrap_or_default(), modified))
    };
    let drain = read(DRAIN, "draining until `plancton resume`");
    let snooze = read(SNOOZE, "snoozing for an hour at most");
    let snooze = snooze.map(|(Asked { until, .. }, modified)| Snooze {
        // Of one whose end cannot be read: an hour after the file was written.
        until: until.unwrap_or(modified.min(now.epoch) + 3600.0),
    });
    let asked = Control {
        drain: drain.map(|(Asked { drain, .. }, modified)| match drain.since > 0.0 {
            true => drain,
            false => Drain {
                since: modified,
                ..drain
            },
        }),
        snooze: snooze.filter(|snooze| snooze.until > now.epoch),
        force_stop: read(FORCE_STOP, "").is_some(),
        pull: read(PULL, "").is_some(),
    };
    (asked, problems)
}

/// Later by as much as the wall clock was set forward since; across a boot no other clock is left.
fn asked_now(mut written: Written<Asked>, now: Moment, boot_id: &str) -> Asked {
    let (asked, at) = (&mut written.asked, written.at);
    // Whole seconds: clocks that are read one after the other differ by less.
    let shift = ((now.epoch - now.boot) - (at.epoch - at.boot)).round();
    if !boot_id.is_empty() && written.boot_id == boot_id {
        asked.drain.since += shift;
        asked.drain.by = asked.drain.by.map(|by| by + shift);
        asked.until = asked.until.map(|until| until + shift);
    }
    written.asked
}

/// Its path, its text, and the second since 1970 at which it was written. What is no plain file is no request, and in the
/// way of one.
fn look(path: PathBuf, now: Moment, problems: &mut Vec<String>) -> Option<(PathBuf, String, f64)> {
    let mut complain = |what: &str| problems.push(format!("{}: {what}", path.display()));
    match sys::lstat(&path) {
        Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile => {
            let text = files::read_text_up_to(&path, 4096).unwrap_or_default();
            let modified = float(u64::try_from(found.st_mtime).unwrap_or(0));
            Some((path, text, modified))
        }
        Ok(_) => {
            let removed = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir(&path));
            let then = removed.map_or("ignored, remove it", |()| "removed");
            complain(&format!("it is not a plain file; {then}"));
            None
        }
        Err(Errno::NOENT | Errno::NOTDIR) => None,
        // Of all that may be asked for, a drain takes least away.
        Err(errno) => {
            complain(&format!("{errno}; launching nothing until it can be read"));
            let is_drain = path.ends_with(DRAIN);
            is_drain.then(|| (path, "{}".to_owned(), now.epoch))
        }
    }
}
