//! The container engine behind its Unix socket: typed calls in, outcomes out. What an engine answers in the normal course of
//! things (gone, already running, busy) is an outcome; an [`Error`] means that nothing, or nothing certain, is known.
//! Each call has a connection of its own and blocks its thread until its deadline at the latest; this file holds the one
//! way that all of them take.

mod calls;
mod http;
mod socket;
#[cfg(test)]
mod tests;
mod types;

pub use calls::CreateOutcome;
pub use types::{Error, Info, Inspected, Labels, Listed};

use crate::units::{clean_line, format_duration};
use http::Answer;
use serde::de::DeserializeOwned;
use serde_json::{Deserializer, Value};
use socket::{Connection, explain_refusal};
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Of the API, 1.47: what this client was written for, Docker 27. An engine that is newer is spoken to in this one.
const NEWEST_MINOR: u16 = 47;
/// Docker 20.10 and Podman 4: the first to say which cgroup version they use.
const OLDEST_MINOR: u16 = 41;

/// Of the body of any answer: a list of ten thousand pilots, or a pilot's log with the framing of its lines.
const ANSWER_LIMIT: u64 = 16 << 20;
/// Of one object in a stream: an event with long labels has a few KiB.
const OBJECT_LIMIT: u64 = 1 << 20;
/// The engine's own words are cut here, in characters.
const LONGEST_MESSAGE: usize = 1000;

/// One engine; shared by the threads that call it.
#[derive(Debug, Default)]
pub struct Engine {
    socket: PathBuf,
    timeout: Duration,
    /// `None` until asked, and again after an engine that was away or refused it: another one may have come back.
    version: Mutex<Option<String>>,
    /// It has no init program: containers are made without.
    lacks_init: AtomicBool,
    counters: Mutex<Counters>,
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub calls: u64,
    /// Without any answer that could be used; an outcome such as "gone" is no failure.
    pub failed: u64,
    /// Spent in calls.
    pub time: Duration,
}

/// What came of a call that changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Or it was so already.
    Done,
    /// There is no such object (any more).
    Gone,
    /// Not in its present state (ended, paused, running, in use, being removed); the engine's words.
    Busy(String),
}

struct Request<'a> {
    method: &'static str,
    /// For messages: `start 0123456789ab`.
    call: String,
    /// Without the version, percent-encoded.
    path: String,
    /// Whole lines.
    headers: String,
    body: Box<dyn Read + 'a>,
    /// Bytes of the body.
    length: u64,
    /// Instead of one deadline: how long nothing may move.
    idle: Option<Duration>,
}

