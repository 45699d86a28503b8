//! The container engine behind its Unix socket: typed calls in, outcomes out. What an engine answers in the normal course of
//! things (gone, already running, busy) is an outcome; an [`Error`] means that nothing, or nothing certain, is known.
//! Calls block their thread until their deadline at the latest; this file holds the one way every call takes.

mod call;
mod containers;
mod error;
mod events;
mod http;
mod images;
mod socket;
mod stream;
#[cfg(test)]
mod tests;
mod types;

pub use containers::{ControlOutcome, CreateOutcome, Force, RemoveOutcome, StartOutcome, UpdateOutcome};
pub use error::{Error, Stage};
pub use events::EventStream;
pub use images::{ImageRemoveOutcome, Imported};
pub use stream::Progress;
pub use types::{ApiVersion, Event, Image, Info, Inspected, Listed, Ping, State};

use call::{Repeat, Reply, Request, exchange};
use http::Method;
use socket::{Connection, Deadline};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Every container of ours has it, whatever the instance.
pub const INSTANCE_LABEL: &str = "io.plancton.instance";

/// The newest version this client was written for: Docker 27. An engine that is newer is spoken to in this one.
pub const NEWEST_API: ApiVersion = ApiVersion { major: 1, minor: 47 };
/// Docker 20.10 and Podman 4: the first to say which cgroup version they use.
pub const OLDEST_API: ApiVersion = ApiVersion { major: 1, minor: 41 };

/// More are not worth keeping: calls in parallel are a tick's few starts.
const MOST_IDLE: usize = 4;

/// One engine; shared by the threads that call it.
#[derive(Debug)]
pub struct Engine {
    socket: PathBuf,
    timeout: Duration,
    idle: Mutex<Vec<Connection>>,
    /// `None` until asked, and again after an engine that was away or refused it: another one may have come back.
    version: Mutex<Option<ApiVersion>>,
    calls: AtomicU64,
    failed: AtomicU64,
    micros: AtomicU64,
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub calls: u64,
    /// Without any answer that could be used; an outcome such as "gone" is no failure.
    pub failed: u64,
    /// Microseconds spent in calls.
    pub micros: u64,
}

impl Engine {
    /// `timeout` is each call's deadline, connecting included. Nothing is connected yet.
    pub fn new(socket: impl Into<PathBuf>, timeout: Duration) -> Engine {
        Engine {
            socket: socket.into(),
            timeout,
            idle: Mutex::default(),
            version: Mutex::default(),
            calls: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            micros: AtomicU64::new(0),
        }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What both sides speak; `None` when it has to be negotiated.
    pub fn api_version(&self) -> Option<ApiVersion> {
        *lock(&self.version)
    }

    pub fn counters(&self) -> Counters {
        Counters {
            calls: self.calls.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            micros: self.micros.load(Ordering::Relaxed),
        }
    }

    /// Asks who is there and agrees on a version anew.
    pub fn ping(&self) -> Result<Ping, Error> {
        self.negotiate(&mut Deadline::whole(self.timeout))
    }

    pub fn info(&self) -> Result<Info, Error> {
        let reply = self.call(Request::new(Method::Get, "info", "/info"))?;
        match reply.status() {
            200 => reply.json(),
            _ => Err(reply.refusal()),
        }
    }

    /// `/_ping` is never versioned. HEAD, then GET for engines that know only that.
    fn negotiate(&self, deadline: &mut Deadline) -> Result<Ping, Error> {
        let socket = || self.socket.clone();
        let not_an_engine = |why: String| Error::NotAnEngine { socket: socket(), why };
        let mut ping = |method| {
            let sent = self.send(Request::new(method, "ping", "/_ping"), "", deadline);
            sent.map_err(|error| match error {
                Error::Garbage { why, .. } => not_an_engine(why),
                Error::TooLarge { limit, .. } => not_an_engine(format!("over {limit} bytes sent")),
                other => other,
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
        let theirs = reply.head.header("api-version").map_or(Ok(NEWEST_API), |text| {
            ApiVersion::parse(text).ok_or_else(|| not_an_engine(format!("'{text}' is not an API version")))
        })?;
        if theirs < OLDEST_API {
            return Err(Error::Version {
                socket: socket(),
                why: format!(
                    "the engine is too old: it speaks API {theirs}, needed is {OLDEST_API} (Docker 20.10, Podman 4); update it"
                ),
            });
        }
        let version = theirs.min(NEWEST_API);
        *lock(&self.version) = Some(version);
        Ok(Ping {
            api_version: version,
            server: reply.head.header("server").unwrap_or_default().to_owned(),
            os: reply.head.header("ostype").map(str::to_owned),
        })
    }

    /// `/v1.41` for the path of a versioned call.
    fn version_prefix(&self, deadline: &mut Deadline) -> Result<String, Error> {
        let version = match self.api_version() {
            Some(version) => version,
            None => self.negotiate(deadline)?.api_version,
        };
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
        let is_about_version =
            reply.status() == 400 && reply.says(&["is too old", "is too new"]) && reply.says(&["client version"]);
        if is_about_version {
            *lock(&self.version) = None;
            return Err(Error::Version {
                socket: self.socket.clone(),
                why: format!("no common API version: {}", reply.message()),
            });
        }
        Ok(reply)
    }

    fn send(&self, mut request: Request<'_>, prefix: &str, deadline: &mut Deadline) -> Result<Reply, Error> {
        let begun = Instant::now();
        let call = self.call_name(&request.name);
        let path = format!("{prefix}{}", request.path);
        let result = self.send_repeated(&mut request, &path, &call, deadline);
        self.calls.fetch_add(1, Ordering::Relaxed);
        if result.is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        result
    }

    fn send_repeated(
        &self,
        request: &mut Request<'_>,
        path: &str,
        call: &str,
        deadline: &mut Deadline,
    ) -> Result<Reply, Error> {
        let mut kept = match request.repeat {
            Repeat::Once => self.take_idle(),
            Repeat::Never => None,
        };
        loop {
            let is_kept = kept.is_some();
            let connection = match kept.take() {
                Some(connection) => connection,
                None => self.connect(call, deadline)?,
            };
            match exchange(connection, request, path, call, deadline) {
                Ok((reply, connection)) => {
                    self.keep(connection);
                    return Ok(reply);
                }
                Err(broken) if broken.is_stale && is_kept => lock(&self.idle).clear(),
                Err(broken) => return Err(broken.error),
            }
        }
    }

    fn keep(&self, connection: Option<Connection>) {
        let mut idle = lock(&self.idle);
        if idle.len() < MOST_IDLE {
            idle.extend(connection);
        }
    }

    fn connect(&self, call: &str, deadline: &Deadline) -> Result<Connection, Error> {
        Connection::open(&self.socket, deadline).map_err(|error| {
            *lock(&self.version) = None;
            lock(&self.idle).clear();
            Error::connecting(&self.socket, call, deadline.allowed, &error)
        })
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = lock(&self.idle);
        while let Some(connection) = idle.pop() {
            // Anything to read between two calls is an end, or an answer to nothing.
            if connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    fn call_name(&self, name: &str) -> String {
        format!("{}: {name}", self.socket.display())
    }
}

/// A thread that panicked left nothing half-done behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
