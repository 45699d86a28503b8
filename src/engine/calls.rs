//! The calls about containers and images, each with what its answers mean. A 200 to what brings images comes before the
//! work is done: whether the image is there is for the caller to look at afterwards.

use super::http::encode_percent;
use super::types::{Created, Error, INSTANCE_LABEL, Image, Info, Inspected, Listed};
use super::{Engine, LONGEST_MESSAGE, Outcome, Request};
use crate::units::{PilotId, clean_line, clean_text};
use serde_json::{Value, json};
use std::fs::File;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const TAR: &str = "application/x-tar";

/// The engine's words for a pilot's end, or what precedes it: Docker's, Podman's and both's.
const END_ACTIONS: [&str; 3] = ["die", "died", "oom"];
/// A stream of events that was quiet for so long is asked for again: it may hang.
const QUIET: Duration = Duration::from_secs(3_600);

#[derive(Clone, Debug, PartialEq)]
pub enum CreateOutcome {
    Created(Created),
    NameTaken,
    NoImage,
}

/// Told of each step of a download: the layer, its bytes so far and in all (0: unknown). An error ends it.
pub type OnProgress<'a> = &'a mut dyn FnMut(&str, u64, u64) -> Result<(), String>;

fn container<'a>(method: &'static str, verb: &str, id: &PilotId, tail: &str) -> Request<'a> {
    let path = format!("/containers/{}{tail}", id.as_str());
    Request::new(method, format!("{verb} {id}"), path)
}

fn image<'a>(method: &'static str, verb: &str, name: &str, tail: &str) -> Request<'a> {
    let path = format!("/images/{}{tail}", encode_percent(name, "/:@"));
    Request::new(method, format!("{verb} {name}"), path)
}

impl Engine {
    pub fn info(&self) -> Result<Info, Error> {
        let info: Info = self.ask(Request::new("GET", "info", "/info"))?;
        self.lacks_init.store(info.lacks_init(), Relaxed);
        Ok(info)
    }

