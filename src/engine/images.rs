//! The calls about images. Status 200 comes before the work is done, so that success is what an inspect finds afterwards.

use super::call::{MIB, Request};
use super::error::{Error, Fault};
use super::http::{Method, encode_percent};
use super::stream::{Progress, Splitter, parse_progress};
use super::types::Image;
use super::{Engine, Outcome};
use std::fs::File;

/// Of progress, not of the image.
const PROGRESS_LIMIT: u64 = 256 * MIB;

const GONE: &[&str] = &["image"];

/// `name:tag` or `name@sha256:…`.
fn reference(name: &str, version: &str) -> String {
    let glue = if version.contains(':') { '@' } else { ':' };
    format!("{name}{glue}{version}")
}

fn request<'a>(method: Method, verb: &str, name: &str, tail: &str) -> Request<'a> {
    Request::new(
        method,
        format!("{verb} {name}"),
        format!("/images/{}{tail}", encode_percent(name, "/:@")),
    )
}

/// Told of each step; an error ends the transfer.
pub type OnProgress<'a> = &'a mut dyn FnMut(&Progress) -> Result<(), String>;

impl Engine {
    /// `None` when it is not there. `name` is a reference or an id.
    pub fn image(&self, name: &str) -> Result<Option<Image>, Error> {
        self.find(request(Method::Get, "inspect image", name, "/json"), GONE)
    }

    /// Never forced: an image that any container uses stays, as busy.
    pub fn image_remove(&self, name: &str) -> Result<Outcome, Error> {
        self.settle(request(Method::Delete, "remove image", name, ""), GONE)
    }

    /// Makes an image of a file tree. `changes` are instructions such as `ENTRYPOINT ["/plancton"]`.
    pub fn import(
        &self,
        repo: &str,
        tag: &str,
        changes: &[&str],
        tar: &[u8],
    ) -> Result<Image, Error> {
        let named = format!(
            "repo={}&tag={}",
            encode_percent(repo, ""),
            encode_percent(tag, "")
        );
        let mut path = format!("/images/create?fromSrc=-&{named}");
        for change in changes {
            path.push_str("&changes=");
            path.push_str(&encode_percent(change, ""));
        }
        let wanted = reference(repo, tag);
        let call = format!("import {wanted}");
        let request = Request {
            headers: vec![("Content-Type", "application/x-tar")],
            body: tar,
            activity: Some(self.timeout),
            ..Request::new(Method::Post, &call, path)
        };
        let id = self.transfer(request, &mut |_| Ok(()))?;
        if let Some(image) = self.image(&wanted)?.filter(|found| found.id == id) {
            return Ok(image);
        }
        // Podman ignores the tag of an import, so that the image has to be named afterwards.
        self.call(self::request(
            Method::Post,
            "tag",
            &id,
            &format!("/tag?{named}"),
        ))?
        .ok()?;
        self.arrived(&wanted, &call)
    }

    /// The images in a file of `docker save`, under the names they have there.
    pub fn load(&self, file: &File, length: u64) -> Result<(), Error> {
        let request = Request {
            headers: vec![("Content-Type", "application/x-tar")],
            upload: Some((file, length)),
            activity: Some(self.timeout),
            ..Request::new(Method::Post, "load", "/images/load?quiet=1")
        };
        self.transfer(request, &mut |_| Ok(())).map(drop)
    }

    /// `version` is a tag or a digest; an empty one means `latest`, because without any the engine pulls every tag there is.
    /// `auth` is the whole value of X-Registry-Auth. Gives up when nothing moves for four time-outs: registries make it wait.
    pub fn pull(
        &self,
        name: &str,
        version: &str,
        auth: Option<&str>,
        on_progress: OnProgress<'_>,
    ) -> Result<Image, Error> {
        let version = if version.is_empty() {
            "latest"
        } else {
            version
        };
        let path = format!(
            "/images/create?fromImage={}&tag={}",
            encode_percent(name, ""),
            encode_percent(version, "")
        );
        let wanted = reference(name, version);
        let call = format!("pull {wanted}");
        let request = Request {
            headers: auth
                .map(|auth| ("X-Registry-Auth", auth))
                .into_iter()
                .collect(),
            activity: Some(4 * self.timeout),
            ..Request::new(Method::Post, &call, path)
        };
        self.transfer(request, on_progress)?;
        self.arrived(&wanted, &call)
    }

    /// A call whose answer is a stream of progress; returns its last status text, or fails with its first failure.
    fn transfer(&self, request: Request<'_>, on_progress: OnProgress<'_>) -> Result<String, Error> {
        let (mut splitter, mut last) = (Splitter::default(), String::new());
        let mut sink = |bytes: &[u8]| {
            for object in splitter.feed(bytes)? {
                let progress = parse_progress(&object)?;
                on_progress(&progress).map_err(Fault::Failed)?;
                last = progress.status;
            }
            Ok(())
        };
        let reply = self.call(Request {
            limit: PROGRESS_LIMIT,
            sink: Some(&mut sink),
            ..request
        })?;
        reply.ok()?;
        splitter.end().map_err(|fault| Error {
            call: reply.call,
            fault,
        })?;
        Ok(last)
    }

    /// The end of a stream is no proof.
    fn arrived(&self, wanted: &str, call: &str) -> Result<Image, Error> {
        let vanished = || {
            Fault::Failed("the engine reported no failure, but the image is not there".to_owned())
        };
        self.image(wanted)?
            .ok_or_else(|| self.error(call, vanished()))
    }
}
