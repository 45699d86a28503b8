//! A parsed TOML document to a `Config`: reads every table and collects every problem with its place.
//! A key that is not known is answered with the nearest one that is.

use super::keys::{Allow, EngineKeys, Influx, Loop, Owner, PilotClass, Section, Share};
use super::values::{Auto, Read, Toml, Value, Wrong, found, quote};
use super::when::Hours;
use super::{Config, When};
use crate::units::nearest;
use toml::de::DeTable;

/// One kind of table.
struct Kind {
    name: &'static str,
    /// In double brackets where there can be several.
    header: &'static str,
    keys: &'static [&'static [&'static str]],
    /// Keys that must be there, each with an example.
    required: &'static [(&'static str, &'static str)],
}

const HOURS: (&str, &str) = ("hours", "\"Mon-Fri 09:00-18:00\"");
const NAME: (&str, &str) = ("name", "\"science\"");
const IMAGE: (&str, &str) = ("image", "\"builtin\" or \"busybox:1.36\"");

const URL: (&str, &str) = ("url", "\"http://127.0.0.1:8086\"");

const KINDS: [Kind; 8] = [
    Kind {
        name: "loop",
        header: "[loop]",
        keys: &[Loop::KEYS],
        required: &[],
    },
    Kind {
        name: "share",
        header: "[share]",
        keys: &[Share::KEYS],
        required: &[],
    },
    Kind {
        name: "owner",
        header: "[owner]",
        keys: &[Owner::KEYS],
        required: &[],
    },
    Kind {
        name: "when",
        header: "[[when]]",
        keys: &[&["hours"], Share::KEYS, Owner::KEYS],
        required: &[HOURS],
    },
    Kind {
        name: "engine",
        header: "[engine]",
        keys: &[EngineKeys::KEYS],
        required: &[],
    },
    Kind {
        name: "pilot",
        header: "[[pilot]]",
        keys: &[PilotClass::KEYS],
        required: &[NAME, IMAGE],
    },
    Kind {
        name: "influxdb",
        header: "[[influxdb]]",
        keys: &[Influx::KEYS],
        required: &[URL],
    },
    Kind {
        name: "allow",
        header: "[allow]",
        keys: &[Allow::KEYS],
        required: &[],
    },
];

impl Kind {
    fn keys(&self) -> impl Iterator<Item = &'static str> + Clone {
        self.keys.iter().copied().flatten().copied()
    }
}

/// One table as written; `place` names it, one of several by the value of its first key, or by its number.
struct Entry<'a> {
    kind: &'a Kind,
    place: String,
    at: usize,
    table: &'a DeTable<'a>,
}

struct Reader {
    problems: Vec<Wrong>,
    /// Whether the document holds all that was written.
    whole: bool,
}

/// Everything that could be read, the keys given in tables of which there is one, and everything that is wrong. Without the
/// `whole` document nothing counts as missing.
pub fn read_config(document: &DeTable<'_>, whole: bool) -> (Config, Vec<&'static str>, Vec<Wrong>) {
    let mut reader = Reader {
        problems: Vec::new(),
        whole,
    };
    let (mut config, mut given) = (Config::default(), Vec::new());
    for name in document
        .keys()
        .filter(|name| KINDS.iter().all(|kind| kind.name != name.get_ref()))
    {
        let way_out = way_out(name.get_ref(), KINDS.iter().map(|kind| kind.name));
        reader.add(
            name.span().start,
            format!("unknown table '{}'; {way_out}", name.get_ref()),
        );
    }
    for kind in &KINDS {
        let Some(value) = document.get(kind.name) else {
            continue;
        };
        for entry in reader.entries(kind, value) {
            match kind.name {
                "loop" => {
                    given.extend(reader.read(&entry, |key, value| config.loop_.set(key, value)))
                }
                "share" => {
                    given.extend(reader.read(&entry, |key, value| config.share.set(key, value)))
                }
                "owner" => {
                    given.extend(reader.read(&entry, |key, value| config.owner.set(key, value)))
                }
                "engine" => {
                    given.extend(reader.read(&entry, |key, value| config.engine.set(key, value)))
                }
                "allow" => {
                    given.extend(reader.read(&entry, |key, value| config.allow.set(key, value)))
                }
                "when" => config.when.extend(reader.read_when(&entry)),
                "influxdb" => reader.read_sink(&entry, &mut config.influxdb),
                _ => reader.read_pilot(&entry, &mut config.pilots),
            }
        }
    }
    // Of the whole time 0 says "as many as fit", because a share of nothing is a drain; at some hours it means none.
    if config.share.max_pilots == Auto::Fixed(0) {
        config.share.max_pilots = Auto::Auto;
    }
    (config, given, reader.problems)
}

impl Reader {
    fn add(&mut self, at: usize, text: String) {
        self.problems.push(Wrong { at, text });
    }

