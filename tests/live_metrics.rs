//! The real binary and real servers: InfluxDB 1.x and VictoriaMetrics, started here on the loopback. Most of it runs on a
//! made-up machine, which has the battery and the sensors that the build machine lacks.
// needs: influxdb victoriametrics
// threads: 4
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used
)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, dead_code)]

mod common;
#[path = "common/fake_engine.rs"]
mod fake_engine;
#[path = "common/influx.rs"]
mod influx;
#[path = "common/machine.rs"]
mod machine;

use common::Instance;
use influx::{Server, certificate};
use machine::{Machine, Scratch, becomes};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

const LABEL: &str = "io.plancton.instance";
const LONG: Duration = Duration::from_secs(90);

fn config(sinks: &str) -> String {
    format!(
        "[loop]\ninterval = \"1s\"\n[share]\nreserve-cpus = 0\nreserve-disk = \"1MiB\"\nmax-pilots = 3\n\
         [owner]\non-battery = \"run\"\n\
         [[pilot]]\nname = \"p\"\nimage = \"fake:1\"\nmin-runtime = \"0s\"\nmemory = \"64MiB\"\n{sinks}"
    )
}

fn sink(server: &Server, lines: &str) -> String {
    format!(
        "[[influxdb]]\nurl = \"{}\"\nflush = \"1s\"\n{lines}\n",
        server.url()
    )
}

/// A machine with all that can be measured.
fn machine_with_sensors() -> Machine {
    let machine = Machine::new();
    let battery = [
        ("type", "Battery"),
        ("status", "Full"),
        ("present", "1"),
        ("scope", "System"),
        ("capacity", "80"),
    ];
    for (file, text) in battery {
        machine
            .scratch
            .file(&format!("root/sys/class/power_supply/BAT0/{file}"), text);
    }
    machine.scratch.file(
        "root/sys/class/thermal/thermal_zone0/type",
        "x86_pkg_temp\n",
    );
    machine
        .scratch
        .file("root/sys/class/thermal/thermal_zone0/temp", "61500\n");
    for file in [
        "root/proc/pressure/memory",
        "root/sys/fs/cgroup/user.slice/memory.pressure",
    ] {
        let line = "avg10=0.50 avg60=0.10 avg300=0.00 total=1000";
        machine
            .scratch
            .file(file, format!("some {line}\nfull {line}\n"));
    }
    machine
}

fn problem(machine: &Machine) -> String {
    machine.status()["problems"].to_string()
}

fn count(server: &Server, database: &str, series: &str) -> u64 {
    let field = if series == "container" {
        "uptime"
    } else {
        "containers"
    };
    server.number(
        database,
        &format!("SELECT count(\"{field}\") FROM \"{series}\""),
    ) as u64
}

/// Pilots that have ended already, with this class.
fn add_ended(machine: &Machine, class: &str, number: usize) {
    for index in 0..number {
        let labels = [
            (LABEL, "t1"),
            ("io.plancton.class", class),
            ("io.plancton.cpus", "1"),
        ];
        machine.engine.add(
            Some(&format!("plancton-x-{index:06}")),
            "exited",
            10.0,
            &labels,
        );
    }
}

