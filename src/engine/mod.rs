//! The container engine behind its Unix socket: typed calls in, what they bring out. What an engine answers in the normal
//! course of things (gone, paused already) is no [`Error`]: that means a refusal, or that nothing certain is known.
//! Each call has a connection of its own and blocks its thread until its deadline at the latest. A 200 to what brings
//! images comes before the work is done: whether the image is there is for the caller to look at afterwards.

mod http;
#[cfg(test)]
pub mod tests;
mod types;

pub use types::*;

use crate::config::Image;
use crate::units::{PilotId, clean_line, clean_text, format_duration, lock};
use http::{Answer, NAME, Request, encode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use std::{collections::BTreeMap, fs::File};

/// Of the API, 1.47: what this client was written for, Docker 27. An engine that is newer is spoken to in this one.
const NEWEST_MINOR: u16 = 47;
/// Docker 20.10 and Podman 4: the first to say which cgroup version they use.
const OLDEST_MINOR: u16 = 41;

/// Of one object in a stream: an event with long labels has a few KiB.
const OBJECT_LIMIT: u64 = 1 << 20;
/// The engine's own words are cut here, in characters.
const LONGEST_MESSAGE: usize = 1000;

const PING: &str = "GET /_ping";

/// The engine's words for a pilot's end, or what precedes it: Docker's, Podman's and both's.
const END_ACTIONS: [&str; 3] = ["die", "died", "oom"];
/// A stream of events that was quiet for so long is asked for again: it may hang.
const QUIET: Duration = Duration::from_secs(3_600);

/// One engine; shared by the threads that call it.
#[derive(Debug, Default)]
pub struct Engine {
    pub socket: PathBuf,
    timeout: Duration,
    /// Minor version of the API. 0 until asked, and again after an engine that was away or refused it: another one may
    /// have come back.
    minor: AtomicU16,
    counters: Mutex<Counters>,
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub calls: u64,
    /// Without any answer that could be used; an outcome such as "gone" is no failure.
    pub failed: u64,
    /// Spent in calls, up to the heads of their answers.
    pub time: Duration,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Told of each step of a download: the layer, its bytes so far and in all (0: unknown). An error ends it.
pub type OnProgress<'a> = &'a mut dyn FnMut(&str, u64, u64) -> Result<(), String>;

fn request<'a>(call: impl Into<String>, line: impl Into<String>) -> Request<'a> {
    Request {
        call: call.into(),
        line: line.into(),
        ..Request::default()
    }
}

fn container<'a>(method: &str, verb: &str, id: &PilotId, tail: &str) -> Request<'a> {
    let line = format!("{method} /containers/{}{tail}", id.as_str());
    request(format!("{verb} {id}"), line)
}

fn image<'a>(method: &str, verb: &str, name: &str, tail: &str) -> Request<'a> {
    let line = format!("{method} /images/{}{tail}", encode(name));
    request(format!("{verb} {name}"), line)
}

/// What the engine says about those that pass all filters.
fn filtered<'a>(call: &str, path: &str, filters: &Value) -> Request<'a> {
    let filters = encode(&filters.to_string());
    request(call, format!("GET {path}filters={filters}"))
}

impl Engine {
    /// `timeout` is each call's deadline, connecting included. Nothing is connected yet.
    pub fn new(socket: impl Into<PathBuf>, timeout: Duration) -> Engine {
        Engine {
            socket: socket.into(),
            timeout,
            ..Engine::default()
        }
    }

    pub fn counters(&self) -> MutexGuard<'_, Counters> {
        lock(&self.counters)
    }

    /// The server (`Docker/20.10.24 (linux)`, or empty) and the minor version that both sides speak, agreed on anew.
    pub fn ping(&self) -> Result<(String, u16)> {
        let (server, theirs) = self.call(request("ping", PING), |answer| {
            let header = |name| answer.header(name).to_owned();
            Ok((header("server"), header("api-version")))
        })?;
        let minor = theirs.strip_prefix("1.");
        let minor = match minor.and_then(|minor| minor.parse().ok()) {
            None if theirs.is_empty() => NEWEST_MINOR,
            Some(minor @ OLDEST_MINOR..) => NEWEST_MINOR.min(minor),
            _ => {
                let oldest = format!("1.{OLDEST_MINOR} (Docker 20.10, Podman 4)");
                let why = format!("it speaks API '{theirs}', not {oldest} or newer; update it");
                return Err(self.unreachable(&why));
            }
        };
        self.minor.store(minor, Relaxed);
        Ok((server, minor))
    }

    pub fn info(&self) -> Result<Info> {
        self.ask(request("info", "GET /info"))
    }

    /// All containers with our label, of all instances and in all states.
    pub fn list(&self) -> Result<Vec<Listed>> {
        Ok(self.list_changes(&mut Vec::new())?.unwrap_or_default())
    }

    /// `None`: the engine's answer is the `last` one, byte for byte, which spares reading it. Else it replaces that.
    pub fn list_changes(&self, last: &mut Vec<u8>) -> Result<Option<Vec<Listed>>> {
        let ours = json!({"label": [INSTANCE_LABEL]});
        self.call(
            filtered("list", "/containers/json?all=1&", &ours),
            |answer| {
                let text = answer.read_all()?;
                if !text.is_empty() && is_same(&text, last) {
                    return Ok(None);
                }
                let mut listed: Vec<Listed> = serde_json::from_slice(&text)?;
                // Old Podman ignores the filter.
                listed.retain(|container| container.labels.instance.is_some());
                *last = text;
                Ok(Some(listed))
            },
        )
    }

    /// Blocks while the engine's stream of events lasts, and tells the id of each pilot that ends. A hint only: engines
    /// drop events and streams hang, so the truth is the list. Some engines send not even a head before the first event.
    pub fn follow_events(&self, on_end: &mut dyn FnMut(&str)) -> Result<()> {
        let filters = json!({"event": END_ACTIONS, "label": [INSTANCE_LABEL]});
        let mut request = filtered("events", "/events?", &filters);
        request.idle = Some(QUIET);
        self.stream(request, |event| {
            let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
            let is_end = text("/Action").is_some_and(|action| END_ACTIONS.contains(&action));
            let is_ours = text("/Actor/Attributes/io.plancton.instance").is_some();
            if let Some(id) = text("/Actor/ID").filter(|_| is_ours && is_end) {
                on_end(id);
            }
            Ok(())
        })
    }

    /// `None` when there is no such container.
    pub fn inspect(&self, id: &PilotId) -> Result<Option<Inspected>> {
        if_there(self.ask(container("GET", "inspect", id, "/json")))
    }

    /// `None`: there is no such image. After a lost reply the container may exist, and is found by its name. Without an
    /// init program, where the engine finds only now that it has none (Podman).
    pub fn create(&self, name: &str, mut body: Value) -> Result<Option<Created>> {
        let text = body.to_string();
        let line = format!("POST /containers/create?name={}", encode(name));
        let mut bytes = text.as_bytes();
        let mut request = request(format!("create {name}"), line);
        request.headers = "Content-Type: application/json\r\n".to_owned();
        request.body = Some((&mut bytes, text.len() as u64));
        let created = self.ask(request);
        let init = body.pointer_mut("/HostConfig/Init");
        let wants_init = || init.map(Value::take) == Some(Value::Bool(true));
        match created {
            Err(Error::Refused(_, 404, why)) if why.to_lowercase().contains("image") => Ok(None),
            Err(Error::Refused(_, _, why)) if why.contains("init binary") && wants_init() => {
                self.create(name, body)
            }
            created => created.map(Some),
        }
    }

    /// Takes seconds while the owner uses every core.
    pub fn start(&self, id: &PilotId) -> Result<()> {
        self.done(container("POST", "start", id, "/start"))
    }

    /// `KILL`, `SIGRTMIN+3`.
    pub fn kill(&self, id: &PilotId, signal: &str) -> Result<()> {
        self.tell(id, &format!("kill?signal={}", encode(signal)))
    }

    /// `pause`, `unpause`, without waiting for what comes of it. That a pilot has ended, or is paused
    /// already, is shown by the next list; Docker before 23 says 500 for it, and so does Podman 4 at times of what it
    /// has killed ("timed out waiting for file", whose exit it has dealt with already).
    pub fn tell(&self, id: &PilotId, what: &str) -> Result<()> {
        let words = ["not running", "paused", "no such process", "for file"];
        let is_so = |why: &str| words.iter().any(|so| why.contains(so));
        match if_there(self.done(container("POST", what, id, &format!("/{what}")))) {
            Err(Error::Refused(_, 409, _)) => Ok(()),
            Err(Error::Refused(_, 500, why)) if is_so(&why) => Ok(()),
            result => result.map(drop),
        }
    }

    /// With its volumes, always; a running one is killed first. It is gone then, or on its way.
    pub fn remove(&self, id: &PilotId) -> Result<()> {
        match if_there(self.done(container("DELETE", "remove", id, "?v=1&force=1"))) {
            Err(Error::Refused(_, 409, why)) if why.contains("already in progress") => Ok(()),
            result => result.map(drop),
        }
    }

    /// The last `lines`, of both outputs, without the engine's framing; at most the last `most` bytes, cleaned.
    pub fn logs(&self, id: &PilotId, lines: usize, most: usize) -> Result<String> {
        let query = format!("/logs?stdout=1&stderr=1&tail={lines}");
        let log = self.call(container("GET", "log", id, &query), Answer::read_all)?;
        let mut log = strip_frames(&log);
        log.drain(..log.len().saturating_sub(most));
        Ok(clean_text(&String::from_utf8_lossy(&log), most))
    }

    /// `None` when it is not there. `name` is a reference or an id.
    pub fn image(&self, name: &str) -> Result<Option<Inspected>> {
        if_there(self.ask(image("GET", "inspect image", name, "/json")))
    }

    /// Never forced: an image that any container uses stays, which is a refusal with 409.
    pub fn image_remove(&self, name: &str) -> Result<()> {
        if_there(self.done(image("DELETE", "remove image", name, ""))).map(drop)
    }

    /// Makes an image of a file tree. `changes` are instructions such as `ENTRYPOINT ["/plancton"]`.
    pub fn import(&self, repo: &str, tag: &str, changes: &[&str], tar: &[u8]) -> Result<()> {
        let named = format!("repo={}&tag={}", encode(repo), encode(tag));
        let change = |change: &&str| format!("&changes={}", encode(change));
        let changes: String = changes.iter().map(change).collect();
        let line = format!("POST /images/create?fromSrc=-&{named}{changes}");
        let call = format!("import {repo}:{tag}");
        let id = self.upload(&call, &line, (&mut &*tar, tar.len() as u64))?;
        // Podman ignores the name of an import.
        self.done(image("POST", "tag", &id, &format!("/tag?{named}")))
    }

    /// The images in a file of `docker save`, under the names they have there.
    pub fn load(&self, mut file: &File, length: u64) -> Result<()> {
        self.upload("load", "POST /images/load?quiet=1", (&mut file, length))
            .map(drop)
    }

    fn upload(&self, call: &str, line: &str, tar: (&mut dyn Read, u64)) -> Result<String> {
        let mut request = request(call, line);
        request.headers = "Content-Type: application/x-tar\r\n".to_owned();
        request.body = Some(tar);
        self.transfer(request, &mut |_, _, _| Ok(()))
    }

    /// `auth` is the whole value of X-Registry-Auth. Gives up when nothing moves for four time-outs: registries make it wait.
    pub fn pull(&self, image: &Image, auth: Option<&str>, told: OnProgress<'_>) -> Result<()> {
        let (name, tag) = (encode(&image.name), encode(&image.tag));
        let line = format!("POST /images/create?fromImage={name}&tag={tag}");
        let mut request = request(format!("pull {image}"), line);
        if let Some(auth) = auth {
            request.headers = format!("X-Registry-Auth: {auth}\r\n");
        }
        self.transfer(request, told).map(drop)
    }

    /// A call whose answer is a stream of progress; returns its last status text, or fails with its first failure: Docker
    /// says `errorDetail` and `error`; Podman, before any progress, only `message`.
    fn transfer(&self, mut request: Request, told: OnProgress<'_>) -> Result<String> {
        request.idle = Some(4 * self.timeout);
        let mut last = String::new();
        self.stream(request, |step| {
            let text = |pointer: &str| step.pointer(pointer).and_then(Value::as_str);
            let status = text("/status").unwrap_or_default();
            let message = text("/message").filter(|_| status.is_empty());
            let mut failures = [text("/errorDetail/message"), text("/error"), message].into_iter();
            if let Some(why) = failures.find_map(|why| why.filter(|why| !why.is_empty())) {
                return Err(io::Error::other(clean_line(why, LONGEST_MESSAGE)));
            }
            last = status.to_owned();
            if status == "Downloading" {
                let bytes = |pointer| step.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
                let (done, total) = ("/progressDetail/current", "/progressDetail/total");
                let layer = text("/id").unwrap_or_default();
                told(layer, bytes(done), bytes(total)).map_err(io::Error::other)?;
            }
            Ok(())
        })?;
        Ok(last)
    }

    fn done(&self, request: Request) -> Result<()> {
        self.call(request, Answer::read_all).map(drop)
    }

    fn ask<T: DeserializeOwned>(&self, request: Request) -> Result<T> {
        let read = |answer: Answer| Ok(serde_json::from_slice(&answer.read_all()?)?);
        self.call(request, read)
    }

    /// Gives the JSON objects of a stream to `each`; the engine splits and joins them across chunks at will.
    fn stream<F: FnMut(Value) -> io::Result<()>>(&self, asked: Request, mut each: F) -> Result<()> {
        self.call(asked, |answer| {
            let mut stream = BufReader::new(answer);
            loop {
                let object = stream.by_ref().take(OBJECT_LIMIT);
                let mut objects = serde_json::Deserializer::from_reader(object).into_iter();
                match objects.next() {
                    Some(object) => each(object?)?,
                    None => return Ok(()),
                }
            }
        })
    }

    /// The one way that all calls take. `take` reads what a success brings.
    fn call<T, F: FnOnce(Answer) -> io::Result<T>>(
        &self,
        mut request: Request,
        take: F,
    ) -> Result<T> {
        // Who is there is asked without a version.
        let prefix = match self.minor.load(Relaxed) {
            _ if request.line == PING => String::new(),
            0 => format!("/v1.{}", self.ping()?.1),
            minor => format!("/v1.{minor}"),
        };
        let begun = Instant::now();
        let answered = request.send(&self.socket, self.timeout, &prefix);
        let took = begun.elapsed();
        let taken = answered.and_then(|answer| match answer.status {
            200..=204 | 304 => take(answer).map(Ok),
            status => Ok(Err((status, message(&answer.read_all()?)))),
        });
        let mut counters = self.counters();
        counters.calls += 1;
        counters.time += took;
        counters.failed += u64::from(taken.is_err());
        drop(counters);
        let taken = taken.map_err(|error| self.failed(&request, &error))?;
        taken.map_err(|(status, why)| Error::Refused(self.named(&request.call), status, why))
    }

    /// What our own side says of an answer has the kind `Other`.
    fn failed(&self, request: &Request, error: &io::Error) -> Error {
        let call = self.named(&request.call);
        let allowed = format_duration(request.idle.unwrap_or(self.timeout));
        let why = match error.kind() {
            ErrorKind::NotConnected => return self.unreachable(&error.to_string()),
            ErrorKind::Other => return Error::Refused(call, 200, error.to_string()),
            ErrorKind::InvalidData if request.line == PING => {
                return self.unreachable(&format!("not a container engine: {error}; {NAME}"));
            }
            ErrorKind::InvalidData => format!("unreadable answer: {error}"),
            ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("no answer within {allowed}"),
            ErrorKind::UnexpectedEof => "connection lost: the answer is cut off".to_owned(),
            _ => format!("connection lost: {error}"),
        };
        Error::ReplyLost(format!("{call}: {why}"))
    }

    /// It is asked anew for its version then.
    fn unreachable(&self, why: &str) -> Error {
        self.minor.store(0, Relaxed);
        Error::Unreachable(self.named(why))
    }

    /// A call, for messages.
    fn named(&self, call: &str) -> String {
        format!("{}: {call}", self.socket.display())
    }
}

/// Sixteen bytes at a time: musl's memcmp compares each on its own.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let ((ones, rest), (others, other_rest)) = (one.as_chunks::<16>(), other.as_chunks::<16>());
    let same = |(one, other): (&[u8; 16], &[u8; 16])| {
        u128::from_ne_bytes(*one) == u128::from_ne_bytes(*other)
    };
    one.len() == other.len() && ones.iter().zip(others).all(same) && rest == other_rest
}

/// The engine's own words: `{"message": …}` or plain text.
fn message(body: &[u8]) -> String {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let plain = String::from_utf8_lossy(body);
    let words = json.get("message").and_then(Value::as_str);
    match clean_line(words.unwrap_or(&plain), LONGEST_MESSAGE) {
        text if text.is_empty() => "refused without a reason".to_owned(),
        text => text,
    }
}

/// `None`: there is no such object. A 404 of a proxy or of an unknown path says nothing about it: the engine's own names it.
fn if_there<T>(result: Result<T>) -> Result<Option<T>> {
    let words = ["no such container", "no container with", "image"];
    match result {
        Err(Error::Refused(_, 404, why))
            if words.iter().any(|word| why.to_lowercase().contains(word)) =>
        {
            Ok(None)
        }
        other => other.map(Some),
    }
}

/// Takes the framing off a log: 8 bytes before each piece (stream, three zeros, length). A container with a terminal logs
/// raw, and what has no framing stays as it is.
fn strip_frames(mut log: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    while let [0..=2, 0, 0, 0, a, b, c, d, rest @ ..] = log {
        let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
        let (piece, rest) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        text.extend_from_slice(piece);
        log = rest;
    }
    text.extend_from_slice(log);
    text
}
