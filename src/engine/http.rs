//! HTTP/1.1 answers over any stream: bytes to a head and a reader of the body.
//! An answer that ends before its own framing says so is an error (`UnexpectedEof`), never an end; what is no HTTP is
//! `InvalidData`. Every size is bounded but the body's, which is up to the reader.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};

/// The largest head of an answer, and the longest line between two chunks.
const HEAD_LIMIT: u64 = 64 * 1024;
const MOST_HEADERS: usize = 64;
const BAD_CHUNK: &str = "bad chunk framing";

/// Percent-encodes all but unreserved characters and those in `keep`.
pub fn encode_percent(text: &str, keep: &str) -> String {
    let encode = |byte: u8| match char::from(byte) {
        c if c.is_ascii_alphanumeric() || "-._~".contains(c) || keep.contains(c) => c.to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

fn garbage(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

/// How the body ends.
#[derive(Debug, PartialEq, Eq)]
enum Framing {
    Length,
    Chunks,
    Close,
}

/// One answer; read, it gives its body.
#[derive(Debug)]
pub struct Answer<S> {
    pub status: u16,
    headers: Vec<(String, String)>,
    stream: BufReader<S>,
    framing: Framing,
    /// Bytes until the end of the body or of the chunk.
    left: u64,
}

impl<S: Read> Answer<S> {
    /// Reads the head. Nothing here asks with HEAD.
    pub fn receive(stream: S) -> io::Result<Answer<S>> {
        let mut answer = Answer {
            status: 0,
            headers: Vec::new(),
            stream: BufReader::new(stream),
            framing: Framing::Length,
            left: 0,
        };
        // After an interim answer the real one follows.
        while answer.status < 200 {
            (answer.status, answer.headers) = read_head(&mut answer.stream)?;
        }
        // RFC 9112, 6.3: chunked wins over a length, and a body without either ends with the connection.
        (answer.framing, answer.left) = match answer.header("transfer-encoding") {
            _ if matches!(answer.status, 204 | 304) => (Framing::Length, 0),
            Some(coding) if coding.eq_ignore_ascii_case("chunked") => (Framing::Chunks, 0),
            Some(_) => return Err(garbage("unknown transfer encoding")),
            None => match answer.header("content-length").map(str::parse) {
                Some(Ok(length)) => (Framing::Length, length),
                Some(Err(_)) => return Err(garbage("the content length is not a number")),
                None => (Framing::Close, u64::MAX),
            },
        };
        Ok(answer)
    }

    /// `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(key, _)| key == name)?;
        Some(&header.1)
    }

    /// A line of chunk framing, with its end.
    fn read_line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut stream = self.stream.by_ref().take(HEAD_LIMIT);
        stream.read_until(b'\n', &mut line)?;
        match line.ends_with(b"\r\n") {
            true => Ok(line),
            false if line.ends_with(b"\n") || stream.limit() == 0 => Err(garbage(BAD_CHUNK)),
            false => Err(ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl<S: Read> Read for Answer<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.framing == Framing::Chunks && self.left == 0 {
            let line = String::from_utf8_lossy(&self.read_line()?).into_owned();
            let (digits, _) = line.split_once([';', ' ', '\t', '\r']).unwrap_or_default();
            self.left = u64::from_str_radix(digits, 16).map_err(|_| garbage(BAD_CHUNK))?;
            if self.left == 0 {
                while self.read_line()? != b"\r\n" {}
                self.framing = Framing::Length;
            }
        }
        let mut rest = self.stream.by_ref().take(self.left);
        let count = rest.read(buffer)?;
        let before = std::mem::replace(&mut self.left, rest.limit());
        if count == 0 && before > 0 && !buffer.is_empty() && self.framing != Framing::Close {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if self.framing == Framing::Chunks && self.left == 0 && self.read_line()? != b"\r\n" {
            return Err(garbage(BAD_CHUNK));
        }
        Ok(count)
    }
}

/// The status, and the headers with their names in lower case.
fn read_head(stream: &mut impl BufRead) -> io::Result<(u16, Vec<(String, String)>)> {
    let (mut head, mut rest) = (Vec::new(), stream.take(HEAD_LIMIT));
    loop {
        let is_end = rest.read_until(b'\n', &mut head)? == 0;
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut parsed = httparse::Response::new(&mut headers);
        match parsed.parse(&head) {
            Ok(httparse::Status::Complete(_)) => {
                let value = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let pair = |h: &httparse::Header| (h.name.to_ascii_lowercase(), value(h.value));
                let headers = parsed.headers.iter().map(pair).collect();
                return Ok((parsed.code.unwrap_or(0), headers));
            }
            Ok(httparse::Status::Partial) if !is_end => {}
            Ok(_) if rest.limit() == 0 => return Err(garbage("its head is too large")),
            Ok(_) => return Err(ErrorKind::UnexpectedEof.into()),
            Err(error) => return Err(garbage(&format!("not an HTTP answer: {error}"))),
        }
    }
}
