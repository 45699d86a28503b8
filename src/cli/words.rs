//! The words of a command line, sorted into a command, its options and the rest, before they have types. Pure.
//! What exists is read from the table in `help`; what does not is answered with the nearest that does.

use super::{Usage, help};
use crate::units::parse_duration;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

/// The words sorted, before they have types.
#[derive(Default)]
pub(super) struct Words {
    pub(super) topic: Option<&'static help::Topic>,
    pub(super) given: Vec<(&'static str, Option<OsString>)>,
    rest: Vec<OsString>,
}

impl Words {
    pub(super) fn collect(arguments: impl IntoIterator<Item = OsString>) -> Result<Words, Usage> {
        let mut parser = lexopt::Parser::from_args(arguments);
        let mut words = Words::default();
        while let Some(word) = parser
            .next()
            .map_err(|error| words.wrong(error.to_string()))?
        {
            // An option may stand before its command, so that any command's will do until the end.
            let option = match word {
                // The first bare word is the command, the others are its arguments.
                lexopt::Arg::Value(value) if words.topic.is_some() => {
                    words.rest.push(value);
                    continue;
                }
                lexopt::Arg::Value(value) => {
                    words.topic = Some(words.find_topic(&value)?);
                    continue;
                }
                lexopt::Arg::Long(name) => help::all_options()
                    .find(|option| option.long == name)
                    .ok_or_else(|| words.no_option(name))?,
                lexopt::Arg::Short(letter) => help::all_options()
                    .find(|option| option.short == Some(letter))
                    .ok_or_else(|| {
                        let more = if letter.is_ascii_digit() {
                            ", and a duration can't be negative"
                        } else {
                            ""
                        };
                        words.wrong(format!("there is no option -{letter}{more}"))
                    })?,
            };
            let value = match option.value {
                "" => None,
                _ => Some(parser.value().map_err(|_| {
                    words.wrong(format!(
                        "--{} needs a value: {}",
                        option.long,
                        option.spelling()
                    ))
                })?),
            };
            words.given.push((option.long, value));
        }
        Ok(words)
    }

    pub(super) fn wrong(&self, message: impl Into<String>) -> Usage {
        Usage {
            message: message.into(),
            topic: self.topic.map(|topic| topic.name),
        }
    }

    fn find_topic(&self, name: &OsStr) -> Result<&'static help::Topic, Usage> {
        let name = name.to_string_lossy();
        help::topic(&name).ok_or_else(|| {
            let near = nearest(&name, help::TOPICS.iter().map(|topic| topic.name));
            let near = near
                .map(|near| format!("; did you mean {near}"))
                .unwrap_or_default();
            Usage {
                message: format!("there is no command '{}'{near}", printable(&name)),
                topic: None,
            }
        })
    }

    fn no_option(&self, name: &str) -> Usage {
        let near = nearest(name, help::all_options().map(|option| option.long));
        let near = near
            .map(|near| format!("; did you mean --{near}"))
            .unwrap_or_default();
        self.wrong(format!("there is no option --{}{near}", printable(name)))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.count(name) > 0
    }

    pub(super) fn count(&self, name: &str) -> i8 {
        let count = self
            .given
            .iter()
            .filter(|(given, _)| *given == name)
            .count();
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
        self.value(name)
            .map(|value| self.utf8(name, value))
            .transpose()
    }

    fn utf8(&self, name: &str, value: &OsStr) -> Result<String, Usage> {
        value
            .to_str()
            .map(str::to_owned)
            .ok_or_else(|| self.wrong(format!("the value of {name} is not UTF-8")))
    }

    pub(super) fn duration(&self, name: &str) -> Result<Option<Duration>, Usage> {
        self.text(name)?
            .map(|text| self.positive(&text))
            .transpose()
    }

    pub(super) fn positive(&self, text: &str) -> Result<Duration, Usage> {
        match parse_duration(text) {
            Ok(Duration::ZERO) => Err(self.wrong("a duration of zero does nothing")),
            read => read.map_err(|message| self.wrong(message)),
        }
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Usage> {
        let parse = |text: String| {
            let digits = text.replace('_', "");
            digits.parse().map_err(|_| {
                self.wrong(format!(
                    "--{name} '{}' is not a whole number",
                    printable(&text)
                ))
            })
        };
        self.text(name)?.map(parse).transpose()
    }

    /// The one argument of a command that has one.
    pub(super) fn argument(&self) -> Result<&OsString, Usage> {
        let what = self.topic.map_or("COMMAND", |topic| topic.arguments);
        self.rest
            .first()
            .ok_or_else(|| self.wrong(format!("{what} is missing")))
    }

    pub(super) fn word(&self) -> Result<String, Usage> {
        let argument = self.argument()?;
        self.utf8("the argument", argument)
    }

    pub(super) fn optional_word(&self) -> Result<Option<String>, Usage> {
        self.rest
            .first()
            .map(|argument| self.utf8("the argument", argument))
            .transpose()
    }

    /// No option of another command, no argument too many.
    pub(super) fn check(&self, topic: &help::Topic) -> Result<(), Usage> {
        let known = |name: &str| {
            help::GLOBAL
                .iter()
                .chain(topic.options)
                .any(|option| option.long == name)
        };
        if let Some((name, _)) = self.given.iter().find(|(name, _)| !known(name)) {
            return Err(self.wrong(format!("`{}` has no option --{name}", topic.name)));
        }
        match self.rest.get(usize::from(!topic.arguments.is_empty())) {
            Some(extra) => Err(self.wrong(format!(
                "'{}' is one word too many",
                printable(&extra.to_string_lossy())
            ))),
            None => Ok(()),
        }
    }

    pub(super) fn help_topic(&self) -> Result<Option<&'static str>, Usage> {
        self.rest
            .first()
            .map(|word| self.find_topic(word).map(|topic| topic.name))
            .transpose()
    }
}

/// What was typed, safe to show.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}

/// The known word that was probably meant: one that begins so, or is at most two slips away in at most half its letters.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let begins = known
        .clone()
        .find(|name| word.len() > 1 && name.starts_with(word));
    let slips = known.map(|name| (distance(word, name), name));
    let near = slips.filter(|(slips, name)| *slips <= 2 && 2 * slips <= name.len().min(word.len()));
    begins.or_else(|| near.min_by_key(|(slips, _)| *slips).map(|(_, name)| name))
}

/// Levenshtein's: how many letters to insert, remove or replace.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, left) in a.chars().take(64).enumerate() {
        let mut before = i + 1;
        let mut next = vec![before];
        for ((right, diagonal), above) in b.chars().zip(&row).zip(row.iter().skip(1)) {
            before = (diagonal + usize::from(left != right))
                .min(above + 1)
                .min(before + 1);
            next.push(before);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}
