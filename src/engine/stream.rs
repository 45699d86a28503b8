//! What comes in pieces, as a whole: JSON objects out of a stream, the progress of a pull, the lines of a log.
//! Pure. The engine cuts and joins objects across chunks at will, and an object's size is bounded.

use super::http::Fault;
use super::types::parse_json;
use serde_json::Value;

/// The largest object of a stream: an event with long labels has a few KiB.
const OBJECT_LIMIT: usize = 1024 * 1024;

/// Cuts a stream into JSON objects.
#[derive(Debug, Default)]
pub struct Splitter {
    object: Vec<u8>,
    depth: u32,
    is_in_string: bool,
    is_escaped: bool,
}

impl Splitter {
    /// The objects that `bytes` complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Fault> {
        let mut objects = Vec::new();
        for &byte in bytes {
            if self.depth == 0 {
                match byte {
                    b'{' => {}
                    b' ' | b'\t' | b'\r' | b'\n' => continue,
                    _ => return Err(Fault::garbage("not a JSON object in the stream")),
                }
            }
            if self.object.len() >= OBJECT_LIMIT {
                return Err(Fault::too_large(OBJECT_LIMIT));
            }
            self.object.push(byte);
            self.track(byte);
            if self.depth == 0 {
                objects.push(std::mem::take(&mut self.object));
            }
        }
        Ok(objects)
    }

    fn track(&mut self, byte: u8) {
        match byte {
            _ if self.is_escaped => self.is_escaped = false,
            b'\\' if self.is_in_string => self.is_escaped = true,
            b'"' => self.is_in_string = !self.is_in_string,
            b'{' if !self.is_in_string => self.depth += 1,
            b'}' if !self.is_in_string => self.depth -= 1,
            _ => {}
        }
    }

    /// The stream has ended: inside an object is a fault.
    pub fn end(&self) -> Result<(), Fault> {
        if self.depth > 0 {
            return Err(Fault::Truncated("last object"));
        }
        Ok(())
    }
}

/// One step of a pull, an import or a load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// A layer, or empty.
    pub id: String,
    pub status: String,
    /// Bytes.
    pub current: Option<u64>,
    pub total: Option<u64>,
}

/// The engine's own account of its success so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    Progress(Progress),
    Failure(String),
}

