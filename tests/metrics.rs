//! The real binary and metrics targets that do everything wrong: what is sent, byte by byte, what becomes of it by the
//! server's answer, and that the loop never notices.
// threads: 16
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used
)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, dead_code)]

#[path = "common/fake_engine.rs"]
mod fake_engine;
#[path = "common/fake_influx.rs"]
mod fake_influx;
#[path = "common/machine.rs"]
mod machine;

use fake_influx::{FakeInflux, Reply, Request, TAKEN};
use machine::{Machine, PATIENCE, at_once, becomes};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Three pilots, and the lines of one target.
fn config(sink: &str) -> String {
    format!(
        "[loop]\ninterval = \"1s\"\n[share]\nreserve-cpus = 0\nreserve-disk = \"1MiB\"\nmax-pilots = 3\n\
         [[pilot]]\nname = \"p\"\nimage = \"fake:1\"\nmin-runtime = \"0s\"\nmemory = \"64MiB\"\n{}",
        table(sink)
    )
}

fn table(sink: &str) -> String {
    format!("[[influxdb]]\nflush = \"1s\"\nhost-alias = \"h, 1\"\n{sink}\n")
}

fn version_1(server: &FakeInflux) -> String {
    format!("url = \"{}\"\ndatabase = \"d\"", server.url())
}

/// A running machine whose three pilots run.
fn running(sink: &str) -> Machine {
    let mut machine = Machine::new();
    machine.start(&config(sink));
    machine.wait_for_pilots(3);
    machine
}

/// Ends one pilot, and waits until it is learned of.
fn end_one(machine: &Machine, exit_code: i64) {
    let before = gone(machine);
    machine
        .engine
        .end(&machine.engine.in_state("running")[0], exit_code);
    machine.wait_for("its end is known", || gone(machine) > before);
}

fn gone(machine: &Machine) -> u64 {
    let counts = machine.status()["counts"].clone();
    ["done", "failed"]
        .iter()
        .filter_map(|kind| counts[kind].as_u64())
        .sum()
}

fn sink(machine: &Machine, key: &str) -> u64 {
    machine.status()["sinks"][0][key].as_u64().unwrap_or(0)
}

fn problem(machine: &Machine) -> String {
    machine.status()["problems"].to_string()
}

#[test]
fn version_2_byte_by_byte() {
    let server = FakeInflux::new();
    let lines = "org = \"my org\"\nbucket = \"b&c\"\ntoken = \"geheim\"";
    let machine = running(&format!("url = \"{}/path/\"\n{lines}", server.url()));
    end_one(&machine, 3);
    machine.wait_for("the end arrives", || server.lines("container").len() == 1);
    for request in server.requests() {
        assert_eq!(
            request.line,
            "POST /path/api/v2/write?org=my%20org&bucket=b%26c&precision=ns"
        );
        assert_eq!(request.header("authorization"), Some("Token geheim"));
        assert_eq!(
            request.header("content-type"),
            Some("text/plain; charset=utf-8")
        );
        assert_eq!(request.header("host"), Some(server.host().as_str()));
        assert!(request.body.ends_with('\n') && !request.body.contains("\n\n"));
    }
    let gone = machine.status()["gone"][0].clone();
    let nanos = (gone["at"].as_f64().unwrap() * 1e6) as u64 * 1000;
    let expected = format!(
        "container,class=p,hostname=h\\,\\ 1,instance=t1,killed=False,kind=failed,started=True \
         uptime={},name=\"{}\",exit_code=3i {nanos}",
        gone["lived"].as_f64().unwrap(),
        gone["name"].as_str().unwrap()
    );
    assert_eq!(server.lines("container"), [expected]);
    let series = [
        "daemon",
        "measurement",
        "plancton_host",
        "plancton_pilots",
        "plancton_decision",
        "plancton_engine",
        "plancton_sink",
    ];
    machine.wait_for("every series", || {
        series.iter().all(|series| !server.lines(series).is_empty())
    });
    for series in series {
        let head = if series == "plancton_decision" {
            "plancton_decision,code="
        } else {
            &format!("{series},")
        };
        for line in server.lines(series) {
            assert!(
                line.starts_with(head) && line.contains("hostname=h\\,\\ 1,instance=t1"),
                "{line}"
            );
            let at: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
            assert!(at > 1_600_000_000_000_000_000, "nanoseconds: {line}");
        }
    }
}

