//! One connection to the engine's Unix socket. Every wait ends at a deadline, connecting included: a blocking connect to a
//! socket whose backlog is full would hang for as long as the engine does.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long to nap while the backlog is full: such a socket cannot be polled for room.
const BACKLOG_NAP: Duration = Duration::from_millis(10);

/// When a call must have ended.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    pub allowed: Duration,
    is_per_step: bool,
}

impl Deadline {
    /// For the call as a whole.
    pub fn whole(allowed: Duration) -> Deadline {
        let at = Instant::now() + allowed;
        Deadline { at, allowed, is_per_step: false }
    }

    /// Starts anew with every byte that moves: for transfers whose length says nothing about the peer's health.
    pub fn per_step(allowed: Duration) -> Deadline {
        Deadline { is_per_step: true, ..Deadline::whole(allowed) }
    }

    fn step(&mut self) {
        if self.is_per_step {
            self.at = Instant::now() + self.allowed;
        }
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        Ok(left)
    }
}

#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
}

impl Connection {
    pub fn open(path: &Path, deadline: &Deadline) -> io::Result<Connection> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let address = SocketAddrUnix::new(path)?;
        loop {
            match connect(&socket, &address) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => std::thread::sleep(BACKLOG_NAP.min(deadline.left()?)),
                Err(errno) => return Err(errno.into()),
            }
        }
        let stream = UnixStream::from(socket);
        Ok(Connection { stream })
    }

    pub fn write_all(&mut self, mut bytes: &[u8], deadline: &mut Deadline) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = bytes.get(count..).unwrap_or_default();
                    deadline.step();
                }
                Err(error) => self.wait(error, PollFlags::OUT, deadline)?,
            }
        }
        Ok(())
    }

    /// At least one byte, or 0 at the end of the stream.
    pub fn read(&mut self, buffer: &mut [u8], deadline: &mut Deadline) -> io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Ok(count) => {
                    deadline.step();
                    return Ok(count);
                }
                Err(error) => self.wait(error, PollFlags::IN, deadline)?,
            }
        }
    }

    /// What is there now; `None` when that is nothing.
    pub fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.stream.read(buffer) {
                Ok(count) => return Ok(Some(count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Nothing to read and not closed: what a connection between two calls must be.
    pub fn is_quiet(&self) -> bool {
        let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(0))
    }

    /// After a read or write that gave `error`: waits until it is worth trying again, or says why not.
    fn wait(&self, error: io::Error, flags: PollFlags, deadline: &Deadline) -> io::Result<()> {
        match error.kind() {
            ErrorKind::Interrupted => return Ok(()),
            ErrorKind::WouldBlock => {}
            _ => return Err(error),
        }
        let left = Timespec::try_from(deadline.left()?).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&self.stream, flags)];
        match poll(&mut fds, Some(&left)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
