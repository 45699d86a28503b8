//! What comes in pieces: JSON objects out of a stream, the progress of a pull, the events that end pilots.

use super::call::{READ_BYTES, parse_message};
use super::error::{Error, Fault};
use super::http::{Decoder, Method, encode_head, encode_percent};
use super::socket::{Connection, Deadline};
use super::{Engine, INSTANCE_LABEL};
use serde_json::{Map, Value};
use std::os::fd::{AsFd, BorrowedFd};

/// The largest object of a stream: an event with long labels has a few KiB.
const OBJECT_LIMIT: usize = 1024 * 1024;

/// Cuts a stream into JSON objects, which the engine splits and joins across chunks at will.
#[derive(Debug, Default)]
pub struct Splitter(Vec<u8>);

impl Splitter {
    /// The objects that `bytes` complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Value>, Fault> {
        self.0.extend_from_slice(bytes);
        let mut stream =
            serde_json::Deserializer::from_slice(&self.0).into_iter::<Map<String, Value>>();
        let mut objects = Vec::new();
        for object in stream.by_ref() {
            match object {
                Ok(object) => objects.push(Value::Object(object)),
                Err(error) if error.is_eof() => break,
                Err(error) => return Err(Fault::garbage(error.to_string())),
            }
        }
        let whole = stream.byte_offset();
        self.0.drain(..whole);
        if self.0.len() > OBJECT_LIMIT {
            return Err(Fault::too_large(OBJECT_LIMIT));
        }
        Ok(objects)
    }

    /// The stream has ended: inside an object is a fault.
    pub fn end(&self) -> Result<(), Fault> {
        if self.0.iter().all(u8::is_ascii_whitespace) {
            Ok(())
        } else {
            Err(Fault::Truncated("last object"))
        }
    }
}

/// One step of a pull or an import.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// A layer, or empty.
    pub id: String,
    pub status: String,
    /// Bytes.
    pub current: Option<u64>,
    pub total: Option<u64>,
}

