//! One daemon a run directory (the lock on `RUN/lock`), and one an engine and instance, wherever its directories are (a name
//! among the kernel's sockets). The kernel gives both back whatever way their holder ends.

use super::{StateError, failed};
use rustix::fs::{self as sys, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// What the kernel takes as the name of a socket, in bytes.
const LONGEST_NAME: usize = 107;

/// Held as long as the daemon lives; the file stays behind, only its lock counts.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    _name: Option<OwnedFd>,
}

fn open(run: &Path, flags: OFlags) -> rustix::io::Result<File> {
    // 0600: who can open the file can hold the lock, and keep the daemon from starting.
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    sys::open(run.join("lock"), flags, Mode::from_raw_mode(0o600)).map(File::from)
}

/// Takes both, and writes our pid into the lock's file.
pub fn take_lock(run: &Path, engine: &Path, instance: &str) -> Result<Lock, StateError> {
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
            return Err(held(run, read_pid(&mut file)));
        }
        Err(TryLockError::Error(error)) => return Err(failed(&path, "take the lock")(error)),
    }
    let pid = format!("{}\n", std::process::id());
    file.set_len(0)
        .and_then(|()| file.write_all(pid.as_bytes()))
        .map_err(failed(&path, "write the pid"))?;
    Ok(Lock {
        _file: file,
        _name: hold_name(engine, instance)?,
    })
}

/// `None`: the name can't be had, or somebody who could not be our twin sits on it; the other lock is all there is then.
fn hold_name(engine: &Path, instance: &str) -> Result<Option<OwnedFd>, StateError> {
    let path = engine.canonicalize().unwrap_or_else(|_| engine.to_owned());
    let name = format!("plancton {} {instance}", path.display());
    let start = name.len().saturating_sub(LONGEST_NAME);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = || socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let address =
        SocketAddrUnix::new_abstract_name(name.as_bytes().get(start..).unwrap_or_default());
    let (Ok(address), Ok(ours), Ok(other)) = (address, socket(), socket()) else {
        return Ok(None);
    };
    if bind(&ours, &address)
        .and_then(|()| listen(&ours, 64))
        .is_ok()
    {
        return Ok(Some(ours));
    }
    // Anybody may take a name: only root and ourselves are believed.
    let holder = connect(&other, &address).and_then(|()| socket_peercred(&other));
    match holder {
        Ok(holder) if holder.uid.is_root() || holder.uid == rustix::process::geteuid() => {
            Err(held(
                engine,
                u32::try_from(holder.pid.as_raw_nonzero().get()).ok(),
            ))
        }
        // Others have asked before us, and nobody answers them: a name that is listened on is held.
        Err(Errno::AGAIN) => Err(held(engine, None)),
        _ => Ok(None),
    }
}

fn held(place: &Path, pid: Option<u32>) -> StateError {
    let pid = pid.map_or(String::new(), |pid| format!(" (pid {pid})"));
    StateError(format!(
        "{}: another daemon{pid} of this instance runs there; end it with `plancton stop`, or give this one its own --run-dir, --state-dir and --instance",
        place.display()
    ))
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
