//! One HTTP/1.1 exchange over a connection of its own to the engine's Unix socket: a request out, a head and a reader of the
//! body in. Every wait has an end, connecting included: an engine that hangs answers nobody, and a socket whose backlog is
//! full takes nobody. An answer that ends before its own framing says so is an error (`UnexpectedEof`), never an end; what
//! is no HTTP is `InvalidData`. Every size is bounded but that of a body which is read piece by piece.

use crate::units::clean_line;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// The longest line of a head and between two chunks, in bytes, and the most lines of a head.
const LINE_LIMIT: u64 = 64 * 1024;
const MOST_HEADERS: usize = 64;
/// Of a header, in characters.
const LONGEST_VALUE: usize = 100;
/// Of a body that is read at once: a list of ten thousand pilots, or a pilot's log with the framing of its lines.
const BODY_LIMIT: u64 = 16 << 20;
/// Percent-encodes all but what stands for itself in a path and in a query (RFC 3986, 2.3 and 3.4).
pub fn encode(text: &str) -> String {
    let encode = |byte: u8| match char::from(byte) {
        c if c.is_ascii_alphanumeric() || "-._~/:@".contains(c) => c.to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// What is asked for.
#[derive(Default)]
pub struct Request<'a> {
    pub method: &'static str,
    /// For messages: `start 0123456789ab`.
    pub call: String,
    /// Encoded.
    pub path: String,
    /// Whole lines.
    pub headers: String,
    /// And how many bytes it has.
    pub body: Option<(&'a mut dyn Read, u64)>,
    /// Instead of one deadline: how long nothing may move, where length says nothing about the peer's health.
    pub idle: Option<Duration>,
}

impl Request<'_> {
    /// Asks over a connection of its own, and reads the head of the answer. The call is over after `allowed`; each write
    /// may take so long. Errors: of the kind `NotConnected`, if there is no connection.
    pub fn exchange(
        &mut self,
        socket: &Path,
        allowed: Duration,
        prefix: &str,
    ) -> io::Result<Answer> {
        let failed = |error| io::Error::new(ErrorKind::NotConnected, explain(socket, &error));
        let mut stream = open(socket, allowed).map_err(failed)?;
        stream.set_read_timeout(Some(self.idle.unwrap_or(allowed)))?;
        let end = self.idle.is_none().then(|| Instant::now() + allowed);
        let (method, path, headers) = (self.method, &self.path, &self.headers);
        let length = self.body.as_ref().map_or(0, |(_, length)| *length);
        let head = format!(
            "{method} {prefix}{path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: plancton\r\nConnection: close\r\n\
             {headers}Content-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        if let Some((body, _)) = &mut self.body {
            match io::copy(&mut body.take(length), &mut stream) {
                Ok(count) if count < length => {
                    return Err(io::Error::other("the file has become shorter"));
                }
                // An engine may refuse and close before it has read everything: its answer says why, the failed write does not.
                Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error),
                _ => {}
            }
        }
        Answer::receive(Connection { stream, end })
    }
}

fn open(path: &Path, allowed: Duration) -> io::Result<UnixStream> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let stream = UnixStream::from(socket_with(family, kind, SocketFlags::CLOEXEC, None)?);
    // Bounds the wait for room in a full backlog too.
    stream.set_write_timeout(Some(allowed))?;
    let address = SocketAddrUnix::new(path)?;
    retry_on_intr(|| connect(&stream, &address))?;
    Ok(stream)
}

pub struct Connection {
    stream: UnixStream,
    /// From then on nothing more is read.
    end: Option<Instant>,
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.end.is_some_and(|end| Instant::now() >= end) {
            true => Err(ErrorKind::TimedOut.into()),
            false => self.stream.read(buffer),
        }
    }
}

/// Why there is no connection, and what to do about it. A plain file in the socket's place is refused like a dead
/// engine's socket: told apart here.
fn explain(path: &Path, error: &io::Error) -> String {
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
        Some(Errno::AGAIN) => "no connection in time; see to the engine",
        _ => return format!("{error}; start the engine"),
    };
    why.to_owned()
}

fn garbage(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

/// One answer; read, it gives its body.
pub struct Answer<S = Connection> {
    pub status: u16,
    headers: BTreeMap<String, String>,
    stream: BufReader<S>,
    is_chunked: bool,
    /// Bytes until the end of the body or of the chunk; `None`: it ends with the connection.
    left: Option<u64>,
}

impl<S: Read> Answer<S> {
    /// Reads the head. Nothing here asks with HEAD.
    pub fn receive(stream: S) -> io::Result<Answer<S>> {
        let mut answer = Answer {
            status: 0,
            headers: BTreeMap::new(),
            stream: BufReader::new(stream),
            is_chunked: false,
            left: Some(0),
        };
        let not_http = || garbage("not an HTTP answer");
        let line = answer.read_line()?;
        let status = line.strip_prefix("HTTP/1.").and_then(|line| line.get(2..5));
        let status = status.and_then(|digits| digits.parse().ok());
        answer.status = status.ok_or_else(not_http)?;
        for _ in 0..=MOST_HEADERS {
            let line = answer.read_line()?;
            if line.is_empty() {
                return answer.frame();
            }
            let (name, value) = line.split_once(':').ok_or_else(not_http)?;
            let value = clean_line(value, LONGEST_VALUE);
            answer.headers.insert(name.to_ascii_lowercase(), value);
        }
        Err(garbage("its head is too large"))
    }

    /// RFC 9112, 6.3: chunked wins over a length, and a body without either ends with the connection.
    fn frame(mut self) -> io::Result<Answer<S>> {
        match (self.status, self.header("transfer-encoding")) {
            (204 | 304, _) => {}
            (_, "chunked") => self.is_chunked = true,
            (_, "") if self.header("content-length").is_empty() => self.left = None,
            (_, "") => {
                let length = self.header("content-length").parse();
                self.left = Some(length.map_err(|_| garbage("its length is no number"))?);
            }
            _ => return Err(garbage("unknown transfer encoding")),
        }
        Ok(self)
    }

    /// `name` in lower case; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The whole body.
    pub fn read_all(self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        self.take(BODY_LIMIT).read_to_end(&mut body)?;
        Ok(body)
    }

    /// A line of a head or of chunk framing, without its end.
    fn read_line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        let mut stream = self.stream.by_ref().take(LINE_LIMIT);
        stream.read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\r\n") {
            Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
            None if line.ends_with(b"\n") || stream.limit() == 0 => Err(garbage("no HTTP line")),
            None => Err(ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl<S: Read> Read for Answer<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_chunked && self.left == Some(0) {
            let line = self.read_line()?;
            let digits = line.split([';', ' ', '\t']).next().unwrap_or_default();
            let size = u64::from_str_radix(digits, 16).map_err(|_| garbage("bad chunk framing"))?;
            self.left = Some(size);
            if size == 0 {
                while !self.read_line()?.is_empty() {}
                self.is_chunked = false;
            }
        }
        let Some(left) = self.left else {
            return self.stream.read(buffer);
        };
        let mut rest = self.stream.by_ref().take(left);
        let count = rest.read(buffer)?;
        self.left = Some(rest.limit());
        if count == 0 && left > 0 && !buffer.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if self.is_chunked && self.left == Some(0) && !self.read_line()?.is_empty() {
            return Err(garbage("bad chunk framing"));
        }
        Ok(count)
    }
}
