//! A text to a `Config`, with every problem in it at its line and column: each key is read alone first, so that no problem
//! hides another one. What the keys are is in `keys`, what their values may be here.

use super::values::is_path;
use super::{Config, LINE};
use crate::units::{Bytes, clean_line, float, nearest, parse_cpu_list, parse_duration};
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeArray, DeString, DeTable, DeValue, Deserializer, Error, ValueDeserializer};

const MOST_PROBLEMS: usize = 100;

/// There can be several of these tables.
const LISTS: [&str; 3] = ["when", "pilot", "influxdb"];

/// Keys that must be there, each with an example.
const REQUIRED: [(&str, &str, &str); 4] = [
    ("when", "hours", "\"Mon-Fri 09:00-18:00\""),
    ("pilot", "name", "\"science\""),
    ("pilot", "image", "\"builtin\" or \"busybox:1.36\""),
    ("influxdb", "url", "\"http://127.0.0.1:8086\""),
];

/// Fields of the engine's HostConfig that Plancton sets itself.
const OWN_FIELDS: &str = "NanoCpus CpuQuota CpuPeriod CpuShares CpusetCpus Memory MemorySwap PidsLimit CgroupParent \
    OomScoreAdj OomKillDisable RestartPolicy AutoRemove Labels LogConfig Init Binds Mounts Tmpfs Devices CapAdd CapDrop \
    Privileged NetworkMode ReadonlyRootfs";

type Key<'t> = Spanned<DeString<'t>>;
type Value<'t> = Spanned<DeValue<'t>>;

struct Reader<'t> {
    text: &'t str,
    /// Line, whether it is about the meaning, column, text: sorted as such.
    problems: Vec<(usize, bool, usize, String)>,
    /// Whether the document holds all that was written: without, nothing counts as missing.
    is_whole: bool,
}

