//! What scripts and servers rely on, as whole texts: `status --json`, `config`, `config --default`, `history --json`, the line
//! protocol of one tick and replayed scenarios. `BLESS=1` writes them anew. What differs from run to run (times, ids, load)
//! is masked, the keys are not.

use crate::common::web::WebServer;
use crate::common::*;

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

fn whole(name: &str, found: &Value) {
    is_golden(format!("tests/golden/{name}"), &format!("{found:#}\n"));
}

/// One pilot has ended, two run.
fn machine(more: &str) -> Machine {
    let machine = Machine::running(&made_up(2, "", more), 2);
    machine.end_one(0);
    machine.wait_count("done", 1);
    machine.wait_for_pilots(2);
    machine
}

#[test]
fn status() {
    let server = WebServer::new();
    let machine = machine(&format!("[[influxdb]]\nurl = \"{}#d\"\n", server.url()));
    machine.wait_for("/counts/launches", 3);
    machine.wait_listed(2);
    machine.wait_status(|status| {
        status["reason"]["code"] == "max-pilots"
            && !status["pilots"].to_string().contains("\"created\"")
    });
    let mut found = machine.done("status --json").json();
    mask(&mut found, "");
    whole("status.json", &found);
}

#[test]
fn configurations() {
    let machine = Machine::without_engine();
    let said = machine.done("config --default");
    is_golden("tests/golden/default.toml", &said.out);
    machine.file("config.toml", read(in_house("tests/golden/whole.toml")));
    let said = machine.done("config");
    // The values, however they are laid out; what is written can be read again.
    let found: Value = toml::from_str(&said.out).unwrap();
    whole("config.json", &found);
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
    let mut command = machine.command("history --days 30 --json");
    let mut found = say(command.env("TZ", "UTC")).must(0, &[]).json();
    for day in found["days"].as_array_mut().unwrap() {
        assert_eq!(day["date"].as_str().unwrap().len(), "2026-01-01".len());
        day["date"] = "DATE".into();
    }
    whole("history.json", &found);
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
    let sink = format!("[[influxdb]]\nurl = \"{}#d\"", server.url());
    let machine = machine(&(sink + "\nflush = \"1s\"\nhost-alias = \"h, 1\"\n"));
    let series = "container daemon measurement plancton_host plancton_pilots plancton_decision plancton_engine plancton_sink";
    let last = |series: &str| server.lines(series).pop();
    let tick = || series.split(' ').map(last).collect::<Option<Vec<String>>>();
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
            let parts = parts.split(',').map(mask_part);
            parts.collect::<Vec<_>>().join(",")
        };
        let fields = fields.replace("TEXT,", "");
        format!("{name},{} {} TIME", list(tags), list(&fields))
    };
    let found: Vec<String> = tick().unwrap().into_iter().map(masked).collect();
    is_golden("tests/golden/lines.txt", &(found.join("\n") + "\n"));
}

/// Recorded observations of a story, replayed.
#[test]
fn scenarios() {
    let mut seen = 0;
    for entry in fs::read_dir(in_house("tests/scenarios")).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_some_and(|ending| ending == "jsonl") {
            let mut command = Command::new(PLANCTON);
            command.arg("--config").arg(file.with_extension("toml"));
            let said = say(command.arg("replay").arg(&file)).must(0, &[]);
            is_golden(file.with_extension("txt"), &said.out);
            seen += 1;
        }
    }
    assert!(seen >= 4, "only {seen} scenarios were found");
}
