//! A parsed TOML document to a `Config`: reads every table, collects every problem with its place, and checks what keys
//! mean together. A key that is not known is answered with the nearest one that is.

use super::keys::{EngineKeys, Loop, Owner, Pilot, Share};
use super::values::{Auto, Read, Value, found, quote};
use super::when::Hours;
use super::{Config, When};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The tables, whether they repeat, and what they may hold.
const TABLES: [(&str, bool, &[&[&str]]); 6] = [
    ("loop", false, &[Loop::KEYS]),
    ("share", false, &[Share::KEYS]),
    ("owner", false, &[Owner::KEYS]),
    ("when", true, &[&["hours"], Share::KEYS, Owner::KEYS]),
    ("engine", false, &[EngineKeys::KEYS]),
    ("pilot", true, &[Pilot::KEYS]),
];

type Toml<'a> = Spanned<DeValue<'a>>;
/// Sets one key; `None`: there is no such key.
type Set<'a> = &'a mut dyn FnMut(&'static str, &Toml<'_>) -> Option<Read<()>>;
/// The keys that were given, and the byte offset of their values.
type Given = Vec<(&'static str, usize)>;

/// Problems so far: byte offset and text.
#[derive(Default)]
pub struct Problems(pub Vec<(usize, String)>);

impl Problems {
    fn add(&mut self, at: usize, text: String) {
        self.0.push((at, text));
    }

    pub fn read_config(&mut self, document: &DeTable<'_>) -> Config {
        let mut config = Config::default();
        for (key, value) in document {
            match key.get_ref().as_ref() {
                "loop" => self.read_single("loop", value, &mut |k, v| config.loop_.set(k, v)),
                "share" => self.read_single("share", value, &mut |k, v| config.share.set(k, v)),
                "owner" => self.read_single("owner", value, &mut |k, v| config.owner.set(k, v)),
                "engine" => self.read_single("engine", value, &mut |k, v| config.engine.set(k, v)),
                "when" => self.read_whens(value, &mut config),
                "pilot" => self.read_pilots(value, &mut config),
                name => self.add(key.span().start, unknown_table(name, value)),
            }
        }
        config.share.max_pilots = config.share.max_pilots.zero_is_no_limit();
        config
    }

    fn read_single(&mut self, name: &'static str, value: &Toml<'_>, set: Set<'_>) {
        match value.get_ref() {
            DeValue::Table(table) => drop(self.read_keys(name, &format!("[{name}]"), table, set)),
            DeValue::Array(_) => self.add(
                value.span().start,
                format!("[{name}] exists once; write it with single brackets"),
            ),
            other => self.add(
                value.span().start,
                format!("[{name}] expects a table, found {}", found(other)),
            ),
        }
    }

    fn read_keys(&mut self, name: &str, place: &str, table: &DeTable<'_>, set: Set<'_>) -> Given {
        let mut given = Vec::new();
        for (key, value) in table {
            let Some(known) = keys_of(name).find(|known| known == key.get_ref()) else {
                self.add(key.span().start, unknown_key(key.get_ref(), name, place));
                continue;
            };
            given.push((known, value.span().start));
            for wrong in set(known, value).and_then(Result::err).unwrap_or_default() {
                self.add(wrong.at, format!("{place} {known}: {}", wrong.text));
            }
        }
        given
    }

    /// The tables of a repeated one with the text that names each: the value of its first key, or its number.
    fn read_repeated<'a>(
        &mut self,
        name: &str,
        title: &str,
        value: &'a Toml<'a>,
    ) -> Vec<(String, usize, &'a DeTable<'a>)> {
        let Some(list) = value.get_ref().as_array() else {
            let text =
                format!("[[{name}]] can be there several times; write it with double brackets");
            self.add(value.span().start, text);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (number, element) in list.iter().enumerate() {
            let Some(table) = element.get_ref().as_table() else {
                let text = format!(
                    "[[{name}]] expects a table, found {}",
                    found(element.get_ref())
                );
                self.add(element.span().start, text);
                continue;
            };
            let title = match table.get(title).and_then(|title| title.get_ref().as_str()) {
                Some(title) => format!("[[{name}]] {}", quote(title)),
                None => format!("[[{name}]] #{}", number + 1),
            };
            tables.push((title, element.span().start, table));
        }
        tables
    }

    fn read_whens(&mut self, value: &Toml<'_>, config: &mut Config) {
        for (place, at, table) in self.read_repeated("when", "hours", value) {
            let mut hours = None;
            let (mut share, mut owner) = (Share::default(), Owner::default());
            let given = self.read_keys("when", &place, table, &mut |key, value| match key {
                "hours" => Some(Hours::read(value).map(|read| hours = Some(read))),
                _ => share.set(key, value).or_else(|| owner.set(key, value)),
            });
            if !given.iter().any(|(key, _)| *key == "hours") {
                self.add(
                    at,
                    format!(
                        "{place} has no hours; write them such as hours = \"Mon-Fri 09:00-18:00\""
                    ),
                );
            }
            let keys = given
                .into_iter()
                .map(|(key, _)| key)
                .filter(|key| *key != "hours")
                .collect();
            if let Some(hours) = hours {
                config.when.push(When {
                    hours,
                    keys,
                    share,
                    owner,
                });
            }
        }
    }

    fn read_pilots(&mut self, value: &Toml<'_>, config: &mut Config) {
        for (place, at, table) in self.read_repeated("pilot", "name", value) {
            let mut pilot = Pilot::default();
            let given = self.read_keys("pilot", &place, table, &mut |key, value| {
                pilot.set(key, value)
            });
            let of = |key: &str| {
                given
                    .iter()
                    .find(|(known, _)| *known == key)
                    .map(|(_, at)| *at)
            };
            if of("name").is_none() {
                self.add(
                    at,
                    format!("{place} has no name; write one such as name = \"science\""),
                );
            } else if config.pilots.iter().any(|other| other.name == pilot.name) {
                let text =
                    format!("{place} name: an earlier [[pilot]] has this name; give each its own");
                self.add(of("name").unwrap_or(at), text);
            }
            if of("image").is_none() {
                self.add(at, format!("{place} has no image; write \"builtin\" or an image such as image = \"busybox:1.36\""));
            }
            if pilot.stop_grace >= pilot.ttl {
                let text = format!(
                    "{place} stop-grace: {} is not shorter than the ttl of {}; shorten it or write a longer ttl",
                    pilot.stop_grace.write(),
                    pilot.ttl.write()
                );
                self.add(of("stop-grace").or(of("ttl")).unwrap_or(at), text);
            }
            if let Some(most) = most_cpus(config).filter(|most| pilot.cpus > *most) {
                let text = format!(
                    "{place} cpus: {} is more than the {most} of [share] cpus, so it can never start; lower it or raise [share] cpus",
                    pilot.cpus
                );
                self.add(of("cpus").unwrap_or(at), text);
            }
            config.pilots.push(pilot);
        }
    }
}

/// The most cores that are ever given. `None`: left to Plancton at least at some hours.
fn most_cpus(config: &Config) -> Option<f64> {
    let whens = config
        .when
        .iter()
        .filter(|when| when.keys.contains(&"cpus"));
    let mut most = 0.0_f64;
    for cpus in whens.map(|when| when.share.cpus).chain([config.share.cpus]) {
        match cpus {
            Auto::Auto => return None,
            Auto::Fixed(cpus) => most = most.max(cpus),
        }
    }
    Some(most)
}

fn keys_of(name: &str) -> impl Iterator<Item = &'static str> {
    let table = TABLES.iter().find(|(table, ..)| *table == name);
    table
        .into_iter()
        .flat_map(|(_, _, keys)| keys.iter().flat_map(|keys| keys.iter().copied()))
}