    /// All containers with our label, of all instances and in all states.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        let filters = json!({"label": [INSTANCE_LABEL]}).to_string();
        let filters = encode_percent(&filters, "");
        let path = format!("/containers/json?all=1&filters={filters}");
        let mut listed: Vec<Listed> = self.ask(Request::new("GET", "list", path))?;
        // Old Podman ignores the filter.
        listed.retain(|container| container.labels.instance.is_some());
        Ok(listed)
    }

    /// Blocks while the engine's stream of events lasts, and tells the id of each pilot that ends. A hint only: engines
    /// drop events and streams hang, so the truth is the list. Some engines send not even a head before the first event.
    pub fn follow_events(&self, on_end: &mut dyn FnMut(&str)) -> Error {
        let filters = json!({"event": END_ACTIONS, "label": [INSTANCE_LABEL]}).to_string();
        let filters = encode_percent(&filters, "");
        let path = format!("/events?filters={filters}");
        let mut request = Request::new("GET", "events", path);
        request.idle = Some(QUIET);
        let label = format!("/Actor/Attributes/{INSTANCE_LABEL}");
        let followed = self.stream(request, &mut |event| {
            let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
            let is_end = text("/Type") == Some("container")
                && text("/Action").is_some_and(|action| END_ACTIONS.contains(&action));
            if let Some(id) = text("/Actor/ID").filter(|_| is_end && text(&label).is_some()) {
                on_end(id);
            }
            Ok(())
        });
        let ended = |()| Error::ReplyLost(self.named("events: the engine ended the stream"));
        followed.map_or_else(|error| error, ended)
    }

    /// `None` when there is no such container.
    pub fn inspect(&self, id: &PilotId) -> Result<Option<Inspected>, Error> {
        self.find(container("GET", "inspect", id, "/json"))
    }

    /// After a lost reply the container may exist, and is found by its name. Without an init program, where the engine has
    /// none.
    pub fn create(&self, name: &str, mut body: Value) -> Result<CreateOutcome, Error> {
        let init = body.pointer_mut("/HostConfig/Init");
        if let Some(init) = init.filter(|_| self.lacks_init.load(Relaxed)) {
            *init = Value::Bool(false);
        }
        let is_wanted = |body: &Value| body.pointer("/HostConfig/Init") == Some(&Value::Bool(true));
        let created = self.create_as_told(name, &body);
        match &created {
            Err(Error::Refused(_, _, why)) if why.contains("init binary") && is_wanted(&body) => {
                log::warn!("{why}; pilots run without an init program");
                self.lacks_init.store(true, Relaxed);
                self.create(name, body)
            }
            _ => created,
        }
    }

    fn create_as_told(&self, name: &str, body: &Value) -> Result<CreateOutcome, Error> {
        let body = body.to_string();
        let path = format!("/containers/create?name={}", encode_percent(name, ""));
        let request = Request::new("POST", format!("create {name}"), path);
        let created = self.ask(request.with_body("application/json", body.as_bytes(), body.len()));
        match created {
            Ok(created) => Ok(CreateOutcome::Created(created)),
            Err(Error::Refused(_, 409, _)) => Ok(CreateOutcome::NameTaken),
            // Podman's word for it.
            Err(Error::Refused(_, 500, why)) if why.contains("is already in use") => {
                Ok(CreateOutcome::NameTaken)
            }
            Err(Error::Refused(_, 404, why)) if why.to_lowercase().contains("image") => {
                Ok(CreateOutcome::NoImage)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes seconds while the owner uses every core. Busy: paused, or being removed.
    pub fn start(&self, id: &PilotId) -> Result<Outcome, Error> {
        self.settle(container("POST", "start", id, "/start"))
    }

    /// Sends `signal` (`TERM`, `KILL`) and does not wait.
    pub fn kill(&self, id: &PilotId, signal: &str) -> Result<Outcome, Error> {
        let tail = format!("/kill?signal={}", encode_percent(signal, ""));
        self.settle(container("POST", "kill", id, &tail))
    }

    pub fn pause(&self, id: &PilotId) -> Result<Outcome, Error> {
        self.settle(container("POST", "pause", id, "/pause"))
    }

    pub fn unpause(&self, id: &PilotId) -> Result<Outcome, Error> {
        self.settle(container("POST", "unpause", id, "/unpause"))
    }

    /// With its volumes, always; a running one is killed first. Done: gone, or on its way.
    pub fn remove(&self, id: &PilotId) -> Result<Outcome, Error> {
        match self.settle(container("DELETE", "remove", id, "?v=1&force=1")) {
            Ok(Outcome::Gone) => Ok(Outcome::Done),
            Ok(Outcome::Busy(why)) if why.contains("already in progress") => Ok(Outcome::Done),
            Err(Error::Refused(_, 500, why)) => Ok(Outcome::Busy(why)),
            other => other,
        }
    }

    /// The last `lines`, of both outputs, without the engine's framing; at most the last `most` bytes, cleaned.
    pub fn logs(&self, id: &PilotId, lines: usize, most: usize) -> Result<String, Error> {
        let query = format!("/logs?stdout=1&stderr=1&tail={lines}");
        let mut log = strip_frames(&self.read(container("GET", "log", id, &query))?);
        log.drain(..log.len().saturating_sub(most));
        Ok(clean_text(&String::from_utf8_lossy(&log), most))
    }

    /// `None` when it is not there. `name` is a reference or an id.
    pub fn image(&self, name: &str) -> Result<Option<Image>, Error> {
        self.find(image("GET", "inspect image", name, "/json"))
    }

    /// Never forced: an image that any container uses stays, as busy.
    pub fn image_remove(&self, name: &str) -> Result<Outcome, Error> {
        self.settle(image("DELETE", "remove image", name, ""))
    }

    /// Makes an image of a file tree. `changes` are instructions such as `ENTRYPOINT ["/plancton"]`.
    pub fn import(&self, repo: &str, tag: &str, changes: &[&str], tar: &[u8]) -> Result<(), Error> {
        let (wanted, repo) = (format!("{repo}:{tag}"), encode_percent(repo, ""));
        let named = format!("repo={repo}&tag={}", encode_percent(tag, ""));
        let mut path = format!("/images/create?fromSrc=-&{named}");
        for change in changes {
            path.push_str(&format!("&changes={}", encode_percent(change, "")));
        }
        let request = Request::new("POST", format!("import {wanted}"), path);
        let request = request.with_body(TAR, tar, tar.len());
        let id = self.transfer(request, &mut |_, _, _| Ok(()))?;
        // Podman ignores the tag of an import.
        if self.image(&wanted)?.is_none_or(|found| found.id != id) {
            self.read(image("POST", "tag", &id, &format!("/tag?{named}")))?;
        }
        Ok(())
    }

    /// The images in a file of `docker save`, under the names they have there.
    pub fn load(&self, file: &File, length: u64) -> Result<(), Error> {
        let request = Request::new("POST", "load", "/images/load?quiet=1");
        let request = request.with_body(TAR, file, usize::try_from(length).unwrap_or(usize::MAX));
        self.transfer(request, &mut |_, _, _| Ok(())).map(drop)
    }

    /// `version` is a tag or a digest; an empty one means `latest`, because without any the engine pulls every tag there is.
    /// `auth` is the whole value of X-Registry-Auth. Gives up when nothing moves for four time-outs: registries make it wait.
    pub fn pull(
        &self,
        name: &str,
        version: &str,
        auth: Option<&str>,
        on_progress: OnProgress<'_>,
    ) -> Result<(), Error> {
        let version = if version.is_empty() {
            "latest"
        } else {
            version
        };
        let glue = if version.contains(':') { '@' } else { ':' };
        let (repo, tag) = (encode_percent(name, ""), encode_percent(version, ""));
        let path = format!("/images/create?fromImage={repo}&tag={tag}");
        let mut request = Request::new("POST", format!("pull {name}{glue}{version}"), path);
        if let Some(auth) = auth {
            request.headers = format!("X-Registry-Auth: {auth}\r\n");
        }
        self.transfer(request, on_progress).map(drop)
    }

    /// A call whose answer is a stream of progress; returns its last status text, or fails with its first failure: Docker
    /// says `errorDetail` and `error`; Podman, before any progress, only `message`.
    fn transfer(&self, mut request: Request<'_>, told: OnProgress<'_>) -> Result<String, Error> {
        request.idle = Some(4 * self.timeout);
        let mut last = String::new();
        self.stream(request, &mut |step| {
            let text = |pointer: &str| {
                let value = step.pointer(pointer).and_then(Value::as_str);
                value.unwrap_or_default().to_owned()
            };
            let mut failures = vec![text("/errorDetail/message"), text("/error")];
            if text("/status").is_empty() {
                failures.push(text("/message"));
            }
            if let Some(why) = failures.iter().find(|why| !why.is_empty()) {
                return Err(io::Error::other(clean_line(why, LONGEST_MESSAGE)));
            }
            last = text("/status");
            let bytes = |pointer| step.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
            let (done, total) = ("/progressDetail/current", "/progressDetail/total");
            if last == "Downloading" {
                told(&text("/id"), bytes(done), bytes(total)).map_err(io::Error::other)?;
            }
            Ok(())
        })?;
        Ok(last)
    }
}

/// Takes the framing off a log: 8 bytes before each piece (stream, three zeros, length). A container with a terminal logs
/// raw, and what has no framing stays as it is.
pub fn strip_frames(mut log: &[u8]) -> Vec<u8> {
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
