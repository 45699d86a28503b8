//! The real binary and real servers: InfluxDB 1.x and VictoriaMetrics, started here on the loopback. Most of it runs on a
//! made-up machine, which has the battery and the sensors that the build machine lacks.
// needs: influxdb victoriametrics
// threads: 4
#![allow(clippy::restriction, clippy::pedantic, clippy::disallowed_methods)]

mod common;

use common::influx::{Server, certificate};
use common::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn made_up(targets: &str) -> String {
    format!(
        "[loop]\ninterval = \"1s\"\n[share]\nreserve-cpus = 0\nreserve-disk = \"1MiB\"\nmax-pilots = 3\n\
         [owner]\non-battery = \"run\"\n\
         [[pilot]]\nname = \"p\"\nimage = \"fake:1\"\nmin-runtime = \"0s\"\nmemory = \"64MiB\"\n{targets}"
    )
}

fn target(server: &Server, lines: &str) -> String {
    format!(
        "[[influxdb]]\nurl = \"{}\"\nflush = \"1s\"\n{lines}\n",
        server.url()
    )
}

fn with_login(server: &Server, login: &str, database: &str) -> String {
    let url = server.url().replace("http://", &format!("http://{login}@"));
    format!("[[influxdb]]\nurl = \"{url}#{database}\"\nflush = \"1s\"\n")
}

fn running(targets: &str) -> Machine {
    let mut machine = machine_with_sensors();
    machine.start(&made_up(targets));
    machine
}

/// A machine with all that can be measured.
fn machine_with_sensors() -> Machine {
    let machine = Machine::new();
    let pressure = "some avg10=0.50 avg60=0.10 avg300=0.00 total=1000\n";
    for (file, text) in [
        ("class/power_supply/BAT0/type", "Battery"),
        ("class/power_supply/BAT0/status", "Full"),
        ("class/power_supply/BAT0/present", "1"),
        ("class/power_supply/BAT0/capacity", "80"),
        ("class/thermal/thermal_zone0/type", "x86_pkg_temp\n"),
        ("class/thermal/thermal_zone0/temp", "61500\n"),
        ("fs/cgroup/user.slice/memory.pressure", pressure),
        ("../proc/pressure/memory", pressure),
    ] {
        machine.file(&format!("root/sys/{file}"), text);
    }
    machine
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

/// Pilots of these classes that have ended already.
fn add_ended<'a>(machine: &Machine, classes: impl IntoIterator<Item = &'a str>) {
    for (number, class) in classes.into_iter().enumerate() {
        let labels = [
            (LABEL, "t1"),
            ("io.plancton.class", class),
            ("io.plancton.cpus", "1"),
        ];
        machine.engine.add(
            Some(&format!("plancton-x-{number:06}")),
            "exited",
            10.0,
            &labels,
        );
    }
}

/// `series.key`, and what is in the second column.
fn keys(server: &Server, database: &str, query: &str) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let series = server.query(database, query);
    let rows = series.iter().flat_map(|series| {
        let name = text(&series["name"]);
        let rows = series["values"].as_array().unwrap().iter();
        rows.map(move |row| (format!("{name}.{}", text(&row[0])), text(&row[1])))
    });
    rows.collect()
}

#[test]
fn types_and_a_hundred_ends_at_once() {
    let server = Server::influxdb(false, None);
    let mut machine = machine_with_sensors();
    add_ended(&machine, ["x"; 100]);
    machine.start(&made_up(&target(&server, "database = \"new base\"")));
    machine.until(|| count(&server, "new base", "container") == 100);
    // There is no rate of CPU use at the first tick.
    machine.until(|| server.number("new base", "SELECT count(cpu_eff) FROM \"measurement\"") > 0.0);
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
                .filter_map(|key| key.split_whitespace().next());
            let names = names.map(|key| format!("{series}.{key}"));
            match kind {
                "tags" => told_tags.extend(names),
                kind => told_types.extend(names.map(|name| (name, kind.to_owned()))),
            }
        }
    }
    assert_eq!(
        told_tags,
        keys(&server, "new base", "SHOW TAG KEYS")
            .into_keys()
            .collect()
    );
    assert_eq!(told_types, keys(&server, "new base", "SHOW FIELD KEYS"));
}