fn brackets(name: &str) -> String {
    match TABLES.iter().find(|(table, ..)| *table == name) {
        Some((_, true, _)) => format!("[[{name}]]"),
        _ => format!("[{name}]"),
    }
}

fn unknown_key(key: &str, name: &str, place: &str) -> String {
    let way_out = match nearest(key, keys_of(name)) {
        Some(near) => format!("did you mean '{near}'?"),
        None => home_of(key),
    };
    format!(
        "unknown key {} in {place}; {way_out}",
        quote(key).replace('"', "'")
    )
}

fn unknown_table(name: &str, value: &Toml<'_>) -> String {
    let (shown, way_out) = match (
        value.get_ref(),
        nearest(name, TABLES.iter().map(|(table, ..)| *table)),
    ) {
        (DeValue::Table(_) | DeValue::Array(_), Some(near)) => (
            format!("table [{name}]"),
            format!("did you mean {}?", brackets(near)),
        ),
        (DeValue::Table(_), None) => (format!("table [{name}]"), home_of(name)),
        _ => (format!("key '{name}' outside of any table"), home_of(name)),
    };
    format!("unknown {shown}; {way_out}")
}

/// The table that has the key, where there is one.
fn home_of(key: &str) -> String {
    let mut tables = TABLES
        .iter()
        .filter(|(table, ..)| keys_of(table).any(|known| known == key));
    match tables.next() {
        Some((table, ..)) => format!("it belongs into {}", brackets(table)),
        None => "'plancton config --default' explains all there are".to_owned(),
    }
}

/// The known name that a typing mistake or two could have been meant for.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = 1 + name.len().min(12) / 4;
    known
        .map(|known| (distance(name, known), known))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// How many letters must be typed, deleted or replaced to make one of the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        let mut left = i + 1;
        for ((y, diagonal), above) in b.chars().zip(&row).zip(row.iter().skip(1)) {
            left = (diagonal + usize::from(x != y))
                .min(above + 1)
                .min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("cpu", "cpus", 1),
            ("kitten", "sitting", 3),
            ("ä", "a", 1),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
        for (name, expected) in [
            ("reserve-cpu", Some("reserve-cpus")),
            ("reserve_memory", Some("reserve-memory")),
            ("maxpilots", Some("max-pilots")),
            ("CPUs", None),
            ("wallpaper", None),
        ] {
            assert_eq!(nearest(name, keys_of("share")), expected, "{name}");
        }
    }
}
