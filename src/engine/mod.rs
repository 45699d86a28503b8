//! The container engine behind its Unix socket: typed calls in, outcomes out. What an engine answers in the normal course of
//! things (gone, already running, busy) is an outcome; an [`Error`] means that nothing, or nothing certain, is known.
//! Calls block their thread until their deadline at the latest; this file holds the one way every call takes.

mod call;
mod containers;
mod error;
mod http;
mod images;
mod lister;
mod socket;
mod stream;
#[cfg(test)]
mod tests;
mod types;

pub use containers::CreateOutcome;
pub use error::Error;
#[allow(unused_imports)]
pub use lister::Lister;
pub use stream::{EventStream, Progress};
pub use types::{Info, Inspected, Labels, Listed};

use call::{Reply, Request, exchange};
use error::Fault;
use http::{Decoder, Method};
use serde::de::DeserializeOwned;
use socket::{Connection, Deadline};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use types::{ApiVersion, Ping};

/// Every container of ours has it, whatever the instance.
pub const INSTANCE_LABEL: &str = "io.plancton.instance";

/// The newest version this client was written for: Docker 27. An engine that is newer is spoken to in this one.
const NEWEST_API: ApiVersion = ApiVersion(1, 47);
/// Docker 20.10 and Podman 4: the first to say which cgroup version they use.
const OLDEST_API: ApiVersion = ApiVersion(1, 41);

