//! One connection to the engine's Unix socket. Every wait ends at a deadline, connecting included: a blocking connect to a
//! socket whose backlog is full would hang for as long as the engine does.

use super::error::Fault;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    send, socket_with,
};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long to nap while the backlog is full: such a socket cannot be polled for room.
const BACKLOG_NAP: Duration = Duration::from_millis(10);

/// When a call must have ended.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    allowed: Duration,
    is_per_step: bool,
}

impl Deadline {
    /// For the call as a whole.
    pub fn whole(allowed: Duration) -> Deadline {
        Deadline {
            at: Instant::now() + allowed,
            allowed,
            is_per_step: false,
        }
    }

    /// Starts anew with every byte that moves: for transfers whose length says nothing about the peer's health.
    pub fn per_step(allowed: Duration) -> Deadline {
        Deadline {
            is_per_step: true,
            ..Deadline::whole(allowed)
        }
    }

    fn left(&self) -> Option<Duration> {
        Some(self.at.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// Tries a read or write, which is given how long it may block, until it moves something.
    fn step(&mut self, mut io: impl FnMut(Duration) -> io::Result<usize>) -> Result<usize, Fault> {
        loop {
            match io(self.left().ok_or(Fault::NoAnswer(self.allowed))?) {
                Ok(count) if self.is_per_step => {
                    self.at = Instant::now() + self.allowed;
                    return Ok(count);
                }
                Ok(count) => return Ok(count),
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                Err(error) => return Err(Fault::Closed(error.to_string())),
            }
        }
    }
}

#[derive(Debug)]
pub struct Connection(UnixStream);

impl Connection {
    pub fn open(path: &Path, deadline: &Deadline) -> Result<Connection, Fault> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let refused = |errno| refused(path, errno);
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(refused)?;
        let address = SocketAddrUnix::new(path).map_err(refused)?;
        loop {
            match connect(&socket, &address) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let left = deadline
                        .left()
                        .ok_or(Fault::NoConnection(deadline.allowed))?;
                    std::thread::sleep(BACKLOG_NAP.min(left));
                }
                Err(errno) => return Err(refused(errno)),
            }
        }
        let stream = UnixStream::from(socket);
        stream
            .set_nonblocking(false)
            .map_err(|error| Fault::Closed(error.to_string()))?;
        Ok(Connection(stream))
    }

    pub fn write_all(&mut self, mut bytes: &[u8], deadline: &mut Deadline) -> Result<(), Fault> {
        while !bytes.is_empty() {
            let count = deadline.step(|left| {
                self.0.set_write_timeout(Some(left))?;
                self.0.write(bytes)
            })?;
            bytes = bytes.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    /// At least one byte, or 0 at the end of the stream.
    pub fn read(&mut self, buffer: &mut [u8], deadline: &mut Deadline) -> Result<usize, Fault> {
        deadline.step(|left| {
            self.0.set_read_timeout(Some(left))?;
            self.0.read(buffer)
        })
    }

    /// All of a few bytes, which a quiet connection takes at once.
    pub fn write_now(&self, bytes: &[u8]) -> Result<(), Fault> {
        match send(&self.0, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(count) if count == bytes.len() => Ok(()),
            Ok(_) | Err(Errno::AGAIN) => Err(Fault::Closed("it takes no more".to_owned())),
            Err(errno) => Err(Fault::Closed(errno.to_string())),
        }
    }

    /// What is there now; `None` when that is nothing.
    pub fn read_now(&self, buffer: &mut [u8]) -> Result<Option<usize>, Fault> {
        match recv(&self.0, buffer, RecvFlags::DONTWAIT) {
            Ok((count, _)) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(Fault::Closed(errno.to_string())),
        }
    }

    pub fn is_readable_within(&self, time: Duration) -> bool {
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&timeout))
            .is_ok_and(|ready| ready > 0)
    }

    /// Nothing to read and not closed: what a connection between two calls must be.
    pub fn is_quiet(&self) -> bool {
        recv(&self.0, &mut [0], RecvFlags::DONTWAIT | RecvFlags::PEEK) == Err(Errno::AGAIN)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A plain file in the socket's place is refused like a dead engine's socket: told apart here.
fn refused(path: &Path, errno: Errno) -> Fault {
    let is_other_file =
        || std::fs::metadata(path).is_ok_and(|found| !found.file_type().is_socket());
    match errno {
        Errno::NOENT | Errno::NOTDIR => Fault::Missing,
        Errno::ACCESS | Errno::PERM => Fault::Forbidden,
        _ if is_other_file() => Fault::NotAnEngine("the file is not a socket".to_owned()),
        Errno::CONNREFUSED => Fault::Refused("connection refused".to_owned()),
        other => Fault::Refused(other.to_string()),
    }
}
