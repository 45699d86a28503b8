//! What the owner asks for while the daemon runs, as small files in `STATE/control`, which the daemon watches.
//! `drain` and `snooze` stay until `resume` and survive daemon and reboot; `force-stop` is consumed when carried out.
//! In doubt the owner wins: a drain file that cannot be understood is still a drain.

use super::{Durable, StateError, failed, read_file, remove_file, set_mode, write_file};
use crate::decide::{Control, Drain, Snooze};
use crate::units::float;
use rustix::fs::{self as sys, Mode, Stat};
use rustix::io::Errno;
use std::io;
use std::path::{Path, PathBuf};

const GROUP: &str = "plancton";
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
}

impl Request {
    fn file_name(self) -> &'static str {
        match self {
            Request::Drain => "drain",
            Request::Snooze => "snooze",
            Request::ForceStop => "force-stop",
        }
    }
}

/// The directory to watch: a request is a file moved into it, its end a file removed.
pub fn directory(state: &Path) -> PathBuf {
    state.join("control")
}

fn path(state: &Path, request: Request) -> PathBuf {
    directory(state).join(request.file_name())
}

/// The id of the group plancton, if the machine has one.
pub(super) fn group(group_file: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(group_file).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next() == Some(GROUP);
        fields.nth(1).filter(|_| found)?.parse().ok()
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
    let gid = rustix::fs::Gid::from_raw(group);
    sys::chown(&path, None, Some(gid)).map_err(failed(&path, "give it to the group plancton"))?;
    set_mode(&path, 0o2770)
}

pub fn request_drain(state: &Path, drain: &Drain) -> Result<(), StateError> {
    request(state, Request::Drain, serde_json::to_vec(drain))
}

pub fn request_snooze(state: &Path, snooze: &Snooze) -> Result<(), StateError> {
    request(state, Request::Snooze, serde_json::to_vec(snooze))
}

pub fn request_force_stop(state: &Path) -> Result<(), StateError> {
    request(state, Request::ForceStop, Ok(b"{}".to_vec()))
}

fn request(state: &Path, request: Request, content: serde_json::Result<Vec<u8>>) -> Result<(), StateError> {
    let path = path(state, request);
    let content = content.map_err(|error| StateError::Io {
        path: path.clone(),
        doing: "encode the request",
        error: error.into(),
    })?;
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
        StateError::Io { path, error, .. } if error.kind() == io::ErrorKind::PermissionDenied => {
            StateError::Forbidden { path }
        }
        StateError::Io { path, error, .. } if error.kind() == io::ErrorKind::NotFound => {
            StateError::NeverStarted { path }
        }
        other => other,
    })
}

/// Reads the directory; never fails, because what cannot be read has a meaning too.
pub fn read(state: &Path, now: f64) -> Requests {
    let mut problems = Vec::new();
    let mut read = |request| read_one(state, request, &mut problems);
    let found = (read(Request::Drain), read(Request::Snooze), read(Request::ForceStop));
    let doubtful = [&found.0, &found.1, &found.2].contains(&&Found::Unreadable);
    let mut confused = |request, what: &str| {
        let path = path(state, request);
        problems.push(format!("{}: cannot be understood; {what}", path.display()));
    };
    let drain = match found.0 {
        Found::Content(content, written) => Some(parse_drain(&content, written).unwrap_or_else(|| {
            confused(Request::Drain, "draining until `plancton resume`");
            Drain { since: written, ..Drain::default() }
        })),
        _ => doubtful.then(|| Drain { since: now, ..Drain::default() }),
    };
    let snooze = match found.1 {
        Found::Content(content, written) => serde_json::from_slice(&content).ok().or_else(|| {
            confused(Request::Snooze, "snoozing for an hour at most");
            let until = written.min(now) + UNREADABLE_SNOOZE;
            Some(Snooze { until })
        }),
        _ => None,
    };
    let snooze = snooze.filter(|snooze| snooze.until > now);
    let force_stop = matches!(found.2, Found::Content(..));
    let asked = Control { drain, snooze, force_stop };
    Requests { asked, problems }
}

fn parse_drain(content: &[u8], written: f64) -> Option<Drain> {
    let mut drain: Drain = serde_json::from_slice(content).ok()?;
    if drain.since <= 0.0 {
        drain.since = written;
    }
    Some(drain)
}

#[derive(PartialEq)]
enum Found {
    /// Or something that is no plain file: a problem, and no request.
    Nothing,
    /// With the time it was written.
    Content(Vec<u8>, f64),
    /// It may be there: nothing is launched until that is known.
    Unreadable,
}

fn read_one(state: &Path, request: Request, problems: &mut Vec<String>) -> Found {
    let path = path(state, request);
    match read_file(&path, LIMIT) {
        Ok(None) => Found::Nothing,
        Ok(Some((content, stat))) => Found::Content(content, modified(&stat)),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            problems.push(format!("{}: {error}; ignored, remove it", path.display()));
            Found::Nothing
        }
        Err(error) => {
            let then = "launching nothing until it can be read";
            problems.push(format!("{}: {error}; {then}", path.display()));
            Found::Unreadable
        }
    }
}

fn modified(stat: &Stat) -> f64 {
    float(u64::try_from(stat.st_mtime).unwrap_or(0))
}