    /// The tables of that kind, of which there may be several or one only.
    fn entries<'a>(&mut self, kind: &'a Kind, value: &'a Toml<'a>) -> Vec<Entry<'a>> {
        let repeats = kind.header.starts_with("[[");
        let list = value.get_ref().as_array().filter(|_| repeats);
        let elements = list.map_or(vec![value], |list| list.iter().collect());
        let mut entries = Vec::new();
        for (number, element) in elements.into_iter().enumerate() {
            let Some(table) = element
                .get_ref()
                .as_table()
                .filter(|_| list.is_some() == repeats)
            else {
                let expects = if repeats {
                    "double brackets"
                } else {
                    "one table"
                };
                let found = found(element.get_ref());
                self.add(
                    element.span().start,
                    format!("{} expects {expects}, found {found}", kind.header),
                );
                continue;
            };
            // A url may hold a password.
            let title = kind.required.first().filter(|key| **key != URL);
            let title = title.and_then(|(key, _)| table.get(*key)?.get_ref().as_str());
            let place = match title {
                _ if !repeats => kind.header.to_owned(),
                Some(title) => format!("{} {}", kind.header, quote(title)),
                None => format!("{} #{}", kind.header, number + 1),
            };
            entries.push(Entry {
                kind,
                place,
                at: element.span().start,
                table,
            });
        }
        entries
    }

    /// The keys that could be read. `set` answers `None` when there is no such key.
    fn read(
        &mut self,
        entry: &Entry<'_>,
        mut set: impl FnMut(&str, &Toml<'_>) -> Option<Read<&'static str>>,
    ) -> Vec<&'static str> {
        let Entry {
            kind,
            place,
            at,
            table,
        } = entry;
        let mut given = Vec::new();
        for (key, value) in *table {
            let name = key.get_ref();
            match set(name, value) {
                Some(Ok(known)) => given.push(known),
                Some(Err(problems)) => problems.into_iter().for_each(|wrong| {
                    self.add(wrong.at, format!("{place} {name}: {}", wrong.text))
                }),
                None => {
                    let way_out = way_out(name, kind.keys());
                    self.add(
                        key.span().start,
                        format!("unknown key '{name}' in {place}; {way_out}"),
                    );
                }
            }
        }
        for (key, example) in kind.required {
            if self.whole && !table.contains_key(*key) {
                self.add(
                    *at,
                    format!("{place} has no {key}; write one such as {key} = {example}"),
                );
            }
        }
        given
    }

    fn read_when(&mut self, entry: &Entry<'_>) -> Option<When> {
        let (mut hours, mut share, mut owner) = (None, Share::default(), Owner::default());
        let mut keys = self.read(entry, |key, value| match key {
            "hours" => Some(Hours::read(value).map(|read| {
                hours = Some(read);
                "hours"
            })),
            _ => share.set(key, value).or_else(|| owner.set(key, value)),
        });
        keys.retain(|key| *key != "hours");
        Some(When {
            hours: hours?,
            keys,
            share,
            owner,
        })
    }

    fn read_pilot(&mut self, entry: &Entry<'_>, pilots: &mut Vec<PilotClass>) {
        let mut pilot = PilotClass::default();
        let given = self.read(entry, |key, value| pilot.set(key, value));
        let is_taken =
            given.contains(&"name") && pilots.iter().any(|other| other.name == pilot.name);
        if let Some(name) = entry.table.get("name").filter(|_| is_taken) {
            let text = "name: an earlier [[pilot]] has this name; give each its own";
            self.add(name.span().start, format!("{} {text}", entry.place));
        }
        let ids = pilot.user.split(':').map(str::parse::<u32>);
        if !pilot.files.is_empty() && ids.into_iter().any(|id| id.is_err()) {
            let text =
                "files: copies belong to the pilot's user, so write user as numbers, \"UID:GID\"";
            self.add(entry.at, format!("{} {text}", entry.place));
        }
        pilots.push(pilot);
    }

    fn read_sink(&mut self, entry: &Entry<'_>, sinks: &mut Vec<Influx>) {
        let (mut sink, before) = (Influx::default(), self.problems.len());
        self.read(entry, |key, value| sink.set(key, value));
        // What could not be read is not missing.
        let is_whole = self.whole && self.problems.len() == before;
        for text in if is_whole { sink.settle() } else { Vec::new() } {
            self.add(entry.at, format!("{}: {text}", entry.place));
        }
        sinks.push(sink);
    }
}

/// What to write instead of a name that is not known.
fn way_out<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    if let Some(near) = nearest(name, known) {
        let table = KINDS.iter().find(|kind| kind.name == near);
        return table.map_or(format!("did you mean '{near}'?"), |kind| {
            format!("did you mean {}?", kind.header)
        });
    }
    match KINDS.iter().find(|kind| kind.keys().any(|key| key == name)) {
        Some(kind) => format!("'{name}' belongs into {}", kind.header),
        None => "'plancton config --default' explains all there are".to_owned(),
    }
}
