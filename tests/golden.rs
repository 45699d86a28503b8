//! What scripts and servers rely on, as whole texts: `status --json`, `config`, `config --default`, `history --json` and the line
//! protocol of one tick. `BLESS=1` writes them anew. What differs from run to run (times, ids, load) is masked, the keys are not.
#![allow(clippy::restriction, clippy::pedantic, clippy::disallowed_methods)]

mod common;

use common::web::WebServer;
use common::*;
use std::fs;
use std::path::Path;

fn golden(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    fs::read_to_string(folder.join(name)).unwrap_or_default()
}

fn is_golden(name: &str, found: &str) {
    if std::env::var_os("BLESS").is_some() {
        fs::write(Path::new("tests/golden").join(name), found).unwrap();
    }
    assert_eq!(found, golden(name), "{name}");
}

/// Values of these keys differ from run to run.
const VOLATILE: &str = "awake pid since tick due id name started deadline at lived foreign idle free available given_seconds \
    turns longest_gap_ms calls cpu_ms socket version url sent waiting_bytes text pilots";

fn mask(value: &mut Value, key: &str) {
    match value {
        Value::Object(map) => map.iter_mut().for_each(|(key, value)| mask(value, key)),
        Value::Array(list) => list.iter_mut().for_each(|value| mask(value, key)),
        Value::Null => {}
        other if VOLATILE.split(' ').any(|name| name == key) => {
            *other = Value::from(if other.is_string() { "text" } else { "number" });
        }
        _ => {}
    }
}

/// One pilot has ended, two run.
fn machine(more: &str) -> Machine {
    let config = format!(
        "[loop]\ninterval = \"1s\"\n[share]\nreserve-cpus = 0\nreserve-disk = \"1MiB\"\nmax-pilots = 2\n\
         [[pilot]]\nname = \"p\"\nimage = \"fake:1\"\nmemory = \"64MiB\"\nmin-runtime = \"0s\"\n{more}"
    );
    let machine = Machine::running(&config, 2);
    machine.end_one(0);
    machine.wait_count("done", 1);
    machine.wait_for_pilots(2);
    machine
}

#[test]
fn status() {
    let server = WebServer::new();
    let machine = machine(&format!(
        "[[influxdb]]\nurl = \"{}\"\ndatabase = \"d\"\n",
        server.url()
    ));
    machine.wait_status(|status| {
        let rows = status["pilots"].as_array().map_or(0, Vec::len);
        rows == 2 && status["reason"]["code"] == "max-pilots"
    });
    let said = machine.say(&["status", "--json"]).must(0, &[]);
    let mut found: Value = serde_json::from_str(&said.out).unwrap();
    mask(&mut found, "");
    is_golden("status.json", &format!("{found:#}\n"));
}

#[test]
fn configurations() {
    let machine = Machine::without_engine();
    let said = machine.say(&["config", "--default"]).must(0, &[]);
    is_golden("default.toml", &said.out);
    machine.file("config.toml", golden("whole.toml"));
    let said = machine.say(&["config"]).must(0, &[]);
    // The values, however they are laid out; what is written can be read again.
    let found: Value = toml::from_str(&said.out).unwrap();
    is_golden("config.json", &format!("{found:#}\n"));
}

#[test]
fn history() {
    let machine = Machine::without_engine();
    // Yesterday and the day before, as the clock of the test says.
    let day = epoch() as u64 / 86_400 * 24;
    let (first, second, third) = (day - 48, day - 47, day - 2);
    let lines = format!(
        "[{first},[3600,7000,350,{{\"a\":[6000,{{\"done\":12,\"failed\":1}}],\"b\":[1000,{{\"no-work\":3}}]}},{{\"busy\":60}}]]\n\
         [{second},[3500,3500,10,{{\"a\":[3500,{{\"owner\":2,\"ttl\":1}}]}},{{}}]]\n\
         [{third},[1800,900,0,{{\"b\":[900,{{\"done\":1}}]}},{{\"battery\":600,\"snooze\":30}}]]\n"
    );
    machine.file("state/history", lines);
    let mut command = machine.command(&["history", "--days", "30", "--json"]);
    let said = say(command.env("TZ", "UTC")).must(0, &[]);
    let mut found: Value = serde_json::from_str(&said.out).unwrap();
    for day in found["days"].as_array_mut().unwrap() {
        assert_eq!(day["date"].as_str().unwrap().len(), "2026-01-01".len());
        day["date"] = "DATE".into();
    }
    is_golden("history.json", &format!("{found:#}\n"));
}

/// `key=value` of a field or a tag, without what differs from run to run.
fn mask_part(part: &str) -> String {
    const KEPT: &str = "hostname instance kind code state status class cpus_total memory_total exit_code running \
        memory_given cpus_given done failed launches";
    let (key, value) = part.split_once('=').unwrap();
    let kind = match value {
        "True" | "False" | "true" | "false" | "p" => value,
        _ if KEPT.split(' ').any(|name| name == key) => value,
        _ if value.starts_with('"') => "TEXT",
        _ if value.ends_with('i') => "INTEGER",
        _ => "FLOAT",
    };
    format!("{key}={kind}")
}

#[test]
fn line_protocol() {
    let server = WebServer::new();
    let sink = format!(
        "[[influxdb]]\nurl = \"{}\"\ndatabase = \"d\"\nflush = \"1s\"\nhost-alias = \"h, 1\"\n",
        server.url()
    );
    let machine = machine(&sink);
    let series = [
        "container",
        "daemon",
        "measurement",
        "plancton_host",
        "plancton_pilots",
        "plancton_decision",
        "plancton_engine",
        "plancton_sink",
    ];
    let tick = || {
        series
            .iter()
            .map(|series| server.lines(series).pop())
            .collect::<Option<Vec<String>>>()
    };
    let is_whole =
        |lines: Vec<String>| lines[4].contains("running=2i") && lines[4].contains("done=1i");
    machine.until(|| tick().is_some_and(is_whole));
    let masked = |line: String| {
        let line = line.replace("h\\,\\ 1", "HOST");
        let (points, time) = line.rsplit_once(' ').unwrap();
        assert!(time.parse::<u64>().unwrap() > 1_700_000_000_000_000_000);
        let (tags, fields) = points.split_once(' ').unwrap();
        let (name, tags) = tags.split_once(',').unwrap();
        let list = |parts: &str| {
            parts
                .split(',')
                .map(mask_part)
                .collect::<Vec<_>>()
                .join(",")
        };
        let fields = fields.split("TEXT,").map(str::to_owned).collect::<String>();
        format!("{name},{} {} TIME", list(tags), list(&fields))
    };
    let found: Vec<String> = tick().unwrap().into_iter().map(masked).collect();
    is_golden("lines.txt", &(found.join("\n") + "\n"));
}
