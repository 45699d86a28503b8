//! One daemon a run directory: the lock on `RUN/lock`, which the kernel gives back whatever way its holder ends.

use super::{StateError, failed};
use rustix::fs::{self as sys, Mode, OFlags};
use rustix::io::Errno;
use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

/// Held as long as the daemon lives; the file stays behind, only its lock counts.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

fn open(run: &Path, flags: OFlags) -> rustix::io::Result<File> {
    // 0600: who can open the file can hold the lock, and keep the daemon from starting.
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    sys::open(run.join("lock"), flags, Mode::from_raw_mode(0o600)).map(File::from)
}

/// Takes the lock of a run directory and writes our pid into it.
pub fn take_lock(run: &Path) -> Result<Lock, StateError> {
    let path = run.join("lock");
    let mut file =
        open(run, OFlags::RDWR | OFlags::CREATE).map_err(failed(&path, "open the lock"))?;
    if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
        // It may have been a probe, which holds it for an instant.
        std::thread::sleep(Duration::from_millis(20));
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let pid = read_pid(&mut file).map(|pid| format!(" (pid {pid})"));
            return Err(StateError(format!(
                "{}: another daemon{} runs there; end it with `plancton stop`, or give this one its own --run-dir, --state-dir and --instance",
                run.display(),
                pid.unwrap_or_default()
            )));
        }
        Err(TryLockError::Error(error)) => return Err(failed(&path, "take the lock")(error)),
    }
    let pid = format!("{}\n", std::process::id());
    file.set_len(0)
        .and_then(|()| file.write_all(pid.as_bytes()))
        .map_err(failed(&path, "write the pid"))?;
    Ok(Lock { _file: file })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    Free,
    /// With the holder's pid, as far as it can be read.
    Held(Option<u32>),
    /// We may not open it: the machine's, seen by a user; the age of its status tells more.
    Unknown,
}

/// Whether a daemon has the run directory; creates nothing.
pub fn probe_lock(run: &Path) -> Probe {
    let mut file = match open(run, OFlags::RDONLY) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => return Probe::Free,
        Err(_) => return Probe::Unknown,
    };
    match file.try_lock_shared() {
        Ok(()) => Probe::Free,
        Err(TryLockError::WouldBlock) => Probe::Held(read_pid(&mut file)),
        Err(TryLockError::Error(_)) => Probe::Unknown,
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(20).read_to_string(&mut text).ok()?;
    text.trim().parse().ok().filter(|pid| *pid > 0)
}
