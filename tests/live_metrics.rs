//! The real binary and real servers: InfluxDB 1.x and VictoriaMetrics, started here on the loopback. Most of it runs on a
//! made-up machine, which has the battery and the sensors that the build machine lacks.
// needs: influxdb victoriametrics
// threads: 4
#![allow(clippy::restriction, clippy::pedantic, clippy::disallowed_methods)]

mod common;

use common::influx::{Server, certificate};
use common::*;

fn config(targets: &str) -> String {
    made_up(3, "", &format!("[owner]\non-battery = \"run\"\n{targets}"))
}

fn target(server: &Server, lines: &str) -> String {
    let url = server.url();
    format!("[[influxdb]]\nurl = \"{url}\"\nflush = \"1s\"\n{lines}\n")
}

/// A target in that database, which is made.
fn in_database(server: &Server, name: &str) -> String {
    server.query("", &format!("CREATE DATABASE \"{name}\""));
    target(server, &format!("database = \"{name}\""))
}

fn with_login(server: &Server, login: &str, database: &str) -> String {
    let url = server.url().replace("http://", &format!("http://{login}@"));
    format!("[[influxdb]]\nurl = \"{url}#{database}\"\nflush = \"1s\"\n")
}

fn running(targets: &str) -> Machine {
    let mut machine = machine_with_sensors();
    machine.start(&config(targets));
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
    let is_end = series == "container";
    let field = if is_end { "uptime" } else { "containers" };
    let query = format!("SELECT count(\"{field}\") FROM \"{series}\"");
    server.number(database, &query) as u64
}

