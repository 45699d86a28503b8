//! A web server in the test's own process: it writes down every request, and answers as the test says. As a server for
//! metrics (`lines` are those that were taken), and as one that publishes a configuration.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

#[derive(Clone, Debug)]
pub struct Request {
    pub at: Instant,
    /// `POST /write?db=x`.
    pub line: String,
    pub headers: Vec<String>,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.headers.iter().filter_map(|line| line.split_once(": "));
        let mut found = fields.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value)
    }
}

/// Status, further header lines, body; `None`: no answer at all, and the connection stays.
pub type Reply = Option<(u16, &'static str, &'static str)>;
type Judge = Box<dyn FnMut(&Request, &mut TcpStream) -> bool + Send>;

pub const TAKEN: Reply = Some((204, "", ""));

struct Shared {
    requests: Mutex<Vec<Request>>,
    /// Bodies of requests that were taken.
    taken: Mutex<String>,
    judge: Mutex<Judge>,
    held: Mutex<Vec<TcpStream>>,
}

pub struct WebServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<(Arc<AtomicBool>, std::thread::JoinHandle<()>)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WebServer {
    /// Up, and takes everything.
    pub fn new() -> WebServer {
        let shared = Shared {
            requests: Mutex::default(),
            taken: Mutex::default(),
            judge: Mutex::new(Box::new(|_, _| false)),
            held: Mutex::default(),
        };
        let mut server = WebServer {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            shared: Arc::new(shared),
            accepting: None,
        };
        server.answer(|_| TAKEN);
        server.up();
        server
    }

    /// That publishes this configuration.
    pub fn site(text: &str) -> WebServer {
        let site = WebServer::new();
        site.publish(text);
        site
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What is written to the stream is all of the answer; the connection ends with it.
    pub fn answer_raw(
        &self,
        mut answer: impl FnMut(&Request, &mut TcpStream) -> std::io::Result<()> + Send + 'static,
    ) {
        // The client may well hang up on what comes.
        *lock(&self.shared.judge) = Box::new(move |request, stream| {
            let _ = answer(request, stream);
            false
        });
    }

    pub fn answer(&self, mut judge: impl FnMut(&Request) -> Reply + Send + 'static) {
        let shared = Arc::downgrade(&self.shared);
        *lock(&self.shared.judge) = Box::new(move |request, stream| {
            let Some((code, headers, body)) = judge(request) else {
                return true;
            };
            if let (200..=299, Some(shared)) = (code, shared.upgrade()) {
                lock(&shared.taken).push_str(&request.body);
            }
            let _ = respond(stream, code, headers, body);
            false
        });
    }

    /// As a good server does: with a tag, by which it is not sent again.
    pub fn publish(&self, text: &str) {
        let text = text.to_owned();
        let tag = format!(
            "\"{}-{:x}\"",
            text.len(),
            text.bytes().map(u64::from).sum::<u64>()
        );
        self.answer_raw(
            move |request, stream| match request.header("if-none-match") {
                Some(known) if known == tag => respond(stream, 304, "", ""),
                _ => respond(stream, 200, &format!("ETag: {tag}\r\n"), &text),
            },
        );
    }

    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    pub fn writes(&self) -> usize {
        let requests = self.requests();
        requests
            .iter()
            .filter(|request| request.line.contains("write"))
            .count()
    }

    /// All lines of a series that were taken, in their order.
    pub fn lines(&self, series: &str) -> Vec<String> {
        let is_of = |rest: &str| rest.starts_with([',', ' ']);
        let is_of = |line: &&str| line.strip_prefix(series).is_some_and(is_of);
        let taken = lock(&self.shared.taken);
        taken.lines().filter(is_of).map(str::to_owned).collect()
    }

    pub fn up(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        self.address = listener.local_addr().unwrap();
        let going = Arc::new(AtomicBool::new(true));
        let (shared, of_thread) = (Arc::clone(&self.shared), Arc::clone(&going));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if !of_thread.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || stream.map(|stream| serve(&shared, stream)));
            }
        });
        self.accepting = Some((going, thread));
    }

    /// Nobody listens any more.
    pub fn down(&mut self) {
        if let Some((going, thread)) = self.accepting.take() {
            going.store(false, Ordering::SeqCst);
            let _ = TcpStream::connect(self.address);
            thread.join().unwrap();
        }
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.down();
    }
}

pub fn respond(
    stream: &mut TcpStream,
    code: u16,
    headers: &str,
    body: &str,
) -> std::io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {code} Status\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}"
    );
    write!(stream, "{head}\r\n{body}")
}

fn serve(shared: &Shared, mut stream: TcpStream) -> Option<()> {
    let (line, headers, body) = read_request(&mut stream)?;
    let request = Request {
        at: Instant::now(),
        line,
        headers,
        body: String::from_utf8(body).unwrap(),
    };
    lock(&shared.requests).push(request.clone());
    let is_held = (lock(&shared.judge))(&request, &mut stream);
    if is_held {
        lock(&shared.held).push(stream);
    }
    Some(())
}

/// First line without the version, further lines, body.
pub fn read_request(stream: &mut impl Read) -> Option<(String, Vec<String>, Vec<u8>)> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 16384]);
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let mut lines = head.lines().map(str::to_owned);
            let line = lines.next()?.trim_end_matches(" HTTP/1.1").to_owned();
            let headers: Vec<String> = lines.collect();
            let length = headers.iter().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case("content-length")
                    .then(|| value.trim().parse::<usize>().unwrap())
            });
            let whole = end + 4 + length.unwrap_or(0);
            if bytes.len() >= whole {
                assert_eq!(bytes.len(), whole, "more than was announced");
                return Some((line, headers, bytes[end + 4..].to_vec()));
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend(&buffer[..count]),
        }
    }
}