/// Docker says `errorDetail` and `error`; Podman, before any progress, only `message`.
pub fn parse_note(object: &[u8]) -> Result<Note, Fault> {
    let value: Value = parse_json(object)?;
    let text = |pointer: &str| {
        let text = value.pointer(pointer).and_then(Value::as_str);
        text.filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let failure = text("/errorDetail/message").or_else(|| text("/error"));
    let status = text("/status").or_else(|| text("/stream"));
    let is_bare_message = status.is_none() && value.get("id").is_none();
    if let Some(failure) = failure.or_else(|| text("/message").filter(|_| is_bare_message)) {
        return Ok(Note::Failure(failure));
    }
    let number = |pointer: &str| value.pointer(pointer).and_then(Value::as_u64);
    Ok(Note::Progress(Progress {
        id: text("/id").unwrap_or_default(),
        status: status.unwrap_or_default(),
        current: number("/progressDetail/current"),
        total: number("/progressDetail/total").filter(|total| *total > 0),
    }))
}

/// Takes the framing off a log (8 bytes before each piece: stream, three zeros, length) where there is one, and keeps its end.
/// A container with a terminal logs raw.
#[derive(Debug)]
pub struct LogTail {
    most: usize,
    text: Vec<u8>,
    frame: Vec<u8>,
    left: usize,
    is_raw: bool,
}

impl LogTail {
    /// Keeps the last `most` bytes.
    pub fn new(most: usize) -> LogTail {
        LogTail { most, text: Vec::new(), frame: Vec::new(), left: 0, is_raw: false }
    }

    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.is_raw {
                self.left = bytes.len();
            }
            let (text, rest) = bytes.split_at_checked(self.left).unwrap_or((bytes, &[]));
            self.left -= text.len();
            self.keep(text);
            bytes = rest;
            if let Some((&byte, rest)) = bytes.split_first() {
                self.feed_frame(byte);
                bytes = rest;
            }
        }
    }

    fn feed_frame(&mut self, byte: u8) {
        self.frame.push(byte);
        match *self.frame.as_slice() {
            [0..=2] | [0..=2, 0] | [0..=2, 0, 0] => {}
            [0..=2, 0, 0, 0, ref length @ ..] => {
                if let Ok(length) = <[u8; 4]>::try_from(length) {
                    self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                    self.frame.clear();
                }
            }
            _ => {
                self.is_raw = true;
                let text = std::mem::take(&mut self.frame);
                self.keep(&text);
            }
        }
    }

    fn keep(&mut self, text: &[u8]) {
        self.text.extend_from_slice(text);
        if self.text.len() > self.most.saturating_mul(2) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let surplus = self.text.len().saturating_sub(self.most);
        self.text.drain(..surplus);
    }

    pub fn finish(mut self) -> Vec<u8> {
        // A raw log shorter than a frame's head that happens to look like one.
        let rest = std::mem::take(&mut self.frame);
        if self.text.is_empty() {
            self.keep(&rest);
        }
        self.cut();
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(objects: Vec<Vec<u8>>) -> Vec<String> {
        let text = |object| String::from_utf8(object).unwrap();
        objects.into_iter().map(text).collect()
    }

    #[test]
    fn objects_at_every_split() {
        let parts = [r#"{"a":1}"#, r#"{"b":"}{\"\\"}"#, r#"{"c":{"d":[{},{}]}}"#, r#"{"é":"\u007d"}"#];
        for glue in ["", "\n", "\r\n \t"] {
            let stream = parts.join(glue);
            for cut in 0..=stream.len() {
                let (first, second) = stream.as_bytes().split_at(cut);
                let mut splitter = Splitter::default();
                let mut objects = splitter.feed(first).unwrap();
                objects.extend(splitter.feed(second).unwrap());
                assert_eq!(strings(objects), parts, "cut at {cut}");
                assert_eq!(splitter.end(), Ok(()));
            }
        }
    }

    #[test]
    fn faulty_streams() {
        for bad in ["x", "[1]", "{}]", "}"] {
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
            Note::Progress(Progress { id: id.to_owned(), status: status.to_owned(), current, total })
        };
        let failure = |text: &str| Note::Failure(text.to_owned());
        for (text, note) in [
            (
                r#"{"status":"Downloading","progressDetail":{"current":5,"total":9},"id":"ab"}"#,
                progress("ab", "Downloading", Some(5), Some(9)),
            ),
            (r#"{"status":"Waiting","progressDetail":{},"id":"ab"}"#, progress("ab", "Waiting", None, None)),
            (r#"{"stream":"Loaded image: x\n"}"#, progress("", "Loaded image: x\n", None, None)),
            (r#"{"errorDetail":{"code":1,"message":"denied"},"error":"other"}"#, failure("denied")),
            (r#"{"error":"denied"}"#, failure("denied")),
            (r#"{"message":"no such host"}"#, failure("no such host")),
            (r#"{"status":"x","error":null}"#, progress("", "x", None, None)),
        ] {
            assert_eq!(parse_note(text.as_bytes()).unwrap(), note, "{text}");
        }
    }

    #[test]
    fn logs() {
        let framed = b"\x01\0\0\0\0\0\0\x06hello\n\x02\0\0\0\0\0\0\x04bad\n";
        for (log, most, text) in [
            (&framed[..], 100, &b"hello\nbad\n"[..]),
            (&framed[..], 4, b"bad\n"),
            (b"raw text", 100, b"raw text"),
            (b"raw text", 4, b"text"),
            (b"\x01\0", 100, b"\x01\0"),
            (b"\x01\0\0x raw", 100, b"\x01\0\0x raw"),
            (b"", 100, b""),
        ] {
            for cut in 0..=log.len() {
                let mut tail = LogTail::new(most);
                tail.feed(&log[..cut]);
                tail.feed(&log[cut..]);
                assert_eq!(tail.finish(), text, "{log:?} cut at {cut}");
            }
        }
    }
}
