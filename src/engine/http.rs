//! HTTP/1.1 without I/O: a request's head to bytes, and the bytes of an answer, cut anywhere, to its head and body.
//! Pure. An answer that ends before its own framing says so is a fault, never an end; every size is bounded.

use std::fmt;

/// The largest head of an answer, and the largest chunk line or trailer.
const HEAD_LIMIT: usize = 64 * 1024;
const MOST_HEADERS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
    Delete,
}

impl Method {
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Delete => "DELETE",
        }
    }
}

/// What is wrong with the bytes of an answer or of a stream inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    Garbage(String),
    TooLarge {
        limit: u64,
    },
    /// The peer closed inside the named part.
    Truncated(&'static str),
}

impl Fault {
    pub fn garbage(why: impl Into<String>) -> Fault {
        Fault::Garbage(why.into())
    }

    pub fn too_large(limit: usize) -> Fault {
        let limit = count(limit);
        Fault::TooLarge { limit }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Garbage(why) => f.write_str(why),
            Fault::TooLarge { limit } => write!(f, "larger than {limit} bytes"),
            Fault::Truncated(part) => write!(f, "cut off in its {part}"),
        }
    }
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// `path` is already percent-encoded. A body, where there is one, follows with exactly `length` bytes.
pub fn encode_head(method: Method, path: &str, headers: &[(&str, &str)], length: Option<u64>) -> Vec<u8> {
    let mut head = format!("{} {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: plancton\r\n", method.as_str());
    for (name, value) in headers {
        // A line break in a value (a credential read from a file, say) must not become a header of its own.
        let value: String = value.chars().filter(|c| !c.is_control()).collect();
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(length) = length {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// Percent-encodes all but unreserved characters and those in `keep`.
pub fn encode_percent(text: &str, keep: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if plain || keep.as_bytes().contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    headers: Vec<(String, String)>,
    http_1_1: bool,
}

impl Head {
    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    fn all<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        let named = move |(n, _): &&(String, String)| n.eq_ignore_ascii_case(name);
        self.headers.iter().filter(named).map(|(_, v)| v.as_str())
    }

    /// RFC 9112, 6.3: chunked wins over a length, and a body without either ends with the connection.
    fn framing(&self, method: Method, limit: u64) -> Result<State, Fault> {
        if method == Method::Head || matches!(self.status, 204 | 304) {
            return Ok(State::Done);
        }
        if let Some(coding) = self.header("transfer-encoding") {
            if coding.eq_ignore_ascii_case("chunked") {
                return Ok(State::Chunked(Dechunker::new(limit)));
            }
            return Err(Fault::garbage("unknown transfer encoding"));
        }
        let mut lengths = self.all("content-length");
        let Some(first) = lengths.next() else {
            return Ok(State::UntilClose);
        };
        let digits = !first.is_empty() && first.bytes().all(|b| b.is_ascii_digit());
        if !digits || lengths.any(|other| other != first) {
            return Err(Fault::garbage("content length is not one number"));
        }
        match first.parse::<u64>() {
            Ok(0) => Ok(State::Done),
            Ok(length) if length <= limit => Ok(State::Length(length)),
            _ => Err(Fault::TooLarge { limit }),
        }
    }
}

#[derive(Debug)]
enum State {
    Head,
    /// Bytes of body still to come.
    Length(u64),
    Chunked(Dechunker),
    UntilClose,
    Done,
}

/// Decodes one answer.
#[derive(Debug)]
pub struct Decoder {
    method: Method,
    limit: u64,
    state: State,
    pending: Vec<u8>,
    head: Option<Head>,
    received: u64,
    is_started: bool,
    /// Framed by itself, not by the end of the connection, and nothing came after it.
    is_clean: bool,
}

impl Decoder {
    /// `limit` bounds the body in bytes. `method` is the request's: an answer to HEAD has no body whatever its head says.
    pub fn new(method: Method, limit: u64) -> Decoder {
        Decoder {
            method,
            limit,
            state: State::Head,
            pending: Vec::new(),
            head: None,
            received: 0,
            is_started: false,
            is_clean: true,
        }
    }

    /// Takes all of `input` and appends what is body to `body`.
    pub fn feed(&mut self, mut input: &[u8], body: &mut Vec<u8>) -> Result<(), Fault> {
        self.is_started |= !input.is_empty();
        while !input.is_empty() {
            let before = body.len();
            let mut is_done = false;
            input = match &mut self.state {
                State::Head => self.feed_head(input)?,
                State::Length(left) => {
                    let rest = take(input, left, body);
                    is_done = *left == 0;
                    rest
                }
                State::Chunked(chunks) => {
                    let (rest, ended) = chunks.feed(input, body)?;
                    is_done = ended;
                    rest
                }
                State::UntilClose => {
                    body.extend_from_slice(input);
                    &[]
                }
                State::Done => {
                    self.is_clean = false;
                    &[]
                }
            };
            if is_done {
                self.state = State::Done;
            }
            self.received = self.received.saturating_add(count(body.len() - before));
            if self.received > self.limit {
                return Err(Fault::TooLarge { limit: self.limit });
            }
        }
        Ok(())
    }

    /// Collects and parses the head; returns the input behind it.
    fn feed_head<'a>(&mut self, input: &'a [u8]) -> Result<&'a [u8], Fault> {
        self.pending.extend_from_slice(input);
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut parsed = httparse::Response::new(&mut headers);
        let length = match parsed.parse(&self.pending) {
            Ok(httparse::Status::Complete(length)) if length <= HEAD_LIMIT => length,
            Ok(httparse::Status::Partial) if self.pending.len() <= HEAD_LIMIT => return Ok(&[]),
            Ok(_) => return Err(Fault::too_large(HEAD_LIMIT)),
            Err(error) => return Err(Fault::garbage(format!("not an HTTP answer: {error}"))),
        };
        let status = parsed.code.unwrap_or(0);
        let text = |h: &httparse::Header| (h.name.to_owned(), String::from_utf8_lossy(h.value).into_owned());
        let head =
            Head { status, headers: parsed.headers.iter().map(text).collect(), http_1_1: parsed.version == Some(1) };
        let rest_length = self.pending.len() - length;
        self.pending.clear();
        match status {
            101 => return Err(Fault::garbage("the engine switched protocols")),
            100..=199 => {}
            _ => {
                self.state = head.framing(self.method, self.limit)?;
                self.head = Some(head);
            }
        }
        Ok(input.get(input.len() - rest_length..).unwrap_or_default())
    }

    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    pub fn into_head(self) -> Option<Head> {
        self.head
    }

    /// At least one byte of the answer has arrived.
    pub fn is_started(&self) -> bool {
        self.is_started
    }

    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// The peer closed: fine only where that was the framing.
    pub fn end(&mut self) -> Result<(), Fault> {
        match self.state {
            State::Done => {}
            State::UntilClose => {
                self.state = State::Done;
                self.is_clean = false;
            }
            State::Head => return Err(Fault::Truncated("head")),
            State::Length(_) | State::Chunked(_) => return Err(Fault::Truncated("body")),
        }
        Ok(())
    }

    /// Whether the connection can carry another request after this answer.
    pub fn is_reusable(&self) -> bool {
        let stays = |head: &Head| {
            let closes = |v: &str| v.to_ascii_lowercase().contains("close");
            head.http_1_1 && !head.all("connection").any(closes)
        };
        self.is_done() && self.is_clean && self.head.as_ref().is_some_and(stays)
    }
}