/// One engine; shared by the threads that call it.
#[derive(Debug)]
pub struct Engine {
    socket: PathBuf,
    timeout: Duration,
    /// Kept alive from call to call; those in parallel make their own.
    idle: Mutex<Option<Connection>>,
    /// `None` until asked, and again after an engine that was away or refused it: another one may have come back.
    version: Mutex<Option<ApiVersion>>,
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

impl Engine {
    /// `timeout` is each call's deadline, connecting included. Nothing is connected yet.
    pub fn new(socket: impl Into<PathBuf>, timeout: Duration) -> Engine {
        let (idle, version, counters) = Default::default();
        Engine {
            socket: socket.into(),
            timeout,
            idle,
            version,
            counters,
        }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn counters(&self) -> Counters {
        *lock(&self.counters)
    }

    /// Asks who is there and agrees on a version anew.
    pub fn ping(&self) -> Result<Ping, Error> {
        self.negotiate(&mut Deadline::whole(self.timeout))
    }

    pub fn info(&self) -> Result<Info, Error> {
        let info: Info = self
            .call(Request::new(Method::Get, "info", "/info"))?
            .ok()?
            .json()?;
        match info.server_version.is_empty() && info.cgroup_driver.is_empty() {
            true => Err(self.error("info", Fault::garbage("it says nothing about the engine"))),
            false => Ok(info),
        }
    }

    /// `/_ping` is never versioned. HEAD, then GET for engines that know only that.
    fn negotiate(&self, deadline: &mut Deadline) -> Result<Ping, Error> {
        let not_an_engine = |why: String| self.error("ping", Fault::NotAnEngine(why));
        let mut ping = |method| {
            let sent = self.send(Request::new(method, "ping", "/_ping"), "", deadline);
            sent.map_err(|error| match error.fault {
                Fault::Garbage(_) | Fault::TooLarge { .. } => {
                    not_an_engine(error.fault.to_string())
                }
                _ => error,
            })
        };
        let mut reply = ping(Method::Head)?;
        if reply.status() != 200 {
            reply = ping(Method::Get)?;
        }
        match reply.status() {
            200 => {}
            500.. => return Err(reply.refusal()),
            other => return Err(not_an_engine(format!("/_ping has status {other}"))),
        }
        let theirs = reply
            .head
            .header("api-version")
            .map_or(Ok(NEWEST_API), |text| {
                ApiVersion::parse(text)
                    .ok_or_else(|| not_an_engine(format!("'{text}' is not an API version")))
            })?;
        if theirs < OLDEST_API {
            let why = format!(
                "the engine is too old: it speaks API {theirs}, needed is {OLDEST_API} (Docker 20.10, Podman 4); update it"
            );
            return Err(self.error("ping", Fault::Version(why)));
        }
        let api_version = theirs.min(NEWEST_API);
        *lock(&self.version) = Some(api_version);
        Ok(Ping {
            api_version,
            server: reply.head.header("server").unwrap_or_default().to_owned(),
        })
    }

    /// `/v1.41` for the path of a versioned call.
    fn version_prefix(&self, deadline: &mut Deadline) -> Result<String, Error> {
        let known = *lock(&self.version);
        let version =
            known.map_or_else(|| self.negotiate(deadline).map(|ping| ping.api_version), Ok)?;
        Ok(format!("/v{version}"))
    }

    /// The one way of every versioned call.
    fn call(&self, request: Request<'_>) -> Result<Reply, Error> {
        let mut deadline = match request.activity {
            Some(allowed) => Deadline::per_step(allowed),
            None => Deadline::whole(self.timeout),
        };
        let prefix = self.version_prefix(&mut deadline)?;
        let reply = self.send(request, &prefix, &mut deadline)?;
        if reply.status() == 400
            && reply.says(&["is too old", "is too new"])
            && reply.says(&["client version"])
        {
            *lock(&self.version) = None;
            return Err(self.error(
                "version",
                Fault::Version(format!("no common API version: {}", reply.message())),
            ));
        }
        Ok(reply)
    }

    /// What there is to know about an object; `None` where a 404 says with one of the words that it is not there.
    fn find<T: DeserializeOwned>(
        &self,
        request: Request<'_>,
        gone: &[&str],
    ) -> Result<Option<T>, Error> {
        let reply = self.call(request)?;
        if reply.status() == 404 && reply.says(gone) {
            Ok(None)
        } else {
            reply.ok()?.json().map(Some)
        }
    }

    /// Changes an object; `gone` as in `find`.
    fn settle(&self, request: Request<'_>, gone: &[&str]) -> Result<Outcome, Error> {
        let reply = self.call(request)?;
        match reply.status() {
            200 | 204 | 304 => Ok(Outcome::Done),
            404 if reply.says(gone) => Ok(Outcome::Gone),
            409 => Ok(Outcome::Busy(reply.message())),
            // Docker before 23 for a race with the end, and for what is or is not paused already.
            500 if reply.says(&[
                "not running",
                "not paused",
                "already paused",
                "no such process",
            ]) =>
            {
                Ok(Outcome::Busy(reply.message()))
            }
            _ => Err(reply.refusal()),
        }
    }

    fn send(
        &self,
        mut request: Request<'_>,
        prefix: &str,
        deadline: &mut Deadline,
    ) -> Result<Reply, Error> {
        let begun = Instant::now();
        let result = self.send_repeated(&mut request, prefix, deadline);
        self.count(begun, result.is_err());
        result
    }

    fn count(&self, begun: Instant, failed: bool) {
        let mut counters = lock(&self.counters);
        counters.calls += 1;
        counters.failed += u64::from(failed);
        counters.time += begun.elapsed();
    }

    fn send_repeated(
        &self,
        request: &mut Request<'_>,
        prefix: &str,
        deadline: &mut Deadline,
    ) -> Result<Reply, Error> {
        let path = format!("{prefix}{}", request.path);
        let mut kept = if request.is_repeatable() {
            self.take_idle()
        } else {
            None
        };
        loop {
            let is_kept = kept.is_some();
            let mut connection = kept
                .take()
                .map_or_else(|| self.connect(&request.name, deadline), Ok)?;
            let mut head = Decoder::new(request.method, request.limit);
            match exchange(&mut connection, &mut head, request, &path, deadline) {
                Ok(body) => {
                    if head.is_reusable() {
                        *lock(&self.idle) = Some(connection);
                    }
                    return Ok(Reply {
                        call: self.named(&request.name),
                        head,
                        body,
                    });
                }
                // It was dead before a byte of the answer came: once more, on a fresh one.
                Err(Fault::Closed(_) | Fault::Truncated(_)) if is_kept && !head.is_started() => {}
                Err(fault) => return Err(self.error(&request.name, fault)),
            }
        }
    }

    fn connect(&self, name: &str, deadline: &Deadline) -> Result<Connection, Error> {
        Connection::open(&self.socket, deadline).map_err(|fault| {
            *lock(&self.version) = None;
            self.error(name, fault)
        })
    }

    /// Anything to read between two calls is an end, or an answer to nothing.
    fn take_idle(&self) -> Option<Connection> {
        lock(&self.idle).take().filter(Connection::is_quiet)
    }

    /// A call, for messages.
    fn named(&self, name: &str) -> String {
        format!("{}: {name}", self.socket.display())
    }

    fn error(&self, name: &str, fault: Fault) -> Error {
        Error::new(&self.socket, name, fault)
    }
}

/// A thread that panicked left nothing half-done behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
