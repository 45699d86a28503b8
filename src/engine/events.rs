//! The engine's event stream, filtered to the ends of pilots, for the loop's own poll: reading never blocks.
//! A hint only: engines drop events and streams hang, so the truth is the list of containers.

use super::call::MIB;
use super::error::Error;
use super::http::{Decoder, Fault, Method, encode_head, encode_percent};
use super::socket::{Connection, Deadline};
use super::stream::Splitter;
use super::types::{END_ACTIONS, Event, parse_event};
use super::{Engine, INSTANCE_LABEL};
use std::os::fd::{AsFd, BorrowedFd};

const READ_BYTES: usize = 16 * 1024;
/// So that a flood of events cannot hold the loop; the rest is still there at the next poll.
const READS_A_TURN: usize = 16;

#[derive(Debug)]
pub struct EventStream {
    connection: Connection,
    decoder: Decoder,
    splitter: Splitter,
    /// Of an answer that is no stream.
    refusal: Vec<u8>,
    call: String,
}

impl EventStream {
    /// Connects and asks. May take the engine's whole timeout (connecting, agreeing on a version): not for the loop's own thread.
    pub fn open(engine: &Engine) -> Result<EventStream, Error> {
        let mut deadline = Deadline::whole(engine.timeout);
        let call = engine.call_name("events");
        let prefix = engine.version_prefix(&mut deadline)?;
        let filters = serde_json::json!({
            "type": ["container"],
            "event": END_ACTIONS,
            "label": [INSTANCE_LABEL],
        });
        let filters = encode_percent(&filters.to_string(), "");
        let path = format!("{prefix}/events?filters={filters}");
        let mut connection = engine.connect(&call, &deadline)?;
        connection
            .write_all(&encode_head(Method::Get, &path, &[], None), &mut deadline)
            .map_err(|error| Error::talking(&call, deadline.allowed, &error))?;
        Ok(EventStream {
            connection,
            decoder: Decoder::new(Method::Get, u64::MAX),
            splitter: Splitter::default(),
            refusal: Vec::new(),
            call,
        })
    }

    /// What has arrived, perhaps nothing: some engines send not even a head before the first event. A stream that ended is an
    /// error, and is to be opened again.
    pub fn read(&mut self) -> Result<Vec<Event>, Error> {
        let mut events = Vec::new();
        let mut buffer = [0; READ_BYTES];
        for _ in 0..READS_A_TURN {
            let read = self.connection.read_now(&mut buffer);
            let count = read.map_err(|e| Error::talking(&self.call, Default::default(), &e))?;
            let bytes = match count {
                None => break,
                // Events read just before the end are returned first; the end is read again next time.
                Some(0) if !events.is_empty() => break,
                Some(0) => return Err(self.closed()),
                Some(count) => buffer.get(..count).unwrap_or_default(),
            };
            self.feed(bytes, &mut events).map_err(|fault| Error::decoding(&self.call, fault))?;
            if self.decoder.is_done() && events.is_empty() {
                return Err(self.closed());
            }
        }
        Ok(events)
    }

    fn status(&self) -> u16 {
        self.decoder.head().map_or(0, |head| head.status)
    }

    fn feed(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), Fault> {
        let mut body = Vec::new();
        self.decoder.feed(bytes, &mut body)?;
        if self.status() != 200 {
            self.refusal.extend_from_slice(&body);
            if u64::try_from(self.refusal.len()).is_ok_and(|length| length > MIB) {
                return Err(Fault::TooLarge { limit: MIB });
            }
            return Ok(());
        }
        for object in self.splitter.feed(&body)? {
            events.extend(parse_event(&object, INSTANCE_LABEL)?);
        }
        Ok(())
    }

    fn closed(&self) -> Error {
        let call = self.call.clone();
        match self.status() {
            0 | 200 => Error::Closed { call, why: "the engine ended the stream".to_owned() },
            code => Error::Status { call, code, message: String::from_utf8_lossy(&self.refusal).trim().to_owned() },
        }
    }
}

impl AsFd for EventStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}