/// Moves at most `left` bytes over and returns the rest.
fn take<'a>(input: &'a [u8], left: &mut u64, body: &mut Vec<u8>) -> &'a [u8] {
    let most = usize::try_from(*left).unwrap_or(usize::MAX);
    let (data, rest) = input.split_at_checked(most).unwrap_or((input, &[]));
    body.extend_from_slice(data);
    *left = left.saturating_sub(count(data.len()));
    rest
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Chunk {
    #[default]
    Size,
    Extension,
    Lf,
    Data,
    Cr,
    Trailer,
}

/// RFC 9112, 7.1. Six states; the end of the last trailer line ends it.
#[derive(Debug, Default)]
struct Dechunker {
    state: Chunk,
    /// No chunk is larger than a whole body may be.
    limit: u64,
    /// Bytes of the chunk still to come; `None` behind its data and before the digits of the next size.
    left: Option<u64>,
    /// Bytes of framing since the last data: bounds endless digits, extensions and trailers.
    overhead: usize,
    /// Bytes in the current trailer line.
    line: usize,
}

impl Dechunker {
    fn new(limit: u64) -> Dechunker {
        Dechunker { limit, ..Dechunker::default() }
    }

    /// Returns the rest of the input and whether the body has ended.
    fn feed<'a>(&mut self, mut input: &'a [u8], body: &mut Vec<u8>) -> Result<(&'a [u8], bool), Fault> {
        while let Some((&byte, rest)) = input.split_first() {
            if self.state == Chunk::Data {
                let mut left = self.left.unwrap_or(0);
                input = take(input, &mut left, body);
                self.left = Some(left);
                if left == 0 {
                    (self.state, self.left, self.overhead) = (Chunk::Cr, None, 0);
                }
                continue;
            }
            input = rest;
            self.overhead += 1;
            if self.overhead > HEAD_LIMIT {
                return Err(Fault::too_large(HEAD_LIMIT));
            }
            if self.step(byte)? {
                return Ok((input, true));
            }
        }
        Ok((input, false))
    }

    /// One byte of framing; true at the end of the body.
    fn step(&mut self, byte: u8) -> Result<bool, Fault> {
        let bad = || Err(Fault::garbage("bad chunk framing"));
        self.state = match (self.state, byte) {
            (Chunk::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                let size = self.left.unwrap_or(0).checked_mul(16);
                self.left = size.and_then(|size| size.checked_add(u64::from(digit)));
                if self.left.is_none_or(|size| size > self.limit) {
                    return Err(Fault::TooLarge { limit: self.limit });
                }
                Chunk::Size
            }
            (Chunk::Size, _) if self.left.is_none() => return bad(),
            (Chunk::Size | Chunk::Extension | Chunk::Cr, b'\r') => Chunk::Lf,
            (Chunk::Size, b';' | b' ' | b'\t') => Chunk::Extension,
            (Chunk::Extension, byte) if byte != b'\n' => Chunk::Extension,
            (Chunk::Lf, b'\n') => match self.left {
                None => Chunk::Size,
                Some(0) => Chunk::Trailer,
                Some(_) => Chunk::Data,
            },
            (Chunk::Trailer, b'\n') if self.line == 0 => return Ok(true),
            (Chunk::Trailer, byte) => {
                self.line = match byte {
                    b'\n' => 0,
                    b'\r' => self.line,
                    _ => self.line + 1,
                };
                Chunk::Trailer
            }
            _ => return bad(),
        };
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nApi-Version: 1.41\r\n\r\nhello";
    const CHUNKED: &str =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n002\r\nlo\r\n0\r\nA: b\r\nC: d\r\n\r\n";
    const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 409 Conflict\r\ncontent-length: 2\r\n\r\n{}";
    const NO_BODY: &str = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
    const EMPTY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    const OLD: &str = "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nOK";
    const GET: Method = Method::Get;

    /// (method, answer, status, body, reusable)
    const ANSWERS: [(Method, &str, u16, &str, bool); 7] = [
        (GET, LENGTH, 200, "hello", true),
        (GET, CHUNKED, 200, "hello", true),
        (GET, CONTINUE, 409, "{}", true),
        (GET, NO_BODY, 204, "", false),
        (GET, EMPTY, 200, "", true),
        (GET, OLD, 200, "OK", false),
        (Method::Head, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", 200, "", true),
    ];

    /// Feeds the pieces and then the end.
    fn decode(method: Method, limit: u64, pieces: &[&[u8]]) -> Result<(Decoder, Vec<u8>), Fault> {
        let mut decoder = Decoder::new(method, limit);
        let mut body = Vec::new();
        for piece in pieces {
            decoder.feed(piece, &mut body)?;
        }
        decoder.end()?;
        Ok((decoder, body))
    }

    #[test]
    fn every_split_gives_the_same() {
        for (method, answer, status, text, reusable) in ANSWERS {
            let bytes = answer.as_bytes();
            let each: Vec<&[u8]> = bytes.chunks(1).collect();
            let mut splits = vec![each];
            splits.extend((0..=bytes.len()).map(|cut| vec![&bytes[..cut], &bytes[cut..]]));
            for pieces in splits {
                let (decoder, body) = decode(method, 100, &pieces).unwrap();
                assert_eq!(body, text.as_bytes(), "{pieces:?}");
                assert_eq!(decoder.head().unwrap().status, status);
                assert_eq!(decoder.is_reusable(), reusable, "{answer}");
            }
        }
    }

    #[test]
    fn every_prefix_is_an_error() {
        for (method, answer, ..) in ANSWERS {
            for cut in 0..answer.len() {
                let fault = decode(method, 100, &[&answer.as_bytes()[..cut]]).unwrap_err();
                assert!(matches!(fault, Fault::Truncated(_)), "{cut} of {answer}");
            }
        }
    }

    #[test]
    fn until_close_only_without_framing() {
        let (decoder, body) = decode(GET, 9, &[b"HTTP/1.1 200 OK\r\n\r\nab", b"c"]).unwrap();
        assert_eq!((body.as_slice(), decoder.is_reusable()), (&b"abc"[..], false));
        let (decoder, _) = decode(GET, 100, &[LENGTH.as_bytes(), b"junk"]).unwrap();
        assert!(!decoder.is_reusable());
    }

    #[test]
    fn header_names_in_any_case() {
        let (decoder, _) = decode(GET, 100, &[LENGTH.as_bytes()]).unwrap();
        let head = decoder.into_head().unwrap();
        assert_eq!(head.header("API-VERSION"), Some("1.41"));
        assert_eq!(head.header("server"), None);
    }

    #[test]
    fn garbage() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for bad in [
            "SSH-2.0-x\r\n",
            "\0\0\0",
            "HTTP/1.1 abc\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 101 Switching\r\n\r\n",
            &format!("{chunked}x\r\n"),
            &format!("{chunked}\r\n"),
            &format!("{chunked}1\nx"),
            &format!("{chunked}1\r\nxy"),
            &format!("{chunked}1\r\nx\rz"),
            &format!("{chunked}-1\r\n"),
        ] {
            let fault = decode(GET, 100, &[bad.as_bytes()]).unwrap_err();
            assert!(matches!(fault, Fault::Garbage(_)), "{bad:.60}: {fault:?}");
        }
    }

    #[test]
    fn too_large() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let endless_head = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(HEAD_LIMIT));
        for (answer, limit) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n", 10),
            ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", 10),
            ("HTTP/1.1 200 OK\r\n\r\n01234567890", 10),
            (&format!("{chunked}b\r\n"), 10),
            (&format!("{chunked}9\r\n012345678\r\n2\r\n34"), 10),
            (&format!("{chunked}{}", "0".repeat(HEAD_LIMIT + 1)), 65_536),
            (&format!("{chunked}ffffffffffffffff\r\n"), 10),
            (&format!("{chunked}fffffffffffffffff\r\n"), 10),
            (&endless_head, 65_536),
        ] {
            let fault = decode(GET, 10, &[answer.as_bytes()]).unwrap_err();
            assert_eq!(fault, Fault::TooLarge { limit }, "{answer:.80}");
        }
    }

    #[test]
    fn requests() {
        let head = encode_head(Method::Post, "/x?y=%20", &[("X-Registry-Auth", "a\r\nEvil: b")], Some(3));
        let text = String::from_utf8(head).unwrap();
        assert!(text.starts_with("POST /x?y=%20 HTTP/1.1\r\nHost: "), "{text}");
        assert!(text.ends_with("Auth: aEvil: b\r\nContent-Length: 3\r\n\r\n"));
        assert_eq!(encode_percent("a b/é:", "/"), "a%20b/%C3%A9%3A");
    }
}
