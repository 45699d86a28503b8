//! One file or function a command; the only rooms that print. This file knows which command is carried out where, and
//! ends each of them with its exit code.

mod check;
pub mod context;
mod control;
mod history;
mod join;
mod pilot;
mod pilots;
mod replay;
mod run;
mod status;
mod try_out;
mod view;

use crate::cli::{self, Options};
use crate::remote::Remote;
use crate::units::Exit;
use context::{Context, Done, complain, say};

type CarryOut = fn(&Context) -> Done;

/// Each command of the help text with what carries it out.
const COMMANDS: [(&str, CarryOut); 26] = [
    ("try", try_out::try_out),
    ("check", check::check),
    ("config", config),
    ("status", status::status),
    ("why", status::why),
    ("health", status::health),
    ("history", history::history),
    ("report", history::report),
    ("drain", control::drain),
    ("snooze", control::snooze),
    ("resume", control::resume),
    ("kill", pilots::kill),
    ("log", pilots::log),
    ("pull", control::pull),
    ("force-stop", control::force_stop),
    ("join", join::join),
    ("leave", join::leave),
    ("run", run::run),
    ("start", run::start),
    ("stop", run::stop),
    ("replay", replay::replay),
    ("reap", pilots::reap),
    ("purge", pilots::purge),
    ("pilot", pilot::pilot),
    ("help", help),
    ("version", version),
];

/// Carries a command out, and says what went wrong.
pub fn dispatch(options: Options) -> Exit {
    let context = Context::new(options);
    let is_wanted = |name: &str| name == context.options.command;
    let command = COMMANDS.iter().find(|(name, _)| is_wanted(name));
    match command.map_or(Ok(()), |(_, carry_out)| carry_out(&context)) {
        Ok(()) => Exit::Done,
        Err(failure) => {
            complain(&failure.1);
            failure.0
        }
    }
}

fn config(context: &Context) -> Done {
    if context.options.default {
        return say(crate::config::DEFAULT_TEXT);
    }
    let mut from = match context.config_file() {
        Some(file) => file.display().to_string(),
        None => "built-in defaults".to_owned(),
    };
    let mut remote = Remote::default();
    let config = remote.adopt(&context.dirs.state, &context.config()?);
    if let Some(told) = remote.told {
        from += &format!(" and {} ({})", told.url, told.hash);
    }
    say(&format!("# in force, from {from}\n{}", config.to_toml()))
}

fn help(context: &Context) -> Done {
    let topic = context.argument().unwrap_or_default();
    say(cli::help(&topic).unwrap_or_default())
}

fn version(_: &Context) -> Done {
    say(concat!("plancton ", env!("CARGO_PKG_VERSION"), "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_help_is_carried_out() {
        let declared: Vec<&str> = cli::commands().collect();
        let carried_out: Vec<&str> = COMMANDS.iter().map(|(name, _)| *name).collect();
        assert_eq!(carried_out, [declared, vec!["version"]].concat());
    }
}
