//! A text to a `Config`, with every problem in it at its line and column. serde tells the first problem of a table: its
//! key is taken out then, and the rest is read again. Says nothing of what values may be: that is in `check`.

use super::check::judge;
use super::keys::{Influx, PilotClass};
use super::{Auto, Config, LINE};
use crate::units::{clean_line, nearest};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::de::{DeString, DeTable, DeValue, Deserializer, ValueDeserializer};
use toml::{Spanned, Value};

/// Each costs one more reading of its table.
const MOST_PROBLEMS: usize = 100;

/// As they are written; in double brackets where there can be several.
const TABLES: &str = "[loop] [share] [owner] [[when]] [engine] [[pilot]] [[influxdb]] [allow]";

/// Keys that must be there, each with an example.
const REQUIRED: [(&str, &str, &str); 4] = [
    ("[[when]]", "hours", "\"Mon-Fri 09:00-18:00\""),
    ("[[pilot]]", "name", "\"science\""),
    ("[[pilot]]", "image", "\"builtin\" or \"busybox:1.36\""),
    ("[[influxdb]]", "url", "\"http://127.0.0.1:8086\""),
];

struct Reader<'t> {
    text: &'t str,
    /// Line, whether it is about the meaning, column, text: sorted as such.
    problems: Vec<(usize, bool, usize, String)>,
    /// Whether the document holds all that was written: without, nothing counts as missing.
    is_whole: bool,
}

/// A table as written: what it is called, where it begins, and its keys.
type Entry<'t> = (String, usize, DeTable<'t>);

/// What is wrong comes as `file:line:column: text`, in the order of the text.
pub fn parse(text: &str, file: &str) -> Result<Config, Vec<String>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader {
        text,
        problems: Vec::new(),
        is_whole: errors.is_empty(),
    };
    let config = reader.read(document.into_inner());
    for error in errors {
        let (line, column) = place(text, error.span().map_or(0, |span| span.start));
        let what = format!("not valid TOML: {}", error.message());
        reader.problems.push((line, false, column, what));
    }
    let mut problems = reader.problems;
    if problems.is_empty() {
        return Ok(config);
    }
    problems.sort();
    // What follows a syntax error in its line may come from it.
    problems.dedup_by(|later, first| later.0 == first.0 && !first.1);
    // A value is shown in its problem.
    let lines = problems.iter().map(|(line, _, column, what)| {
        let what = clean_line(what, LINE);
        format!("{file}:{line}:{column}: {what}")
    });
    Err(lines.take(MOST_PROBLEMS).collect())
}

/// Byte offset to line and column, both counted from 1; columns in characters.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

impl<'t> Reader<'t> {
    fn add(&mut self, at: usize, what: String) {
        let (line, column) = place(self.text, at);
        self.problems.push((line, true, column, what));
    }

    fn read(&mut self, document: DeTable<'t>) -> Config {
        let mut config = Config::default();
        for (name, value) in document {
            // Of a text that is published, for those who join it: see `read_serial`.
            if name.get_ref() == "serial" {
                continue;
            }
            for entry in self.tables(&name, value) {
                match name.get_ref().as_ref() {
                    "loop" => config.loop_ = self.table(entry, Ok),
                    "share" => config.share = self.table(entry, Ok),
                    "owner" => config.owner = self.table(entry, Ok),
                    "when" => config.when.push(self.table(entry, Ok)),
                    "engine" => config.engine = self.table(entry, Ok),
                    "pilot" => config.pilots.push(self.table(entry, PilotClass::settle)),
                    "influxdb" => config.influxdb.push(self.table(entry, Influx::settle)),
                    _ => config.allow = self.table(entry, Ok),
                }
            }
        }
        // Of the whole time 0 says "as many as fit", because a share of nothing is a drain; at some hours it means none.
        if config.share.max_pilots == Auto::Fixed(0) {
            config.share.max_pilots = Auto::Auto;
        }
        config
    }