#[test]
fn types_and_a_hundred_ends_at_once() {
    let server = Server::influxdb(false, None);
    let mut machine = machine_with_sensors();
    add_ended(&machine, "x", 100);
    machine.start(&config(&sink(&server, "database = \"new base\"")));
    machine.wait_for("100 ends arrive", || {
        count(&server, "new base", "container") == 100
    });
    // There is no rate of CPU use at the first tick.
    machine.wait_for("every series", || {
        server.number("new base", "SELECT count(cpu_eff) FROM \"measurement\"") > 0.0
    });
    let mut types = BTreeMap::new();
    for series in server.query("new base", "SHOW FIELD KEYS") {
        for value in series["values"].as_array().unwrap() {
            let key = format!(
                "{}.{}",
                series["name"].as_str().unwrap(),
                value[0].as_str().unwrap()
            );
            types.insert(key, value[1].as_str().unwrap().to_owned());
        }
    }
    let mut tags = BTreeSet::new();
    for series in server.query("new base", "SHOW TAG KEYS") {
        for value in series["values"].as_array().unwrap() {
            tags.insert(format!(
                "{}.{}",
                series["name"].as_str().unwrap(),
                value[0].as_str().unwrap()
            ));
        }
    }
    // The lists in the man page, word by word.
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/plancton-metrics.7");
    let page = fs::read_to_string(page).unwrap().replace("\\-", "-");
    let (mut told_types, mut told_tags) = (BTreeMap::new(), BTreeSet::new());
    for part in page.split("\n.SS ").skip(1) {
        let (series, part) = part.split_once('\n').unwrap();
        let part = part.split("\n.SH ").next().unwrap();
        for list in part.split(".TP\n.B ").skip(1) {
            let (kind, keys) = list.split_once('\n').unwrap();
            let names = keys
                .split(", ")
                .filter_map(|key| key.split_whitespace().next())
                .map(|key| format!("{series}.{key}"));
            match kind {
                "tags" => told_tags.extend(names),
                kind => told_types.extend(names.map(|name| (name, kind.to_owned()))),
            }
        }
    }
    assert_eq!(told_tags, tags);
    assert_eq!(told_types, types);
}

/// A user who may only write needs no database to be created, and may not create one.
#[test]
fn users_and_passwords() {
    let server = Server::influxdb(false, Some("admin:gEhEiM"));
    server.query("", "CREATE DATABASE d");
    server.query("", "CREATE USER writer WITH PASSWORD 'good one'");
    server.query("", "GRANT WRITE ON d TO writer");
    let mut machine = Machine::new();
    let file = machine.scratch.file("password", "wrong");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let lines = format!(
        "user = \"writer\"\npassword-file = \"{}\"\ndatabase = \"d\"",
        file.display()
    );
    machine.start(&config(&sink(&server, &lines)));
    machine.wait_for("it is refused", || {
        problem(&machine).contains("status 401: authorization failed")
    });
    let check = |verdict: &str| {
        let said = machine.tell(&["check"]);
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(text.contains(&format!("{verdict} metrics ")), "{text}");
    };
    check("BAD ");
    fs::write(&file, "good one\n").unwrap();
    check("ok  ");
    machine.wait_for("it is taken", || {
        count(&server, "d", "daemon") >= 2 && problem(&machine) == "[]"
    });

    let mut machine = Machine::new();
    let target = server.url().replace("http://", "http://writer:good%20one@") + "#missing";
    machine.start(&config(&format!(
        "[[influxdb]]\nurl = \"{target}\"\nflush = \"1s\"\n"
    )));
    machine.wait_for("it is said", || {
        problem(&machine).contains("can't be created: status 403")
    });
    let mut machine = Machine::new();
    let target = server.url().replace("http://", "http://admin:gEhEiM@") + "#created";
    machine.start(&config(&format!(
        "[[influxdb]]\nurl = \"{target}\"\nflush = \"1s\"\n"
    )));
    machine.wait_for("it is created", || count(&server, "created", "daemon") >= 1);
    assert!(!machine.log().contains("gEhEiM"));
}

