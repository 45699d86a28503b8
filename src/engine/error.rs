//! Why a call to the engine gave no outcome. The texts name the socket and what to do, because they end up in `status`.

use super::http::Fault;
use crate::units::format_duration;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `call` names the socket, the call and its object: `/var/run/docker.sock: start 0123456789ab`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    Missing {
        socket: PathBuf,
    },
    Forbidden {
        socket: PathBuf,
    },
    Refused {
        socket: PathBuf,
        why: String,
    },
    NotAnEngine {
        socket: PathBuf,
        why: String,
    },
    /// No API version that both sides speak.
    Version {
        socket: PathBuf,
        why: String,
    },
    Timeout {
        call: String,
        after: Duration,
        stage: Stage,
    },
    /// The connection ended before the answer did.
    Closed {
        call: String,
        why: String,
    },
    TooLarge {
        call: String,
        limit: u64,
    },
    Garbage {
        call: String,
        why: String,
    },
    /// The engine's own refusal, in its own words.
    Status {
        call: String,
        code: u16,
        message: String,
    },
    /// The engine began (status 200) and reported a failure later in the stream.
    Failed {
        call: String,
        message: String,
    },
}

/// How far a call had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Connecting,
    Waiting,
}

impl Error {
    /// A connect that failed. A plain file in the socket's place is refused like a dead engine's socket: told apart here.
    pub(super) fn connecting(socket: &Path, call: &str, after: Duration, error: &io::Error) -> Error {
        use std::os::unix::fs::FileTypeExt;
        let is_other_file = || std::fs::metadata(socket).is_ok_and(|found| !found.file_type().is_socket());
        let why = || match error.kind() {
            io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            _ => error.to_string(),
        };
        let socket = socket.to_owned();
        match error.kind() {
            io::ErrorKind::TimedOut => Error::Timeout { call: call.to_owned(), after, stage: Stage::Connecting },
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Error::Missing { socket },
            io::ErrorKind::PermissionDenied => Error::Forbidden { socket },
            _ if is_other_file() => Error::NotAnEngine { socket, why: "the file is not a socket".to_owned() },
            _ => Error::Refused { socket, why: why() },
        }
    }

    /// A read or write that failed once connected.
    pub(super) fn talking(call: &str, after: Duration, error: &io::Error) -> Error {
        let call = call.to_owned();
        match error.kind() {
            io::ErrorKind::TimedOut => Error::Timeout { call, after, stage: Stage::Waiting },
            _ => Error::Closed { call, why: error.to_string() },
        }
    }

    pub(super) fn decoding(call: &str, fault: Fault) -> Error {
        let call = call.to_owned();
        match fault {
            Fault::Garbage(why) => Error::Garbage { call, why },
            Fault::TooLarge { limit } => Error::TooLarge { call, limit },
            Fault::Truncated(_) => Error::Closed { call, why: format!("the answer is {fault}") },
        }
    }

    /// Nothing was asked of an engine: no connection, or no common language.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Error::Missing { .. }
            | Error::Forbidden { .. }
            | Error::Refused { .. }
            | Error::NotAnEngine { .. }
            | Error::Version { .. } => true,
            Error::Timeout { stage, .. } => *stage == Stage::Connecting,
            _ => false,
        }
    }

    /// The request may have been carried out all the same: look before asking again.
    pub fn reply_lost(&self) -> bool {
        match self {
            Error::Closed { .. } | Error::TooLarge { .. } | Error::Garbage { .. } => true,
            Error::Timeout { stage, .. } => *stage == Stage::Waiting,
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Missing { socket } => write!(
                f,
                "{}: no such socket; install or start a container engine, or name its socket with --engine",
                socket.display()
            ),
            Error::Forbidden { socket } => write!(
                f,
                "{}: permission denied; run as root or join the group that owns it (docker)",
                socket.display()
            ),
            Error::Refused { socket, why } => {
                write!(f, "{}: {why}; start the engine", socket.display())
            }
            Error::NotAnEngine { socket, why } => {
                write!(f, "{}: not a container engine: {why}; name its socket with --engine", socket.display())
            }
            Error::Version { socket, why } => write!(f, "{}: {why}", socket.display()),
            Error::Timeout { call, after, stage } => {
                let what = match stage {
                    Stage::Connecting => "no connection",
                    Stage::Waiting => "no answer",
                };
                write!(f, "{call}: {what} within {}", format_duration(*after))
            }
            Error::Closed { call, why } => write!(f, "{call}: connection lost: {why}"),
            Error::TooLarge { call, limit } => {
                write!(f, "{call}: the answer is larger than {limit} bytes")
            }
            Error::Garbage { call, why } => write!(f, "{call}: unreadable answer: {why}"),
            Error::Status { call, code, message } => write!(f, "{call}: {message} (status {code})"),
            Error::Failed { call, message } => write!(f, "{call}: {message}"),
        }
    }
}

impl std::error::Error for Error {}
