//! A parsed TOML document to a `Config`: reads every table, collects every problem with its place, and checks what keys
//! mean together. A key that is not known is answered with the nearest one that is.

use super::keys::{EngineKeys, Loop, Owner, Pilot, Share};
use super::values::{Auto, Read, Toml, Value, Wrong, found, quote};
use super::when::Hours;
use super::{Config, When};
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

/// Sets one key; `None`: there is no such key.
type Set<'a> = &'a mut dyn FnMut(&'static str, &Toml<'_>) -> Option<Read<()>>;

/// One table of a repeated one; `place` names it by the value of its first key, or by its number.
struct Entry<'a> {
    place: String,
    at: usize,
    table: &'a DeTable<'a>,
}

struct Reader {
    problems: Vec<Wrong>,
    /// Whether the document holds all that was written.
    whole: bool,
}

/// Everything that could be read, and everything that is wrong. Without the `whole` document nothing counts as missing.
pub fn read_config(document: &DeTable<'_>, whole: bool) -> (Config, Vec<Wrong>) {
    let mut reader = Reader { problems: Vec::new(), whole };
    let mut config = Config::default();
    for (key, value) in document {
        match key.get_ref().as_ref() {
            "loop" => reader.read_single("loop", value, &mut |k, v| config.loop_.set(k, v)),
            "share" => reader.read_single("share", value, &mut |k, v| config.share.set(k, v)),
            "owner" => reader.read_single("owner", value, &mut |k, v| config.owner.set(k, v)),
            "engine" => reader.read_single("engine", value, &mut |k, v| config.engine.set(k, v)),
            "when" => reader.read_whens(value, &mut config),
            "pilot" => {} // below, because they are held against the other tables
            name => reader.add(key.span().start, unknown_table(name, value)),
        }
    }
    // Of the whole time 0 says "as many as fit", because a share of nothing is a drain; at some hours it means none.
    if config.share.max_pilots == Auto::Fixed(0) {
        config.share.max_pilots = Auto::Auto;
    }
    if let Some(pilots) = document.get("pilot") {
        reader.read_pilots(pilots, &mut config);
    }
    (config, reader.problems)
}

impl Reader {
    fn add(&mut self, at: usize, text: String) {
        self.problems.push(Wrong { at, text });
    }

    fn read_single(&mut self, name: &'static str, value: &Toml<'_>, set: Set<'_>) {
        let place = brackets(name);
        match value.get_ref().as_table() {
            Some(table) => drop(self.read_keys(name, &place, table, set)),
            None => self.refuse(value, &format!("{place} expects one table")),
        }
    }

    fn refuse(&mut self, value: &Toml<'_>, expects: &str) {
        let found = found(value.get_ref());
        self.add(value.span().start, format!("{expects}, found {found}"));
    }

