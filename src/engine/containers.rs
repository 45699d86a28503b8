//! The calls about containers, each status mapped to an outcome or to an error in the engine's own words.
//! A 404 counts as "gone" only where the engine names a container: a wrong path or a proxy says nothing about pilots.

use super::call::{Body, MIB, Repeat, Reply, Request};
use super::error::Error;
use super::http::{Method, encode_percent};
use super::stream::LogTail;
use super::types::{Created, Inspected, Listed};
use super::{Engine, INSTANCE_LABEL};
use crate::units::PilotId;
use serde_json::Value;

const LIST_LIMIT: u64 = 16 * MIB;
const LOG_LIMIT: u64 = 64 * MIB;

#[derive(Clone, Debug, PartialEq)]
pub enum CreateOutcome {
    /// Warnings may say that a limit was silently dropped.
    Created {
        id: PilotId,
        warnings: Vec<String>,
    },
    NameTaken,
    NoImage,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartOutcome {
    Started,
    AlreadyRunning,
    /// Paused, or being removed; the engine's words.
    Busy(String),
    Gone,
}

/// Of kill, pause and unpause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlOutcome {
    Done,
    /// In a state in which this can't be done (ended, already paused, not paused); the engine's words.
    NotRunning(String),
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateOutcome {
    /// With the engine's warnings.
    Done(Vec<String>),
    Gone,
    /// Podman 4 has no such call.
    Unsupported,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// A running container stays, as [`RemoveOutcome::Later`].
    No,
    /// A running container is killed first.
    Yes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoveOutcome {
    /// Gone, or on its way.
    Done,
    /// Busy or running; the engine's words.
    Later(String),
}

impl Reply {
    fn is_container_gone(&self) -> bool {
        self.status() == 404 && self.says(&["no such container", "no container with"])
    }
}

fn request<'a>(method: Method, verb: &str, id: &PilotId, tail: &str) -> Request<'a> {
    let path = format!("/containers/{}{tail}", id.as_str());
    Request::new(method, format!("{verb} {id}"), path)
}

impl Engine {
    /// All containers with our label, of all instances and in all states.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        let filters = format!(r#"{{"label":["{INSTANCE_LABEL}"]}}"#);
        let path = format!("/containers/json?all=1&filters={}", encode_percent(&filters, ""));
        let reply = self.call(Request { limit: LIST_LIMIT, ..Request::new(Method::Get, "list", path) })?;
        if reply.status() != 200 {
            return Err(reply.refusal());
        }
        let mut listed: Vec<Listed> = reply.json()?;
        // Old Podman ignores the filter.
        listed.retain(|container| container.labels.contains_key(INSTANCE_LABEL));
        Ok(listed)
    }

    /// `None` when there is no such container.
    pub fn inspect(&self, id: &PilotId) -> Result<Option<Inspected>, Error> {
        let reply = self.call(request(Method::Get, "inspect", id, "/json"))?;
        match reply.status() {
            200 => Ok(Some(reply.json()?)),
            404 if reply.is_container_gone() => Ok(None),
            _ => Err(reply.refusal()),
        }
    }

    /// Never repeated: after a lost reply the container may exist, and is found by its name.
    pub fn create(&self, name: &str, body: &Value) -> Result<CreateOutcome, Error> {
        let body = body.to_string();
        let path = format!("/containers/create?name={}", encode_percent(name, ""));
        let reply = self.call(Request {
            body: Body::Bytes("application/json", body.as_bytes()),
            repeat: Repeat::Never,
            ..Request::new(Method::Post, format!("create {name}"), path)
        })?;
        match reply.status() {
            201 => {
                let Created { id, warnings } = reply.json()?;
                Ok(CreateOutcome::Created { id, warnings })
            }
            409 => Ok(CreateOutcome::NameTaken),
            // Podman's word for it.
            500 if reply.says(&["is already in use"]) => Ok(CreateOutcome::NameTaken),
            404 if reply.says(&["image"]) => Ok(CreateOutcome::NoImage),
            _ => Err(reply.refusal()),
        }
    }

    /// Takes seconds while the owner uses every core. Repeatable, because a second start is answered by 304.
    pub fn start(&self, id: &PilotId) -> Result<StartOutcome, Error> {
        let reply = self.call(request(Method::Post, "start", id, "/start"))?;
        match reply.status() {
            200 | 204 => Ok(StartOutcome::Started),
            304 => Ok(StartOutcome::AlreadyRunning),
            409 => Ok(StartOutcome::Busy(reply.message())),
            404 if reply.is_container_gone() => Ok(StartOutcome::Gone),
            _ => Err(reply.refusal()),
        }
    }

    /// Sends `signal` (`TERM`, `KILL`) and does not wait. Repeatable: a signal that arrives twice asks for the same.
    pub fn kill(&self, id: &PilotId, signal: &str) -> Result<ControlOutcome, Error> {
        let tail = format!("/kill?signal={}", encode_percent(signal, ""));
        self.control(request(Method::Post, "kill", id, &tail))
    }

    /// Repeatable, as is `unpause`: where it is so already, the engine says so.
    pub fn pause(&self, id: &PilotId) -> Result<ControlOutcome, Error> {
        self.control(request(Method::Post, "pause", id, "/pause"))
    }

    pub fn unpause(&self, id: &PilotId) -> Result<ControlOutcome, Error> {
        self.control(request(Method::Post, "unpause", id, "/unpause"))
    }

    fn control(&self, request: Request<'_>) -> Result<ControlOutcome, Error> {
        let reply = self.call(request)?;
        match reply.status() {
            200 | 204 => Ok(ControlOutcome::Done),
            404 if reply.is_container_gone() => Ok(ControlOutcome::Gone),
            409 => Ok(ControlOutcome::NotRunning(reply.message())),
            // Docker before 23 for a race with the end, and for what is or is not paused already.
            500 if reply.says(&["not running", "not paused", "already paused", "no such process"]) => {
                Ok(ControlOutcome::NotRunning(reply.message()))
            }
            _ => Err(reply.refusal()),
        }
    }

    /// Repeatable: it sets values.
    pub fn update(&self, id: &PilotId, body: &Value) -> Result<UpdateOutcome, Error> {
        let body = body.to_string();
        let reply = self.call(Request {
            body: Body::Bytes("application/json", body.as_bytes()),
            ..request(Method::Post, "update", id, "/update")
        })?;
        match reply.status() {
            200 => {
                let answer: Value = reply.json()?;
                let warnings = answer.get("Warnings").and_then(Value::as_array);
                let texts = warnings.into_iter().flatten().filter_map(Value::as_str);
                Ok(UpdateOutcome::Done(texts.map(str::to_owned).collect()))
            }
            404 if reply.is_container_gone() => Ok(UpdateOutcome::Gone),
            404 | 405 | 501 => Ok(UpdateOutcome::Unsupported),
            _ => Err(reply.refusal()),
        }
    }

    /// With its volumes, always.
    pub fn remove(&self, id: &PilotId, force: Force) -> Result<RemoveOutcome, Error> {
        let tail = match force {
            Force::No => "?v=1",
            Force::Yes => "?v=1&force=1",
        };
        let reply = self.call(request(Method::Delete, "remove", id, tail))?;
        match reply.status() {
            200 | 204 => Ok(RemoveOutcome::Done),
            404 if reply.is_container_gone() => Ok(RemoveOutcome::Done),
            409 if reply.says(&["already in progress"]) => Ok(RemoveOutcome::Done),
            409 | 500 => Ok(RemoveOutcome::Later(reply.message())),
            _ => Err(reply.refusal()),
        }
    }

    /// The last `lines`, of both outputs, without the engine's framing; at most the last `most` bytes.
    pub fn logs(&self, id: &PilotId, lines: usize, most: usize) -> Result<Vec<u8>, Error> {
        let mut tail = LogTail::new(most);
        let query = format!("/logs?stdout=1&stderr=1&tail={lines}");
        let reply = self.call(Request {
            limit: LOG_LIMIT,
            sink: Some(&mut |bytes| {
                tail.feed(bytes);
                Ok(())
            }),
            ..request(Method::Get, "log", id, &query)
        })?;
        match reply.status() {
            200 => Ok(tail.finish()),
            _ => Err(reply.refusal()),
        }
    }
}