#[test]
fn version_1_with_password_from_url_or_file() {
    let server = FakeInflux::new();
    let url = format!(
        "url = \"http://us%65r:ge:heim@{}#d b\"\nretention-policy = \"r\"",
        server.host()
    );
    let machine = running(&url);
    machine.wait_for("a write", || server.writes() > 0);
    let request = server.requests()[0].clone();
    assert_eq!(request.line, "POST /write?db=d%20b&rp=r&precision=ns");
    assert_eq!(
        request.header("authorization"),
        Some("Basic dXNlcjpnZTpoZWlt")
    );

    let server = FakeInflux::new();
    let mut machine = Machine::new();
    let file = machine.scratch.file("password", "geheim\n");
    let allow = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    allow(0o644);
    machine.start(&config(&format!(
        "{}\nuser = \"u\"\npassword-file = \"{}\"",
        version_1(&server),
        file.display()
    )));
    machine.wait_for("it is refused", || {
        problem(&machine).contains("run chmod o= ")
    });
    assert_eq!(server.writes(), 0);
    allow(0o640);
    machine.wait_for("it is taken", || server.writes() > 0);
    assert_eq!(
        server.requests()[0].header("authorization"),
        Some("Basic dTpnZWhlaW0=")
    );
    machine.wait_for("well again", || problem(&machine) == "[]");
}

/// Failures after which everything arrives all the same.
#[test]
fn what_is_kept_arrives() {
    let cases: [(&str, Reply); 11] = [
        (
            "unauthorized",
            Some((401, "", "{\"error\":\"authorization failed\"}")),
        ),
        ("forbidden", Some((403, "", ""))),
        (
            "no bucket",
            Some((
                404,
                "",
                "{\"code\":\"not found\",\"message\":\"bucket not found\"}",
            )),
        ),
        ("busy", Some((429, "Retry-After: 1\r\n", ""))),
        ("broken", Some((500, "", "oops"))),
        (
            "unavailable",
            Some((503, "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n", "")),
        ),
        (
            "moved",
            Some((302, "Location: http://127.0.0.1:1/\r\n", "")),
        ),
        // A bucket under a path too many, a hotspot, a server that speaks https there, and whatever is no answer at all.
        ("index", Some((200, "", "{\"write\": \"/api/v2/write\"}"))),
        ("hotspot", Some((200, "", "<html>Please accept</html>"))),
        (
            "https",
            Some((400, "", "Client sent an HTTP request to an HTTPS server.\n")),
        ),
        ("teapot", Some((418, "", ""))),
    ];
    at_once(cases, |(name, reply)| {
        let server = FakeInflux::new();
        server.answer(move |_| reply);
        let machine = running(&format!("url = \"{}\"\nbucket = \"b\"", server.url()));
        for exit_code in [0, 3, 0] {
            end_one(&machine, exit_code);
        }
        machine.wait_for("it is told", || {
            problem(&machine).contains("the points wait")
        });
        machine.wait_for("twice tried", || server.writes() >= 2);
        server.answer(|_| TAKEN);
        machine.wait_for("all of them", || server.lines("container").len() == 3);
        machine.wait_for("well again", || {
            problem(&machine) == "[]" && sink(&machine, "sent") > 3
        });
        assert_eq!(sink(&machine, "dropped"), 0, "{name}");
        assert_eq!(
            server
                .lines("container")
                .iter()
                .collect::<BTreeSet<_>>()
                .len(),
            3,
            "{name}"
        );
    });
}

#[test]
fn retry_after_is_waited_for() {
    let server = FakeInflux::new();
    server.answer(|_| Some((429, "Retry-After: 4\r\n", "")));
    let machine = running(&version_1(&server));
    machine.wait_for("a first try", || server.writes() == 1);
    server.answer(|_| TAKEN);
    machine.wait_for("a second one", || server.writes() >= 2);
    let requests = server.requests();
    let waited = requests[1].at - requests[0].at;
    assert!(waited >= Duration::from_secs(4), "{waited:?}");
}

