//! The calls about containers, each status mapped to an outcome or to an error in the engine's own words.
//! A 404 counts as "gone" only where the engine names a container: a wrong path or a proxy says nothing about pilots.

use super::call::{MIB, Reply, Request};
use super::error::{Error, Fault};
use super::http::{Method, encode_percent};
use super::stream::strip_frames;
use super::types::{Created, Inspected, Listed};
use super::{Engine, INSTANCE_LABEL, Outcome};
use crate::units::PilotId;
use serde_json::Value;

pub const LIST_LIMIT: u64 = 16 * MIB;
/// More than the 1 MiB that a pilot's log may have, with the framing of its lines.
const LOG_LIMIT: u64 = 8 * MIB;

const GONE: &[&str] = &["no such container", "no container with"];

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

fn request<'a>(method: Method, verb: &str, id: &PilotId, tail: &str) -> Request<'a> {
    Request::new(
        method,
        format!("{verb} {id}"),
        format!("/containers/{}{tail}", id.as_str()),
    )
}

/// All containers with our label, of all instances and in all states.
pub fn list_path() -> String {
    let filters = encode_percent(&format!(r#"{{"label":["{INSTANCE_LABEL}"]}}"#), "");
    format!("/containers/json?all=1&filters={filters}")
}

/// Old Podman ignores the filter, so that it is applied here again.
pub fn parse_list(reply: &Reply) -> Result<Vec<Listed>, Error> {
    let mut listed: Vec<Listed> = reply.ok()?.json()?;
    listed.retain(|container| container.labels.instance.is_some());
    Ok(listed)
}

impl Engine {
    /// As the loop's [`super::Lister`], for those who can wait.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        let request = Request {
            limit: LIST_LIMIT,
            ..Request::new(Method::Get, "list", list_path())
        };
        parse_list(&self.call(request)?)
    }

    /// `None` when there is no such container.
    pub fn inspect(&self, id: &PilotId) -> Result<Option<Inspected>, Error> {
        self.find(request(Method::Get, "inspect", id, "/json"), GONE)
    }

    /// Never repeated: after a lost reply the container may exist, and is found by its name.
    pub fn create(&self, name: &str, body: &Value) -> Result<CreateOutcome, Error> {
        let body = body.to_string();
        let path = format!("/containers/create?name={}", encode_percent(name, ""));
        let reply = self.call(Request {
            headers: vec![("Content-Type", "application/json")],
            body: body.as_bytes(),
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

    /// Takes seconds while the owner uses every core. Repeatable, because a second start is answered by 304. Busy: paused,
    /// or being removed.
    pub fn start(&self, id: &PilotId) -> Result<Outcome, Error> {
        self.settle(request(Method::Post, "start", id, "/start"), GONE)
    }

    /// Sends `signal` (`TERM`, `KILL`) and does not wait. Repeatable: a signal that arrives twice asks for the same.
    pub fn kill(&self, id: &PilotId, signal: &str) -> Result<Outcome, Error> {
        self.settle(
            request(Method::Post, "kill", id, &format!("/kill?signal={signal}")),
            GONE,
        )
    }

    /// Repeatable, as is `unpause`: where it is so already, the engine says that it is busy.
    pub fn pause(&self, id: &PilotId) -> Result<Outcome, Error> {
        self.settle(request(Method::Post, "pause", id, "/pause"), GONE)
    }

    pub fn unpause(&self, id: &PilotId) -> Result<Outcome, Error> {
        self.settle(request(Method::Post, "unpause", id, "/unpause"), GONE)
    }

    /// With its volumes, always; a running one is killed first. Done: gone, or on its way.
    pub fn remove(&self, id: &PilotId) -> Result<Outcome, Error> {
        match self.settle(request(Method::Delete, "remove", id, "?v=1&force=1"), GONE) {
            Ok(Outcome::Gone) => Ok(Outcome::Done),
            Ok(Outcome::Busy(why)) if why.contains("already in progress") => Ok(Outcome::Done),
            Err(Error {
                fault: Fault::Status(500, why),
                ..
            }) => Ok(Outcome::Busy(why)),
            other => other,
        }
    }

    /// The last `lines`, of both outputs, without the engine's framing; at most the last `most` bytes.
    pub fn logs(&self, id: &PilotId, lines: usize, most: usize) -> Result<Vec<u8>, Error> {
        let query = format!("/logs?stdout=1&stderr=1&tail={lines}");
        let reply = self.call(Request {
            limit: LOG_LIMIT,
            ..request(Method::Get, "log", id, &query)
        })?;
        let text = strip_frames(&reply.ok()?.body);
        Ok(text
            .get(text.len().saturating_sub(most)..)
            .unwrap_or_default()
            .to_vec())
    }
}
