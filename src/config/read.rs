//! A text to a `Config`, with every problem in it at its line and column: each key is read alone first, so that no problem
//! hides another one. What the keys are is in `keys`, what their values may be here.

use super::{values::*, *};
use crate::units::{Bytes, clean_line, entry, float, nearest, parse_cpu_list, parse_duration};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue, ValueDeserializer};

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

/// The least and the most that a key can be.
const RANGES: &str = "interval 1s 1h, flush 1s 1h, launches-per-tick 1 64, cpus 0.01 8192, reserve-cpus 0 8192, \
    min-battery 0 100, max-temperature 0 150, timeout 1s 10m, memory 6MiB 1000000TiB, pids 8 4194304, ttl 1s 36500d, \
    stop-grace 0s 10m, weight 1 1000, refresh 1s 168h";

/// Fields of the engine's HostConfig that Plancton sets itself.
const OWN_FIELDS: &str = "NanoCpus CpuQuota CpuPeriod CpuShares CpusetCpus Memory MemorySwap PidsLimit CgroupParent \
    OomScoreAdj OomKillDisable RestartPolicy AutoRemove Labels LogConfig Init Binds Mounts Tmpfs Devices CapAdd CapDrop \
    Privileged NetworkMode ReadonlyRootfs";

struct Reader<'t> {
    text: &'t str,
    /// Line, whether it is about the meaning, column, text: sorted as such.
    problems: Vec<(usize, bool, usize, String)>,
    document: Table,
}

/// What is wrong comes as `file:line:column: text`, in the order of the text.
pub fn parse(text: &str, file: &str) -> Result<Config, Vec<String>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader {
        text,
        problems: Vec::new(),
        document: Table::new(),
    };
    for error in errors {
        let at = error.span().map_or(0, |span| span.start);
        reader.add(at, false, format!("not valid TOML: {}", error.message()));
    }
    for (name, value) in document.get_ref() {
        // Of a text that is published, for those who join it: see `read_serial`.
        if name.get_ref() != "serial" {
            reader.check(name, value);
        }
    }
    let mut problems = reader.problems;
    if problems.is_empty() {
        let config = deserialize(reader.document).and_then(Config::settle);
        return config.map_err(|why| vec![format!("{file}: {why}")]);
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

fn deserialize(document: Table) -> Result<Config, String> {
    serde_json::from_value(Value::Object(document)).map_err(|error| error.to_string())
}

/// A table as a document of its own.
fn read_alone(name: &str, keys: Table) -> Result<Config, String> {
    let mut value = Value::Object(keys);
    if LISTS.contains(&name) {
        value = Value::Array(vec![value]);
    }
    deserialize(Table::from_iter([(name.to_owned(), value)]))
}

impl Reader<'_> {
    /// Of a place in bytes; lines and columns are counted from 1, columns in characters.
    fn add(&mut self, at: usize, is_about_meaning: bool, what: String) {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        let (line, column) = (before.matches('\n').count(), line.chars().count());
        let problem = (line + 1, is_about_meaning, column + 1, what);
        self.problems.push(problem);
    }

    /// All the tables of one name.
    fn check(&mut self, name: &Spanned<DeString<'_>>, value: &Spanned<DeValue<'_>>) {
        let (at, name) = (name.span().start, name.get_ref().as_ref());
        if let Err(message) = read_alone(name, Table::new()) {
            return self.add(at, true, explain(&message, "the file", name));
        }
        let is_list = LISTS.contains(&name);
        let place = match is_list {
            true => format!("[[{name}]]"),
            false => format!("[{name}]"),
        };
        let elements = match value.get_ref() {
            DeValue::Array(list) if is_list => list,
            DeValue::Table(_) if !is_list => std::slice::from_ref(value),
            _ => &[Spanned::new(value.span(), DeValue::Boolean(false))],
        };
        let (mut titles, mut tables) = (Vec::new(), Vec::new());
        for element in elements {
            let at = element.span().start;
            let DeValue::Table(table) = element.get_ref() else {
                let write = "stands in a line of its own, with its keys below it";
                self.add(at, true, format!("{place} {write}"));
                continue;
            };
            let title = table.get("name").and_then(|name| name.get_ref().as_str());
            if title.is_some() && titles.contains(&title) {
                let write = "an earlier one has this name; give each its own";
                self.add(at, true, format!("{place}: {write}"));
            }
            // After a syntax error nothing counts as missing.
            let is_whole = self.problems.iter().all(|problem| problem.1);
            for (of, key, example) in REQUIRED {
                if is_whole && name == of && !table.contains_key(key) {
                    let text = format!("{place} has no {key}; write one such as {key} = {example}");
                    self.add(at, true, text);
                }
            }
            let keys = self.check_keys(name, table, &place);
            let whole = read_alone(name, keys.clone()).unwrap_or_default();
            let why = whole.settle().err().filter(|_| self.problems.is_empty());
            if let Some(why) = why {
                self.add(at, true, format!("{place}: {why}"));
            }
            titles.push(title);
            tables.push(Value::Object(keys));
        }
        let value = match is_list {
            true => Value::Array(tables),
            false => tables.pop().unwrap_or_default(),
        };
        self.document.insert(name.to_owned(), value);
    }

    fn check_keys(&mut self, table: &str, keys: &DeTable<'_>, place: &str) -> Table {
        let mut read = Table::new();
        for (key, value) in keys {
            if self.problems.len() > MOST_PROBLEMS {
                break;
            }
            let (span, name) = (value.span(), key.get_ref());
            let written = self.text.get(span.clone()).unwrap_or_default();
            let value = Value::deserialize(ValueDeserializer::from(value.clone()));
            let value = value.map_err(|error| explain(error.message(), place, name));
            let value = value.map_err(|why| self.add(span.start, true, why));
            let Ok(value) = value else { continue };
            let why = judge_number(name, &value, written).or_else(|| judge(name, &value));
            if let Some(why) = why {
                self.add(span.start, true, format!("{place} {name}: {why}"));
            }
            // Hours go with keys of two tables.
            let tables: &[&str] = match (table, name.as_ref()) {
                ("when", "hours") => &[],
                ("when", _) => &["share", "owner"],
                _ => &[table],
            };
            let alone = Table::from_iter([(name.to_string(), value)]);
            let errors = tables.iter().map(|table| read_alone(table, alone.clone()));
            let errors: Vec<String> = errors.filter_map(Result::err).collect();
            if !errors.is_empty() && errors.len() == tables.len() {
                let known = errors.iter().find(|message| !is_unknown(message));
                let message = known.cloned().unwrap_or_else(|| errors.concat());
                let at = if known.is_some() { span } else { key.span() };
                self.add(at.start, true, explain(&message, place, name));
            }
            read.extend(alone);
        }
        read
    }
}

