//! One connection to the engine's Unix socket, for one call. Every wait on it has an end, connecting included: an engine
//! that hangs answers nobody, and a socket whose backlog is full takes nobody.

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Reads within its time. Writes, to its `stream`, may each take so long.
#[derive(Debug)]
pub struct Connection {
    pub stream: UnixStream,
    /// When the call must be over.
    end: Instant,
    /// Instead: how long nothing may move, for transfers whose length says nothing about the peer's health.
    idle: Option<Duration>,
}

impl Connection {
    pub fn open(path: &Path, allowed: Duration, idle: Option<Duration>) -> io::Result<Connection> {
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let stream = UnixStream::from(socket_with(family, kind, SocketFlags::CLOEXEC, None)?);
        // Bounds the wait for room in a full backlog too.
        stream.set_write_timeout(Some(allowed))?;
        let address = SocketAddrUnix::new(path)?;
        retry_on_intr(|| connect(&stream, &address))?;
        let end = Instant::now() + allowed;
        Ok(Connection { stream, end, idle })
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_duration_since(Instant::now());
        let left = self.idle.unwrap_or(left);
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}

/// Why there is no connection, and what to do about it. A plain file in the socket's place is refused like a dead
/// engine's socket: told apart here.
pub fn explain_refusal(path: &Path, error: &io::Error) -> String {
    let is_socket = std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let why = match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR) => {
            "no such socket; install or start a container engine, or name its socket with --engine"
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            "permission denied; run as root or join the group that owns it (docker)"
        }
        _ if !is_socket => {
            "not a container engine: the file is not a socket; name its socket with --engine"
        }
        Some(Errno::CONNREFUSED) => "connection refused; start the engine",
        _ => return format!("{error}; start the engine"),
    };
    why.to_owned()
}