impl<'a> Request<'a> {
    fn new(method: &'static str, call: impl Into<String>, path: impl Into<String>) -> Request<'a> {
        Request {
            method,
            call: call.into(),
            path: path.into(),
            headers: String::new(),
            body: Box::new(io::empty()),
            length: 0,
            idle: None,
        }
    }

    fn with_body(mut self, kind: &str, body: impl Read + 'a, length: usize) -> Request<'a> {
        self.headers = format!("Content-Type: {kind}\r\n");
        self.length = u64::try_from(length).unwrap_or(u64::MAX);
        self.body = Box::new(body);
        self
    }

    fn send(&mut self, mut stream: &UnixStream, prefix: &str) -> io::Result<()> {
        let (method, path, headers) = (self.method, &self.path, &self.headers);
        let head = format!(
            "{method} {prefix}{path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: plancton\r\nConnection: close\r\n\
             {headers}Content-Length: {}\r\n\r\n",
            self.length
        );
        stream.write_all(head.as_bytes())?;
        match io::copy(&mut self.body.by_ref().take(self.length), &mut stream) {
            Ok(count) if count < self.length => {
                Err(io::Error::other("the file has become shorter"))
            }
            // An engine may refuse and close before it has read everything: its answer says why, the failed write does not.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }
}

type EachObject<'a> = &'a mut dyn FnMut(Value) -> io::Result<()>;

impl Engine {
    /// `timeout` is each call's deadline, connecting included. Nothing is connected yet.
    pub fn new(socket: impl Into<PathBuf>, timeout: Duration) -> Engine {
        Engine {
            socket: socket.into(),
            timeout,
            ..Engine::default()
        }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn counters(&self) -> Counters {
        *lock(&self.counters)
    }

    /// The server (`Docker/20.10.24 (linux)`, or empty) and the version that both sides speak, agreed on anew.
    pub fn ping(&self) -> Result<(String, String), Error> {
        let answer = match self.open(&mut Request::new("GET", "ping", "/_ping")) {
            Err(Error::Refused(_, status @ ..500, _)) => {
                return Err(self.not_an_engine(&format!("/_ping has status {status}")));
            }
            other => other?,
        };
        let header = |name| clean_line(answer.header(name).unwrap_or_default(), 100);
        let theirs = header("api-version");
        let minor = match theirs.strip_prefix("1.").map(str::parse) {
            _ if theirs.is_empty() => NEWEST_MINOR,
            Some(Ok(minor)) => minor,
            _ => return Err(self.not_an_engine(&format!("'{theirs}' is not an API version"))),
        };
        if minor < OLDEST_MINOR {
            return Err(self.unreachable(&format!(
                "the engine is too old: it speaks API {theirs}, needed is 1.{OLDEST_MINOR} (Docker 20.10, Podman 4); update it"
            )));
        }
        let version = format!("1.{}", minor.min(NEWEST_MINOR));
        *lock(&self.version) = Some(version.clone());
        Ok((header("server"), version))
    }

    /// The body of a success.
    fn read(&self, mut request: Request<'_>) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        let answer = self.open(&mut request)?;
        let read = answer.take(ANSWER_LIMIT).read_to_end(&mut body);
        read.map_err(|error| self.broken_off(&request, &error))?;
        Ok(body)
    }

    fn ask<T: DeserializeOwned>(&self, request: Request<'_>) -> Result<T, Error> {
        let call = self.named(&request.call);
        let unreadable = |error| Error::ReplyLost(format!("{call}: unreadable answer: {error}"));
        serde_json::from_slice(&self.read(request)?).map_err(unreadable)
    }

    /// What there is to know about an object; `None`: it is not there.
    fn find<T: DeserializeOwned>(&self, request: Request<'_>) -> Result<Option<T>, Error> {
        match self.ask(request) {
            Err(Error::Refused(_, 404, why)) if is_gone(&why) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Changes an object.
    fn settle(&self, request: Request<'_>) -> Result<Outcome, Error> {
        // Docker before 23 says 500 for a race with the end, and for what is or is not paused already.
        let busy = ["not running", "paused", "no such process"];
        match self.read(request) {
            Ok(_) => Ok(Outcome::Done),
            Err(Error::Refused(_, 404, why)) if is_gone(&why) => Ok(Outcome::Gone),
            Err(Error::Refused(_, 409, why)) => Ok(Outcome::Busy(why)),
            Err(Error::Refused(_, 500, why)) if busy.iter().any(|word| why.contains(word)) => {
                Ok(Outcome::Busy(why))
            }
            Err(error) => Err(error),
        }
    }

    /// Gives the JSON objects of a stream to `each`; the engine splits and joins them across chunks at will.
    fn stream(&self, mut request: Request<'_>, each: EachObject<'_>) -> Result<(), Error> {
        let mut stream = BufReader::new(self.open(&mut request)?);
        loop {
            let object = stream.by_ref().take(OBJECT_LIMIT);
            let next = Deserializer::from_reader(object).into_iter().next();
            let Some(object) = next else {
                return Ok(());
            };
            let taken = object.map_err(io::Error::from).and_then(&mut *each);
            taken.map_err(|error| self.broken_off(&request, &error))?;
        }
    }

    /// Asks over a connection of its own. What comes back is a success, with its body still to be read.
    fn open(&self, request: &mut Request<'_>) -> Result<Answer<Connection>, Error> {
        // Who is there is asked without a version.
        let known = lock(&self.version).clone();
        let prefix = match known {
            _ if request.call == "ping" => String::new(),
            Some(version) => format!("/v{version}"),
            None => format!("/v{}", self.ping()?.1),
        };
        let begun = Instant::now();
        let answered = self.connect(request.idle).and_then(|connection| {
            let sent = request.send(&connection.stream, &prefix);
            let received = sent.and_then(|()| Answer::receive(connection));
            received.map_err(|error| self.broken_off(request, &error))
        });
        let mut counters = lock(&self.counters);
        counters.calls += 1;
        counters.time += begun.elapsed();
        drop(counters);
        let mut answer = answered?;
        if matches!(answer.status, 200..=204 | 304) {
            return Ok(answer);
        }
        let mut body = Vec::new();
        let read = answer.by_ref().take(ANSWER_LIMIT).read_to_end(&mut body);
        read.map_err(|error| self.broken_off(request, &error))?;
        let why = message(&body);
        if answer.status == 400 && why.contains("client version") && why.contains("is too ") {
            *lock(&self.version) = None;
            return Err(self.unreachable(&format!("no common API version: {why}")));
        }
        Err(Error::Refused(
            self.named(&request.call),
            answer.status,
            why,
        ))
    }

    fn connect(&self, idle: Option<Duration>) -> Result<Connection, Error> {
        Connection::open(&self.socket, self.timeout, idle).map_err(|error| {
            *lock(&self.version) = None;
            lock(&self.counters).failed += 1;
            let allowed = format_duration(self.timeout);
            self.unreachable(&match error.kind() {
                ErrorKind::WouldBlock => format!("no connection within {allowed}"),
                _ => explain_refusal(&self.socket, &error),
            })
        })
    }

    /// What our own side says of an answer has the kind `Other`.
    fn broken_off(&self, request: &Request<'_>, error: &io::Error) -> Error {
        lock(&self.counters).failed += 1;
        let allowed = format_duration(request.idle.unwrap_or(self.timeout));
        let why = match error.kind() {
            ErrorKind::Other => {
                return Error::Refused(self.named(&request.call), 200, error.to_string());
            }
            ErrorKind::InvalidData if request.call == "ping" => {
                return self.not_an_engine(&error.to_string());
            }
            ErrorKind::InvalidData => format!("unreadable answer: {error}"),
            ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("no answer within {allowed}"),
            ErrorKind::UnexpectedEof => "connection lost: the answer is cut off".to_owned(),
            _ => format!("connection lost: {error}"),
        };
        Error::ReplyLost(self.named(&format!("{}: {why}", request.call)))
    }

    fn unreachable(&self, why: &str) -> Error {
        Error::Unreachable(self.named(why))
    }

    fn not_an_engine(&self, why: &str) -> Error {
        self.unreachable(&format!(
            "not a container engine: {why}; name its socket with --engine"
        ))
    }

    /// A call, for messages.
    fn named(&self, call: &str) -> String {
        format!("{}: {call}", self.socket.display())
    }
}

/// The engine's own words: `{"message": …}` or plain text.
fn message(body: &[u8]) -> String {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let plain = String::from_utf8_lossy(body);
    let field = json.get("message").and_then(Value::as_str);
    match clean_line(field.unwrap_or(&plain), LONGEST_MESSAGE) {
        text if text.is_empty() => "refused without a reason".to_owned(),
        text => text,
    }
}

/// A 404 of a proxy or of an unknown path says nothing about the object: the engine's own names it.
fn is_gone(why: &str) -> bool {
    let why = why.to_lowercase();
    let words = ["no such container", "no container with", "image"];
    words.iter().any(|word| why.contains(word))
}

/// A thread that panicked left nothing half-done behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
