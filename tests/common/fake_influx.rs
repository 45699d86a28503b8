//! A server for metrics in the test's own process: it writes down every request, and answers as the test says.

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
    /// Of a header; names in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find_map(|line| {
                line.split_once(": ")
                    .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            })
            .map(|(_, value)| value)
    }
}

/// Status, further header lines, body; `None`: no answer at all.
pub type Reply = Option<(u16, &'static str, &'static str)>;
type Judge = Box<dyn FnMut(&Request) -> Reply + Send>;

pub const TAKEN: Reply = Some((204, "", ""));

struct Shared {
    requests: Mutex<Vec<Request>>,
    /// Those that were answered with a 2xx.
    taken: Mutex<String>,
    judge: Mutex<Judge>,
    held: Mutex<Vec<TcpStream>>,
}

pub struct FakeInflux {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<(Arc<AtomicBool>, std::thread::JoinHandle<()>)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeInflux {
    /// Up, and takes everything.
    pub fn new() -> FakeInflux {
        let shared = Shared {
            requests: Mutex::default(),
            taken: Mutex::default(),
            judge: Mutex::new(Box::new(|_| TAKEN)),
            held: Mutex::default(),
        };
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = FakeInflux {
            address,
            shared: Arc::new(shared),
            accepting: None,
        };
        server.up();
        server
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn answer(&self, judge: impl FnMut(&Request) -> Reply + Send + 'static) {
        *lock(&self.shared.judge) = Box::new(judge);
    }

    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    pub fn writes(&self) -> usize {
        lock(&self.shared.requests)
            .iter()
            .filter(|request| request.line.contains("write"))
            .count()
    }

    /// All lines of a series that were taken, in their order.
    pub fn lines(&self, series: &str) -> Vec<String> {
        let of_series = |line: &&str| {
            line.strip_prefix(series)
                .is_some_and(|rest| rest.starts_with([',', ' ']))
        };
        lock(&self.shared.taken)
            .lines()
            .filter(of_series)
            .map(str::to_owned)
            .collect()
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

impl Drop for FakeInflux {
    fn drop(&mut self) {
        self.down();
    }
}

fn serve(shared: &Shared, mut stream: TcpStream) -> Option<()> {
    let request = read_request(&mut stream)?;
    let reply = (lock(&shared.judge))(&request);
    if matches!(reply, Some((200..=299, ..))) {
        lock(&shared.taken).push_str(&request.body);
    }
    lock(&shared.requests).push(request);
    match reply {
        None => lock(&shared.held).push(stream),
        Some((code, headers, body)) => {
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {code} Status\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n"
            );
            stream.write_all(format!("{head}{body}").as_bytes()).ok()?;
        }
    }
    Some(())
}

fn read_request(stream: &mut TcpStream) -> Option<Request> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 16384]);
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let mut lines = head.lines().map(str::to_owned);
            let line = lines.next()?.trim_end_matches(" HTTP/1.1").to_owned();
            let mut request = Request {
                at: Instant::now(),
                line,
                headers: lines.collect(),
                body: String::new(),
            };
            let length: usize = request
                .header("content-length")
                .map_or(0, |value| value.parse().unwrap());
            if bytes.len() >= end + 4 + length {
                assert_eq!(bytes.len(), end + 4 + length, "more than was announced");
                request.body = String::from_utf8(bytes[end + 4..].to_vec()).unwrap();
                return Some(request);
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend(&buffer[..count]),
        }
    }
}
