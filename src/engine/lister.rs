//! The list of containers for the loop's own poll: asked without waiting, read as it comes, over a connection of its own.
//! The one call of a steady tick: it costs no thread, and its buffers stay.

use super::call::{READ_BYTES, Reply};
use super::containers::{list_path, parse_list};
use super::error::{Error, Fault};
use super::http::{Decoder, Method, encode_head};
use super::socket::{Connection, Deadline};
use super::{Engine, Listed, lock};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The pieces of an answer come close together: so long it is waited for the next one, instead of another turn of the loop.
const MOMENT: Duration = Duration::from_millis(5);
const MOST_MOMENTS: u8 = 8;

#[derive(Debug)]
pub struct Lister {
    engine: Arc<Engine>,
    /// Kept alive from list to list.
    connection: Option<Connection>,
    /// Of the question that is not answered yet.
    asked: Option<Asked>,
    body: Vec<u8>,
}

#[derive(Debug)]
struct Asked {
    at: Instant,
    decoder: Decoder,
    /// On a connection that may have died since the last answer.
    is_kept: bool,
}

impl Lister {
    pub fn new(engine: Arc<Engine>) -> Lister {
        Lister {
            engine,
            connection: None,
            asked: None,
            body: Vec::new(),
        }
    }

    /// An API version was agreed on: else the engine is to be greeted first.
    pub fn is_ready(&self) -> bool {
        lock(&self.engine.version).is_some()
    }

    /// Sends the question. Errors: no connection is to be had at once.
    pub fn ask(&mut self) -> Result<(), Error> {
        self.asked = None;
        self.connection = self.connection.take().filter(Connection::is_quiet);
        let is_kept = self.connection.is_some();
        self.send(is_kept)
    }

    fn send(&mut self, is_kept: bool) -> Result<(), Error> {
        let mut at_once = Deadline::whole(Duration::ZERO);
        let prefix = self.engine.version_prefix(&mut at_once)?;
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.engine.connect("list", &at_once)?,
        };
        let head = encode_head(Method::Get, &format!("{prefix}{}", list_path()), &[], None);
        connection
            .write_now(&head)
            .map_err(|fault| self.engine.error("list", fault))?;
        self.body.clear();
        let decoder = Decoder::new(Method::Get, super::containers::LIST_LIMIT);
        (self.connection, self.asked) = (
            Some(connection),
            Some(Asked {
                at: Instant::now(),
                decoder,
                is_kept,
            }),
        );
        Ok(())
    }

    /// The list, once it is whole; `None`: more is to come, or nothing was asked.
    pub fn read(&mut self) -> Option<Result<Vec<Listed>, Error>> {
        let mut asked = self.asked.take()?;
        let result = match self.receive(&mut asked.decoder) {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.asked = Some(asked);
                return None;
            }
            // It was dead before a byte of the answer came: once more, on a fresh one.
            Err(Fault::Closed(_) | Fault::Truncated(_))
                if asked.is_kept && !asked.decoder.is_started() =>
            {
                self.connection = None;
                return self.send(false).err().map(Err);
            }
            Err(fault) => Err(self.engine.error("list", fault)),
        };
        self.engine.count(asked.at, result.is_err());
        if !asked.decoder.is_reusable() {
            self.connection = None;
        }
        Some(result.and_then(|()| {
            let body = std::mem::take(&mut self.body);
            let reply = Reply {
                call: self.engine.named("list"),
                head: asked.decoder,
                body,
            };
            let list = parse_list(&reply);
            self.body = reply.body;
            list
        }))
    }

    /// Whether the answer is whole.
    fn receive(&mut self, decoder: &mut Decoder) -> Result<bool, Fault> {
        let Some(connection) = &self.connection else {
            return Ok(false);
        };
        let mut buffer = [0; READ_BYTES];
        let mut moments = MOST_MOMENTS;
        while !decoder.is_done() {
            match connection.read_now(&mut buffer)? {
                None if decoder.is_started()
                    && moments > 0
                    && connection.is_readable_within(MOMENT) =>
                {
                    moments -= 1
                }
                None => return Ok(false),
                Some(0) => decoder.end()?,
                Some(count) => {
                    decoder.feed(buffer.get(..count).unwrap_or_default(), &mut self.body)?
                }
            }
        }
        Ok(true)
    }

    /// An engine that has not answered within its time-out is not waited for any more.
    pub fn give_up(&mut self) -> Option<Error> {
        let asked = self
            .asked
            .take_if(|asked| asked.at.elapsed() >= self.engine.timeout)?;
        self.connection = None;
        self.engine.count(asked.at, true);
        Some(
            self.engine
                .error("list", Fault::NoAnswer(self.engine.timeout)),
        )
    }

    /// Readable when something has come of the answer; `None` while nothing is asked.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.connection
            .as_ref()
            .filter(|_| self.asked.is_some())
            .map(AsFd::as_fd)
    }
}