#[test]
fn a_poison_line_blocks_nothing() {
    let server = FakeInflux::new();
    let mut refused = 0;
    server.answer(move |_| {
        refused += 1;
        let why = "{\"error\":\"partial write: field type conflict dropped=2\"}";
        if refused <= 2 {
            Some((400, "", why))
        } else {
            TAKEN
        }
    });
    let machine = running(&version_1(&server));
    machine.wait_for("it goes on", || server.lines("daemon").len() >= 2);
    machine.wait_for("it is counted", || {
        sink(&machine, "errors") == 2 && sink(&machine, "sent") > 0
    });
    assert_eq!(sink(&machine, "dropped"), 4);
    let requests = server.requests();
    let bodies = requests.iter().flat_map(|request| request.body.lines());
    let all: Vec<&str> = bodies.collect();
    let distinct: BTreeSet<&&str> = all.iter().collect();
    assert_eq!(all.len(), distinct.len(), "nothing is sent twice");
}

/// A server that takes a batch only as a whole, and never one series.
#[test]
fn a_refused_series_costs_itself() {
    let server = FakeInflux::new();
    let refuses = |request: &Request| request.body.contains("plancton_decision,");
    server.answer(move |request| {
        let why =
            "{\"code\":\"unprocessable entity\",\"message\":\"failure writing points: schema\"}";
        if refuses(request) {
            Some((422, "", why))
        } else {
            TAKEN
        }
    });
    let machine = running(&version_1(&server));
    end_one(&machine, 0);
    let others = [
        "container",
        "daemon",
        "measurement",
        "plancton_host",
        "plancton_pilots",
        "plancton_engine",
    ];
    machine.wait_for("every other series", || {
        others.iter().all(|series| !server.lines(series).is_empty())
    });
    machine.wait_for("again and again", || {
        server.lines("daemon").len() >= 4 && sink(&machine, "dropped") >= 3
    });
    machine.wait_for("it is told", || {
        problem(&machine).contains("status 422: failure writing points: schema")
    });
    let refused: Vec<Request> = server.requests().into_iter().filter(refuses).collect();
    let alone = refused
        .iter()
        .filter(|request| request.body.lines().count() == 1)
        .count() as u64;
    assert!(
        sink(&machine, "dropped").abs_diff(alone) <= 1,
        "only what is refused by itself: {alone}"
    );
    // Eight lines or so a tick.
    assert!(
        refused.len() as u64 <= 6 * (alone + 1),
        "{} requests for {alone} lines",
        refused.len()
    );
}

#[test]
fn too_large_is_sent_in_pieces() {
    let server = FakeInflux::new();
    server.answer(|request| {
        if request.body.len() > 700 {
            Some((413, "", ""))
        } else {
            TAKEN
        }
    });
    let machine = running(&version_1(&server));
    end_one(&machine, 0);
    machine.wait_for("all series", || {
        ["container", "daemon", "plancton_host", "plancton_sink"]
            .iter()
            .all(|series| !server.lines(series).is_empty())
    });
    assert!(
        server
            .requests()
            .iter()
            .any(|request| request.body.len() > 700)
    );
    machine.wait_for("some are counted", || sink(&machine, "sent") > 8);
    assert_eq!(sink(&machine, "dropped"), 0);
}

#[test]
fn a_missing_database_is_created_once() {
    let missing = Some((404, "", "{\"error\":\"database not found: \\\"d\\\"\"}"));
    let server = FakeInflux::new();
    let mut is_there = false;
    server.answer(move |request| {
        is_there |= request.line.starts_with("POST /query");
        if is_there { TAKEN } else { missing }
    });
    let machine = running(&version_1(&server));
    machine.wait_for("two flushes", || server.lines("daemon").len() >= 2);
    let requests = server.requests();
    let lines: Vec<&str> = requests
        .iter()
        .map(|request| request.line.as_str())
        .take(3)
        .collect();
    let write = "POST /write?db=d&precision=ns";
    assert_eq!(
        lines,
        [write, "POST /query?q=CREATE%20DATABASE%20%22d%22", write]
    );
    assert_eq!(
        (sink(&machine, "errors"), sink(&machine, "dropped")),
        (0, 0)
    );

    // Who may only write asks once, and goes on trying to write.
    let server = FakeInflux::new();
    server.answer(move |request| {
        if request.line.contains("query") {
            Some((403, "", "no"))
        } else {
            missing
        }
    });
    let machine = running(&version_1(&server));
    machine.wait_for("it is told", || {
        problem(&machine).contains("can't be created: status 403: no")
    });
    machine.wait_for("it is tried again", || server.writes() >= 3);
    assert_eq!(
        server
            .requests()
            .iter()
            .filter(|request| request.line.contains("/query"))
            .count(),
        1
    );
}

