//! One HTTP/1.1 exchange over a connection of its own to the engine's Unix socket: a request out, a head and a reader of the
//! body in. Every wait has an end, connecting included: an engine that hangs answers nobody, and a socket whose backlog is
//! full takes nobody. An answer that ends before its own framing says so is an error (`UnexpectedEof`), never an end; what
//! is no HTTP is `InvalidData`. Every size is bounded but that of a body which is read piece by piece.

use super::*;
use httparse::{EMPTY_HEADER, Response, Status};
use rustix::io::retry_on_intr;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::io::{BufRead, Write};
use std::{os::unix::fs::FileTypeExt, os::unix::net::UnixStream};

/// The longest head and line between two chunks, in bytes, and the most lines of a head.
const LINE_LIMIT: usize = 64 * 1024;
const MOST_HEADERS: usize = 64;
/// Of a header, in characters.
const LONGEST_VALUE: usize = 100;
pub const NAME: &str = "name its socket with --engine";
const START: &str = "install or start a container engine, or name its socket with --engine";
const BECOME: &str = "run as root or join the group that owns it (docker)";
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
    /// For messages: `start 0123456789ab`.
    pub call: String,
    /// The method and the path, which is encoded.
    pub line: String,
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
    pub fn send(&mut self, socket: &Path, allowed: Duration, prefix: &str) -> io::Result<Answer> {
        let failed = |error| io::Error::new(ErrorKind::NotConnected, explain(socket, &error));
        let mut stream = open(socket, allowed).map_err(failed)?;
        stream.set_read_timeout(Some(self.idle.unwrap_or(allowed)))?;
        let end = self.idle.is_none().then(|| Instant::now() + allowed);
        let (method, path) = self.line.split_once(' ').unwrap_or_default();
        let headers = &self.headers;
        let length = self.body.as_ref().map_or(0, |(_, length)| *length);
        let head = format!(
            "{method} {prefix}{path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: plancton\r\nConnection: close\r\n\
             {headers}Content-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        let mut send = |body: &mut dyn Read| io::copy(&mut body.take(length), &mut stream);
        match self.body.as_mut().map_or(Ok(0), |(body, _)| send(*body)) {
            Ok(count) if count < length => return Err(io::Error::other("the file became shorter")),
            // An engine may refuse and close before it has read everything: its answer says why, the failed write does not.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error),
            _ => {}
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
    let (why, way_out) = match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => ("no such socket", START),
        ErrorKind::PermissionDenied => ("permission denied", BECOME),
        _ if !is_socket => ("not a container engine: the file is not a socket", NAME),
        ErrorKind::ConnectionRefused => ("connection refused", "start the engine"),
        ErrorKind::WouldBlock => ("no connection in time", "see to the engine"),
        _ => return format!("{error}; start the engine"),
    };
    format!("{why}; {way_out}")
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
    /// Reads the head, a line at a time: what is no HTTP is known by its first. Nothing here asks with HEAD.
    pub fn receive(stream: S) -> io::Result<Answer<S>> {
        let (mut stream, mut head) = (BufReader::new(stream), Vec::new());
        loop {
            let mut line = stream.by_ref().take(LINE_LIMIT as u64);
            let is_over = line.read_until(b'\n', &mut head)? == 0;
            let mut headers = [EMPTY_HEADER; MOST_HEADERS];
            let mut found = Response::new(&mut headers);
            match found.parse(&head) {
                Ok(Status::Complete(_)) => return Answer::frame(&found, stream),
                Ok(_) if is_over => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) if head.len() < LINE_LIMIT => {}
                Ok(_) => return Err(garbage("its head is too large")),
                Err(error) => return Err(garbage(&format!("not an HTTP answer ({error})"))),
            }
        }
    }

    /// RFC 9112, 6.3: chunked wins over a length, and a body without either ends with the connection.
    fn frame(head: &Response<'_, '_>, stream: BufReader<S>) -> io::Result<Answer<S>> {
        let headers = head.headers.iter().map(|header| {
            let value = String::from_utf8_lossy(header.value);
            let name = header.name.to_ascii_lowercase();
            (name, clean_line(&value, LONGEST_VALUE))
        });
        let mut answer = Answer {
            status: head.code.unwrap_or_default(),
            headers: headers.collect(),
            stream,
            is_chunked: false,
            left: Some(0),
        };
        let (coding, length) = ("transfer-encoding", "content-length");
        match (answer.status, answer.header(coding), answer.header(length)) {
            (204 | 304, ..) => {}
            (_, "chunked", _) => answer.is_chunked = true,
            (_, "", "") => answer.left = None,
            (_, "", length) => {
                let length = length.parse();
                answer.left = Some(length.map_err(|_| garbage("its length is no number"))?);
            }
            _ => return Err(garbage("unknown transfer encoding")),
        }
        Ok(answer)
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

    /// A line of chunk framing, without its end.
    fn read_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        let mut stream = self.stream.by_ref().take(LINE_LIMIT as u64);
        stream.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None if line.ends_with('\n') || stream.limit() == 0 => Err(garbage("no HTTP line")),
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
