//! A web server in the test's own process that publishes a configuration, or answers as badly as a test wants.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

type Answer = Box<dyn Fn(&str, &mut TcpStream) -> std::io::Result<()> + Send>;

/// A web server that answers each request as the test says.
pub struct Site {
    address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    /// The heads of all requests.
    pub heads: Arc<Mutex<Vec<String>>>,
}

pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Site {
    pub fn new(text: &str) -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let site = Site {
            address: listener.local_addr().unwrap(),
            answer: Arc::new(Mutex::new(Box::new(|_, _| Ok(())))),
            heads: Arc::default(),
        };
        site.publish(text);
        let (answer, heads) = (Arc::clone(&site.answer), Arc::clone(&site.heads));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, heads) = (Arc::clone(&answer), Arc::clone(&heads));
                std::thread::spawn(move || {
                    let mut lines = BufReader::new(stream.try_clone().unwrap())
                        .lines()
                        .map_while(Result::ok);
                    let head: String = lines
                        .by_ref()
                        .take_while(|line| !line.is_empty())
                        .map(|line| line + "\n")
                        .collect();
                    lock(&heads).push(head.clone());
                    let mut stream = stream;
                    // The client may well hang up on what comes.
                    let _ = (lock(&answer))(&head, &mut stream);
                });
            }
        });
        site
    }

    pub fn url(&self) -> String {
        format!("http://{}/plancton.toml", self.address)
    }

    pub fn answer(
        &self,
        answer: impl Fn(&str, &mut TcpStream) -> std::io::Result<()> + Send + 'static,
    ) {
        *lock(&self.answer) = Box::new(answer);
    }

    /// As a good server does: with a tag, by which it is not sent again.
    pub fn publish(&self, text: &str) {
        let text = text.to_owned();
        self.answer(move |head, stream| {
            let tag = format!(
                "\"{}-{:x}\"",
                text.len(),
                text.bytes().map(u64::from).sum::<u64>()
            );
            if head.contains(&tag) {
                return write!(
                    stream,
                    "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n"
                );
            }
            let head = format!(
                "Content-Length: {}\r\nETag: {tag}\r\nConnection: close",
                text.len()
            );
            write!(stream, "HTTP/1.1 200 OK\r\n{head}\r\n\r\n{text}")
        });
    }

    pub fn requests(&self) -> usize {
        lock(&self.heads).len()
    }
}
