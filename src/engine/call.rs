//! One request and its whole answer over one connection: the bottom that every call stands on.

use super::error::Error;
use super::http::{Decoder, Fault, Head, Method, encode_head};
use super::socket::{Connection, Deadline};
use super::types::parse_json;
use serde::de::DeserializeOwned;
use std::io::{self, ErrorKind, Read};
use std::time::Duration;

pub const MIB: u64 = 1024 * 1024;
const READ_BYTES: usize = 16 * 1024;
/// Up to here head and body go out in one write.
const SMALL_BODY: usize = 64 * 1024;
/// The engine's own words are cut here, in characters.
const LONGEST_MESSAGE: usize = 1000;

/// Whether a request that was perhaps sent may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// On a kept-alive connection, and once more on a fresh one when that proves dead before a byte of the answer.
    Once,
    /// On a fresh connection only, so that a dead one can't swallow it.
    Never,
}

pub enum Body<'a> {
    Empty,
    Bytes(&'static str, &'a [u8]),
    /// Exactly this many bytes.
    Reader(&'static str, &'a mut dyn Read, u64),
}

pub type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), Fault>;

pub struct Request<'a> {
    pub method: Method,
    /// For messages: `start 0123456789ab`.
    pub name: String,
    /// Without the version, percent-encoded.
    pub path: String,
    pub headers: Vec<(&'static str, &'a str)>,
    pub body: Body<'a>,
    /// Bytes of the answer's body.
    pub limit: u64,
    pub repeat: Repeat,
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
            body: Body::Empty,
            limit: MIB,
            repeat: Repeat::Once,
            activity: None,
            sink: None,
        }
    }
}

/// A complete answer.
pub struct Reply {
    /// As in [`Error`].
    pub call: String,
    pub head: Head,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The engine's own words: `{"message": …}` or plain text.
    pub fn message(&self) -> String {
        let json: Option<serde_json::Value> = serde_json::from_slice(&self.body).ok();
        let field = json.as_ref().and_then(|json| json.get("message")?.as_str());
        let plain = String::from_utf8_lossy(&self.body);
        let text = field.unwrap_or(&plain).trim();
        if text.is_empty() {
            return "refused without a reason".to_owned();
        }
        text.chars().take(LONGEST_MESSAGE).collect()
    }

    /// A 404 or 409 of a proxy or of an unknown path says nothing about the object: the engine's own names it.
    pub fn says(&self, words: &[&str]) -> bool {
        let message = self.message().to_lowercase();
        words.iter().any(|word| message.contains(word))
    }

    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        parse_json(&self.body).map_err(|fault| Error::decoding(&self.call, fault))
    }

    /// For a status that is no outcome of this call.
    pub fn refusal(&self) -> Error {
        Error::Status { call: self.call.clone(), code: self.status(), message: self.message() }
    }
}

/// An exchange that failed; `is_stale` when not one byte of an answer came and the peer had closed.
pub struct Broken {
    pub error: Error,
    pub is_stale: bool,
}

/// The reply, and the connection where it can carry another call.
pub fn exchange(
    mut connection: Connection,
    request: &mut Request<'_>,
    path: &str,
    call: &str,
    deadline: &mut Deadline,
) -> Result<(Reply, Option<Connection>), Broken> {
    let allowed = deadline.allowed;
    let failed = |error: &io::Error, is_started: bool| Broken {
        error: Error::talking(call, allowed, error),
        is_stale: !is_started && is_closed(error),
    };
    let mut decoder = Decoder::new(request.method, request.limit);
    let written = write_request(&mut connection, request, path, deadline);
    // An engine may refuse and close before it has read everything: its answer says why, the failed write does not.
    if let Err(error) = written.as_ref()
        && !is_closed(error)
    {
        return Err(failed(error, false));
    }
    let read = read_reply(&mut connection, &mut decoder, request, deadline);
    let body = match (read, written) {
        (Ok(body), _) => body,
        (Err(Stop::Io(_)), Err(error)) | (Err(Stop::Io(error)), Ok(())) => {
            return Err(failed(&error, decoder.is_started()));
        }
        (Err(Stop::Fault(fault)), _) => {
            return Err(Broken { is_stale: !decoder.is_started(), error: Error::decoding(call, fault) });
        }
    };
    let kept = decoder.is_reusable().then_some(connection);
    let call = call.to_owned();
    match decoder.into_head() {
        Some(head) => Ok((Reply { call, head, body }, kept)),
        None => Err(Broken { error: Error::decoding(&call, Fault::Truncated("head")), is_stale: false }),
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

fn write_request(
    connection: &mut Connection,
    request: &mut Request<'_>,
    path: &str,
    deadline: &mut Deadline,
) -> io::Result<()> {
    let mut headers = request.headers.clone();
    let length = match &request.body {
        Body::Empty => (request.method == Method::Post).then_some(0),
        Body::Bytes(kind, bytes) => {
            headers.push(("Content-Type", kind));
            u64::try_from(bytes.len()).ok()
        }
        Body::Reader(kind, _, length) => {
            headers.push(("Content-Type", kind));
            Some(*length)
        }
    };
    let mut head = encode_head(request.method, path, &headers, length);
    match &mut request.body {
        Body::Empty => connection.write_all(&head, deadline),
        Body::Bytes(_, bytes) if bytes.len() <= SMALL_BODY => {
            head.extend_from_slice(bytes);
            connection.write_all(&head, deadline)
        }
        Body::Bytes(_, bytes) => {
            connection.write_all(&head, deadline)?;
            connection.write_all(bytes, deadline)
        }
        Body::Reader(_, reader, length) => {
            connection.write_all(&head, deadline)?;
            write_from(connection, &mut reader.take(*length), *length, deadline)
        }
    }
}

fn write_from(
    connection: &mut Connection,
    reader: &mut dyn Read,
    length: u64,
    deadline: &mut Deadline,
) -> io::Result<()> {
    let mut buffer = vec![0; SMALL_BODY];
    let mut left = length;
    while left > 0 {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            return Err(io::Error::other("what is to be sent is shorter than announced"));
        }
        connection.write_all(buffer.get(..count).unwrap_or_default(), deadline)?;
        left = left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
    }
    Ok(())
}

enum Stop {
    Io(io::Error),
    Fault(Fault),
}

fn read_reply(
    connection: &mut Connection,
    decoder: &mut Decoder,
    request: &mut Request<'_>,
    deadline: &mut Deadline,
) -> Result<Vec<u8>, Stop> {
    let mut buffer = [0; READ_BYTES];
    let mut body = Vec::new();
    while !decoder.is_done() {
        let count = connection.read(&mut buffer, deadline).map_err(Stop::Io)?;
        if count == 0 {
            decoder.end().map_err(Stop::Fault)?;
        }
        let bytes = buffer.get(..count).unwrap_or_default();
        decoder.feed(bytes, &mut body).map_err(Stop::Fault)?;
        if let Some(sink) = request.sink.as_mut()
            && decoder.head().is_some_and(|head| head.status == 200)
        {
            sink(&body).map_err(Stop::Fault)?;
            body.clear();
        }
    }
    Ok(body)
}