    /// The tables of that name.
    fn tables(
        &mut self,
        name: &Spanned<DeString<'t>>,
        value: Spanned<DeValue<'t>>,
    ) -> Vec<Entry<'t>> {
        let (at, name) = (name.span().start, name.get_ref().as_ref());
        let bare = |header: &'static str| header.trim_matches(['[', ']']);
        let header = |name| TABLES.split(' ').find(|header| bare(header) == name);
        let Some(header) = header(name) else {
            let near = nearest(name, TABLES.split(' ').map(bare)).and_then(header);
            let way_out = way_out(near.map(str::to_owned));
            self.add(at, format!("unknown table '{name}'; {way_out}"));
            return Vec::new();
        };
        let elements = match (value.get_ref(), header.starts_with("[[")) {
            (DeValue::Array(list), true) => list.to_vec(),
            (DeValue::Table(_), false) => vec![value],
            _ => vec![Spanned::new(value.span(), DeValue::Boolean(false))],
        };
        let mut tables: Vec<Entry<'t>> = Vec::new();
        for element in elements {
            let at = element.span().start;
            let DeValue::Table(table) = element.into_inner() else {
                let write = "stands in a line of its own, with its keys below it";
                self.add(at, format!("{header} {write}"));
                continue;
            };
            // Not by its url: a password may be in it.
            let title = table.get("name").or_else(|| table.get("hours"));
            let place = match title.and_then(|title| title.get_ref().as_str()) {
                Some(title) => format!("{header} {}", Value::from(title)),
                None if header.starts_with("[[") => format!("{header} #{}", tables.len() + 1),
                None => header.to_owned(),
            };
            if header == "[[pilot]]" && tables.iter().any(|(other, ..)| *other == place) {
                let write = "an earlier one has this name; give each its own";
                self.add(at, format!("{place}: {write}"));
            }
            for (of, key, example) in REQUIRED {
                if self.is_whole && of == header && !table.contains_key(key) {
                    let write = format!("write one such as {key} = {example}");
                    self.add(at, format!("{place} has no {key}; {write}"));
                }
            }
            tables.push((place, at, table));
        }
        tables
    }

    /// The keys that could be read, the others at their defaults, and if all could, what they say together.
    fn table<T, S>(&mut self, (place, start, mut table): Entry<'t>, settle: S) -> T
    where
        T: Default + DeserializeOwned,
        S: Fn(T) -> Result<T, String>,
    {
        for (key, value) in &table {
            let (at, key) = (value.span().start, key.get_ref());
            let value = Value::deserialize(ValueDeserializer::from(value.clone())).ok();
            if let Some(why) = value.and_then(|value| judge(key, &value)) {
                self.add(at, format!("{place} {key}: {why}"));
            }
        }
        while self.problems.len() <= MOST_PROBLEMS {
            let spanned = Spanned::new(start..start, table.clone());
            let error = match T::deserialize(Deserializer::from(spanned)) {
                Ok(read) if !self.is_whole || !self.problems.is_empty() => return read,
                Ok(read) => match settle(read) {
                    Ok(read) => return read,
                    Err(why) => {
                        self.add(start, format!("{place}: {why}"));
                        break;
                    }
                },
                Err(error) => error,
            };
            let at = error.span().map_or(start, |span| span.start);
            let mut keys = table.iter();
            let at_fault = keys.find(|(key, value)| key.span().contains(&at) || covers(value, at));
            let Some(key) = at_fault.map(|(key, _)| key.clone()) else {
                self.add(at, format!("{place}: {}", error.message()));
                break;
            };
            self.add(at, explain(error.message(), &place, key.get_ref()));
            table.remove(&key);
        }
        T::default()
    }
}

/// Whether that byte is in the value. A table has its parts elsewhere in the text.
fn covers(value: &Spanned<DeValue<'_>>, at: usize) -> bool {
    let inside = match value.get_ref() {
        DeValue::Table(table) => table
            .iter()
            .any(|(key, value)| key.span().contains(&at) || covers(value, at)),
        DeValue::Array(list) => list.iter().any(|value| covers(value, at)),
        _ => false,
    };
    inside || value.span().contains(&at)
}

/// serde's message, with the nearest of the keys that it lists. What is given for a secret is not repeated.
fn explain(message: &str, place: &str, key: &str) -> String {
    if message.starts_with("unknown field") {
        let mut names = message.split('`').skip(1).step_by(2);
        let unknown = names.next().unwrap_or_default();
        let way_out = way_out(nearest(unknown, names).map(|near| format!("'{near}'")));
        return format!("unknown key '{unknown}' in {place}; {way_out}");
    }
    if ["password", "token"].contains(&key) {
        return format!("{place} {key}: write the secret itself, in quotes");
    }
    let message = message.replace("u32", "a whole number of 0 or more");
    format!("{place} {key}: {}", message.replace("f64", "a number"))
}

/// What to write instead of a name that is not known.
fn way_out(near: Option<String>) -> String {
    match near {
        Some(near) => format!("did you mean {near}?"),
        None => "'plancton config --default' explains all there are".to_owned(),
    }
}
