//! Plancton gives a machine's idle time to science. The modules, in reading order.

mod act;
mod cli;
mod clock;
mod commands;
mod config;
mod daemon;
mod decide;
mod engine;
mod executor;
mod host;
mod metrics;
mod observe;
mod record;
mod remote;
mod report;
mod site;
mod state;
mod systemd;
mod units;
mod wait;
mod web;

use std::process::ExitCode;

fn main() -> ExitCode {
    let exit = match cli::parse(std::env::args_os().skip(1)) {
        Ok(options) => {
            start_log(options.verbosity);
            commands::dispatch(options)
        }
        Err(usage) => {
            commands::context::complain(&usage);
            units::Exit::Usage
        }
    };
    ExitCode::from(exit.code())
}

/// To standard error, without time where somebody else (systemd) writes it. `RUST_LOG` overrides -v and -q. Of libraries
/// only warnings are of use here.
fn start_log(verbosity: i8) {
    let level = match verbosity {
        ..=-2 => log::LevelFilter::Error,
        -1 => log::LevelFilter::Warn,
        0 => log::LevelFilter::Info,
        1.. => log::LevelFilter::Debug,
    };
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    env_logger::Builder::new()
        .filter_level(level.min(log::LevelFilter::Warn))
        .filter_module(env!("CARGO_PKG_NAME"), level)
        .parse_default_env()
        .format(move |out, record| {
            use std::io::Write;
            if !journal {
                write!(out, "{:.0} ", jiff::Timestamp::now())?;
            }
            writeln!(
                out,
                "{}: {}",
                record.level().as_str().to_lowercase(),
                record.args()
            )
        })
        .init();
}