/// A user who may only write needs no database to be created, and may not create one.
#[test]
fn users_and_passwords() {
    let server = Server::influxdb(false, Some("admin:gEhEiM"));
    for query in [
        "CREATE DATABASE d",
        "CREATE USER writer WITH PASSWORD 'good one'",
        "GRANT WRITE ON d TO writer",
    ] {
        server.query("", query);
    }
    let mut machine = Machine::new();
    let file = machine.file("password", "wrong");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let login = format!("user = \"writer\"\npassword-file = {file:?}\ndatabase = \"d\"");
    machine.start(&made_up(&target(&server, &login)));
    machine.wait_problem("401");
    assert!(machine.say(&["check"]).out.contains("BAD  metrics "));
    fs::write(&file, "good one\n").unwrap();
    assert!(machine.say(&["check"]).out.contains("ok   metrics "));
    machine.until(|| count(&server, "d", "daemon") >= 2);
    machine.wait_well();
    running(&with_login(&server, "writer:good%20one", "missing")).wait_problem("403");
    let machine = running(&with_login(&server, "admin:gEhEiM", "created"));
    machine.until(|| count(&server, "created", "daemon") >= 1);
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
    let targets = [
        target(&server, &format!("database = \"d1\"\nca-file = {own:?}")),
        target(&server, "database = \"d2\"\ninsecure = true"),
        insecure,
        target(&server, &format!("database = \"d4\"\nca-file = {other:?}")),
        target(&server, "database = \"d5\""),
    ];
    let machine = running(&targets.concat());
    let is_error = |status: &Value, number: usize| status["sinks"][number]["error"].is_string();
    machine.wait_status(|status| {
        [0, 1, 2, 3, 4].map(|n| is_error(status, n)) == [false, false, false, true, true]
    });
    for database in ["d1", "d2", "d3"] {
        machine.until(|| count(&server, database, "daemon") >= 1);
    }
    machine.wait_problem("certificate");
    let databases = server.query("", "SHOW DATABASES")[0]["values"].to_string();
    assert!(
        !databases.contains("d4") && !databases.contains("d5"),
        "{databases}"
    );
}

/// What is learned while the database is away arrives once it is back, and the loop turns as ever.
#[test]
fn a_database_that_is_away_for_a_while() {
    let mut server = Server::influxdb(false, None);
    let machine = running(&target(&server, "database = \"d\""));
    machine.until(|| count(&server, "d", "daemon") >= 1);
    machine.wait_for_pilots(3);
    server.down();
    let start = epoch();
    while epoch() - start < 15.0 {
        machine
            .engine
            .ends(&machine.pilots()[..1.min(machine.pilots().len())], 0);
        std::thread::sleep(seconds(0.1));
    }
    machine.wait_problem("the points wait");
    let gap = machine.status()["loop"]["longest_gap_ms"].as_f64().unwrap();
    assert!(gap < 2_000.0, "the loop was away for {gap} ms");
    server.up();
    machine.until(|| {
        count(&server, "d", "container") >= 20
            && count(&server, "d", "container") == machine.count("done")
    });
    machine.wait_well();
    // A point a tick, of the outage too.
    let points = format!(
        "SELECT count(containers) FROM daemon WHERE time >= {}s",
        start as u64
    );
    assert!(server.number("d", &points) >= 8.0);
    assert_eq!(machine.status()["sinks"][0]["dropped"], 0);
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
    let alias = |name: &str| {
        target(
            &server,
            &format!("database = \"d\"\nhost-alias = {}", json!(name)),
        )
    };
    let mut machine = Machine::new();
    add_ended(&machine, names);
    machine.start(&made_up(&names.map(alias).concat()));
    let expected = BTreeSet::from(names.map(str::to_owned));
    for key in ["hostname", "class"] {
        let query = format!("SHOW TAG VALUES FROM container WITH KEY = {key}");
        let found = || -> BTreeSet<String> {
            let series = server.query("d", &query);
            let rows = series
                .iter()
                .flat_map(|series| series["values"].as_array().unwrap());
            rows.map(|row| row[1].as_str().unwrap().to_owned())
                .collect()
        };
        machine.until(|| found().len() >= names.len());
        assert_eq!(found(), expected);
    }
    machine.until(|| count(&server, "d", "container") == (names.len() * names.len()) as u64);
    assert_eq!(machine.status()["sinks"][0]["errors"], 0);
}

