//! Everything that can wake the loop, in one poll: signals, control files, a job that has come back. Nothing here spins,
//! and nothing is read that was not announced.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use rustix::time::Timespec;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// SIGTERM and SIGINT (end), SIGHUP (reload).
pub struct Signals {
    pipe: UnixStream,
    end: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
}

impl Signals {
    /// Errors: the kernel refuses a handler or a socket pair.
    pub fn catch() -> std::io::Result<Signals> {
        let (pipe, write) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        write.set_nonblocking(true)?;
        let (end, reload) = (Arc::default(), Arc::default());
        for (signal, flag) in [(SIGTERM, &end), (SIGINT, &end), (SIGHUP, &reload)] {
            // The flag before the pipe: whoever is woken finds it set.
            signal_hook::flag::register(signal, Arc::clone(flag))?;
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Signals { pipe, end, reload })
    }

    pub fn wants_end(&self) -> bool {
        self.end.load(Ordering::Relaxed)
    }

    /// True once for each batch of SIGHUPs.
    pub fn take_reload(&self) -> bool {
        self.reload.swap(false, Ordering::Relaxed)
    }
}

/// Watches a directory of control files.
pub struct Watch(OwnedFd);

impl Watch {
    /// Errors: the directory is missing, or the user's inotify instances are used up.
    pub fn new(directories: &[PathBuf]) -> rustix::io::Result<Watch> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let changes = inotify::WatchFlags::CLOSE_WRITE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::MOVED_FROM
            | inotify::WatchFlags::DELETE;
        for directory in directories {
            inotify::add_watch(&fd, directory, changes)?;
        }
        Ok(Watch(fd))
    }
}

/// Waits for a signal, a change of the control files, a job that has come back, or `seconds` (`None`: for ever). True:
/// the control files have changed.
pub fn wait(
    seconds: Option<f64>,
    signals: &mut Signals,
    control: Option<&Watch>,
    jobs: Option<BorrowedFd<'_>>,
) -> bool {
    let timeout = seconds.map(|seconds| {
        // One millisecond more than asked: a poll that returns just before its time would go round twice.
        let millis = crate::units::whole(seconds.clamp(0.0, 1e6) * 1_000.0) + 1;
        let [tv_sec, tv_nsec] =
            [millis / 1_000, millis % 1_000 * 1_000_000].map(|n| i64::try_from(n).unwrap_or(0));
        Timespec { tv_sec, tv_nsec }
    });
    let fds = [
        jobs,
        Some(signals.pipe.as_fd()),
        control.map(|watch| watch.0.as_fd()),
    ];
    let mut fds: Vec<PollFd> = fds
        .into_iter()
        .flatten()
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    // EINTR is a signal, and its pipe says which.
    let _ = poll(&mut fds, timeout.as_ref());
    drop(fds);
    let mut bytes = [0u8; 4096];
    while matches!(signals.pipe.read(&mut bytes), Ok(count) if count > 0) {}
    let mut changed = false;
    while let Some(watch) = control
        && matches!(rustix::io::read(&watch.0, &mut bytes), Ok(count) if count > 0)
    {
        changed = true;
    }
    changed
}