#[test]
fn https_with_an_own_certificate_and_without_any_check() {
    let server = Server::influxdb(true, None);
    let own = server.scratch.0.join("server.crt");
    let scratch = Scratch::new();
    let (other, _) = certificate(&scratch, "other");
    let insecure = format!(
        "[[influxdb]]\nurl = \"insecure_{}#d3\"\nflush = \"1s\"\n",
        server.url()
    );
    let sinks = [
        sink(&server, &format!("database = \"d1\"\nca-file = {own:?}")),
        sink(&server, "database = \"d2\"\ninsecure = true"),
        insecure,
        sink(&server, &format!("database = \"d4\"\nca-file = {other:?}")),
        sink(&server, "database = \"d5\""),
    ];
    let mut machine = Machine::new();
    machine.start(&config(&sinks.concat()));
    let errors = || -> Vec<bool> {
        let sinks = machine.status()["sinks"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        sinks.iter().map(|sink| sink["error"].is_string()).collect()
    };
    machine.wait_for("three work and two do not", || {
        errors() == [false, false, false, true, true]
    });
    for database in ["d1", "d2", "d3"] {
        machine.wait_for(database, || count(&server, database, "daemon") >= 1);
    }
    assert!(
        problem(&machine).contains("certificate"),
        "{}",
        problem(&machine)
    );
    let databases = server.query("", "SHOW DATABASES")[0]["values"].to_string();
    assert!(
        !databases.contains("d4") && !databases.contains("d5"),
        "{databases}"
    );
}

/// What the loop did while ten pilots a second ended.
struct Load {
    from: f64,
    to: f64,
    /// CPU of a turn, and the longest gap since the daemon started.
    turn_ms: f64,
    gap_ms: f64,
    resident_kib: f64,
}

fn load(machine: &Machine, seconds: f64) -> Load {
    let number = |key: &str| machine.status()["loop"][key].as_f64().unwrap();
    let (start, from, turns, cpu) = (
        Instant::now(),
        fake_engine::epoch(),
        number("turns"),
        number("cpu_ms"),
    );
    for count in 1.. {
        becomes(Duration::from_secs(5), || {
            start.elapsed().as_secs_f64() >= f64::from(count) / 10.0
        });
        if let Some(id) = machine.engine.in_state("running").first() {
            machine.engine.end(id, 0);
        }
        if f64::from(count) >= 10.0 * seconds {
            break;
        }
    }
    let process = fs::read_to_string(format!("/proc/{}/status", machine.status()["pid"])).unwrap();
    let resident = process
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    Load {
        from,
        to: fake_engine::epoch(),
        turn_ms: (number("cpu_ms") - cpu) / (number("turns") - turns),
        gap_ms: number("longest_gap_ms"),
        resident_kib: resident.trim().trim_end_matches(" kB").parse().unwrap(),
    }
}

/// What is learned while the database is away arrives once it is back, and the loop turns as ever. With the figures of a
/// long outage: `PLANCTON_TEST_OUTAGE=180 tests/run.sh live_metrics`.
#[test]
fn a_database_that_is_away_for_a_while() {
    let outage =
        std::env::var("PLANCTON_TEST_OUTAGE").map_or(15.0, |seconds| seconds.parse().unwrap());
    let mut server = Server::influxdb(false, None);
    let mut machine = Machine::new();
    machine.start(&config(&sink(&server, "database = \"d\"")));
    machine.wait_for("a flush", || count(&server, "d", "daemon") >= 1);
    let before = load(&machine, 10.0);
    server.down();
    let during = load(&machine, outage);
    let problem_then = problem(&machine);
    server.up();
    assert!(problem_then.contains("the points wait"), "{problem_then}");
    let ended = || machine.status()["counts"]["done"].as_u64().unwrap_or(0);
    machine.wait_within(LONG, "all ends", || {
        count(&server, "d", "container") >= ended()
    });
    machine.wait_for("the last ones too", || {
        count(&server, "d", "container") == ended()
    });
    machine.wait_for("well again", || problem(&machine) == "[]");
    // The loop's turns leave a point a second: the longest time between two of them.
    let longest = |load: &Load| {
        let [from, to] = [load.from, load.to].map(|at| (at * 1e3) as u64);
        let points = format!(
            "SELECT elapsed(containers, 1ms) FROM daemon WHERE time >= {from}ms AND time < {to}ms"
        );
        server.number("d", &format!("SELECT max(elapsed) FROM ({points})"))
    };
    let (steps, sink) = (
        [&before, &during].map(longest),
        machine.status()["sinks"][0].clone(),
    );
    println!(
        "{outage} s of outage, {} ends: longest time between ticks {} and then {} ms, longest gap {:.1} and then {:.1} ms, \
         CPU of a turn {:.2} and then {:.2} ms, resident {} and then {} KiB; {} points sent, {} dropped",
        ended(),
        steps[0],
        steps[1],
        before.gap_ms,
        during.gap_ms,
        before.turn_ms,
        during.turn_ms,
        before.resident_kib,
        during.resident_kib,
        sink["sent"],
        sink["dropped"],
    );
    assert!(ended() as f64 > 5.0 * outage, "{} ends", ended());
    assert!(
        steps[0] > 0.0 && steps[1] <= 2.0 * steps[0] + 1_000.0,
        "ticks as ever: {steps:?} ms"
    );
    assert!(
        during.gap_ms < 2_000.0,
        "the loop was away for {} ms",
        during.gap_ms
    );
    assert!(
        during.turn_ms < 2.0 * before.turn_ms + 1.0,
        "a turn took {} ms, now {}",
        before.turn_ms,
        during.turn_ms
    );
    assert!(
        during.resident_kib < before.resident_kib + 3_072.0,
        "{} KiB",
        during.resident_kib
    );
    assert!(
        count(&server, "d", "daemon") as f64 > 0.8 * outage,
        "a point a second, of the outage too"
    );
    assert_eq!(sink["dropped"], 0);
}

#[test]
fn any_name_survives_the_database() {
    let server = Server::influxdb(false, None);
    let names = [
        "a b",
        "a,b",
        "a=b",
        "a\\b",
        "\\,=\\ x",
        "a\\\\b",
        "\"q\" 'p'",
        "ü→𝄞",
        "a\\\"b",
        "\\n",
        "i",
        "1i",
        "#x",
        "{}[]%&?",
        "-",
    ];
    let quote = |name: &str| serde_json::to_string(name).unwrap();
    let sinks = names.map(|name| {
        sink(
            &server,
            &format!("database = \"d\"\nhost-alias = {}", quote(name)),
        )
    });
    let mut machine = Machine::new();
    let labels = names.map(|name| {
        [
            (LABEL, "t1"),
            ("io.plancton.class", name),
            ("io.plancton.cpus", "1"),
        ]
    });
    for (number, labels) in labels.iter().enumerate() {
        machine.engine.add(
            Some(&format!("plancton-x-{number:06}")),
            "exited",
            10.0,
            labels,
        );
    }
    machine.start(&config(&sinks.concat()));
    let found = |key: &str| -> BTreeSet<String> {
        let series = server.query(
            "d",
            &format!("SHOW TAG VALUES FROM container WITH KEY = {key}"),
        );
        let values = series
            .iter()
            .flat_map(|series| series["values"].as_array().unwrap());
        values
            .map(|value| value[1].as_str().unwrap().to_owned())
            .collect()
    };
    let expected = BTreeSet::from(names.map(str::to_owned));
    machine.wait_for("all hosts", || found("hostname").len() >= names.len());
    assert_eq!(found("hostname"), expected);
    machine.wait_for("all classes", || found("class").len() >= names.len());
    assert_eq!(found("class"), expected);
    let all = (names.len() * names.len()) as u64;
    machine.wait_for("all ends by all targets", || {
        count(&server, "d", "container") == all
    });
    assert_eq!(machine.status()["sinks"][0]["errors"], 0);
}

#[test]
fn victoriametrics_by_both_versions() {
    let server = Server::victoriametrics();
    let sinks = [
        sink(&server, "database = \"one\""),
        sink(&server, "bucket = \"two\"\nhost-alias = \"v2\""),
    ]
    .concat();
    let mut machine = machine_with_sensors();
    add_ended(&machine, "x", 20);
    machine.start(&config(&sinks));
    let export = |matching: &str| -> Vec<Value> {
        let text = server.get(&format!("/api/v1/export?match[]={matching}"));
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let values = |series: &[Value]| {
        series
            .iter()
            .map(|one| one["values"].as_array().unwrap().len())
            .sum::<usize>()
    };
    machine.wait_for("the ends, twice", || {
        values(&export("container_uptime")) == 40
    });
    for name in [
        "daemon_containers",
        "measurement_cpu_eff",
        "plancton_host_temperature",
        "plancton_pilots_running",
    ] {
        machine.wait_for(name, || {
            export(name)
                .iter()
                .any(|series| series["metric"]["hostname"] == "v2")
        });
        assert!(
            export(name)
                .iter()
                .any(|series| series["metric"]["hostname"] != "v2"),
            "{name}"
        );
    }
    assert_eq!(export("plancton_host_temperature")[0]["values"][0], 61.5);
    assert_eq!(problem(&machine), "[]");
}

/// The same on the real engine of the build machine.
#[test]
fn a_real_engine_and_a_real_database() {
    let server = Server::influxdb(false, None);
    let short = common::pilot(
        "short",
        &["sleep", "1"],
        "stop-grace = \"1s\"\nmin-runtime = \"0s\"",
    );
    let config = common::config("1s", 2, &short) + &sink(&server, "database = \"d\"");
    let mut instance = Instance::running(&config);
    let told = |status: &Value| status["counts"]["done"].as_u64().unwrap_or(0);
    instance.wait_status("some are done", LONG, |status| told(status) >= 4);
    instance.say(&["drain"]).must(0, &[]);
    instance.wait_containers("all are gone", LONG, <[_]>::is_empty);
    let status = instance.wait_status("all are known", LONG, |status| {
        told(status) == status["counts"]["launches"]
    });
    assert_eq!(instance.end(), 0);
    // The last flush is that of the end.
    let sum = |field: &str, series: &str| {
        server.number("d", &format!("SELECT {field} FROM \"{series}\""))
    };
    assert_eq!(sum("count(\"uptime\")", "container") as u64, told(&status));
    assert!(sum("min(\"uptime\")", "container") > 0.9);
    let busy = sum("max(\"cpu_eff\")", "measurement");
    assert!(busy > 0.0 && busy <= 100.5, "{busy} % busy");
    assert!(sum("last(\"calls\")", "plancton_engine") > 10.0);
    assert!(sum("max(\"memory_available\")", "plancton_host") > 1e8);
}

/// Every query of the shipped dashboards, on what a daemon told in a few seconds.
#[test]
fn every_query_of_the_dashboards_has_rows() {
    let server = Server::influxdb(false, None);
    let mut machine = machine_with_sensors();
    machine.start(&config(&sink(&server, "database = \"d\"")));
    machine.wait_for_pilots(3);
    for exit_code in [0, 3] {
        machine
            .engine
            .end(&machine.engine.in_state("running")[0], exit_code);
        machine.wait_for_pilots(3);
    }
    // A rate wants some steps.
    machine.wait_for("some flushes", || {
        count(&server, "d", "daemon") >= 8 && count(&server, "d", "container") >= 2
    });
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/grafana/dashboards");
    let mut queries = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let board: Value =
            serde_json::from_slice(&fs::read(entry.unwrap().path()).unwrap()).unwrap();
        let panels = board["panels"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|panel| panel["type"] != "row");
        for panel in panels {
            let targets = panel["targets"].as_array().unwrap();
            assert!(!targets.is_empty(), "{panel}");
            queries.extend(
                targets
                    .iter()
                    .map(|target| target["query"].as_str().unwrap().to_owned()),
            );
        }
        let variables = board["templating"]["list"].as_array().unwrap();
        queries.extend(
            variables
                .iter()
                .filter(|one| one["type"] == "query")
                .map(|one| one["query"].as_str().unwrap().to_owned()),
        );
    }
    assert!(queries.len() > 30, "{}", queries.len());
    let host = server.query(
        "d",
        "SHOW TAG VALUES FROM \"daemon\" WITH KEY = \"hostname\"",
    )[0]["values"][0][1]
        .clone();
    for query in queries {
        assert!(
            query.starts_with("SHOW")
                || query.contains("$timeFilter") && query.contains("/^$host$/"),
            "{query}"
        );
        let query = query
            .replace("$timeFilter", "time > now() - 10m")
            .replace("$__interval", "1s");
        let query = query.replace("$host", host.as_str().unwrap());
        assert!(!query.contains("$__"), "{query}");
        let series = server.query("d", &query);
        let rows = series
            .iter()
            .map(|series| series["values"].as_array().unwrap().len())
            .sum::<usize>();
        assert!(rows > 0, "no rows: {query}");
    }
}
