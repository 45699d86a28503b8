//! From the words of the command line to a [`Cli`]. Pure: nothing is read or printed here, and what a word means later
//! (which file, which engine, what time it is) is for the command to find out.
//! Which options a command has is read from the one table in [`help`]; this file only gives them their types.

pub mod help;
mod words;

use crate::config::parse_minute;
pub use crate::units::Exit;
use crate::units::parse_duration;
use jiff::{Timestamp, Zoned, civil::Time};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
pub use words::nearest;
use words::{Words, printable};

impl Exit {
    /// In the order of the help text, each with what it means.
    pub const ALL: [(Exit, &'static str); 6] = [
        (Exit::Done, "done"),
        (Exit::Failed, "failed"),
        (Exit::NotRunning, "`status` of a daemon that does not run"),
        (
            Exit::Usage,
            "the command line was wrong; nothing was changed",
        ),
        (Exit::EngineUnavailable, "the container engine is not there"),
        (Exit::Configuration, "the configuration has problems"),
    ];
}

#[derive(Clone, Debug, PartialEq)]
pub struct Cli {
    pub options: Options,
    pub command: Command,
}

/// What every command understands; `None` where nothing was given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    pub config: Option<PathBuf>,
    /// As given, not yet checked: `unix://PATH` or a path.
    pub engine: Option<String>,
    pub instance: Option<String>,
    pub run_dir: Option<PathBuf>,
    pub state_dir: Option<PathBuf>,
    /// The number of `-v` less the number of `-q`.
    pub verbosity: i8,
}

/// `by` of a drain is as typed: [`parse_by`] reads it when the time is known. `to` of a pilot (the end of a window to count
/// again) takes the place of `duration`. Help is for a command's name, or the overview.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Try {
        duration: Option<Duration>,
    },
    Run {
        once: bool,
        dry_run: bool,
        drain: bool,
        record: Option<PathBuf>,
    },
    Start,
    Stop,
    Status {
        json: bool,
        watch: bool,
    },
    Why,
    Health,
    Drain {
        stop: bool,
        by: Option<String>,
    },
    Resume,
    Snooze(Duration),
    ForceStop,
    Kill(String),
    Log(Option<String>),
    Pull,
    Check {
        offline: bool,
    },
    Config {
        default: bool,
    },
    Replay(PathBuf),
    History {
        days: u64,
        json: bool,
        csv: bool,
    },
    Report(PathBuf),
    Join {
        url: String,
        key: Option<String>,
        yes: bool,
    },
    Accept {
        yes: bool,
    },
    Leave,
    Reap,
    Purge {
        dry_run: bool,
        keep_state: bool,
    },
    Pilot {
        duration: Duration,
        from: Option<u64>,
        to: Option<u64>,
    },
    Help(Option<&'static str>),
    Version,
}

/// A command line that means nothing; exit code 64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    message: String,
    topic: Option<&'static str>,
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topic = self
            .topic
            .map(|topic| format!(" {topic}"))
            .unwrap_or_default();
        write!(f, "{}; see `plancton help{topic}`", self.message)
    }
}

/// Reads the arguments *after* the program's name. Options may stand before or after the command.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, Usage> {
    let words = Words::collect(arguments)?;
    let options = Options {
        config: words.path("config"),
        engine: words.text("engine")?,
        instance: words.text("instance")?,
        run_dir: words.path("run-dir"),
        state_dir: words.path("state-dir"),
        verbosity: words.count("verbose").saturating_sub(words.count("quiet")),
    };
    let command = words.command()?;
    Ok(Cli { options, command })
}

impl Words {
    fn command(&self) -> Result<Command, Usage> {
        if self.has("help") {
            return Ok(Command::Help(self.topic.map(|topic| topic.name)));
        }
        if self.has("version") {
            return Ok(Command::Version);
        }
        let Some(topic) = self.topic else {
            return match self.given.is_empty() {
                true => Ok(Command::Help(None)),
                false => Err(self.wrong("which command? there are only options")),
            };
        };
        self.check(topic)?;
        let has = |name| self.has(name);
        Ok(match topic.name {
            "try" => Command::Try {
                duration: self.duration("for")?,
            },
            "run" => {
                let (once, dry_run, drain) = (has("once"), has("dry-run"), has("drain"));
                Command::Run {
                    once,
                    dry_run,
                    drain,
                    record: self.path("record"),
                }
            }
            "start" => Command::Start,
            "stop" => Command::Stop,
            "status" => Command::Status {
                json: has("json"),
                watch: has("watch"),
            },
            "why" => Command::Why,
            "health" => Command::Health,
            "drain" => Command::Drain {
                stop: has("stop"),
                by: self.text("by")?,
            },
            "resume" => Command::Resume,
            "snooze" => Command::Snooze(self.positive(&self.word()?)?),
            "force-stop" => Command::ForceStop,
            "kill" => Command::Kill(self.word()?),
            "log" => Command::Log(self.optional_word()?),
            "pull" => Command::Pull,
            "check" => Command::Check {
                offline: has("offline"),
            },
            "config" => Command::Config {
                default: has("default"),
            },
            "replay" => Command::Replay(PathBuf::from(self.argument()?)),
            "history" => Command::History {
                days: self.number("days")?.unwrap_or(14),
                json: has("json"),
                csv: has("csv"),
            },
            "report" => Command::Report(
                self.argument()
                    .map_or_else(|_| "plancton-report.html".into(), PathBuf::from),
            ),
            "join" => Command::Join {
                url: self.word()?,
                key: self.text("key")?,
                yes: has("yes"),
            },
            "accept" => Command::Accept { yes: has("yes") },
            "leave" => Command::Leave,
            "reap" => Command::Reap,
            "purge" => Command::Purge {
                dry_run: has("dry-run"),
                keep_state: has("keep-state"),
            },
            "pilot" => Command::Pilot {
                duration: self.duration("for")?.unwrap_or(Duration::from_secs(20)),
                from: self.number("from")?,
                to: self.number("to")?,
            },
            _ => Command::Help(self.help_topic()?),
        })
    }
}

/// The TIME of `drain --by`, in seconds since 1970: `18:00` (its next occurrence where `now` is), a duration from now, or RFC 3339.
pub fn parse_by(text: &str, now: &Zoned) -> Result<f64, String> {
    let hint = || {
        format!(
            "'{}' is not a time; write 18:00, a duration such as 2h, or 2030-01-31T18:00:00+01:00",
            printable(text)
        )
    };
    let now_seconds = now.timestamp().as_duration().as_secs_f64();
    if let Ok(duration) = parse_duration(text) {
        return Ok(now_seconds + duration.as_secs_f64());
    }
    if let Some(minute) = parse_minute(text) {
        let time =
            i8::try_from(minute / 60).and_then(|hour| Ok((hour, i8::try_from(minute % 60)?)));
        let time = time
            .ok()
            .and_then(|(hour, minute)| Time::new(hour, minute, 0, 0).ok())
            .ok_or_else(hint)?;
        let at = now.with().time(time).build().map_err(|_| hint())?;
        let at = if at > *now { Ok(at) } else { at.tomorrow() };
        return Ok(at
            .map_err(|_| hint())?
            .timestamp()
            .as_duration()
            .as_secs_f64());
    }
    let at: Timestamp = text.parse().map_err(|_| hint())?;
    let at = at.as_duration().as_secs_f64();
    if at <= now_seconds {
        return Err(format!("'{}' is over already", printable(text)));
    }
    Ok(at)
}

#[cfg(test)]
mod tests;
