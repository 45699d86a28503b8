//! One daemon a run directory: the lock on `RUN/lock`, which the kernel gives back whatever way its holder ends.

use super::{StateError, failed};
use rustix::fs::{self as sys, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

/// Held as long as the daemon lives; the file stays behind, only its lock counts.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the lock of a run directory and writes our pid into it.
pub fn take_lock(run: &Path) -> Result<Lock, StateError> {
    let path = run.join("lock");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // 0600: who can open the file can hold the lock, and keep the daemon from starting.
    let open = || sys::open(&path, flags, Mode::from_raw_mode(0o600)).map(File::from);
    let mut file = open().map_err(failed(&path, "open the lock"))?;
    let mut tries = 0;
    while let Err(errno) = sys::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        tries += 1;
        match errno {
            // A probe holds it for an instant.
            Errno::WOULDBLOCK if tries < 4 => std::thread::sleep(Duration::from_millis(5)),
            Errno::WOULDBLOCK => {
                return Err(StateError::Held {
                    run: run.to_owned(),
                    pid: read_pid(&mut file),
                });
            }
            Errno::INTR => {}
            errno => return Err(failed(&path, "take the lock")(errno)),
        }
    }
    let pid = format!("{}\n", std::process::id());
    file.set_len(0)
        .and_then(|()| file.write_all(pid.as_bytes()))
        .map_err(|error| StateError::Io {
            path,
            doing: "write the pid",
            error,
        })?;
    Ok(Lock { _file: file })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    Free,
    /// With the holder's pid, as far as it can be read.
    Held(Option<u32>),
    /// We may not open it: the machine's, seen by a user; `Status::is_stale` tells more.
    Unknown,
}

/// Whether a daemon has the run directory; creates nothing.
pub fn probe_lock(run: &Path) -> Probe {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mut file = match sys::open(run.join("lock"), flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Probe::Free,
        Err(_) => return Probe::Unknown,
    };
    match sys::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Probe::Free,
        Err(Errno::WOULDBLOCK) => Probe::Held(read_pid(&mut file)),
        Err(_) => Probe::Unknown,
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(20).read_to_string(&mut text).ok()?;
    text.trim().parse().ok().filter(|pid| *pid > 0)
}