/// What is wrong comes as `file:line:column: text`, in the order of the text.
pub fn parse(text: &str, file: &str) -> Result<Config, Vec<String>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut document = document.into_inner();
    // Of a text that is published, for those who join it: see `read_serial`.
    document.remove("serial");
    let mut reader = Reader {
        text,
        problems: Vec::new(),
        is_whole: errors.is_empty(),
    };
    for error in errors {
        let at = error.span().map_or(0, |span| span.start);
        reader.add(at, false, format!("not valid TOML: {}", error.message()));
    }
    for (name, value) in &document {
        reader.check(name, value);
    }
    let mut problems = reader.problems;
    if problems.is_empty() {
        return read(document).map_err(|why| vec![format!("{file}: {why}")]);
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

fn read(document: DeTable<'_>) -> Result<Config, String> {
    let config = deserialize(document).map_err(|error| error.message().to_owned());
    config?.settle()
}

fn deserialize(document: DeTable<'_>) -> Result<Config, Error> {
    Config::deserialize(Deserializer::from(Spanned::new(0..0, document)))
}

impl<'t> Reader<'t> {
    /// Of a place in bytes; lines and columns are counted from 1, columns in characters.
    fn add(&mut self, at: usize, is_about_meaning: bool, what: String) {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        let (line, column) = (before.matches('\n').count(), line.chars().count());
        let problem = (line + 1, is_about_meaning, column + 1, what);
        self.problems.push(problem);
    }

    /// All the tables of one name.
    fn check(&mut self, name: &Key<'t>, value: &Value<'t>) {
        let (at, title) = (name.span().start, name.get_ref());
        let is_list = LISTS.contains(&title.as_ref());
        let in_document = |table| {
            let mut value = Spanned::new(0..0, DeValue::Table(table));
            if is_list {
                value = Spanned::new(0..0, DeValue::Array(DeArray::from_iter([value])));
            }
            DeTable::from_iter([(name.clone(), value)])
        };
        if let Err(error) = deserialize(in_document(DeTable::new())) {
            return self.add(at, true, explain(error.message(), "the file", title));
        }
        let header = match is_list {
            true => format!("[[{title}]]"),
            false => format!("[{title}]"),
        };
        let elements = match value.get_ref() {
            DeValue::Array(list) if is_list => list,
            DeValue::Table(_) if !is_list => std::slice::from_ref(value),
            _ => &[Spanned::new(value.span(), DeValue::Boolean(false))],
        };
        let mut places = Vec::new();
        for element in elements {
            let at = element.span().start;
            let DeValue::Table(table) = element.get_ref() else {
                let write = "stands in a line of its own, with its keys below it";
                self.add(at, true, format!("{header} {write}"));
                continue;
            };
            // Not by its url: a password may be in it.
            let title = table.get("name").or_else(|| table.get("hours"));
            let place = match title.and_then(|title| title.get_ref().as_str()) {
                Some(title) => format!("{header} \"{title}\""),
                None if is_list => format!("{header} #{}", places.len() + 1),
                None => header.clone(),
            };
            if table.contains_key("name") && places.contains(&place) {
                let write = "an earlier one has this name; give each its own";
                self.add(at, true, format!("{place}: {write}"));
            }
            for (of, key, example) in REQUIRED {
                if self.is_whole && name.get_ref() == of && !table.contains_key(key) {
                    let write = format!("write one such as {key} = {example}");
                    self.add(at, true, format!("{place} has no {key}; {write}"));
                }
            }
            self.check_keys(table, &place, in_document);
            if self.problems.is_empty()
                && let Err(why) = read(in_document(table.clone()))
            {
                self.add(at, true, format!("{place}: {why}"));
            }
            places.push(place);
        }
    }

    fn check_keys(
        &mut self,
        table: &DeTable<'t>,
        place: &str,
        in_document: impl Fn(DeTable<'t>) -> DeTable<'t>,
    ) {
        for (key, value) in table {
            if self.problems.len() > MOST_PROBLEMS {
                return;
            }
            let (at, name) = (value.span(), key.get_ref());
            let written = self.text.get(at.clone()).unwrap_or_default();
            if let Some(why) = judge(name, value, written) {
                self.add(at.start, true, format!("{place} {name}: {why}"));
            }
            let alone = DeTable::from_iter([(key.clone(), value.clone())]);
            if let Err(error) = deserialize(in_document(alone)) {
                let at = error.span().map_or(at.start, |span| span.start);
                self.add(at, true, explain(error.message(), place, name));
            }
        }
    }
}

/// serde's message, with the nearest of the keys that it lists. What is given for a secret is not repeated.
fn explain(message: &str, place: &str, key: &str) -> String {
    if message.starts_with("unknown field") {
        let mut names = message.split('`').skip(1).step_by(2);
        let unknown = names.next().unwrap_or_default();
        let way_out = match nearest(unknown, names) {
            Some(near) => format!("did you mean '{near}'?"),
            None => "'plancton config --default' explains all there are".to_owned(),
        };
        return format!("unknown key '{unknown}' in {place}; {way_out}");
    }
    if ["password", "token"].contains(&key) {
        return format!("{place} {key}: write the secret itself, in quotes");
    }
    let message = message.replace("u32", "a whole number of 0 or more");
    let message = message.replace("a string", "a text in quotes, such as \"30s\" or \"2GiB\"");
    format!("{place} {key}: {}", message.replace("f64", "a number"))
}

/// What is wrong with a value for that key, and what to write. What is of another type is left to serde.
fn judge(key: &str, value: &Value, written: &str) -> Option<String> {
    let text = value.get_ref().as_str();
    let within = |low: &str, high: &str| {
        let quote = if text.is_some() { "\"" } else { "" };
        // What is no number is less than any.
        let number = measure(value)?.max(f64::MIN);
        let (too, bound, or) = match (measure_text(low)?, measure_text(high)?) {
            (least, _) if number < least => ("little", low, "more"),
            (_, most) if number > most => ("much", high, "less"),
            _ => return None,
        };
        let write = format!("write {quote}{bound}{quote} or {or}");
        Some(format!("{written} is too {too}; {write}"))
    };
    let (is_fine, write) = match (key, text.unwrap_or_default()) {
        ("interval" | "flush", _) => return within("1s", "1h"),
        ("launches-per-tick", _) => return within("1", "64"),
        ("cpus", _) => return within("0.01", "8192"),
        ("reserve-cpus", _) => return within("0", "8192"),
        ("min-battery", _) => return within("0", "100"),
        ("max-temperature", _) => return within("0", "150"),
        ("timeout", _) => return within("1s", "10m"),
        ("memory", _) => return within("6MiB", "1000000TiB"),
        ("pids", _) => return within("8", "4194304"),
        ("ttl", _) => return within("1s", "36500d"),
        ("stop-grace", _) => return within("0s", "10m"),
        ("weight", _) => return within("1", "1000"),
        ("refresh", _) => return within("1s", "168h"),
        ("host-config", _) => {
            let own = OWN_FIELDS.to_lowercase();
            let mut fields = value.get_ref().as_table()?.keys().map(Spanned::get_ref);
            let is_own = |field: &str| own.split(' ').any(|own| own == field.to_lowercase());
            let field = fields.find(|field| is_own(field))?;
            return Some(format!("'{field}' is set by Plancton itself; leave it out"));
        }
        ("pause-while-running", _) => {
            let mut names = value.get_ref().as_array()?.iter();
            let is_path = |name: &Value| {
                name.get_ref()
                    .as_str()
                    .is_some_and(|name| name.contains('/'))
            };
            (!names.any(is_path), "programs without their folders")
        }
        ("name", name) => (is_label(name), "1 to 32 of a-z, 0-9 and '-'"),
        (_, "") => return None,
        ("instance", name) => (is_label(name), "1 to 32 of a-z, 0-9 and '-'"),
        ("image-archive" | "auth-file" | "ca-file", path) => {
            (is_path(path), "a path from the root")
        }
        ("socket", path) => {
            let path = path.trim_start_matches("unix://");
            (is_path(path), "\"/path\" or \"unix:///path\"")
        }
        ("cpuset", list) => {
            let is_list = parse_cpu_list(list).is_some() && !list.contains(['+', ' ']);
            (is_list, "a list of CPUs such as \"4-7,9\"")
        }
        _ => return None,
    };
    (!is_fine).then(|| format!("{written} can't be; write {write}"))
}

fn measure(value: &Value) -> Option<f64> {
    match value.get_ref().as_str() {
        Some(text) => measure_text(text),
        None => f64::deserialize(ValueDeserializer::from(value.clone())).ok(),
    }
}

/// Seconds of a duration, bytes of a size, or the number.
fn measure_text(text: &str) -> Option<f64> {
    match (parse_duration(text), Bytes::parse(text)) {
        (Ok(duration), _) => Some(duration.as_secs_f64()),
        (_, Some(size)) => Some(float(size.0)),
        _ => text.parse().ok(),
    }
}

/// Names of instances and classes: they go into labels, container names and paths.
fn is_label(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let all = text.chars().all(|c| plain(c) || c == '-');
    text.starts_with(plain) && text.len() <= 32 && all
}
