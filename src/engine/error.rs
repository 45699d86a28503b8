//! Why a call to the engine gave no outcome. The texts name the socket and what to do, because they end up in `status`.

use crate::units::format_duration;
use std::fmt;
use std::path::Path;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The socket, and the call with its object where it came that far: `/var/run/docker.sock: start 0123456789ab`.
    pub call: String,
    pub fault: Fault,
}

/// Of any layer, from the socket to the JSON in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is no such socket.
    Missing,
    Forbidden,
    Refused(String),
    NotAnEngine(String),
    /// No API version that both sides speak.
    Version(String),
    /// After so long.
    NoConnection(Duration),
    NoAnswer(Duration),
    /// The connection failed before the answer was whole.
    Closed(String),
    /// The peer closed inside the named part.
    Truncated(&'static str),
    TooLarge {
        limit: u64,
    },
    Garbage(String),
    /// The engine's own refusal: the status and its words.
    Status(u16, String),
    /// The engine began (status 200) and reported a failure later in the stream.
    Failed(String),
}

impl Error {
    /// What is wrong with the engine as a whole does not name the call, so that it is one problem and not one a call.
    pub(super) fn new(socket: &Path, name: &str, fault: Fault) -> Error {
        let socket = socket.display();
        let call = if fault.is_unreachable() {
            socket.to_string()
        } else {
            format!("{socket}: {name}")
        };
        Error { call, fault }
    }

    /// Nothing was asked of an engine: no connection, or no common language.
    pub fn is_unreachable(&self) -> bool {
        self.fault.is_unreachable()
    }

    /// The request may have been carried out all the same: look before asking again.
    pub fn reply_lost(&self) -> bool {
        use Fault::*;
        matches!(
            self.fault,
            NoAnswer(_) | Closed(_) | Truncated(_) | TooLarge { .. } | Garbage(_)
        )
    }
}

impl Fault {
    pub fn garbage(why: impl Into<String>) -> Fault {
        Fault::Garbage(why.into())
    }

    pub fn too_large(limit: usize) -> Fault {
        Fault::TooLarge {
            limit: u64::try_from(limit).unwrap_or(u64::MAX),
        }
    }

    fn is_unreachable(&self) -> bool {
        use Fault::*;
        matches!(
            self,
            Missing | Forbidden | Refused(_) | NotAnEngine(_) | Version(_) | NoConnection(_)
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, self.fault)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Missing => {
                f.write_str("no such socket; install or start a container engine, or name its socket with --engine")
            }
            Fault::Forbidden => f.write_str("permission denied; run as root or join the group that owns it (docker)"),
            Fault::Refused(why) => write!(f, "{why}; start the engine"),
            Fault::NotAnEngine(why) => write!(f, "not a container engine: {why}; name its socket with --engine"),
            Fault::Version(why) | Fault::Failed(why) => f.write_str(why),
            Fault::NoConnection(after) => write!(f, "no connection within {}", format_duration(*after)),
            Fault::NoAnswer(after) => write!(f, "no answer within {}", format_duration(*after)),
            Fault::Closed(why) => write!(f, "connection lost: {why}"),
            Fault::Truncated(part) => write!(f, "connection lost: the answer is cut off in its {part}"),
            Fault::TooLarge { limit } => write!(f, "the answer is larger than {limit} bytes"),
            Fault::Garbage(why) => write!(f, "unreadable answer: {why}"),
            Fault::Status(code, message) => write!(f, "{message} (status {code})"),
        }
    }
}

impl std::error::Error for Error {}
