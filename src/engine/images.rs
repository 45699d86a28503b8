//! The calls about images. Status 200 comes before the work is done, so that success is what an inspect finds afterwards.

use super::Engine;
use super::call::{Body, MIB, Repeat, Reply, Request, Sink};
use super::error::Error;
use super::http::{Fault, Method, encode_percent};
use super::stream::{Note, Progress, Splitter, parse_note};
use super::types::Image;
use std::io::Read;
use std::time::Duration;

/// Of progress, not of the image.
const PROGRESS_LIMIT: u64 = 256 * MIB;
const TAR: &str = "application/x-tar";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageRemoveOutcome {
    Done,
    /// The engine's words.
    InUse(String),
}

/// Where an archive ended up.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    pub image: Image,
    /// What to create containers from: `repo:tag`, or the id where the engine would not give it that name.
    pub reference: String,
}

impl Reply {
    fn is_image_gone(&self) -> bool {
        self.status() == 404 && self.says(&["image"])
    }
}

/// `name:tag` or `name@sha256:…`.
fn reference(name: &str, version: &str) -> String {
    let glue = if version.contains(':') { '@' } else { ':' };
    format!("{name}{glue}{version}")
}

/// A call whose answer is a stream of progress. Never repeated: the body may be a reader, and the work may have begun.
fn transfer<'a>(name: &str, path: String, sink: Sink<'a>) -> Request<'a> {
    Request { limit: PROGRESS_LIMIT, repeat: Repeat::Never, sink: Some(sink), ..Request::new(Method::Post, name, path) }
}

/// Reads such a stream to its first failure or its last status text.
struct Notes<'a> {
    splitter: Splitter,
    failure: Option<String>,
    last: String,
    on_progress: &'a mut dyn FnMut(&Progress),
}

impl<'a> Notes<'a> {
    fn new(on_progress: &'a mut dyn FnMut(&Progress)) -> Notes<'a> {
        Notes { splitter: Splitter::default(), failure: None, last: String::new(), on_progress }
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        for object in self.splitter.feed(bytes)? {
            match parse_note(&object)? {
                Note::Failure(message) => self.failure = self.failure.take().or(Some(message)),
                Note::Progress(progress) => {
                    (self.on_progress)(&progress);
                    self.last = progress.status;
                }
            }
        }
        Ok(())
    }

    fn finish(self, reply: &Reply) -> Result<String, Error> {
        if reply.status() != 200 {
            return Err(reply.refusal());
        }
        if let Some(message) = self.failure {
            let call = reply.call.clone();
            return Err(Error::Failed { call, message });
        }
        self.splitter.end().map_err(|fault| Error::decoding(&reply.call, fault))?;
        Ok(self.last)
    }
}

fn request<'a>(method: Method, verb: &str, name: &str, tail: &str) -> Request<'a> {
    let path = format!("/images/{}{tail}", encode_percent(name, "/:@"));
    Request::new(method, format!("{verb} {name}"), path)
}

impl Engine {
    /// `None` when it is not there. `name` is a reference or an id.
    pub fn image(&self, name: &str) -> Result<Option<Image>, Error> {
        let reply = self.call(request(Method::Get, "inspect image", name, "/json"))?;
        match reply.status() {
            200 => Ok(Some(reply.json()?)),
            404 if reply.is_image_gone() => Ok(None),
            _ => Err(reply.refusal()),
        }
    }

    /// Never forced: an image that any container uses stays.
    pub fn image_remove(&self, name: &str) -> Result<ImageRemoveOutcome, Error> {
        let reply = self.call(request(Method::Delete, "remove image", name, ""))?;
        match reply.status() {
            200 | 204 => Ok(ImageRemoveOutcome::Done),
            404 if reply.is_image_gone() => Ok(ImageRemoveOutcome::Done),
            409 => Ok(ImageRemoveOutcome::InUse(reply.message())),
            _ => Err(reply.refusal()),
        }
    }