/// A server that is away, or that accepts and says nothing: the loop turns as ever, and all points arrive afterwards.
#[test]
fn the_loop_never_waits_for_a_server() {
    at_once([false, true], |is_silent| {
        let mut server = FakeInflux::new();
        let mut machine = running(&version_1(&server));
        machine.wait_for("a flush", || server.writes() > 0);
        if is_silent {
            server.answer(|_| None);
        } else {
            server.down();
        }
        let start = Instant::now();
        for number in 1.. {
            end_one(&machine, 0);
            if number >= 20 && start.elapsed() > Duration::from_secs(8) {
                break;
            }
        }
        machine.wait_for("it is told", || {
            problem(&machine).contains("the points wait")
        });
        machine.assert_well();
        let gap = machine.status()["loop"]["longest_gap_ms"].as_f64().unwrap();
        assert!(gap < 2_000.0, "the loop was away for {gap} ms");
        server.answer(|_| TAKEN);
        if !is_silent {
            server.up();
        }
        let ended = gone(&machine) as usize;
        machine.wait_within(Duration::from_secs(60), "all ends", || {
            server.lines("container").len() >= ended
        });
        let lines = server.lines("container");
        assert_eq!(lines.iter().collect::<BTreeSet<_>>().len(), lines.len());
        assert_eq!(lines.len(), ended);
        assert_eq!(sink(&machine, "dropped"), 0);
        let ticks = server.lines("daemon").len();
        assert!(
            ticks >= 8,
            "what was measured meanwhile arrives too: {ticks}"
        );
    });
}

#[test]
fn the_end_flushes_and_does_not_hang() {
    at_once([false, true], |is_silent| {
        let server = FakeInflux::new();
        let mut machine = Machine::new();
        machine.start(&config(&version_1(&server)).replace("flush = \"1s\"", "flush = \"1h\""));
        machine.wait_for_pilots(3);
        end_one(&machine, 0);
        assert_eq!(server.writes(), 0, "the first flush is far away");
        if is_silent {
            server.answer(|_| None);
        }
        machine.signal(Signal::TERM);
        let (status, took) = machine.wait_for_end(PATIENCE);
        assert!(
            status.success() && took < Duration::from_secs(6),
            "{took:?}"
        );
        assert_eq!(server.writes(), 1);
        assert_eq!(server.lines("container").len(), usize::from(!is_silent));
    });
}

#[test]
fn a_reload_changes_targets() {
    let [first, second] = [FakeInflux::new(), FakeInflux::new()];
    let mut machine = Machine::new();
    machine.start(
        config(&version_1(&first))
            .split("[[influxdb]]")
            .next()
            .unwrap(),
    );
    machine.wait_for_pilots(3);
    assert!(
        !threads(&machine).contains("uplink"),
        "without a target there is no thread"
    );
    let reload = |text: &str| {
        machine.scratch.file("config.toml", text);
        machine.signal(Signal::HUP);
    };
    reload(&config(&version_1(&first)));
    assert!(becomes(PATIENCE, || first.writes() >= 2));
    let both = config(&version_1(&first)) + &table(&version_1(&second)).replace("h, 1", "other");
    reload(&both);
    assert!(becomes(PATIENCE, || second.writes() >= 2));
    reload(&config(&version_1(&second)).replace("h, 1", "other"));
    machine.wait_for("the first is left out", || {
        machine.status()["sinks"].as_array().unwrap().len() == 1
    });
    let writes = first.writes();
    assert!(becomes(PATIENCE, || second.writes() >= 6));
    assert_eq!(first.writes(), writes);
    assert!(
        second
            .lines("daemon")
            .iter()
            .all(|line| line.contains("hostname=other,"))
    );
    assert!(
        sink(&machine, "sent") > 0,
        "a target that stays keeps its counts"
    );
    machine.assert_well();
}

fn threads(machine: &Machine) -> String {
    let tasks = fs::read_dir(
        Path::new("/proc")
            .join(machine.status()["pid"].to_string())
            .join("task"),
    )
    .unwrap();
    let names = tasks
        .flatten()
        .map(|task| fs::read_to_string(task.path().join("comm")).unwrap_or_default());
    names.collect()
}

