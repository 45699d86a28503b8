//! One request and its whole answer over one connection: the bottom that every call stands on.

use super::error::{Error, Fault};
use super::http::{Decoder, Method, encode_head};
use super::socket::{Connection, Deadline};
use super::types::parse_json;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::Read;
use std::time::Duration;

pub const MIB: u64 = 1024 * 1024;
pub const READ_BYTES: usize = 16 * 1024;
/// The engine's own words are cut here, in characters.
const LONGEST_MESSAGE: usize = 1000;

pub type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), Fault>;

pub struct Request<'a> {
    pub method: Method,
    /// For messages: `start 0123456789ab`.
    pub name: String,
    /// Without the version, percent-encoded.
    pub path: String,
    pub headers: Vec<(&'static str, &'a str)>,
    pub body: &'a [u8],
    /// Instead of a body: so many bytes of a file that is too large for memory.
    pub upload: Option<(&'a File, u64)>,
    /// Bytes of the answer's body.
    pub limit: u64,
    /// Instead of one deadline: how long nothing may move.
    pub activity: Option<Duration>,
    /// Takes the body of a 200 as it comes.
    pub sink: Option<Sink<'a>>,
}

impl<'a> Request<'a> {
    pub fn new(method: Method, name: impl Into<String>, path: impl Into<String>) -> Request<'a> {
        Request {
            method,
            name: name.into(),
            path: path.into(),
            headers: Vec::new(),
            body: &[],
            upload: None,
            limit: MIB,
            activity: None,
            sink: None,
        }
    }

    /// Goes out on a kept-alive connection, and once more on a fresh one when that proves dead. What carries a body makes
    /// something, and a stream may have begun: they get a fresh connection at once, so that a dead one can't swallow them.
    pub fn is_repeatable(&self) -> bool {
        self.body.is_empty() && self.upload.is_none() && self.sink.is_none()
    }
}

pub struct Reply {
    /// As in [`Error`].
    pub call: String,
    pub head: Decoder,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    pub fn message(&self) -> String {
        parse_message(&self.body)
    }

    /// A 404 or 409 of a proxy or of an unknown path says nothing about the object: the engine's own names it.
    pub fn says(&self, words: &[&str]) -> bool {
        let message = self.message().to_lowercase();
        words.iter().any(|word| message.contains(word))
    }

    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        parse_json(&self.body).map_err(|fault| Error {
            call: self.call.clone(),
            fault,
        })
    }

    /// For a status that is no outcome of this call.
    pub fn refusal(&self) -> Error {
        Error {
            call: self.call.clone(),
            fault: Fault::Status(self.status(), self.message()),
        }
    }

    /// Any status but success is a refusal.
    pub fn ok(&self) -> Result<&Reply, Error> {
        if matches!(self.status(), 200 | 201) {
            Ok(self)
        } else {
            Err(self.refusal())
        }
    }
}

/// The engine's own words: `{"message": …}` or plain text.
pub fn parse_message(body: &[u8]) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let field = json.as_ref().and_then(|json| json.get("message")?.as_str());
    let plain = String::from_utf8_lossy(body);
    let text = field.unwrap_or(&plain).trim();
    if text.is_empty() {
        return "refused without a reason".to_owned();
    }
    text.chars().take(LONGEST_MESSAGE).collect()
}

/// A file that has become shorter ends the connection: what was promised can't be sent any more.
fn upload(
    connection: &mut Connection,
    file: &File,
    length: u64,
    deadline: &mut Deadline,
) -> Result<(), Fault> {
    let (mut file, mut buffer) = (file.take(length), [0; READ_BYTES]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) if file.limit() == 0 => return Ok(()),
            Ok(0) => return Err(Fault::Failed("the file has become shorter".to_owned())),
            Ok(count) => connection.write_all(buffer.get(..count).unwrap_or_default(), deadline)?,
            Err(error) => return Err(Fault::Failed(format!("the file can't be read: {error}"))),
        }
    }
}

/// The body of the answer; its head is in `decoder`.
pub fn exchange(
    connection: &mut Connection,
    decoder: &mut Decoder,
    request: &mut Request<'_>,
    path: &str,
    deadline: &mut Deadline,
) -> Result<Vec<u8>, Fault> {
    let length = request
        .upload
        .as_ref()
        .map_or(request.body.len() as u64, |(_, length)| *length);
    let length = (request.method == Method::Post).then_some(length);
    let head = encode_head(request.method, path, &request.headers, length);
    let written = connection
        .write_all(&head, deadline)
        .and_then(|()| match request.upload {
            Some((file, length)) => upload(connection, file, length, deadline),
            None => connection.write_all(request.body, deadline),
        });
    // An engine may refuse and close before it has read everything: its answer says why, the failed write does not.
    if let Err(fault @ (Fault::NoAnswer(_) | Fault::Failed(_))) = written {
        return Err(fault);
    }
    let mut buffer = [0; READ_BYTES];
    let mut body = Vec::new();
    while !decoder.is_done() {
        match connection.read(&mut buffer, deadline)? {
            0 => decoder.end()?,
            count => decoder.feed(buffer.get(..count).unwrap_or_default(), &mut body)?,
        }
        if let Some(sink) = request.sink.as_mut().filter(|_| decoder.status() == 200) {
            sink(&body)?;
            body.clear();
        }
    }
    Ok(body)
}
