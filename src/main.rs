//! Plancton gives a machine's idle time to science. In reading order, each module using only what stands before it: units,
//! executor, systemd; clock, host, cli; config, web; engine, decide; state; site, history; observe, act, report; metrics,
//! remote; daemon (its loop is `daemon::run`); commands.

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

use log::LevelFilter;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{io::Write, os::fd::AsFd, process::ExitCode};

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

/// To standard error, without time where somebody else (systemd) writes it. Of libraries only warnings are
/// of use here.
fn start_log(verbosity: i32) {
    let level = match verbosity {
        ..=-2 => LevelFilter::Error,
        -1 => LevelFilter::Warn,
        0 => LevelFilter::Info,
        1.. => LevelFilter::Debug,
    };
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let to = Impatient {
        out: std::io::stderr(),
        lost: 0,
    };
    env_logger::Builder::new()
        .filter_level(level.min(LevelFilter::Warn))
        .filter_module(env!("CARGO_PKG_NAME"), level)
        .target(env_logger::Target::Pipe(Box::new(to)))
        .format(move |out, record| {
            if !journal {
                write!(out, "{:.0} ", jiff::Timestamp::now())?;
            }
            let level = record.level().as_str().to_lowercase();
            writeln!(out, "{level}: {}", record.args())
        })
        .init();
}

/// Writes without waiting: a line for which there is no room (a pipe that nobody reads, a stopped terminal) is lost, and
/// counted in the next one.
struct Impatient<W> {
    out: W,
    lost: u64,
}

/// What a pipe takes at once when it says that it takes something (PIPE_BUF).
const AT_ONCE: usize = 4096;

impl<W: Write + AsFd> Write for Impatient<W> {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let mut text = Vec::new();
        if self.lost > 0 {
            writeln!(
                text,
                "warn: {} lines of this log are lost: nobody read them",
                self.lost
            )?;
        }
        text.extend_from_slice(line);
        for part in text.chunks(AT_ONCE) {
            let mut room = [PollFd::new(&self.out, PollFlags::OUT)];
            if !poll(&mut room, Some(&Timespec::default())).is_ok_and(|ready| ready > 0) {
                self.lost += 1;
                return Ok(line.len());
            }
            self.out.write_all(part)?;
        }
        self.lost = 0;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_log_that_nobody_reads_holds_nothing_up() {
        let (mut reader, out) = std::io::pipe().unwrap();
        let mut log = Impatient { out, lost: 0 };
        let line = [b'x'; 999];
        (0..200).for_each(|_| log.write_all(&line).unwrap());
        assert!(log.lost > 100);
        reader.read_exact(&mut [0; 20_000]).unwrap();
        log.write_all(b"the end\n").unwrap();
        assert_eq!(log.lost, 0);
        drop(log);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        let end: Vec<&str> = rest.lines().rev().take(2).collect();
        assert!(
            end[0] == "the end" && end[1].ends_with("nobody read them"),
            "{end:?}"
        );
    }
}
