//! A text to a `Config`, with every problem in it at its line and column. serde tells the first problem of a table: its
//! key is taken out then, and the rest is read again. Says nothing of what values may be: that is in `check`.

use super::check::judge;
use super::keys::{Influx, PilotClass};
use super::{Auto, Config};
use crate::units::nearest;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::de::{DeString, DeTable, DeValue, Deserializer, ValueDeserializer};
use toml::{Spanned, Value};

/// Each costs one more reading of its table.
const MOST_PROBLEMS: usize = 100;

/// As they are written; in double brackets where there can be several.
const TABLES: [&str; 8] = [
    "[loop]",
    "[share]",
    "[owner]",
    "[[when]]",
    "[engine]",
    "[[pilot]]",
    "[[influxdb]]",
    "[allow]",
];

/// Keys that must be there, each with an example.
const REQUIRED: [(&str, &str, &str); 4] = [
    ("[[when]]", "hours", "\"Mon-Fri 09:00-18:00\""),
    ("[[pilot]]", "name", "\"science\""),
    ("[[pilot]]", "image", "\"builtin\" or \"busybox:1.36\""),
    ("[[influxdb]]", "url", "\"http://127.0.0.1:8086\""),
];

/// What serde calls the things that people write.
const PLAIN: [(&str, &str); 5] = [
    ("u32", "a whole number of 0 or more"),
    ("f64", "a number such as 1.5"),
    ("a sequence", "a list such as [\"a\", \"b\"]"),
    ("a map", "a table such as { NAME = \"value\" }"),
    (
        "struct Handed",
        "a table such as { source = \"/a\", target = \"/b\" }",
    ),
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
    // A value is shown in its problem; it must not break the line or the terminal.
    let lines = problems.iter().map(|(line, _, column, what)| {
        let what = what.replace(char::is_control, " ");
        format!("{file}:{line}:{column}: {what}")
    });
    Err(lines.take(MOST_PROBLEMS).collect())
}

fn bare(header: &str) -> &str {
    header.trim_matches(['[', ']'])
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
            for entry in self.tables(&name, value) {
                match name.get_ref().as_ref() {
                    "loop" => config.loop_ = self.table(entry),
                    "share" => config.share = self.table(entry),
                    "owner" => config.owner = self.table(entry),
                    "when" => config.when.push(self.table(entry)),
                    "engine" => config.engine = self.table(entry),
                    "pilot" => config.pilots.push(self.whole(entry, PilotClass::settle)),
                    "influxdb" => config.influxdb.push(self.whole(entry, Influx::settle)),
                    _ => config.allow = self.table(entry),
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
        let header = |name| TABLES.into_iter().find(|header| bare(header) == name);
        let Some(header) = header(name) else {
            let near = nearest(name, TABLES.into_iter().map(bare)).and_then(header);
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
                self.add(
                    at,
                    format!("{place}: an earlier one has this name; give each its own"),
                );
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

    /// The keys that could be read, the others at their defaults.
    fn table<T: Default + DeserializeOwned>(&mut self, (place, at, mut table): Entry<'t>) -> T {
        for (key, value) in &table {
            let judged = Value::deserialize(ValueDeserializer::from(value.clone()));
            if let Err(why) = judged.map_or(Ok(()), |value| judge(key.get_ref(), &value)) {
                self.add(
                    value.span().start,
                    format!("{place} {}: {why}", key.get_ref()),
                );
            }
        }
        loop {
            let spanned = Spanned::new(at..at, table.clone());
            let error = match T::deserialize(Deserializer::from(spanned)) {
                Ok(read) => return read,
                Err(error) => error,
            };
            let at = error.span().map_or(at, |span| span.start);
            let key = table
                .iter()
                .find(|(key, value)| key.span().contains(&at) || covers(value, at));
            let Some((key, _)) = key.map(|(key, value)| (key.clone(), value)) else {
                self.add(at, format!("{place}: {}", error.message()));
                return T::default();
            };
            self.add(at, explain(error.message(), &place, key.get_ref()));
            table.remove(&key);
            if self.problems.len() > MOST_PROBLEMS {
                return T::default();
            }
        }
    }

    /// With what its keys say together, if each of them could be read.
    fn whole<T: Default + DeserializeOwned>(
        &mut self,
        entry: Entry<'t>,
        settle: fn(T) -> Result<T, String>,
    ) -> T {
        let (place, at, before) = (entry.0.clone(), entry.1, self.problems.len());
        let read = self.table(entry);
        if !self.is_whole || self.problems.len() > before {
            return read;
        }
        settle(read).unwrap_or_else(|why| {
            self.add(at, format!("{place}: {why}"));
            T::default()
        })
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
        let near = nearest(unknown, names).map(|near| format!("'{near}'"));
        return format!("unknown key '{unknown}' in {place}; {}", way_out(near));
    }
    if ["password", "token"].contains(&key) && message.starts_with("invalid type") {
        return format!("{place} {key}: expected a string in quotes");
    }
    let (before, expected) = message.split_once("expected ").unwrap_or((message, ""));
    let plain = PLAIN
        .iter()
        .find_map(|(word, plain)| Some((plain, expected.strip_prefix(word)?)));
    match plain {
        Some((plain, rest)) => format!("{place} {key}: {before}expected {plain}{rest}"),
        None => format!("{place} {key}: {message}"),
    }
}

/// What to write instead of a name that is not known.
fn way_out(near: Option<String>) -> String {
    match near {
        Some(near) => format!("did you mean {near}?"),
        None => "'plancton config --default' explains all there are".to_owned(),
    }
}
