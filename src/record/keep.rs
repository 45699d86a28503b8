//! The record on disk: `STATE/history` with a line for each hour that is over, and `STATE/history.hour` with the one that
//! runs, written whole at most once a minute. Bounded by hours and by bytes, whichever comes first.

use super::{Hours, Meter, Sums, encode, hour_of, parse};
use crate::decide::{Decision, Observation};
use crate::state::{self, Durable, StateError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Seconds between two writes.
const EVERY: f64 = 60.0;
/// A year and a month; with many classes a megabyte holds less.
const MOST_HOURS: usize = 396 * 24;
const MOST_BYTES: usize = 1_000_000;
/// A file of that size is not ours.
const READ_BYTES: u64 = 4_000_000;

/// Adds up in memory. What is to be written waits for a thread that may wait for the disk.
pub struct Recorder {
    hour: Option<u64>,
    sums: Sums,
    /// Lines of hours that are over.
    over: String,
    meter: Meter,
    /// Boot second.
    saved_at: Option<f64>,
    files: Arc<Files>,
}

struct Files {
    state: PathBuf,
    /// Lines to write, of hours that are over and of the running one. Held by whoever writes them.
    lines: Mutex<(String, String)>,
}

impl Recorder {
    /// Goes on with the hour in which the last daemon ended.
    pub fn open(state: &Path) -> Recorder {
        let (running, problem) = match read_running(state) {
            Ok((running, 0)) => (running, None),
            Ok((running, _)) => (running, Some("it is damaged".to_owned())),
            Err(error) => (None, Some(error.to_string())),
        };
        if let Some(problem) = problem {
            log::warn!(
                "{}: {problem}; the sums of its hour begin anew",
                running_path(state).display()
            );
        }
        let (hour, sums) = running.unzip();
        let files = Arc::new(Files {
            state: state.to_owned(),
            lines: Mutex::default(),
        });
        let (sums, over) = (sums.unwrap_or_default(), String::new());
        Recorder {
            hour,
            sums,
            over,
            meter: Meter::default(),
            saved_at: None,
            files,
        }
    }

    /// Once a minute there is something to be written: what is returned does it.
    pub fn tick(
        &mut self,
        seen: &Observation,
        decision: &Decision,
    ) -> Option<impl FnOnce() -> Result<(), String> + Send + use<>> {
        // A clock that was not set yet belongs to no hour.
        let hour = hour_of(seen.at.epoch)?;
        if let Some(over) = self.hour.replace(hour).filter(|before| *before != hour) {
            self.over += &encode(over, &std::mem::take(&mut self.sums));
        }
        self.meter.add(seen, decision, &mut self.sums);
        if seen.at.boot - *self.saved_at.get_or_insert(seen.at.boot) < EVERY {
            return None;
        }
        self.saved_at = Some(seen.at.boot);
        let files = Arc::clone(&self.files);
        // A disk that takes longer than a minute is not waited for here.
        self.hand_over(&mut *files.lines.try_lock().ok()?);
        Some(move || files.write())
    }

    /// At an orderly end.
    pub fn finish(&mut self) -> Result<(), String> {
        let files = Arc::clone(&self.files);
        self.hand_over(&mut files.lines.lock().unwrap_or_else(PoisonError::into_inner));
        files.write()
    }

    fn hand_over(&mut self, lines: &mut (String, String)) {
        lines.0 += &std::mem::take(&mut self.over);
        lines.1 = self
            .hour
            .map_or_else(String::new, |hour| encode(hour, &self.sums));
    }
}

impl Files {
    /// Hours that are over first: until the running one is written too, its file still has the last of them. What fails
    /// is tried again with the next write.
    fn write(&self) -> Result<(), String> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        self.write_lines(&mut lines)
            .map_err(|error| error.to_string())
    }

    fn write_lines(&self, (over, running): &mut (String, String)) -> Result<(), StateError> {
        if !over.is_empty() {
            let path = over_path(&self.state);
            state::append_lines(&path, over)?;
            over.clear();
            let text = state::read_file(&path, READ_BYTES)?.unwrap_or_default();
            if let Some(kept) = newest(&text, MOST_HOURS, MOST_BYTES) {
                state::write_file(&path, kept, 0o644, Durable::Yes)?;
            }
        }
        match std::mem::take(running).as_str() {
            "" => Ok(()),
            line => state::write_file(
                &running_path(&self.state),
                line.as_bytes(),
                0o644,
                Durable::Yes,
            ),
        }
    }
}

/// What is kept of a text that is too long: a little less than may be, so that it is not cut each hour. `None`: it fits.
pub(super) fn newest(text: &[u8], most_hours: usize, most_bytes: usize) -> Option<&[u8]> {
    let lines = || text.split_inclusive(|byte| *byte == b'\n');
    if text.len() <= most_bytes && lines().count() <= most_hours {
        return None;
    }
    let (hours, bytes) = (most_hours - most_hours / 20, most_bytes - most_bytes / 20);
    let kept = lines()
        .rev()
        .take(hours)
        .map(<[u8]>::len)
        .scan(0, |sum, length| {
            *sum += length;
            Some(*sum).filter(|sum| *sum <= bytes)
        });
    text.get(text.len() - kept.last().unwrap_or(0)..)
}

fn over_path(state: &Path) -> PathBuf {
    state.join("history")
}

fn running_path(state: &Path) -> PathBuf {
    state.join("history.hour")
}

fn read_lines(path: &Path) -> Result<(Vec<(u64, Sums)>, usize), StateError> {
    Ok(parse(
        &state::read_file(path, READ_BYTES)?.unwrap_or_default(),
    ))
}

/// The hour that runs, and how many lines cannot be read. A crash may have left it among those that are over, too.
fn read_running(state: &Path) -> Result<(Option<(u64, Sums)>, usize), StateError> {
    let (mut running, bad) = read_lines(&running_path(state))?;
    let over = state::read_file(&over_path(state), READ_BYTES)?.unwrap_or_default();
    let last = over
        .split(|byte| *byte == b'\n')
        .rfind(|line| !line.is_empty())
        .unwrap_or_default();
    let last = parse(last).0.pop();
    let is_over = |(hour, sums): &(u64, Sums)| {
        last.as_ref()
            .is_some_and(|last| last.0 == *hour && last.1.observed_seconds >= sums.observed_seconds)
    };
    Ok((running.pop().filter(|running| !is_over(running)), bad))
}

/// Everything there is, and how many lines cannot be read. Hours that the clock showed twice are one.
pub fn read(state: &Path) -> Result<(Hours, usize), StateError> {
    let (over, bad) = read_lines(&over_path(state))?;
    let (running, bad_running) = read_running(state)?;
    let mut hours = Hours::new();
    for (hour, sums) in over.into_iter().chain(running) {
        *hours.entry(hour).or_default() += &sums;
    }
    Ok((hours, bad + bad_running))
}