#[test]
fn secrets_are_never_shown() {
    let server = FakeInflux::new();
    let echo = "{\"error\":\"bad password gEhEiM for user u: Basic dTpnRWhFaU0= \\u001b[2J\"}";
    server.answer(move |_| Some((401, "", echo)));
    let mut machine = Machine::new();
    let url = format!("url = \"http://u:gEhEiM@{}#d\"", server.host());
    machine.start(&config(&url));
    machine.wait_for("it is told", || {
        problem(&machine).contains("bad password *** for user u: Basic *** [2J")
    });
    let shown = [
        &["config"][..],
        &["check"],
        &["status"],
        &["status", "--json"],
        &["-v", "-v", "-v", "check"],
    ];
    for command in shown {
        let said = machine.tell(command);
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&said.stdout),
            String::from_utf8_lossy(&said.stderr)
        );
        assert!(
            text.len() > 100 && !text.contains("gEhEiM") && !text.contains("dTpnRWhFaU0="),
            "{command:?}: {text}"
        );
    }
    let said = machine
        .command()
        .args(["check"])
        .env("RUST_LOG", "trace")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(
        text.contains("debug: ") && !text.contains("gEhEiM") && !text.contains("dTpnRWhFaU0="),
        "{text}"
    );
    let log = machine.log();
    assert!(
        !log.contains("gEhEiM") && !log.contains("dTpnRWhFaU0="),
        "{log}"
    );
}

#[test]
fn check_looks_at_each_target() {
    let server = FakeInflux::new();
    let machine = Machine::new();
    let check = |sink: &str| {
        machine.scratch.file("config.toml", config(sink));
        let said = machine.tell(&["check"]);
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        text.lines()
            .find(|line| line.contains("metrics"))
            .unwrap()
            .to_owned()
    };
    for (reply, verdict) in [
        (TAKEN, "ok   metrics"),
        (
            Some((400, "", "{\"message\":\"writing requires points\"}")),
            "ok   metrics",
        ),
        (Some((200, "", "<html>")), "BAD  metrics"),
        (Some((400, "", "plain HTTP to HTTPS")), "BAD  metrics"),
        (
            Some((404, "", "{\"error\":\"database not found\"}")),
            "note metrics",
        ),
        (Some((401, "", "no")), "BAD  metrics"),
        (Some((500, "", "no")), "BAD  metrics"),
    ] {
        server.answer(move |_| reply);
        let line = check(&version_1(&server));
        assert!(
            line.starts_with(verdict) && line.contains(&server.url()),
            "{reply:?}: {line}"
        );
    }
    assert!(
        server
            .requests()
            .iter()
            .all(|request| request.body.is_empty()),
        "it writes nothing"
    );
    let line = check("url = \"https://127.0.0.1:1\"\ndatabase = \"d\"\nca-file = \"/nowhere\"");
    assert!(
        line.starts_with("BAD  metrics") && line.contains("/nowhere: not there"),
        "{line}"
    );
    let line = check("url = \"http://127.0.0.1:1\"\ndatabase = \"d\"");
    assert!(
        line.starts_with("BAD  metrics") && line.contains("refused"),
        "{line}"
    );
}

/// More ends than fit while nobody takes them: the oldest give way, and what is left arrives in one request.
#[test]
fn a_full_queue_is_bounded() {
    let mut server = FakeInflux::new();
    server.down();
    let mut machine = running(&version_1(&server));
    let long = "é".repeat(1_000);
    let labels = [
        ("io.plancton.instance", "t1"),
        ("io.plancton.class", long.as_str()),
        ("io.plancton.cpus", "1"),
    ];
    for round in 0..4 {
        for number in 0..200 {
            let name = format!("plancton-p-{round:03}{number:03}");
            machine.engine.add(Some(&name), "exited", 10.0, &labels);
        }
        machine.wait_for("they are buried", || {
            machine.engine.in_state("exited").is_empty()
        });
    }
    machine.wait_for("it is full", || sink(&machine, "dropped") > 0);
    assert!(
        (1_000_000..=1 << 20).contains(&sink(&machine, "waiting_bytes")),
        "{}",
        machine.status()["sinks"]
    );
    machine.assert_well();
    server.up();
    machine.wait_within(Duration::from_secs(90), "they arrive", || {
        sink(&machine, "waiting_bytes") < 100_000
    });
    assert!(
        server
            .requests()
            .iter()
            .any(|request| request.body.len() > 1_000_000),
        "in one request"
    );
}
