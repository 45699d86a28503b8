//! The words of a command line, sorted into a command, its options and the rest, before they have types. Pure.
//! What exists is read from the table in `help`; what does not is answered with the nearest that does.

use super::{Usage, help};
use crate::units::parse_duration;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The words sorted, before they have types.
pub(super) struct Words {
    pub(super) topic: Option<&'static help::Topic>,
    pub(super) given: Vec<(&'static str, Option<OsString>)>,
    rest: Vec<OsString>,
}

impl Words {
    pub(super) fn collect(arguments: impl IntoIterator<Item = OsString>) -> Result<Words, Usage> {
        let mut parser = lexopt::Parser::from_args(arguments);
        let mut words = Words { topic: None, given: Vec::new(), rest: Vec::new() };
        while let Some(word) = parser.next().map_err(|error| words.wrong(error.to_string()))? {
            let option = match word {
                lexopt::Arg::Value(value) => {
                    words.place(value)?;
                    continue;
                }
                lexopt::Arg::Long(name) => words.option(name)?,
                lexopt::Arg::Short(letter) => help::all_options()
                    .find(|option| option.short == Some(letter))
                    .ok_or_else(|| words.wrong(format!("there is no option -{letter}")))?,
            };
            let value =
                match option.value {
                    "" => None,
                    what => Some(parser.value().map_err(|_| {
                        words.wrong(format!("--{} needs a value: --{} {what}", option.long, option.long))
                    })?),
                };
            words.given.push((option.long, value));
        }
        Ok(words)
    }

    pub(super) fn wrong(&self, message: impl Into<String>) -> Usage {
        Usage { message: message.into(), topic: self.topic.map(|topic| topic.name) }
    }

    /// The first bare word is the command, the others are its arguments.
    fn place(&mut self, value: OsString) -> Result<(), Usage> {
        if self.topic.is_some() {
            self.rest.push(value);
            return Ok(());
        }
        let name = value.to_string_lossy();
        self.topic = Some(help::topic(&name).ok_or_else(|| {
            let near = nearest(&name, help::TOPICS.iter().map(|topic| topic.name));
            self.wrong(format!("there is no command '{}'{}", printable(&name), did_you_mean("", near)))
        })?);
        Ok(())
    }

    fn option(&self, name: &str) -> Result<&'static help::Opt, Usage> {
        // An option may stand before its command, so that any command's will do until the end.
        help::all_options().find(|option| option.long == name).ok_or_else(|| {
            let known: Vec<&str> = match self.topic {
                Some(topic) => topic.all_options().map(|option| option.long).collect(),
                None => help::all_options().map(|option| option.long).collect(),
            };
            self.wrong(format!(
                "there is no option --{}{}",
                printable(name),
                did_you_mean("--", nearest(name, known.into_iter()))
            ))
        })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.given.iter().any(|(given, _)| *given == name)
    }

    pub(super) fn count(&self, name: &str) -> i8 {
        let count = self.given.iter().filter(|(given, _)| *given == name).count();
        i8::try_from(count).unwrap_or(i8::MAX)
    }

    /// The last one given wins, as a wrapper script expects.
    fn value(&self, name: &str) -> Option<&OsString> {
        let mut from_the_end = self.given.iter().rev();
        from_the_end.find_map(|(given, value)| value.as_ref().filter(|_| *given == name))
    }

    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.value(name).map(PathBuf::from)
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Usage> {
        self.value(name).map(|value| self.utf8(name, value)).transpose()
    }

    fn utf8(&self, name: &str, value: &OsString) -> Result<String, Usage> {
        value.to_str().map(str::to_owned).ok_or_else(|| self.wrong(format!("the value of {name} is not UTF-8")))
    }

    pub(super) fn duration(&self, name: &str) -> Result<Option<Duration>, Usage> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        self.positive(&text).map(Some)
    }

    pub(super) fn positive(&self, text: &str) -> Result<Duration, Usage> {
        match parse_duration(text) {
            Ok(duration) if !duration.is_zero() => Ok(duration),
            Ok(_) => Err(self.wrong("a duration of zero does nothing")),
            Err(message) => Err(self.wrong(message)),
        }
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Usage> {
        let parse = |text: String| {
            let digits = text.replace('_', "");
            digits.parse().map_err(|_| self.wrong(format!("--{name} '{}' is not a whole number", printable(&text))))
        };
        self.text(name)?.map(parse).transpose()
    }

    /// The one argument of a command that has one.
    pub(super) fn argument(&self, what: &str) -> Result<&OsString, Usage> {
        self.rest.first().ok_or_else(|| self.wrong(format!("{what} is missing")))
    }

    /// No option of another command, no argument too many.
    pub(super) fn check(&self, topic: &help::Topic) -> Result<(), Usage> {
        for (name, _) in &self.given {
            if !topic.all_options().any(|option| option.long == *name) {
                return Err(self.wrong(format!("`{}` has no option --{name}", topic.name)));
            }
        }
        let most = usize::from(!topic.arguments.is_empty());
        match self.rest.get(most) {
            Some(extra) => Err(self.wrong(format!("'{}' is one word too many", printable(&extra.to_string_lossy())))),
            None => Ok(()),
        }
    }

    pub(super) fn word(&self, what: &str) -> Result<String, Usage> {
        self.utf8(what, self.argument(what)?)
    }

    pub(super) fn help_topic(&self) -> Result<Option<&'static str>, Usage> {
        let Some(word) = self.rest.first() else {
            return Ok(None);
        };
        let mut words = Words { topic: None, given: Vec::new(), rest: Vec::new() };
        words.place(word.clone())?;
        Ok(words.topic.map(|topic| topic.name))
    }
}

fn did_you_mean(dashes: &str, near: Option<&str>) -> String {
    near.map(|name| format!("; did you mean {dashes}{name}")).unwrap_or_default()
}

/// What was typed, safe to show.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}

/// The known word that was probably meant: one that begins so, or at most two slips away.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    if word.is_empty() {
        return None;
    }
    let begins = known.clone().find(|name| word.len() > 1 && name.starts_with(word));
    begins.or_else(|| {
        known
            .map(|name| (distance(word, name), name))
            .filter(|(slips, name)| *slips <= 2 && *slips < name.chars().count().min(word.len()))
            .min_by_key(|(slips, _)| *slips)
            .map(|(_, name)| name)
    })
}

/// Levenshtein's: how many letters to insert, remove or replace.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, left) in a.chars().take(64).enumerate() {
        let mut diagonal = i;
        let mut before = i + 1;
        let mut next = vec![before];
        for (right, above) in b.chars().zip(row.iter().skip(1)) {
            let replaced = diagonal + usize::from(left != right);
            before = replaced.min(above + 1).min(before + 1);
            diagonal = *above;
            next.push(before);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}