/// The engine's own account of its success so far. Docker says `errorDetail` and `error`; Podman, before any progress,
/// only `message`.
pub fn parse_progress(object: &Value) -> Result<Progress, Fault> {
    let text = |pointer: &str| {
        let text = object.pointer(pointer).and_then(Value::as_str);
        text.filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let status = text("/status").or_else(|| text("/stream"));
    let is_bare_message = status.is_none() && object.get("id").is_none();
    let failure = text("/errorDetail/message").or_else(|| text("/error"));
    if let Some(failure) = failure.or_else(|| text("/message").filter(|_| is_bare_message)) {
        return Err(Fault::Failed(failure));
    }
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_u64);
    Ok(Progress {
        id: text("/id").unwrap_or_default(),
        status: status.unwrap_or_default(),
        current: number("/progressDetail/current"),
        total: number("/progressDetail/total").filter(|total| *total > 0),
    })
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

/// The engine's words for a pilot's end, or what precedes it: Docker's, Podman's and both's.
const END_ACTIONS: [&str; 3] = ["die", "died", "oom"];

/// The id of a pilot that ended; `None` for what was not asked for: some engines ignore filters.
fn parse_event(event: &Value, label: &str) -> Option<String> {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
    let is_end = text("/Type") == Some("container")
        && text("/Action").is_some_and(|word| END_ACTIONS.contains(&word));
    let is_ours = event
        .pointer("/Actor/Attributes")
        .is_some_and(|attributes| attributes.get(label).is_some());
    (is_end && is_ours).then(|| text("/Actor/ID").unwrap_or_default().to_owned())
}

/// The engine's event stream, filtered to the ends of pilots, for the loop's own poll: reading never blocks.
/// A hint only: engines drop events and streams hang, so the truth is the list of containers.
#[derive(Debug)]
pub struct EventStream {
    connection: Connection,
    decoder: Decoder,
    splitter: Splitter,
    call: String,
}

impl EventStream {
    /// Connects and asks. May take the engine's whole timeout (connecting, agreeing on a version): not for the loop's own thread.
    pub fn open(engine: &Engine) -> Result<EventStream, Error> {
        let mut deadline = Deadline::whole(engine.timeout);
        let prefix = engine.version_prefix(&mut deadline)?;
        let filters = serde_json::json!({"type": ["container"], "event": END_ACTIONS, "label": [INSTANCE_LABEL]});
        let path = format!(
            "{prefix}/events?filters={}",
            encode_percent(&filters.to_string(), "")
        );
        let mut connection = engine.connect("events", &deadline)?;
        let asked =
            connection.write_all(&encode_head(Method::Get, &path, &[], None), &mut deadline);
        asked.map_err(|fault| engine.error("events", fault))?;
        Ok(EventStream {
            connection,
            decoder: Decoder::new(Method::Get, u64::MAX),
            splitter: Splitter::default(),
            call: engine.named("events"),
        })
    }

    /// The ids of pilots that ended, perhaps none: some engines send not even a head before the first event. A stream that
    /// ended is an error, and is to be opened again.
    pub fn read(&mut self) -> Result<Vec<String>, Error> {
        self.read_events().map_err(|fault| Error {
            call: self.call.clone(),
            fault,
        })
    }

    /// One buffer a turn, so that a flood cannot hold the loop: the rest is still there at the next poll.
    fn read_events(&mut self) -> Result<Vec<String>, Fault> {
        let ended = || Fault::Closed("the engine ended the stream".to_owned());
        let (mut buffer, mut body) = ([0; READ_BYTES], Vec::new());
        match self.connection.read_now(&mut buffer)? {
            None => return Ok(Vec::new()),
            Some(0) => return Err(ended()),
            Some(count) => self
                .decoder
                .feed(buffer.get(..count).unwrap_or_default(), &mut body)?,
        }
        match self.decoder.status() {
            0 | 200 => {}
            code => return Err(Fault::Status(code, parse_message(&body))),
        }
        let objects = self.splitter.feed(&body)?;
        if objects.is_empty() && self.decoder.is_done() {
            return Err(ended());
        }
        Ok(objects
            .iter()
            .filter_map(|event| parse_event(event, INSTANCE_LABEL))
            .collect())
    }
}

impl AsFd for EventStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_at_every_split() {
        let parts = [
            r#"{"a":1}"#,
            r#"{"b":"}{\"\\"}"#,
            r#"{"c":{"d":[{},{}]}}"#,
            r#"{"é":"\u007d"}"#,
        ];
        let whole: Vec<Value> = parts
            .iter()
            .map(|part| serde_json::from_str(part).unwrap())
            .collect();
        for glue in ["", "\n", "\r\n \t"] {
            let stream = parts.join(glue);
            for cut in 0..=stream.len() {
                let (first, second) = stream.as_bytes().split_at(cut);
                let mut splitter = Splitter::default();
                let mut objects = splitter.feed(first).unwrap();
                objects.extend(splitter.feed(second).unwrap());
                assert_eq!(objects, whole, "cut at {cut}");
                assert_eq!(splitter.end(), Ok(()));
            }
        }
    }

    #[test]
    fn faulty_streams() {
        for bad in ["x", "[1]", "{}]", "}", "{oops"] {
            assert!(Splitter::default().feed(bad.as_bytes()).is_err(), "{bad}");
        }
        let mut splitter = Splitter::default();
        assert_eq!(splitter.feed(b"{\"a\":\"}").unwrap().len(), 0);
        assert_eq!(splitter.end(), Err(Fault::Truncated("last object")));
        let mut endless = Splitter::default();
        endless.feed(b"{\"").unwrap();
        let fault = endless.feed(&vec![b'x'; OBJECT_LIMIT]).unwrap_err();
        assert_eq!(fault, Fault::TooLarge { limit: 1_048_576 });
    }

    #[test]
    fn notes() {
        let progress = |id: &str, status: &str, current, total| {
            Ok(Progress {
                id: id.to_owned(),
                status: status.to_owned(),
                current,
                total,
            })
        };
        let failure = |text: &str| Err(Fault::Failed(text.to_owned()));
        for (text, note) in [
            (
                r#"{"status":"Downloading","progressDetail":{"current":5,"total":9},"id":"ab"}"#,
                progress("ab", "Downloading", Some(5), Some(9)),
            ),
            (
                r#"{"status":"Waiting","progressDetail":{},"id":"ab"}"#,
                progress("ab", "Waiting", None, None),
            ),
            (
                r#"{"stream":"Loaded image: x\n"}"#,
                progress("", "Loaded image: x\n", None, None),
            ),
            (
                r#"{"errorDetail":{"code":1,"message":"denied"},"error":"other"}"#,
                failure("denied"),
            ),
            (r#"{"error":"denied"}"#, failure("denied")),
            (r#"{"message":"no such host"}"#, failure("no such host")),
            (
                r#"{"status":"x","error":null}"#,
                progress("", "x", None, None),
            ),
        ] {
            assert_eq!(
                parse_progress(&serde_json::from_str(text).unwrap()),
                note,
                "{text}"
            );
        }
    }

    #[test]
    fn logs() {
        let framed = b"\x01\0\0\0\0\0\0\x06hello\n\x02\0\0\0\0\0\0\x04bad\n";
        for (log, text) in [
            (&framed[..], &b"hello\nbad\n"[..]),
            (b"raw text", b"raw text"),
            (b"\x01\0", b"\x01\0"),
            (b"\x01\0\0x raw", b"\x01\0\0x raw"),
            (b"", b""),
        ] {
            assert_eq!(strip_frames(log), text, "{log:?}");
        }
    }

    #[test]
    fn events_are_checked_again() {
        let event = |kind: &str, action: &str, label: &str| {
            format!(
                r#"{{"Type":"{kind}","Action":"{action}","Actor":{{"ID":"x","Attributes":{{"{label}":"v","exitCode":"0"}}}}}}"#
            )
        };
        for (kind, action, label, ours) in [
            ("container", "die", "l", true),
            ("container", "died", "l", true),
            ("container", "start", "l", false),
            ("image", "die", "l", false),
            ("container", "die", "other", false),
        ] {
            let parsed = parse_event(
                &serde_json::from_str(&event(kind, action, label)).unwrap(),
                "l",
            );
            assert_eq!(parsed.is_some(), ours, "{kind} {action} {label}");
        }
        let podman = r#"{"status":"died","id":"y","Type":"container","Action":"died","Actor":{"ID":"y","Attributes":{"l":""}}}"#;
        assert_eq!(
            parse_event(&serde_json::from_str(podman).unwrap(), "l").unwrap(),
            "y"
        );
    }
}
