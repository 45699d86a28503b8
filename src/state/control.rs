//! What the owner asks for while the daemon runs, as small files in `STATE/control`, which the daemon watches.
//! `drain` and `snooze` stay until `resume` and survive daemon and reboot; `force-stop` is consumed when carried out.
//! In doubt the owner wins: a drain file that cannot be understood is still a drain.

use super::{Durable, StateError, failed, read_plain, remove_file, set_mode, write_file};
use crate::decide::{Control, Drain, Snooze};
use crate::units::float;
use rustix::fs::{self as sys, Mode};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const LIMIT: u64 = 4096;
/// How long a snooze lasts whose end cannot be read, in seconds after the file was written.
const UNREADABLE_SNOOZE: f64 = 3600.0;

/// What is asked for at this moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Requests {
    pub asked: Control,
    /// One line each, with what was made of it.
    pub problems: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Drain,
    Snooze,
    ForceStop,
    /// Look for newer images; consumed when that is under way.
    Pull,
}

/// The directory to watch: a request is a file moved into it, its end a file removed.
pub fn directory(state: &Path) -> PathBuf {
    state.join("control")
}

fn path(state: &Path, request: Request) -> PathBuf {
    directory(state).join(match request {
        Request::Drain => "drain",
        Request::Snooze => "snooze",
        Request::ForceStop => "force-stop",
        Request::Pull => "pull",
    })
}

/// The id of the group plancton, if the machine has one.
pub(super) fn group(group_file: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(group_file).ok()?;
    let mut groups = text.lines().map(|line| line.split(':'));
    groups.find_map(|mut fields| {
        fields
            .next()
            .filter(|name| *name == "plancton")
            .and(fields.nth(1))?
            .parse()
            .ok()
    })
}

/// 2770 for the group, so that each member can replace and remove the files of another; else ours alone.
pub(super) fn prepare(state: &Path, group: Option<u32>) -> Result<(), StateError> {
    let path = directory(state);
    match sys::mkdir(&path, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed(&path, "create the directory")(errno)),
    }
    let Some(group) = group else {
        return set_mode(&path, 0o700);
    };
    let found = sys::stat(&path).map_err(failed(&path, "look at the directory"))?;
    if found.st_gid == group && found.st_mode & 0o7777 == 0o2770 {
        // Made beforehand by a service manager that lets nobody else set the setgid bit.
        return Ok(());
    }
    let gid = rustix::fs::Gid::from_raw(group);
    sys::chown(&path, None, Some(gid)).map_err(failed(&path, "give it to the group plancton"))?;
    set_mode(&path, 0o2770)
}

pub fn request_drain(state: &Path, drain: &Drain) -> Result<(), StateError> {
    request(state, Request::Drain, drain)
}

pub fn request_snooze(state: &Path, snooze: &Snooze) -> Result<(), StateError> {
    request(state, Request::Snooze, snooze)
}

pub fn request_force_stop(state: &Path) -> Result<(), StateError> {
    request(state, Request::ForceStop, &true)
}

pub fn request_pull(state: &Path) -> Result<(), StateError> {
    request(state, Request::Pull, &true)
}

fn request(state: &Path, request: Request, content: &impl Serialize) -> Result<(), StateError> {
    let path = path(state, request);
    let content = serde_json::to_vec(content).map_err(failed(&path, "encode the request"))?;
    explained(write_file(&path, &content, 0o660, Durable::Yes))
}

/// Ends a request; does nothing if there is none.
pub fn clear(state: &Path, request: Request) -> Result<(), StateError> {
    explained(remove_file(&path(state, request)))
}

/// `resume`: ends drain and snooze.
pub fn resume(state: &Path) -> Result<(), StateError> {
    clear(state, Request::Drain)?;
    clear(state, Request::Snooze)
}

fn explained(result: Result<(), StateError>) -> Result<(), StateError> {
    result.map_err(|error| match error {
        StateError::Io { path, error, .. } if error.kind() == ErrorKind::PermissionDenied => {
            StateError::Forbidden { path }
        }
        StateError::Io { path, error, .. } if error.kind() == ErrorKind::NotFound => {
            StateError::NeverStarted { path }
        }
        other => other,
    })
}

/// Reads the directory; never fails, because what cannot be read has a meaning too.
pub fn read(state: &Path, now: f64) -> Requests {
    let mut problems = Vec::new();
    let drain = read_one::<Drain>(
        state,
        Request::Drain,
        "draining until `plancton resume`",
        &mut problems,
    );
    let snooze = read_one(
        state,
        Request::Snooze,
        "snoozing for an hour at most",
        &mut problems,
    );
    let force_stop = read_one::<IgnoredAny>(state, Request::ForceStop, "ending", &mut problems);
    let pull = read_one::<IgnoredAny>(
        state,
        Request::Pull,
        "looking for newer images",
        &mut problems,
    );
    let doubt = matches!(drain, Found::Unreadable)
        || matches!(snooze, Found::Unreadable)
        || matches!(force_stop, Found::Unreadable);
    let drain = match drain {
        Found::Request(drain, written) => {
            let drain = drain.unwrap_or_default();
            Some(Drain {
                since: if drain.since > 0.0 {
                    drain.since
                } else {
                    written
                },
                ..drain
            })
        }
        _ => doubt.then(|| Drain {
            since: now,
            ..Drain::default()
        }),
    };
    let snooze = match snooze {
        Found::Request(snooze, written) => snooze.or(Some(Snooze {
            until: written.min(now) + UNREADABLE_SNOOZE,
        })),
        _ => None,
    };
    let (force_stop, pull) = (
        matches!(force_stop, Found::Request(..)),
        matches!(pull, Found::Request(..)),
    );
    let snooze = snooze.filter(|snooze| snooze.until > now);
    Requests {
        asked: Control {
            drain,
            snooze,
            force_stop,
            pull,
        },
        problems,
    }
}

enum Found<T> {
    /// Or something that is no plain file: a problem, and no request.
    Nothing,
    /// What it says, if that can be understood, and when it was written.
    Request(Option<T>, f64),
    /// It may be there: nothing is launched until that is known.
    Unreadable,
}

/// `then` is what a request that cannot be understood comes to.
fn read_one<T: DeserializeOwned>(
    state: &Path,
    request: Request,
    then: &str,
    problems: &mut Vec<String>,
) -> Found<T> {
    let path = path(state, request);
    let (problem, found) = match read_plain(&path, LIMIT) {
        Ok(None) => return Found::Nothing,
        Ok(Some((content, stat))) => {
            let written = float(u64::try_from(stat.st_mtime).unwrap_or(0));
            match serde_json::from_slice(&content) {
                Ok(asked) => return Found::Request(Some(asked), written),
                Err(_) => (
                    format!("cannot be understood; {then}"),
                    Found::Request(None, written),
                ),
            }
        }
        Err(error) if error.kind() == ErrorKind::InvalidInput => {
            (format!("{error}; ignored, remove it"), Found::Nothing)
        }
        Err(error) => (
            format!("{error}; launching nothing until it can be read"),
            Found::Unreadable,
        ),
    };
    problems.push(format!("{}: {problem}", path.display()));
    found
}
