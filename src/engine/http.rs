//! HTTP/1.1 without I/O: a request's head to bytes, and the bytes of an answer, cut anywhere, to its head and body.
//! Pure. An answer that ends before its own framing says so is a fault, never an end; every size is bounded.

use super::error::Fault;

/// The largest head of an answer, and the most of chunk framing without data.
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
    fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Delete => "DELETE",
        }
    }
}

/// `path` is already percent-encoded. A body, where there is one, follows with exactly `length` bytes.
pub fn encode_head(
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    length: Option<u64>,
) -> Vec<u8> {
    let mut head = format!(
        "{} {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: plancton\r\n",
        method.as_str()
    );
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
        if byte.is_ascii_alphanumeric()
            || b"-._~".contains(&byte)
            || keep.as_bytes().contains(&byte)
        {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Where the next byte of an answer belongs; chunks as in RFC 9112, 7.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// Bytes of body still to come.
    Length(u64),
    UntilClose,
    ChunkSize,
    /// Bytes of the chunk still to come.
    Chunk(u64),
    ChunkEnd,
    Trailer,
    Done,
}

/// Decodes one answer.
#[derive(Debug, Default)]
pub struct Decoder {
    /// An answer to HEAD has no body whatever its head says.
    is_to_head: bool,
    limit: u64,
    state: State,
    /// What has come of a head or of a line of chunk framing.
    pending: Vec<u8>,
    /// Bytes of chunk framing since the last data: bounds endless digits, extensions and trailers.
    framing: usize,
    /// Bytes of body.
    received: u64,
    status: u16,
    headers: Vec<(String, String)>,
    /// By its head, by its own framing, and because nothing came after it.
    stays_open: bool,
}

impl Decoder {
    /// `method` is the request's; `limit` bounds the body in bytes.
    pub fn new(method: Method, limit: u64) -> Decoder {
        Decoder {
            is_to_head: method == Method::Head,
            limit,
            ..Decoder::default()
        }
    }

    /// Takes all of `input` and appends what is body to `body`.
    pub fn feed(&mut self, mut input: &[u8], body: &mut Vec<u8>) -> Result<(), Fault> {
        while !input.is_empty() {
            let before = body.len();
            match &mut self.state {
                State::Head => self.feed_head(&mut input)?,
                State::ChunkSize | State::ChunkEnd | State::Trailer => {
                    self.feed_line(&mut input)?
                }
                State::Length(left) => {
                    take(&mut input, left, body);
                    if *left == 0 {
                        self.state = State::Done;
                    }
                }
                State::Chunk(left) => {
                    take(&mut input, left, body);
                    if *left == 0 {
                        (self.state, self.framing) = (State::ChunkEnd, 0);
                    }
                }
                State::UntilClose => {
                    body.extend_from_slice(input);
                    input = &[];
                }
                State::Done => {
                    self.stays_open = false;
                    break;
                }
            }
            self.received = self.received.saturating_add(count(body.len() - before));
            if self.received > self.limit {
                return Err(Fault::TooLarge { limit: self.limit });
            }
        }
        Ok(())
    }

    /// Collects and parses the head.
    fn feed_head(&mut self, input: &mut &[u8]) -> Result<(), Fault> {
        self.pending.extend_from_slice(input);
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut parsed = httparse::Response::new(&mut headers);
        let length = match parsed.parse(&self.pending) {
            Ok(httparse::Status::Complete(length)) if length <= HEAD_LIMIT => length,
            Ok(httparse::Status::Partial) if self.pending.len() <= HEAD_LIMIT => {
                *input = &[];
                return Ok(());
            }
            Ok(_) => return Err(Fault::too_large(HEAD_LIMIT)),
            Err(error) => return Err(Fault::garbage(format!("not an HTTP answer: {error}"))),
        };
        let text = |h: &httparse::Header| {
            (
                h.name.to_owned(),
                String::from_utf8_lossy(h.value).into_owned(),
            )
        };
        let status = parsed.code.unwrap_or(0);
        self.headers = parsed.headers.iter().map(text).collect();
        self.stays_open = parsed.version == Some(1);
        *input = input
            .get(input.len() - (self.pending.len() - length)..)
            .unwrap_or_default();
        self.pending.clear();
        match status {
            101 => return Err(Fault::garbage("the engine switched protocols")),
            // An interim answer: the real one follows.
            100..=199 => {}
            _ => {
                self.status = status;
                let closes = self
                    .all("connection")
                    .any(|v| v.to_ascii_lowercase().contains("close"));
                self.stays_open &= !closes;
                self.state = self.body_state()?;
            }
        }
        Ok(())
    }

    /// RFC 9112, 6.3: chunked wins over a length, and a body without either ends with the connection.
    fn body_state(&self) -> Result<State, Fault> {
        if self.is_to_head || matches!(self.status, 204 | 304) {
            return Ok(State::Done);
        }
        if let Some(coding) = self.header("transfer-encoding") {
            let is_chunked = coding.eq_ignore_ascii_case("chunked");
            return is_chunked
                .then_some(State::ChunkSize)
                .ok_or_else(|| Fault::garbage("unknown transfer encoding"));
        }
        let Some(first) = self.header("content-length") else {
            return Ok(State::UntilClose);
        };
        let is_number = !first.is_empty() && first.bytes().all(|b| b.is_ascii_digit());
        if !is_number || self.all("content-length").any(|other| other != first) {
            return Err(Fault::garbage("content length is not one number"));
        }
        match first.parse() {
            Ok(0) => Ok(State::Done),
            Ok(length) if length <= self.limit => Ok(State::Length(length)),
            _ => Err(Fault::TooLarge { limit: self.limit }),
        }
    }

    /// Collects a line of chunk framing and, when it is whole, steps on.
    fn feed_line(&mut self, input: &mut &[u8]) -> Result<(), Fault> {
        let mut left = input
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(u64::MAX, |at| count(at) + 1);
        let before = self.pending.len();
        take(input, &mut left, &mut self.pending);
        self.framing += self.pending.len() - before;
        if self.framing > HEAD_LIMIT {
            return Err(Fault::too_large(HEAD_LIMIT));
        }
        let bad = || Fault::garbage("bad chunk framing");
        if self.state == State::ChunkEnd && !b"\r\n".starts_with(&self.pending) {
            return Err(bad());
        }
        if !self.pending.ends_with(b"\n") {
            return Ok(());
        }
        let line = std::mem::take(&mut self.pending);
        let line = line.strip_suffix(b"\r\n").ok_or_else(bad)?;
        self.state = match self.state {
            State::ChunkSize => match parse_chunk_size(line).ok_or_else(bad)? {
                0 => State::Trailer,
                size if size <= self.limit => State::Chunk(size),
                _ => return Err(Fault::TooLarge { limit: self.limit }),
            },
            State::Trailer if line.is_empty() => State::Done,
            State::Trailer => State::Trailer,
            _ => State::ChunkSize,
        };
        Ok(())
    }

    /// The peer closed: fine only where that was the framing.
    pub fn end(&mut self) -> Result<(), Fault> {
        match self.state {
            State::Done => Ok(()),
            State::UntilClose => {
                (self.state, self.stays_open) = (State::Done, false);
                Ok(())
            }
            State::Head => Err(Fault::Truncated("head")),
            _ => Err(Fault::Truncated("body")),
        }
    }

    /// 0 until the head has arrived.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers
            .iter()
            .filter(move |(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// At least one byte of the answer has arrived.
    pub fn is_started(&self) -> bool {
        self.status != 0 || !self.pending.is_empty()
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the connection can carry another request after this answer.
    pub fn is_reusable(&self) -> bool {
        self.is_done() && self.stays_open
    }
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Moves at most `left` bytes over.
fn take(input: &mut &[u8], left: &mut u64, to: &mut Vec<u8>) {
    let most = usize::try_from(*left).unwrap_or(usize::MAX);
    let (data, rest) = input.split_at_checked(most).unwrap_or((*input, &[]));
    to.extend_from_slice(data);
    *left -= count(data.len());
    *input = rest;
}

/// Hexadecimal digits before any extension; too many of them give the largest size.
fn parse_chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line
        .split(|byte| b"; \t".contains(byte))
        .next()
        .filter(|digits| !digits.is_empty())?;
    digits.iter().try_fold(0u64, |size, byte| {
        let digit = char::from(*byte).to_digit(16)?;
        Some(size.saturating_mul(16).saturating_add(u64::from(digit)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nApi-Version: 1.41\r\n\r\nhello";
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n002\r\nlo\r\n0\r\nA: b\r\nC: d\r\n\r\n";
    const CONTINUE: &str =
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 409 Conflict\r\ncontent-length: 2\r\n\r\n{}";
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
        (
            Method::Head,
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
            200,
            "",
            true,
        ),
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
                assert_eq!(decoder.status(), status);
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
        assert_eq!(
            (body.as_slice(), decoder.is_reusable()),
            (&b"abc"[..], false)
        );
        let (decoder, _) = decode(GET, 100, &[LENGTH.as_bytes(), b"junk"]).unwrap();
        assert!(!decoder.is_reusable());
    }

    #[test]
    fn header_names_in_any_case() {
        let (decoder, _) = decode(GET, 100, &[LENGTH.as_bytes()]).unwrap();
        assert_eq!(decoder.header("API-VERSION"), Some("1.41"));
        assert_eq!(decoder.header("server"), None);
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
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
                10,
            ),
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
        let head = encode_head(
            Method::Post,
            "/x?y=%20",
            &[("X-Registry-Auth", "a\r\nEvil: b")],
            Some(3),
        );
        let text = String::from_utf8(head).unwrap();
        assert!(
            text.starts_with("POST /x?y=%20 HTTP/1.1\r\nHost: "),
            "{text}"
        );
        assert!(text.ends_with("Auth: aEvil: b\r\nContent-Length: 3\r\n\r\n"));
        assert_eq!(encode_percent("a b/é:", "/"), "a%20b/%C3%A9%3A");
    }
}
