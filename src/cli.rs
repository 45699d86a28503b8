//! From the words of the command line to [`Options`]. Pure: nothing is read or printed here.
//! Commands and the options of each are declared in the help text, a page a command; this file gives the options their
//! types, and refuses what a command's page does not name.

use crate::units::{clean_line, nearest, parse_duration};
use lexopt::{Arg, Parser, ValueExt};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

const HELP: &str = include_str!("cli/help.txt");
/// Between two pages.
const BREAK: &str = "%%\n";
/// So many characters of what was typed are shown again.
const SHOWN: usize = 40;

/// A command with its argument, and every option there is; only those of the command are set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// The name of a page of the help text, or `version`.
    pub command: &'static str,
    pub argument: Option<OsString>,
    pub config: Option<PathBuf>,
    /// As given, not yet checked: `unix://PATH` or a path.
    pub engine: Option<String>,
    pub instance: Option<String>,
    pub run_dir: Option<PathBuf>,
    pub state_dir: Option<PathBuf>,
    /// The number of `-v` less the number of `-q`.
    pub verbosity: i8,
    /// `--for`, or the argument of a command that takes a DURATION; never zero.
    pub duration: Option<Duration>,
    pub by: Option<String>,
    pub days: Option<u64>,
    pub from: Option<u64>,
    pub to: Option<u64>,
    pub key: Option<String>,
    pub record: Option<PathBuf>,
    pub default: bool,
    pub drain: bool,
    pub dry_run: bool,
    pub json: bool,
    pub keep_state: bool,
    pub offline: bool,
    pub once: bool,
    pub stop: bool,
    pub watch: bool,
    pub yes: bool,
}

/// Reads the arguments *after* the program's name; options may stand before or after the command. Errors: a sentence
/// about a command line that means nothing.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Options, String> {
    let mut options = Options::default();
    match options.read(Parser::from_args(arguments)) {
        Ok(()) => Ok(options),
        Err(error) => {
            let topic = format!("plancton help {}", options.command);
            Err(format!("{error}; see `{}`", topic.trim_end()))
        }
    }
}

/// The help of one command; of "" the overview.
pub fn help(command: &str) -> Option<&'static str> {
    pages().find_map(|(name, page)| (name == command).then_some(page))
}

/// In the order of the overview.
pub fn commands() -> impl Iterator<Item = &'static str> + Clone {
    pages()
        .map(|(name, _)| name)
        .filter(|name| !name.is_empty())
}

/// Each page with the name of its command.
fn pages() -> impl Iterator<Item = (&'static str, &'static str)> + Clone {
    HELP.split(BREAK).map(|page| {
        let words = page.strip_prefix("plancton ").unwrap_or_default();
        let end = words.find([' ', '\n']).unwrap_or_default();
        (words.get(..end).unwrap_or_default(), page)
    })
}

impl Options {
    fn read(&mut self, mut parser: Parser) -> Result<(), lexopt::Error> {
        let mut given = Vec::new();
        let (mut help, mut version) = (false, false);
        while let Some(word) = parser.next()? {
            match word {
                Arg::Short('h') | Arg::Long("help") => help = true,
                Arg::Short('V') | Arg::Long("version") => version = true,
                Arg::Short('v') | Arg::Long("verbose") => {
                    self.verbosity = self.verbosity.saturating_add(1)
                }
                Arg::Short('q') | Arg::Long("quiet") => {
                    self.verbosity = self.verbosity.saturating_sub(1)
                }
                Arg::Long("config") => self.config = Some(parser.value()?.into()),
                Arg::Long("engine") => self.engine = Some(parser.value()?.string()?),
                Arg::Long("instance") => self.instance = Some(parser.value()?.string()?),
                Arg::Long("run-dir") => self.run_dir = Some(parser.value()?.into()),
                Arg::Long("state-dir") => self.state_dir = Some(parser.value()?.into()),
                Arg::Long(name) => {
                    let name = name.to_owned();
                    self.read_option(&name, &mut parser)?;
                    given.push(name);
                }
                Arg::Value(name) if self.command.is_empty() => self.command = find_command(&name)?,
                Arg::Value(argument) if self.argument.is_none() => self.argument = Some(argument),
                unexpected => return Err(unexpected.unexpected()),
            }
        }
        if help {
            self.argument = Some(self.command.into());
            self.command = "help";
        } else if version {
            self.command = "version";
        } else if self.command.is_empty() && *self == Options::default() {
            self.command = "help";
        } else {
            self.check(&given)?;
        }
        Ok(())
    }