/// Pilots of these classes that have ended already.
fn add_ended<'a>(machine: &Machine, classes: impl IntoIterator<Item = &'a str>) {
    for (number, class) in classes.into_iter().enumerate() {
        let name = format!("plancton-x-{number:06}");
        machine.engine.add_own(&name, "exited", 10.0, class);
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// All rows of all series, each with the name of its series.
fn rows(server: &Server, database: &str, query: &str) -> Vec<(String, Value)> {
    let series = server.query(database, query);
    let rows = series.iter().flat_map(|series| {
        let rows = members(&series["values"]).iter().cloned();
        rows.map(|row| (text(&series["name"]), row))
    });
    rows.collect()
}

/// `series.key`, and what is in the second column.
fn keys(server: &Server, database: &str, query: &str) -> BTreeMap<String, String> {
    let rows = rows(server, database, query).into_iter();
    let key = |(name, row): (String, Value)| (format!("{name}.{}", text(&row[0])), text(&row[1]));
    rows.map(key).collect()
}

#[test]
fn types_and_a_hundred_ends_at_once() {
    let server = Server::influxdb(false, "");
    let mut machine = machine_with_sensors();
    add_ended(&machine, ["x"; 100]);
    machine.start(&config(&in_database(&server, "new base")));
    machine.until(|| count(&server, "new base", "container") == 100);
    // There is no rate of CPU use at the first tick.
    let rates = "SELECT count(cpu_eff) FROM \"measurement\"";
    machine.until(|| server.number("new base", rates) > 0.0);
    // The lists in the man page, word by word.
    let page = read(in_house("packaging/plancton-metrics.7")).replace("\\-", "-");
    let (mut told_types, mut told_tags) = (BTreeMap::new(), BTreeSet::new());
    for part in page.split("\n.SS ").skip(1) {
        let (series, part) = part.split_once('\n').unwrap();
        let part = part.split("\n.SH ").next().unwrap();
        for list in part.split(".TP\n.B ").skip(1) {
            let (kind, keys) = list.split_once('\n').unwrap();
            let name = |key: &str| format!("{series}.{}", key.split_whitespace().next().unwrap());
            let names = keys.split(", ").map(name);
            match kind {
                "tags" => told_tags.extend(names),
                kind => told_types.extend(names.map(|name| (name, kind.to_owned()))),
            }
        }
    }
    let tags = keys(&server, "new base", "SHOW TAG KEYS").into_keys();
    assert_eq!(told_tags, tags.collect());
    assert_eq!(told_types, keys(&server, "new base", "SHOW FIELD KEYS"));
}

#[test]
fn users_and_passwords() {
    let server = Server::influxdb(false, "admin:gEhEiM");
    server.query("", "CREATE DATABASE d");
    server.query("", "CREATE USER writer WITH PASSWORD 'good one'");
    server.query("", "GRANT WRITE ON d TO writer");
    let mut machine = Machine::new();
    let file = machine.file("password", "wrong");
    set_mode(&file, 0o600);
    let login = format!("user = \"writer\"\npassword-file = {file:?}\ndatabase = \"d\"");
    machine.start(&config(&target(&server, &login)));
    machine.wait_problem("401");
    assert!(machine.say("check").out.contains("BAD  metrics "));
    fs::write(&file, "good one\n").unwrap();
    assert!(machine.say("check").out.contains("ok   metrics "));
    machine.until(|| count(&server, "d", "daemon") >= 2);
    machine.wait_well();
    running(&with_login(&server, "writer:good%20one", "missing")).wait_problem("404");
    server.query("", "CREATE DATABASE created");
    let machine = running(&with_login(&server, "admin:gEhEiM", "created"));
    machine.until(|| count(&server, "created", "daemon") >= 1);
    assert!(!machine.log().contains("gEhEiM"));
}

#[test]
fn https_with_an_own_certificate_and_without_any_check() {
    let server = Server::influxdb(true, "");
    let own = server.scratch.0.join("server.crt");
    let scratch = Scratch::new();
    certificate(&scratch, "other");
    let other = scratch.0.join("other.crt");
    let targets = [
        in_database(&server, "d1") + &format!("ca-file = {own:?}\n"),
        in_database(&server, "d2") + "insecure = true\n",
        in_database(&server, "d3").replace("https:", "insecure_https:"),
        in_database(&server, "d4") + &format!("ca-file = {other:?}\n"),
        in_database(&server, "d5"),
    ];
    let machine = running(&targets.concat());
    let refused = [false, false, false, true, true];
    machine.wait_status(|status| {
        let targets = members(&status["sinks"]).iter();
        let is_refused = targets.map(|target| target["error"].is_string());
        is_refused.eq(refused)
    });
    for database in ["d1", "d2", "d3"] {
        machine.until(|| count(&server, database, "daemon") >= 1);
    }
    machine.wait_problem("certificate");
    for database in ["d4", "d5"] {
        assert_eq!(count(&server, database, "daemon"), 0);
    }
}

/// What is learned while the database is away arrives once it is back, and the loop turns as ever.
#[test]
fn a_database_that_is_away_for_a_while() {
    let mut server = Server::influxdb(false, "");
    let machine = running(&in_database(&server, "d"));
    machine.until(|| count(&server, "d", "daemon") >= 1);
    machine.wait_for_pilots(3);
    server.down();
    let start = epoch();
    while epoch() - start < 15.0 {
        let pilots = machine.pilots();
        machine.engine.ends(&pilots[..pilots.len().min(1)], 0);
        std::thread::sleep(seconds(0.1));
    }
    machine.wait_problem("the points wait");
    machine.assert_no_gap();
    server.up();
    machine.until(|| {
        let arrived = count(&server, "d", "container");
        arrived >= 20 && arrived == machine.count("done")
    });
    machine.wait_well();
    // A point a tick, of the outage too.
    let since = start as u64;
    let points = format!("SELECT count(containers) FROM daemon WHERE time >= {since}s");
    assert!(server.number("d", &points) >= 8.0);
    assert_eq!(machine.status()["sinks"][0]["dropped"], 0);
}

#[test]
fn any_name_survives_the_database() {
    let server = Server::influxdb(false, "");
    const NAMES: &str = r#"a b|a,b|a=b|a\b|\,=\ x|a\\b|"q" 'p'|ü→𝄞|a\"b|\n|i|1i|#x|{}[]%&?|-"#;
    let names: Vec<&str> = NAMES.split('|').collect();
    let alias = |name: &&str| {
        let alias = json!(name);
        in_database(&server, "d") + &format!("host-alias = {alias}\n")
    };
    let mut machine = Machine::new();
    add_ended(&machine, names.iter().copied());
    machine.start(&config(&names.iter().map(alias).collect::<String>()));
    let expected: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    for key in ["hostname", "class"] {
        let query = format!("SHOW TAG VALUES FROM container WITH KEY = {key}");
        let found = || -> BTreeSet<String> {
            let rows = rows(&server, "d", &query).into_iter();
            rows.map(|(_, row)| text(&row[1])).collect()
        };
        machine.until(|| found().len() >= names.len());
        assert_eq!(found(), expected);
    }
    let all = (names.len() * names.len()) as u64;
    machine.until(|| count(&server, "d", "container") == all);
    assert_eq!(machine.status()["sinks"][0]["errors"], 0);
}

#[test]
fn victoriametrics_by_both_versions() {
    let server = Server::victoriametrics();
    let second = target(&server, "bucket = \"two\"\nhost-alias = \"v2\"");
    let targets = target(&server, "database = \"one\"") + &second;
    let mut machine = machine_with_sensors();
    add_ended(&machine, ["x"; 20]);
    machine.start(&config(&targets));
    let export = |series: &str| -> Vec<Value> {
        let text = server.get(&format!("/api/v1/export?match[]={series}"));
        let lines = text.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().unwrap()
    };
    let number = |series: &Value| members(&series["values"]).len();
    machine.until(|| export("container_uptime").iter().map(number).sum::<usize>() == 40);
    let names =
        "daemon_containers measurement_cpu_eff plancton_host_temperature plancton_pilots_running";
    for name in names.split(' ') {
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
    let server = Server::influxdb(false, "");
    let short = shell("short", "sleep 1", "min-runtime = \"0s\"");
    let text = engine::config("1s", 2, &short) + &in_database(&server, "d");
    let mut instance = Instance::running(&text);
    instance.wait_count("done", 4);
    instance.done("drain");
    instance.wait_none();
    let counts = |status: &Value| status["counts"].clone();
    let are_told = |status: &Value| counts(status)["done"] == counts(status)["launches"];
    let done = counts(&instance.wait_status(are_told))["done"].as_u64();
    assert_eq!(instance.end(), 0);
    // The last flush is that of the end.
    assert_eq!(Some(count(&server, "d", "container")), done);
    let number = |what: &str| server.number("d", &format!("SELECT {what}"));
    assert!(number("min(uptime) FROM container") > 0.9);
    let busy = number("max(cpu_eff) FROM \"measurement\"");
    assert!((0.0..=100.5).contains(&busy), "{busy} % busy");
    assert!(number("last(calls) FROM plancton_engine") > 10.0);
    assert!(number("max(memory_available) FROM plancton_host") > 1e8);
}

/// Every query of the shipped dashboards, on what a daemon told in a few seconds.
#[test]
fn every_query_of_the_dashboards_has_rows() {
    let server = Server::influxdb(false, "");
    let machine = running(&in_database(&server, "d"));
    for exit_code in [0, 3] {
        machine.wait_for_pilots(3);
        machine.end_one(exit_code);
    }
    // A rate wants some steps.
    machine.until(|| count(&server, "d", "daemon") >= 8 && count(&server, "d", "container") >= 2);
    let mut queries = Vec::new();
    for entry in fs::read_dir(in_house("packaging/grafana/dashboards")).unwrap() {
        let board: Value = serde_json::from_str(&read(entry.unwrap().path())).unwrap();
        let panels = members(&board["panels"]).iter();
        let targets = panels.flat_map(|panel| members(&panel["targets"]));
        let variables = members(&board["templating"]["list"]).iter();
        let all = targets.chain(variables.filter(|one| one["type"] == "query"));
        queries.extend(all.map(|one| text(&one["query"])));
    }
    assert!(queries.len() > 30, "{}", queries.len());
    let hosts = "SHOW TAG VALUES FROM daemon WITH KEY = hostname";
    let hosts = rows(&server, "d", hosts);
    let host = text(&hosts[0].1[1]);
    for query in queries {
        let is_bounded = query.contains("$timeFilter") && query.contains("/^$host$/");
        assert!(query.starts_with("SHOW") || is_bounded, "{query}");
        let query = query.replace("$timeFilter", "time > now() - 10m");
        let query = query.replace("$__interval", "1s").replace("$host", &host);
        assert!(!rows(&server, "d", &query).is_empty(), "no rows: {query}");
    }
}