#[test]
fn victoriametrics_by_both_versions() {
    let server = Server::victoriametrics();
    let targets = target(&server, "database = \"one\"")
        + &target(&server, "bucket = \"two\"\nhost-alias = \"v2\"");
    let mut machine = machine_with_sensors();
    add_ended(&machine, ["x"; 20]);
    machine.start(&made_up(&targets));
    let export = |series: &str| -> Vec<Value> {
        let text = server.get(&format!("/api/v1/export?match[]={series}"));
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let number = |series: &Value| series["values"].as_array().unwrap().len();
    machine.until(|| export("container_uptime").iter().map(number).sum::<usize>() == 40);
    for name in [
        "daemon_containers",
        "measurement_cpu_eff",
        "plancton_host_temperature",
        "plancton_pilots_running",
    ] {
        let is_v2 = |series: &Value| series["metric"]["hostname"] == "v2";
        machine.until(|| {
            let series = export(name);
            series.iter().any(is_v2) && !series.iter().all(is_v2)
        });
    }
    assert_eq!(export("plancton_host_temperature")[0]["values"][0], 61.5);
    assert_eq!(machine.problems(), "[]");
}

/// The same on the real engine of the build machine.
#[test]
fn a_real_engine_and_a_real_database() {
    let server = Server::influxdb(false, None);
    let short = shell("short", "sleep 1", "min-runtime = \"0s\"");
    let mut instance =
        Instance::running(&(config("1s", 2, &short) + &target(&server, "database = \"d\"")));
    instance.wait_count("done", 4);
    instance.say(&["drain"]).must(0, &[]);
    instance.wait_none();
    let status =
        instance.wait_status(|status| status["counts"]["done"] == status["counts"]["launches"]);
    assert_eq!(instance.end(), 0);
    // The last flush is that of the end.
    let sum = |field: &str, series: &str| {
        server.number("d", &format!("SELECT {field} FROM \"{series}\""))
    };
    assert_eq!(
        Some(count(&server, "d", "container")),
        status["counts"]["done"].as_u64()
    );
    assert!(sum("min(\"uptime\")", "container") > 0.9);
    let busy = sum("max(\"cpu_eff\")", "measurement");
    assert!((0.0..=100.5).contains(&busy), "{busy} % busy");
    assert!(sum("last(\"calls\")", "plancton_engine") > 10.0);
    assert!(sum("max(\"memory_available\")", "plancton_host") > 1e8);
}

/// Every query of the shipped dashboards, on what a daemon told in a few seconds.
#[test]
fn every_query_of_the_dashboards_has_rows() {
    let server = Server::influxdb(false, None);
    let machine = running(&target(&server, "database = \"d\""));
    for exit_code in [0, 3] {
        machine.wait_for_pilots(3);
        machine.end_one(exit_code);
    }
    // A rate wants some steps.
    machine.until(|| count(&server, "d", "daemon") >= 8 && count(&server, "d", "container") >= 2);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/grafana/dashboards");
    let mut queries = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let board: Value =
            serde_json::from_slice(&fs::read(entry.unwrap().path()).unwrap()).unwrap();
        let panels = board["panels"].as_array().unwrap().iter();
        let targets = panels
            .filter_map(|panel| panel["targets"].as_array())
            .flatten();
        let variables = board["templating"]["list"].as_array().unwrap().iter();
        let all = targets.chain(variables.filter(|one| one["type"] == "query"));
        queries.extend(all.map(|one| one["query"].as_str().unwrap().to_owned()));
    }
    assert!(queries.len() > 30, "{}", queries.len());
    let hosts = server.query(
        "d",
        "SHOW TAG VALUES FROM \"daemon\" WITH KEY = \"hostname\"",
    );
    let host = hosts[0]["values"][0][1].as_str().unwrap();
    for query in queries {
        let is_bounded = query.contains("$timeFilter") && query.contains("/^$host$/");
        assert!(query.starts_with("SHOW") || is_bounded, "{query}");
        let query = query
            .replace("$timeFilter", "time > now() - 10m")
            .replace("$__interval", "1s");
        let series = server.query("d", &query.replace("$host", host));
        assert!(
            series
                .iter()
                .any(|series| !series["values"].as_array().unwrap().is_empty()),
            "no rows: {query}"
        );
    }
}