fn is_unknown(message: &str) -> bool {
    message.starts_with("unknown field")
}

/// serde's message, with the nearest of the keys that it lists. What is given for a secret is not repeated.
fn explain(message: &str, place: &str, key: &str) -> String {
    if is_unknown(message) {
        let mut names = message.split('`').skip(1).step_by(2);
        let unknown = names.next().unwrap_or_default();
        let names = names.filter(|name| *name != unknown);
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

/// What is wrong with the number of that key, and what to write.
fn judge_number(key: &str, value: &Value, written: &str) -> Option<String> {
    let mut ranges = RANGES.split(", ");
    let range = ranges.find_map(|range| range.strip_prefix(key)?.strip_prefix(' '))?;
    let (least, most) = range.split_once(' ')?;
    let (quote, number) = match value.as_str() {
        Some(text) => ("\"", measure(text)?),
        // JSON has no infinity.
        None => ("", value.as_f64().or(written.parse().ok())?),
    };
    // What is no number is less than any.
    let (too, bound, or) = match number.max(f64::MIN) {
        number if number < measure(least)? => ("little", least, "more"),
        number if number > measure(most)? => ("much", most, "less"),
        _ => return None,
    };
    let write = format!("write {quote}{bound}{quote} or {or}");
    Some(format!("{written} is too {too}; {write}"))
}

/// What is wrong with another value for that key, and what to write. What is of another type is left to serde.
fn judge(key: &str, value: &Value) -> Option<String> {
    let is_fine: fn(&str) -> bool = match key {
        "files" | "image-archive" | "auth-file" | "ca-file" => is_path,
        "devices" => is_device,
        "tmpfs" => is_tmpfs,
        "host-config" => |field| {
            let mut own = OWN_FIELDS.split(' ');
            !own.any(|own| own.eq_ignore_ascii_case(field))
        },
        "pause-while-running" => |program| !program.contains('/'),
        "hours" => |hours| in_hours(hours, 0).is_some(),
        // They go into labels, container names and paths.
        "name" | "instance" => |name| is_plain(name, "-") && name.len() <= 32,
        "socket" => |path| is_path(path.trim_start_matches("unix://")),
        "cpuset" => |list| parse_cpu_list(list).is_some() && !list.contains(['+', ' ']),
        _ => return None,
    };
    let texts: Vec<&str> = match value {
        Value::String(text) if text.is_empty() && !["hours", "name"].contains(&key) => return None,
        Value::Array(list) => {
            let parts = list.iter().map(|one| [one, &one["source"], &one["target"]]);
            parts.flatten().filter_map(Value::as_str).collect()
        }
        Value::Object(fields) => fields.keys().map(String::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    let wrong = texts.into_iter().find(|text| !is_fine(text))?;
    let write = entry(include_str!("forms.txt"), key).unwrap_or("a path from the root");
    Some(format!("\"{wrong}\" can't be; write {write}"))
}

/// Seconds of a duration, bytes of a size, or the number.
fn measure(text: &str) -> Option<f64> {
    match (parse_duration(text), Bytes::parse(text)) {
        (Ok(duration), _) => Some(duration.as_secs_f64()),
        (_, Some(size)) => Some(float(size.0)),
        _ => text.parse().ok(),
    }
}