    /// The keys that could be read.
    fn read_keys(&mut self, name: &str, place: &str, table: &DeTable<'_>, set: Set<'_>) -> Vec<&'static str> {
        let mut given = Vec::new();
        for (key, value) in table {
            let known = keys_of(name).find(|known| known == key.get_ref());
            match known.and_then(|known| Some((known, set(known, value)?))) {
                None => self.add(key.span().start, unknown_key(key.get_ref(), name, place)),
                Some((known, Ok(()))) => given.push(known),
                Some((known, Err(problems))) => {
                    for wrong in problems {
                        self.add(wrong.at, format!("{place} {known}: {}", wrong.text));
                    }
                }
            }
        }
        given
    }

    fn read_repeated<'a>(&mut self, name: &str, title: &str, value: &'a Toml<'a>) -> Vec<Entry<'a>> {
        let place = brackets(name);
        let mut entries = Vec::new();
        let Some(list) = value.get_ref().as_array() else {
            self.refuse(value, &format!("{place} expects double brackets"));
            return entries;
        };
        for (number, element) in list.iter().enumerate() {
            let Some(table) = element.get_ref().as_table() else {
                self.refuse(element, &format!("{place} expects tables"));
                continue;
            };
            let place = match table.get(title).and_then(|title| title.get_ref().as_str()) {
                Some(title) => format!("{place} {}", quote(title)),
                None => format!("{place} #{}", number + 1),
            };
            entries.push(Entry { place, at: element.span().start, table });
        }
        entries
    }

    fn read_whens(&mut self, value: &Toml<'_>, config: &mut Config) {
        for Entry { place, at, table } in self.read_repeated("when", "hours", value) {
            let (mut hours, mut share, mut owner) = (None, Share::default(), Owner::default());
            let mut keys = self.read_keys("when", &place, table, &mut |key, value| match key {
                "hours" => Some(Hours::read(value).map(|read| hours = Some(read))),
                _ => share.set(key, value).or_else(|| owner.set(key, value)),
            });
            keys.retain(|key| *key != "hours");
            if self.whole && !table.contains_key("hours") {
                let hint = "write them such as hours = \"Mon-Fri 09:00-18:00\"";
                self.add(at, format!("{place} has no hours; {hint}"));
            }
            if let Some(hours) = hours {
                config.when.push(When { hours, keys, share, owner });
            }
        }
    }

    fn read_pilots(&mut self, value: &Toml<'_>, config: &mut Config) {
        for entry in self.read_repeated("pilot", "name", value) {
            let mut pilot = Pilot::default();
            let set: Set<'_> = &mut |key, value| pilot.set(key, value);
            let given = self.read_keys("pilot", &entry.place, entry.table, set);
            let same_name = |other: &Pilot| other.name == pilot.name;
            if given.contains(&"name") && config.pilots.iter().any(same_name) {
                let text = "an earlier [[pilot]] has this name; give each its own";
                self.add_to_key(&entry, "name", text);
            }
            if self.whole {
                self.check_pilot(&entry, &pilot, most_cpus(config));
            }
            config.pilots.push(pilot);
        }
    }

    /// What keys of a pilot mean together.
    fn check_pilot(&mut self, entry: &Entry<'_>, pilot: &Pilot, most_cpus: Option<f64>) {
        for (key, example) in [("name", "\"science\""), ("image", "\"builtin\" or \"busybox:1.36\"")] {
            if !entry.table.contains_key(key) {
                let text = format!("{} has no {key}; write one such as {key} = {example}", entry.place);
                self.add(entry.at, text);
            }
        }
        if pilot.stop_grace >= pilot.ttl {
            let (grace, ttl) = (pilot.stop_grace.write(), pilot.ttl.write());
            let text = format!("the ttl of {ttl} is not longer than the stop-grace of {grace}; change one");
            let given = entry.table.contains_key("stop-grace");
            self.add_to_key(entry, if given { "stop-grace" } else { "ttl" }, &text);
        }
        if let Some(most) = most_cpus.filter(|most| pilot.cpus > *most) {
            let text = format!(
                "{} is more than [share] cpus gives ({most}), so it can never start; lower it or raise [share] cpus",
                pilot.cpus
            );
            self.add_to_key(entry, "cpus", &text);
        }
    }

    /// At the key's value, or at the table when the key is at its default.
    fn add_to_key(&mut self, entry: &Entry<'_>, key: &str, text: &str) {
        let at = entry.table.get(key).map_or(entry.at, |value| value.span().start);
        self.add(at, format!("{} {key}: {text}", entry.place));
    }
}

/// The most cores that are ever given. `None`: left to Plancton at least at some hours.
fn most_cpus(config: &Config) -> Option<f64> {
    let whens = config.when.iter().filter(|when| when.keys.contains(&"cpus"));
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
    let lists = TABLES.iter().filter(move |(table, ..)| *table == name);
    lists.flat_map(|(_, _, lists)| lists.iter().flat_map(|keys| keys.iter().copied()))
}

fn brackets(name: &str) -> String {
    match TABLES.iter().any(|(table, repeats, _)| *table == name && *repeats) {
        true => format!("[[{name}]]"),
        false => format!("[{name}]"),
    }
}

fn unknown_key(key: &str, name: &str, place: &str) -> String {
    let way_out = match nearest(key, keys_of(name)) {
        Some(near) => format!("did you mean '{near}'?"),
        None => home_of(key),
    };
    format!("unknown key '{key}' in {place}; {way_out}")
}

fn unknown_table(name: &str, value: &Toml<'_>) -> String {
    let first = value.get_ref().as_array().and_then(|list| list.iter().next());
    if !first.unwrap_or(value).get_ref().is_table() {
        return format!("key '{name}' is outside of any table; {}", home_of(name));
    }
    let way_out = match nearest(name, TABLES.iter().map(|(table, ..)| *table)) {
        Some(near) => format!("did you mean {}?", brackets(near)),
        None => home_of(name),
    };
    format!("unknown table [{name}]; {way_out}")
}

/// The table that has the key, where there is one.
fn home_of(key: &str) -> String {
    let has_it = |name: &str| keys_of(name).any(|known| known == key);
    match TABLES.iter().find(|(table, ..)| has_it(table)) {
        Some((table, ..)) => format!("'{key}' belongs into {}", brackets(table)),
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
            left = (diagonal + usize::from(x != y)).min(above + 1).min(left + 1);
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
        for (a, b, expected) in
            [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("cpu", "cpus", 1), ("kitten", "sitting", 3), ("ä", "a", 1)]
        {
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
