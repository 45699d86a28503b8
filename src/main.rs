//! Plancton gives a machine's idle time to science. The modules, in reading order.

#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod act;
mod cli;
mod clock;
mod commands;
mod config;
mod daemon;
mod decide;
mod engine;
mod executor;
#[cfg(test)]
mod fuzz_tests;
mod history;
mod host;
mod metrics;
mod observe;
mod remote;
mod report;
mod site;
mod state;
mod systemd;
mod units;
mod web;

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::Write;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

fn main() -> ExitCode {
    let exit = match cli::parse(std::env::args_os().skip(1)) {
        Ok(options) => {
            start_log(options.verbosity);
            commands::dispatch(options)
        }
        Err(usage) => {
            commands::complain(&usage);
            units::Exit::Usage
        }
    };
    ExitCode::from(exit as u8)
}

fn start_log(verbosity: i32) {
    let level = match verbosity {
        ..=-2 => LevelFilter::Error,
        -1 => LevelFilter::Warn,
        0.. => LevelFilter::Info,
    };
    log::set_max_level(level);
    let logger = Logger {
        is_verbose: verbosity > 0,
        is_dated: std::env::var_os("JOURNAL_STREAM").is_none(),
        lost: AtomicU64::new(0),
    };
    // It is the first one and the last.
    let _ = log::set_boxed_logger(Box::new(logger));
}

/// To standard error, without time where somebody else (systemd) writes it.
struct Logger {
    is_verbose: bool,
    is_dated: bool,
    /// Lines that nobody read.
    lost: AtomicU64,
}

impl Log for Logger {
    /// Of libraries only warnings are of use here; what is below them is not compiled in, and so ours has a target instead.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        match metadata.target() {
            "debug" => self.is_verbose,
            target if target.starts_with(env!("CARGO_PKG_NAME")) => true,
            _ => metadata.level() <= Level::Warn,
        }
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let date = match self.is_dated {
                true => format!("{:.0} ", jiff::Timestamp::now()),
                false => String::new(),
            };
            let level = match record.target() {
                "debug" => "debug".to_owned(),
                _ => record.level().as_str().to_lowercase(),
            };
            let line = format!("{date}{level}: {}\n", record.args());
            write_if_read(std::io::stderr().lock(), &line, &self.lost);
        }
    }

    fn flush(&self) {}
}

/// What a pipe takes at once when it says that it takes something (PIPE_BUF).
const AT_ONCE: usize = 4096;

/// Without waiting: a line for which there is no room (a pipe that nobody reads, a stopped terminal) is lost, and counted in
/// the next one.
fn write_if_read(mut out: impl Write + AsFd, line: &str, lost: &AtomicU64) {
    let before = lost.load(Ordering::Relaxed);
    let text = match before {
        0 => line.to_owned(),
        _ => format!("warn: {before} lines of this log are lost: nobody read them\n{line}"),
    };
    for part in text.as_bytes().chunks(AT_ONCE) {
        let mut room = [PollFd::new(&out, PollFlags::OUT)];
        let has_room = poll(&mut room, Some(&Timespec::default())).is_ok_and(|ready| ready > 0);
        if !has_room || out.write_all(part).is_err() {
            lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }
    lost.fetch_sub(before, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_log_that_nobody_reads_holds_nothing_up() {
        let (mut reader, out) = std::io::pipe().unwrap();
        let lost = AtomicU64::new(0);
        let line = "x".repeat(999);
        (0..200).for_each(|_| write_if_read(&out, &line, &lost));
        assert!(lost.load(Ordering::Relaxed) > 100);
        reader.read_exact(&mut [0; 20_000]).unwrap();
        write_if_read(&out, "the end\n", &lost);
        assert_eq!(lost.load(Ordering::Relaxed), 0);
        drop(out);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        let end: Vec<&str> = rest.lines().rev().take(2).collect();
        assert!(
            end[0] == "the end" && end[1].ends_with("nobody read them"),
            "{end:?}"
        );
    }
}