    /// An option that not every command has.
    fn read_option(&mut self, name: &str, parser: &mut Parser) -> Result<(), lexopt::Error> {
        match name {
            "by" => self.by = Some(parser.value()?.string()?),
            "days" => self.days = Some(number(&parser.value()?)?),
            "for" => self.duration = Some(duration(&parser.value()?)?),
            "from" => self.from = Some(number(&parser.value()?)?),
            "key" => self.key = Some(parser.value()?.string()?),
            "record" => self.record = Some(parser.value()?.into()),
            "to" => self.to = Some(number(&parser.value()?)?),
            "default" => self.default = true,
            "drain" => self.drain = true,
            "dry-run" => self.dry_run = true,
            "json" => self.json = true,
            "keep-state" => self.keep_state = true,
            "offline" => self.offline = true,
            "once" => self.once = true,
            "stop" => self.stop = true,
            "watch" => self.watch = true,
            "yes" => self.yes = true,
            _ => {
                let words = HELP.split([' ', '[', ']', '\n']);
                let known = words.filter(|word| word.starts_with("--"));
                return Err(unknown("option", &format!("--{name}"), known));
            }
        }
        Ok(())
    }

    /// Nothing but what the command's page declares, and what it must have.
    fn check(&mut self, given: &[String]) -> Result<(), lexopt::Error> {
        if self.command.is_empty() {
            return Err("the command is missing".into());
        }
        let page = help(self.command).unwrap_or_default();
        let synopsis = page.lines().next().unwrap_or_default();
        let declared: Vec<&str> = synopsis.split([' ', '[', ']']).collect();
        let is_declared = |name: &&String| declared.contains(&format!("--{name}").as_str());
        if let Some(name) = given.iter().find(|name| !is_declared(name)) {
            return Err(format!("`{}` has no option --{name}", self.command).into());
        }
        let last = synopsis.rsplit(' ').next().unwrap_or_default();
        let is_required = last.chars().all(|c| c.is_ascii_uppercase());
        let is_optional = last.starts_with('[') && !last.starts_with("[--");
        match &self.argument {
            None if is_required => Err(format!("{last} is missing").into()),
            Some(extra) if !is_required && !is_optional => {
                Err(Arg::Value(extra.clone()).unexpected())
            }
            Some(text) if last == "DURATION" => {
                self.duration = Some(duration(text)?);
                Ok(())
            }
            Some(name) if self.command == "help" => find_command(name).map(drop),
            _ => Ok(()),
        }
    }
}

fn find_command(name: &OsStr) -> Result<&'static str, lexopt::Error> {
    let name = name.to_string_lossy();
    commands()
        .find(|known| *known == name)
        .ok_or_else(|| unknown("command", &name, commands()))
}

fn unknown<'a>(
    what: &str,
    name: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> lexopt::Error {
    let near = nearest(name, known).map(|near| format!("; did you mean {near}?"));
    let name = clean_line(name, SHOWN);
    format!("unknown {what} '{name}'{}", near.unwrap_or_default()).into()
}

fn duration(text: &OsStr) -> Result<Duration, lexopt::Error> {
    match parse_duration(&clean_line(&text.to_string_lossy(), SHOWN))? {
        Duration::ZERO => Err("a duration of zero does nothing".into()),
        duration => Ok(duration),
    }
}

/// Digits may be grouped: 10_000.
fn number(text: &OsStr) -> Result<u64, lexopt::Error> {
    let text = clean_line(&text.to_string_lossy(), SHOWN);
    let digits = text.replace('_', "");
    digits
        .parse()
        .map_err(|_| format!("'{text}' is not a whole number").into())
}

#[cfg(test)]
mod tests;
