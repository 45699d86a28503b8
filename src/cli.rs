//! From the words of the command line to [`Options`]. Pure: nothing is read or printed here.
//! Commands and their options are declared in the help text, a page a command: what stands behind the name of an option is
//! the kind of its value, and what a command's page does not name is refused.

use crate::units::{clean_line, nearest, parse_duration};
use lexopt::{Arg, Error, Parser, ValueExt};
use std::ffi::{OsStr, OsString};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

const HELP: &str = include_str!("cli/help.txt");
/// So many characters of what was typed are shown again.
const SHOWN: usize = 40;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// The name of a page of the help text, or `version`.
    pub command: &'static str,
    /// The number of `-v` less the number of `-q`.
    pub verbosity: i32,
    /// By the option's name without its dashes, and the argument by its kind (`FILE`); each is good for its kind, and a
    /// switch has an empty value.
    pub given: BTreeMap<String, OsString>,
}

/// Reads the arguments *after* the program's name; options may stand before or after the command. Errors: a sentence
/// about a command line that means nothing.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Options, String> {
    let mut options = Options::default();
    let read = options.read(Parser::from_args(arguments));
    let topic = format!("plancton help {}", options.command);
    read.map_err(|error| format!("{error}; see `{}`", topic.trim_end()))?;
    Ok(options)
}

/// The help of one command; of "" the overview.
pub fn help(command: &str) -> &'static str {
    let page = pages().find(|(name, _)| *name == command);
    page.map_or("", |(_, page)| page)
}

/// In the order of the overview.
pub fn commands() -> impl Iterator<Item = &'static str> + Clone {
    pages().skip(1).map(|(name, _)| name)
}

/// Each page with the name of its command.
fn pages() -> impl Iterator<Item = (&'static str, &'static str)> + Clone {
    HELP.split("%%\n").map(|page| {
        let words = page.strip_prefix("plancton ").unwrap_or_default();
        (words.split([' ', '\n']).next().unwrap_or_default(), page)
    })
}

impl Options {
    pub fn has(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    pub fn text(&self, name: &str) -> Option<String> {
        Some(self.given.get(name)?.to_string_lossy().into())
    }

    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.given.get(name).map(PathBuf::from)
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        number(self.given.get(name)?).ok()
    }

    /// Never zero.
    pub fn duration(&self, name: &str) -> Option<Duration> {
        duration(self.given.get(name)?).ok()
    }

    fn read(&mut self, mut parser: Parser) -> Result<(), Error> {
        let (mut argument, mut help, mut version) = (None, false, false);
        while let Some(word) = parser.next()? {
            match word {
                Arg::Short('h') | Arg::Long("help") => help = true,
                Arg::Short('V') | Arg::Long("version") => version = true,
                Arg::Short('v') | Arg::Long("verbose") => self.verbosity += 1,
                Arg::Short('q') | Arg::Long("quiet") => self.verbosity -= 1,
                Arg::Long(name) => {
                    let name = name.to_owned();
                    let kind = find_option(HELP, &name).ok_or_else(|| unknown_option(&name))?;
                    let value = (!kind.is_empty()).then(|| parser.value()).transpose()?;
                    let value = value.unwrap_or_default();
                    check_value(kind, &value)?;
                    self.given.insert(name, value);
                }
                Arg::Value(name) if self.command.is_empty() => self.command = find_command(&name)?,
                Arg::Value(word) if argument.is_none() => argument = Some(word),
                unexpected => return Err(unexpected.unexpected()),
            }
        }
        if help || (*self == Options::default() && !version) {
            self.given.insert("COMMAND".to_owned(), self.command.into());
            self.command = "help";
        } else if version {
            self.command = "version";
        } else {
            return self.check(argument);
        }
        Ok(())
    }

    /// Nothing but what the command's page declares, and what it must have.
    fn check(&mut self, argument: Option<OsString>) -> Result<(), Error> {
        if self.command.is_empty() {
            return Err("the command is missing".into());
        }
        let synopsis = help(self.command).lines().next().unwrap_or_default();
        let is_in = |text, name: &String| find_option(text, name).is_some();
        let is_unknown = |name: &&String| !is_in(synopsis, name) && !is_in(help(""), name);
        if let Some(name) = self.given.keys().find(is_unknown) {
            return Err(format!("`{}` has no option --{name}", self.command).into());
        }
        let last = synopsis.rsplit(' ').next().unwrap_or_default();
        // `PILOT` or `[PILOT]`, not the end of `[--by TIME]`.
        let kind = last.strip_prefix('[').unwrap_or(last).trim_end_matches(']');
        let is_name = kind.chars().all(|c| c.is_ascii_uppercase());
        let takes_one = is_name && last.starts_with('[') == last.ends_with(']');
        match argument {
            Some(word) if takes_one => {
                check_value(kind, &word)?;
                self.given.insert(kind.to_owned(), word);
                Ok(())
            }
            Some(extra) => Err(Arg::Value(extra).unexpected()),
            None if takes_one && kind == last => Err(format!("{kind} is missing").into()),
            None => Ok(()),
        }
    }
}

/// The kind of its value, by the first place where a text declares it; "": it is a switch.
fn find_option(text: &'static str, name: &str) -> Option<&'static str> {
    let option = format!("--{name}");
    let mut words = text.split([' ', '\n']);
    let word = words.find(|word| word.trim_matches(['[', ']']) == option)?;
    let kind = words.next().filter(|_| !word.ends_with(']'));
    Some(kind.unwrap_or_default().trim_end_matches(']'))
}

fn unknown_option(name: &str) -> Error {
    let words = HELP.split([' ', '[', ']', '\n']);
    let known = words.filter(|word| word.starts_with("--"));
    unknown("option", &format!("--{name}"), known)
}

fn find_command(name: &OsStr) -> Result<&'static str, Error> {
    let name = name.to_string_lossy();
    let found = commands().find(|known| *known == name);
    found.ok_or_else(|| unknown("command", &name, commands()))
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> Error {
    let near = nearest(name, known).map(|near| format!("; did you mean {near}?"));
    let name = clean_line(name, SHOWN);
    format!("unknown {what} '{name}'{}", near.unwrap_or_default()).into()
}

fn check_value(kind: &str, value: &OsStr) -> Result<(), Error> {
    match kind {
        "" | "FILE" | "DIR" => Ok(()),
        "COMMAND" => find_command(value).map(drop),
        "DURATION" => duration(value).map(drop),
        "N" => number(value).map(drop),
        _ => value.to_owned().string().map(drop),
    }
}

fn duration(text: &OsStr) -> Result<Duration, Error> {
    match parse_duration(&clean_line(&text.to_string_lossy(), SHOWN))? {
        Duration::ZERO => Err("a duration of zero does nothing".into()),
        duration => Ok(duration),
    }
}

/// Digits may be grouped: 10_000.
fn number(text: &OsStr) -> Result<u64, Error> {
    let text = clean_line(&text.to_string_lossy(), SHOWN);
    let number = text.replace('_', "").parse();
    number.map_err(|_| format!("'{text}' is not a whole number").into())
}

#[cfg(test)]
mod tests;
