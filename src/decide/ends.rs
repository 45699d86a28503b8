//! How a pilot ended, told from why we stopped it (if we did) and from what the engine says.

use super::Ended;
use crate::config::PilotClass;
use serde::{Deserialize, Serialize};

/// Why we asked a pilot to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    Ttl,
    /// The owner needs the CPU, the memory or the disk, or set a rule.
    Owner,
    Drain,
    /// A limit that was asked for does not hold.
    Unlimited,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndKind {
    Done,
    /// By its exit code, or done at once.
    NoWork,
    Failed,
    OutOfMemory,
    Ttl,
    Owner,
    Drained,
    /// By somebody else: a signal that we did not send.
    Killed,
    /// Removed before it was started.
    NeverRan,
}

impl EndKind {
    pub const ALL: [EndKind; 9] = {
        use EndKind::*;
        [
            Done,
            NoWork,
            Failed,
            OutOfMemory,
            Ttl,
            Owner,
            Drained,
            Killed,
            NeverRan,
        ]
    };

    /// It did what it was to do, or was told to end.
    pub fn is_well(self) -> bool {
        !matches!(
            self,
            EndKind::Failed | EndKind::OutOfMemory | EndKind::NeverRan
        )
    }

    pub fn name(self) -> &'static str {
        match self {
            EndKind::Done => "done",
            EndKind::NoWork => "no-work",
            EndKind::Failed => "failed",
            EndKind::OutOfMemory => "out-of-memory",
            EndKind::Ttl => "ttl",
            EndKind::Owner => "owner",
            EndKind::Drained => "drained",
            EndKind::Killed => "killed",
            EndKind::NeverRan => "never-ran",
        }
    }
}

/// Exit codes of a process that died from SIGINT, SIGKILL or SIGTERM, as shells and engines write them.
const SIGNALLED: [i64; 3] = [130, 137, 143];

/// Our own doing goes before what the exit code says: a pilot that was told to end may exit as it likes.
/// `class`: as it is configured now; `None`: it is gone.
pub fn classify(cause: Option<Cause>, ended: &Ended, class: Option<&PilotClass>) -> EndKind {
    match cause {
        Some(Cause::Ttl) => return EndKind::Ttl,
        Some(Cause::Owner) => return EndKind::Owner,
        Some(Cause::Drain) => return EndKind::Drained,
        Some(Cause::Unlimited) => return EndKind::Failed,
        None => {}
    }
    match ended.exit_code {
        _ if ended.out_of_memory => EndKind::OutOfMemory,
        _ if ended.lived.is_none() => EndKind::NeverRan,
        code if class.is_some_and(|class| {
            class
                .no_work_exit
                .iter()
                .any(|none| i64::from(*none) == code)
        }) =>
        {
            EndKind::NoWork
        }
        0 if class.is_some_and(|class| ended.lived < Some(class.min_runtime.as_secs_f64())) => {
            EndKind::NoWork
        }
        0 => EndKind::Done,
        code if SIGNALLED.contains(&code) => EndKind::Killed,
        _ => EndKind::Failed,
    }
}

/// For the log and `status`.
pub fn describe(kind: EndKind, ended: &Ended) -> String {
    match kind {
        EndKind::OutOfMemory => "it reached its memory limit".to_owned(),
        EndKind::NeverRan if !ended.error.is_empty() => ended.error.clone(),
        EndKind::NeverRan => "it was never started".to_owned(),
        // The container's init or shell says which command that is.
        _ if [126, 127].contains(&ended.exit_code) && ended.error.is_empty() => {
            let words = ended
                .log_tail
                .lines()
                .rfind(|line| !line.trim().is_empty())
                .unwrap_or("");
            let words = crate::units::clean_line(words, 200);
            format!(
                "exit code {}, its command can't be executed: {}",
                ended.exit_code, words
            )
        }
        _ if ended.error.is_empty() => format!("exit code {}", ended.exit_code),
        _ => format!("exit code {} ({})", ended.exit_code, ended.error),
    }
}