    /// Makes an image of a file tree. `changes` are instructions such as `ENTRYPOINT ["/plancton"]`.
    pub fn import(&self, repo: &str, tag: &str, changes: &[&str], tar: &[u8]) -> Result<Imported, Error> {
        let mut path =
            format!("/images/create?fromSrc=-&repo={}&tag={}", encode_percent(repo, ""), encode_percent(tag, ""));
        for change in changes {
            path.push_str("&changes=");
            path.push_str(&encode_percent(change, ""));
        }
        let wanted = reference(repo, tag);
        let name = format!("import {wanted}");
        let mut ignore = |_: &Progress| {};
        let mut notes = Notes::new(&mut ignore);
        let reply = self.call(Request {
            body: Body::Bytes(TAR, tar),
            activity: Some(self.timeout),
            ..transfer(&name, path, &mut |bytes| notes.feed(bytes))
        })?;
        let id = notes.finish(&reply)?;
        if let Some(image) = self.image(&wanted)?.filter(|found| found.id == id) {
            let reference = wanted;
            return Ok(Imported { image, reference });
        }
        self.tag(&id, repo, tag)?;
        for reference in [wanted, id] {
            if let Some(image) = self.image(&reference)? {
                return Ok(Imported { image, reference });
            }
        }
        Err(self.vanished(&name))
    }

    /// Podman ignores the tag of an import, so that the image has to be named afterwards.
    fn tag(&self, id: &str, repo: &str, tag: &str) -> Result<(), Error> {
        let (repo, tag) = (encode_percent(repo, ""), encode_percent(tag, ""));
        let tail = format!("/tag?repo={repo}&tag={tag}");
        let reply = self.call(request(Method::Post, "tag", id, &tail))?;
        match reply.status() {
            200 | 201 => Ok(()),
            _ => Err(reply.refusal()),
        }
    }

    /// Loads an archive of images of exactly `length` bytes; returns their names.
    pub fn load(&self, archive: &mut dyn Read, length: u64) -> Result<Vec<String>, Error> {
        let mut loaded = Vec::new();
        let mut collect = |progress: &Progress| {
            let names = progress.status.lines().filter_map(|line| {
                let name = line.strip_prefix("Loaded image: ");
                name.or_else(|| line.strip_prefix("Loaded image ID: "))
            });
            loaded.extend(names.map(str::to_owned));
        };
        let mut notes = Notes::new(&mut collect);
        let path = "/images/load?quiet=1".to_owned();
        let reply = self.call(Request {
            body: Body::Reader(TAR, archive, length),
            activity: Some(self.timeout),
            ..transfer("load", path, &mut |bytes| notes.feed(bytes))
        })?;
        notes.finish(&reply)?;
        Ok(loaded)
    }

    /// `version` is a tag or a digest; an empty one means `latest`, because without any the engine pulls every tag there is.
    /// `auth` is the whole value of X-Registry-Auth. Gives up when nothing moves for `patience`.
    pub fn pull(
        &self,
        name: &str,
        version: &str,
        auth: Option<&str>,
        patience: Duration,
        on_progress: &mut dyn FnMut(&Progress),
    ) -> Result<Image, Error> {
        let version = if version.is_empty() { "latest" } else { version };
        let path = format!("/images/create?fromImage={}&tag={}", encode_percent(name, ""), encode_percent(version, ""));
        let wanted = reference(name, version);
        let call = format!("pull {wanted}");
        let mut notes = Notes::new(on_progress);
        let reply = self.call(Request {
            headers: auth.map(|auth| ("X-Registry-Auth", auth)).into_iter().collect(),
            activity: Some(patience),
            ..transfer(&call, path, &mut |bytes| notes.feed(bytes))
        })?;
        notes.finish(&reply)?;
        // The end of the stream is no proof.
        self.image(&wanted)?.ok_or_else(|| self.vanished(&call))
    }

    fn vanished(&self, call: &str) -> Error {
        Error::Failed {
            call: self.call_name(call),
            message: "the engine reported no failure, but the image is not there".to_owned(),
        }
    }
}
