//! One small HTTP server for all that tests put in another's place: `HttpServer` on a Unix socket (`fake_engine`) or on the
//! loopback, and on it `WebServer`, which takes metrics (`lines` are those that were taken) or publishes a configuration.

use super::*;
use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
        let mut fields = self.headers.iter().filter_map(|line| line.split_once(':'));
        let found = fields.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    }

    /// `None`: it ended before its end.
    fn read(stream: impl Read) -> Option<Request> {
        let mut reader = BufReader::new(stream);
        let lines = reader.by_ref().lines().map_while(Result::ok);
        let mut head = lines.take_while(|line| !line.is_empty());
        let mut request = Request {
            at: Instant::now(),
            line: head.next()?.trim_end_matches(" HTTP/1.1").to_owned(),
            headers: head.collect(),
            body: String::new(),
        };
        let length = request.header("content-length");
        let length = length.map_or(0, |length| length.parse().unwrap());
        let mut body = reader.by_ref().take(length);
        body.read_to_string(&mut request.body).ok()?;
        assert!(reader.buffer().is_empty(), "more than was announced");
        Some(request).filter(|request| request.body.len() as u64 == length)
    }
}

/// A test that failed must not take others along.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Accepts until it is dropped, and closes all connections then. Each has one request, and a thread of its own.
pub struct HttpServer {
    listener: Arc<OwnedFd>,
    open: Arc<Mutex<BTreeMap<usize, UnixStream>>>,
    accepting: Option<std::thread::JoinHandle<()>>,
}

impl HttpServer {
    /// `answer` writes it, and says whether the connection stays open.
    pub fn new(
        listener: impl Into<OwnedFd>,
        answer: impl Fn(&Request, &mut UnixStream) -> bool + Send + Sync + 'static,
    ) -> HttpServer {
        let listener: Arc<OwnedFd> = Arc::new(listener.into());
        let open: Arc<Mutex<BTreeMap<usize, UnixStream>>> = Arc::default();
        let (accepts, opened, answer) = (listener.clone(), open.clone(), Arc::new(answer));
        let accept = move || {
            for number in 0.. {
                let Ok(socket) = accept_with(&accepts, SocketFlags::CLOEXEC) else {
                    return;
                };
                // Of either kind.
                let mut stream = UnixStream::from(socket);
                lock(&opened).insert(number, stream.try_clone().unwrap());
                let (opened, answer) = (opened.clone(), answer.clone());
                std::thread::spawn(move || {
                    let request = Request::read(&stream);
                    if !request.is_some_and(|request| answer(&request, &mut stream)) {
                        let _ = stream.shutdown(std::net::Shutdown::Both);
                        lock(&opened).remove(&number);
                    }
                });
            }
        };
        HttpServer {
            listener,
            open,
            accepting: Some(std::thread::spawn(accept)),
        }
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        let _ = shutdown(&self.listener, Shutdown::Both);
        let _ = self.accepting.take().unwrap().join();
        for stream in lock(&self.open).values() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// A whole answer, with which the connection ends; `None`: no answer at all, and the connection stays.
pub type Reply = Option<Vec<u8>>;

pub fn reply(code: u16, headers: &str, body: &str) -> Reply {
    let length = format!("Content-Length: {}\r\nConnection: close\r\n", body.len());
    Some(format!("HTTP/1.1 {code} Status\r\n{length}{headers}\r\n{body}").into_bytes())
}

/// As databases say it.
pub fn taken() -> Reply {
    reply(204, "", "")
}

struct Shared {
    requests: Vec<Request>,
    /// Bodies of requests that were taken.
    taken: String,
    judge: Box<dyn FnMut(&Request) -> Reply + Send>,
}

pub struct WebServer {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    server: Option<HttpServer>,
}

impl WebServer {
    /// Up, and takes everything.
    pub fn new() -> WebServer {
        let mut server = WebServer {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            shared: Arc::new(Mutex::new(Shared {
                requests: Vec::new(),
                taken: String::new(),
                judge: Box::new(|_| taken()),
            })),
            server: None,
        };
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

    pub fn answer(&self, judge: impl FnMut(&Request) -> Reply + Send + 'static) {
        lock(&self.shared).judge = Box::new(judge);
    }

    pub fn publish(&self, text: &str) {
        let text = text.to_owned();
        self.answer(move |_| reply(200, "", &text));
    }

    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared).requests.clone()
    }

    pub fn writes(&self) -> usize {
        let requests = &lock(&self.shared).requests;
        let is_write = |request: &&Request| request.line.contains("write");
        requests.iter().filter(is_write).count()
    }

    /// All lines of a series that were taken, in their order.
    pub fn lines(&self, series: &str) -> Vec<String> {
        let is_of = |rest: &str| rest.starts_with([',', ' ']);
        let is_of = |line: &&str| line.strip_prefix(series).is_some_and(is_of);
        let taken = &lock(&self.shared).taken;
        taken.lines().filter(is_of).map(str::to_owned).collect()
    }

    pub fn up(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        self.address = listener.local_addr().unwrap();
        let shared = self.shared.clone();
        self.server = Some(HttpServer::new(listener, move |request, stream| {
            let shared = &mut *lock(&shared);
            shared.requests.push(request.clone());
            let Some(answer) = (shared.judge)(request) else {
                return true;
            };
            if answer.starts_with(b"HTTP/1.1 204") {
                shared.taken.push_str(&request.body);
            }
            // The client may well hang up on what comes.
            let _ = stream.write_all(&answer);
            false
        }));
    }

    /// Nobody listens any more.
    pub fn down(&mut self) {
        self.server = None;
    }
}
